"""Which colours numbers have: red below 0 and blue above, or one scale where they are of one sign. And those of lines.

>>> import numpy as np
>>> scale(np.array([0.2, -0.5])), scale(np.array([0.2, 0.7]))["zmax"]
({'colorscale': 'RdBu', 'zmin': -0.5, 'zmax': 0.5}, 1.0)
>>> ink("plotly_white"), ink("plotly_dark")
('#000000', '#ffffff')
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
from numpy.typing import NDArray
from plotly.colors import get_colorscale, hex_to_rgb, sample_colorscale

from interp.errors import UnknownNameError

#: Blue at the top, so positive is blue; the default of every signed quantity.
DIVERGING = "RdBu"
SEQUENTIAL = "Viridis"

#: Colours that stay apart for colour-blind readers (Okabe and Ito, Color Universal Design, 2008), with olive for their yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C00")

GREY = "#8a8a8a"
"""Of lines that say where something is, on light and on dark paper."""


def scale(numbers: NDArray[np.floating], limit: float | None = None, *, signed: bool = False) -> dict[str, object]:
    """The scale of some numbers, as plotly's heatmap takes it.

    Args:
        numbers: those of every map that is drawn in it; NaN has no colour.
        limit: the value at the end of the colours, in place of the largest one.
        signed: about 0 whatever the signs are.
    """
    finite = numbers[np.isfinite(numbers)]
    if not signed and finite.size and (finite.min() >= 0 or finite.max() <= 0):
        share = finite.min() >= 0 and finite.max() <= 1  # a probability or an accuracy
        low, high = (0.0, 1.0) if share else (min(0.0, float(finite.min())), max(0.0, float(finite.max())))
        return {"colorscale": SEQUENTIAL, "zmin": low, "zmax": limit or high}
    end = limit or (float(np.abs(finite).max()) if finite.size else 0.0) or 1.0
    return {"colorscale": DIVERGING, "zmin": -end, "zmax": end}


def check_template(template: str) -> None:
    """Raise ``UnknownNameError`` for a name that plotly does not know; several are joined by ``+``."""
    for name in template.split("+") if isinstance(template, str) else ():
        if name not in pio.templates:
            raise UnknownNameError("template", name, pio.templates, "of plotly")


def ink(template: str) -> str:
    """Black or white, whichever is seen on the paper of a template."""
    check_template(template)
    paper = str(go.Layout(template=template).template.layout.paper_bgcolor or "white")
    if paper.startswith("#"):
        numbers = [float(c) for c in hex_to_rgb(paper if len(paper) == 7 else "#" + "".join(2 * digit for digit in paper[1:4]))]
    elif paper.startswith("rgb"):
        numbers = [float(number) for number in re.findall(r"[\d.]+", paper)[:3]]
    else:
        numbers = [0.0 if paper == "black" else 255.0] * 3  # the templates that name a colour name one of these
    return "#ffffff" if np.dot(numbers, [0.299, 0.587, 0.114]) < 128 else "#000000"


def lines(template: str) -> tuple[str, ...]:
    """Eight colours of lines on the paper of a template."""
    return (*COLOURS, ink(template))


def of_text(numbers: NDArray[np.floating], colours: Mapping[str, Any]) -> list[str]:
    """Black or white for each number, whichever is read better on its colour.

    Args:
        numbers: all of them finite.
        colours: from :func:`scale`.
    """
    low, high = float(colours["zmin"]), float(colours["zmax"])
    places = np.clip((np.asarray(numbers, float) - low) / (high - low), 0, 1)
    sampled = sample_colorscale(get_colorscale(colours["colorscale"]), places, colortype="tuple") if len(places) else []
    light = luminance(np.reshape(sampled, (-1, 3)))
    return np.where((light + 0.05) ** 2 > 0.05 * 1.05, "#000000", "#ffffff").tolist()


def luminance(colours: NDArray[np.floating]) -> NDArray[np.float64]:
    """From 0 of black to 1 of white, of colours ``[…, red green blue]`` from 0 to 1 (sRGB).

    A contrast is a ratio of luminances, each with 0.05 added (WCAG 2.2); on any colour black or white has 4.5 or more.
    """
    colours = np.asarray(colours, float)
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    return np.asarray(linear @ [0.2126, 0.7152, 0.0722])
