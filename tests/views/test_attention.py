"""Maps of attention, tested on what the figure contains, and the menu and slider in a browser."""

import html
import json
import re

import numpy as np
import plotly.io as pio
import pytest
import xarray as xr

from interp import views
from interp.errors import HeadOutOfRangeError, PositionError, UnknownNameError

WORDS = ["<|endoftext|>", " Mary", " and", "\n", " <b>John</b>", ",", " went", " home"]


def made_up(layers=3, heads=2, size=6, examples=2):
    """Head h of layer l attends to position (l + h) mod (p + 1) with 0.75 and spreads the rest; prompt 1 is shorter."""
    a = np.zeros((examples, layers, heads, size, size), "float32")
    for layer, head, p in np.ndindex(layers, heads, size):
        a[:, layer, head, p, : p + 1] = 0.25 / (p + 1)
        a[:, layer, head, p, (layer + head) % (p + 1)] += 0.75
    words = np.array([[WORDS[i % len(WORDS)] for i in range(size)]] * examples, object)
    if examples > 1:
        a[1, ..., -1:, :] = np.nan
        a[1, ..., -1:] = np.nan
        words[1, -1:] = ""
    coords = {
        "layer": np.arange(layers) + 2,
        "head": np.arange(heads),
        "position": np.arange(size),
        "source_position": np.arange(size),
        "token": (("example", "position"), words),
        "source_token": (("example", "source_position"), words),
        "prompt": ("example", ["Mary & <b>John</b>"] * examples),
    }
    dims = ("example", "layer", "head", "position", "source_position")
    return xr.Dataset({"pattern": (dims, a)}, coords, {"model": "tiny", "given": None})


def test_rows_attend_from_top_to_bottom():
    ds = made_up()
    figure = views.attention(ds)
    drawn = figure.data[0]
    np.testing.assert_allclose(drawn.z, ds.pattern[0, 0, 0], atol=5e-5)
    assert (drawn.zmin, drawn.zmax) == (0, 1)
    assert figure.layout.yaxis.autorange == "reversed"
    assert figure.layout.yaxis.ticktext[4] == figure.layout.xaxis.ticktext[4] == "4 &lt;b&gt;John&lt;/b&gt;"
    assert drawn.customdata[4][1] == "4 &lt;b&gt;John&lt;/b&gt; → 1 Mary"
    assert "Mary &amp; &lt;b&gt;John&lt;/b&gt;" in figure.layout.title.text


def test_a_menu_of_layers_and_a_slider_of_heads():
    ds = made_up()
    layout = views.attention(ds).layout
    (menu,), (slider,) = layout.updatemenus, layout.sliders
    assert [button.label for button in menu.buttons] == ["layer 2", "layer 3", "layer 4"]
    assert [step.label for step in slider.steps] == ["0", "1"]
    assert slider.currentvalue.prefix == "L2H"
    np.testing.assert_allclose(slider.steps[1].args[0]["z"][0], ds.pattern[0, 0, 1], atol=5e-5)
    data, other = menu.buttons[2].args
    np.testing.assert_allclose(data["z"][0], ds.pattern[0, 2, 0], atol=5e-5)
    assert other["sliders"][0]["currentvalue"]["prefix"] == "L4H"
    np.testing.assert_allclose(other["sliders"][0]["steps"][1]["args"][0]["z"][0], ds.pattern[0, 2, 1], atol=5e-5)


def test_what_is_chosen_needs_no_selector():
    ds = made_up()
    one = views.attention(ds, layer=3, head=1)
    np.testing.assert_allclose(one.data[0].z, ds.pattern[0, 1, 1], atol=5e-5)
    assert not one.layout.updatemenus
    assert not one.layout.sliders
    assert "attention pattern of L3H1" in one.layout.title.text
    of_layer = views.attention(ds, layer=3).layout
    assert not of_layer.updatemenus
    assert of_layer.sliders[0].currentvalue.prefix == "L3H"
    of_head = views.attention(ds, head=1).layout
    assert not of_head.sliders
    assert [button.label for button in of_head.updatemenus[0].buttons] == ["L2H1", "L3H1", "L4H1"]
    alone = views.attention(ds.isel(layer=1, head=0))
    np.testing.assert_allclose(alone.data[0].z, ds.pattern[0, 1, 0], atol=5e-5)
    assert "of L3H0" in alone.layout.title.text


def test_a_shorter_prompt_is_a_smaller_map():
    drawn = views.attention(made_up(), example=1).data[0]
    assert drawn.z.shape == (5, 5)
    assert np.isfinite(drawn.z).all()


@pytest.mark.parametrize(("size", "width"), [(5, views.PAGE), (5, views.COLUMN), (40, views.COLUMN), (500, views.PAGE)])
def test_nothing_overlaps(size, width):
    figure = views.attention(made_up(2, 2, size, examples=1), width=width)
    layout = figure.layout
    wide = layout.width - layout.margin.l - layout.margin.r
    tall = layout.height - layout.margin.t - layout.margin.b
    assert tall <= wide + 1
    upright = layout.xaxis.tickangle == -90
    longest = max(len(html.unescape(t)) for t in layout.xaxis.ticktext)
    assert (np.diff(layout.xaxis.tickvals) * wide / size >= layout.font.size * (1 if upright else 0.6 * longest)).all()
    assert (np.diff(layout.yaxis.tickvals) * tall / size >= layout.font.size).all()
    lines = layout.title.text.count("<br>")
    head = (1 - layout.title.y) * layout.height + 1.6 * layout.font.size * lines
    assert head + 30 <= layout.margin.t + 1  # the menu is between title and map
    slider = -layout.sliders[0].y * tall
    assert slider + 70 <= layout.margin.b
    assert (figure.data[0].customdata is not None) == (size <= 160)


def test_some_positions_that_attend():
    whole = made_up()
    figure = views.attention(whole.isel(position=[-1, 1]).assign_coords(position=["END", "S1"]), layer=3, head=0)
    assert figure.layout.yaxis.title.text == "attends"
    assert [text.split(" ")[0] for text in figure.layout.yaxis.ticktext] == ["END", "S1"]
    assert figure.data[0].z.shape == (2, whole.sizes["source_position"])


def test_too_many_numbers_for_one_figure():
    ds = made_up(1, 1, 300, examples=1)
    many = ds.isel(layer=[0] * 30, head=[0] * 4).assign_coords(layer=range(30), head=range(4))
    with pytest.raises(
        HeadOutOfRangeError, match=r"30 layers × 4 heads over 300 tokens are 11 million numbers.*select with layer=0$"
    ):
        views.attention(many)
    assert views.attention(many, layer=7).data[0].z.shape == (300, 300)


def test_a_dark_template_and_no_global_change():
    ds, before = made_up(), pio.templates.default
    copy = ds.copy(deep=True)
    dark = views.attention(ds, template="plotly_dark")
    assert dark.layout.template.layout.paper_bgcolor == pio.templates["plotly_dark"].layout.paper_bgcolor
    assert pio.templates.default == before
    assert ds.identical(copy)


def test_mistakes_are_told():
    with pytest.raises(HeadOutOfRangeError, match=r"layer=0 is not in this result, which has layers \[2, 3, 4\]"):
        views.attention(made_up(), layer=0)
    with pytest.raises(PositionError, match="example=5, but this result has 2"):
        views.attention(made_up(), example=5)
    with pytest.raises(UnknownNameError, match="unknown variable 'pattern'"):
        views.attention(xr.Dataset())


def test_the_menu_and_the_slider_in_a_browser(tmp_path, browse):
    ds = made_up()
    page = views.save(views.attention(ds), tmp_path / "map.html")
    script = """<script>window.addEventListener('load', () => setTimeout(async () => {
      const gd = document.querySelector('.js-plotly-plot'), seen = [];
      const note = () => seen.push([gd.layout.sliders[0].currentvalue.prefix, Array.from(gd.data[0].z[5])]);
      const button = gd.layout.updatemenus[0].buttons[2];
      await Plotly[button.method](gd, ...button.args); note();
      const step = gd.layout.sliders[0].steps[1];
      await Plotly[step.method](gd, ...step.args); note();
      document.title = JSON.stringify(seen);
    }, 500));</script></body>"""
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", script), encoding="utf-8")
    dom = browse(page)
    seen = json.loads(html.unescape(re.search("<title>(.*?)</title>", dom)[1]))
    for (prefix, row), head in zip(seen, (0, 1), strict=True):
        assert prefix == "L4H"
        np.testing.assert_allclose(row, ds.pattern[0, 2, head, 5], atol=5e-5)
    assert dom.count("slider-group") >= 1
