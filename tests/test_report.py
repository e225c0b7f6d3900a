"""The report: one file, one plotly.js, nothing from the network, everything escaped."""

import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from interp import effects, report

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
