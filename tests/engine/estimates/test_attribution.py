"""Attribution and gradients against finite differences of exact patching, autograd through the raw module, and linear networks.

Tolerances are stated where they differ from the usual 1e-10 (float64) and 1e-5 (float32), relative to the largest value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch
import xarray as xr
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import interp
from interp import effects
from interp.engine import attribute, gradients, patch
from interp.engine.estimates import bundles
from interp.errors import GradientError, HeadOutOfRangeError, OrderError, UnknownSiteError
from interp.interventions import (
    Activation,
    Add,
    Apply,
    Change,
    Constant,
    Interpolate,
    Intervention,
    Noise,
    Replace,
    Scale,
    Subspace,
    mean,
    resample,
    zero,
)
from interp.models import Model, load
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import Grid, Site, grid
from interp.store.identity import run_id

exactly = partial(patch, strategy="batched")
KINDS = ("gpt2", "neox", "gemma2", "bloom", "zoo")


class Double(TorchFunctionMode):
    """Everything in float64: models compute softmax, norms and rotary phases in float32 whatever their weights are.

    Finite differences need it: rounding of 6e-8 over a step of 1e-5 would leave three digits.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if args and isinstance(args[0], Tensor) and args[0].dtype == torch.float64:
            if func is torch.Tensor.float:
                return args[0]
            args = tuple(torch.float64 if arg is torch.float32 else arg for arg in args)
            kwargs = {key: torch.float64 if value is torch.float32 else value for key, value in kwargs.items()}
        return func(*args, **kwargs)


@pytest.fixture
def double() -> Iterator[None]:
    with Double():
        yield


def third(logits: Tensor) -> Tensor:
    """Linear in the logits."""
    return logits[..., 3] - 2 * logits[..., 5]


def nothing(logits: Tensor) -> Tensor:
    return logits[..., 0] * float("nan")


def moved(ds: xr.Dataset) -> np.ndarray[Any, Any]:
    return effects.effect(ds).values


def grids(model: Model) -> dict[str, Grid]:
    """Every site of a model: every layer and head, two positions of the streams, three units."""
    found = {}
    for name in dict.fromkeys(site.name for site in model.sites()):
        swept: dict[str, Any] = {"layer": ...} if Site(name).component.per_layer else {}
        swept |= {"head": ...} if "head" in Site(name).component.selectable else {}
        swept |= {"unit": [0, 7, 55]} if "unit" in Site(name).component.selectable else {}
        found[name] = grid(name, position=[1, -1] if len(swept) < 2 else None, **swept)
    return found


def slope(where: Any, run: Callable[[float], xr.Dataset | xr.DataTree], eps: float) -> dict[str, np.ndarray[Any, Any]]:
    """Central differences of exact patching."""
    up, down = run(eps), run(-eps)
    return {name: (up[name]["value"] - down[name]["value"]).values / (2 * eps) for name in where}


@pytest.mark.parametrize("kind", KINDS)
def test_against_finite_differences_of_patching_at_every_site(kind: str, double: None, seed: int) -> None:
    """value(ε) − base → ε × attribution, where ε interpolates to the source. What is left is ε² and 1e-14 / ε."""
    model = sweeps.model(kind, torch.float64)
    pairs = sweeps.random_pairs(seed, [5, 5], early=True)
    where = grids(model)
    estimated = attribute(model, pairs, where, ["logit_diff", "kl"])
    expected = slope(where, lambda e: exactly(model, pairs, where, ["logit_diff", "kl"], edit=Interpolate(e)), 1e-5)
    seen = 0
    for name in where:
        found = moved(estimated[name].to_dataset())
        np.testing.assert_allclose(found, expected[name], rtol=0, atol=1e-5 * (1 + abs(found).max()), err_msg=name)
        assert (abs(found).max() > 1e-3) == (name != "pos_embed"), "two prompts of one length have the same positions"
        seen += 1
    assert seen == len({site.name for site in model.sites()})


@pytest.mark.parametrize("kind", ["gpt2", "zoo"])
def test_position_embeddings_against_finite_differences(kind: str, double: None, seed: int) -> None:
    model, pairs = sweeps.model(kind, torch.float64), sweeps.random_pairs(seed, [5, 5])
    where = {"pos_embed": grid("pos_embed", position=...)}
    found = moved(attribute(model, pairs, where, edit=Add(), source=Noise(1.0))["pos_embed"].to_dataset())
    expected = slope(where, lambda e: exactly(model, pairs, where, edit=Add(e), source=Noise(1.0)), 1e-5)["pos_embed"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * (1 + abs(found).max()))
    assert abs(found).max() > 1e-3


def test_what_is_given_is_in_force_where_slopes_are_taken(double: None, seed: int) -> None:
    model, pairs = sweeps.model("gpt2", torch.float64), sweeps.random_pairs(seed, [5, 5, 6])
    given = Intervention.of("L1.z", source=Constant(0.3), edit=Interpolate(0.8))
    given &= Intervention.of("L0H1.v@-1", "L1.mlp_out", edit=Scale(0.5))
    where = {"z": grid("z", layer=[0, 1, 2], head=...), "v": grid("v", layer=[0], head=...)}
    estimated = attribute(model, pairs, where, given=given)
    expected = slope(where, lambda e: exactly(model, pairs, where, given=given, edit=Interpolate(e)), 1e-5)
    exact = exactly(model, pairs, where, given=given)
    for name in where:
        found = moved(estimated[name].to_dataset())
        np.testing.assert_allclose(found, expected[name], rtol=0, atol=1e-5 * (1 + abs(found).max()), err_msg=name)
        for variable in ("given", "clean", "corrupt", "by_rule"):
            np.testing.assert_allclose(estimated[name][variable], exact[name][variable], rtol=0, atol=1e-10)
    up, down = (
        exactly(model, pairs, Intervention.of("L1H0.z", "L1H3.z", "L0H1.v", edit=Interpolate(e)), given=given)["value"]
        for e in (1e-5, -1e-5)
    )
    several = attribute(model, pairs, Intervention.of("L1H0.z", "L1H3.z", "L0H1.v"), given=given)
    np.testing.assert_allclose(moved(several), (up - down) / 2e-5, rtol=0, atol=1e-5 * (1 + abs(moved(several)).max()))
    without = attribute(model, pairs, where)["z"]["value"]
    assert float(abs(without - estimated["z"]["value"]).max()) > 1e-2


# ------------------------------------------------------------------------------------------------ linear networks


class Linear(nn.Module):
    """Two linear maps of each token: first-order estimates are exact."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hidden, self.out = nn.Embedding(97, 8), nn.Linear(8, 6), nn.Linear(6, 97)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.out(self.hidden(self.embed(input_ids)))


def linear(seed: int) -> Model:
    torch.manual_seed(seed)
    return load(Linear().double())


def test_exact_where_the_metric_is_linear(seed: int) -> None:
    """By hand: restoring one hidden unit moves the metric by its weight times the difference of the two prompts."""
    model, pairs = linear(seed), sweeps.random_pairs(seed, [4, 5, 6])
    where = grid("hidden:output", unit=list(range(6)), position=[-1])
    found = attribute(model, pairs, where, third)
    net: Any = model.module
    for i, pair in enumerate(pairs):
        clean, corrupted = (net.hidden(net.embed.weight[prompt.text[-1]]) for prompt in (pair.clean, pair.corrupted))
        expected = (net.out.weight[3] - 2 * net.out.weight[5]) * (clean - corrupted)
        np.testing.assert_allclose(moved(found)[0, 0, :, i], expected.detach(), atol=1e-12)
    np.testing.assert_allclose(found["value"], exactly(model, pairs, where, third)["value"], atol=1e-12)


def test_several_changes_add_up(seed: int) -> None:
    """In a linear network the sum is what patching gives, for changes of two tensors and of one."""
    model, pairs = linear(seed), sweeps.random_pairs(seed, [4, 5])
    steer = Intervention.of("embed:output@-1", source=Constant(torch.arange(8.0)), edit=Add(0.5))
    shift = Intervention.of("hidden:output@-1", source=Constant(1.5), edit=Add())
    unit = Intervention.of("hidden:output[2]@-1", edit=Interpolate(0.25))
    where = [steer, shift, unit, steer & shift, shift.then(unit), unit.then(shift), steer & shift.then(unit)]
    found = attribute(model, pairs, where, third)
    exact = exactly(model, pairs, where, third)
    np.testing.assert_allclose(found["value"].isel(cell=slice(0, 6)), exact["value"].isel(cell=slice(0, 6)), atol=1e-12)
    np.testing.assert_allclose(moved(found)[:, 3], moved(found)[:, :2].sum(1), atol=1e-12)
    # The unit's interpolation acts on what steering changed, which first order does not see: 0.75 of it remains.
    np.testing.assert_allclose(moved(found)[:, 6], moved(found)[:, 0] + moved(found)[:, 4], atol=1e-12)
    assert not np.allclose(moved(found)[:, 4], moved(found)[:, 5], atol=1e-3), "their order matters"


# ---------------------------------------------------------------------------------------- raw autograd, and parity


RAW = {  # site: module whose output (or input) it is, and the columns of it
    "gpt2": {
        "resid_pre": ("transformer.h.1", "input", slice(None)),
        "resid_post": ("transformer.h.1", "output", slice(None)),
        "attn_out": ("transformer.h.1.attn", "output", slice(None)),
        "mlp_out": ("transformer.h.1.mlp", "output", slice(None)),
        "q": ("transformer.h.1.attn.c_attn", "output", slice(0, 32)),
        "v": ("transformer.h.1.attn.c_attn", "output", slice(64, 96)),
        "z": ("transformer.h.1.attn.c_proj", "input", slice(None)),
        "mlp_pre": ("transformer.h.1.mlp.c_fc", "output", slice(None)),
        "mlp_post": ("transformer.h.1.mlp.c_proj", "input", slice(None)),
    },
    "llama": {
        "resid_post": ("model.layers.1", "output", slice(None)),
        "attn_out": ("model.layers.1.self_attn.o_proj", "output", slice(None)),
        "k": ("model.layers.1.self_attn.k_proj", "output", slice(None)),
        "v": ("model.layers.1.self_attn.v_proj", "output", slice(None)),
        "z": ("model.layers.1.self_attn.o_proj", "input", slice(None)),
        "mlp_up": ("model.layers.1.mlp.up_proj", "output", slice(None)),
        "mlp_post": ("model.layers.1.mlp.down_proj", "input", slice(None)),
    },
}


def raw_gradient(module: nn.Module, path: str, side: str, ids: list[int], answers: Any, wrong: Any) -> Tensor:
    """Gradient of the logit difference of one unpadded prompt, ``[position, width]``, by an offset that a plain hook adds."""
    offsets: list[Tensor] = []

    def shifted(h: Tensor) -> Tensor:
        offsets.append(torch.zeros_like(h, requires_grad=True))
        return h + offsets[0]

    handle = sweeps._hook(module.get_submodule(path), side, shifted)
    with torch.enable_grad():
        logits = module(torch.tensor([ids])).logits[0, -1]
        (found,) = torch.autograd.grad(logits[list(answers)].max() - logits[list(wrong)].max(), offsets)
    handle.remove()
    return found[0]


@pytest.mark.parametrize("side", ["clean", "corrupted"])
@pytest.mark.parametrize("kind", sorted(RAW))
def test_gradients_are_those_of_autograd_through_the_raw_module(kind: str, side: Any, seed: int) -> None:
    """Prompts of different lengths, so that what the engine runs is padded and the reference is not."""
    model, pairs = sweeps.model(kind), sweeps.random_pairs(seed, [4, 7, 5])
    encoded = model.encode(pairs)
    sites = [Site(name, layer=1) for name in RAW[kind]]
    found = gradients(model, encoded, sites, side=side)
    for site in sites:
        path, end, columns = RAW[kind][site.name]
        for i, pair in enumerate(pairs):
            ids = list(getattr(pair, side).text)
            expected = raw_gradient(model.module, path, end, ids, pair.answers, pair.wrong)[..., columns]
            own = found.gradient[site][i].flatten(1)
            close = {"rtol": 0, "atol": 1e-5 * (1 + float(expected.abs().max()))}
            torch.testing.assert_close(own[-len(ids) :], expected, msg=lambda m, s=site: f"{s!r}: {m}", **close)
            assert not own[: -len(ids)].any(), "padding does not matter"
            seen = sweeps.record(model.module, path, ids, end)[0][..., columns]
            torch.testing.assert_close(found.activation[site][i].flatten(1)[-len(ids) :], seen, rtol=0, atol=1e-4)
    exact = exactly(model, pairs, grid("L1.z"))["clean" if side == "clean" else "corrupt"][0]
    np.testing.assert_allclose(found.value, exact, atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox"])
@pytest.mark.parametrize("patching", ["denoising", "noising"])
def test_heads_add_up_to_what_attention_gives(kind: str, patching: Any, seed: int) -> None:
    """The output of attention is linear in z and in result, and the gradient goes back through W_O."""
    model, pairs = sweeps.model(kind), sweeps.random_pairs(seed, [5, 5, 5])
    where = {name: grid(name, layer=..., head=...) for name in ("z", "result")} | {"attn_out": grid("attn_out", layer=...)}
    found = attribute(model, pairs, where, patching=patching)
    whole = moved(found["attn_out"].to_dataset())
    for name in ("z", "result"):
        np.testing.assert_allclose(moved(found[name].to_dataset()).sum(2), whole, atol=1e-5 * (1 + abs(whole).max()))
    units = attribute(model, pairs, {"post": grid("mlp_post", layer=..., unit=...), "out": grid("mlp_out", layer=...)})
    whole = moved(units["out"].to_dataset())
    np.testing.assert_allclose(moved(units["post"].to_dataset()).sum(2), whole, atol=1e-5 * (1 + abs(whole).max()))


# ------------------------------------------------------------------------------- any source, edit and basis


def written(seed: int) -> list[tuple[Any, ...]]:
    """Source, edit, rank of a subspace and keep_error."""
    other = sweeps.model("gpt2", torch.float64, seed=1)
    return [
        (Activation(), Replace(), None, True),
        (Activation(), Interpolate(0.4), None, True),
        (Activation(), Replace(), 2, True),
        (Activation(), Replace(), 2, False),
        (Activation(layer=0), Interpolate(0.3), None, True),
        (Activation(positions=-1), Replace(), 3, True),
        (Activation((7, 1, 4, 4), positions=-2), Add(0.5), None, True),
        (Activation("base"), Scale(0.2), None, True),
        (Activation(model=other), Replace(), None, True),
        (mean(over=("example", "position")), Replace(), None, True),
        (mean("base", by="template"), Replace(), None, True),
        (resample(seed), Replace(), None, True),
        (zero(), Replace(), None, True),
        (Constant(1.5), Apply(lambda h, s: h + (s - h).tanh() * h.norm(dim=-1, keepdim=True)), None, True),
        (Noise(0.5, 3), Add(), None, True),
    ]


@cache
def subspace(width: int, rank: int, seed: int) -> Subspace:
    """One object for all that use it, as in a grid."""
    square = torch.randn(width, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Subspace(torch.linalg.qr(square).Q[:, :rank])


SITES = ("L1H2.z", "L2H1.result", "L1H3.q", "L2.resid_mid", "L1.z", "L1.mlp_post[7]", "L0.attn_out")


@pytest.mark.parametrize("positions", ["all", -1, "subject[-1]"])
def test_every_source_edit_and_basis_is_what_a_sweep_writes(positions: Any, seed: int) -> None:
    """Cells of one change are estimated in bundles, cells of several by the writes of a sweep: beside a change that changes
    nothing, elsewhere, the numbers are the same.
    """
    model, pairs = sweeps.model("gpt2", torch.float64), sweeps.random_pairs(seed, [6, 6, 6], early=True)
    nothing = Change("L0.resid_pre", edit=Scale(1.0))
    patterns = (Replace(), Scale(0.5), Interpolate(0.3))
    single = [Change("L2H1.pattern", positions, edit=edit) for edit in patterns]
    for source, edit, rank, keep_error in written(seed):
        for site in map(Site.parse, SITES):
            options = {}
            if rank is not None:
                width = 1 if site.unit is not None else model.anatomy.size(site, site.axes[-1])
                options = {"featurizer": subspace(width, rank, seed), "keep_error": keep_error}
            single.append(Change(site, positions, source, edit, **options))
    alone = attribute(model, pairs, single, ["logit_diff", third], patching="noising")
    beside = attribute(model, pairs, [Intervention((c, nothing)) for c in single], ["logit_diff", third], patching="noising")
    top = abs(moved(alone)).max()
    np.testing.assert_allclose(moved(alone), np.where(alone["by_rule"], 0, moved(beside)), rtol=0, atol=1e-10 * (1 + top))
    assert (abs(moved(alone)).max((0, 2)) > 1e-6).mean() > 0.5


def test_bundles_of_many_units_are_those_units_one_by_one(seed: int) -> None:
    model, pairs = sweeps.model("llama", torch.float64), sweeps.random_pairs(seed, [5, 4, 6])
    edit = Apply(lambda h, s: h + (s - h) * (1 + h.square().sum(-1, keepdim=True)))  # not the same for two units at once
    for name, axis, n in (("mlp_post", "unit", tiny.MLP), ("k", "head", tiny.KV_HEADS)):
        for position in (["subject", -1], None):
            where = grid(name, layer=[1, 2], position=position, **{axis: ...})
            together = attribute(model, pairs, where, edit=edit)
            for i in (0, n - 1):
                only = grid(name, layer=[1, 2], position=position, **{axis: [i]})
                np.testing.assert_allclose(
                    together["value"].sel({axis: [i]}), attribute(model, pairs, only, edit=edit)["value"], rtol=0, atol=1e-10
                )
            if position is None:
                changes = [Change(Site(name, layer=2, **{axis: i}), edit=edit) for i in range(n)]
                listed = attribute(model, pairs, changes)["value"]
                # Each change has the edit by identity of its function: bundled; each with its own, one by one.
                np.testing.assert_allclose(listed, attribute(model, pairs, [_own(c) for c in changes])["value"], atol=1e-10)
                np.testing.assert_allclose(listed, together["value"].sel(layer=2), rtol=0, atol=1e-10)


def _own(change: Change) -> Change:
    inner = change.edit
    return Change(change.site, change.positions, change.source, Apply(lambda h, s: inner(h, s)))


def test_bundles_that_do_not_fit_are_cut(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    model, pairs = sweeps.model("gpt2", torch.float64), sweeps.random_pairs(seed, [5, 4, 6])
    where = {"z": grid("z", layer=..., head=...), "out": grid("mlp_out", layer=..., position=["subject", -1])}
    expected = attribute(model, pairs, where, ["logit_diff", third])
    monkeypatch.setattr(bundles, "_NUMBERS", 10)
    found = attribute(model, pairs, where, ["logit_diff", third])
    for name in where:
        np.testing.assert_allclose(found[name]["value"], expected[name]["value"], rtol=0, atol=1e-12)


class Masked(nn.Module):
    """A softmax over scores of which two are masked with −∞."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.scores, self.out = nn.Embedding(97, 8), nn.Identity(), nn.Linear(8, 97)

    def forward(self, input_ids: Tensor) -> Tensor:
        mask = torch.arange(8) < 2
        return self.out(self.scores(self.embed(input_ids).masked_fill(mask, -torch.inf)).softmax(-1))


def test_what_is_masked_in_both_prompts_moves_nothing(pairs: Pairs, seed: int) -> None:
    """−∞ − (−∞) is no number; as nothing is written there, nothing moves. The rest is the sum over single units."""
    torch.manual_seed(seed)
    model = load(Masked().double())
    whole = attribute(model, pairs, grid("scores:output", position=-1))
    units = attribute(model, pairs, grid("scores:output", position=-1, unit=list(range(8))))
    assert (moved(units)[0, :2] == 0).all()
    np.testing.assert_allclose(moved(whole)[0], moved(units)[0].sum(0), atol=1e-12)
    assert abs(moved(whole)).max() > 1e-6
    for kind in ("zoo", "gpt2", "bloom"):  # these mask with the least number
        assert attribute(sweeps.model(kind), pairs, grid("scores", layer=..., head=...))["value"].notnull().all()


# --------------------------------------------------------------------------------------------- the surface


@pytest.fixture
def pairs(seed: int) -> Pairs:
    return sweeps.random_pairs(seed, [5, 5, 5, 5])


def test_rows_by_rule_are_the_base_to_the_bit(pairs: Pairs) -> None:
    model, where = sweeps.model("gpt2"), grid("resid_post", layer=..., position=...)
    for patching in ("denoising", "noising"):
        found = attribute(model, pairs, where, patching=patching)
        exact = exactly(model, pairs, where, patching=patching)
        by_rule = found["by_rule"].values
        assert (by_rule == exact["by_rule"].values).all()
        assert by_rule.any()
        assert (moved(found)[0][by_rule] == 0).all()
        assert (moved(found)[0][~by_rule] != 0).any()
        assert found.attrs["rows_by_rule"] == by_rule.sum() == exact.attrs["rows_by_rule"]
        run = attribute(model, pairs, where, patching=patching, skip_inert=False)
        assert not run["by_rule"].any()
        assert abs(moved(run)[0][by_rule]).max() <= 1e-5 * (1 + abs(moved(run)).max())
        np.testing.assert_allclose(moved(run)[0][~by_rule], moved(found)[0][~by_rule], atol=1e-5)


def test_the_rule_holds_whatever_the_runs_give(seed: int) -> None:
    """Runs that differ by more than rounding where they should not: what is known by rule is not estimated."""
    corrupted = [(1, 9, 3, 4, 5), (1, 2, 3, 9, 5)]  # some cells are known by rule in one of the two alone
    pairs = Pairs(tuple(Pair(Prompt((1, 2, 3, 4, 5)), Prompt(ids), (3,), (4,)) for ids in corrupted))
    module = tiny.gpt2(seed)
    model, where = load(module), grid("resid_post", layer=..., position=...)
    module.transformer.h[0].register_forward_hook(lambda m, a, o: o if torch.is_grad_enabled() else 1.5 * o)
    found = attribute(model, pairs, where)
    by_rule = found["by_rule"].values
    assert (by_rule.any(-1) & ~by_rule.all(-1)).any()
    assert (moved(found)[0][by_rule] == 0).all()
    assert (abs(moved(attribute(model, pairs, where, skip_inert=False))[0][by_rule]) > 1e-3).any()


def test_the_same_dataset_as_patching(pairs: Pairs) -> None:
    model, where = (
        sweeps.model("neox"),
        {"z": grid("z", layer=..., head=[0, 2]), "mid": grid("mlp_out", layer=[0, 2], position=...)},
    )
    found, exact = (run(model, pairs, where, ["logit_diff", "prob"]) for run in (attribute, exactly))
    for name in where:
        one, other = found[name].to_dataset(), exact[name].to_dataset()
        effects.validate(one)
        assert one["value"].dims == other["value"].dims
        assert set(one.variables) == set(other.variables)
        for coordinate in other.coords:
            assert one[coordinate].equals(other[coordinate])
        for variable in ("clean", "corrupt"):
            np.testing.assert_allclose(one[variable], other[variable], atol=1e-5)
        assert (one.attrs["method"], one.attrs["strategy"]) == ("attribute", "attribution")
        assert one.attrs["estimate"] == "first order"
        assert one.attrs["noise_floor"] == {"logit_diff": 0.0, "prob": 0.0}
        same = ("model_digest", "pairs_digest", "patching", "site", "source", "edit", "positions", "given", "dtype")
        assert all(one.attrs[key] == other.attrs[key] for key in same)
        own, theirs = ({k: v for k, v in ds.attrs["spec"].items() if k != "estimate"} for ds in (one, other))
        assert own == theirs
        assert run_id(one.attrs["spec"], 1) != run_id(other.attrs["spec"], 1), "a store keeps both"
    listed = attribute(model, pairs, [Intervention.of("L1.z"), Change("L2H1.q")])
    assert listed["value"].dims == ("metric", "cell", "example")
    assert interp.attribute is attribute


def test_sites_that_some_layers_lack_are_absent(pairs: Pairs) -> None:
    one = attribute(sweeps.model("gpt2"), pairs, grid("mlp_out", layer=...))
    assert "absent" not in one
    assert one["value"].notnull().all()


@pytest.mark.parametrize("patching", ["denoising", "noising"])
def test_batches_give_the_numbers_of_one_pass(patching: Any, pairs: Pairs) -> None:
    model, where = sweeps.model("gpt2", torch.float64), grid("z", layer=..., head=..., position=["subject", "end"])
    every = attribute(model, pairs, where, ["logit_diff", "logprob"], patching=patching)
    assert every.attrs["passes"] == 1
    for rows, passes in ((1, 4), (3, 2)):
        some = attribute(model, pairs, where, ["logit_diff", "logprob"], patching=patching, rows=rows)
        assert some.attrs["passes"] == passes
        np.testing.assert_allclose(some["value"], every["value"], atol=1e-10)
    encoded = model.encode(pairs)
    one, several = gradients(model, encoded, ["L1.z", "L0.q"]), gradients(model, encoded, ["L1.z", "L0.q"], rows=3)
    for site, gradient in one.gradient.items():
        torch.testing.assert_close(several.gradient[site], gradient, rtol=0, atol=1e-10)
        torch.testing.assert_close(several.activation[site], one.activation[site], rtol=0, atol=1e-10)


@pytest.mark.parametrize("backward", [False, True])
def test_out_of_memory_halves_the_batch(backward: bool, pairs: Pairs, seed: int) -> None:
    model, where = load(tiny.gpt2(seed)), grid("z", layer=..., head=...)
    expected = attribute(model, pairs, where)
    sizes: list[int] = []

    def narrow(module: nn.Module, _: Any, tensors: Any) -> None:
        if torch.is_grad_enabled() or backward:
            sizes.append(len(tensors[0] if backward else tensors))
            if sizes[-1] > 1:
                raise torch.OutOfMemoryError("pretended")

    part: Any = model.module.transformer.h[2].mlp  # type: ignore[union-attr]
    handle = (part.register_full_backward_hook if backward else part.register_forward_hook)(narrow)
    found = attribute(model, pairs, where)
    handle.remove()
    assert sizes == [4, 2, 1, 1, 1, 1]
    assert (found.attrs["out_of_memory"], expected.attrs["out_of_memory"]) == (2, 0)
    np.testing.assert_allclose(found["value"], expected["value"], atol=1e-5)


def test_one_forward_and_one_backward_pass_for_all_grids(pairs: Pairs, seed: int) -> None:
    """Two forwards, of the base and the source, whatever is swept; one backward a metric."""
    module = tiny.gpt2(seed)
    forwards, backwards = [], []
    module.transformer.h[1].register_forward_hook(lambda *a: forwards.append(1))
    module.transformer.h[1].register_full_backward_hook(lambda *a: backwards.append(1))
    model = load(module)
    forwards.clear()
    backwards.clear()
    where = {"z": grid("z", layer=..., head=...), "resid": grid("resid_pre", layer=..., position=...), "q": grid("L0.q")}
    attribute(model, pairs, where, "logit_diff")
    assert (len(forwards), len(backwards)) == (2, 1)
    attribute(model, pairs, where, ["logit_diff", "kl", "prob"])
    assert (len(forwards), len(backwards)) == (4, 4)
    attribute(model, pairs, where, edit=Scale(0.5))
    assert (len(forwards), len(backwards)) == (6, 5)
    gradients(model, model.encode(pairs), ["L0.resid_pre", "L2.z"])
    assert (len(forwards), len(backwards)) == (7, 6)


class BrokenError(Exception):
    pass


def test_the_module_is_left_as_it_was(pairs: Pairs, seed: int) -> None:
    module = tiny.llama(seed)
    frozen = {name for name, _ in module.named_parameters() if "layers.1" in name}
    kept = torch.ones(())
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in frozen)
    first = next(module.parameters())
    first.grad = torch.full_like(first, 2.0)
    kept = first.grad
    model = load(module.train())
    precision = torch.get_float32_matmul_precision()

    def fail(logits: Tensor) -> Tensor:
        raise BrokenError

    for metric in ("logit_diff", fail):
        for run in (
            lambda: attribute(model, pairs, grid("pattern", layer=..., head=...), metric),  # noqa: B023
            lambda: gradients(model, model.encode(pairs), ["L1.scores", "L0.resid_mid"], metric),  # noqa: B023
        ):
            if metric is fail:
                with pytest.raises(BrokenError):
                    run()
            else:
                run()
            assert {n for n, p in module.named_parameters() if not p.requires_grad} == frozen
            assert first.grad is kept
            assert bool((kept == 2).all())
            assert all(p.grad is None for p in module.parameters() if p is not first)
            assert module.training
            assert all(m.training for m in module.modules())
            assert module.config._attn_implementation == "sdpa"
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
            assert torch.get_float32_matmul_precision() == precision
            assert torch.is_grad_enabled()


def test_full_precision_and_evaluation_mode_inside(pairs: Pairs, seed: int) -> None:
    module, seen = tiny.gpt2(seed).train(), set()
    model = load(module)
    module.transformer.h[1].register_forward_hook(
        lambda m, a, o: seen.add((torch.get_float32_matmul_precision(), m.training, m.attn.c_attn.weight.requires_grad))
    )
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        attribute(model, pairs, grid("L0.z"))
        gradients(model, model.encode(pairs), ["L0.z"])
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == {("highest", False, False)}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_around_it(mode: Any, pairs: Pairs) -> None:
    model, where = sweeps.model("gpt2"), grid("z", layer=..., head=...)
    expected = attribute(model, pairs, where)
    with mode():
        found = attribute(model, pairs, where)
        assert not torch.is_grad_enabled()
    np.testing.assert_array_equal(found["value"], expected["value"])


def test_half_precision_is_measured_in_float32(pairs: Pairs, seed: int) -> None:
    """The estimates of the same weights in float32, but for what the three digits of bfloat16 make of a few gradients."""
    module, where = tiny.llama(seed).to(torch.bfloat16), grid("z", layer=..., head=...)
    half = attribute(load(module), pairs, where, "logprob")  # smooth: the best of two answers may be the other one in bfloat16
    full = attribute(load(module.float()), pairs, where, "logprob")
    assert half["value"].dtype == np.float32
    apart = abs(moved(half) - moved(full)) / abs(moved(full)).max()
    assert np.median(apart) < 0.02
    assert (apart < 0.1).mean() > 0.9


def test_a_metric_without_slope_on_the_clean_run_says_so(pairs: Pairs) -> None:
    model = sweeps.model("gpt2")
    with pytest.warns(RuntimeWarning, match="metric 'kl' compares with the clean run, which is the base here"):
        attribute(model, pairs, grid("z", layer=..., head=...), ["logit_diff", "kl"], patching="noising")
    assert abs(moved(attribute(model, pairs, grid("z", layer=..., head=...), "kl"))).max() > 1e-3
    assert not moved(attribute(model, pairs, grid("z", layer=..., head=...), "kl", edit=Scale(1.0))).any()


# ----------------------------------------------------------------------------------------------- errors


class Forks(nn.Module):
    """A path that is cut, one that leads nowhere, one of counts, one without a row an example."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cut, self.aside, self.out = nn.Embedding(97, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 97)
        self.counts, self.shared = nn.Identity(), nn.Identity()

    def forward(self, input_ids: Tensor) -> Tensor:
        h = self.embed(input_ids)
        self.aside(h)
        self.counts(input_ids)
        return self.out(h + self.cut(h).detach() + self.shared(torch.ones(1, h.shape[1], 8)))


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ("cut:output", "cut:output: no gradient, because no differentiable operation leads from there to the logits of Forks"),
        ("aside:output", "aside:output: no gradient, because no differentiable operation leads from there"),
        ("counts:output", "counts:output: no gradient, because its tensor holds int64"),
        ("shared:output", r"shared:output: no gradient of its own .* shape \(1, 5, 8\), and 4 examples were run"),
    ],
)
def test_a_site_that_cannot_be_differentiated_is_named(site: str, message: str, pairs: Pairs) -> None:
    model = load(Forks())
    with pytest.raises(GradientError, match=message):
        gradients(model, model.encode(pairs), ["embed:output", site])
    if site in ("cut:output", "aside:output"):
        with pytest.raises(GradientError, match=message):
            attribute(model, pairs, grid(site, position=[-1]))


class Detached(Linear):
    def forward(self, input_ids: Tensor) -> Tensor:
        return super().forward(input_ids).detach()


class Overwrites(Linear):
    """Changes in place what its own backward pass needs."""

    def forward(self, input_ids: Tensor) -> Tensor:
        h = self.hidden(self.embed(input_ids)).sigmoid()
        out = self.out(h)
        h += 1
        return out


def test_models_and_metrics_without_gradient_are_named(pairs: Pairs) -> None:
    with pytest.raises(GradientError, match=r"hidden:output: no gradient, because no differentiable operation .* of Detached"):
        attribute(load(Detached()), pairs, grid("hidden:output"))
    with pytest.raises(GradientError, match=r"backward pass from 'logit_diff' to hidden:output failed: .*inplace"):
        attribute(load(Overwrites()), pairs, grid("hidden:output"))
    for metric in ("accuracy", "rank", "top1"):
        with pytest.raises(GradientError, match=f"metric '{metric}' has no gradient, because it counts or compares"):
            attribute(sweeps.model("gpt2"), pairs, grid("L1.z"), ["logit_diff", metric])


def test_mistakes_are_named(pairs: Pairs) -> None:
    model = sweeps.model("gpt2")
    encoded = model.encode(pairs)
    with pytest.raises(UnknownSiteError, match=r"'L1H2.z': a gradient is of the whole tensor"):
        gradients(model, encoded, ["L1H2.z"])
    with pytest.raises(UnknownSiteError, match="it does not say which layer"):
        gradients(model, encoded, ["z"])
    with pytest.raises(ValueError, match="sites is empty"):
        gradients(model, encoded, [])
    with pytest.raises(ValueError, match="rows=0"):
        gradients(model, encoded, ["L1.z"], rows=0)
    with pytest.raises(HeadOutOfRangeError, match="layer 3"):
        gradients(model, encoded, ["L3.z"])
    with pytest.raises(ValueError, match="metric 'nothing' is nan on the clean prompt of example 0"):
        attribute(model, pairs, grid("L1.z"), nothing)
    with pytest.raises(OrderError, match="do not commute"):
        attribute(model, pairs, Intervention.of("L1.z") & Intervention.of("L1H0.z", edit=Scale(0.5)))
    with pytest.raises(HeadOutOfRangeError, match="unit 99"):
        attribute(load(Linear()), pairs, grid("hidden:output", unit=[0, 99]))
