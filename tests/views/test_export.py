"""Figures as files: pages that need no network, images where an exporter is installed, and what to install where none is."""

import html.parser
import importlib.util
import inspect
import json
import re
from contextlib import nullcontext

import pytest

from interp import views
from interp.errors import InputError, UnknownNameError
from interp.views import export

needs_exporter = pytest.mark.skipif(not views.can_export(), reason=f"no image exporter: {export.missing_exporter()}")


class Loads(html.parser.HTMLParser):
    """Addresses that a page would load, as its tags say."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href", "data", "poster") and tag != "a"]


def loads(path):
    parser = Loads()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser.found


def test_html_is_self_contained(make, tmp_path):
    path = views.save(views.heatmap(make()), tmp_path / "map.html")
    assert path == tmp_path / "map.html"
    assert [a for a in loads(path) if not a.startswith("data:")] == []
    assert "Plotly.newPlot" in path.read_text(encoding="utf-8")


def test_a_browser_without_a_network_draws_it_and_answers_the_mouse(make, tmp_path, browse):
    ds = make()
    ds["value"][0, 1, 5] = float("nan")
    page = views.save(views.heatmap(ds), tmp_path / "map.html")
    hover = """<script>window.addEventListener('load', () => setTimeout(() => {
      const drag = document.querySelector('.nsewdrag'), seen = [], cells = [[9, 3], [5, 1], [0, 0]];
      const next = () => {
        if (!cells.length) { document.title = JSON.stringify(seen); return; }
        const [x, y] = cells.shift(), box = drag.getBoundingClientRect();
        const left = box.left + (x + .5) / 10 * box.width, top = box.bottom - (y + .5) / 4 * box.height;
        drag.dispatchEvent(new MouseEvent('mousemove', {clientX: left, clientY: top, bubbles: true}));
        setTimeout(() => { seen.push(document.querySelector('.hoverlayer').textContent); next(); }, 300);
      };
      next();
    }, 500));</script></body>"""
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", hover), encoding="utf-8")
    dom = browse(page)
    assert dom.count('<g class="hm">') == 2  # the map, and the cell that was not computed
    seen = json.loads(html.unescape(re.search("<title>(.*?)</title>", dom)[1]))
    assert seen[0].startswith("L3@9 1.00 ± 0.00 (n=8, 4 templates)")
    assert seen[1].startswith("L1@5 not computed")
    assert "equal to the base by rule" in seen[2]
    assert seen[2].endswith("token '<|endoftext|>'")


@needs_exporter
@pytest.mark.parametrize(("ending", "start"), [(".png", b"\x89PNG"), (".svg", b"<svg"), (".pdf", b"%PDF")])
def test_images(make, tmp_path, ending, start):
    path = views.save(views.heatmap(make(), width=views.COLUMN), tmp_path / f"map{ending}")
    content = path.read_bytes()
    assert content.startswith(start)
    # 3.25 in, on paper in points of 1/72 in
    if ending == ".png":  # width in the header: 312 pixels at twice the size
        assert int.from_bytes(content[16:20]) == 624
    elif ending == ".svg":
        assert b'width="312"' in content[:300]
    else:
        assert re.search(rb"/MediaBox \[0 0 234 ", content)
        assert re.search(rb"/FontFile\d", content)


@needs_exporter
def test_one_browser_draws_all(make, tmp_path, monkeypatch):
    figure = views.heatmap(make(layers=2, size=3))
    kaleido = importlib.import_module("kaleido")
    started = []
    monkeypatch.setattr(kaleido.Kaleido, "__init__", counting(kaleido.Kaleido.__init__, started))
    with views.exporting():
        for number in range(3):
            views.save(figure, tmp_path / f"{number}.png")
        with views.exporting():
            views.save(figure, tmp_path / "inner.png")
        views.save(figure, tmp_path / "behind.png")
    assert len(list(tmp_path.iterdir())) == 5
    assert len(started) == 2  # to see whether it starts, and for all
    views.save(figure, tmp_path / "alone.png")
    assert len(started) == 3


def counting(function, calls):
    def counted(*args, **options):
        calls.append(options)
        return function(*args, **options)

    return counted


@needs_exporter
@pytest.mark.parametrize("kept", [False, True])
def test_a_browser_that_does_not_start(make, tmp_path, monkeypatch, kept):
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o700)
    monkeypatch.setenv("BROWSER_PATH", str(broken))
    figure = views.heatmap(make(layers=1, size=3))
    with pytest.raises(views.ExportError, match=r"the browser .*/chromium does not start: apt-get install chromium, or"):
        save_within(figure, tmp_path / "map.png", views.exporting() if kept else nullcontext())


def save_within(figure, path, context):
    with context:
        views.save(figure, path)


def test_what_to_install_is_said(make, tmp_path, monkeypatch):
    figure = views.heatmap(make())
    with monkeypatch.context() as gone:
        gone.setattr(importlib.util, "find_spec", lambda name: None)
        assert not views.can_export()
        with pytest.raises(views.ExportError, match=r"cannot write 'map.png': kaleido is not installed: pip install .*export"):
            views.save(figure, tmp_path / "map.png")
        with views.exporting():
            assert not views.can_export()  # nothing is started, and what is saved says what is missing
    with monkeypatch.context() as old:
        found = importlib.util.find_spec
        old.setattr(importlib.util, "find_spec", lambda name: None if name == "choreographer" else found("plotly"))
        with pytest.raises(views.ExportError, match=r"kaleido is older than 1\.0: pip install -U '.*export"):
            views.save(figure, tmp_path / "map.svg")
    if importlib.util.find_spec("kaleido"):
        monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "no-browser"))
        monkeypatch.setattr("choreographer.browsers.chromium.get_chrome_download_path", lambda mkdir: tmp_path / "none")
        with pytest.raises(views.ExportError, match=r"no Chrome or Chromium: apt-get install chromium.*BROWSER_PATH"):
            views.save(figure, tmp_path / "map.pdf")
    assert not list(tmp_path.iterdir())


def test_what_is_no_figure_is_refused(make, tmp_path):
    with pytest.raises(
        InputError, match=r"fig is a Dataset; expected a figure, such as interp\.views\.heatmap\(result\) gives"
    ):
        inspect.unwrap(views.save)(make(), tmp_path / "map.html")
    assert not list(tmp_path.iterdir())


def test_other_endings_are_refused(make, tmp_path):
    with pytest.raises(UnknownNameError, match=r"unknown figure ending '.pgn' of 'map.pgn'; did you mean '.png'"):
        views.save(views.heatmap(make()), tmp_path / "map.pgn")
