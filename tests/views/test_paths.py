"""Sankey diagrams of paths: which edges are chosen, against every path enumerated, and what the figure says of them."""

import inspect
import itertools
import re

import numpy as np
import plotly.io as pio
import pytest

from interp import effects as fx
from interp import views
from interp.errors import InputError


def links(figure):
    """Ends, width and colour of each link, and what it says."""
    link, names = figure.data[0].link, [text.split("</b>")[0][3:] for text in figure.data[0].node.customdata]
    ends = [(names[s], names[t]) for s, t in zip(link.source, link.target, strict=True)]
    return list(zip(ends, link.value, link.color, link.customdata, strict=True))


def whole_paths(ds):
    """Every path from embed to logits, as lists of cells."""
    out = {}
    for cell, (sender, receiver) in enumerate(zip(ds["sender"].values, ds["receiver"].values, strict=True)):
        out.setdefault(sender, []).append((cell, receiver.split(".")[0]))
    found, open_ones = [], [("embed", [])]
    while open_ones:
        node, path = open_ones.pop()
        for cell, to in out.get(node, []):
            (found if to == "logits" else open_ones).append([*path, cell] if to == "logits" else (to, [*path, cell]))
    return found


def test_a_path_that_is_known(make_edges):
    share = {("embed", "L0H1.v"): 0.6, ("L0H1", "L1H0.k"): -0.5, ("L1H0", "logits"): 0.8, ("embed", "L0H0.q"): 0.9}
    figure = views.paths(make_edges(mlps=False, share=lambda i, s, r: share.get((s, r), 0.001 if r == "logits" else 0.0)))
    found = links(figure)
    assert [(ends, round(width, 3)) for ends, width, *_ in found] == [
        (("embed", "L0H0"), 0.9),  # the strongest edge, with the only way on that it has
        (("embed", "L0H1"), 0.6),
        (("L0H1", "L1H0"), 0.5),
        (("L0H0", "logits"), 0.001),
        (("L1H0", "logits"), 0.8),
    ]
    assert [colour[:7] for *_, colour, _ in found] == ["#4393c3", "#4393c3", "#d6604d", "#4393c3", "#4393c3"]
    assert found[2][3].startswith("<b>L0H1 → L1H0.k</b> -0.50 ± ")
    assert "(n=8, 4 templates)" in found[2][3]
    title = figure.layout.title.text
    assert title.startswith("paths: damage of logit_diff (0 = clean, 1 = corrupted)<br>")
    assert "5 of 10 edges: the strongest 4 on whole paths, each with its strongest path" in title, (
        "the fifth is a hundred times weaker"
    )
    assert "width = |damage| of that edge alone, which does not add up along a path" in title
    assert "blue above 0, red below" in title
    assert "tiny &lt;model&gt;" in title
    assert "n=8, 4 templates" in title


@pytest.mark.parametrize("top", [1, 4, 9, 30])
def test_chosen_edges_against_every_path(make_edges, top, seed):
    draw = np.random.default_rng([seed, top])
    ds = make_edges(share=lambda i, s, r: float(draw.choice([-1, 1]) * draw.uniform(0.1, 1) ** 3))
    size = np.abs(fx.damage(ds).values[0])
    every = whole_paths(ds)
    best = {edge: max(size[path].min() for path in every if edge in path) for edge in set(itertools.chain(*every))}
    names = ds["edge"].values.tolist()
    figure = views.paths(ds, top=top)
    cells = {names.index(text.split("</b>")[0][3:]) for *_, text in links(figure)}
    inside = [path for path in every if set(path) <= cells]
    assert set(itertools.chain(*inside)) == cells, "every edge lies on a whole path of edges that are drawn"
    assert len(cells) <= max(top, max(map(len, every)))
    by_size = [edge for edge in np.argsort(-size).tolist() if size[edge] >= 0.01 * size.max()]
    many = int(re.search(r"the strongest (\d+) on whole paths", figure.layout.title.text).group(1))
    for edge in by_size[:many]:
        assert max(size[path].min() for path in inside if edge in path) == best[edge]
    for edge in by_size[many : many + 1]:
        through = [path for path in every if edge in path and size[path].min() == best[edge]]
        assert max(len(cells | set(path)) for path in through) > top, "there was no room for the next one's path"


def test_shared_keys_and_values_lead_to_the_heads_that_read_them(make_edges):
    share = {("embed", "L0H1.k"): 0.6, ("L0H2", "logits"): 0.5, ("L0H3", "logits"): 0.4}
    ds = make_edges(layers=1, heads=4, shared=2, mlps=False, share=lambda i, s, r: share.get((s, r), 0.0))
    found = links(views.paths(ds))
    assert [ends for ends, *_ in found] == [("embed", "L0H2"), ("embed", "L0H3"), ("L0H2", "logits"), ("L0H3", "logits")]
    assert found[0][1] == found[1][1]
    assert found[0][3].startswith("<b>embed → L0KV1.k</b> 0.60")
    assert found[0][3].endswith("<br>L0KV1, keys and values of L0H2 to H3")
    assert "3 of 3 edges" in views.paths(ds).layout.title.text


def test_no_whole_path(make_edges):
    figure = views.paths(make_edges(share=lambda i, s, r: 0.5 if r.startswith("L1") else 0.0))
    assert not links(figure)
    assert "0 of 45 edges: no whole path leads through them" in figure.layout.title.text.replace("<br>", " ")


def test_edges_without_embedding_or_logits(make_edges):
    """Paths then lead from nodes that nothing enters to nodes that nothing leaves."""
    ds = make_edges(layers=3, mlps=False)
    inner = ds.isel(cell=np.flatnonzero((ds["sender"] != "embed") & (ds["receiver"] != "logits")))
    ends = [ends for ends, *_ in links(views.paths(inner, top=100))]
    assert {a[:2] for a, _ in ends} == {"L0", "L1"}
    assert {b[:2] for _, b in ends} == {"L1", "L2"}
    sources, targets = {a for a, _ in ends}, {b for _, b in ends}
    assert all(name[:2] == "L0" for name in sources - targets)
    assert all(name[:2] == "L2" for name in targets - sources)


@pytest.mark.parametrize("width", [views.COLUMN, views.PAGE])
@pytest.mark.parametrize("layers", [1, 6, 14])
def test_labels_have_room_in_their_columns(make_edges, layers, width):
    """One long path, a head in each layer."""
    chain = {("embed", "L0H0.v"), (f"L{layers - 1}H0", "logits"), *((f"L{i}H0", f"L{i + 1}H0.v") for i in range(layers))}
    figure = views.paths(make_edges(layers, mlps=False, share=lambda i, s, r: 0.3 * ((s, r) in chain)), width=width)
    sankey, layout = figure.data[0], figure.layout
    assert len(links(figure)) == layers + 1
    pitch = (layout.width - layout.margin.l - layout.margin.r) / (layers + 1)
    written = [(i, label) for i, label in enumerate(sankey.node.label) if label]
    for (i, label), (j, following) in itertools.pairwise(written):
        beside = len(following) if j == layers + 1 else 0  # stands to the left of the last column
        assert (len(label) + beside) * 0.62 * sankey.textfont.size <= (j - i) * pitch
    assert written[0][1] == "embed"
    assert written[-1][1] == "logits"
    assert sankey.textfont.size >= 6.5
    assert layout.width == width


def test_templates_and_nothing_global(make_edges):
    ds, before = make_edges(), pio.templates.default
    copy = ds.copy(deep=True)
    dark = views.paths(ds, template="plotly_dark", title="mine")
    assert dark.layout.template.layout.paper_bgcolor == pio.templates["plotly_dark"].layout.paper_bgcolor
    assert dark.layout.title.text.startswith("mine<br>")
    assert pio.templates.default == before
    assert ds.identical(copy)


def test_mistakes_are_told(make_edges, make):
    with pytest.raises(fx.EffectsError, match="got list"):
        inspect.unwrap(views.paths)([make_edges()])
    with pytest.raises(ValueError, match="top=0; expected how many edges to draw"):
        views.paths(make_edges(), top=0)
    with pytest.raises(InputError, match=r"views.paths draws edges, such as interp.patch_edges gives"):
        views.paths(make())
