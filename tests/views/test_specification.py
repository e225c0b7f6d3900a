"""The specification curve: order, what counts, and the rows of choices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from interp import views
from interp.errors import InputError, UnknownNameError


def found() -> xr.Dataset:
    z = np.array([[3.0, 0.1], [-1.0, 0.2], [2.5, -2.0], [0.5, 0.0]])
    coords: dict[str, Any] = {
        "layer": [0, 1],
        "metric": ("analysis", ["kl", "prob", "kl", "prob"]),
        "patching": ("analysis", ["noising"] * 4),
        "n": ("analysis", [8, 8, 4, 4]),
    }
    matters = np.abs(z) >= 2
    dims = ("analysis", "layer")
    data = {"score": (dims, 10 * z), "z": (dims, z), "matters": (dims, matters), "share": ("layer", matters.mean(0))}
    return xr.Dataset(data, coords, {"model": "m", "site": "mlp_out", "deviations": 2.0})


def test_it_draws_the_component_that_matters_most() -> None:
    figure = views.specification_curve(found())
    assert "L0: matters in 2 of 4 analyses (50%)" in figure.layout.title.text
    points = sorted(
        (x, y, trace.marker.symbol)
        for trace in figure.data
        if trace.yaxis != "y2"
        for x, y in zip(trace.x, trace.y, strict=True)
    )
    assert points == [(1, -1.0, "circle-open"), (2, 0.5, "circle-open"), (3, 2.5, "circle"), (4, 3.0, "circle")]


def test_rows_are_choices_that_differ() -> None:
    """Every analysis has a mark in the row of its metric; the direction is the same in all, so it has no row."""
    figure = views.specification_curve(found(), layer=0)
    assert figure.layout.yaxis2.ticktext == ("metric: kl", "metric: prob")
    marks = sorted((y, x) for trace in figure.data if trace.yaxis == "y2" for x, y in zip(trace.x, trace.y, strict=True))
    assert marks == [(0, 3), (0, 4), (1, 1), (1, 2)]
    assert [note.text for note in figure.layout.annotations] == ["100%", "0%"]
    assert "metric: kl<br>patching: noising<br>n=8" in figure.data[0].customdata[-1] + figure.data[0].customdata[0]


def test_another_component() -> None:
    assert "L1: matters in 1 of 4 analyses" in views.specification_curve(found(), layer=1).layout.title.text
    assert views.specification_curve(found(), layer=1, title="mine").layout.title.text.startswith("mine")


def test_what_is_no_multiverse() -> None:
    with pytest.raises(InputError, match=r"found is a Dataset; expected what interp.multiverse\(…\) returns"):
        views.specification_curve(found().drop_vars("z"))
    with pytest.raises(UnknownNameError, match="head"):
        views.specification_curve(found(), head=1)
    with pytest.raises(UnknownNameError, match="layer"):
        views.specification_curve(found(), layer=7)
