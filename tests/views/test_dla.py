"""Bars of direct logit attribution, tested on what the figure contains; the numbers are made by a formula."""

import html

import numpy as np
import plotly.io as pio
import pytest
import xarray as xr
from scipy import stats

from interp import views
from interp.errors import PositionError, UnknownNameError


def made_up(terms=30, examples=4, sources=0):
    """Term i adds (−1)^i · i, a little more in every example; spread evenly over source positions where there are some."""
    each = np.array([[(-1) ** i * i * (1 + 0.1 * e) for i in range(terms)] for e in range(examples)])
    names = ["embed", "L0.mlp_out<b>", *(f"L{i // 4}H{i % 4}" for i in range(2, terms))]
    coords = {
        "term": names,
        "prompt": ("example", [f"prompt {e} <i>" for e in range(examples)]),
        "answer": ("example", [" Mary"] * examples),
        "wrong": ("example", [" John"] * examples),
    }
    data = {"total": ("example", each.sum(-1)), "logit_diff": ("example", each.sum(-1))}
    if sources:
        each = np.repeat(each[..., None] / sources, sources, -1)
        coords |= {
            "source_position": range(sources),
            "source_token": (("example", "source_position"), [[" a", "\n", " <b>", " d"][:sources]] * examples),
        }
    data["contribution"] = (("example", "term", "source_position") if sources else ("example", "term"), each)
    return xr.Dataset(data, coords, {"model": "tiny <model>"})


def test_bars_by_size_and_a_rest_that_makes_them_add_up():
    ds = made_up()
    figure = views.dla(ds, top=5)
    bars = figure.data[0]
    mean = ds.contribution.mean("example").values
    np.testing.assert_allclose(bars.x[:5], mean[[29, 28, 27, 26, 25]])
    assert bars.x.sum() == pytest.approx(float(ds.total.mean()))
    assert figure.layout.yaxis.ticktext == ("L7H1", "L7H0", "L6H3", "L6H2", "L6H1", "rest (25)")
    assert figure.layout.yaxis.autorange == "reversed"
    assert (bars.marker.cmin, bars.marker.cmax) == (-abs(bars.x).max(), abs(bars.x).max())
    total = f"{float(ds.total.mean()):.3g}"
    assert f"tiny &lt;model&gt; · total {total} · logit difference {total} · n=4" in figure.layout.title.text


def test_examples_of_one_template_count_once():
    """Each template's examples are equal: as good as one example a template, and the interval is Student's over these."""
    few, templates = made_up(examples=5), [f"t{i}" for i in range(5)]
    many = few.isel(example=np.repeat(range(5), 4)).assign_coords(template=("example", np.repeat(templates, 4)))
    bars = views.dla(many).data[0]
    np.testing.assert_allclose(bars.error_x.array, views.dla(few).data[0].error_x.array, rtol=1e-6)
    assert "(n=20, 5 templates)" in bars.customdata[0]
    assert "n=20, 5 templates" in views.dla(many).layout.title.text
    by_source = made_up(examples=5, sources=4).isel(example=np.repeat(range(5), 4))
    hover = views.dla(by_source.assign_coords(template=("example", np.repeat(templates, 4)))).data[0].customdata[0][0]
    assert hover.endswith("(n=20, 5 templates)")


def test_intervals_are_students_and_of_the_rests_sum():
    ds = made_up()
    figure = views.dla(ds, top=5)
    numbers = ds.contribution.values[:, 29]
    half = stats.t.ppf(0.975, 3) * numbers.std(ddof=1) / 2
    assert figure.data[0].error_x.visible
    np.testing.assert_allclose(figure.data[0].error_x.array[0], half)
    rest = ds.contribution.values[:, :25].sum(-1)
    np.testing.assert_allclose(figure.data[0].error_x.array[-1], stats.t.ppf(0.975, 3) * rest.std(ddof=1) / 2)
    assert figure.data[0].customdata[0].startswith("<b>L7H1</b> -33.35 ± ")


def test_one_example_has_no_interval():
    ds = made_up()
    for figure in (views.dla(ds, example=2), views.dla(ds.isel(example=[2])), views.dla(ds.isel(example=2))):
        np.testing.assert_allclose(figure.data[0].x[0], ds.contribution[2, 29])
        assert not figure.data[0].error_x.visible
        under = figure.layout.title.text.replace("<br>", " · ")
        assert "“prompt 2 &lt;i&gt;”" in under
        assert "' Mary' against ' John'" in under
    assert views.dla(ds, example=2).data[0].customdata[0] == "<b>L7H1</b> -34.8 (n=1)"


def test_few_terms_have_no_rest():
    assert len(views.dla(made_up(6), top=5).data[0].x) == 6  # a rest of one term is that term
    assert views.dla(made_up(3)).layout.yaxis.ticktext == ("L0H2", "L0.mlp_out&lt;b&gt;", "embed")
    assert views.dla(made_up(3) * 0).data[0].marker.cmax == 1


def test_by_source_token_it_is_a_map():
    ds = made_up(sources=4)
    figure = views.dla(ds, top=5)
    drawn = figure.data[0]
    assert drawn.type == "heatmap"
    assert drawn.z.shape == (6, 4)
    assert drawn.z.sum() == pytest.approx(float(ds.total.mean()))
    assert drawn.zmin == -drawn.zmax
    assert figure.layout.xaxis.ticktext == ("0 a", "1 ⏎", "2 &lt;b&gt;", "3 d")
    numbers = ds.contribution.values[:, 29, 2]
    half = stats.t.ppf(0.975, 3) * numbers.std(ddof=1) / 2
    assert drawn.customdata[0][2] == f"<b>L7H1</b> from 2 &lt;b&gt;<br>{numbers.mean():.2f} ± {half:.2f} (n=4)"
    assert views.dla(made_up(sources=4), example=1).data[0].z.shape == (21, 4)


def test_source_tokens_that_differ_are_their_role_or_both():
    ds = made_up(sources=4)
    ds["source_token"][0, 1:3] = [" c", " e"]
    ds = ds.assign_coords(source_role=("source_position", ["", "S1", "", "END"]))
    assert views.dla(ds, top=5).layout.xaxis.ticktext == ("0 a", "1 {S1}", "2 e|&lt;b&gt;", "3 d")


def test_tokens_of_prompts_of_unequal_length_are_not_averaged():
    ds = made_up(sources=4)
    ds["contribution"][1, :, 3] = np.nan
    with pytest.raises(
        PositionError, match="differ in length, so that their tokens cannot be averaged; choose one with example=0"
    ):
        views.dla(ds)
    assert views.dla(ds, example=1).data[0].z.shape == (21, 3)


@pytest.mark.parametrize(("terms", "top", "width"), [(3, 20, views.COLUMN), (500, 20, views.PAGE), (500, 200, views.PAGE)])
def test_labels_never_overlap(terms, top, width):
    layout = views.dla(made_up(terms), top=top, width=width).layout
    tall = layout.height - layout.margin.t - layout.margin.b
    assert (np.diff(layout.yaxis.tickvals) * tall / min(terms, top + 1) >= layout.font.size).all()
    longest = max(len(html.unescape(t)) for t in layout.yaxis.ticktext)
    assert layout.margin.l >= 0.6 * layout.font.size * longest
    assert layout.xaxis.tickmode == "auto"
    assert layout.width == width


def test_a_dark_template_and_no_global_change():
    ds, before = made_up(), pio.templates.default
    copy = ds.copy(deep=True)
    dark = views.dla(ds, template="plotly_dark", title="mine")
    assert dark.layout.template.layout.paper_bgcolor == pio.templates["plotly_dark"].layout.paper_bgcolor
    assert "mine" in dark.layout.title.text
    assert pio.templates.default == before
    assert ds.identical(copy)


def test_mistakes_are_told():
    with pytest.raises(UnknownNameError, match=r"unknown variable 'contribution' of this result, which views.dla draws"):
        views.dla(xr.Dataset())
    with pytest.raises(ValueError, match="top=0; expected how many terms"):
        views.dla(made_up(), top=0)
    with pytest.raises(PositionError, match="example=4, but this result has 4"):
        views.dla(made_up(), example=4)
