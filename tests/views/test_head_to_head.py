"""The map of heads by heads: numbers, names, colours and what has no number. Expected: the array that went in."""

import html
import json
import re

import numpy as np
import pytest
import xarray as xr

from interp import views
from interp.errors import ShapeMismatchError
from interp.views.edges import senders_by_receivers


def made_up(layers=3, heads=4, **attrs):
    names = [f"L{i}H{j}" for i in range(layers) for j in range(heads)]
    layer = np.repeat(np.arange(layers), heads)
    values = np.arange(len(names) ** 2, dtype=float).reshape(len(names), -1) / len(names) ** 2
    values[~(layer[:, None] < layer)] = np.nan
    attrs = {"model": "tiny <model>", "quantity": "K-composition", "fold_norm": 1, "stream": "main"} | attrs
    return xr.DataArray(values, {"sender": names, "receiver": names}, ("sender", "receiver"), name="composition", attrs=attrs)


def test_numbers_names_and_colours():
    scores = made_up()
    figure = views.head_to_head(scores)
    drawn, grey = figure.data
    np.testing.assert_array_equal(drawn.z, scores.values.astype("float32"))
    assert (drawn.zmin, drawn.zmax) == (0, np.nanmax(scores.values).astype("float32"))
    assert drawn.hovertemplate.startswith("<b>%{y} → %{x}</b> %{z:.3g}<br>K-composition, rank %{customdata:,} of 48 pairs")
    assert list(drawn.x) == list(drawn.y) == scores.sender.values.tolist()  # the names that a hover shows, of every cell
    best = np.unravel_index(np.nanargmax(scores.values), scores.shape)
    assert (drawn.customdata[best], drawn.customdata[0, 4], drawn.customdata[4, 0]) == (1, 48, 0)
    np.testing.assert_array_equal(np.isnan(grey.z), np.isfinite(scores.values))
    assert grey.name == "not before the receiver"
    assert grey.hovertemplate == "<b>%{y} → %{x}</b> not before the receiver<extra></extra>"
    assert figure.layout.xaxis.title.text == "receiver"
    assert figure.layout.yaxis.title.text == "sender"
    assert figure.layout.yaxis.ticktext[0] == "L0H0"
    text = figure.layout.title.text
    assert "K-composition, sender by receiver" in text
    assert "tiny &lt;model&gt; · norms folded in · 48 pairs" in text


def test_labels_of_many_heads_are_thinned():
    figure = views.head_to_head(made_up(layers=12, heads=12))
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        assert len(axis.ticktext) <= 60
        every = [f"L{i // 12}H{i % 12}" for i in range(144)]
        assert list(axis.tickvals) == list(axis.ticktext) == every[:: every.index(axis.ticktext[1])]


def test_labels_that_are_thinned_begin_with_the_same_head_of_each_layer():
    scores = made_up(layers=30, heads=9)
    layer = np.repeat(np.arange(30), 9)
    figure = views.head_to_head(scores.assign_coords(sender_layer=("sender", layer), receiver_layer=("receiver", layer)))
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        assert len(axis.ticktext) > 5
        assert all(label.endswith("H0") for label in axis.ticktext)
    assert "35,235 pairs" in figure.layout.title.text  # 30 · 29 / 2 pairs of layers with 81 each


def test_many_heads_are_a_small_figure():
    figure = views.head_to_head(made_up(layers=30, heads=9))
    assert len(figure.to_json()) < 2_000_000
    np.testing.assert_allclose(figure.data[0].z, made_up(layers=30, heads=9), rtol=1e-6)


def test_limits_signs_and_other_names():
    scores = made_up()
    assert views.head_to_head(scores, limit=0.4, floor=0.1).data[0].zmax == 0.4
    assert views.head_to_head(scores, floor=0.1).data[0].zmin == 0.1
    signed = views.head_to_head(scores - 0.5).data[0]
    assert signed.zmin == -signed.zmax < 0
    whole = scores.fillna(0.5)
    assert len(views.head_to_head(whole).data) == 1
    bare = views.head_to_head(xr.DataArray(np.eye(3), dims=("from", "to")), title="mine")
    assert bare.layout.title.text.startswith("mine")
    assert bare.layout.xaxis.title.text == "to"
    assert list(bare.layout.xaxis.ticktext) == ["0", "1", "2"]
    other = views.head_to_head(made_up(fold_norm=0, stream="encoder"))
    assert "stream encoder · norms left out" in other.layout.title.text


def test_nothing_to_draw():
    with pytest.raises(ShapeMismatchError, match=r"this array has sender \(12\)"):
        views.head_to_head(made_up()[:, 0])
    with pytest.raises(ShapeMismatchError, match="two axes"):
        views.head_to_head(made_up()[:0])
    empty = views.head_to_head(made_up() * np.nan)
    assert np.isnan(empty.data[0].z).all()


def test_the_hover_of_any_cell_has_both_names_in_a_browser(tmp_path, browse):
    scores = made_up(layers=30, heads=9)
    page = views.save(views.head_to_head(scores), tmp_path / "map.html")
    script = """<script>window.addEventListener('load', () => setTimeout(async () => {
      const gd = document.querySelector('.js-plotly-plot'), seen = [];
      for (const [x, y] of [[200, 7], [7, 200]]) {
        Plotly.Fx.hover(gd, {xval: x, yval: y});
        await new Promise(done => setTimeout(done, 200));
        seen.push(Array.from(document.querySelectorAll('.hoverlayer .hovertext text')).map(t => t.textContent).join(''));
      }
      document.title = JSON.stringify(seen);
    }, 500));</script></body>"""
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", script), encoding="utf-8")
    drawn, grey = json.loads(html.unescape(re.search("<title>(.*?)</title>", browse(page))[1]))
    sender, receiver, number = "L0H7", "L22H2", float(scores[7, 200])
    rank = 1 + int((scores > number).sum())
    assert drawn == f"{sender} → {receiver} {number:.3g}K-composition, rank {rank:,} of {int(scores.notnull().sum()):,} pairs"
    assert grey == f"{receiver} → {sender} not before the receiver"


def test_edges_are_senders_by_receivers():
    ends = [("a", "b"), ("a", "c"), ("b", "c")]
    coords = {end: ("cell", [pair[i] for pair in ends]) for i, end in enumerate(("sender", "receiver"))}
    scores = xr.DataArray(np.array([[1.0, 3.0], [2.0, 4.0], [3.0, 5.0]]), coords, ("cell", "example"), "score")
    table = senders_by_receivers(scores)
    assert table.sel(sender="b", receiver="c").item() == 4
    assert np.isnan(table.sel(sender="b", receiver="b").item())
    assert senders_by_receivers(table.T).equals(table)
    assert views.head_to_head(table).data[0].z.shape == (2, 2)
