"""Activation patching held to identities that are true of every network (shared/methods/localise.md, card 1).

float64 to 1e-10 × (1 + max |logit|) on models that compute in float64, float32 to 1e-5 × (1 + max |logit|) on the others; where
nothing is computed differently, to the bit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch
import xarray as xr
from torch import Tensor

from interp import effects
from interp.engine import patch
from interp.interventions import Activation, Change, Constant, Intervention, Scale, Subspace, mean, zero
from interp.models import Model, load
from interp.prompts import Pairs
from interp.sites import Site, grid

METRICS = ["logit_diff", "kl", "logprob"]
EXACT = [("gpt2", torch.float64), ("zoo", torch.float64)]
KINDS = [*EXACT, ("gpt2", torch.float32), ("llama", torch.float32), ("mistral", torch.float32)]
STRATEGIES = ("serial", "batched")


def logit(token: int) -> Any:
    def read(logits: Tensor) -> Tensor:
        return logits[..., token]

    read.__name__ = f"logit_{token}"
    return read


ALL_LOGITS = [logit(t) for t in range(0, tiny.VOCAB, 6)]


@pytest.fixture(params=KINDS, ids=lambda k: f"{k[0]}-{str(k[1])[6:]}")
def model(request: pytest.FixtureRequest) -> Model:
    return sweeps.model(*request.param)


@pytest.fixture
def pairs(seed: int) -> Pairs:
    return sweeps.random_pairs(seed, [6, 6, 6], early=True)


def tolerance(ds: xr.Dataset) -> float:
    top = float(max(abs(ds[v]).max() for v in ("clean", "corrupt", "value")))
    return (1e-10 if ds["value"].dtype == np.float64 else 1e-5) * (1 + max(top, 5.0))


def same(model: Model, pairs: Pairs, *interventions: Intervention, patching: Any = "denoising") -> xr.Dataset:
    """All interventions give the same logits, in every strategy; and not those of the base."""
    for strategy in STRATEGIES:
        ds = patch(model, pairs, list(interventions), [*ALL_LOGITS, "kl"], patching=patching, strategy=strategy)
        assert float(abs(ds["value"] - ds["value"].isel(cell=0)).max()) <= tolerance(ds)
        assert float(abs(effects.effect(ds)).max()) > 1e-2, "something moves, so that the check can fail"
    return ds


# all positions of a complete cut


@pytest.mark.parametrize("patching", ["denoising", "noising"])
def test_the_whole_stream_at_one_layer_is_the_source_run(model: Model, pairs: Pairs, patching: Any) -> None:
    """Recovery (damage) exactly 1, KL of the denoised run 0: nothing else reaches the logits. Padded examples too."""
    for given in (pairs, sweeps.random_pairs(pairs.made_by["seed"], [5, 7, 4], early=True)):
        names = [n for n in ("resid_pre", "resid_mid", "resid_post") if n not in model.anatomy.absent]
        for name in names:
            for strategy in STRATEGIES:
                ds = patch(model, given, grid(name, layer=...), [*ALL_LOGITS, "kl"], patching=patching, strategy=strategy)
                source = ds["clean" if patching == "denoising" else "corrupt"]
                assert float(abs(ds["value"] - source).max()) <= tolerance(ds)
    ds = patch(model, pairs, grid("resid_post", layer=...), "logit_diff", patching=patching)
    quantity = effects.recovery if patching == "denoising" else effects.damage
    np.testing.assert_allclose(quantity(ds, aggregate=None), 1.0, atol=1e-3)


def test_the_last_block_at_the_last_position_is_the_source_run(model: Model, pairs: Pairs) -> None:
    ds = patch(model, pairs, grid("resid_post", layer=[model.sizes["layer"] - 1], position=...), ALL_LOGITS)
    assert float(abs(ds["value"].isel(layer=0, position=-1) - ds["clean"]).max()) <= tolerance(ds)
    others = abs(effects.effect(ds)).isel(layer=0, position=slice(0, -1))
    assert float(others.max()) <= tolerance(ds), "no later block reads the other positions"


def test_restoring_the_embedding_restores_everything(model: Model, pairs: Pairs) -> None:
    ds = patch(model, pairs, grid("embed"), ALL_LOGITS)
    assert float(abs(ds["value"] - ds["clean"]).max()) <= tolerance(ds)


def test_the_cut_identity(model: Model, pairs: Pairs) -> None:
    """Denoising positions S of one layer's stream is noising their complement: the same run, said from the other side."""
    parts = [([p for p in range(6) if p in part], [p for p in range(6) if p not in part]) for part in ([5], [1, 3], [0, 2, 4])]
    sites = [f"L{layer}.resid_post" for layer in range(model.sizes["layer"])]
    one = patch(model, pairs, [Intervention((Change(s, part),)) for s in sites for part, _ in parts], ALL_LOGITS)
    rest = [Intervention((Change(s, rest),)) for s in sites for _, rest in parts]
    other = patch(model, pairs, rest, ALL_LOGITS, patching="noising")
    assert float(abs(one["value"] - other["value"]).max()) <= tolerance(one)
    assert float(abs(effects.effect(one)).max()) > 1e-2


# causality


@pytest.mark.parametrize("patching", ["denoising", "noising"])
def test_cells_before_the_first_difference_are_exactly_zero(model: Model, seed: int, patching: Any) -> None:
    """By rule to the bit, and by brute force as exactly as a batch of other size allows."""
    pairs = sweeps.random_pairs(seed, [6, 6])
    first = [next(i for i in range(6) if p.clean.text[i] != p.corrupted.text[i]) for p in pairs]
    for where in (grid("resid_mid", layer=..., position=...), grid("v", layer=[0], head=[0, 1], position=...)):
        if where.site.name in model.anatomy.absent:
            continue
        ruled = patch(model, pairs, where, patching=patching)
        forced = patch(model, pairs, where, patching=patching, skip_inert=False)
        for example, p in enumerate(first):
            early = {"example": example, "position": slice(0, p)}
            assert ruled["by_rule"].isel(early).all()
            assert not ruled["by_rule"].isel(example=example, position=slice(p, None)).any()
            assert float(abs(effects.effect(ruled)).isel(early).max()) == 0.0
            assert float(abs(effects.effect(forced)).isel(early).max()) <= tolerance(forced)


def test_patching_nothing_is_no_effect(model: Model, pairs: Pairs) -> None:
    """A pair of one prompt with itself, run by force: values are written, and nothing moves."""
    alike = Pairs(tuple(replace(p, corrupted=p.clean) for p in pairs))
    sites = [s for s in model.sites() if s.layer in (None, 1) and s.name != "logits"]
    ds = patch(model, alike, [Intervention((Change(s),)) for s in sites], ALL_LOGITS, skip_inert=False)
    assert ds.attrs["rows"] == (len(sites) + 1) * 3
    assert float(abs(effects.effect(ds)).max()) <= tolerance(ds)
    assert patch(model, alike, grid("resid_post", layer=...))["by_rule"].all()


# parts of attention


@pytest.mark.parametrize("layer", [0, 1])
def test_the_ways_of_saying_one_head(model: Model, pairs: Pairs, layer: int) -> None:
    """q + k + v ≡ z ≡ pattern + v ≡ scores + v ≡ result, all positions of one head."""
    groups = model.sizes["head"] // model.sizes["kv_head"]
    for head in (0, 3):
        own = f"L{layer}H{head}"
        # grouped-query attention shares k and v: there the group is the smallest part for which this holds, see below
        ways = [Intervention.of(f"{own}.z"), Intervention.of(f"{own}.result")]
        if groups == 1:
            ways += [
                Intervention.of(f"{own}.q", f"{own}.k", f"{own}.v"),
                Intervention.of(f"{own}.pattern", f"{own}.v"),
                Intervention.of(f"{own}.scores", f"{own}.v"),
            ]
        same(model, pairs, *ways)


def test_the_ways_of_saying_one_group_of_heads(model: Model, pairs: Pairs) -> None:
    """A key/value head with all of its query heads: q's + k + v ≡ z's ≡ patterns + v."""
    groups = model.sizes["head"] // model.sizes["kv_head"]
    for kv in range(model.sizes["kv_head"]):
        queries = [f"L1H{h}" for h in range(kv * groups, (kv + 1) * groups)]
        value = f"L1H{kv}.v"
        same(
            model,
            pairs,
            Intervention.of(*(f"{q}.z" for q in queries)),
            Intervention.of(*(f"{q}.q" for q in queries), f"L1H{kv}.k", value),
            Intervention.of(*(f"{q}.pattern" for q in queries), value),
        )


def test_all_heads_are_the_output_of_attention(model: Model, pairs: Pairs) -> None:
    """W_O's bias is the same in both runs: every head's result ≡ z of all heads ≡ result ≡ attn_out."""
    heads = range(model.sizes["head"])
    same(
        model,
        pairs,
        Intervention.of("L1.attn_out"),
        Intervention.of(*(f"L1H{h}.result" for h in heads)),
        Intervention.of(*(f"L1H{h}.z" for h in heads)),
        Intervention.of("L1.result"),
        Intervention.of("L1.z"),
        Intervention.of("L1.q", "L1.k", "L1.v"),
        patching="noising",
    )


def test_parts_of_a_block(model: Model, pairs: Pairs) -> None:
    """resid_pre + attn_out ≡ resid_mid; resid_mid + mlp_out ≡ resid_post; mlp_pre (+ mlp_up) ≡ mlp_post ≡ mlp_out."""
    if "mlp_out" in model.anatomy.absent:
        same(model, pairs, Intervention.of("L0.resid_pre", "L0.attn_out"), Intervention.of("L0.resid_post"))
        return
    same(
        model,
        pairs,
        Intervention.of("L0.resid_pre"),
        Intervention.of("L0.resid_mid"),
        Intervention.of("L0.resid_post"),
        Intervention.of("L1.resid_pre"),
        Intervention.of("L0.resid_pre", "L0.attn_out", "L0.mlp_out"),
    )
    before = ["L1.mlp_pre"] if "mlp_up" in model.anatomy.absent else ["L1.mlp_pre", "L1.mlp_up"]
    units = range(model.sizes["unit"]) if model.dtype == torch.float64 else ()
    same(
        model,
        pairs,
        Intervention.of("L1.mlp_out"),
        Intervention.of("L1.mlp_post"),
        Intervention.of(*before),
        *([Intervention.of(*(f"L1.mlp_post[{u}]" for u in units))] if units else []),
    )


def test_positions_one_by_one_are_all_positions(model: Model, pairs: Pairs) -> None:
    for site in ("L1.resid_post", "L1H1.z", "L0.attn_out", "L1H0.pattern"):
        each = Intervention(tuple(Change(site, p) for p in range(6)))
        same(model, pairs, Intervention.of(site), each, Intervention((Change(site, [0, 1, 2]), Change(site, [-1, -2, -3]))))


# the sentence in the network


def test_bases_of_the_same_space(model: Model, pairs: Pairs) -> None:
    """A full rotation replaces as the identity does; a subspace and its complement together too."""
    draw = torch.randn(tiny.WIDTH, tiny.WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q = torch.linalg.qr(draw).Q
    full, first, rest = Subspace(q), Subspace(q[:, :5]), Subspace(q[:, 5:])
    site = "L1.resid_post"
    both = Intervention.of(site, featurizer=first).then(Intervention.of(site, featurizer=rest))
    same(model, pairs, Intervention.of(site), Intervention.of(site, featurizer=full), both)


def test_knocking_out_is_writing_zero(model: Model, pairs: Pairs) -> None:
    for site in ("L1H2.z", "L1H2.result", "L1.attn_out"):
        ways = (
            Intervention.of(site, edit=Scale(0.0)),
            Intervention.of(site, source=zero()),
            Intervention.of(site, source=Constant(0.0)),
        )
        same(model, pairs, *ways)
    # a head without output says nothing of its queries and keys
    same(
        model,
        pairs,
        Intervention.of("L1H2.z", source=zero()),
        Intervention.of("L1H2.z", source=zero()) & Intervention.of("L1H2.q"),
    )


def test_a_mean_over_one_example_is_its_value(model: Model, pairs: Pairs) -> None:
    one = pairs[:1]
    same(model, one, Intervention.of("L1.resid_post"), Intervention.of("L1.resid_post", source=mean()))


def test_effects_of_one_cut_add_up_where_the_network_is_linear(seed: int) -> None:
    """One layer, no norm, no MLP: the logits are the sum of what the embedding and each head write (card 1, test 3)."""
    module = sweeps.zoo(seed, num_hidden_layers=1, norm="none", num_key_value_heads=4).double()
    linear = load(module)
    pairs = sweeps.random_pairs(seed, [6, 6], early=True)
    heads = [Intervention.of(f"L0H{h}.z") for h in range(4)]
    # the stream beside the heads: the source's embedding with every head held at its own value
    held = Intervention.of("embed") & Intervention.of(*(f"L0H{h}.z" for h in range(4)), source=Activation("base"))
    ds = patch(linear, pairs, [*heads, held], ALL_LOGITS)
    total = effects.effect(ds).sum("cell")
    assert float(abs(total - (ds["clean"] - ds["corrupt"])).max()) <= 10 * tolerance(ds)
    assert float(abs(effects.effect(ds)).min("cell").max()) > 1e-3


def test_grouped_heads_have_the_sites_that_they_compute_with() -> None:
    model = sweeps.model("llama")
    assert model.sizes_at(Site("k", layer=0))["head"] == 2
    assert model.sizes_at(Site("pattern", layer=0))["head"] == 4
