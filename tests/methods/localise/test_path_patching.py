"""Path patching (card 6): against exact edge patching, against plain hooks step by step, and where paths meet node patching.

Tolerance: 1e-10 × (1 + max |logit|) in float64, where a model's own norms do not compute in float32 (RMSNorm: 1e-6).
"""

from __future__ import annotations

from typing import Any

import anything
import numpy as np
import pytest
import sweeps
import torch

from interp import effects
from interp.engine import Edge, patch, patch_edges, run
from interp.errors import InputError, UnknownSiteError
from interp.interventions import Activation, Add, Change, Interpolate, Intervention, Noise
from interp.methods.localise.path_patching import path_patch
from interp.models import Model
from interp.sites import grid
from interp.store import Store
from interp.views import heatmap

KINDS = ["gpt2", "llama", "neox", "gemma2"]
ATOL = {"gpt2": 1e-9, "llama": 1e-6, "neox": 1e-9, "gemma2": 1e-6}


def model_of(kind: str) -> Model:
    return sweeps.model(kind, torch.float64)


def receivers(model: Model) -> list[tuple[str, str]]:
    """Edge receivers and what path patching calls them."""
    kv = model.anatomy.size(model.site("L1.k"), "head") - 1
    heads = [(f"L1H{head}.{slot}", f"L1H{head}.{slot}") for slot, head in (("q", 1), ("k", kv), ("v", kv))]
    return [*heads, ("L1.mlp_pre", "L1.mlp_out"), ("logits", "logits")]


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_mlps_and_one_receiver_are_edge_patching(kind: str) -> None:
    """Card 6.1; expected: :func:`interp.patch_edges`, for queries, keys, values, MLPs and logits."""
    model, pairs = sweeps.model(kind), sweeps.random_pairs(71, [6, 6])
    for edge, name in receivers(model):
        for sender in ("L0H1.z", "L0.mlp_out"):
            expected = patch_edges(model, pairs, edges=Edge.of(sender, edge))
            found = path_patch(model, pairs, [sender], name, through_mlps=False)
            np.testing.assert_allclose(found["value"], expected["value"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("patching", ["noising", "denoising"])
@pytest.mark.parametrize("mlps", [True, False])
def test_the_steps_of_the_paper(kind: str, patching: Any, mlps: bool) -> None:
    """Expected: two runs with captured values, one pair, written out by hand."""
    model, pairs = model_of(kind), sweeps.random_pairs(72, [7])
    layers, own = model.sizes["layer"], Activation("base")
    senders = grid("z", layer=[0, 1], head=..., position=[-1, 4])
    ends = ["L1H0.q@-1", "L1H1.q@-1"]
    found = path_patch(model, pairs, senders, ends, patching=patching, through_mlps=mlps)
    for layer, head, position in ((0, 1, -1), (0, 0, 4), (1, 1, -1)):
        sender = Change(f"L{layer}H{head}.z", position)
        frozen = [Change(f"L{n}.z", source=own) for n in range(layer, layers)]
        frozen += [] if mlps else [Change(f"L{n}.mlp_out", source=own) for n in range(layer, layers)]
        first = run(
            model, pairs, Intervention((*frozen, sender), ordered=True), capture="L1.q", logits="none", patching=patching
        )
        queries = first["L1.q"][0, -1]
        second = [Change(f"L1H{n}.q", -1, queries[n]) for n in range(2)]
        expected = patch(model, pairs, Intervention(tuple(second)), patching=patching, strategy="serial")["value"].item()
        value = found["value"].sel(layer=layer, head=head, position=position).item()
        assert value == pytest.approx(expected, abs=ATOL[kind])
    behind = found.sel(layer=1)
    assert bool(behind["by_rule"].all())
    assert float(np.abs(effects.effect(behind)).max()) == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_all_paths_are_the_node(kind: str) -> None:
    """Every path leads through the stream behind the sender's block: its effect is that of patching the sender (card 6.2)."""
    model, pairs = model_of(kind), sweeps.random_pairs(73, [6, 6])
    where = grid("z", layer=[0], head=...)
    found = path_patch(model, pairs, where, "L1.resid_pre")
    expected = patch(model, pairs, where, patching="noising")
    np.testing.assert_allclose(found["value"], expected["value"], rtol=0, atol=ATOL[kind])
    mlp = path_patch(model, pairs, "L0.mlp_out", "L1.resid_pre", through_mlps=False)
    expected = patch(model, pairs, "L0.mlp_out", patching="noising")
    np.testing.assert_allclose(mlp["value"], expected["value"], rtol=0, atol=ATOL[kind])


def test_the_only_varying_input_is_the_receiver() -> None:
    """Card 6.3: the embedding is all that varies below the first block, so its path into a query is patching the query."""
    model, pairs = model_of("gpt2"), sweeps.random_pairs(74, [6])
    found = path_patch(model, pairs, "embed", "L0H1.q")
    expected = patch(model, pairs, ["L0H1.q"], patching="noising")
    np.testing.assert_allclose(found["value"].values.ravel(), expected["value"].values.ravel(), rtol=0, atol=1e-10)


def test_in_an_attention_only_model_mlps_are_no_matter() -> None:
    """Card 6.4."""
    from interp.models import load

    model = load("zoo/induction-2l")
    pairs = sweeps.random_pairs(75, [8, 8])
    free, frozen = (
        path_patch(model, pairs, grid("z", head=...), ["L1H0.k", "L1H3.k"], through_mlps=on) for on in (True, False)
    )
    np.testing.assert_array_equal(free["value"], frozen["value"])


def test_direct_paths_of_all_writers_add_up_where_the_norm_is_held() -> None:
    """Card 6.5: effects of the paths sender → logits, over everything that writes to the stream, sum to the whole effect.

    The last norm's scale is the one thing between writers and logits that is not linear, so it is given as it is on the base.
    """
    model, pairs = model_of("gpt2"), sweeps.random_pairs(76, [6, 6])
    held = Change("ln_final_scale", source=Activation("clean"))
    writers = {"embed": "embed", "pos": "pos_embed", "heads": grid("z", head=...), "mlps": "mlp_out"}
    found = path_patch(model, pairs, writers, "logits", through_mlps=False, given=held)
    direct = sum(effects.effect(found[name].to_dataset()).values.reshape(-1, 2).sum(0) for name in writers)
    everything = patch(model, pairs, f"L{model.sizes['layer'] - 1}.resid_post", patching="noising", given=held)
    np.testing.assert_allclose(direct, effects.effect(everything).values.ravel(), rtol=0, atol=1e-9)


def test_held_norms_make_it_linear() -> None:
    """Card 6.6: with the norms' scales held, the queries move by (Δ / σ) · W_Q. Expected: an edit that adds just that.

    With free norms the gap shrinks as ‖Δ‖, a slope of 1: σ moves by (x · Δ) / (d σ), so x / σ does too to first order. (The
    card has ‖Δ‖², which would need Δ to be orthogonal to the stream.)
    """
    model, pairs = model_of("gpt2"), sweeps.random_pairs(81, [6])
    options: Any = {"through_mlps": False, "patching": "noising"}
    base = run(model, pairs, capture=["L0.result", "L1.ln1_scale"], logits="none", patching="noising")
    source = run(model, pairs, capture="L0.result", logits="none", patching="denoising")
    moved = (source["L0.result"] - base["L0.result"])[0, -1, 1]
    norm, linear = model.module.transformer.h[1].ln_1, model.module.transformer.h[1].attn.c_attn
    width = moved.shape[-1]
    centred = (moved - moved.mean()) * norm.weight / base["L1.ln1_scale"][0, -1]
    queries = (centred @ linear.weight[:, :width]).unflatten(0, (model.sizes["head"], -1))
    held = path_patch(model, pairs, ["L0H1.z@-1"], "L1H0.q@-1", hold="ln_scale", **options)
    expected = patch(model, pairs, Change("L1H0.q", -1, queries[0].detach(), Add()), patching="noising", hold="ln_scale")
    assert held["value"].item() == pytest.approx(expected["value"].item(), abs=1e-9)

    def gap(share: float) -> float:
        senders = [Change("L0H1.z", -1, edit=Interpolate(share))]
        free, still = (path_patch(model, pairs, senders, "L1H0.q@-1", hold=hold, **options) for hold in ((), "L1.ln1_scale"))
        return abs(free["value"].item() - still["value"].item())

    slope = np.log(gap(1e-2) / gap(1e-3)) / np.log(10)
    assert 0.9 < slope < 1.1


@pytest.mark.parametrize("kind", KINDS)
def test_stops_on_the_way(kind: str) -> None:
    """Sender → a head's value → another's query → out. Expected: three runs with captured values."""
    model, pairs = model_of(kind), sweeps.random_pairs(77, [6])
    own = Activation("base")
    found = path_patch(model, pairs, ["L0.mlp_out@2"], "L2.mlp_out@-1", through=["L1H1.q@-1"], through_mlps=False)
    layers = range(model.sizes["layer"])

    def frozen(first: int) -> list[Change]:
        return [Change(f"L{n}.{part}", source=own) for n in layers for part in ("z", "mlp_out") if n > first]

    def held(first: int, *without: str) -> tuple[Change, ...]:
        return tuple(change for change in frozen(first) if repr(change.site) not in without)

    sent = Change("L0.mlp_out", 2)
    q = run(model, pairs, Intervention((*held(0), sent), ordered=True), capture="L1.q", patching="noising")["L1.q"][0, -1, 1]
    stop = Change("L1H1.q", -1, q)
    alone = Intervention((*held(0, "L1.z", "L2.mlp_out"), stop), ordered=True)
    end = run(model, pairs, alone, capture="L2.mlp_out", patching="noising")["L2.mlp_out"][0, -1]
    expected = patch(model, pairs, Change("L2.mlp_out", -1, end), patching="noising")
    assert found["value"].item() == pytest.approx(expected["value"].item(), abs=ATOL[kind])


def test_families_windows_noise_and_the_store(tmp_path: object) -> None:
    from interp.reruns import rerun

    model, pairs, store = sweeps.model("gpt2"), sweeps.random_pairs(78, [6, 6]), Store(str(tmp_path))
    ends = {"queries": ["L2H0.q@-1", "L2H1.q@-1"], "direct": "logits"}
    noise = Change("embed", [2, 3], Noise(0.5), Add())
    options: Any = {"corruption": noise, "store": store, "name": "paths"}
    found = path_patch(model, pairs, grid("z", head=..., window=2), ends, **options)
    assert list(found.children) == ["queries", "direct"]
    assert found["direct"].to_dataset()["window_layers"].values.tolist()[:2] == [1, 2]
    assert found["direct"].attrs["method"] == "path_patch"
    assert found["direct"].attrs["site"] == "z → logits"
    assert len(store.runs()) == 1
    again = path_patch(model, pairs, grid("z", head=..., window=2), ends, **options)
    assert len(store.runs()) == 1
    np.testing.assert_array_equal(again["queries"]["value"], found["queries"]["value"])
    assert rerun(store.run("paths"), model=model).within


def test_an_encoder_reaches_its_decoder_through_cross_attention() -> None:
    model = anything.model("t5")
    pairs = anything.pairs(model, 79)
    senders = grid("encoder:z", layer=..., head=...)
    through = path_patch(model, pairs, senders, "L1.cross_v")
    assert float(np.abs(effects.effect(through)).max()) > 0


def test_what_is_no_path() -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(80, [6])
    with pytest.raises(UnknownSiteError, match="the logits receive alone: they lie behind every other receiver"):
        path_patch(model, pairs, "z", ["logits", "L1H0.q"])
    with pytest.raises(InputError, match=r"receivers are an empty list; name at least one site"):
        path_patch(model, pairs, "z", [])
    with pytest.raises(UnknownSiteError, match="nothing lies behind the logits"):
        path_patch(model, pairs, "z", "L2H0.q", through=["logits"])
    with pytest.raises(InputError, match=r"senders and receivers are both mappings"):
        path_patch(model, pairs, {"a": "z", "b": "mlp_out"}, {"q": "L1H0.q", "k": "L1H0.k"})
    with pytest.raises(UnknownSiteError, match="where it lies between heads is not known; name it by its role"):
        path_patch(model, pairs, "z", "transformer.h.1:output")


@pytest.mark.parametrize("receivers", [3, None, grid("q", layer=[1], head=[0]), [["L1H0.q"]]])
def test_what_cannot_receive(receivers: Any) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(81, [6])
    with pytest.raises(InputError, match=r"receivers hold .* of type (int|NoneType|Grid|list); expected sites with positions"):
        sweeps.unchecked(path_patch)(model, pairs, "z", receivers)


def test_no_families_of_receivers() -> None:
    with pytest.raises(
        InputError, match=r"receivers are an empty mapping; name at least one family, as in \{'direct': 'logits'\}"
    ):
        path_patch(sweeps.model("gpt2"), sweeps.random_pairs(82, [6]), "z", {})


def test_one_stop_is_a_list_of_one() -> None:
    model, pairs = sweeps.model("llama"), sweeps.random_pairs(83, [6])
    paths = [path_patch(model, pairs, "z", "L2H0.q", through=stop) for stop in ("L1.mlp_out@-1", ["L1.mlp_out@-1"])]
    np.testing.assert_array_equal(*(effects.effect(found) for found in paths))


@pytest.mark.parametrize(("patching", "source"), [("noising", "corrupted run"), ("denoising", "clean run")])
def test_what_is_said_to_be_written_is_the_senders_source(patching: Any, source: str) -> None:
    """Not what is frozen at the base's own values, nor the runs in which receivers are made."""
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(84, [6])
    found = path_patch(model, pairs, grid("z", head=..., position=[-1]), ["L2H0.q@-1", "L2H1.q@-1"], patching=patching)
    assert found.attrs["source"] == source
    assert f"{patching}, source {source} · " in heatmap(found).layout.title.text
