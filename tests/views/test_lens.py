"""Tables of a lens, tested on what the figure contains; the numbers are made by a formula."""

import html
import re

import numpy as np
import plotly.io as pio
import pytest
import xarray as xr

from interp import views
from interp.errors import PositionError, UnknownNameError

WORDS = ["<|endoftext|>", " Mary", " and", "\n", " <b>John</b>", " internationalisation", "日本語", " "]


def made_up(layers=4, size=8, examples=2, answer=True):
    """Probability (layer + 1) / (layers + 1) of rank 1 at every place, a tenth of it of rank 2; prompt 1 is shorter."""
    depth = np.arange(-1, layers)
    shape = (examples, layers + 1, size)
    share = np.broadcast_to(((depth + 2) / (layers + 2))[None, :, None], shape)
    prob = np.stack([share, share / 10], -1).astype("float32")
    rank = np.broadcast_to(10.0 ** (layers - 1 - depth).clip(0, 4)[None, :, None], shape).astype("float32")
    tokens = np.empty((*shape, 2), object)
    for place in np.ndindex(*tokens.shape):
        tokens[place] = WORDS[sum(place) % len(WORDS)]
    three, four = ("example", "layer", "position"), ("example", "layer", "position", "rank")
    data = {
        "token": (four, tokens),
        "token_id": (four, np.zeros((*shape, 2), int)),
        "prob": (four, prob),
        "logit": (four, prob - 0.5),
        "entropy": (three, np.full(shape, 2.5, "float32")),
        "kl": (three, np.broadcast_to(np.arange(layers, -1, -1.0)[None, :, None], shape).astype("float32")),
        "final_rank": (three, rank),
    }
    given = np.array([[WORDS[i % len(WORDS)] for i in range(size)]] * examples, object)
    if examples > 1:
        for name in ("entropy", "kl", "final_rank"):
            data[name][1][1, :, size - 1 :] = np.nan
        prob[1, :, size - 1 :] = np.nan
        given[1, size - 1 :] = ""
    coords = {
        "layer": depth,
        "depth": ("layer", ["embed", *(f"L{i}" for i in range(layers))]),
        "position": np.arange(size),
        "rank": [1, 2],
        "prompt": ("example", ["a <b>prompt</b>\nof two lines"] * examples),
        "input_token": (("example", "position"), given),
    }
    if answer:
        data |= {"answer_rank": (three, rank * 3), "answer_prob": (three, share / 7), "answer_logit": (three, share - 1)}
        coords["answer"] = ("example", [" <Paris>"] * examples)
    attrs = {"model": "tiny <model>", "site": "resid_post", "translators": [], "given": None}
    data = {name: (dims, np.array(numbers)) for name, (dims, numbers) in data.items()}
    return xr.Dataset(data, coords, attrs)


def test_layers_from_bottom_to_top_coloured_by_probability():
    ds = made_up()
    drawn = views.lens(ds).data[0]
    np.testing.assert_allclose(drawn.z, ds.prob[0, :, :, 0])
    assert (drawn.zmin, drawn.zmax) == (0, 1)
    layout = views.lens(ds).layout
    assert layout.yaxis.ticktext == ("embed", "L0", "L1", "L2", "L3")
    assert layout.xaxis.ticktext[4] == "4 &lt;b&gt;John&lt;/b&gt;"
    assert layout.xaxis.ticktext[3] == "3 ⏎"
    assert layout.xaxis.ticktext[7] == "7 ␣"
    assert "logit lens of resid_post: probability of the most probable token" in layout.title.text
    assert "tiny &lt;model&gt; · “a &lt;b&gt;prompt&lt;/b&gt; of two lines” · answer ' &lt;Paris&gt;'" in layout.title.text


def test_cells_say_the_token_and_the_hover_the_list():
    ds = made_up()
    drawn = views.lens(ds).data[0]
    assert drawn.texttemplate == "%{text}"
    assert worded(drawn.text[0][1])[0] == "Mary"
    assert worded(drawn.text[0][4])[0] in ("&lt;b&gt;J…", "&lt;b&gt;John…", "&lt;b&gt;Jo…")
    lines = drawn.customdata[2][4].split("<br>")
    assert lines[0] == "<b>L1@4</b> token ' &lt;b&gt;John&lt;/b&gt;'"
    assert lines[1] == f"0.500  {html.escape(repr(ds.token[0, 2, 4, 0].item()), quote=False)}"
    assert lines[2].startswith("0.050  ")
    assert lines[3] == "entropy 2.50, KL(final ‖ lens) 2.00 nats, final top token at rank 100"
    assert lines[4] == "answer ' &lt;Paris&gt;': 0.0714, rank 300"


def worded(text):
    """The word in a cell, and its colour."""
    colour, word = re.fullmatch(r"<span style='color:(#[0-9a-f]{6})'>(.*)</span>", text).groups()
    return word, colour


def luminance(red, green, blue):
    """WCAG 2.2, of sRGB from 0 to 255."""
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def channels(colour):
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)] if colour[0] == "#" else [*map(int, re.findall(r"\d+", colour))]


@pytest.mark.parametrize("template", ["plotly_white", "plotly_dark"])
@pytest.mark.parametrize("value", ["prob", "logit", "kl", "final_rank", "answer_rank"])
def test_words_have_contrast_on_their_cells(value, template):
    ds = made_up(layers=40)
    ds["logit"] = ds["logit"] - ds["logit"].mean()
    drawn = views.lens(ds, value, template=template).data[0]
    ends, stops = zip(*drawn.colorscale, strict=True)
    share = np.clip((np.asarray(drawn.z) - drawn.zmin) / (drawn.zmax - drawn.zmin), 0, 1)
    cells = np.stack([np.interp(share, ends, column) for column in zip(*map(channels, stops), strict=True)], -1)
    contrasts, used = [], set()
    for place in np.ndindex(*share.shape):
        word = worded(drawn.text[place])[1]
        used.add(word)
        one, other = luminance(*cells[place]) + 0.05, luminance(*channels(word)) + 0.05
        contrasts.append(max(one, other) / min(one, other))
    assert min(contrasts) >= 4.5
    assert used == {"#000000", "#ffffff"}


def test_a_shorter_prompt_has_fewer_columns():
    drawn = views.lens(made_up(), example=1)
    assert drawn.data[0].z.shape == (5, 7)
    assert np.isfinite(drawn.data[0].z).all()
    assert len(drawn.layout.xaxis.tickvals) == 7


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [("kl", 0, 4), ("entropy", 0, 2.5), ("logit", -1 / 3, 1 / 3), ("final_rank", 0, 4), ("answer_rank", 0, 5)],
)
def test_other_values(value, low, high):
    drawn = views.lens(made_up(), quantity=value).data[0]
    assert (drawn.zmin, drawn.zmax) == pytest.approx((low, high), abs=1e-6)
    assert drawn.colorbar.title.text == {"kl": "nats", "entropy": "nats", "logit": "logit"}.get(value, "rank")
    if value == "answer_rank":
        np.testing.assert_allclose(drawn.z[-1], np.log10(3), atol=1e-6)
        assert drawn.colorbar.ticktext == ("1", "10", "100", "1k", "10k", "100k")
        assert drawn.colorscale[0][1] == "#fde725"  # the first is the brightest


WORDED = {(1, 5, None), (1, 5, views.COLUMN), (12, 15, None), (30, 20, views.PAGE)}
"""Where words have room."""


@pytest.mark.parametrize(
    ("layers", "size", "width"),
    [(1, 5, None), (1, 5, views.COLUMN), (12, 15, None), (30, 20, views.PAGE), (80, 500, None), (80, 500, views.COLUMN)],
)
def test_text_fits_at_any_size(layers, size, width):
    figure = views.lens(made_up(layers, size), width=width)
    layout, drawn = figure.layout, figure.data[0]
    wide = (layout.width - layout.margin.l - layout.margin.r) / size
    tall = (layout.height - layout.margin.t - layout.margin.b) / (layers + 1)
    assert wide > 0
    assert tall > 0
    if drawn.text is not None:
        longest = max(sum(2 if ord(c) > 0x2E80 else 1 for c in html.unescape(worded(t)[0])) for row in drawn.text for t in row)
        assert longest * 0.62 * drawn.textfont.size <= wide
        assert drawn.textfont.size <= tall
    assert (drawn.text is not None) == ((layers, size, width) in WORDED)
    for axis, room, lying in ((layout.xaxis, wide, layout.xaxis.tickangle == 0), (layout.yaxis, tall, False)):
        gaps = np.diff(axis.tickvals) * room
        longest = max(len(html.unescape(t)) for t in axis.ticktext)
        assert (gaps >= (0.6 * longest if lying else 1) * layout.font.size).all()
    assert layout.width <= 960


@pytest.mark.parametrize(("tokens", "width"), [(5, views.PAGE), (12, 846), (25, 960), (60, views.PAGE), (500, views.PAGE)])
def test_it_is_as_wide_as_words_in_its_cells_need(tokens, width):
    """58 pixels a token, 960 at most; no wider than a page where there is no room for words at that width either."""
    figure = views.lens(made_up(4, tokens))
    assert figure.layout.width == width
    assert (figure.data[0].text is not None) == (tokens < 60)


def test_templates_and_nothing_global():
    ds, before = made_up(), pio.templates.default
    copy = ds.copy(deep=True)
    dark = views.lens(ds, template="plotly_dark", title="mine")
    assert dark.layout.template.layout.paper_bgcolor == pio.templates["plotly_dark"].layout.paper_bgcolor
    assert "mine" in dark.layout.title.text
    assert pio.templates.default == before
    assert ds.identical(copy)


def test_a_tuned_lens_and_what_is_given_are_said():
    ds = made_up().assign_attrs(translators=[0, 1], given="Intervention(L0H1.z)")
    title = views.lens(ds).layout.title.text
    assert "tuned lens of resid_post" in title
    assert "given Intervention(L0H1.z)" in title


def test_mistakes_are_told():
    ds = made_up(answer=False)
    with pytest.raises(UnknownNameError, match="unknown quantity 'probs' of a lens; did you mean 'prob'"):
        views.lens(ds, quantity="probs")
    with pytest.raises(UnknownNameError, match="unknown quantity 'answer_rank' of a lens: lens had no answer"):
        views.lens(ds, quantity="answer_rank")
    with pytest.raises(PositionError, match="example=2, but this result has 2 of them, 0 to 1"):
        views.lens(ds, example=2)
    with pytest.raises(UnknownNameError, match=r"unknown variable 'token' of this result, which views.lens draws"):
        views.lens(xr.Dataset())
