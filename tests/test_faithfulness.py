"""Tables of faithfulness: f, areas and the difference from random circuits, by formulas and on fixtures with few examples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from interp import effects, views
from interp.effects import EffectsError, against_random, circuit_areas, faithfulness
from interp.errors import UnknownNameError

SHARES = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]


def line(value: Any, clean: Any, corrupt: Any, *, sizes: list[Any] = SHARES, attrs: Any = None, **coords: Any) -> xr.Dataset:
    """Effects of circuits, ``value`` ``[(seed,) cell, example]``."""
    value, clean, corrupt = (np.array(one, dtype=float) for one in (value, clean, corrupt))
    dims = {"seed": range(len(value))} if value.ndim == 3 else {}
    return effects.assemble(
        value[None],
        clean[None],
        corrupt[None],
        axes=dims | {"cell": range(len(sizes))},
        metrics=["logit_diff"],
        coords={"size": ("cell", sizes)} | coords,
        attrs={"patching": "noising", "noise_floor": {"logit_diff": 1e-9}, "engine_semantics": 1, "spec": None} | (attrs or {}),
    )


def of(f: Any, seed: int, **more: Any) -> xr.Dataset:
    """Effects with this f in every example, whose ends differ between examples."""
    draw = np.random.default_rng(seed)
    clean, corrupt = 4 + draw.normal(size=6), draw.normal(size=6) - 4
    return line(corrupt + np.array(f)[..., None] * (clean - corrupt), clean, corrupt, **more)


@pytest.mark.parametrize(
    ("f", "cpr", "cmd"),
    [([1.0] * 10, 0.999, 0.0), (SHARES, 0.4999995, 0.4990005), ([2.0] * 10, 1.998, 0.999), ([0.0] * 10, 0.0, 0.999)],
    ids=["1", "k", "2", "0"],
)
def test_ground_truth_2_areas_of_known_curves(f: list[float], cpr: float, cmd: float, seed: int) -> None:
    """Card 11, test 2: ∫ f and ∫ |1 − f| from .001 to 1, (1 − 10⁻⁶) / 2 for f = k; and f ≡ 0."""
    (row,) = circuit_areas(of(f, seed)).to_dict("records")
    assert (row["cpr"], row["cmd"]) == (pytest.approx(cpr, abs=1e-10), pytest.approx(cmd, abs=1e-10))
    assert row["cpr_high"] - row["cpr_low"] < 1e-9


def test_ground_truth_3_both_areas_of_one_ranking_add_up_and_of_two_do_not(seed: int) -> None:
    """Card 11, test 3: where f ≤ 1 everywhere CPR + CMD = .999, the length of the axis; of mixed rankings it is not."""
    draw = np.random.default_rng(seed)
    first, second = (np.sort(draw.uniform(-0.5, 1, 10)) for _ in range(2))
    one, other = (circuit_areas(of(f, seed)).iloc[0] for f in (first, second))
    for row in (one, other):
        assert row["cpr"] + row["cmd"] == pytest.approx(0.999, abs=1e-9)
    assert abs(one["cpr"] + other["cmd"] - 0.999) == pytest.approx(abs(one["cpr"] - other["cpr"]), abs=1e-9)
    assert abs(one["cpr"] - other["cpr"]) > 1e-6


def test_ground_truth_7_the_ratio_of_means_is_not_the_mean_of_ratios() -> None:
    """Card 11, test 7: two examples with ranges 1 and 3, of which all and none is back: 1/4 and 1/2."""
    ds = line([[1.0, 0.0]], [1.0, 3.0], [0.0, 0.0], sizes=[5], attrs={"total": 10})
    (row,) = faithfulness(ds).to_dict("records")
    assert (row["mean_of_ratios"], row["defined"], row["value"], row["full"], row["empty"]) == (0.5, 2, 0.5, 2.0, 0.0)
    assert (row["size"], row["share"]) == (5, 0.5)
    ds = line([[1.0, 0.0] * 20], [1.0, 3.0] * 20, [0.0, 0.0] * 20, sizes=[5])
    (row,) = faithfulness(ds).to_dict("records")
    assert (row["f"], row["mean_of_ratios"]) == (pytest.approx(0.25), pytest.approx(0.5))
    assert row["low"] < 0.25 < row["high"] < 0.5
    gone = line([[1.0, 0.0, 7.0] * 20], [1.0, 3.0, 2.0] * 20, [0.0, 0.0, 2.0] * 20, sizes=[5])
    assert faithfulness(gone)["defined"].item() == 40


def test_random_circuits_have_the_range_of_the_draws(seed: int) -> None:
    f = np.random.default_rng(seed).uniform(0, 1, size=(4, 10))
    found = of(f, seed, attrs={"random": "size"})
    table = faithfulness(found)
    np.testing.assert_allclose(table["f"], f.mean(0))
    np.testing.assert_allclose(table["low"], f.min(0))
    np.testing.assert_allclose(table["high"], f.max(0))
    np.testing.assert_allclose(table["mean_of_ratios"], f.mean(0))
    areas = [np.trapezoid(row, SHARES) for row in f]
    (row,) = circuit_areas(found).to_dict("records")
    assert (row["cpr"], row["cpr_low"], row["cpr_high"]) == pytest.approx((np.mean(areas), min(areas), max(areas)))


def test_tables_and_the_figure_have_the_same_numbers(seed: int) -> None:
    draw = np.random.default_rng(seed)
    clean, corrupt = 3 + draw.normal(size=24), draw.normal(size=24) - 3
    value = corrupt + np.linspace(0.1, 1.2, 10)[:, None] * (clean - corrupt) + draw.normal(size=(10, 24))
    ds = line(value, clean, corrupt, template=[f"t{i % 6}" for i in range(24)])
    table, (areas,) = faithfulness(ds), circuit_areas(ds).to_dict("records")
    (drawn,) = (trace for trace in views.faithfulness(ds).data if trace.hoverinfo == "text")
    np.testing.assert_allclose(drawn.y, table["f"])
    for said, low, high in zip(drawn.text, table["low"], table["high"], strict=True):
        assert f"CPR {areas['cpr']:.2f}" in said
        assert f"interval {low:.3g} to {high:.3g}" in said.replace("−", "-")


def test_the_difference_from_random_circuits_is_paired_over_examples() -> None:
    """Examples that are high for all alike do not widen it: expected 0.5 to 1.5, whatever the examples' own size."""
    base = np.array([0.0, 100.0, -50.0, 7.0, 3.0, 40.0])
    own = base + np.array([1.5, 0.5, 1.0, 1.5, 0.5, 1.0])
    tree = xr.DataTree.from_dict(
        {
            "EAP": line([own, base], base + 9, base, sizes=[3, 8], attrs={"in_sample": True, "in_sample_examples": 4}),
            "random": line(
                [[base + 1.0, base], [base - 1.0, base], [base + 2.0, base], [base - 2.0, base + 5]],
                *(base + 9, base),
                sizes=[3, 8],
                attrs={"random": "size"},
            ),
            "random, like other": line([[own]], base + 9, base, sizes=[3], attrs={"random": "size", "like": ["other"]}),
        }
    )
    first, second = against_random(tree).to_dict("records")
    assert (first["line"], first["control"], first["size"], first["draws"]) == ("EAP", "random", 3, 4)
    assert first["difference"] == pytest.approx(1.0)
    assert 0.3 < first["low"] < 1 < first["high"] < 1.7
    assert first["above"] == pytest.approx((0.5 + 1 + 0 + 1) / 4), "1.0 as one draw, and above two"
    assert (first["in_sample"], first["in_sample_examples"]) == (True, 4)
    assert second["difference"] == pytest.approx(-1.25)
    assert second["above"] == pytest.approx((0.5 + 0.5 + 0.5 + 0) / 4)


def test_one_size_has_no_area(seed: int) -> None:
    (row,) = circuit_areas(of([0.5], seed, sizes=[3])).to_dict("records")
    assert np.isnan([row["cpr"], row["cmd"], row["cpr_low"]]).all()


def test_what_lacks_is_named(seed: int) -> None:
    ds = of([1.0] * 10, seed)
    with pytest.raises(
        EffectsError, match="no line of circuits has random ones of the same size beside it; evaluate them with"
    ):
        against_random(xr.DataTree.from_dict({"EAP": ds}))
    with pytest.raises(EffectsError, match="circuits of EAP need their sizes, a coordinate 'size' along 'cell'"):
        faithfulness(xr.DataTree.from_dict({"EAP": ds.drop_vars("size")}))
    with pytest.raises(UnknownNameError, match="unknown metric 'kl'"):
        circuit_areas(ds, "kl")
