"""Highlighted tokens, tested on what the figure contains; the numbers are made by a formula."""

import html
import inspect
import itertools

import numpy as np
import plotly.io as pio
import pytest
import xarray as xr

from interp import effects as fx
from interp import views
from interp.errors import InputError, PositionError, UnknownNameError
from interp.views.colours import of_text, scale

WORDS = ["<|endoftext|>", "def", " f", "():", "\n", "\treturn", " <b>x</b>", "  ", "日本", "."]


def scores(size=10, examples=3, axis="position", name="loss", word="token"):
    """Example e has e + i/10 at place i; the last one is shorter by one."""
    values = np.arange(examples)[:, None] + np.arange(size)[None] / 10
    tokens = np.array([[WORDS[i % len(WORDS)] for i in range(size)] for _ in range(examples)], object)
    tokens[0, 2:3] = " g"
    if examples > 1:
        values[-1, -1], tokens[-1, -1] = np.nan, ""
    coords = {axis: range(size), axis.removesuffix("position") + word: (("example", axis), tokens)}
    return xr.DataArray(values, dims=("example", axis), name=name, coords=coords, attrs={"model": "tiny <model>"})


def boxes(figure):
    """``(line, left, right, text, trace)`` of each token, in the order in which they are read."""
    found = [
        (y, x, x + wide, html.unescape(text), trace.name)
        for trace in figure.data
        for y, x, wide, text in zip(trace.y, trace.base, trace.x, trace.text, strict=True)
    ]
    return sorted(found)


def test_tokens_in_order_with_their_numbers():
    ds = scores()
    figure = views.tokens(ds, example=1)
    (drawn,) = figure.data
    np.testing.assert_allclose(drawn.marker.color, ds[1])
    seen = [text for *_, text, _ in boxes(figure)]
    assert seen == ["<|endoftext|>", "def", "␣f", "():", "⏎", "⇥return", "␣<b>x</b>", "␣␣", "日本", "."]
    assert drawn.text[6] == "␣&lt;b&gt;x&lt;/b&gt;"
    assert drawn.hovertext[6] == "<b>6</b> token ' &lt;b&gt;x&lt;/b&gt;'<br>loss 1.6"
    assert [line for line, *_ in boxes(figure)] == [0] * 5 + [1] * 5, "a line ends where the text's does"
    assert figure.layout.title.text.startswith("loss by token<br>")
    assert "tiny &lt;model&gt; · example 1 of 3" in figure.layout.title.text
    assert figure.layout.annotations[0].text == "loss"


def test_what_is_behind_the_end_is_not_drawn():
    assert len(boxes(views.tokens(scores(), example=-1))) == 9
    assert len(boxes(views.tokens(scores(), example=0))) == 10


def test_several_one_under_the_other():
    figure = views.tokens(scores(), example=[2, 0])
    (drawn,) = figure.data
    assert len(drawn.y) == 9 + 10
    assert figure.layout.yaxis.ticktext == ("2", "0")
    assert figure.layout.yaxis.tickvals == (0, 2.5)
    assert min(line for line, *_, text, _ in boxes(figure) if text == "␣g") == 2.5
    assert "2 examples of 3" in figure.layout.title.text
    assert (drawn.marker.cmin, drawn.marker.cmax) == (0, pytest.approx(2.8)), "they share their colours"


def test_a_mean_where_all_have_the_same_token():
    ds = scores()
    figure = views.tokens(ds, example=None)
    drawn, differ, *_ = figure.data
    assert differ.name == "tokens differ"
    assert list(differ.text) == ["·", "·"], "one token is another, one prompt is shorter"
    assert list(differ.hovertext) == ["<b>2</b> token differs<br>tokens differ", "<b>9</b> token differs<br>tokens differ"]
    np.testing.assert_allclose(drawn.marker.color, [1 + i / 10 for i in range(9) if i != 2])
    half = 4.302653 * 1 / np.sqrt(3)  # Student's t of two degrees of freedom at 0.975, standard deviation 1
    assert drawn.hovertext[1] == f"<b>1</b> token 'def'<br>loss 1.10 ± {half:.2f} (n=3)"
    assert "mean over 3 examples" in figure.layout.title.text


def test_a_mean_of_an_array_goes_over_templates_and_roles():
    ds = scores(examples=8).isel(position=slice(0, 8))
    ds = ds.assign_coords(template=("example", [f"t{i % 4}" for i in range(8)]))
    plain, role = (
        views.tokens(one, example=None) for one in (ds, ds.assign_coords(role=("position", ["", "", "IO", *[""] * 5])))
    )
    each = np.array([[i, i + 4] for i in range(4)]).mean(-1)  # numbers of templates at place 0
    half = 3.182446 * each.std(ddof=1) / 2  # Student's t of three degrees of freedom at 0.975
    assert plain.data[0].hovertext[0].endswith(f"loss 3.50 ± {half:.2f} (n=8, 4 templates)")
    assert [trace.name for trace in plain.data[1:]] == ["tokens differ"]
    assert [trace.name for trace in role.data[1:]] == []
    assert role.data[0].text[2] == "{IO}"


def test_one_example_of_a_sweep_is_its_own_recovery(make):
    ds = make()
    figure = views.tokens(ds.sel(layer=1), example=2)
    at = ds.isel(layer=1, example=2, metric=0)
    expected = ((at["value"] - at["corrupt"]) / (at["clean"] - at["corrupt"])).values
    np.testing.assert_allclose(figure.data[0].marker.color, expected, rtol=1e-5)
    first, second, third = figure.data[0].hovertext[6].split("<br>")
    assert first == "<b>6</b> token ' John', corrupted ' Mary'"
    assert second == "recovery -0.1"
    assert third == f"logit_diff {float(at['value'][6]):.3g}, effect {float(at['value'][6] - at['corrupt']):+.3g}"
    title = figure.layout.title.text
    assert title.startswith("resid_pre: recovery of logit_diff (0 = corrupted, 1 = clean)<br>")
    assert "n=1 · layer=1" in title
    assert "example 2 of 8" in title
    limit = max(abs(expected))
    assert (figure.data[0].marker.cmin, figure.data[0].marker.cmax) == (pytest.approx(-limit), pytest.approx(limit))


def test_the_mean_of_a_sweep_has_intervals(make):
    ds = make()
    one = ds.sel(layer=1)
    figure = views.tokens(one, example=None)
    table = fx.summary(one, "recovery").isel(metric=0)
    kept = [i for i in range(10) if i != 2]  # " Anna" in every second example
    np.testing.assert_allclose(figure.data[0].marker.color, table["mean"][kept])
    mean, low, high = (float(table[c][9]) for c in ("mean", "low", "high"))
    lines = figure.data[0].hovertext[-1].split("<br>")
    assert lines[1] == f"recovery {mean:.2f} ± {(high - low) / 2:.2f} (n=8, 4 templates)"
    assert lines[2] == f"95% interval {low:.3g} to {high:.3g}"
    assert "n=8, 4 templates · layer=1" in figure.layout.title.text
    assert [trace.name for trace in figure.data[1:]] == ["tokens differ"]


def test_a_role_stands_for_tokens_that_differ(make):
    ds = make().sel(layer=1).assign_coords(role=("position", ["", "", "IO", *[""] * 7]))
    figure = views.tokens(ds, example=None)
    assert len(figure.data) == 1, "none is left out"
    assert figure.data[0].text[2] == "{IO}"
    assert figure.data[0].marker.color[2] == pytest.approx(-0.1)
    assert figure.data[0].hovertext[2].startswith("<b>2</b> token differs<br>recovery -0.10 ± ")
    assert views.tokens(ds, example=0).data[0].text[2] == "␣Anna"


def test_reasons_why_there_is_no_number(make):
    ds = make().sel(layer=1)
    ds["value"][0, 3, :] = ds["corrupt"][0] + 1e-5
    ds["value"][0, 4, 0] = np.nan
    figure = views.tokens(ds, "effect")
    assert {trace.name: list(trace.text) for trace in figure.data[1:]} == {"within noise": ["␣and"], "not computed": ["␣John"]}
    assert figure.data[1].hovertext[0].endswith("<br>within noise")
    assert len(figure.data[0].text) == 8
    undefined = views.tokens(ds.assign(clean=ds["corrupt"]), "recovery")
    assert undefined.data[1].name == "undefined: clean ≈ corrupted"


def test_roles_in_place_of_tokens(make):
    ds = make(tokens=False).sel(layer=0).assign_coords(position=[f"role {i}" for i in range(10)])
    figure = views.tokens(ds)
    assert figure.data[0].text[3] == "role␣3"
    assert figure.data[0].hovertext[3].startswith("<b>role 3</b><br>recovery ")


@pytest.mark.parametrize(("values", "limit", "scaled"), [
    ([0.1, 0.7], None, ("#440154", 0, 1)), ([0.1, 7], None, ("#440154", 0, 7)), ([-1, 0.5], None, ("rgb(103,0,31)", -1, 1)),
    ([-1, 0.5], 3, ("rgb(103,0,31)", -3, 3)),
])  # fmt: skip
def test_colours(values, limit, scaled):
    array = xr.DataArray(values, dims="position", name="loss", coords={"token": ("position", [" a", " b"])})
    marker = views.tokens(array, limit=limit).data[0].marker
    assert (marker.colorscale[0][1], marker.cmin, marker.cmax) == scaled


def test_text_is_read_on_its_colour():
    assert of_text(np.array([0.0, 1.0]), scale(np.array([0.0, 1.0]))) == ["#ffffff", "#000000"]  # Viridis is dark, then yellow
    assert of_text(np.array([-2.0, 0.0, 2.0]), scale(np.array([-2.0, 2.0]))) == ["#ffffff", "#000000", "#ffffff"]
    assert of_text(np.array([]), scale(np.array([]))) == []


@pytest.mark.parametrize("width", [views.COLUMN, views.PAGE])
@pytest.mark.parametrize("size", [1, 5, 500])
def test_text_wraps_and_nothing_overlaps(size, width):
    ds = scores(size, 1)
    ds["token"][0, 0] = "x" * 400
    figure = views.tokens(ds, width=width)
    drawn, layout = boxes(figure), figure.layout
    inner = layout.width - layout.margin.l - layout.margin.r
    assert layout.xaxis.range == (0, inner)
    assert len(drawn) == size
    assert drawn[0][3].endswith("…")
    for line, left, right, text, _ in drawn:
        letters = sum(2 if ord(c) > 0x2E80 else 1 for c in text)
        assert right - left >= 0.6 * letters * layout.font.size
        assert 0 <= left < right <= inner
        assert line <= layout.yaxis.range[0] - 0.5
    for one, other in itertools.pairwise(drawn):
        assert other[0] > one[0] or other[1] >= one[2]
    tall = layout.height - layout.margin.t - layout.margin.b
    assert tall / (layout.yaxis.range[0] - layout.yaxis.range[1]) >= 1.5 * layout.font.size
    numbers = np.concatenate([ds.values[0]])
    np.testing.assert_allclose(figure.data[0].marker.color, numbers)


def test_other_results(make):
    """Contributions by source position, a lens' entropy, and what a dataset of several has."""
    by_source = scores(axis="source_position", name="contribution").expand_dims(term=["L0H1"]).isel(term=0)
    assert "term=L0H1" in views.tokens(by_source).layout.title.text
    assert views.tokens(by_source).data[0].text[1] == "def"
    lens = scores(name="entropy", word="input_token")
    assert views.tokens(lens.to_dataset()).data[0].text[1] == "def"
    both = xr.Dataset({"logprob": scores(), "kl": scores(), "nll": ("example", np.zeros(3))})
    assert views.tokens(both, "kl").layout.annotations[0].text == "kl"
    with pytest.raises(InputError, match="this result has 2 variables along positions; name one of them: 'logprob', 'kl'"):
        views.tokens(both)
    with pytest.raises(UnknownNameError, match="unknown quantity 'loprob' of this result; did you mean 'logprob'"):
        views.tokens(both, "loprob")


def test_templates_and_nothing_global(make):
    ds, before = make().sel(layer=1), pio.templates.default
    copy = ds.copy(deep=True)
    dark = views.tokens(ds, template="plotly_dark", title="mine", width=views.COLUMN)
    assert dark.layout.template.layout.paper_bgcolor == pio.templates["plotly_dark"].layout.paper_bgcolor
    assert dark.layout.title.text.startswith("mine<br>")
    assert dark.layout.width == views.COLUMN
    assert pio.templates.default == before
    assert ds.identical(copy)


def test_mistakes_are_told(make):
    with pytest.raises(PositionError, match="example=8, but this result has 8 of them, 0 to 7"):
        views.tokens(make().sel(layer=1), example=[0, 8])
    with pytest.raises(fx.EffectsError, match=r"holds several families \(a, b\); choose one"):
        inspect.unwrap(views.tokens)(xr.DataTree.from_dict({"a": make().sel(layer=1), "b": make().sel(layer=2)}))
    with pytest.raises(PositionError, match="example is an empty list"):
        views.tokens(scores(), example=[])
    with pytest.raises(InputError, match=r"besides position this result has layer \(4\); select, e.g. results.isel\(layer=0\)"):
        views.tokens(make())
    with pytest.raises(InputError, match="and no position"):
        views.tokens(scores().isel(position=0))
    with pytest.raises(UnknownNameError, match="unknown metric 'prob' of an array without such an axis"):
        views.tokens(scores(), metric="prob")
    with pytest.raises(UnknownNameError, match=r"unknown quantity 'recover'.*did you mean"):
        views.tokens(make().sel(layer=1), "recover")
