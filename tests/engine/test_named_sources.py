"""Pairs with further prompts: several sources at once, each an intervention's own (multi-source interchange)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sweeps
import torch

import interp
from interp.engine import patch
from interp.errors import InputError, UnknownNameError
from interp.interventions import Activation, Change, Intervention, Rotation, from_safetensors, to_safetensors
from interp.models.zoo.handmade import hierarchical_equality
from interp.prompts import Pair, Pairs, Prompt
from interp.store import Store


def three(pairs: Pairs, seed: int) -> Pairs:
    """Pairs with two further prompts, each another pair's clean one."""
    drawn = np.random.default_rng(seed).permutation(len(pairs))
    others = zip(drawn.tolist(), np.roll(drawn, 1).tolist(), strict=True)
    further = [{"one": pairs[i].clean, "two": pairs[j].clean} for i, j in others]
    return replace(pairs, items=tuple(replace_sources(pair, own) for pair, own in zip(pairs, further, strict=True)))


def replace_sources(pair: Pair, sources: dict[str, Prompt]) -> Pair:
    return Pair(pair.clean, pair.corrupted, pair.answers, pair.wrong, pair.template, pair.entities, sources)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("strategy", ["auto", "serial"])
def test_each_change_has_a_source_of_its_own(kind: str, strategy: Any) -> None:
    """Expected: each example by itself, its sources given as prompts (a source that serves one example)."""
    model, pairs = sweeps.model(kind, torch.float64), three(sweeps.random_pairs(51, [7, 7, 7]), 1)
    one = Change("L0.resid_post", 3, Activation("source:one"))
    two = Change("L1.mlp_out", 5, Activation("source:two"))
    found = patch(model, pairs, Intervention((one, two)), strategy=strategy)
    expected = []
    for pair in pairs:
        alone = Intervention(
            (replace(one, source=Activation(pair.sources["one"])), replace(two, source=Activation(pair.sources["two"])))
        )
        expected.append(patch(model, Pairs((pair,)), alone, strategy="serial")["value"].values)
    np.testing.assert_allclose(found["value"].values, np.concatenate(expected, axis=-1), rtol=0, atol=1e-9)
    assert float(np.abs(found["value"] - found["corrupt"]).max()) > 1e-4


def test_prompts_of_other_lengths_are_matched_by_role_or_from_the_end() -> None:
    model = sweeps.model("gpt2", torch.float64)
    pair = Pair([1, 2, 3], [1, 2, 4], 5, 6, sources={"long": Prompt([7, 8, 9, 10, 3], {"name": (1, 2)})})
    from_end = patch(model, Pairs((pair,)), Change("L0.resid_post", -1, Activation("source:long")))
    given = patch(model, Pairs((pair,)), Change("L0.resid_post", -1, Activation([7, 8, 9, 10, 3])))
    np.testing.assert_allclose(from_end["value"], given["value"], rtol=0, atol=1e-12)
    named = patch(model, Pairs((pair,)), Change("L0.resid_post", -1, Activation("source:long", positions="name")))
    at = patch(model, Pairs((pair,)), Change("L0.resid_post", -1, Activation([7, 8, 9, 10, 3], positions=1)))
    np.testing.assert_allclose(named["value"], at["value"], rtol=0, atol=1e-12)


def test_a_source_can_itself_be_changed() -> None:
    """Nested: what the named run holds once something else was changed in it. Expected: its value written as a constant."""
    model, pairs = sweeps.model("llama", torch.float64), three(sweeps.random_pairs(52, [6, 6]), 2)
    inner = Change("L0.mlp_out", 2, Activation("source:two"))
    found = patch(model, pairs, Change("L1.resid_post", -1, Activation("source:one", given=inner)))
    for number, pair in enumerate(pairs):
        swapped = Pairs((Pair(pair.sources["one"], pair.sources["one"], 1, 2),))
        changed = Change("L0.mlp_out", 2, Activation(pair.sources["two"]))
        value = interp.run(model, swapped, changed, capture="L1.resid_post", logits="none")["L1.resid_post"][0, -1]
        alone = patch(model, Pairs((pair,)), Change("L1.resid_post", -1, value))
        np.testing.assert_allclose(found["value"][..., number], alone["value"][..., 0], rtol=0, atol=1e-9)


def test_variables_of_hierarchical_equality_come_from_two_sources() -> None:
    """The hand-built network with units [0, 8) for the first pair: both variables at once, and each alone."""
    net = hierarchical_equality(4)
    base, first, second = (net.rows(200, seed=seed) for seed in (1, 2, 3))
    label = first.equal[:, 0] == second.equal[:, 1]

    def shown(inputs: torch.Tensor) -> list[Prompt]:
        return [Prompt(inputs={"x": row.numpy()}) for row in inputs]

    pairs = Pairs(
        tuple(
            Pair(w, b, int(right), 1 - int(right), sources={"WX": w, "YZ": y})
            for b, w, y, right in zip(shown(base.inputs), shown(first.inputs), shown(second.inputs), label, strict=True)
        )
    )
    model = interp.load(net, example={"x": base.inputs[:1]})
    units = torch.eye(16)
    one = Change("act1:output", source=Activation("source:WX"), featurizer=interp.Subspace(units[:, :8]))
    two = Change("act1:output", source=Activation("source:YZ"), featurizer=interp.Subspace(units[:, 8:]))
    found = patch(model, pairs, Intervention((one,)).then(Intervention((two,))), metric="accuracy")
    assert float(found["value"].min()) == 1.0
    assert 0.3 < float(found["corrupt"].mean()) < 0.7


def test_a_name_that_no_pair_has_is_refused() -> None:
    model, pairs = sweeps.model("gpt2"), three(sweeps.random_pairs(53, [5, 5]), 3)
    with pytest.raises(UnknownNameError, match=r"'ones'.*one"):
        patch(model, pairs, Change("L0.resid_post", 2, Activation("source:ones")))
    with pytest.raises(InputError, match="these are no pairs"):
        interp.run(model, [pair.clean for pair in pairs], Change("L0.resid_post", 2, Activation("source:one")))
    with (
        pytest.raises(InputError, match="what runs inside has none"),
        interp.edited(model, Change("L0.resid_post", 2, Activation("source:one"))),
    ):
        pass


def test_they_are_kept_with_pairs_and_interventions(tmp_path: Path) -> None:
    pairs = three(sweeps.random_pairs(54, [5, 5]), 4)
    again = interp.pairs(pairs.to_jsonl(tmp_path / "pairs.jsonl"))
    assert again.digest == pairs.digest
    assert again[0].sources == pairs[0].sources
    assert pairs.sources == ("one", "two")
    bare = replace(pairs, items=tuple(replace_sources(pair, {}) for pair in pairs))
    assert bare.digest != pairs.digest
    assert "sources" not in bare[0].spec()
    change = Change("L0.resid_post", -1, Activation("source:one"), featurizer=Rotation(8, 2))
    assert from_safetensors(to_safetensors(change)).source == change.source
    assert from_safetensors(to_safetensors(pairs)).digest == pairs.digest
    assert pairs.swap()[0].sources == pairs[0].sources


def test_a_run_with_named_sources_resumes_and_is_made_again(tmp_path: Path) -> None:
    """Runs that differ in the name alone are two."""
    model, pairs = sweeps.model("gpt2", torch.float64), three(sweeps.random_pairs(55, [5, 5]), 5)
    change, store = Change("L0.resid_post", -1, Activation("source:one")), Store(tmp_path)
    found = patch(model, pairs, change, store=store, name="one")
    assert patch(model, pairs, change, store=store, name="one").identical(found)
    other = patch(model, pairs, replace(change, source=Activation("source:two")), store=store, name="two")
    assert float(np.abs(other["value"] - found["value"]).max()) > 0
    again = interp.rerun(store.run("one"), model=model)
    assert again.within
