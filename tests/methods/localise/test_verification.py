"""Verification against patching everything, and the bound of random subsets against known effects."""

from __future__ import annotations

from typing import Any

import nets_localise_attribution as nets
import numpy as np
import pytest
import sweeps
import torch
import xarray as xr

import interp
from interp import effects, stats
from interp.effects import curves
from interp.engine import attribute, patch
from interp.errors import InputError, ShapeMismatchError
from interp.interventions import Intervention
from interp.methods.localise.atp_star import atp_star
from interp.methods.localise.integrated_gradients import integrated_gradients
from interp.methods.localise.subset_bound import subset_bound
from interp.methods.localise.verification import verify
from interp.sites import grid
from interp.store import Store


def moved(ds: xr.Dataset) -> np.ndarray[Any, Any]:
    return effects.effect(ds).values


@pytest.mark.parametrize("patching", ["denoising", "noising"])
def test_all_cells_are_those_of_a_sweep(patching: Any, seed: int) -> None:
    """Correlations, signs and ranks of the full comparison, by numpy from an estimate and a sweep of everything."""
    model, pairs = sweeps.model("gpt2", torch.float64), sweeps.random_pairs(seed, [6, 6, 6, 6], early=True)
    where = grid("z", head=..., position=["subject", -1])
    exact = patch(model, pairs, where, patching=patching)
    for method in (attribute, integrated_gradients):
        estimated = method(model, pairs, where, patching=patching)
        found = verify(model, pairs, where, estimated, top="all")
        np.testing.assert_allclose(found.exact["value"], exact["value"], rtol=0, atol=1e-10)
        rule = exact["by_rule"].all("example").values.ravel()
        e, x = (effects.effect(one).isel(metric=0).mean("example").values.ravel()[~rule] for one in (estimated, exact))
        assert (found.cells, found.fraction, found.others.n, found.top) == (len(e), 1.0, 0, len(e))
        assert found.verified.pearson == pytest.approx(np.corrcoef(e, x)[0, 1])
        assert found.verified.spearman == pytest.approx(np.corrcoef(curves.ranks(e), curves.ranks(x))[0, 1])
        low, high = found.verified.pearson_interval
        assert low < found.verified.pearson < high
        np.testing.assert_allclose(found.table["exact"].abs(), np.sort(abs(x))[::-1])
        assert not found.table["missed"].any()
        assert repr(found).startswith(f"all {len(e)} cells verified exactly\n  all of them   Pearson ")


def test_the_first_and_a_sample_are_verified_and_what_is_missed_is_named(seed: int) -> None:
    """By the whole sweep: the first K are the estimate's, the others a sample; a miss is in the K largest of what is known."""
    model, pairs = sweeps.model("llama"), sweeps.random_pairs(seed, [6] * 6, early=True)
    where = grid("v", head=..., position=[1, 2, 3, -1])
    estimated, whole = attribute(model, pairs, where, "logprob"), patch(model, pairs, where, "logprob")
    sizes = abs(effects.effect(estimated).isel(metric=0).mean("example").values.ravel())
    exact = effects.effect(whole).isel(metric=0).mean("example").values.ravel()
    found = verify(model, pairs, where, estimated, top=5, sample=8, seed=seed)
    names = [
        effects.cell_name({"layer": a, "head": b, "position": c}) for a in range(3) for b in range(2) for c in (1, 2, 3, -1)
    ]
    table = found.table.set_index("cell")
    first = {names[i] for i in np.argsort(-sizes)[:5]}
    assert set(table.index[table["chosen"] == "top"]) == first
    assert (table["chosen"] == "sample").sum() == found.others.n == 8
    assert len(found.table) == 13
    for name, row in table.iterrows():
        assert row["exact"] == pytest.approx(exact[names.index(str(name))], abs=1e-4)
    largest = set(table["exact"].abs().nlargest(5).index)
    assert set(found.missed["cell"]) == largest - first
    rate = found.miss_rate
    assert float(rate.mean) == len(found.missed) / 8
    assert rate.low <= rate.mean <= rate.high
    assert f"the 5 of largest estimate, and 8 of the other {found.cells - 5} at random" in repr(found)
    known = found.exact["value"].notnull().isel(metric=0).all("example")
    assert int((known & ~found.exact["by_rule"].all("example")).sum()) == 13
    assert "absent" not in found.exact
    other = verify(model, pairs, where, estimated, top=5, sample=8, seed=seed + 1)
    assert set(other.table["cell"]) != set(found.table["cell"]), "another sample"


def test_intervals_of_correlations() -> None:
    """Fisher's textbook case, r = 0.8 of 30 pairs: tanh(1.0986 ± 1.96 / √27) = 0.618 to 0.901; and its coverage."""
    assert stats.correlation_interval(0.8, 30) == pytest.approx((0.6178, 0.9007), abs=5e-4)
    assert np.isnan(stats.correlation_interval(0.8, 3)).all()
    assert stats.correlation_interval(1.0, 30) == (1.0, 1.0)
    draw, inside, ranked = np.random.default_rng(0), 0, 0
    for _ in range(2000):
        a, b = draw.standard_normal((2, 25))
        found = curves.agreement(a, 0.7 * a + np.sqrt(1 - 0.49) * b)
        low, high = stats.correlation_interval(found.pearson, 25)
        inside += low <= 0.7 <= high
        low, high = stats.correlation_interval(found.spearman, 25, ranks=True)
        ranked += low <= 6 / np.pi * np.arcsin(0.35) <= high  # Spearman's of a normal pair
    assert abs(inside / 2000 - 0.95) < 0.02
    assert abs(ranked / 2000 - 0.95) < 0.02


def test_scores_are_compared_with_sizes(seed: int) -> None:
    """A score has no sign: it goes with the mean of |effect| over examples."""
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6] * 4, early=True)
    where = grid("q", head=...)
    scored, exact = atp_star(model, pairs, where), patch(model, pairs, where)
    expected = abs(effects.effect(exact)).isel(metric=0).mean("example").values.ravel()
    alone = scored["score"].sel(metric="logit_diff").mean("example")
    for estimate in (scored, scored["score"], alone):
        found = verify(model, pairs, where, estimate, top=4, sample=4)
        assert not found.signed
        assert found.verified.signed == 0
        assert "of largest score" in repr(found)
        assert "same sign" not in repr(found)
        for row in found.table.itertuples():
            assert row.exact == pytest.approx(expected[4 * row.layer + row.head], abs=1e-4)
            assert row.estimate == pytest.approx(float(alone[row.layer, row.head]), abs=1e-6)
    strongest = set(found.table.loc[found.table["chosen"] == "top", "cell"])
    assert strongest == {effects.cell_name({"layer": i // 4, "head": i % 4}) for i in np.argsort(-alone.values.ravel())[:4]}


def test_lists_directions_stores_and_views(seed: int, tmp_path: Any) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6] * 4, early=True)
    cells = [Intervention.of(f"L{layer}H{head}.z", f"L{layer}.mlp_out") for layer in range(3) for head in range(4)]
    estimated = attribute(model, pairs, cells, patching="noising", given=Intervention.of("L1H1.z"))
    given = Intervention.of("L1H1.z")
    found = verify(model, pairs, cells, estimated, top=3, sample=4, given=given, store=tmp_path, name="exact")
    assert found.exact.attrs["patching"] == "noising"
    assert found.table["cell"].str.contains("mlp_out").all()
    exact = patch(model, pairs, cells, patching="noising", given=given)
    there = found.exact["value"].notnull()
    np.testing.assert_allclose(found.exact["value"].where(there), exact["value"].where(there), atol=1e-4)
    assert int(there.isel(metric=0, example=0).sum()) == 7
    assert effects.validate(found.exact) is found.exact
    assert not effects.origin.derived(found.exact)
    figure = interp.views.compare(estimated, found.exact)
    assert "7 cells" in str(figure.layout.title.text)
    assert Store(tmp_path).run("exact").load()["value"].notnull().any()
    heads = grid("z", head=...)
    assert interp.views.heatmap(verify(model, pairs, heads, attribute(model, pairs, heads), top=3, sample=4).exact).data


def test_mistakes_are_named(seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [5, 5])
    where = grid("z", head=...)
    estimated = attribute(model, pairs, where)
    with pytest.raises(ValueError, match="top=0; expected 'all', or how many cells to verify, a whole number from 1 on"):
        verify(model, pairs, where, estimated, top=0)
    with pytest.raises(ValueError, match="sample=-1; expected how many of the other cells"):
        verify(model, pairs, where, estimated, sample=-1)
    with pytest.raises(InputError, match=r"where has the families 'z'; verify one at a time"):
        verify(model, pairs, {"z": where}, estimated)
    with pytest.raises(InputError, match="patching='noising', but the estimate is of denoising"):
        verify(model, pairs, where, estimated, patching="noising")
    with pytest.raises(InputError, match="the estimate is of logit_diff, not of metric 'prob'"):
        verify(model, pairs, where, estimated, "prob")
    with pytest.raises(ShapeMismatchError, match=r"the estimate has the axes layer \(3\), head \(4\), where has layer \(2\)"):
        verify(model, pairs, grid("z", layer=[0, 1], head=...), estimated)
    with pytest.raises(InputError, match=r"estimate is a list; expected effects, such as interp.attribute gives"):
        sweeps.unchecked(verify)(model, pairs, where, [1.0])
    with pytest.raises(ValueError, match=r"subsets=3; expected how many to patch, .* a whole number from 4 on"):
        subset_bound(model, pairs, where, subsets=3)
    for level in (0, 95):
        with pytest.raises(ValueError, match=f"level={level}; expected a confidence between 0 and 1, such as 0.95"):
            subset_bound(model, pairs, where, level=level)
    with pytest.raises(InputError, match=r"verified is a Verification; expected exact effects .*, as interp.verify\(…\).exact"):
        sweeps.unchecked(subset_bound)(model, pairs, where, verified=verify(model, pairs, where, estimated, top=1, sample=0))
    for wrong in ("al", 2.5):
        with pytest.raises(InputError, match=f"top={wrong!r}; expected 'all', or how many"):
            sweeps.unchecked(verify)(model, pairs, where, estimated, top=wrong)
    with pytest.raises(ValueError, match="share=1; expected the probability"):
        subset_bound(model, pairs, where, share=1)
    with pytest.raises(InputError, match="where has the families 'z'; bound one at a time"):
        subset_bound(model, pairs, {"z": where})
    with pytest.raises(InputError, match="no cell is left to bound"):
        subset_bound(model, pairs, where, verified=patch(model, pairs, where))
    with pytest.raises(ShapeMismatchError, match=r"verified has the axes layer \(3\), head \(4\), where has layer \(1\)"):
        subset_bound(model, pairs, grid("z", layer=[0], head=...), verified=estimated)


# ------------------------------------------------------------------------------------------------------------- the bound


def test_too_few_subsets_bound_nothing_and_say_so(seed: int) -> None:
    """4 subsets of a quarter of a cell each: most cells are in none, and nothing bounds them."""
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [5, 5])
    with pytest.warns(RuntimeWarning, match=r"of 12 cells (is|are) in fewer than two of 4 subsets, .* raise subsets="):
        bound = subset_bound(model, pairs, grid("z", layer=..., head=...), subsets=4, share=0.02, seed=3)
    assert bound.theta == np.inf
    assert "no bound, for " in repr(bound)
    assert "of 12 cells are in too few of the subsets; draw more" in repr(bound)


def test_a_planted_cell_is_estimated_as_what_it_does(seed: int) -> None:
    """Card 5, test 8: one cell of effect e among n that do nothing, no noise: e for it, 0 for the others (T3)."""
    draw = np.random.default_rng(seed)
    included = draw.random((400, 30)) < 0.2
    found = stats.welch_bounds(included, 1.5 * included[:, 7])
    assert found.estimate[7] == pytest.approx(1.5)
    assert found.upper[7] == pytest.approx(1.5)
    others = np.delete(np.arange(30), 7)
    assert (abs(found.estimate[others]) <= 4 * found.standard_error[others]).all()  # the largest of 29 of them
    assert found.upper.max() == pytest.approx(1.5)


def test_the_bound_holds_as_often_as_it_says(seed: int) -> None:
    """Card 5, test 8: in 1000 draws no member exceeds the bound in 1 − α of them at least, within binomial error."""
    draw, level = np.random.default_rng(seed), 0.9
    holds, own = 0, 0
    for _ in range(1000):
        effect = draw.standard_normal(12) * (draw.random(12) < 0.4)
        included = draw.random((60, 12)) < 0.3
        found = stats.welch_bounds(included, included @ effect + 0.3 * draw.standard_normal(60), level=level)
        most = abs(effect).argmax()
        holds += found.upper.max() >= abs(effect[most])
        own += found.upper[0] >= abs(effect[0])
    error = 3 * np.sqrt(level * (1 - level) / 1000)
    assert holds / 1000 >= level - error
    assert own / 1000 >= level - error
    assert np.isinf(stats.welch_bounds([[True], [False], [False]], [1.0, 0.0, 0.0]).upper).all(), "one subset has no spread"
    with pytest.raises(ShapeMismatchError, match=r"included is \[subset, member\]"):
        stats.welch_bounds(np.zeros((3, 2)), np.zeros(4))


def test_bound_of_a_linear_network_estimates_what_patching_gives(seed: int) -> None:
    """Effects add up there: every estimate is within four standard errors of exact patching, a subset's effect is the sum."""
    model, pairs = nets.linear(seed), sweeps.random_pairs(seed, [5, 5, 5], early=True)
    where = grid("embed", position=...)
    third = lambda logits: logits[..., 3] - 2 * logits[..., 5]  # noqa: E731
    exact = effects.effect(patch(model, pairs, where, third)).isel(metric=0).mean("example").values
    found = subset_bound(model, pairs, where, third, subsets=300, share=0.3, seed=seed)
    there = found.cells["estimate"].notnull().values
    apart = abs(found.cells["estimate"].values - exact)[there]
    assert (apart <= 4 * found.cells["standard_error"].values[there] + 1e-9).all()
    assert not exact[~there].any(), "the same token in both prompts"
    assert found.theta >= 0.9 * abs(exact).max()
    assert found.included.dims == ("subset", "position")
    assert found.included.sizes["subset"] == found.effects.sizes["cell"] <= found.subsets == 300
    summed = found.included.values @ exact
    np.testing.assert_allclose(effects.effect(found.effects).isel(metric=0).mean("example"), summed, atol=1e-9)
    assert f"none of {there.sum()} cells moves it by more than" in repr(found)


def test_what_was_verified_is_left_out(seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6] * 4, early=True)
    where = grid("z", head=...)
    checked = verify(model, pairs, where, attribute(model, pairs, where), top=4, sample=2)
    found = subset_bound(model, pairs, where, verified=checked.exact, subsets=40)
    left = checked.exact["value"].isnull().isel(metric=0).all("example")
    assert (found.cells["estimate"].notnull() == left).all()
    assert found.cells["upper"].where(left).max() == found.theta
    assert not found.included.where(~left, False).any()
