"""The report: one file, one plotly.js, nothing from the network, everything escaped."""

import re
import shutil
import subprocess

import half_runs
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import xarray as xr
from sweeps import unchecked

from interp import effects, report, views
from interp.errors import InputError, PathError, StoreError
from interp.store import Store

EVIL = "</script><script>document.title='broken'</script><b>&"


def figure():
    return go.Figure(go.Heatmap(z=[[0.0, 1.0]], text=[[EVIL, "x"]]), layout={"title": {"text": "map"}, "width": 400})


@pytest.fixture
def page(tmp_path):
    table = pd.DataFrame({"cell": ["L9H6", EVIL], "effect": [1.23456, float("nan")]})
    sections = {"One": [EVIL, figure(), table], "Two": figure(), EVIL: {"model": EVIL, "noise": {"prob": 1e-6}}}
    return report.write(tmp_path / "report.html", EVIL, sections, intro="hello")


def test_text_is_escaped_everywhere(page):
    text = page.read_text(encoding="utf-8")
    assert EVIL not in text
    assert text.count("&lt;/script&gt;&lt;script&gt;") == 7  # title twice, a link, a heading, a paragraph, a cell, a fact


def test_plotly_is_there_once_and_only_for_figures(page, tmp_path):
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"plotly\.js v\d", text)) == 1
    assert text.count("Plotly.newPlot(") == 2
    assert {'id="figure-1"', 'id="figure-2"'} <= set(re.findall(r'id="figure-\d"', text))
    plain = report.write(tmp_path / "plain.html", "t", [("a", "b")])
    assert plain.stat().st_size < 10_000


def test_nothing_is_loaded(page):
    text = page.read_text(encoding="utf-8")
    head = text[: text.index("<script>")]
    assert "default-src 'none'" in head
    outside = re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert re.findall(r"""(?:src|href)=["'](?!#)|url\(|@import|https?:""", outside) == []


def test_tables_and_facts(page):
    text = page.read_text(encoding="utf-8")
    assert "<td>1.23</td>" in text
    assert "<td>–</td>" in text
    assert "<dt>noise</dt><dd>prob 1e-06</dd>" in text


def test_other_items_are_refused():
    with pytest.raises(TypeError, match="made of text, plotly figures, data frames and mappings, got int"):
        report._render(3, 1)  # `write` itself is checked by beartype in tests, which would answer first


def test_provenance_lists_what_is_known():
    ds = effects.assemble(
        np.ones((1, 2, 3)),
        np.ones((1, 3)),
        np.zeros((1, 3)),
        axes={"layer": [0, 1]},
        metrics=["prob"],
        by_rule=np.zeros((2, 3), bool),
        coords={"template": ["a", "a", "b"]},
        attrs={
            "patching": "denoising",
            "noise_floor": {"prob": 1e-6},
            "engine_semantics": 1,
            "spec": {},
            "model": "m",
            "model_digest": "d",
            "wall_seconds": 1.25,
            "seed": 0,
        },
    )
    facts = report.provenance(ds)
    assert facts["model"] == "m, d"
    assert facts["examples"] == "3, 2 templates"
    assert facts["sweep"] == "2 layers"
    assert facts["took"] == "1.2 s"
    assert facts["seed"] == 0
    assert "task" not in facts


def test_it_opens_in_a_browser_without_a_network(page, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium or Chrome is installed: apt-get install chromium")
    still = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    still += ["--disable-component-update", "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND"]
    still += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
    dom = subprocess.run([browser, *still, page.as_uri()], capture_output=True, text=True, timeout=120, check=True).stdout
    assert dom.count('<g class="hm">') == 2  # both maps were drawn
    assert "<title>broken</title>" not in dom


def test_runs_of_a_store_with_their_figures_tables_and_facts(tmp_path):
    store = Store(tmp_path / "runs")
    at = np.indices((3, 2, 4))
    heads = effects.assemble(
        (at[0] * 10 + at[1]).astype(float)[None],
        np.full((1, 4), 20.0),
        np.zeros((1, 4)),
        axes={"layer": range(3), "head": range(2)},
        metrics=["logit_diff"],
        attrs={
            "patching": "denoising",
            "noise_floor": {"logit_diff": 0.0},
            "engine_semantics": 1,
            "spec": "heads",
            "model": "tiny",
            "method": "patch",
        },
    )
    store.save(heads, name="heads", tags=["paper"])
    store.save(xr.DataTree.from_dict({"a": heads.assign_attrs(spec="a"), "b": heads.assign_attrs(spec="b")}), name="both")
    sections = dict(report.of_runs([store.run("heads"), store.run("both")]))
    assert list(sections) == ["heads", "both / together", "both / a", "both / b"]
    assert [figure.layout.title.text.split("<")[0] for figure in sections["both / together"]] == [
        "a against b effect on logit_diff",
        "recovery of logit_diff (0 = corrupted, 1 = clean)",
    ]
    drawn, curve, said, table, facts = sections["heads"]
    assert [trace.name for trace in curve.data if trace.showlegend] == ["H0", "H1"]
    assert drawn.layout.title.text.startswith("recovery of logit_diff")
    assert said == "The 6 strongest cells by logit_diff, chosen on these same examples:"
    assert table["cell"].tolist()[:2] == ["L2H1", "L2H0"]
    assert [text.split()[0] for text in table["effect"][:2]] == ["21.00", "20.00"]
    assert list(table) == ["cell", "effect", "recovery", "effect_adjusted", "p_adjusted", "survives", "n"]
    assert facts["run"] == f"{store.run('heads').id}, heads"
    assert (facts["tags"], facts["method"], facts["sweep"]) == ("paper", "patch", "3 layers × 2 heads")
    page = report.write(tmp_path / "report.html", "Runs", sections).read_text()
    assert page.count("Plotly.newPlot(") == 8


def test_several_runs_are_drawn_together_too(tmp_path):
    store = Store(tmp_path / "runs")
    whole = half_runs.skeleton()
    runs = [
        store.save(whole.assign(value=whole["value"].fillna(i)).assign_attrs(spec=i), name=name)
        for i, name in enumerate(("first", "second"))
    ]
    sections = dict(report.of_runs(runs))
    assert list(sections) == ["first", "second", "Together: first, second"]
    assert any("first against second" in item.layout.title.text for item in sections["Together: first, second"])
    assert list(dict(report.of_runs(runs[:1]))) == ["first"]


def test_half_a_run_is_said_to_be_one_and_a_damaged_one_says_why(tmp_path):
    store = Store(tmp_path / "runs")
    with store.begin(half_runs.skeleton(), chunks=half_runs.CHUNKS, name="half") as writing:
        for unit in writing:
            writing.write(unit, half_runs.part(unit), {"unit": unit.number})
            if len(writing.left()) == 5:
                break
    (section,) = report.of_run(store.run("half"))
    assert section[1][0].startswith("Half a run: 4 of 9 work units are done.")
    shown = int(re.search(r"Shown are the (\d) of 7 examples", section[1][0])[1])
    assert section[1][-1]["examples"].startswith(f"{shown}, ")
    table = next(item for item in section[1] if isinstance(item, pd.DataFrame))
    assert set(table["n"]) == {shown}, "every cell is a mean over the same examples"
    whole = store.save(half_runs.skeleton(2), name="broken")
    file = next(whole.path.rglob("data.zarr.zip"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    (section,) = report.of_run(store.run("broken"))
    assert section[0] == "broken"
    assert "This run cannot be shown: " in section[1][0]
    assert "data.zarr.zip is damaged" in section[1][0]


def test_what_is_no_run_and_where_nothing_can_be_written(tmp_path):
    with pytest.raises(
        StoreError, match=r"^run is of type str; expected a run of a store, such as interp.Store\('runs'\).run\('name'\)$"
    ):
        unchecked(report.of_run)("heads")
    with pytest.raises(PathError, match=r"nowhere' is no folder, so 'r.html' cannot be written there; make it first"):
        report.write(tmp_path / "nowhere" / "r.html", "title", {})


def test_a_figure_that_cannot_be_drawn_says_why(monkeypatch):
    def refuse():
        raise InputError("too many lines")

    monkeypatch.setattr(views, "fitting", lambda ds: {"loss: by layer": refuse})
    assert report.of_result(xr.Dataset()) == ["loss: by layer is not drawn: too many lines"]


def test_provenance_of_a_result_that_is_no_sweep():
    ds = xr.Dataset({"prob": (("example", "layer"), np.ones((2, 3)))}, attrs={"model": "m", "method": "logit lens"})
    assert report.provenance(ds) == {"model": "m", "examples": "2", "method": "logit lens"}


def test_circuits_are_listed_by_name_and_size_and_not_by_strength():
    ds = effects.assemble(
        np.array([[[2e-6, 4e-6], [1.0, 3.0]]]),
        np.zeros((1, 2)),
        np.full((1, 2), 5.0),
        axes={"cell": range(2)},
        metrics=["kl"],
        attrs={"patching": "noising", "noise_floor": {"kl": 0.0}, "engine_semantics": 1, "spec": {}},
    ).assign_coords(circuit=("cell", ["most", "few"]), edges=("cell", [1200, 3]))
    assert report.provenance(ds)["circuits"] == "most (1,200 edges), few (3 edges)"
    [(said, table)] = report.tables(ds, 10)
    assert said == "circuits by kl"
    assert table[["circuit", "edges", "n"]].values.tolist() == [["most", 1200, 2], ["few", 3, 2]]
    assert table["kl"].tolist() == pytest.approx([3e-6, 2.0])
    assert len(report.tables(ds, 1)[0][1]) == 1
    many = ds.isel(cell=[0, 1] * 6)
    assert report.provenance(many)["circuits"].endswith("most (1,200 edges), few (3 edges) and 4 more")
