"""Pairwise interactions against two-edit patches one by one, formulas of hand-built nets, and the work they take.

In float64 tolerances are 1e-10 relative to the largest value; RMSNorms of transformers compute in float32 in every dtype, which
leaves 1e-5.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import nets_linear
import numpy as np
import pytest
import sweeps
import torch

import interp
from interp.errors import InputError, UnknownNameError
from interp.interventions import Activation, Change, Constant, Intervention, Scale, Source, mean
from interp.models import Model
from interp.models.zoo import (
    BACKUP,
    INDUCTION_HEADS,
    PRIMARY,
    backup_construction,
    backup_prompts,
    induction_construction,
    induction_sequences,
)

EXACT = ("gpt2", "neox", "neox-sequential", "zoo")
HEADS = interp.grid("z", layer=..., head=...)
SOURCES = {"counterfactual": None, "zero": Constant(0.0), "mean": mean("base"), "resample": Activation("base", pool="resample")}


def a_model(kind: str) -> Model:
    return sweeps.model(kind, torch.float64 if kind in EXACT else torch.float32)


def heads(model: Model, source: Source | None) -> list[Intervention]:
    sizes = model.sizes
    return [Intervention.of(f"L{n}H{h}.z", source=source) for n in range(sizes["layer"]) for h in range(sizes["head"])]


def head(where: tuple[int, int]) -> str:
    return f"L{where[0]}H{where[1]}"


@pytest.mark.parametrize("source", list(SOURCES))
@pytest.mark.parametrize("kind", [*EXACT, "llama", "gemma2", "bloom"])
def test_equal_to_serial_patches(kind: str, source: str, seed: int) -> None:
    """Δ(ab) − Δ(a) − Δ(b) of whole forward passes, each with its edits alone; of grouped-query and parallel blocks too."""
    model, pairs = a_model(kind), sweeps.random_pairs(seed, [5, 5, 5] if source == "resample" else [5, 6, 5])
    found = interp.interactions(model, pairs, HEADS, ["logit_diff", "kl"], source=SOURCES[source])
    every = heads(model, SOURCES[source])
    some = [*every[:2], every[-1], *every[len(every) // 2 :][:2]]
    numbers = [every.index(one) for one in some]
    asked = [*some, *(a & b for a, b in combinations(some, 2))]
    serial = interp.patch(model, pairs, asked, ["logit_diff", "kl"], patching="noising", strategy="serial")
    delta: Any = interp.effect(serial)  # type: ignore[arg-type]
    size = float(abs(serial["value"]).max())
    square = [found["first"].values.tolist(), found["second"].values.tolist()]
    names = square[0][: len(every)]
    for cell, (a, b) in enumerate(combinations(range(len(some)), 2), start=len(some)):
        ends = {names[numbers[a]], names[numbers[b]]}
        at = next(n for n, both in enumerate(zip(*square, strict=True)) if set(both) == ends)
        expected = delta.isel(cell=cell) - delta.isel(cell=a) - delta.isel(cell=b)
        tolerance = (1e-10 if kind in EXACT else 1e-5) * (10 + size)
        np.testing.assert_allclose(found["interaction"].isel(cell=at), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("source", ["counterfactual", "zero", "resample"])
def test_parallel_heads_of_a_linear_net_add_up(source: str, seed: int) -> None:
    """In a net without a nonlinearity logits are a sum over heads, so that no two of one layer interact in a logit difference.

    Of one right answer: the best of several is no linear metric.
    """
    model, drawn = nets_linear.linear(seed), sweeps.random_pairs(seed, [6, 6, 6])
    pairs = interp.Pairs(tuple(replace(pair, answers=pair.answers[:1]) for pair in drawn))
    parts: list[Intervention] = [Intervention.of(f"L0H{h}.z", source=SOURCES[source]) for h in range(2)]
    found = interp.interactions(model, pairs, parts)
    assert float(abs(interp.effect(found)).max()) > 1e-3
    assert float(abs(found["interaction"]).max()) < 1e-12 * (1 + float(abs(found["value"]).max()))


def backup() -> tuple[Model, Any]:
    net = backup_construction(strength=0.75).double()
    prompts = backup_prompts(net).tolist()
    others = prompts[1:] + prompts[:1]
    pairs = [interp.Pair(one, other, one[1], other[1]) for one, other in zip(prompts, others, strict=True)]
    return interp.load(net, name="backup"), interp.Pairs(tuple(pairs))


def test_a_head_and_its_backup_are_redundant() -> None:
    """The docstring of the construction: Δ = strength − 1 without the first, 0 without the second, −1 without both; so
    I = −1 − (strength − 1) − 0 = −strength.
    """
    model, pairs = backup()
    square = interp.effects.pairwise(interp.interactions(model, pairs, HEADS, source=Constant(0.0))).sel(metric="logit_diff")
    single, together = square["single"], square["interaction"]
    np.testing.assert_allclose(single.sel(first=[head(PRIMARY), head(BACKUP)]), [-0.25, 0.0], rtol=0, atol=1e-6)
    assert float(together.sel(first=head(PRIMARY), second=head(BACKUP))) == pytest.approx(-0.75, abs=1e-6)
    others = together.drop_sel(first=[head(PRIMARY)]).drop_sel(second=[head(PRIMARY)])
    assert float(abs(others).max()) < 1e-6


def test_heads_in_a_row_have_the_other_sign(seed: int) -> None:
    """Serial composition: without the second head of the construction nothing is said, with or without the first; so
    Δ(ab) = Δ(b) and I = −Δ(a), which is above 0 where the first head helps.
    """
    net = induction_construction().double()
    model = interp.load(net, name="induction")
    tokens = induction_sequences(40, seed=seed)
    with torch.no_grad():
        said = net(tokens).logits[:, -1]
    certain = said.max(-1).values > 0.9  # the answer is known, and its frequency in the prompt is lower
    tokens, answers = tokens[certain], said[certain].argmax(-1)
    wrong = (answers + 1) % said.shape[-1]
    pairs = interp.Pairs(
        tuple(
            interp.Pair(one, one, answer, other)
            for one, answer, other in zip(tokens.tolist(), answers.tolist(), wrong.tolist(), strict=True)
        )
    )
    found = interp.interactions(model, pairs, HEADS, source=Constant(0.0))
    first, second = (head(where) for where in INDUCTION_HEADS)
    one = found.isel(metric=0)
    cell = np.flatnonzero((one["first"].values == first) & (one["second"].values == second))[0]
    alone = interp.effect(found).isel(metric=0, cell=np.flatnonzero((one["first"].values == first) & (one["second"] == ""))[0])
    np.testing.assert_allclose(one["interaction"].isel(cell=cell), -alone, rtol=0, atol=1e-9)
    square = interp.effects.pairwise(found).isel(metric=0)
    assert float(square["low"].sel(first=first, second=second)) > 0.1


def test_a_square_is_symmetric_and_has_no_diagonal(seed: int) -> None:
    model, pairs = a_model("gpt2"), sweeps.random_pairs(seed, [5, 6, 5, 6, 5])
    found = interp.interactions(model, pairs, HEADS, ["logit_diff", "logprob"])
    square = interp.effects.pairwise(found, flips=50)
    values = square["interaction"].transpose("metric", "first", "second").values
    np.testing.assert_array_equal(values, values.swapaxes(1, 2))
    assert np.isnan(np.diagonal(values, axis1=1, axis2=2)).all()
    assert np.isfinite(values).sum() == 2 * 12 * 11
    assert bool((square["low"] <= square["interaction"]).where(square["interaction"].notnull(), True).all())
    a, b = square["first"].values[[1, 7]]
    cell = np.flatnonzero((found["first"].values == a) & (found["second"].values == b))[0]
    by_hand = found["interaction"].isel(cell=cell, metric=1).mean("example")
    assert float(square["interaction"].sel(metric="logprob", first=a, second=b)) == pytest.approx(float(by_hand), abs=1e-12)
    together = interp.effect(found).isel(cell=cell, metric=1).mean("example")
    assert float(square["together"].sel(metric="logprob", first=b, second=a)) == pytest.approx(float(together), abs=1e-12)
    assert square["survives"].dtype == bool
    figure = interp.views.heatmap(square["interaction"].sel(metric="logit_diff"))
    assert "interaction" in str(figure.layout.title.text)


def test_a_pair_leaves_the_row_of_its_first_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows × blocks by hand, of one example in one pass: a part of block l runs the blocks l … L − 1, a pair those from its
    later part's on; beside these there is one self-patch of everything, which begins in the first block.
    """
    model, counted = sweeps.model("gpt2"), sweeps.rows_of_blocks(monkeypatch)
    interp.interactions(model, sweeps.random_pairs(0, [5]), HEADS, rows=200)
    layers, width = model.sizes["layer"], model.sizes["head"]
    at = [layer for layer in range(layers) for _ in range(width)]
    alone = sum(layers - layer for layer in at)
    shared = sum(layers - max(both) for both in combinations(at, 2))
    apart = sum(layers - min(both) for both in combinations(at, 2))
    assert (alone, shared, apart, 66 * layers) == (24, 100, 164, 198)
    assert alone + shared <= sum(counted) <= alone + shared + layers


def test_other_parts_than_heads(seed: int) -> None:
    """MLPs and streams at roles, in the other direction, with edits of their own and with something given."""
    model, pairs = a_model("gpt2"), sweeps.random_pairs(seed, [5, 6])
    found = interp.interactions(model, pairs, ["L0.mlp_out@end", "L2.mlp_out", "L1H1.z@-1"], patching="denoising")
    assert found["first"].values.tolist()[:3] == ["m0@end", "m2", "L1H1@-1"]
    assert found["second"].values.tolist() == ["", "", "", "m2", "L1H1@-1", "L1H1@-1"]
    assert (found.attrs["method"], found.attrs["patching"], found.attrs["parts"]) == ("interactions", "denoising", 3)
    halves = [Intervention.of(Change(f"L{layer}.mlp_out", edit=Scale(0.5))) for layer in range(3)]
    halved = interp.interactions(model, pairs, halves, given=Intervention.of("L0H0.z", source=Constant(0.0)))
    serial: Any = interp.patch(
        model,
        pairs,
        [halves[0] & halves[2]],
        patching="noising",
        strategy="serial",
        given=Intervention.of("L0H0.z", source=Constant(0.0)),
    )
    np.testing.assert_allclose(halved["value"].isel(cell=4), serial["value"].isel(cell=0), rtol=0, atol=1e-9)
    assert interp.effects.validate(found) is found


def test_kept_in_a_store_and_made_again(seed: int, tmp_path: Path) -> None:
    model = interp.load("zoo/induction-2l")
    pairs = interp.tasks.induction(3, seed=seed, tokenizer=model.tokenizer)
    first = interp.interactions(model, pairs, HEADS, store=tmp_path / "runs", name="heads")
    again = interp.interactions(model, pairs, HEADS, store=tmp_path / "runs", name="heads")
    np.testing.assert_array_equal(first["interaction"], again["interaction"])
    kept = interp.Store(tmp_path / "runs").run("heads")
    np.testing.assert_array_equal(interp.effects.interaction(kept.load()), first["interaction"])
    assert interp.rerun(kept).within


def test_what_has_no_interactions_says_why(seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [5, 5])
    ask: Any = sweeps.unchecked(interp.interactions)
    with pytest.raises(InputError, match="where has 1 part; interactions are among two at least"):
        ask(model, pairs, ["L0H0.z"])
    with pytest.raises(InputError, match=r"has the part .*L0H0.* twice; a part has no interaction with itself"):
        ask(model, pairs, ["L0H0.z", "L0H0.z"])
    with pytest.raises(InputError, match=r"where holds several families \(a\)"):
        ask(model, pairs, {"a": HEADS})
    with pytest.raises(UnknownNameError, match="unknown patching 'noise'"):
        ask(model, pairs, HEADS, patching="noise")
    patched: Any = interp.patch(model, pairs, HEADS)
    with pytest.raises(interp.effects.EffectsError, match="has no coordinates 'first' and 'second' along 'cell'"):
        interp.effects.interaction(patched)
    found = interp.interactions(model, pairs, ["L0H0.z", "L1H0.z"])
    with pytest.raises(interp.effects.EffectsError, match="is here in pairs, but not alone"):
        interp.effects.pairwise(found.isel(cell=[0, 2]))
