"""What every view keeps to: its title, its hover, its labels, its colours, and nothing global.

Made-up results of the right form, of one layer and 5 tokens and of 80 layers and 500 tokens, at both widths of print, light and
dark. A view without a case here fails :func:`test_every_view_has_a_case`: add one, a function of the number of layers and of
tokens that makes what the view draws (several arguments as a tuple).
"""

from __future__ import annotations

import html
import inspect
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest
import xarray as xr
from plotly.colors import get_colorscale

from interp import effects as fx
from interp import views
from interp.effects.gating import taxonomy
from interp.errors import InputError, UnknownNameError

MODEL = "an-organisation/a-model-of-a-rather-long-name-7b-instruct"
WORDS = ["<|endoftext|>", " The", " internationalisation", " of", "\n", " <b>", "日本語", ",", " was", " unfinished"]
SIZES = [(1, 5), (80, 500)]
WIDTHS = [views.PAGE, views.COLUMN]
#: Okabe and Ito, Color Universal Design, 2008, with olive for their yellow; and two ends of RdBu.
SAFE = {"#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C00", "#4393c3", "#d6604d", "white", "black"}
GLYPH = 0.6
"""Width of a character, in sizes of its type."""


@dataclass(frozen=True)
class Case:
    """A kind of result that a view draws."""

    view: str
    make: Callable[[int, int], Any]
    options: Callable[[int, int], dict[str, Any]]
    n: bool
    """Whether the hover says of how many examples a number is."""


CASES: dict[str, Case] = {}


def case(
    view: str, *, n: bool, options: Callable[[int, int], dict[str, Any]] = lambda layers, tokens: {}
) -> Callable[..., Any]:
    """Register a function of the number of layers and of tokens that makes a result."""

    def registered(make: Callable[[int, int], Any]) -> Callable[[int, int], Any]:
        CASES[make.__name__] = Case(view, make, options, n)
        return make

    return registered


# ---------------------------------------------------------------------------------------------------------------- results


def drawn(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(size=shape)


def words(tokens: int) -> list[str]:
    return [WORDS[i % len(WORDS)] for i in range(tokens)]


def sweep(axes: dict[str, Any], examples: int = 6, site: str = "resid_post", **coords: Any) -> xr.Dataset:
    clean = np.abs(drawn(1, examples)).astype("float32") + 2
    shape = (1, *map(len, axes.values()), examples)
    attrs = {
        "patching": "denoising",
        "noise_floor": {"logit_diff": 0.0},
        "engine_semantics": 1,
        "spec": {},
        "model": MODEL,
        "task": "ioi",
        "site": site,
        "source": "clean run",
    }
    value = drawn(*shape).astype("float32")
    return fx.assemble(value, clean=clean, corrupt=-clean, axes=axes, metrics=["logit_diff"], attrs=attrs, coords=coords)


def by_position(layers: int, tokens: int, site: str = "resid_post") -> xr.Dataset:
    table = np.repeat(np.array(words(tokens), object)[:, None], 6, 1)
    return sweep({"layer": range(layers), "position": range(tokens)}, site=site, clean_token=table, corrupted_token=table)


@case("heatmap", n=True)
def positions(layers: int, tokens: int) -> xr.Dataset:
    return by_position(layers, tokens)


@case("heatmap", n=True)
def heads(layers: int, tokens: int) -> xr.Dataset:
    return sweep({"layer": range(layers), "head": range(32)}, site="z")


@case("maps", n=False)
def under_several_choices(layers: int, tokens: int) -> dict[str, xr.DataArray]:
    return {
        f"{way} · str · {metric}": fx.recovery(heads(layers, tokens)).isel(metric=0)
        for way in ("denoising", "noising")
        for metric in ("logit_diff", "prob", "kl")
    }


@case("heatmap", n=True, options=lambda layers, tokens: {"slider": "layer"})
def a_slider(layers: int, tokens: int) -> xr.Dataset:
    return sweep({"layer": range(layers), "head": range(4), "position": range(min(tokens, 12))}, site="z", examples=3)


@case("heatmap", n=True)
def scores_of_heads(layers: int, tokens: int) -> xr.DataArray:
    coords = {"layer": range(layers), "head": range(32)}
    return xr.DataArray(drawn(5, layers, 32), coords, ("example", "layer", "head"), name="score", attrs={"model": MODEL})


@case("heatmap", n=False)
def weights(layers: int, tokens: int) -> xr.DataArray:
    coords = {"layer": range(layers), "name": [f"a component with a long name, number {i}" for i in range(tokens)]}
    return xr.DataArray(drawn(layers, tokens), coords, ("layer", "name"), name="norm", attrs={"model": MODEL})


@case("curve", n=True, options=lambda layers, tokens: {"x": "layer"})
def by_layer(layers: int, tokens: int) -> xr.Dataset:
    return sweep({"layer": range(layers), "position": ["subject", "END"]})


@case("curve", n=True, options=lambda layers, tokens: {"x": "position"})
def by_token(layers: int, tokens: int) -> xr.Dataset:
    return by_position(1, tokens).isel(layer=0)


@case("curve", n=True, options=lambda layers, tokens: {"x": "layer"})
def panels(layers: int, tokens: int) -> xr.Dataset:
    data = {name: (("layer", "example"), drawn(layers, 5)) for name in ("score", "loss")}
    return xr.Dataset(data, {"layer": range(layers)}, {"model": MODEL})


def terms(layers: int) -> list[str]:
    return ["embed", *(f"L{layer}{part}" for layer in range(layers) for part in ("H0", "H31", ".mlp_out"))]


@case("dla", n=True)
def contributions(layers: int, tokens: int) -> xr.Dataset:
    data = {"contribution": (("example", "term"), drawn(4, len(terms(layers)))), "total": ("example", drawn(4))}
    return xr.Dataset(data, {"term": terms(layers)}, {"model": MODEL})


@case("dla", n=True)
def contributions_of_tokens(layers: int, tokens: int) -> xr.Dataset:
    data = {"contribution": (("example", "term", "source_position"), drawn(4, len(terms(layers)), tokens))}
    coords = {
        "term": terms(layers),
        "source_position": range(tokens),
        "source_token": (("example", "source_position"), np.array([words(tokens)] * 4, object)),
    }
    return xr.Dataset(data, coords, {"model": MODEL})


@case("head_to_head", n=False)
def composition(layers: int, tokens: int) -> xr.DataArray:
    names = [f"L{layer}H{head}" for layer in range(layers) for head in range(4)]
    return xr.DataArray(
        drawn(len(names), len(names)), {"sender": names, "receiver": names}, ("sender", "receiver"), attrs={"model": MODEL}
    )


@case("attention", n=False, options=lambda layers, tokens: {"layer": 0} if layers * tokens**2 > 1_000_000 else {})
def patterns(layers: int, tokens: int) -> xr.Dataset:
    pattern = np.full((1, layers, 2, tokens, tokens), 1 / tokens, "float32")
    coords = {axis: range(n) for axis, n in (("layer", layers), ("head", 2), ("position", tokens), ("source_position", tokens))}
    coords |= {
        "token": (("example", "position"), [words(tokens)]),
        "source_token": (("example", "source_position"), [words(tokens)]),
    }
    dims = ("example", "layer", "head", "position", "source_position")
    return xr.Dataset({"pattern": (dims, pattern)}, coords, {"model": MODEL})


@case("lens", n=False, options=lambda layers, tokens: {"quantity": "entropy"})
def decoded(layers: int, tokens: int) -> xr.Dataset:
    three, shape = ("example", "layer", "position"), (1, layers, tokens)
    table = np.broadcast_to(np.array(words(tokens), object)[:, None], (*shape, 1))
    data = {"token": ((*three, "rank"), table), "prob": ((*three, "rank"), np.full((*shape, 1), 0.5))}
    data |= {name: (three, np.abs(drawn(*shape)) + 1) for name in ("entropy", "kl", "final_rank")}
    coords = {"layer": range(layers), "position": range(tokens), "rank": [1]}
    coords |= {"depth": ("layer", [f"L{i}" for i in range(layers)]), "input_token": (("example", "position"), [words(tokens)])}
    return xr.Dataset(data, coords, {"model": MODEL, "site": "resid_post"})


@case("tracing", n=True)
def families(layers: int, tokens: int) -> xr.DataTree:
    return xr.DataTree.from_dict({site: by_position(layers, tokens, site) for site in ("resid_post", "mlp_out", "attn_out")})


def graph(layers: int) -> xr.DataArray:
    nodes = [(layer, head) for layer in range(layers) for head in (0, 1, -1)]
    ends = [((-1, -1), node) for node in nodes] + [(node, (-1, -1)) for node in nodes]
    ends += [(one, other) for one in nodes for other in nodes if other[0] == one[0] + 1]
    coords = {
        f"{side}_{what}": ("cell", [end[i][j] for end in ends])
        for i, side in enumerate(("sender", "receiver"))
        for j, what in enumerate(("layer", "head"))
    }
    coords |= {"slot": ("cell", ["v" if to[1] >= 0 else "" for _, to in ends])}
    coords |= {"receiver_heads": ("cell", [int(to[1] >= 0) for _, to in ends])}
    return xr.DataArray(drawn(5, len(ends)), coords, ("example", "cell"), name="score", attrs={"model": MODEL})


@case("circuit", n=True)
def edges(layers: int, tokens: int) -> xr.DataArray:
    return graph(layers)


@case("paths", n=True)
def paths_of_edges(layers: int, tokens: int) -> xr.DataArray:
    return graph(layers)


@case("tokens", n=True, options=lambda layers, tokens: {"example": None})
def losses(layers: int, tokens: int) -> xr.DataArray:
    coords = {"position": range(tokens), "token": (("example", "position"), [words(tokens)] * 4)}
    return xr.DataArray(drawn(4, tokens), coords, ("example", "position"), name="loss", attrs={"model": MODEL})


def of_circuits(count: int) -> xr.Dataset:
    return sweep({"cell": range(count)}, size=("cell", np.linspace(0.01, 1, count).tolist()))


@case("faithfulness", n=True)
def by_size(layers: int, tokens: int) -> xr.Dataset:
    return of_circuits(max(2, layers))


@case("pareto", n=True)
def frontier(layers: int, tokens: int) -> dict[str, xr.Dataset]:
    return {name: of_circuits(tokens) for name in ("edge attribution patching", "hard concrete")}


@case("roc", n=False)
def ranked(layers: int, tokens: int) -> tuple[xr.DataArray, xr.DataArray]:
    coords, true = {"edge": range(4 * tokens)}, np.arange(4 * tokens) % 3 == 0
    scores = xr.DataArray(drawn(4 * tokens), coords, ("edge",), attrs={"model": MODEL})
    return scores, xr.DataArray(true, coords, ("edge",))


@case("gates", n=False)
def gates_of_heads(layers: int, tokens: int) -> xr.Dataset:
    gate = np.random.default_rng(0).uniform(size=(10, 3, layers, 32))
    coords = {"seed": range(10), "stage": ["A", "B+", "B-"], "layer": range(layers), "head": range(32)}
    attrs = {"model": MODEL, "task": "ioi", "site": "z"}
    found = xr.Dataset({"gate": (("seed", "stage", "layer", "head"), gate)}, coords, attrs)
    return found.merge(taxonomy(found["gate"].sel(stage="B+", drop=True), found["gate"].sel(stage="B-", drop=True)))


@case("iia", n=True)
def accuracies(layers: int, tokens: int) -> xr.Dataset:
    data = {"iia": (("layer", "example"), (drawn(layers, 20) > 0).astype(float)), "chance": 0.5}
    return xr.Dataset(data, {"layer": range(layers)}, {"model": MODEL})


@case("compare", n=True)
def estimates(layers: int, tokens: int) -> tuple[xr.Dataset, xr.Dataset]:
    return by_position(layers, min(tokens, 50)), by_position(layers, min(tokens, 50))


@case("specification_curve", n=True)
def analyses(layers: int, tokens: int) -> xr.Dataset:
    z, many = drawn(4 * tokens, layers, 3), 4 * tokens
    choices = {"patching": ["denoising", "noising"], "metric": ["logit_diff", "kl"], "group": ["all", "ioi/0", "ioi/1"]}
    coords: dict[str, Any] = {"layer": range(layers), "head": range(3), "n": ("analysis", [64] * many)}
    coords |= {name: ("analysis", [levels[n % len(levels)] for n in range(many)]) for name, levels in choices.items()}
    dims = ("analysis", "layer", "head")
    matters = np.abs(z) >= 2
    data = {"score": (dims, z), "z": (dims, z), "matters": (dims, matters), "share": (dims[1:], matters.mean(0))}
    return xr.Dataset(data, coords, {"model": MODEL, "site": "z", "deviations": 2.0})


@case("causal_model", n=False)
def algorithm(layers: int, tokens: int) -> xr.Dataset:
    """A row of inputs, and a variable a layer that is made of the one before and of an input."""
    inputs, inner = [f"an input, number {i}" for i in range(min(tokens, 12))], [f"<b>{i}" for i in range(min(layers, 9))]
    names = [*inputs, *inner]
    parents = np.zeros((len(names), len(names)), bool)
    for i in range(len(inner)):
        parents[len(inputs) + i, [i % len(inputs), len(inputs) + i - 1]] = True
    coords: dict[str, Any] = {
        "variable": names,
        "parent": names,
        "depth": ("variable", [0] * len(inputs) + [i + 1 for i in range(len(inner))]),
    }
    role = ["input"] * len(inputs) + ["inner"] * (len(inner) - 1) + ["output"]
    coords |= {"role": ("variable", role), "kind": ("variable", ["Boolean()"] * len(names))}
    return xr.Dataset({"parents": (("variable", "parent"), parents)}, coords, {"name": "a chain", "model": MODEL})


# ------------------------------------------------------------------------------------------------------- what is checked


@cache
def figure_of(name: str, layers: int, tokens: int, width: int = views.PAGE) -> go.Figure:
    one = CASES[name]
    made = one.make(layers, tokens)
    return getattr(views, one.view)(*arguments(made), **one.options(layers, tokens), width=width)


def arguments(made: Any) -> tuple[Any, ...]:
    return made if isinstance(made, tuple) else (made,)


def plain(text: str | None) -> str:
    return html.unescape(re.sub("<[^>]*>", "", text or ""))


def cells(text: str) -> int:
    """Characters, of which those of East Asia are two wide."""
    return sum(2 if ord(c) > 0x2E80 else 1 for c in text)


def axes(figure: go.Figure, side: str) -> Iterator[tuple[str, Any]]:
    """The axes with labels of their own, by the names that traces give them."""
    for key in figure.layout.to_plotly_json():
        if re.fullmatch(rf"{side}axis\d*", key):
            axis = figure.layout[key]
            if axis.tickmode == "array" and axis.ticktext and axis.showticklabels is not False and axis.visible is not False:
                yield key.replace("axis", ""), axis


def room(figure: go.Figure, name: str, axis: Any) -> float:
    """Pixels of an axis."""
    margin, (start, end) = figure.layout.margin, axis.domain or (0, 1)
    whole = figure.layout.width - margin.l - margin.r if name[0] == "x" else figure.layout.height - margin.t - margin.b
    return whole * (end - start)


def places(figure: go.Figure, name: str, axis: Any) -> np.ndarray[Any, Any]:
    """Pixels of the labels along an axis, from its start."""
    pixels = room(figure, name, axis)
    mine = [trace for trace in figure.data if (getattr(trace, f"{name[0]}axis", None) or name[0]) == name]
    values = [getattr(trace, name[0]) for trace in mine]
    if axis.type == "category":
        every = list(dict.fromkeys(value for one in values for value in one))
        return np.array([(every.index(value) + 0.5) / len(every) for value in axis.tickvals]) * pixels
    known = np.concatenate([np.asarray(one, float) for one in values if one is not None])
    low, high = np.nanmin(known), np.nanmax(known)
    half = 0.5 if any(isinstance(trace, go.Heatmap | go.Bar) for trace in mine) else 0.03 * (high - low) or 0.5
    if axis.range:
        low, high, half = *sorted(axis.range), 0
    return np.abs((np.asarray(axis.tickvals, float) - low + half) / (high - low + 2 * half)) * pixels


def size_of(figure: go.Figure, axis: Any) -> float:
    return axis.tickfont.size or figure.layout.font.size


def views_there() -> list[str]:
    """The functions of ``interp.views`` that return a figure."""
    functions = {name: inspect.unwrap(getattr(views, name)) for name in views.__all__ if callable(getattr(views, name))}
    returns = {name: getattr(f, "__annotations__", {}).get("return") for name, f in functions.items()}
    return [name for name, what in returns.items() if what in ("go.Figure", go.Figure)]


def test_every_view_has_a_case():
    assert set(views_there()) == {one.view for one in CASES.values()}


every = pytest.mark.parametrize("name", CASES)
sizes = pytest.mark.parametrize(("layers", "tokens"), SIZES)
widths = pytest.mark.parametrize("width", WIDTHS)


@every
@sizes
@widths
def test_labels_never_overlap_and_have_room(name, layers, tokens, width):
    figure = figure_of(name, layers, tokens, width)
    margin = figure.layout.margin
    assert figure.layout.width == width
    for side in "xy":
        for at, axis in axes(figure, side):
            said, size = [plain(text) for text in axis.ticktext], size_of(figure, axis)
            long = np.array([GLYPH * size * cells(text) for text in said])
            along = long if side == "x" and not axis.tickangle else np.full(len(said), size)
            gaps = np.abs(np.diff(places(figure, at, axis)))
            needed = np.array([(a + b) / 2 for a, b in pairwise(along)])
            assert (gaps >= needed).all(), f"{at}: {gaps.min():.1f} px between labels"
            across = size if side == "x" and not axis.tickangle else long.max()
            title = 1.2 * size if axis.title.text else 0
            assert across + title <= (margin.b if side == "x" else margin.l), f"{at}: {said[long.argmax()]!r} is cut"
            assert len(set(said)) == len(said)  # labels that repeat are merged
            named = 1.2 * GLYPH * size * cells(plain(axis.title.text))
            assert named <= (width if side == "x" else room(figure, at, axis)), f"{at}: {axis.title.text!r} is cut"


@every
@sizes
@widths
def test_the_title_has_the_model_and_fits(name, layers, tokens, width):
    layout = figure_of(name, layers, tokens, width).layout
    lines = [plain(line) for line in layout.title.text.split("<br>")]
    assert MODEL in "".join(lines)
    assert max(map(cells, lines)) * GLYPH * layout.font.size <= width
    assert 1.2 * layout.font.size * len(lines) <= layout.margin.t


@every
def test_inches_are_no_width(name):
    draw, one = inspect.unwrap(getattr(views, CASES[name].view)), CASES[name]
    with pytest.raises(InputError, match=r"width=3; expected pixels, 150 or more: views\.COLUMN \(312, 3\.25 in of print\)"):
        draw(*arguments(one.make(3, 5)), **one.options(3, 5), width=3)


@every
@pytest.mark.parametrize("given", ["runs/a1b2c3d4e5f6", Path("runs/a1b2c3d4e5f6"), {"mine": "runs/a1b2c3d4e5f6"}], ids=type)
def test_a_run_that_was_not_loaded_is_told_to_be(name, given):
    draw, one = inspect.unwrap(getattr(views, CASES[name].view)), CASES[name]
    _, *more = arguments(one.make(3, 5))
    with pytest.raises((InputError, fx.EffectsError), match=r"; load the run first: Store\('runs'\)\.load\('a1b2c3d4e5f6'\)$"):
        draw(given, *more, **one.options(3, 5))


def test_what_names_no_run_is_not_told_to_load_one():
    for given in (3, None, [], np.zeros(3), ""):
        with pytest.raises(fx.EffectsError, match=rf"is an xarray Dataset; got {type(given).__name__}$"):
            inspect.unwrap(views.heatmap)(given)


@every
def test_an_unknown_template_is_told(name):
    one = CASES[name]
    with pytest.raises(UnknownNameError, match=r"unknown template 'plotly_drak' of plotly; did you mean 'plotly_dark'"):
        getattr(views, one.view)(*arguments(one.make(3, 5)), **one.options(3, 5), template="plotly_drak")


@every
def test_the_hover_says_of_how_many_examples(name):
    figure = figure_of(name, 3, 5)
    said = " ".join(hover(figure))
    assert said
    assert ("n=" in said) == CASES[name].n


def hover(figure: go.Figure) -> Iterator[str]:
    for trace in figure.data:
        for part in (trace, getattr(trace, "link", None)):  # of a Sankey diagram
            for name in ("text", "hovertext", "hovertemplate", "customdata"):
                given = getattr(part, name, None)
                yield from (one for one in np.ravel(np.asarray([] if given is None else given, object)) if isinstance(one, str))


@every
def test_nothing_global_changes_nor_the_result(name):
    before, one = pio.templates.default, CASES[name]
    results = arguments(one.make(3, 5))
    copies = deepcopy(results)
    figure = getattr(views, one.view)(*results, **one.options(3, 5), template="plotly_dark")
    assert pio.templates.default == before
    for result, copy in zip(results, copies, strict=True):
        pairs = [(result[key], copy[key]) for key in result] if isinstance(result, dict) else [(result, copy)]
        assert all(one.identical(other) for one, other in pairs)
    assert figure.layout.template.layout.paper_bgcolor == pio.templates["plotly_dark"].layout.paper_bgcolor
    assert figure.layout.paper_bgcolor is None
    assert figure.layout.plot_bgcolor is None
    assert figure.layout.font.color is None  # the template's


@every
def test_colours_are_told_apart_by_all(name):
    figure = figure_of(name, 3, 5)
    for trace in figure.data:
        if isinstance(trace, go.Heatmap):
            colours = [colour for _, colour in trace.colorscale]
            known = [get_colorscale(scale) for scale in ("RdBu", "Viridis", "Viridis_r")]
            assert len(set(colours)) == 1 or colours in [[colour for _, colour in scale] for scale in known]
        elif isinstance(trace, go.Scatter) and trace.line.color is not None:
            assert trace.line.color in SAFE or grey(trace.line.color)


def grey(colour: str) -> bool:
    """``#333`` or ``#0a0a0a``."""
    digits = colour.removeprefix("#")
    return len({digits[i : i + len(digits) // 3] for i in range(0, len(digits), len(digits) // 3)}) == 1


@every
def test_the_whole_figure_can_be_written(name):
    assert pio.from_json(figure_of(name, 3, 5).to_json()).layout.title.text
