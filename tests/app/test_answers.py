"""What the app answers, as plain functions: what can be chosen, what is drawn, what is behind a cell, what is subtracted."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import searches
import xarray as xr
from pages import texts

from interp import effects
from interp.app import answers, behind, cells, choices, clicks, comparing, drawing, prompts
from interp.app.choices import resolve
from interp.app.data import Library
from interp.app.strip import strip
from interp.errors import InputError, StoreError
from interp.store import Store


def options(offer, control):
    return [value for value, _ in offer.options[control]]


# choices


def test_of_a_sweep_the_usual_is_chosen_and_all_else_is_offered(make):
    offer = resolve([{"": make()}], {})
    assert (offer.choice.view, offer.choice.metric, offer.choice.quantity) == ("map", "logit_diff", "recovery")
    assert (offer.choice.x, offer.choice.y) == ("position", "layer")
    assert options(offer, "metric") == ["logit_diff", "prob"]
    assert options(offer, "quantity") == ["recovery", "damage", "effect", "value"]
    assert options(offer, "view") == ["map", "curve", "tokens", "table"]
    assert offer.sliders == {}


def test_what_is_wanted_is_chosen_and_nonsense_is_replaced(make):
    wanted = {"metric": "prob", "quantity": "value", "x": "layer", "view": "../../etc", "family": 3, "at": "nowhere"}
    chosen = resolve([{"": make()}], wanted).choice
    assert (chosen.metric, chosen.quantity, chosen.x, chosen.y) == ("prob", "value", "layer", "position")
    assert chosen.view == "map"
    assert chosen.family == ""


def test_the_default_quantity_goes_with_the_metric(make):
    assert resolve([{"": make()}], {"metric": "prob"}).choice.quantity == "effect"
    assert resolve([{"": make(patching="noising")}], {}).choice.quantity == "damage"
    assert options(resolve([{"": make(paired=False)}], {}), "quantity") == ["effect", "value"]


def test_axes_that_are_not_drawn_have_sliders(make):
    offer = resolve([{"": make.heads()}], {"x": "head", "y": "layer", "at": {"position": 0}})
    assert offer.sliders == {"position": ["S2", "END"]}
    assert offer.choice.at == {"position": 0}
    beyond = resolve([{"": make.heads()}], {"x": "head", "y": "layer", "at": {"position": 9}})
    assert beyond.choice.at == {"position": 1}
    line = resolve([{"": make.heads()}], {"view": "curve", "x": "layer", "y": "one line"})
    assert line.choice.y is None
    assert line.choice.at == {"head": 0, "position": 1}  # where the effect is largest
    assert options(line, "y") == ["head", "position", "one line"]


def test_of_two_runs_what_both_have_is_offered(make):
    offer = resolve([{"": make()}, {"": make(metrics=("prob",))}], {})
    assert options(offer, "metric") == ["prob"]
    assert resolve([{"a": make()}, {"b": make()}], {}).options["family"] == []


def test_families_are_chosen_by_name(library, ids):
    offer = answers.choose(library, [ids["families"]], {"family": "heads"})
    assert options(offer, "family") == ["stream", "heads"]
    assert offer.choice.family == "heads"
    assert "head" in options(offer, "x")


# drawing


def test_the_map_has_the_numbers_of_the_result(library, ids, make):
    figure = answers.draw(library, [ids["stream"]], {})["a"].figure
    wanted = [[make.share(layer, position) for position in range(5)] for layer in range(3)]
    np.testing.assert_allclose(figure.data[0].z[:, 3], np.array(wanted)[:, 3], atol=1e-6)
    assert "tiny &lt;model&gt;" in figure.layout.title.text


def test_a_slider_stands_at_one_place(library, ids):
    wanted = {"x": "head", "y": "layer", "at": {"position": 1}}
    at_end = answers.draw(library, [ids["heads"]], wanted)["a"].figure
    np.testing.assert_allclose(np.diag(at_end.data[0].z), 0.5, atol=1e-6)
    at_subject = answers.draw(library, [ids["heads"]], wanted | {"at": {"position": 0}})["a"].figure
    assert not np.nan_to_num(at_subject.data[0].z).any()


def test_a_curve_and_a_table_of_variables(library, ids):
    curve = answers.draw(library, [ids["stream"]], {"view": "curve", "x": "layer", "at": {"position": 3}})["a"].figure
    line = next(trace for trace in curve.data if trace.mode == "lines+markers" and np.nanmax(trace.y) > 0.5)
    np.testing.assert_allclose(line.y, [1 / 3, 2 / 3, 1], atol=1e-6)
    panel = answers.draw(library, [ids["stream"]], {"view": "table"})["a"]
    assert panel.figure is None
    assert {"value", "clean", "corrupt", "by_rule"} <= set(texts(panel.said))


def test_the_tokens_of_a_prompt_are_coloured_by_a_layer(library, ids):
    offer = answers.choose(library, [ids["stream"]], {"view": "tokens"})
    assert offer.sliders == {"layer": ["0", "1", "2"]}
    assert offer.options["example"][:2] == [("all", "mean of all"), ("0", "0 Ann met Bob to")]
    wanted = {"view": "tokens", "example": "2", "at": {"layer": 1}}
    title = answers.draw(library, [ids["stream"]], wanted)["a"].figure.layout.title.text
    assert "layer=1" in title


def test_what_cannot_be_drawn_says_why(tmp_path, make):
    store = Store(tmp_path)
    run = store.save(make())
    data = next((tmp_path / run.id).rglob("data.zarr.zip"))
    data.write_bytes(data.read_bytes()[:-7] + b"damaged")
    panel = answers.draw(Library(store), [run.id], {})["a"]
    assert panel.figure is None
    assert "damaged" in " ".join(texts(panel.said))


# cells


def test_a_click_on_a_map_is_a_cell(library, ids):
    found = behind.clicked(library, [ids["stream"]], {}, "a", {"x": 3, "y": 1}, {})
    assert found == {"cell": {"position": 3, "layer": 1}, "of": 0, "node": "", "why": ""}
    assert behind.clicked(library, [ids["stream"]], {}, "a", {"x": 99, "y": 1}, {}) is None
    assert behind.clicked(library, [ids["stream"]], {}, "a", {"x": "3", "y": None}, {}) is None


def test_a_click_on_a_curve_is_a_cell_of_its_line(library, ids):
    wanted = {"view": "curve", "x": "layer", "y": "position"}
    figure = answers.draw(library, [ids["stream"]], wanted)["a"].figure
    drawn = figure.to_plotly_json()
    lines = [i for i, trace in enumerate(figure.data) if trace.mode == "lines+markers"]
    point = {"curveNumber": lines[3], "pointNumber": 2}
    found = behind.clicked(library, [ids["stream"]], wanted, "a", point, drawn)
    assert found["cell"] == {"layer": 2, "position": 3}
    assert figure.data[lines[3]].y[2] == pytest.approx(1)


def test_behind_a_cell_are_its_examples(make):
    ds = make()
    choice = resolve([{"": ds}], {}).choice
    table = cells.examples(ds, choice, {"layer": 1, "position": 3})
    one = ds.sel(metric="logit_diff").isel(layer=1, position=3)
    assert list(table) == ["example", "template", "clean", "corrupted", "changed", "effect", "recovery"]
    np.testing.assert_allclose(table["effect"], one["value"] - ds.sel(metric="logit_diff")["corrupt"])
    np.testing.assert_allclose(table["recovery"], 2 / 3, rtol=1e-5)
    assert cells.said(ds, choice, {"layer": 1, "position": 3}).startswith("recovery of logit_diff 0.67 ± 0.00 (n=6")
    assert cells.name(ds, {"layer": 1, "position": 3}) == "L1@3"


def test_a_cell_that_is_not_computed_says_so(make):
    ds = make()
    ds["value"][:, 2] = np.nan
    choice = resolve([{"": ds}], {}).choice
    assert cells.said(ds, choice, {"layer": 2, "position": 3}) == "not computed yet"
    assert cells.examples(ds, choice, {"layer": 2, "position": 3})["effect"].isna().all()


def test_every_row_of_the_strongest_is_the_cell_that_it_names(make):
    for ds in (make(), make.heads()):
        choice = resolve([{"": ds}], {}).choice
        table, places = cells.strongest(ds, choice, 5)
        assert [cells.name(ds, place) for place in places] == table["cell"].tolist()
        one = effects.choose_metric(ds, choice.metric)
        means = [float(effects.effect(one).isel(place).mean()) for place in places]
        np.testing.assert_allclose(table["effect"], means, rtol=1e-5, atol=1e-7)


def test_the_strongest_are_shown_with_their_intervals(library, ids):
    shown = texts(behind.strongest(library, [ids["stream"]], {}))
    assert shown[:5] == ["cell", "effect", "held out", "p", "recovery"]
    assert shown[5] == "L2@3"
    assert re.fullmatch(r"6\.00 ± \d\.\d\d", shown[6])  # the mean of 2 · clean
    assert shown[7:10] == ["6", "0.031", "1"]  # three digits, and two of p: 2 of the 64 flips of six examples are as far off
    assert behind.strongest(library, [ids["stream"], ids["half"]], {}) is None


def test_circuits_have_no_strongest_cells(tmp_path, make):
    store = Store(tmp_path)
    run = store.save(make.graph(size=("cell", [1, 2, 3, 4])))
    assert behind.strongest(Library(store), [run.id], {"view": "circuit"}) is not None
    for view in ("faithfulness", "pareto"):
        assert behind.strongest(Library(store), [run.id], {"view": view}) is None


def test_a_run_that_cannot_be_read_is_told_in_its_own_panel(tmp_path, make):
    store = Store(tmp_path)
    whole, hurt = store.save(make()), store.save(make(0.5))
    (data,) = (tmp_path / hurt.id).glob("*/data.zarr.zip")
    data.write_bytes(data.read_bytes()[:-7] + b"damaged")
    library = Library(store)
    for ids, bad, good in (([whole.id, hurt.id], "b", "a"), ([hurt.id, whole.id], "a", "b")):
        panels = answers.draw(library, ids, {})
        assert "is damaged" in " ".join(texts(panels[bad].said))
        assert "Open this one alone" in " ".join(texts(panels[good].said))
        assert panels["difference"].said is None
    banner = answers.pages.banner([library.open(hurt.id)])
    chip = banner[0].children[0].children[1]
    assert (chip.children, "is damaged" in chip.title) == ("damaged", True)
    other = store.save(make.heads())
    said = answers.draw(library, [hurt.id, hurt.id], {})
    assert all("is damaged" in " ".join(texts(said[of].said)) for of in "ab")
    assert answers.draw(library, [other.id, whole.id], {})["a"].said is None


@pytest.mark.parametrize("window", [320, 800, 1201, 1280, 1440, 1920, 2560])
def test_figures_have_room_in_their_panels(library, ids, window):
    """As the style sheet lays them out: a page of 1472 at most, its margins, a gap, and the margins of each panel."""
    page = min(window, 1472) - 48
    columns = window > 1200
    alone = answers.draw(library, [ids["stream"]], {}, window=window)["a"].figure.layout.width
    assert alone <= max(312, (page - 16 - 480 if columns else page) - 38.8)
    both = answers.draw(library, [ids["stream"], ids["half"]], {}, window=window)
    for of in "ab":
        assert both[of].figure.layout.width <= max(312, ((page - 16) / 2 if columns else page) - 38.8)
    assert answers.draw(library, [ids["stream"]], {}, window="wide")["a"].figure.layout.width == answers.ONE


def test_means_over_a_histogram_do_not_cover_each_other():
    rows = [(side, pd.Series(np.linspace(0, 1, 400), name="effect")) for side in ("A", "B")]
    figure = strip(rows, "effect", "plotly_white")
    told = [(note.text, note.yshift) for note in figure.layout.annotations]
    assert [text for text, _ in told] == ["A mean 0.5", "B mean 0.5"]
    assert told[1][1] - told[0][1] >= figure.layout.font.size
    assert figure.layout.margin.t >= told[1][1] + figure.layout.font.size


def test_a_list_of_cells_is_told_by_what_each_says_of_itself(make):
    edges = _edges()
    choice = resolve([{"": edges}], {}).choice
    assert choice.view == "edges"
    table, places = cells.strongest(edges, choice, 3)
    assert table["cell"].tolist() == ["b → c", "a → c", "a → b"]
    assert places == [{"cell": 2}, {"cell": 1}, {"cell": 0}]
    assert cells.name(edges, {"cell": 2}) == "b → c"


def test_a_click_on_a_pair_of_a_sender_and_a_receiver_is_its_edge():
    edges = _edges()
    choice = resolve([{"": edges}], {"quantity": "effect"}).choice
    assert clicks.clicked(edges, choice, {"x": "c", "y": "a"}, {}).cell == {"cell": 1}
    assert clicks.clicked(edges, choice, {"x": "b", "y": "b"}, {}).why == "There is no edge from b to b."
    assert not any(clicks.clicked(edges, choice, {"x": "b", "y": "nonsense"}, {}))


def _edges():
    told = [("a", "b"), ("a", "c"), ("b", "c")]
    coords = {
        "edge": ("cell", [f"{s} → {r}" for s, r in told]),
        "sender": ("cell", [s for s, _ in told]),
        "receiver": ("cell", [r for _, r in told]),
    }
    zeros = np.zeros((1, 4), "float32")
    value = np.array([[[1.0] * 4, [2.0] * 4, [3.0] * 4]], "float32")
    attrs = {"patching": "noising", "noise_floor": {"m": 0.0}, "engine_semantics": 1, "spec": "edges"}
    return effects.assemble(value, zeros, zeros + 1, axes={"cell": [0, 1, 2]}, metrics=["m"], coords=coords, attrs=attrs)


# prompts


def test_tokens_that_differ_and_the_one_that_is_changed_are_marked(make):
    source, base = prompts.prompts(make(), 1, {"layer": 0, "position": 3})
    assert source.title.startswith("clean")
    assert base.title == "corrupted: changed here"
    assert [t.text for t in base.tokens] == ["<bos>", " Ann", " met", " Di", " to"]
    assert [t.differs for t in base.tokens] == [False, False, False, True, False]
    assert [t.marked for t in base.tokens] == [False, False, False, True, False]
    assert prompts.prompts(make(patching="noising"), 0)[1].title == "clean: changed here"


def test_answers_are_told_as_far_as_the_result_says_them(make):
    assert prompts.answers(make(), 1) == "answer ' Bob' · wrong ' Di'"
    assert prompts.answers(make().drop_vars("wrong"), 1) == "answer ' Bob'"
    assert prompts.answers(make.heads(), 1) == ""


def test_without_tokens_the_words_that_differ_are_marked(make):
    source, base = prompts.prompts(make.heads(), 0, {"layer": 0, "head": 0, "position": 1})
    assert [t.text.strip() for t in source.tokens if t.differs] == ["Bob"]
    assert [t.text.strip() for t in base.tokens if t.differs] == ["Cy"]
    assert "".join(t.text for t in base.tokens) == "Ann met Cy to"
    assert prompts.where(make.heads(), {"layer": 0, "head": 0, "position": 1}) == "at the role END"


def test_details_of_a_cell(library, ids):
    cell = {"cell": {"layer": 2, "position": 3}}
    shown = texts(behind.detail(library, [ids["stream"]], {}, cell, "plotly_white"))
    assert "L2@3" in shown
    assert any("1.00 ± 0.00" in text for text in shown)
    words = texts(behind.prompt(library, [ids["stream"]], {}, cell, 4))
    assert "Example 4" in words
    assert " Gus" in words
    assert "answer ' Bob' · wrong ' Gus'" in words
    of_cells = [{"layer": 2}, {"layer": 77, "position": 3}, {"layer": "2", "position": 3}, 5, None]
    for nonsense in (None, 5, {"layer": 2, "position": 3}, *({"cell": one} for one in of_cells)):
        assert "Click a point" in " ".join(texts(behind.detail(library, [ids["stream"]], {}, nonsense, "plotly_white")))


def test_of_a_long_prompt_what_is_far_from_all_marks_is_folded():
    from interp.app import parts
    from interp.app.prompts import Shown, Token

    tokens = [Token(f" {i}", marked=i == 200, position=str(i)) for i in range(500)]
    _, body = parts.tokens(Shown("the prompt", tokens)).children
    folds = [part for part in body.children if hasattr(part.children[0], "children")]
    assert [fold.children[0].children for fold in folds] == ["… 176 tokens …", "… 250 tokens …"]
    assert [text for text in texts(body) if text.startswith(" ")] == [f" {i}" for i in range(500)]
    short = parts.tokens(Shown("the prompt", tokens[:60])).children[1]
    assert len(short.children) == 60


# two runs


def test_two_runs_of_the_same_examples_are_subtracted_example_by_example(library, ids, make):
    panels = answers.draw(library, [ids["stream"], ids["half"]], {"quantity": "effect"})
    assert set(panels) == {"a", "b", "difference", "both"}
    assert panels["both"].figure is None
    assert panels["difference"].said.children == "Difference of each of 6 examples."
    a, b = make(), make(0.5)
    choice = resolve([{"": a}, {"": b}], {"quantity": "effect"}).choice
    found = comparing.difference(a, b, choice)
    wanted = (effects.effect(a) - effects.effect(b)).sel(metric="logit_diff")
    assert found.dims == ("layer", "position", "example")
    assert found["template"].values.tolist() == a["template"].values.tolist()  # what intervals are clustered by
    np.testing.assert_allclose(found, wanted.transpose(*found.dims))
    np.testing.assert_allclose(panels["difference"].figure.data[0].z, wanted.mean("example"), rtol=1e-5)
    assert panels["difference"].figure.layout.title.text.startswith("A − B: effect on logit_diff")


def test_both_maps_have_one_scale(library, ids):
    panels = answers.draw(library, [ids["stream"], ids["half"]], {"quantity": "effect"})
    ends = {panels[side].figure.data[0].zmax for side in "ab"}
    assert len(ends) == 1
    assert ends.pop() == pytest.approx(6)  # the mean effect of the strongest cell: 2 · 3


def test_runs_of_other_examples_are_subtracted_by_their_means(make):
    a, b = make(), make(0.5, seed=7)
    choice = resolve([{"": a}, {"": b}], {"quantity": "effect"}).choice
    found = comparing.difference(a, b, choice)
    assert found.dims == ("layer", "position")
    assert found.attrs["difference"] == "of the means: the examples are not the same"
    wanted = effects.effect(a).mean("example") - effects.effect(b).mean("example")
    np.testing.assert_allclose(found, wanted.sel(metric="logit_diff"), rtol=1e-5)


def test_ratios_are_subtracted_as_ratios_of_means(make):
    a, b = make(), make(0.5)
    choice = resolve([{"": a}, {"": b}], {"quantity": "recovery"}).choice
    found = comparing.difference(a, b, choice)
    np.testing.assert_allclose(found[:, 3], [1 / 6, 1 / 3, 1 / 2], rtol=1e-5)
    assert found.attrs["difference"] == "of the recovery over all examples"


def of_checkpoints(make, scale, folder):
    """Results of two checkpoints, stacked as :func:`interp.over` stacks them."""
    models = {"0": f"{folder}/step-0", "400": f"{folder}/step-400"}
    each = [make(s * scale).expand_dims(checkpoint=[step]) for s, step in ((0.5, 0), (1.0, 400))]
    both = xr.concat([one.drop_vars(("clean", "corrupt")) for one in each], "checkpoint", data_vars="minimal")
    ends = {side: xr.concat([one[side] for one in each], "checkpoint") for side in ("clean", "corrupt")}
    order = ("metric", "checkpoint", ...)
    both = both.assign({"value": both["value"].transpose(*order)} | {k: v.transpose(*order) for k, v in ends.items()})
    return both.assign_attrs(model=f"{folder}, 2 models", models=models)


def test_a_difference_of_several_models_names_those_that_are_drawn(make):
    a, b = of_checkpoints(make, 1.0, "one"), of_checkpoints(make, 0.5, "other")
    choice = resolve([{"": a}, {"": b}], {"view": "map", "x": "position", "y": "layer", "at": {"checkpoint": 0}}).choice
    found = comparing.difference(a, b, choice)
    assert found.attrs["model"] == "one/step-0 − other/step-0"
    title = drawing.of_difference(found, choice, "plotly_white", 640).layout.title.text
    assert "one/step-0 − other/step-0" in title
    assert "checkpoint=0" in title
    whole = resolve([{"": a}, {"": b}], {"view": "map", "x": "checkpoint", "y": "layer"}).choice
    assert comparing.difference(a, b, whole).attrs["model"] == "one, 2 models − other, 2 models"


def test_the_same_examples_are_the_same_prompts_or_the_same_digest(make):
    assert comparing.same_examples(make(), make(0.5))
    assert not comparing.same_examples(make(), make(seed=7))
    assert not comparing.same_examples(make(), make().isel(example=slice(3)))
    named = ["clean_prompt", "corrupted_prompt"]
    bare = [make(pairs_digest=digest).drop_vars(named) for digest in ("x", "x", "y", None)]
    assert comparing.same_examples(bare[0], bare[1])
    assert not comparing.same_examples(bare[0], bare[2])
    assert not comparing.same_examples(bare[3], bare[3])


def test_axes_that_do_not_agree_are_refused_by_name(make):
    a = make()
    choice = resolve([{"": a}], {}).choice
    cases = {
        "A runs along layer × position, B along layer × head × position": make.heads(),
        "layer has 3 values in A and 2 in B": a.isel(layer=slice(2)),
        "position has other values: number 0 is 0 in A and 1 in B": a.assign_coords(position=a["position"] + 1),
    }
    for why, b in cases.items():
        with pytest.raises(InputError, match=f"A and B cannot be subtracted: {why}"):
            comparing.difference(a, b, choice)
    assert "only maps and curves" in comparing.refused(a, a, resolve([{"": a}], {"view": "table"}).choice)


def test_runs_with_other_axes_are_shown_side_by_side_all_the_same(library, ids):
    panels = answers.draw(library, [ids["stream"], ids["heads"]], {})
    assert panels["a"].figure is not None
    assert panels["b"].figure is not None
    assert panels["difference"].figure is None
    assert "B along layer × head × position" in panels["difference"].said.children


def test_a_cell_of_two_runs_has_both_columns_and_their_difference_where_rows_are_pairs(library, ids):
    cell = {"cell": {"layer": 2, "position": 3}}
    pairs = texts(behind.detail(library, [ids["stream"], ids["half"]], {}, cell, "plotly_white"))
    assert {"effect A", "effect B", "A − B"} <= set(pairs)
    apart = texts(behind.detail(library, [ids["stream"], ids["others"]], {}, cell, "plotly_white"))
    assert "A − B" not in apart
    assert any("not of the same examples" in text for text in apart)


# files


def test_downloads_are_the_figure_and_the_numbers(library, ids, tmp_path, make):
    html, name = answers.save(library, [ids["stream"]], {}, "a", "html")
    assert name == f"{ids['stream']}-map-recovery.html"
    assert b"Plotly.newPlot" in html
    csv, _ = answers.save(library, [ids["stream"]], {}, "a", "csv")
    (tmp_path / "t.csv").write_bytes(csv)
    table = pd.read_csv(tmp_path / "t.csv")
    assert len(table) == 2 * 3 * 5 * 6
    row = table.query("metric == 'prob' and layer == 2 and position == 3 and example == 5").iloc[0]
    ds = make().sel(metric="prob").isel(layer=2, position=3, example=5)
    assert row["value"] == pytest.approx(ds["value"].item())
    assert row["effect"] == pytest.approx((ds["value"] - ds["corrupt"]).item())
    nc, _ = answers.save(library, [ids["stream"]], {}, "a", "nc")
    (tmp_path / "t.nc").write_bytes(nc)
    with xr.open_dataset(tmp_path / "t.nc", engine="scipy") as found:
        xr.testing.assert_equal(found["value"], make()["value"].assign_coords(found["value"].coords))
        assert found["corrupted_token"].values[3].tolist() == [" Cy", " Di", " Ed", " Flo", " Gus", " Hal"]
        assert found.attrs["site"] == "resid_pre"


def test_a_difference_is_downloaded_and_nothing_else_is(library, ids, tmp_path):
    csv, name = answers.save(library, [ids["stream"], ids["half"]], {"quantity": "effect"}, "difference", "csv")
    assert name.startswith(f"{ids['stream']}-{ids['half']}")
    (tmp_path / "t.csv").write_bytes(csv)
    assert len(pd.read_csv(tmp_path / "t.csv")) == 3 * 5 * 6
    for of, ending in (("b", "csv"), ("a", "exe"), ("../a", "csv"), ("difference", "csv")):
        with pytest.raises(StoreError, match="nothing to download"):
            answers.save(library, [ids["stream"]], {}, of, ending)


def test_pages(library, ids):
    assert "Not found" in texts(answers.route(library, "/run/000000000000"))
    assert "Not found" in texts(answers.route(library, "/etc/passwd"))
    assert "stream" in texts(answers.route(library, f"/run/{ids['stream']}"))
    both = texts(answers.route(library, f"/compare/{ids['stream']}/{ids['half']}"))
    assert {"A", "B", "A − B"} <= set(both)


def test_a_variable_of_a_result_that_is_no_sweep_is_drawn_with_its_mean(make):
    data = xr.DataArray(np.arange(24.0).reshape(2, 3, 4), dims=("example", "layer", "head"), name="score")
    ds = data.assign_coords(layer=[0, 1, 2], head=[0, 1, 2, 3]).to_dataset()
    offer = resolve([{"": ds}], {})
    assert (offer.choice.view, offer.choice.quantity) == ("map", "score")
    figure = drawing.draw(ds, offer.choice)
    np.testing.assert_allclose(figure.data[0].z, data.mean("example"))
    table = cells.examples(ds, offer.choice, {"layer": 1, "head": 2})
    assert table["score"].tolist() == [6.0, 18.0]
    assert choices.labels(ds, "head") == ["0", "1", "2", "3"]


def test_a_figure_is_no_wider_than_the_window(library, ids):
    widths = [
        answers.draw(library, [ids["stream"]], {}, window=window)["a"].figure.layout.width for window in (2000, 500, 10, None)
    ]
    assert widths == [760, 408, 312, 760]


def test_runs_to_compare_with_are_of_the_same_model_and_task_first(library, ids):
    others = [run for run, _ in answers._others(library, library.run(ids["stream"]))]
    assert set(others) == set(ids.values()) - {ids["stream"]}
    models = ["tiny" in label for _, label in answers._others(library, library.run(ids["stream"]))]
    assert models == sorted(models, reverse=True)
    assert ids["heads"] in others[-2:]


def test_a_search_shows_its_circuits_one_at_a_time(tmp_path):
    store = Store(tmp_path)
    run = store.save(searches.found())
    library = Library(store)
    offer = answers.choose(library, [run.id], {})
    assert offer.values["view"] == "circuit"
    assert offer.values["quantity"] == "change"
    assert offer.sliders == {"cell": ["few", "more"]}
    for cell, name in enumerate(searches.KEPT):
        figure = answers.draw(library, [run.id], {"at": {"cell": cell}})["a"].figure
        assert f"circuit {name}: {len(searches.KEPT[name])} of 46 edges" in figure.layout.title.text
    assert behind.strongest(library, [run.id], {}) is None
    ds = store.load(run.id)
    clicked = clicks.clicked(ds, replace(offer.choice, at={"cell": 1}), {"text": "<b>m1 → logits</b> 46"}, {})
    assert clicked.cell == {"cell": 1}
    said = " ".join(texts(behind.detail(library, [run.id], {"at": {"cell": 1}}, {"cell": clicked.cell}, "plotly_white")))
    assert said.startswith("more kl 1.00 ± 0.00 (n=4) example clean corrupted changed effect 0 0 10 1 1 ")
