"""The app end to end, in headless Chromium: what a user sees, clicks and gets."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import half_runs
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from interp import effects
from interp.app.server import serve
from interp.store import Store

PATIENCE = 30
"""Seconds that a page is waited for: the machine may be shared."""


@pytest.fixture
def page(driver, saved):
    """The app on the store of made-up results, and what to do with it."""
    with serve(saved[0], port=0) as server:
        driver.get(server.url)
        driver.execute_script("localStorage.clear(); sessionStorage.clear()")
        shown = Page(driver, server.url)
        yield shown
        shown.healthy()
        driver.get("about:blank")


class Page:
    """A page in the browser, seen through selectors."""

    def __init__(self, driver, url):
        self.driver, self.url = driver, url

    def healthy(self):
        """The console has no error, but for pages that there are not."""
        errors = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        assert not [error for error in errors if "404" not in error], errors

    def open(self, path=""):
        self.driver.get(self.url + path)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def wait(self, what, until):
        """Wait until a function of nothing is true, which may meet a page that changes while it looks; return what it gave."""
        from selenium.common.exceptions import StaleElementReferenceException, WebDriverException

        last, end = None, time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                last = until()
                if last:
                    return last
            except (StaleElementReferenceException, IndexError, WebDriverException) as error:
                last = error
            time.sleep(0.1)
        raise AssertionError(f"{what} did not come: {last!r}; the page says {self.text('main')[:600]!r}")

    def text(self, selector):
        return "\n".join(element.text for element in self.all(selector))

    def see(self, selector, *words):
        """Wait until the words are there."""
        return self.wait(f"{words} in {selector}", lambda: all(word in self.text(selector) for word in words))

    def click(self, selector):
        def press():
            element = self.all(selector)[0]
            self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
            element.click()
            return True

        self.wait(f"a click on {selector}", press)

    def tick(self, name):
        """The box beside a run of the list."""

        def press():
            found = [row for row in self.all("table.runs tbody tr") if row.find_element("css selector", "a").text == name]
            box = found[0].find_element("css selector", "input")
            if not box.is_selected():
                box.click()
            return box.is_selected()

        self.wait(f"a tick at {name}", press)

    def choose(self, menu, label):
        """An entry of a menu."""
        self.click(f"#{menu}")

        def press():
            entries = [e for e in self.all(".dash-options-list-option, .dash-dropdown-option") if e.text.strip() == label]
            entries[0].click()
            return True

        self.wait(f"{label} in the menu {menu}", press)

    def cell(self, panel, column, row, columns, rows):
        """Click the middle of a cell of a map."""
        from selenium.webdriver import ActionChains

        def press():
            drag = self.all(f".panel.{panel} .plotly .nsewdrag")[0]
            self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", drag)
            x = ((column + 0.5) / columns - 0.5) * drag.size["width"]
            y = (0.5 - (row + 0.5) / rows) * drag.size["height"]
            ActionChains(self.driver).move_to_element_with_offset(drag, int(x), int(y)).pause(0.3).click().perform()
            return True

        self.wait(f"the map {panel}", press)

    def point(self, panel, name):
        """Click the point of a figure whose hover is of this name."""
        from selenium.webdriver import ActionChains

        script = """
            const g = document.querySelector(arguments[0]), name = `<b>${arguments[1]}</b>`, l = g._fullLayout;
            for (const t of g._fullData) {
                const i = t.visible === true && t.text ? [...t.text].findIndex(text => String(text).startsWith(name)) : -1;
                if (i < 0) { continue; }
                const box = g.getBoundingClientRect();
                return [box.x + l.xaxis._offset + l.xaxis.l2p(t.x[i]), box.y + l.yaxis._offset + l.yaxis.l2p(t.y[i])];
            }"""

        def press():
            graph = self.all(f".panel.{panel} .js-plotly-plot")[0]
            self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", graph)
            found = self.driver.execute_script(script, f".panel.{panel} .js-plotly-plot", name)
            if not found:
                return False  # another figure as yet
            actions = ActionChains(self.driver)
            actions.w3c_actions.pointer_action.move_to_location(*map(round, found))
            actions.pause(0.3).click().perform()
            return True

        self.wait(f"the point {name}", press)

    def numbers(self, panel):
        """What the first trace of a panel's figure shows."""
        script = "const g = document.querySelector(arguments[0]); return g && g.data ? JSON.stringify(g.data[0].z) : null"

        def read():
            found = json.loads(self.driver.execute_script(script, f".panel.{panel} .js-plotly-plot") or "null")
            if isinstance(found, dict):  # as plotly carries typed arrays
                import base64

                shape = [int(n) for n in found["shape"].split(",")]
                return np.frombuffer(base64.b64decode(found["bdata"]), found["dtype"]).reshape(shape).tolist()
            return found

        return np.array(self.wait(f"a map in {panel}", read), float)

    def downloaded(self, ending):
        """The file that arrives."""

        def there():
            files = [path for path in self.driver.downloads.iterdir() if path.suffix == ending]
            return files[0] if files and not list(self.driver.downloads.glob("*.crdownload")) else None

        return self.wait(f"a download {ending}", there)


@pytest.fixture(autouse=True)
def _tidy(request):
    if "driver" in request.fixturenames:
        for path in request.getfixturevalue("driver").downloads.iterdir():
            path.unlink()


def rows(page):
    return sorted(link.text for link in page.all("table.runs a"))


def test_runs_are_listed_and_filtered(page):
    page.open()
    page.wait("all runs", lambda: len(rows(page)) == 7)
    assert "<script>alert(1)<,script>" in rows(page)  # as text
    page.all("#text")[0].send_keys("resid paper")
    page.wait("two runs", lambda: rows(page) == ["half", "stream"])
    assert "2 of 7 runs" in page.text("#runs")
    page.choose("by-tags", "first")
    page.wait("one run", lambda: rows(page) == ["stream"])
    page.all("#text")[0].send_keys(" nowhere")
    page.see("#runs", "None of the 7 runs matches.")


def test_a_run_is_opened_and_a_cell_shows_its_examples_and_prompts(page, make):
    page.open()
    page.wait("the list", lambda: rows(page))
    next(link for link in page.all("table.runs a") if link.text == "stream").click()
    page.see("#banner", "stream", "complete", "tiny <model>")
    found = page.numbers("a")
    np.testing.assert_allclose(found[:, 3], [1 / 3, 2 / 3, 1], atol=1e-5)
    page.cell("a", 3, 1, 5, 3)
    page.see("#detail", "L1@3", "recovery of logit_diff 0.67 ± 0.00 (n=6", "at position 3")
    one = make().sel(metric="logit_diff").isel(layer=1, position=3)
    table = page.wait("six examples", lambda: len(page.all("#examples tbody tr")) == 6 and page.all("#examples tbody tr"))
    effect = float(one["value"][4] - one["corrupt"][4])
    numbers = [f"{float(one[side][4]):.4g}" for side in ("clean", "corrupt", "value")]
    numbers = [f"{float(one[side][4]):.4g}" for side in ("clean", "corrupt", "value")]
    assert table[4].text.split() == ["4", "t0", *numbers, f"{effect:.4g}", "0.6667"]
    table[4].click()
    page.see("#prompts", "Example 4", "Gus")
    differs, marked = ([e.text for e in page.all(f"#prompts .tokens .token.{kind}")] for kind in ("differs", "marked"))
    assert [word.split("\n")[0].strip() for word in differs] == ["Bob3", "Gus3"] == [word.strip() for word in marked]
    assert "0 layers" not in page.text("main")


def test_choosing_a_metric_and_a_quantity_draws_another_map(page, ids, make):
    page.open(f"run/{ids['stream']}")
    page.numbers("a")
    page.choose("quantity", "value")
    page.choose("metric", "prob")
    wanted = make()["value"].sel(metric="prob").mean("example").values
    page.wait("values of prob", lambda: np.allclose(page.numbers("a"), wanted, atol=1e-4))
    page.choose("view", "curve")
    page.wait("a curve", lambda: page.all(".panel.a .scatterlayer .trace"))
    page.choose("view", "map")
    page.wait("a map again", lambda: page.all(".panel.a .heatmaplayer .hm"))
    page.choose("view", "tokens")
    page.wait("tokens", lambda: page.all(".panel.a .barlayer .point"))
    ticks = page.all(".panel.a .cbaxis text")
    assert len({round(tick.rect["y"]) for tick in ticks}) == 1  # its colour bar lies; nothing is left of the map's
    page.choose("view", "variables")
    page.see(".panel.a", "by_rule", "layer 3 × position 5 × example 6")


def test_a_slider_moves_along_an_axis_that_is_not_drawn(page, ids):
    from selenium.webdriver.common.keys import Keys

    page.open(f"run/{ids['heads']}")
    page.choose("x", "head")
    page.choose("y", "layer")
    page.wait("the map at the end", lambda: np.allclose(np.diag(page.numbers("a")), 0.5, atol=1e-5))
    page.all("#sliders [role=slider]")[0].send_keys(Keys.ARROW_LEFT)
    page.wait("the map at S2", lambda: not np.nan_to_num(page.numbers("a")).any())


def test_the_strongest_cells_lead_to_their_examples(page, ids):
    from selenium.webdriver.common.keys import Keys

    page.open(f"run/{ids['stream']}")
    page.see("#strongest", "L2@3")
    page.click("#strongest tbody tr:nth-child(2)")
    page.see("#detail", "L1@3")
    for key, number, cell in ((Keys.ENTER, 3, "L0@3"), (Keys.SPACE, 1, "L2@3")):
        page.all(f"#strongest tbody tr:nth-child({number})")[0].send_keys(key)
        page.see("#detail", cell)


NAMELESS = """
const said = (e) => (e.getAttribute("aria-label") || "") + [...(e.labels || [])].map((l) => l.innerText).join("") + e.innerText;
const grouped = (e) => e.closest("[role=group]")?.getAttribute("aria-label");
const all = document.querySelectorAll("header button, main button, main input, main [role=slider]");
return [...all].filter((e) => e.offsetParent && !/[a-z]/i.test(said(e)) && !grouped(e)).map((e) => e.outerHTML.slice(0, 200));
"""
FOCUS = (
    "const e = document.activeElement, s = getComputedStyle(e); return [e.tagName, s.outlineStyle, parseFloat(s.outlineWidth)]"
)


@pytest.mark.parametrize("of", ["the list", "families"])
def test_controls_are_named_and_one_sees_where_the_keyboard_is(page, ids, of):
    from selenium.webdriver.common.keys import Keys

    page.open("" if of == "the list" else f"run/{ids[of]}")
    page.see("main", "Ann" if of == "families" else "stream")
    assert page.driver.execute_script(NAMELESS) == []
    body = page.all("body")[0]
    seen = set()
    for _ in range(14):
        body = page.driver.switch_to.active_element
        body.send_keys(Keys.TAB)
        tag, style, width = page.driver.execute_script(FOCUS)
        seen.add(tag)
        assert style != "none", tag
        assert width >= 1, tag
    assert {"A", "BUTTON"} <= seen


def test_two_runs_are_ticked_compared_and_subtracted(page, make):
    page.open()
    page.wait("the list", lambda: len(rows(page)) == 7)
    for number, name in enumerate(("stream", "half")):
        page.tick(name)
        page.see("#picked", ("Tick two", "Compare the two")[number])
    page.click("#compare")
    page.see("#banner", "A", "stream", "B", "half")
    page.choose("quantity", "effect")
    wanted = (effects.effect(make()) - effects.effect(make(0.5))).sel(metric="logit_diff").mean("example").values
    page.wait("the difference", lambda: np.allclose(page.numbers("difference"), wanted, atol=1e-4))
    page.see(".panel.difference", "Difference of each of 6 examples.")
    page.cell("difference", 3, 2, 5, 3)
    page.see("#detail", "L2@3", "effect A", "effect B", "A − B")
    page.click(".panel.difference button.data")
    table = pd.read_csv(page.downloaded(".csv"))
    np.testing.assert_allclose(table.groupby(["layer", "position"])["difference"].mean().values, wanted.ravel(), rtol=1e-5)


def test_runs_whose_axes_differ_are_not_subtracted_and_say_why(page, ids):
    page.open(f"compare/{ids['stream']}/{ids['heads']}")
    page.see(".panel.difference", "A and B cannot be subtracted: A runs along layer × position, B along layer × head")
    page.wait("nothing to download", lambda: not page.all(".panel.difference button.data")[0].is_displayed())


def test_an_edge_of_a_circuit_and_a_node_of_its_paths_are_clicked(page, ids):
    page.open(f"run/{ids['graph']}")
    page.choose("view", "circuit")
    page.point("a", "L0H0 → logits")
    page.see("#detail", "L0H0 → logits", "damage of logit_diff 0.30 ± 0.00 (n=6)", "example")
    page.choose("view", "paths")
    page.click(".panel.a .sankey-node:nth-child(2) .node-rect")
    page.see("#detail", "L0H0", "A node has no values per example of its own", "embed → L0H0.q")
    page.click("#detail tbody tr:nth-child(2)")
    page.see("#detail", "L0H0 → L1H1.k", "damage of logit_diff 0.20 ± 0.00 (n=6)")


def test_two_runs_in_one_figure(page, ids):
    page.open(f"compare/{ids['stream']}/{ids['half']}")
    page.numbers("difference")
    page.choose("view", "A and B: cell against cell")
    page.point("both", "L1@3")
    page.see("#detail", "L1@3", "effect A", "effect B", "A − B")
    shown = [panel.is_displayed() for panel in page.all(".panel")]
    assert shown == [False, False, False, True]
    page.choose("view", "map")
    page.wait("both maps", lambda: [panel.is_displayed() for panel in page.all(".panel")] == [True, True, True, False])


def test_figures_fit_a_narrow_window(page, ids):
    size = page.driver.get_window_size()
    page.driver.set_window_size(500, 900)
    try:
        page.open(f"run/{ids['stream']}")
        page.numbers("a")
        page.click("#strongest tbody tr")
        page.see("#detail", "L2@3")
        wide = "const e = document.querySelector(arguments[0]); return [e.scrollWidth, e.clientWidth]"
        for selector in ("html", ".panel.a"):
            inside, room = page.driver.execute_script(wide, selector)
            assert inside <= room, selector
    finally:
        page.driver.set_window_size(size["width"], size["height"])


def test_figure_and_numbers_are_downloaded(page, ids, make):
    page.open(f"run/{ids['stream']}")
    page.numbers("a")
    page.click(".panel.a button.figure")
    assert "Plotly.newPlot" in page.downloaded(".html").read_text()
    page.click(".panel.a button.data:last-child")
    with xr.open_dataset(page.downloaded(".nc"), engine="scipy") as found:
        np.testing.assert_array_equal(found["value"], make()["value"])


def test_an_image_is_downloaded_where_it_can_be_drawn(page, ids):
    from interp.views import can_export

    page.open(f"run/{ids['stream']}")
    page.numbers("a")
    button = page.all(".panel.a button.figure")[1]
    assert button.text == "PNG"
    assert button.is_enabled() == can_export()
    if can_export():
        button.click()
        assert page.downloaded(".png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    else:
        assert "install" in button.get_attribute("title")


def test_light_and_dark(page, ids):
    page.open(f"run/{ids['stream']}")
    page.numbers("a")
    paper = "return getComputedStyle(document.body).backgroundColor"
    before, theme = (page.driver.execute_script(s) for s in (paper, "return document.documentElement.dataset.theme"))
    page.click("#toggle")
    page.wait("other colours", lambda: page.driver.execute_script(paper) != before)
    other = {"light": "dark", "dark": "light"}[theme]
    assert page.driver.execute_script("return document.documentElement.dataset.theme") == other
    page.driver.refresh()
    page.wait("it stays", lambda: page.driver.execute_script("return document.documentElement.dataset.theme") == other)


def test_a_bad_id_is_not_found(page, ids):
    for path in ("run/000000000000", f"compare/{ids['stream']}/000000000000", "run/..%2f..%2fetc%2fpasswd"):
        page.open(path)
        status = "return performance.getEntriesByType('navigation')[0].responseStatus"
        assert page.driver.execute_script(status) == 404


def test_nothing_is_asked_of_another_machine(page, ids):
    page.open(f"run/{ids['stream']}")
    page.numbers("a")
    asked = page.driver.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert asked
    assert {url.split("/")[2] for url in asked if not url.startswith(("data:", "blob:"))} == {page.url.split("/")[2]}


def test_a_run_that_is_begun_or_removed_meanwhile_is_noticed(driver, tmp_path, make):
    store = Store(tmp_path)
    first = store.save(make(), name="first")
    with serve(store, port=0) as server, store.begin(make(0.5).assign(value=make()["value"] * np.nan), chunks={"layer": 1}):
        page = Page(driver, server.url)
        page.open()
        page.wait("both runs", lambda: len(rows(page)) == 2)
        store.save(make(0.25), name="second")
        page.wait("the new one", lambda: "second" in rows(page))
        half = next(run for run in store if run.id not in (first.id, store.run("second").id))
        page.open(f"run/{half.id}")
        page.see("#banner", "0 of 3 units")
        store.delete(half.id)
        page.see("#banner", f"no run '{half.id}'", "it was removed while it was shown")
        page.click("#toggle")  # draws again
        time.sleep(1)
        page.healthy()
        driver.get("about:blank")


def test_an_interrupted_run_says_how_it_goes_on_and_goes_on(driver, tmp_path):
    words = "import sys, time, half_runs; from interp.store import Store; half_runs.write(Store(sys.argv[1]), slow=slow)"
    slow = "def slow(unit):\n    print(unit.number, flush=True)\n    if unit.number: time.sleep(600)"
    code = f"{words.split(';')[0]}\n{slow}\n{words.split(';', 1)[1].strip()}"
    path = os.pathsep.join(filter(None, (str(Path(half_runs.__file__).parent), *sys.path)))
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    with writer, serve(Store(tmp_path), port=0) as server:
        page = Page(driver, server.url)
        try:
            page.open()
            page.see("#runs", "This store holds no runs yet")
            assert [writer.stdout.readline(), writer.stdout.readline()] == ["0\n", "1\n"]  # at work on the second unit
            page.click("table.runs a")
            page.see("#banner", "running", "1 of 9 units")
            page.wait("a map", lambda: np.isfinite(page.numbers("a")).sum() == 2 * half_runs.POSITIONS)
            assert "Interrupted" not in page.text("#banner")
        finally:
            writer.kill()
        page.see("#banner", "unfinished", "Interrupted: nobody is at work on this run", "Call interp.patch again as before")
        done, _ = half_runs.write(Store(tmp_path))
        assert len(done) == 8
        page.see("#banner", "complete")
        page.wait("all layers", lambda: np.isfinite(page.numbers("a")).all())
        assert "Interrupted" not in page.text("#banner")
        page.healthy()
        driver.get("about:blank")


def test_a_run_that_is_being_written_is_followed(driver, tmp_path, make):
    store, whole = Store(tmp_path), make()
    skeleton = whole.assign(value=whole["value"] * np.nan)
    with serve(store, port=0) as server, store.begin(skeleton, chunks={"layer": 1}, name="growing") as writing:
        page = Page(driver, server.url)
        for number, unit in enumerate(writing):  # while it looks, this process is at work on the next unit
            if number == 1:
                page.open(f"run/{writing.id}")
                page.see("#banner", "growing", "running", "1 of 3 units")
                assert np.isfinite(page.numbers("a")).any(axis=1).sum() == 1
            if number == 2:
                page.see("#banner", "running", "2 of 3 units")
                page.wait("two layers", lambda: np.isfinite(page.numbers("a")).any(axis=1).sum() == 2)
            writing.write(unit, {"value": whole["value"].isel(unit.index).values})
        writing.finish()
        page.see("#banner", "complete")
        page.wait("all layers", lambda: np.allclose(page.numbers("a")[:, 3], [1 / 3, 2 / 3, 1], atol=1e-5))
        assert "units" not in page.text("#banner")
        driver.get("about:blank")
