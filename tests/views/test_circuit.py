"""Circuit graphs, tested on what the figure contains; the numbers of the edges are made by a formula."""

import html
import inspect
import re

import numpy as np
import plotly.io as pio
import pytest
import searches
import xarray as xr

from interp import effects as fx
from interp import tasks, views
from interp.circuits import Coordinates, Graph
from interp.engine import patch_edges
from interp.errors import InputError, UnknownNameError
from interp.models import load

BLUE, RED = "#4393c3", "#d6604d"


def lines(figure):
    """Traces of edges: colour, width, dash, how many edges, whether they are shown."""
    drawn = [t for t in figure.data if t.mode == "lines" and t.line.width and t.x[0] is not None]
    return [(t.line.color, t.line.width, t.line.dash, int(np.isnan(t.x).sum()), t.visible is not False) for t in drawn]


def hovers(figure):
    """What each edge says, once."""
    texts = [t.text for t in figure.data if t.mode == "lines" and t.line.width == 0]
    return [text for trace in texts for text in trace[::3]]


def nodes(figure, faded):
    return [t for t in figure.data if t.mode == "markers" and (t.marker.opacity < 1) == faded]


def after(figure, step):
    """Which traces are shown when the slider is there."""
    return [t for t, shown in zip(figure.data, figure.layout.sliders[0].steps[step].args[0]["visible"], strict=True) if shown]


def threshold_of(step):
    """Of ``12 (≥ 0.3)``, which has two digits at most."""
    (said,) = re.findall(r"^[\d,]+ \(≥ (.+)\)$", step.label)
    assert float(said) == float(f"{float(said):.2g}")
    return float(said)


def test_a_step_shows_what_is_strong_enough(make_edges):
    ds = make_edges()
    sizes = np.abs(fx.damage(ds).isel(metric=0).values)
    figure = views.circuit(ds)
    (slider,) = figure.layout.sliders
    assert slider.currentvalue.prefix == "edges by |damage|: "
    *stops, last = slider.steps
    assert last.label == f"all {len(sizes)}"
    thresholds = [threshold_of(step) for step in stops]
    assert thresholds == sorted(thresholds, reverse=True)
    assert set(thresholds) >= {0.3, 0.2, 0.15, 0.1, 0.07, 0.05}
    for i, (threshold, step) in enumerate(zip([*thresholds, 0], slider.steps, strict=True)):
        strong = int((sizes >= threshold).sum())
        shown = [t for t in after(figure, i) if t.mode == "lines" and t.line.width and t.x[0] is not None]
        assert sum(int(np.isnan(t.x).sum()) for t in shown) == strong
        if step is not last:
            assert step.label.startswith(f"{strong} (≥ ")
            said = re.search(r"(\d+) of (\d+) edges with \|damage\| ≥ ([\d.e-]+) ", step.args[1]["title.text"])
            assert (int(said[1]), int(said[2]), float(said[3])) == (strong, len(sizes), threshold)
    assert f"{strong} of {strong} edges · the widest" in last.args[1]["title.text"], "the last step shows all"
    assert step.method == "update"


def test_it_opens_with_no_more_than_can_be_read_and_nothing_negligible(make_edges):
    ds = make_edges(layers=4, heads=6)
    figure = views.circuit(ds)
    opened = figure.layout.sliders[0].active
    shown = sum(many for *_, many, visible in lines(figure) if visible)
    assert 0 < shown <= 100 < ds.sizes["cell"]
    assert figure.layout.title.text == figure.layout.sliders[0].steps[opened].args[1]["title.text"]
    few = views.circuit(make_edges(share=lambda i, s, r: 0.5 if i == 3 else 0.001))
    assert sum(many for *_, many, visible in lines(few) if visible) == 1


def test_width_is_size_and_colour_is_sign(make_edges):
    share = {("embed", "L0H1.q"): 0.8, ("L0H1", "logits"): 0.4, ("embed", "m1"): -0.2}
    figure = views.circuit(make_edges(share=lambda i, s, r: share.get((s, r), 0.0)))
    found = sorted(lines(figure), key=lambda line: -line[1])
    assert [line[0] for line in found] == [BLUE, BLUE, RED]
    assert [line[3] for line in found] == [1, 1, 1]
    np.testing.assert_allclose([line[1] / found[0][1] for line in found], [1, 0.5, 0.25], rtol=1e-4)
    assert [t.name for t in figure.data if t.name] == ["positive", "negative"]
    assert "3 of 3 edges" in views.circuit(make_edges(share=lambda i, s, r: share.get((s, r), 0.0)), top=3).layout.title.text


def test_an_edge_says_its_number_with_interval_and_n(make_edges):
    ds = make_edges()
    table = fx.summary(ds, "damage").isel(metric=0)
    found = hovers(views.circuit(ds))
    assert len(found) == ds.sizes["cell"]
    at = ds["edge"].values.tolist().index("L0H1 → L1H2.k")
    mean, low, high = (float(table[c][at]) for c in ("mean", "low", "high"))
    (text,) = [t for t in found if t.startswith("<b>L0H1 → L1H2.k</b>")]
    first, second, third = text.split("<br>")
    assert first == f"<b>L0H1 → L1H2.k</b> {mean:.2f} ± {(high - low) / 2:.2f} (n=8, 4 templates)"
    assert second == f"95% interval {low:.3g} to {high:.3g}"
    assert third == f"effect on logit_diff {float(fx.effect(ds)[0, at].mean()):+.3g}"


def test_what_an_interval_cannot_tell_from_nothing_is_dotted(make_edges):
    ds = make_edges(share=lambda i, s, r: 0.3 if i < 2 else 0.0)
    ds["value"][0, 1] = ds["clean"][0] * np.where(np.arange(8) % 4 < 2, 0.2, 1.7)  # half of the templates up, half down
    figure = views.circuit(ds)
    assert {dash: many for *_, dash, many, _ in lines(figure)} == {"solid": 1, "dot": 1}
    assert [t.name for t in figure.data if t.name][-1] == "interval covers 0"
    found = fx.summary(ds, "damage").isel(metric=0)
    assert [bool(low <= 0 <= high) for low, high in zip(found.low[:2], found.high[:2], strict=True)] == [False, True]


def test_nodes_are_there_and_faded_without_edges(make_edges):
    share = {("embed", "L0H1.q"): 0.8, ("L0H1", "logits"): 0.4, ("embed", "m1"): -0.2}
    ds = make_edges(share=lambda i, s, r: share.get((s, r), 0.0))
    figure = views.circuit(ds)
    (every,) = nodes(figure, faded=True)
    assert len(every.x) == 2 * 4 + 2, "three heads and an MLP a layer, embedding and logits"
    named = {text.split("</b>")[0][3:]: (x, y) for x, y, text in zip(every.x, every.y, every.text, strict=True)}
    assert named["embed"] == (1, -1)
    assert named["logits"] == (1, 2)
    assert named["L1H2"] == (2, 1)
    assert named["m1"][0] > 2
    assert 1 < named["m1"][1] < 2, "an MLP comes behind its heads"
    for step, bright in ((0, {"embed", "L0H1"}), (1, {"embed", "L0H1", "logits"}), (2, {"embed", "L0H1", "logits", "m1"})):
        shown = [t for t in after(figure, step) if t.mode == "markers" and t.marker.opacity == 1]
        assert {(x, y) for t in shown for x, y in zip(t.x, t.y, strict=True)} == {named[name] for name in bright}
    told = next(text for text in every.text if text.startswith("<b>L0H1"))
    assert told.split("<br>")[1].startswith("1 in, strongest <b>embed → L0H1.q</b> 0.8")
    assert told.split("<br>")[2].startswith("1 out, strongest <b>L0H1 → logits</b> 0.4")
    assert next(text for text in every.text if "L1H0" in text) == "<b>L1H0</b><br>no edge is drawn"


def test_edges_into_one_head_stay_apart_by_slot(make_edges):
    ds = make_edges(share=lambda i, s, r: 0.5 if (s, r[:4]) == ("embed", "L1H1") else 0.0)
    figure = views.circuit(ds)
    (drawn,) = [t for t in figure.data if t.mode == "lines" and t.line.width and t.x[0] is not None]
    curves = np.array(drawn.x).reshape(3, 10)[:, :9]
    assert len(set(curves[:, -1].round(6))) == 3
    assert len(set(curves[:, 4].round(6))) == 3
    assert {text.split("</b>")[0] for text in hovers(figure)} == {f"<b>embed → L1H1.{slot}" for slot in "qkv"}


def test_keys_and_values_that_heads_share_are_nodes_of_their_own(make_edges):
    ds = make_edges(heads=4, shared=2)
    (every,) = nodes(views.circuit(ds), faded=True)
    named = {text.split("</b>")[0][3:]: x for x, text in zip(every.x, every.text, strict=True)}
    assert named["L1KV1, keys and values of L1H2 to H3"] == 2.5
    assert len(named) == 2 * (4 + 2 + 1) + 2
    assert any(text.startswith("<b>embed → L1KV1.v</b>") for text in hovers(views.circuit(ds)))
    alone = ds.drop_vars("receiver_heads")
    assert len(nodes(views.circuit(alone), faded=True)[0].x) == 2 * (4 + 1) + 2


def test_what_is_not_drawn_is_said(make_edges):
    ds = make_edges(share=lambda i, s, r: 0.3 if i % 2 else 1e-6)
    ds["value"][0, 5, 0] = np.nan
    many = ds.sizes["cell"]
    quiet = -(-many // 2)
    title = views.circuit(ds).layout.title.text
    assert f"{many - quiet - 1} of {many - quiet - 1} edges" in title
    assert f"{quiet} edges within noise" in title
    assert "1 edges not computed" in title
    kept = ds.assign_coords(in_circuit=("cell", np.arange(many) < 8))
    figure = views.circuit(kept)
    assert f"circuit of 8 of {many} edges" in figure.layout.title.text
    assert len(hovers(figure)) == 3  # 1, 3, 7
    assert len(nodes(figure, faded=True)[0].x) == 10
    nothing = views.circuit(ds.assign(corrupt=ds["clean"]))
    assert "undefined: clean ≈ corrupted" in nothing.layout.title.text
    begun = views.circuit(ds.assign(value=ds["value"] * np.nan))
    assert f"{many} edges not computed" in begun.layout.title.text
    for figure in (nothing, begun):
        assert not figure.layout.sliders
        assert not hovers(figure)


def test_only_the_strongest_of_many(make_edges):
    ds = make_edges(layers=6, heads=8)
    sizes = np.sort(np.abs(fx.damage(ds).values[0]))[::-1]
    figure = views.circuit(ds, top=50)
    assert len(hovers(figure)) == 50
    assert "the figure holds the strongest 50 of them" in figure.layout.title.text
    last = figure.layout.sliders[0].steps[-1]
    assert last.label.startswith("50 (≥ "), "not all of them"
    assert threshold_of(last) <= sizes[49]
    assert f"the widest {sizes[0]:.2g}" in figure.layout.title.text


def test_one_threshold_for_print(make_edges):
    ds = make_edges()
    sizes = np.abs(fx.damage(ds).values[0])
    figure = views.circuit(ds, threshold=0.1, width=views.COLUMN)
    assert not figure.layout.sliders
    assert len(hovers(figure)) == (sizes >= 0.1).sum()
    assert all(shown for *_, shown in lines(figure))
    assert f"{(sizes >= 0.1).sum()} of {len(sizes)} edges with |damage| ≥ 0.1" in html.unescape(figure.layout.title.text)
    assert "0 of" in views.circuit(ds, threshold=5).layout.title.text


def test_the_legend_has_what_is_drawn(make_edges):
    def named(sign):
        figure = views.circuit(make_edges(share=lambda i, s, r: sign(i) * 0.5), threshold=0.1)
        return {trace.name for trace in figure.data if trace.showlegend is not False} - {"interval covers 0"}

    assert named(lambda i: 1) == {"positive"}
    assert named(lambda i: -1) == {"negative"}
    assert named(lambda i: (-1) ** i) == {"positive", "negative"}


def test_scores_of_edges_from_anywhere(make_edges):
    ds = make_edges()
    array = fx.effect(ds).isel(metric=0, drop=True).rename("eap").assign_attrs(quantity="eap", model="gpt2")
    found = hovers(views.circuit(array))
    at = ds["edge"].values.tolist().index("embed → m1")
    (text,) = [t for t in found if t.startswith("<b>embed → m1</b>")]
    assert "(n=8)<br>95% interval" in text
    mean = array.mean("example")
    mean.attrs = array.attrs
    (text,) = [t for t in hovers(views.circuit(mean)) if t.startswith("<b>embed → m1</b>")]
    assert text == f"<b>embed → m1</b> {float(mean[at]):.4g}"
    title = views.circuit(mean).layout.title.text
    assert title.startswith("edges: eap<br>")
    assert views.circuit(mean).layout.sliders[0].currentvalue.prefix == "edges by |eap|: "
    assert "gpt2" in title
    both = xr.Dataset({"eap": mean, "ig": mean * 2, "in_circuit": ("cell", np.arange(mean.size) < 4)})
    assert "circuit of 4 of" in views.circuit(both, "ig").layout.title.text
    with pytest.raises(InputError, match="this result has 2 variables along 'cell'; name one of them: 'eap', 'ig'"):
        views.circuit(both)
    with pytest.raises(UnknownNameError, match="unknown quantity 'ef' of this result; did you mean"):
        views.circuit(both.rename(ig="eff"), "ef")
    with pytest.raises(UnknownNameError, match="it is one already; leave quantity out"):
        views.circuit(mean, "eap")


@pytest.mark.parametrize(("layers", "heads", "width"), [(1, 1, views.COLUMN), (80, 64, views.COLUMN), (80, 64, views.PAGE)])
def test_labels_have_room(make_edges, layers, heads, width):
    """Of eighty layers a tenth of the edges, as another tool's list might have them."""
    if layers == 1:
        ds = make_edges(layers, heads)
    else:
        draw = np.random.default_rng(0)
        below = draw.integers(-1, layers - 1, 20_000)
        ends = {"sender_layer": below, "sender_head": draw.integers(0, heads, 20_000), "receiver_layer": below + 1}
        ends |= {"receiver_head": draw.integers(-1, heads, 20_000)}
        ends["receiver_head"][0], ends["sender_layer"][:2] = heads - 1, layers - 1
        ends["receiver_layer"][:2] = -1
        ds = xr.DataArray(draw.normal(size=20_000), dims="cell", name="eap", coords={n: ("cell", v) for n, v in ends.items()})
    figure = views.circuit(ds, width=width)
    layout = figure.layout
    inner = layout.width - layout.margin.l - layout.margin.r, layout.height - layout.margin.t - layout.margin.b
    for axis, pixels, lying in ((layout.xaxis, inner[0], True), (layout.yaxis, inner[1], False)):
        a, b = axis.range
        room = np.diff(axis.tickvals) * pixels / (b - a)
        longest = max(len(text) for text in axis.ticktext)
        assert (room >= layout.font.size * (0.62 * longest * 0.9 if lying and longest < 3 else 1)).all()
    assert layout.yaxis.ticktext[0] == "embed"
    assert layout.yaxis.ticktext[-1] == "logits"
    assert layout.xaxis.ticktext[-1] == "MLP"
    assert layout.width == width
    assert layout.height < 1100
    assert len(figure.data) < 120


def test_templates_and_nothing_global(make_edges):
    ds, before = make_edges(), pio.templates.default
    copy = ds.copy(deep=True)
    dark = views.circuit(ds, template="plotly_dark", title="mine", width=900)
    assert dark.layout.template.layout.paper_bgcolor == pio.templates["plotly_dark"].layout.paper_bgcolor
    assert dark.layout.title.text.startswith("mine<br>")
    assert "tiny &lt;model&gt; · ioi" in dark.layout.title.text
    assert pio.templates.default == before
    assert ds.identical(copy)


def test_mistakes_are_told(make_edges, make):
    ds = make_edges()
    with pytest.raises(InputError, match=r"interp.patch_edges gives, and this result has no sender_layer, .* along 'cell'"):
        views.circuit(make())
    with pytest.raises(fx.EffectsError, match="got list"):
        inspect.unwrap(views.circuit)([ds])
    with pytest.raises(InputError, match="no edge in it"):
        views.circuit(ds.isel(cell=slice(0)))
    with pytest.raises(ValueError, match="top=0; expected how many edges to hold"):
        views.circuit(ds, top=0)
    with pytest.raises(ValueError, match="threshold=-1; expected how strong an edge must be"):
        views.circuit(ds, threshold=-1)
    with pytest.raises(UnknownNameError, match="unknown metric 'prob'"):
        views.circuit(ds, metric="prob")
    seeds = fx.effect(ds).expand_dims(seed=[0, 1]).isel(metric=0)
    with pytest.raises(InputError, match=r"has the axes seed too; select, e.g. results.isel\(seed=0\)"):
        views.circuit(seeds)


def test_the_slider_works_in_a_browser(make_edges, browse, tmp_path):
    ds = make_edges()
    figure = views.circuit(ds)
    at = [step.label.endswith("(≥ 0.3)") for step in figure.layout.sliders[0].steps].index(True)
    path = views.save(figure, tmp_path / "circuit.html")
    page = path.read_text(encoding="utf-8")
    move = (
        "<script>setTimeout(() => { const graph = document.querySelector('.plotly-graph-div');"
        f"const step = graph.layout.sliders[0].steps[{at}];"
        "Plotly.update(graph, ...step.args).then(() => {"
        "document.title = graph._fullData.filter(t => t.visible === true && t.mode === 'lines' && t.line.width > 0"
        " && t.x[0] !== null).map(t => t.x.filter(x => !(x === x)).length).join('+') }) }, 1000)</script></body>"
    )
    moved = tmp_path / "moved.html"
    moved.write_text(page.replace("</body>", move), encoding="utf-8")
    strong = int((np.abs(fx.damage(ds)) >= 0.3).sum())
    seen = browse(moved)
    assert sum(map(int, seen.split("<title>")[1].split("</title>")[0].split("+"))) == strong
    assert f"{strong} of {ds.sizes['cell']} edges with |damage| ≥ 0.3" in seen.split('class="gtitle"')[1]


def test_real_edges():
    """Induction: what the corrupted prompt changes is read by a head of layer 1 and taken to the logits."""
    model = load("zoo/induction-2l")
    found = patch_edges(model, tasks.induction(4, seed=0, tokenizer=model.tokenizer), progress=False)
    figure = views.circuit(found)
    strongest = np.abs(fx.damage(found).values[0]).argsort()[::-1][:2]
    assert {text.split("</b>")[0][3:] for text in hovers(figure)[-2:]} <= set(found["edge"].values)
    assert any(edge.endswith("→ logits") for edge in found["edge"].values[strongest])
    assert "zoo/induction-2l · induction · n=4" in figure.layout.title.text
    assert "source corrupted run" in figure.layout.title.text


def test_tokens_and_positions_apart() -> None:
    """Two nodes side by side under the others, each named in what its edges say; one in the middle as long as there is one."""
    for split, expected in ((True, {"embed": -0.1, "pos_embed": 1.1}), (False, {"embed": 0.5})):
        graph = Graph.like(2, heads=2, split_embed=split)
        scores = xr.DataArray(np.linspace(0.1, 1, len(graph)), dims="cell", coords=graph.coords(), name="score")
        figure = views.circuit(scores)
        nodes = next(trace for trace in figure.data if trace.mode == "markers" and trace.text is not None)
        at = {text.split("</b>")[0].removeprefix("<b>"): x for text, x in zip(nodes.text, nodes.x, strict=True)}
        assert {name: x for name, x in at.items() if "embed" in name} == pytest.approx(expected)
        told = {text.split("</b>")[0].removeprefix("<b>") for text in hovers(figure)}
        assert ("pos_embed → L1H0.q" in told) == split
        assert "embed → L1H0.q" in told


def test_what_is_told_apart_is_named() -> None:
    """At its node's place, and the edges of whole nodes as ever."""
    graph = Graph.like(2, heads=2).apart([Coordinates.of("L0.mlp_post[5]")], ["END"])
    scores = xr.DataArray(np.linspace(0.1, 1, len(graph)), dims="cell", coords=graph.coords(), name="score")
    told = {text.split("</b>")[0].removeprefix("<b>") for text in hovers(views.circuit(scores))}
    assert told == {repr(edge) for edge in graph.edges}
    assert {"m0[5]@END → logits@END", "m0@rest → L1H1.v@rest"} <= told


def test_of_a_search_one_circuit_is_drawn_as_wide_as_its_edges_count():
    found = searches.found()
    with pytest.raises(InputError, match=r"draws one circuit, and this result has 2 along 'cell' \(few, more …\); choose one"):
        views.circuit(found)
    figure = views.circuit(found.isel(cell=1))
    said = figure.layout.title.text
    assert said.startswith("edges: change<br>")
    assert "circuit more: 4 of 46 edges" in said
    number = {edge: i + 1 for i, edge in enumerate(found["edge"].values.tolist())}
    expected = {f"<b>{edge}</b> {number[edge]:.4g}" for edge in searches.KEPT["more"]}
    assert {html.unescape(text) for text in hovers(figure)} == expected
    alone = views.circuit(found.isel(cell=[0]))
    assert "circuit few: 2 of 46 edges" in alone.layout.title.text
    with pytest.raises(UnknownNameError, match="change"):
        views.circuit(found.isel(cell=1), "logit")
