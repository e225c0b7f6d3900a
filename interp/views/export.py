"""Figures as files: self-contained HTML always; PNG, SVG and PDF where kaleido and a Chromium are installed.

>>> with exporting():                                                              # one browser for all  # doctest: +SKIP
...     for name, figure in figures.items():
...         save(figure, f"{name}.pdf")
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from interp.errors import InputError, UnknownNameError, UserError
from interp.outputs import file_to_write, put

IMAGES = (".png", ".svg", ".pdf")
SUFFIXES = (".html", *IMAGES)
_NEED = "apt-get install chromium, or install Chrome, or run kaleido_get_chrome, or name one in the variable BROWSER_PATH"

#: For figures in a page: no button that sends data anywhere, and few enough of them to leave the title free.
HTML_CONFIG = {"displaylogo": False, "responsive": False, "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]]}


class ExportError(UserError, RuntimeError):
    """What draws images is not installed."""


def save(fig: go.Figure, path: str | os.PathLike[str], *, scale: float = 2.0) -> Path:
    """Write a figure; the ending of ``path`` says as what.

    HTML holds all of plotly.js (about 5 MB) and opens without a network. PDF and SVG are as wide as the figure at 96 pixels an
    inch, 6.75 in and 3.25 in at the widths of print, with fonts embedded in PDF.

    Args:
        fig: any plotly figure.
        path: ends in .html, .png, .svg or .pdf; its folder must exist.
        scale: pixels of a PNG for each pixel of the figure; 3.125 makes 300 dpi of the print widths.

    Returns:
        The path written.

    Raises:
        UnknownNameError: another ending.
        InputError: what is no figure.
        PathError: no such folder, or nothing can be written there.
        ExportError: kaleido or the browser that it drives is missing, or does not start; the message says what to install.
    """
    if not isinstance(fig, go.Figure):
        raise InputError(f"fig is a {type(fig).__name__}; expected a figure, such as interp.views.heatmap(result) gives")
    path = file_to_write(path)
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise UnknownNameError("figure ending", kind, SUFFIXES, f"of {path.name!r}")
    if kind == ".html":
        page = fig.to_html(config=HTML_CONFIG, include_plotlyjs=True, include_mathjax=False, full_html=True, auto_play=False)
        return put(path, page.encode())
    if missing := missing_exporter():
        raise ExportError(f"cannot write {path.name!r}: {missing} (HTML needs neither)")
    return put(path, _draw(fig, kind[1:], scale if kind == ".png" else 1.0))


@contextmanager
def exporting() -> Iterator[None]:
    """Keep one browser for all images that are saved within: a fraction of a second each, in place of seconds.

    Raises:
        ExportError: the browser does not start. Where there is none, saving an image says so, and HTML needs none.
    """
    if missing_exporter():
        yield
        return
    kaleido = importlib.import_module("kaleido")
    _draw(go.Figure(), "svg", 1.0)  # with a browser that does not start, kaleido's server would wait for ever
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        kaleido.start_sync_server(page_generator=_page(kaleido))
    try:
        yield
    finally:
        if not any("already open" in str(one.message) for one in seen):  # else it is another's
            kaleido.stop_sync_server()


def _page(kaleido: Any) -> Any:
    """What draws without a network: left alone, kaleido's page asks a server for MathJax first."""
    return kaleido.PageGenerator(mathjax=False)


def _draw(fig: go.Figure, kind: str, scale: float) -> bytes:
    """The image. The page of a server that runs already is the one that it was started with, which kaleido warns of."""
    kaleido = importlib.import_module("kaleido")  # an extra: imported only when an image is drawn
    size = {"width": fig.layout.width or 700, "height": fig.layout.height or 450}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The kopts argument is ignored")
        drawn, options = {"format": kind, "scale": scale, **size}, {"page_generator": _page(kaleido)}
        errors = importlib.import_module("choreographer.errors")
        try:
            return bytes(kaleido.calc_fig_sync(fig.to_dict(), drawn, kopts=options))
        except (errors.BrowserFailedError, errors.BrowserDepsError) as error:
            raise ExportError(f"the browser {_browser()} does not start: {_NEED}") from error


def can_export() -> bool:
    """Whether `save` can write images here."""
    return not missing_exporter()


def missing_exporter() -> str:
    """What to install before images can be written; "" where nothing is missing."""
    if importlib.util.find_spec("kaleido") is None:
        return "kaleido is not installed: pip install 'interp-workbench[export]'"
    if importlib.util.find_spec("choreographer") is None:  # kaleido 0.2 brought a browser of its own, which is no longer mended
        return "kaleido is older than 1.0: pip install -U 'interp-workbench[export]'"
    browser = _browser()
    return "" if browser and Path(browser).is_file() else f"kaleido found no Chrome or Chromium: {_NEED}"


def _browser() -> str | None:
    """Kaleido's own way of finding its browser."""
    chromium = importlib.import_module("choreographer.browsers.chromium")
    found: str | None = chromium.Chromium.find_browser(skip_local=False)
    return found
