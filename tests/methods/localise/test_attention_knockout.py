"""Knockouts laid out over layers, heads, queries and what they attend to, and what attention and MLPs no longer say.

Expected numbers: the engine's own interventions one by one (tests/engine/test_knockouts.py holds those to hooks on the raw
module), formulas on weights, and the identities of the method's card. Tolerance 1e-5 × (1 + max |reference|) in float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch
import xarray as xr

import interp
from interp.doctor import architectures
from interp.engine import explain, patch, run
from interp.errors import HeadOutOfRangeError, PositionError, UnknownNameError, UnknownSiteError
from interp.interventions import Cut, Scale, attention_knockout
from interp.methods.localise.attention_knockout import knockout, knockouts
from interp.methods.localise.attention_knockout_readout import knockout_readout
from interp.models import load
from interp.prompts import Pairs
from interp.sites import Positions, grid
from interp.store import Store
from interp.views import curve, heatmap

KINDS = ("gpt2", "llama", "neox", "gemma2")
"""Biases and LayerNorm; grouped queries; parallel blocks; norms behind attention and a soft cap."""
TOKENS = [3, 5]


def pairs_of(seed: int) -> Pairs:
    """Of unequal length, each with its roles "subject" and "end", which share no token."""
    return sweeps.random_pairs(seed, [7, 5, 6])


def within(got: Any, expected: Any, atol: float = 1e-5) -> None:
    expected = np.asarray(expected)
    np.testing.assert_allclose(np.asarray(got), expected, rtol=0, atol=atol * (1 + float(np.abs(expected).max())))


# effects


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_windows_are_a_grid_of_the_same_window(kind: str, renormalise: bool, seed: int) -> None:
    model, pairs = sweeps.model(kind), pairs_of(seed)
    found = knockout(model, pairs, "end", ["subject", -2], window=2, renormalise=renormalise)
    assert isinstance(found, xr.Dataset)
    assert found.value.dims == ("metric", "layer", "position", "source_position", "example")
    assert (found.position.values.tolist(), found.source_position.values.tolist()) == (["end"], ["subject", "-2"])
    assert found.window_layers.values.tolist() == [1, 2, 2]  # [0, 1), [0, 2), [1, 3)
    name, edit = ("scores", Cut()) if renormalise else ("pattern", Scale(0.0))
    for attended in ("subject", -2):
        where = grid(name, layer=..., position="end", attended=attended, window=2)
        expected = patch(model, pairs, where, patching="noising", edit=edit)
        within(found.value.sel(position="end", source_position=str(attended)), expected.value)
    assert found.attrs["mode"] == ("mask" if renormalise else "zero")
    assert (found.attrs["method"], found.attrs["window"]) == ("attention knockout", 2)


def test_all_layers_each_layer_and_each_head(seed: int) -> None:
    model, pairs = sweeps.model("llama"), pairs_of(seed)
    whole = knockout(model, pairs, "end", "subject")
    assert whole.value.dims == ("metric", "position", "source_position", "example")
    one = patch(model, pairs, attention_knockout("end", "subject", layers=range(3)), patching="noising")
    within(whole.value.squeeze(), one.value.squeeze())
    widest = knockout(model, pairs, "end", "subject", layers=[1], window=6)
    assert widest.window_layers.values.tolist() == [3]
    within(widest.value.squeeze(), whole.value.squeeze())
    layers = knockout(model, pairs, "end", "subject", layers=...)
    heads = knockout(model, pairs, "end", "subject", layers=[2, 0], heads=...)
    assert heads.value.dims == ("metric", "layer", "head", "position", "source_position", "example")
    cell = patch(model, pairs, attention_knockout("end", "subject", layers=0, heads=3), patching="noising")
    within(heads.value.sel(layer=0, head=3).squeeze(), cell.value.squeeze())
    some = knockout(model, pairs, "end", "subject", layers=2)
    within(some.value.squeeze(), layers.value.sel(layer=2).squeeze())
    assert "window_layers" not in layers.coords
    assert float(abs(whole.value - whole.clean).max()) > 1e-3


def test_groups_of_several_spans_and_every_token_by_itself(seed: int) -> None:
    """Cut together, spans are one span; a token behind the query is not attended to in the first place."""
    model, pairs = sweeps.model("llama"), pairs_of(seed)
    groups = {"early": [0, 1], "both": [Positions((0,)), Positions((1,))]}
    found = knockout(model, pairs, {"late": [-1, -2]}, groups, layers=...)
    within(found.value.sel(source_position="early"), found.value.sel(source_position="both"))
    each = knockout(model, pairs, 1, range(5), layers=0)
    assert each.source_position.values.tolist() == [0, 1, 2, 3, 4]
    later = each.value.sel(source_position=[2, 3, 4]) - each.clean
    assert float(abs(later).max()) < 1e-5
    assert float(abs(each.value - each.clean).max()) > 1e-3


def test_rows_of_the_pattern_sum_to_one_or_to_what_is_left(seed: int) -> None:
    """Card 7, test 4, of the cell that a sweep runs: zero mode leaves 1 − mass(T), mask mode 1."""
    model, pairs = sweeps.model("llama"), [pair.clean for pair in pairs_of(seed)][:1]
    plain = run(model, pairs, capture="L1.pattern")["L1.pattern"][0, :, -1]
    start, stop = pairs[0].roles["subject"]
    for renormalise, expected in ((False, 1 - plain[:, start:stop].sum(-1)), (True, torch.ones(4))):
        cell = knockouts(model, "end", "subject", layers=1, renormalise=renormalise).interventions[0]
        rows = run(model, pairs, cell, capture="L1.pattern")["L1.pattern"][0, :, -1]
        within(rows.sum(-1), expected)


def test_defaults_are_zero_mode_noising_and_a_metric_that_fits(seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), pairs_of(seed)
    found = knockout(model, pairs, "end", "subject")
    assert (found.attrs["patching"], found.attrs["mode"], found.metric.values.tolist()) == ("noising", "zero", ["logit_diff"])
    alone = knockout(model, [pair.clean for pair in pairs], "end", "subject")
    assert (alone.attrs["paired"], alone.metric.values.tolist()) == (False, ["kl"])
    corrupted = knockout(model, pairs, "end", "subject", patching="denoising")
    assert float(abs(corrupted.value - corrupted.corrupt).max()) > 1e-4


def test_layers_without_attention_are_absent(seed: int) -> None:
    """Jamba: a window counts the layers that have attention alone, and all layers together are those."""
    model, prompts = architectures.loaded("jamba"), [[1, 2, 3, 4, 5]]
    there = [site.layer for site in model.each(interp.Site("pattern"))]
    assert 0 < len(there) < model.sizes["layer"]
    each = knockout(model, prompts, -1, 0, layers=...)
    assert np.flatnonzero(~each.absent.values.squeeze()).tolist() == there
    together = knockout(model, prompts, -1, 0, window=2 * model.sizes["layer"])
    assert set(together.window_layers.values.tolist()) == {len(there)}
    within(together.value.sel(layer=0).squeeze(), knockout(model, prompts, -1, 0).value.squeeze())


def test_cross_attention_of_a_decoder(seed: int) -> None:
    """T5: tokens of the source text that the decoder no longer reads."""
    model = architectures.loaded("t5")
    prompts = [interp.Prompt([5, 6, 7, 8], target=[0, 9])]
    found = knockout(model, prompts, -1, range(4), layers=..., cross=True)
    assert found.value.dims == ("metric", "layer", "position", "source_position", "example")
    one = patch(model, prompts, attention_knockout(-1, 2, layers=1, cross=True), "kl")
    within(found.value.sel(layer=1, source_position=2).squeeze(), one.value.squeeze())


def test_a_stored_sweep_is_found_again_and_made_again(seed: int, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny.llama(0).save_pretrained(folder)
    model, pairs, store = load(folder), pairs_of(seed), Store(tmp_path / "runs")
    asked: dict[str, Any] = {"layers": ..., "heads": [0, 2], "renormalise": True, "store": store}
    first = knockout(model, pairs, "end", {"s": ["subject"]}, **asked)
    again = knockout(model, pairs, "end", {"s": ["subject"]}, **asked)
    assert len(store.runs()) == 1
    np.testing.assert_array_equal(first.value, again.value)
    assert again.attrs["mode"] == "mask"
    knockout(model, pairs, "end", {"s": ["subject"]}, **(asked | {"renormalise": False}))
    assert len(store.runs()) == 2
    made = interp.rerun(store.like(first))
    assert made.within
    np.testing.assert_array_equal(made.result.value, first.value)
    assert made.result.attrs["method"] == "attention knockout"


def test_what_is_refused(seed: int) -> None:
    model, pairs = sweeps.model("llama"), pairs_of(seed)
    with pytest.raises(HeadOutOfRangeError, match=r"heads=Ellipsis of all layers together, whose heads have nothing in common"):
        knockout(model, pairs, "end", "subject", heads=...)
    with pytest.raises(HeadOutOfRangeError, match="window=0: give a number of adjacent layers, 1 at least"):
        knockout(model, pairs, "end", "subject", window=0)
    with pytest.raises(HeadOutOfRangeError, match="layer 3 of 'pattern' does not exist: this model has 3 layers"):
        knockout(model, pairs, "end", "subject", layers=[3])
    with pytest.raises(UnknownNameError, match="unknown role 'subjet'; did you mean 'subject'"):
        knockout(model, pairs, "end", "subjet")
    with pytest.raises(PositionError, match=r"attended\['none'\] names no tokens: there is nothing to cut"):
        knockout(model, pairs, "end", {"none": ()})
    with pytest.raises(PositionError, match=r"attended=\['subject', 'subject'\] names 'subject' twice"):
        knockout(model, pairs, "end", ["subject", "subject"])
    with pytest.raises(PositionError, match="leaves nothing to attend to"):
        knockout(model, pairs, "end", ..., renormalise=True)
    mamba = architectures.loaded("mamba")
    for call in (knockout, knockout_readout):
        with pytest.raises(UnknownSiteError, match=r"unknown site 'pattern'.*mamba does not have it, because"):
            call(mamba, [[1, 2, 3]], -1, 0)


def test_it_is_explained_and_drawn(seed: int) -> None:
    model, pairs = sweeps.model("llama"), pairs_of(seed)
    assert "9 cells × 3 examples" in str(explain(model, pairs, knockouts(model, "end", [0, 1, 2], layers=...)))
    found = knockout(model, pairs, "end", [0, "subject"], window=2)
    lines = curve(found, x="layer")
    assert {trace.name for trace in lines.data if trace.name} == {"@end ← 0", "@end ← subject"}
    assert "windows of 2 layers" in lines.layout.title.text
    heatmap(found, x="source_position")
    said = knockout_readout(model, pairs, "end", [0, "subject"], TOKENS)
    drawn = curve(said.effect.sel(site="mlp_out", token="3"), x="layer")
    assert "contribution lost over layer" in drawn.layout.title.text
    assert "site=mlp_out" in drawn.layout.title.text


def test_raw_positions_that_are_attended_to_are_drawn_with_their_tokens() -> None:
    model = load("zoo/language-4l")
    tokens = model.encode(interp.tasks.ioi(1, tokenizer=model.tokenizer)).clean
    words, n = tokens.strings[0], int(tokens.lengths[0])
    found = knockout(model, interp.tasks.ioi(1, tokenizer=model.tokenizer), -1, range(n), layers=...)
    assert found.source_token.values[:, 0].tolist() == list(words)
    assert found.source_role.values.tolist() == tokens.roles_at(range(n))
    drawn = heatmap(found, x="source_position").layout.xaxis
    assert drawn.title.text == "position and token that is attended to"
    assert drawn.ticktext[3].split() == ["3", words[3].strip()]


@pytest.mark.parametrize(("renormalise", "said"), [(False, "attention × 0"), (True, "attention scores −∞")])
def test_a_figure_says_how_edges_are_cut(renormalise: bool, said: str, seed: int) -> None:
    found = knockout(sweeps.model("llama"), pairs_of(seed), "end", ["subject", 0], layers=..., renormalise=renormalise)
    assert f"noising, {said} · " in heatmap(found).layout.title.text


@pytest.mark.parametrize("attended", [1.5, slice(0, 3)])
def test_what_names_no_tokens(attended: Any, seed: int) -> None:
    with pytest.raises(
        PositionError, match=r"attended=.* names no tokens; give a role, an index, a list of these, or a mapping"
    ):
        knockout(sweeps.model("llama"), pairs_of(seed), "end", attended)


def test_a_role_of_the_encoder_or_of_some_prompts(seed: int) -> None:
    """The next step is in the message; here it is taken."""
    model = architectures.loaded("t5")
    prompts = [interp.Prompt([5, 6, 7, 8], {"subject": (1, 3)}, target=[0, 9])]
    with pytest.raises(UnknownNameError, match=r"in the stream 'encoder', .* or with stream='encoder' where a call takes it"):
        knockout(model, prompts, -1, "subject")
    for options in ({"stream": "encoder"}, {"cross": True}):
        assert float(abs(knockout(model, prompts, -1, "subject", **options).value).max()) > 0
    some = [interp.Prompt([5, 6, 7], {"subject": (1, 2)}), interp.Prompt([5, 6, 8])]
    with pytest.raises(UnknownNameError, match=r"1 of 2 prompts do not name it \(examples 1\); give it to every prompt"):
        knockout(sweeps.model("llama"), some, -1, "subject")
