"""Patterns against transformers' ``output_attentions`` with eager attention; what heads attend to by loops over formulas."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch

from interp.engine.single.cache import cache
from interp.errors import HeadOutOfRangeError, InputError, UnknownSiteError
from interp.interventions import Change, Constant, Intervention
from interp.methods.readouts import attention_patterns
from interp.methods.readouts.attention_patterns import attention
from interp.methods.readouts.direct_logit_attribution import dla
from interp.methods.readouts.logit_lens import lens as logit_lens
from interp.models import load
from interp.prompts import Prompt
from interp.store import Store

IDS = [(5, 9, 31, 5, 9, 31, 31), (11, 3, 8), (7,)]


def patterns(module: Any, ids: tuple[int, ...]) -> np.ndarray:
    """``[layer, head, position, source_position]``"""
    before = module.config._attn_implementation
    module.set_attn_implementation("eager")
    with torch.no_grad():
        found = module(torch.tensor([ids]), output_attentions=True).attentions
    module.set_attn_implementation(before)
    return torch.stack([layer[0] for layer in found]).numpy()


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral"])
def test_patterns_and_what_heads_attend_to(kind: str) -> None:
    model = sweeps.model(kind)
    ds = attention(model, IDS)
    assert ds.pattern.dims == ("example", "layer", "head", "position", "source_position")
    assert ds.token.values[1].tolist() == ds.source_token.values[1].tolist() == ["11", "3", "8", "", "", "", ""]
    for e, ids in enumerate(IDS):
        n, want = len(ids), patterns(model.module, ids)
        one = ds.isel(example=e)
        np.testing.assert_allclose(one.pattern[..., :n, :n], want, atol=1e-5)
        assert np.isnan(one.pattern[..., n:, :]).all()
        assert np.isnan(one.entropy[..., n:]).all()
        for layer in range(tiny.LAYERS):
            for head in range(tiny.HEADS):
                a = want[layer, head].astype(float)
                entropy = [-sum(x * math.log(x) for x in row if x > 0) for row in a]
                np.testing.assert_allclose(one.entropy[layer, head, :n], entropy, atol=1e-5)
                for name, number in by_loops(a, ids).items():
                    np.testing.assert_allclose(one[name][layer, head], number, atol=1e-5, err_msg=name)


def by_loops(a: np.ndarray, ids: tuple[int, ...]) -> dict[str, float]:
    n = len(ids)
    duplicate = [[a[p, q] for q in range(p) if ids[q] == ids[p]] for p in range(n)]
    induction = [[a[p, q + 1] for q in range(p - 1) if ids[q] == ids[p]] for p in range(n)]

    def mean(numbers: list[float]) -> float:
        return sum(numbers) / len(numbers) if numbers else math.nan

    return {
        "previous_token": mean([a[p, p - 1] for p in range(1, n)]),
        "first_token": mean([a[p, 0] for p in range(1, n)]),
        "duplicate_token": mean([sum(row) for row in duplicate if row]),
        "induction": mean([sum(row) for row in induction if row]),
    }


def test_some_layers_and_heads() -> None:
    model = sweeps.model("gpt2")
    whole = attention(model, IDS)
    ds = attention(model, IDS, layers=[2, 0], heads=1)
    assert (ds.layer.values.tolist(), ds["head"].values.tolist()) == ([0, 2], [1])
    for name in ("pattern", "entropy", "induction"):
        np.testing.assert_allclose(ds[name], whole[name].sel(layer=[0, 2], head=[1]), atol=1e-6)
    np.testing.assert_allclose(attention(model, IDS, 1).pattern, whole.pattern.sel(layer=[1]), atol=1e-6)


def test_some_positions_attend_to_all() -> None:
    model = sweeps.model("llama")
    prompts = [Prompt(IDS[0], {"again": (3, 6)}), Prompt(IDS[1], {"again": (2, 3)})]
    whole, ds = attention(model, prompts), attention(model, prompts, position=["again", "last"])
    assert ds.pattern.dims == ("example", "layer", "head", "position", "source_position")
    assert ds.position.values.tolist() == ["again[0]", "again[1]", "again[2]", "-1"]
    assert ds.source_token.equals(whole.source_token)
    at = ([3, 4, 5, 6], [2, None, None, 2])
    for e, rows in enumerate(at):
        there = [(slot, p) for slot, p in enumerate(rows) if p is not None]
        for slot, p in there:
            np.testing.assert_allclose(ds.pattern[e, :, :, slot], whole.pattern[e, :, :, p], atol=1e-6)
            np.testing.assert_allclose(ds.entropy[e, :, :, slot], whole.entropy[e, :, :, p], atol=1e-5)
        assert np.isnan(ds.pattern[e, :, :, [slot for slot, p in enumerate(rows) if p is None]]).all()
        before = np.mean([whole.pattern[e, :, :, p, p - 1] for _, p in there], axis=0)
        np.testing.assert_allclose(ds.previous_token[e], before, atol=1e-6)
    followed = [whole.pattern[0, :, :, p, q] for p, q in ((3, 1), (4, 2), (5, 3), (6, 3))]  # 31 31: the first one's successor
    np.testing.assert_allclose(ds.induction[0], np.mean(followed, axis=0), atol=1e-6)
    assert np.isnan(ds.induction[1]).all()


def test_a_pattern_that_is_given() -> None:
    """Attention to the first token alone has entropy 0 and scores of 1 and 0."""
    model = sweeps.model("gpt2")
    row = torch.zeros(7)
    row[0] = 1
    ds = attention(model, IDS[:1], given=Intervention((Change("L1H2.pattern", source=Constant(row)),)))
    one = ds.sel(layer=1, head=2).isel(example=0)
    np.testing.assert_array_equal(one.pattern[:, 0], 1)
    assert one.first_token.item() == 1
    assert one.previous_token.item() == pytest.approx(1 / 6)  # position 1 alone has it before it
    assert one.entropy.max().item() == 0
    plain = attention(model, IDS[:1])
    np.testing.assert_allclose(ds.pattern.sel(layer=0), plain.pattern.sel(layer=0), atol=1e-6)
    assert abs(ds.pattern.sel(layer=2) - plain.pattern.sel(layer=2)).max() > 1e-4


def test_an_induction_head_of_a_trained_model() -> None:
    model = load("zoo/language-4l")
    once = torch.randperm(200, generator=torch.Generator().manual_seed(0))[:12] + 50
    ds = attention(model, [once.repeat(3).tolist()])
    assert float(ds.induction.max()) > 0.3  # attending to all alike would give 0.06
    best = ds.induction.isel(example=0).argmax(("layer", "head"))
    assert int(best["layer"]) > 0  # it needs a head before it


def test_readouts_say_what_role_all_prompts_have() -> None:
    """ "it" is word 2 in both, "end" the last of three and of four words."""
    model = load("zoo/language-4l")
    words = [" Mary", " gave", " it", " to"]
    prompts = [Prompt("".join(words[:n]), {"it": " it", "end": words[n - 1]}) for n in (3, 4)]
    for ds, axis in (
        (attention(model, prompts, bos=False), "role"),
        (attention(model, prompts, bos=False), "source_role"),
        (cache(model, prompts, "resid_pre", bos=False), "role"),
        (logit_lens(model, prompts, bos=False), "role"),
        (dla(model, prompts, " the", bos=False, by="source"), "source_role"),
    ):
        assert ds[axis].values.tolist() == ["", "", "it", ""]
    assert "role" not in attention(model, prompts, position="it", bos=False).coords


def test_a_store_lists_what_it_is(tmp_path: Path) -> None:
    store = Store(tmp_path)
    model = sweeps.model("gpt2")
    store.save(attention(model, IDS, [0]), name="patterns")
    store.save(cache(model, IDS, "L0.z"), name="activations")
    listed = store.runs().set_index("name")["method"]
    assert dict(listed) == {"patterns": "attention patterns", "activations": "cache"}


def test_mistakes_are_told() -> None:
    model = sweeps.model("gpt2")
    with pytest.raises(HeadOutOfRangeError, match="layer 7"):
        attention(model, IDS, 7)
    with pytest.raises(HeadOutOfRangeError, match="head 4"):
        attention(model, IDS, heads=4)
    with pytest.raises(HeadOutOfRangeError, match="layers names -1; they are counted from 0"):
        attention(model, IDS, layers=[0, -1])
    with pytest.raises(InputError, match="layers='2'; expected a number"):
        attention_patterns._numbers("layers", "2")
    with pytest.raises(InputError, match="heads is empty"):
        attention(model, IDS, heads=[])
    mamba = pytest.importorskip("interp.doctor").architectures.build("mamba")
    with pytest.raises(UnknownSiteError, match="pattern"):
        attention(load(mamba, name="mamba"), IDS)
