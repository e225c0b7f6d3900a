"""Off-distribution diagnostics: known distances, what engine runs capture, and what is flagged and what is not."""

from __future__ import annotations

import re
from typing import Any

import anything
import numpy as np
import pytest
import sweeps
import torch
import xarray as xr

from interp import views
from interp.engine import run
from interp.engine.families import asked
from interp.engine.filling import fill
from interp.engine.natural import written
from interp.engine.prepared import Options, start
from interp.errors import InputError, UnknownSiteError
from interp.interventions import (
    Activation,
    Add,
    Apply,
    Change,
    Constant,
    Interpolate,
    Intervention,
    Noise,
    Scale,
    Subspace,
)
from interp.methods.localise.off_distribution import off_distribution
from interp.models import Model, load
from interp.models.zoo import ZooConfig, ZooForCausalLM
from interp.models.zoo.handmade import Head
from interp.prompts import Pair, Pairs
from interp.sites import Site, grid
from interp.stats import Normal

PATCHING: tuple[Any, ...] = ("denoising", "noising")
KINDS = ["gpt2", "llama", "neox", "gemma2"]
"""Biases and LayerNorm; grouped queries; parallel blocks; norms behind attention and a soft cap."""
CHI_99 = {4: 3.6437, 8: 4.4822}
"""0.99 quantiles of the chi distribution by degrees of freedom: √13.2767 and √20.0902, from tables of chi-square."""


def quick(model: Model, pairs: Any, where: Any, **options: Any) -> Any:
    return off_distribution(model, pairs, where, scales=False, **options)


# distances


def test_distances_of_a_known_normal_distribution(seed: int) -> None:
    """Expected: √(xᵀ Σ⁻¹ x) with the Σ that was drawn from; natural draws have the chi distribution."""
    generator = np.random.default_rng(seed)
    mixed, mean = 0.3 * generator.normal(size=(4, 4)) + 2 * np.eye(4), np.array([5.0, -1.0, 0.0, 2.0])
    fitted = Normal.fit(generator.normal(size=(50_000, 4)) @ mixed.T + mean)
    others = generator.normal(size=(50_000, 4))
    np.testing.assert_allclose(fitted.distance(others @ mixed.T + mean), np.linalg.norm(others, axis=1), rtol=0.05, atol=0.05)
    assert np.quantile(fitted.distance(others @ mixed.T + mean), 0.99) == pytest.approx(CHI_99[4], rel=0.03)
    assert fitted.shrinkage < 0.01


@pytest.mark.parametrize(("n", "features"), [(40, 6), (9, 20)])
def test_the_covariance_is_that_of_ledoit_and_wolf(n: int, features: int, seed: int) -> None:
    """Expected: their formulas written out with whole matrices, vector by vector."""
    generator = np.random.default_rng(seed)
    sample = generator.normal(size=(n, features)) * np.linspace(0.2, 3, features) + 1
    x = sample - sample.mean(0)
    s, one = x.T @ x / n, np.eye(features)
    mu = np.trace(s) / features
    d2 = ((s - mu * one) ** 2).sum() / features
    b2 = min(d2, sum(((np.outer(v, v) - s) ** 2).sum() / features for v in x) / n**2)
    shrunk = b2 / d2 * mu * one + (1 - b2 / d2) * s
    fitted, other = Normal.fit(sample), generator.normal(size=(5, features)) * 4
    centred = other - sample.mean(0)
    assert 0 < fitted.shrinkage == pytest.approx(b2 / d2)
    np.testing.assert_allclose(fitted.distance(other) ** 2, np.einsum("ni,ij,nj->n", centred, np.linalg.inv(shrunk), centred))


def test_what_never_varies_has_a_distance_in_units_of_what_is_taken_for_rounding() -> None:
    fitted = Normal.fit(np.ones((20, 4)), noise=0.001)
    np.testing.assert_allclose(fitted.distance(np.array([[1.0, 1, 1, 1], [1, 1, 1, 1.003]])), [0, 3], atol=1e-9)


def test_a_constant_among_normal_embeddings() -> None:
    """Expected: embeddings are drawn from N(0, I), so that c is √(c·c) away and natural ones have the chi distribution."""
    net = ZooForCausalLM(ZooConfig(vocab_size=4000, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        net.model.embed_tokens.weight.normal_(generator=generator)
    ids = torch.randint(0, 4000, (1500, 2, 3), generator=generator).tolist()
    pairs = Pairs(tuple(Pair(one, other) for one, other in ids), "toy")
    model = load(net, name="normal embeddings")
    for value, norm in ((0.0, 0.0), (2.5, 2.5 * 8**0.5)):
        found = quick(model, pairs, grid("embed", position=[-1]), source=Constant(value)).sel(position=-1)
        np.testing.assert_allclose(found["distance"], norm, rtol=0.05, atol=0.2)
        np.testing.assert_allclose(found["threshold"], CHI_99[8], rtol=0.06)
        np.testing.assert_allclose(found["norm_ratio"], norm / 2.7428, rtol=0.03)  # √2 Γ(4.5) / Γ(4), the mean of chi with 8
        assert bool(found["flagged"]) is (value > 0)
        assert bool(found["beyond"].all()) is (value > 0)


# what is written


def sources(seed: int) -> dict[str, dict[str, Any]]:
    """Arguments of a grid, every kind of source and edit."""
    square = torch.randn(64, 64, generator=torch.Generator().manual_seed(seed))
    return {
        "counterfactual": {},
        "interpolated": {"edit": Interpolate(0.4)},
        "another layer": {"source": Activation(layer=0), "edit": Interpolate(0.3)},
        "another prompt": {"source": Activation((7, 1, 4, 4), positions=-2), "edit": Add(0.5)},
        "own": {"source": Activation("base")},
        "scaled": {"edit": Scale(0.2), "source": Activation("base")},
        "mean": {"source": Activation(pool="mean", over=("example", "position"))},
        "by template": {"source": Activation("base", pool="mean", by="template")},
        "resampled": {"source": Activation(pool="resample", seed=seed)},
        "zero": {"source": Constant(0.0)},
        "function": {"source": Constant(1.5), "edit": Apply(lambda h, s: h + (s - h).tanh())},
        "free": {"edit": lambda h, ctx: 2 * h - 1},
        "noise": {"source": Noise(0.5, 3), "edit": Add()},
        "subspace": {"rank": torch.linalg.qr(square).Q},
    }


def subspace(model: Model, site: Site, options: dict[str, Any]) -> dict[str, Any]:
    options = dict(options)
    if "rank" in options:
        width = model.anatomy.size(site, site.axes[-1])
        options |= {"featurizer": Subspace(torch.linalg.qr(options.pop("rank")[:width, :width]).Q[:, :2].to(model.dtype))}
    return options


LENGTHS = [6, 8, 7]


def compared(model: Model, pairs: Pairs, one: Intervention, patching: Any, name: str, given: Any = None) -> None:
    """Every change of an intervention at tokens −1 and 2, of prompts of :data:`LENGTHS`, against the captured site."""
    bare = {"source": None, "edit": None, "featurizer": None, "keep_error": True}
    options = Options(patching, "batched", given=given)
    prepared, _ = asked(model, pairs, [one], "kl", bare, options)
    with torch.no_grad(), prepared.session():
        [cell] = fill(prepared.cells[:1], prepared.runs, start(prepared))
        found = list(written(prepared.runs, cell))
    assert len(found) == len(one.changes)
    captured = run(model, pairs, one, capture=[place.tensor for place, _ in found], patching=patching, given=given)
    for place, new in found:
        whole = captured[repr(place.change.site)]
        at = torch.tensor([[n - 1, 2] if place.columns[0, 0] > place.columns[0, 1] else [2, n - 1] for n in LENGTHS])
        expected = whole[torch.arange(len(LENGTHS))[:, None], at].flatten(2)
        np.testing.assert_allclose(new.values, expected, rtol=0, atol=1e-9, err_msg=f"{name}: {place.change!r}")


@pytest.mark.parametrize("patching", ["denoising", "noising"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_what_a_run_captures(kind: str, patching: Any, seed: int) -> None:
    """Expected: the changed site in :func:`interp.run`, of the head or of all features, at the changed tokens."""
    model, pairs = sweeps.model(kind, torch.float64), sweeps.random_pairs(seed, LENGTHS, early=True)
    for name, words in sources(seed).items():
        for place in ("L1H2.z", "L2.resid_post", "L1.mlp_out", "L2H1.q"):
            site = Site.parse(place)
            one = Intervention((Change(site, [-1, 2], **subspace(model, site, words)),))
            compared(model, pairs, one, patching, name)


def test_changes_of_one_tensor_meet_and_what_is_given_is_there_before(seed: int) -> None:
    model, pairs = sweeps.model("llama", torch.float64), sweeps.random_pairs(seed, LENGTHS, early=True)
    one = Intervention((Change("L1H2.z", [-1, 2], Constant(3.0)),))
    both = one.then(Intervention((Change("L1.z", [-1, 2], edit=Scale(0.5)),)))
    given = Intervention((Change("L0.mlp_out", [-1, 2], Constant(1.0), Add()), Change("L1H1.z", 2, Constant(2.0), Add())))
    compared(model, pairs, both, "denoising", "both")
    compared(model, pairs, both, "noising", "both", given=given)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("patching", ["denoising", "noising"])
def test_the_scale_ratio_is_that_of_captured_runs(kind: str, patching: Any, seed: int) -> None:
    model, pairs = sweeps.model(kind), sweeps.random_pairs(seed, [7, 6, 8, 7, *[6] * 12])
    given = Change("L0.mlp_out", -1, Constant(0.2), Add())
    where = grid("z", layer=[0, 2], head=[1, 3], position=[-1, 2])
    found = off_distribution(model, pairs, where, source=Constant(1.0), edit=Add(), given=given, patching=patching, rows=5)
    cells = [None] + [Change(f"L{n}H{h}.z", p, Constant(1.0), Add()) for n in (0, 2) for h in (1, 3) for p in (-1, 2)]
    ran = run(model, pairs, cells, capture="ln_final_scale", given=given, patching=patching)
    scale = ran["ln_final_scale"].squeeze()
    lengths = torch.tensor([len((pair.corrupted if patching == "denoising" else pair.clean).text) for pair in pairs])
    scale = scale[:, torch.arange(len(pairs)), lengths - 1]
    np.testing.assert_allclose(found["scale_ratio"], (scale[1:] / scale[0]).reshape(2, 2, 2, -1), rtol=1e-5)
    assert float(np.abs(found["scale_ratio"] - 1).max()) > 1e-3
    np.testing.assert_array_equal(found["scale_ratio"].sel(layer=2, position=2), 1.0)  # behind attention nothing reaches END


# what is flagged


def a_head_with_a_large_mean() -> tuple[Model, Pairs]:
    """A net whose L0H0 writes its value's bias, which is large, and its token's embedding, which is not; L0H1 has no bias."""
    config = ZooConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, attention_bias=True, norm="none"
    )
    net = ZooForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 4)
        net.model.embed_positions.weight.zero_()
        net.model.layers[0].self_attn.v_proj.bias.zero_()
        net.model.layers[0].self_attn.v_proj.bias[:8] = 20.0
        Head(net, 0, 1).v.mul_(4)
    ids = torch.randint(0, 50, (40, 2, 4), generator=generator).tolist()
    return load(net, name="large mean"), Pairs(tuple(Pair(one, other) for one, other in ids), "toy")


def test_zero_ablation_of_a_head_with_a_large_mean_is_flagged_and_symmetric_patching_is_not() -> None:
    """Expected: the net's docstring; zero is far from all values of the first head and amid those of the second."""
    model, pairs = a_head_with_a_large_mean()
    where = grid("z", layer=[0], head=..., position=[-1])
    zeroed = quick(model, pairs, where, source=Constant(0.0)).squeeze()
    assert zeroed["flagged"].values.tolist() == [True, False]
    assert zeroed["beyond"].sel(head=0).all()
    assert not zeroed["beyond"].sel(head=1).any()
    assert float(zeroed["distance"].sel(head=0).min()) > 5 * float(zeroed["threshold"].sel(head=0))
    assert not zeroed["norm_ratio"].any()
    for options in ({}, {"source": Activation("base")}):
        for patching in ("denoising", "noising"):
            patched: xr.Dataset = quick(model, pairs, where, patching=patching, **options)
            assert not patched["flagged"].any()
            assert float(patched["beyond"].mean()) <= 0.05  # one in a hundred by the threshold's definition
            np.testing.assert_allclose(patched["norm_ratio"].mean("example"), 1, rtol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_the_base_own_is_natural(kind: str, seed: int) -> None:
    """The distances are then natural ones: over both sides, one in a hundred is beyond the threshold."""
    model, pairs = sweeps.model(kind), sweeps.random_pairs(seed, [5, 7, *[6] * 14])
    where = {"z": grid("z", layer=..., head=..., position=["subject", -1]), "resid": grid("resid_post", layer=...)}
    sides = [quick(model, pairs, where, source=Activation("base"), patching=p) for p in ("denoising", "noising")]
    for name in where:
        beyond, ratio = (
            np.concatenate([side[name][variable].values for side in sides], -1) for variable in ("beyond", "norm_ratio")
        )
        assert int(beyond.sum(-1).max()) <= 1
        assert float(np.abs(ratio.mean(-1) - 1).max()) < 0.1  # a mean over prompts of means over tokens, of 5 to 7 of them


def test_where_natural_activations_are_all_the_same() -> None:
    """Every prompt begins alike: its own value is natural there, up to rounding, and anything else is far away."""
    model = sweeps.model("gpt2")
    drawn = torch.randint(1, 90, (12, 2, 4), generator=torch.Generator().manual_seed(8)).tolist()
    pairs = Pairs(tuple(Pair([7, *one], [7, *other]) for one, other in drawn), "toy")
    where = grid("z", layer=..., head=..., position=[0])
    assert not quick(model, pairs, where)["beyond"].any()
    assert quick(model, pairs, where, source=Constant(0.0))["beyond"].all()


def test_on_a_real_model_zeroed_heads_are_flagged_and_symmetric_patches_are_not(loaded_smollm2: Model) -> None:
    """All 270 heads at the last token. 50% were flagged of zeroed ones when this was written with 64 pairs, L18H8 17-fold
    beyond its threshold; and of 270 × 64 symmetric patches 1.5% were beyond, where 1% was to be expected."""
    from interp.tasks import ioi

    pairs = ioi(32, seed=0, tokenizer=loaded_smollm2.tokenizer)
    where = grid("z", layer=..., head=..., position="END")
    patched, zeroed = (quick(loaded_smollm2, pairs, where, source=source) for source in (None, Constant(0.0)))
    assert not patched["flagged"].any()
    assert float(patched["beyond"].mean()) < 0.04
    assert 0.3 < float(zeroed["flagged"].mean()) < 0.8
    for head in ((0, 8), (1, 5), (18, 7), (18, 8)):
        cell = zeroed.sel(layer=head[0], head=head[1])
        assert bool(cell["flagged"])
        assert float(cell["distance"].mean()) > 5 * float(cell["threshold"])


# forms


def test_several_changes_are_each_described_and_the_farthest_counts() -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(11, [6] * 12)
    near, far = Change("L0H1.z", -1, Activation("base")), Change("L1.mlp_out", -1, Constant(50.0))
    found = quick(model, pairs, [Intervention((near, far)), Intervention((far,)), Intervention((near,))])
    both, one, other = (found.isel(cell=n) for n in range(3))
    for name in ("distance", "threshold", "norm_ratio"):
        np.testing.assert_array_equal(both[name], one[name])
        np.testing.assert_array_equal(both[f"{name}_of_change"].isel(change=1), one[name])
        np.testing.assert_array_equal(both[f"{name}_of_change"].isel(change=0), other[name])
        assert bool(one[f"{name}_of_change"].isel(change=1).isnull().all())
    assert both["changed"].values.tolist() == ["L0H1.z", "L1.mlp_out"]
    assert one["changed"].values.tolist() == ["L1.mlp_out", ""]
    assert found["flagged"].values.tolist() == [True, True, False]


def test_other_prompts_can_be_what_is_natural() -> None:
    model, pairs = sweeps.model("llama"), sweeps.random_pairs(12, [6] * 12)
    where = grid("resid_post", layer=..., position=[-1])
    own = quick(model, pairs, where, natural=pairs)
    xr.testing.assert_allclose(own, quick(model, pairs, where))
    assert own.attrs["natural_prompts"] == 24
    few = quick(
        model, sweeps.random_pairs(13, [6, 6]), where, natural=[pair.clean for pair in sweeps.random_pairs(14, [6] * 40)]
    )
    assert few.sizes["example"] == 2
    assert few.attrs["natural_prompts"] == 40
    assert few.attrs["natural"] == "other prompts"
    noisy = Change("embed", "subject", Noise(1.0), Add())
    assert quick(model, pairs, where, natural=pairs, corruption=noisy)["distance"].notnull().all()
    assert (
        off_distribution(model, sweeps.random_pairs(12, [6] * 16), where, corruption=noisy).attrs["natural"] == "clean prompts"
    )


@pytest.mark.parametrize("kind", ["t5", "mamba", "jamba", "mixtral", "vit", "bert"])
def test_other_architectures(kind: str, seed: int) -> None:
    """Their own values written back are natural and leave the last norm as it is, where there is one that is read."""
    model = anything.model(kind)
    pairs = anything.pairs(model, seed, 10)
    where = {name: name for name in ("resid_post", "mlp_out", "mixer_out") if model.each(Site(name))}
    found, other = (off_distribution(model, pairs, where, source=Activation("base"), patching=p) for p in PATCHING)
    assert len(where) > 1
    for one in (found[name].to_dataset() for name in where):
        there = one.isel(layer=np.flatnonzero(one["distance"].notnull().all("example")))
        assert not there["flagged"].any()
        assert there.sizes["layer"]
        if kind in ("vit", "bert"):
            assert one["scale_ratio"].isnull().all()
        else:
            np.testing.assert_allclose(there["scale_ratio"], 1, rtol=1e-4)
        side = other[str(one.attrs["site"])]["norm_ratio"].dropna("layer")
        np.testing.assert_allclose((there["norm_ratio"] + side).mean("example"), 2, rtol=1e-3)
    assert found[next(iter(where))].attrs.get("scale_note", "") == {
        "vit": "at which positions of ln_final_scale the logits of vit are read is not known",
        "bert": "bert has no ln_final_scale, the scale of a last norm",
    }.get(kind, "")


def test_figures_and_tables_name_what_they_show() -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(15, [6] * 8)
    found = off_distribution(model, pairs, grid("z", layer=..., head=..., position=[-1]), source=Constant(0.0))
    for name, title in (
        ("distance", "distance from natural activations"),
        ("scale_ratio", "last norm's scale over the base's"),
    ):
        figure = views.heatmap(found[name].mean("example", keep_attrs=True).squeeze())
        assert title in figure.layout.title.text
    assert found.attrs["method"] == "off_distribution"
    assert found.attrs["source"] == "Constant(0.0)"
    assert found["clean_prompt"].dims == ("example",)
    assert len(found[["distance", "norm_ratio"]].to_dataframe()) == 3 * 4 * 8


def test_what_is_refused() -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(16, [6] * 8)
    with pytest.raises(UnknownSiteError, match="attention scores and patterns are numbers by token"):
        off_distribution(model, pairs, grid("pattern", layer=..., head=...))
    with pytest.raises(ValueError, match=re.escape("quantile=1; expected a share between 0 and 1, such as 0.99")):
        off_distribution(model, pairs, "mlp_out", quantile=1)
    few = sweeps.random_pairs(17, [6] * 7)
    with pytest.raises(InputError, match=re.escape("pairs holds 14 natural prompts, 6 in the smaller half; a distribution is")):
        off_distribution(model, few, "mlp_out")
    with pytest.raises(InputError, match=re.escape("natural holds 4 natural prompts, 2 in the smaller half")):
        off_distribution(model, pairs, "mlp_out", natural=[pair.clean for pair in few][:4])


def test_one_site_alone_has_no_axes() -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(140, [6] * 16)
    alone = off_distribution(model, pairs, "L1H2.z", source=Constant(0.0))
    swept = off_distribution(model, pairs, grid("z", layer=[1], head=[2]), source=Constant(0.0))
    assert alone["distance"].dims == ("example",)
    np.testing.assert_allclose(alone["distance"], swept["distance"].squeeze(), rtol=1e-5)


def test_logits_disturb_nothing() -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(141, [6] * 16)
    with pytest.raises(UnknownSiteError, match="logits are what the model says, and nothing after them could be disturbed"):
        off_distribution(model, pairs, "logits", source=Constant(0.0))
