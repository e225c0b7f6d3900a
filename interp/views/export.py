"""Figures as files: self-contained HTML always; PNG, SVG and PDF where kaleido and a Chromium are installed."""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from pathlib import Path

import plotly.graph_objects as go

from interp.errors import UnknownNameError, UserError

IMAGES = (".png", ".svg", ".pdf")
SUFFIXES = (".html", *IMAGES)


#: For figures in a page: no button that sends data anywhere, and few enough of them to leave the title free.
HTML_CONFIG = {"displaylogo": False, "responsive": False, "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]]}


class ExportError(UserError, RuntimeError):
    """What draws images is not installed."""


def save(fig: go.Figure, path: str | os.PathLike[str], *, scale: float = 2.0) -> Path:
    """Write a figure; the ending of ``path`` says as what.

    HTML holds all of plotly.js (about 5 MB) and opens without a network.

    Args:
        fig: any plotly figure.
        path: ends in .html, .png, .svg or .pdf; its folder must exist.
        scale: pixels of a PNG for each pixel of the figure; 3.125 makes 300 dpi of the print widths.

    Returns:
        The path written.

    Raises:
        UnknownNameError: another ending.
        ExportError: kaleido or the browser that it drives is missing; the message says what to install.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise UnknownNameError("figure ending", kind, SUFFIXES, f"of {path.name!r}")
    if kind == ".html":
        page = fig.to_html(config=HTML_CONFIG, include_plotlyjs=True, include_mathjax=False, full_html=True, auto_play=False)
        path.write_text(page, encoding="utf-8")
        return path
    if missing := missing_exporter():
        raise ExportError(f"cannot write {path.name!r}: {missing} (HTML needs neither)")
    path.write_bytes(_draw(fig, kind[1:], scale))
    return path


def _draw(fig: go.Figure, kind: str, scale: float) -> bytes:
    """The image, drawn without a network: left alone, kaleido's page asks a server for MathJax first.

    A running ``kaleido.start_sync_server()`` is used, which saves the start of a browser for every figure; its page is then
    the one that it was started with, and kaleido's warning about that is not ours to pass on.
    """
    kaleido = importlib.import_module("kaleido")  # an extra: imported only when an image is drawn
    size = {"width": fig.layout.width or 700, "height": fig.layout.height or 450}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The kopts argument is ignored")
        page = kaleido.PageGenerator(mathjax=False)
        image = kaleido.calc_fig_sync(fig.to_dict(), {"format": kind, "scale": scale, **size}, kopts={"page_generator": page})
    return bytes(image)


def can_export() -> bool:
    """Whether `save` can write images here."""
    return not missing_exporter()


def missing_exporter() -> str:
    """What to install before images can be written; "" where nothing is missing."""
    if importlib.util.find_spec("kaleido") is None:
        return "kaleido is not installed: pip install 'interp-workbench[export]'"
    chromium = importlib.import_module("choreographer.browsers.chromium")  # kaleido's own way of finding its browser
    browser = chromium.Chromium.find_browser(skip_local=False)
    if not browser or not Path(browser).is_file():
        return (
            "kaleido found no Chrome or Chromium: apt-get install chromium, or install Chrome, or run kaleido_get_chrome, "
            "or name one in the environment variable BROWSER_PATH"
        )
    return ""
