"""The map of roles: which kind each head is, letters that need no colours, and what the hover tells."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import pytest
import xarray as xr

from interp import views
from interp.effects.gating import taxonomy
from interp.errors import InputError
from interp.views import fitting, kinds

OPEN, SHUT = 0.98, 0.02


def found(heads: list[list[tuple[float, float]]], layers: int = 1) -> xr.Dataset:
    """Of each head (G⁺, G⁻) by seed, in one layer and as many others that are irrelevant."""
    gate = np.full((len(heads[0]), 3, layers, len(heads)), np.nan)
    gate[:, 1], gate[:, 2] = OPEN, SHUT
    for head, pairs in enumerate(heads):
        gate[:, 1:, 0, head] = pairs
    coords = {"seed": range(len(gate)), "stage": ["A", "B+", "B-"], "layer": range(layers), "head": range(len(heads))}
    attrs = {"model": "m", "task": "ioi", "site": "z", "cut": 0.5}
    ds = xr.Dataset({"gate": (("seed", "stage", "layer", "head"), gate)}, coords, attrs)
    return ds.merge(taxonomy(ds["gate"].sel(stage="B+", drop=True), ds["gate"].sel(stage="B-", drop=True)))


HEADS = [
    [(OPEN, OPEN), (OPEN, OPEN)],
    [(OPEN, OPEN), (OPEN, SHUT)],
    [(SHUT, SHUT), (SHUT, SHUT)],
    [(SHUT, SHUT), (OPEN, SHUT)],
    [(OPEN, OPEN), (SHUT, SHUT)],
    [(SHUT, OPEN), (OPEN, SHUT)],
    [(OPEN, SHUT), (OPEN, SHUT)],
    [(np.nan, np.nan), (np.nan, np.nan)],
]
EXPECTED = [
    ("always facilitating", "F"),
    ("facilitating in some seeds", "f"),
    ("always interfering", "I"),
    ("interfering in some seeds", "i"),
    ("either, by seed", "±"),
    ("inconsistent in some seeds", "?"),
    ("always irrelevant", ""),
    ("no such head", ""),
]


def test_each_head_is_of_its_kind() -> None:
    figure = views.gates(found(HEADS))
    for head, (kind, letter) in enumerate(EXPECTED):
        there = [trace for trace in figure.data if trace.z[0][head] == 1]
        assert [trace.name for trace in there] == [f"{letter} {kind}".strip()]
        assert there[0].text[0][head] == letter
        assert there[0].texttemplate == "%{text}"
    assert len({trace.colorscale[0][1] for trace in figure.data}) == len(EXPECTED)
    assert "roles of z: 1 of 7 always facilitating, 1 interfering" in figure.layout.title.text
    assert "m · ioi · 2 seeds · gates cut at 0.5" in figure.layout.title.text


@pytest.mark.parametrize("width", [views.PAGE, views.COLUMN])
def test_the_legend_has_room(width: int) -> None:
    """A row of it is 2.2 sizes of type high; at a page's width there are two or three names in each."""
    layout, size = (figure := views.gates(found(HEADS), width=width)).layout, 12 if width == views.PAGE else 9
    rows = len(figure.data) / (1 if width == views.COLUMN else 2)
    assert layout.margin.b >= 2.2 * size * rows + 3 * size


def test_the_hover_tells_seeds_and_gates() -> None:
    said = str(views.gates(found(HEADS)).data[1].customdata[0][1])
    assert said == (
        "<b>L0H1</b> facilitating in 1, irrelevant in 1 of 2 seeds<br>G⁺ 0.980 (0.980 to 0.980)<br>G⁻ 0.500 (0.020 to 0.980)"
    )


def test_letters_are_left_out_where_they_would_not_be_read() -> None:
    figure = views.gates(found(HEADS * 8, layers=90), width=views.COLUMN)
    assert all(trace.texttemplate is None for trace in figure.data)


def test_it_is_the_view_that_fits() -> None:
    one = found(HEADS)
    assert kinds.of_one(one)[0] == kinds.GATES
    assert list(fitting(one)) == ["roles of heads"]
    assert isinstance(fitting(one)["roles of heads"](), go.Figure)


def test_what_is_no_gating() -> None:
    with pytest.raises(InputError, match=r"results is a Dataset; expected what interp\.gate_heads\(…\) returns"):
        views.gates(found(HEADS).drop_vars("share"))
