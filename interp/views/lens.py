"""The table of a logit lens: layer × position, each cell with the token that the stream would say there.

>>> views.lens(interp.lens(model, "The capital of France is"))                # doctest: +SKIP
>>> views.lens(ds, "answer_rank", example=2)                          # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp import axes as names
from interp.errors import UnknownNameError
from interp.views import prompts as of
from interp.views.colours import DIVERGING, SEQUENTIAL, ink, of_text
from interp.views.labels import Ticks, escape, short
from interp.views.layout import PAGE, dress


class _Value(NamedTuple):
    """How a variable is coloured."""

    says: str
    bar: str
    """What the colour bar says."""
    scale: str
    """``share`` from 0 to 1, ``nats`` from 0, ``signed`` about 0, ``rank`` by powers of ten, the first the brightest."""


VALUES = {
    "prob": _Value("probability of the most probable token", "probability", "share"),
    "logit": _Value("logit of the most probable token", "logit", "signed"),
    "entropy": _Value("entropy", "nats", "nats"),
    "kl": _Value("KL(final ‖ lens)", "nats", "nats"),
    "final_rank": _Value("rank of the final top token", "rank", "rank"),
    "answer_prob": _Value("probability of the answer", "probability", "share"),
    "answer_logit": _Value("logit of the answer", "logit", "signed"),
    "answer_rank": _Value("rank of the answer", "rank", "rank"),
}
_WIDEST, _CELL, _BESIDE = 960, 58, 150
"""Pixels of the figure at most where nobody says, of a cell at best, and of what stands beside the cells."""
_TEXT, _FEWEST = 10, 3
"""Size of the text in cells; characters below which cells stay without."""


def lens(
    results: xr.Dataset,
    quantity: str = "prob",
    *,
    example: int = 0,
    title: str | None = None,
    width: int | None = None,
    template: str = "plotly_white",
) -> go.Figure:
    """What every layer would say at every position: the most probable token in each cell, the top of the list in the hover.

    Args:
        results: from :func:`interp.lens`.
        quantity: what the colours say: ``"prob"``, ``"logit"``, ``"entropy"``, ``"kl"``, ``"final_rank"``, and with an answer
            ``"answer_prob"``, ``"answer_logit"``, ``"answer_rank"``.
        example: its number.
        title: in place of the one made here.
        width: in pixels; by default what words in the cells need, up to 960; ``views.PAGE`` where there are too many tokens for
            words at any width.
        template: a plotly template, e.g. ``"plotly_dark"``.

    Raises:
        UnknownNameError: a quantity that there is not, or a result that is no lens.
        PositionError: an example that there is not.
    """
    of.require(results, "views.lens", "token", "prob")
    known = [name for name in VALUES if name in results]
    if quantity not in known:
        raise UnknownNameError(
            "quantity", quantity, known, "of a lens", why="" if quantity not in VALUES else "lens had no answer"
        )
    table = of.real(of.one(results, example).transpose(names.LAYER, names.POSITION, ...), "entropy")
    numbers = table[quantity].values
    numbers = numbers[..., 0] if numbers.ndim == 3 else numbers
    words = table["input_token"].values.tolist() if "input_token" in table.coords else None
    columns = of.ticks(table[names.POSITION].values.tolist(), words)
    depth = [str(d) for d in (table["depth"] if "depth" in table.coords else table[names.LAYER]).values.tolist()]
    rows = Ticks("layer", [escape(d) for d in depth], [""] * len(depth))
    width = width or _needed(len(columns.full))
    coloured = _coloured(numbers, quantity)
    figure = go.Figure(
        go.Heatmap(
            **coloured,
            x=np.arange(numbers.shape[1]),
            y=np.arange(numbers.shape[0]),
            customdata=_hover(table, depth, columns),
            hovertemplate="%{customdata}<extra></extra>",
            hoverongaps=False,
        )
    )
    site = str(results.attrs.get("site", ""))
    tuned = "tuned lens" if results.attrs.get("translators") else "logit lens"
    head = title or f"{tuned} of {escape(site)}: {VALUES[quantity].says}" if site else title or tuned
    answer = f"answer {table['answer'].item()!r}" if "answer" in table.coords else ""
    dress(figure, head, of.under(results, of.said(table), answer), columns, rows, width=width, template=template)
    return _written(figure, table["token"].values[..., 0], coloured, ink(template))


def _needed(tokens: int) -> int:
    """The width at which cells have words, where there is one."""
    fits = _characters((_WIDEST - _BESIDE) / max(1, tokens), _TEXT) >= _FEWEST
    return min(_WIDEST, max(PAGE, _BESIDE + _CELL * tokens)) if fits else PAGE


def _characters(wide: float, size: int) -> int:
    """How many have room in a cell."""
    return int((wide - 4) / (0.66 * max(size, 1)))


def _coloured(numbers: np.ndarray[Any, Any], value: str) -> dict[str, Any]:
    _, says, scale = VALUES[value]
    finite = numbers[np.isfinite(numbers)]
    largest = float(np.abs(finite).max()) if finite.size else 1.0
    bar: dict[str, Any] = {"title": {"text": says, "side": "right"}}
    if scale == "rank":
        end = max(1.0, float(np.ceil(np.log10(max(largest, 1.0)))))
        powers = np.arange(0, end + 1)
        bar |= {"tickvals": powers, "ticktext": [_short(int(p)) for p in powers]}
        return {"z": np.log10(numbers), "zmin": 0, "zmax": end, "colorscale": f"{SEQUENTIAL}_r", "colorbar": bar}
    if scale == "signed":
        return {"z": numbers, "zmin": -largest or -1, "zmax": largest or 1, "colorscale": DIVERGING, "colorbar": bar}
    top = 1.0 if scale == "share" else largest or 1.0
    return {"z": numbers, "zmin": 0, "zmax": top, "colorscale": SEQUENTIAL, "colorbar": bar}


def _short(power: int) -> str:
    """``1``, ``10``, ``100``, ``1k``, ``10k`` …, ``1M``."""
    return f"{10 ** (power % 3)}{('', 'k', 'M')[power // 3]}"


def _hover(table: xr.Dataset, depth: Sequence[str], columns: Ticks) -> np.ndarray[Any, Any]:
    """The list of each cell and its numbers."""
    token, prob = table["token"].values, table["prob"].values
    entropy, kl, final = (table[name].values for name in ("entropy", "kl", "final_rank"))
    answer = [table[name].values for name in ("answer_prob", "answer_rank")] if "answer_rank" in table else None
    found = np.empty(entropy.shape, object)
    for i, j in np.ndindex(*entropy.shape):
        lines = [f"<b>{escape(depth[i])}@{escape(table[names.POSITION].values[j])}</b> {columns.hover[j]}"]
        lines += [f"{p:.3f}  {of.quoted(word)}" for word, p in zip(token[i, j], prob[i, j], strict=True)]
        lines += [
            f"entropy {entropy[i, j]:.2f}, KL(final ‖ lens) {kl[i, j]:.2f} nats, final top token at rank {final[i, j]:,.0f}"
        ]
        if answer is not None:
            lines += [f"answer {of.quoted(table['answer'].item())}: {answer[0][i, j]:.3g}, rank {answer[1][i, j]:,.0f}"]
        found[i, j] = "<br>".join(lines)
    return found


def _written(figure: go.Figure, tokens: np.ndarray[Any, Any], coloured: Mapping[str, Any], ink: str) -> go.Figure:
    """The token in each cell, cut to its room, in black or white; none where three characters have none."""
    layout = figure.layout
    wide = (layout.width - layout.margin.l - layout.margin.r) / max(1, tokens.shape[1])
    tall = (layout.height - layout.margin.t - layout.margin.b) / max(1, tokens.shape[0])
    size = min(_TEXT, int(tall / 1.25))
    most = _characters(wide, size)
    if size >= 7 and most >= _FEWEST:
        known = np.isfinite(coloured["z"])
        colours = np.full(known.shape, ink, object)
        colours[known] = of_text(coloured["z"][known], coloured)
        text = np.empty(known.shape, object)
        for place in np.ndindex(*known.shape):
            word = escape(of.cut(short(str(tokens[place])), most))
            text[place] = f"<span style='color:{colours[place]}'>{word}</span>"
        figure.data[0].update(text=text, texttemplate="%{text}", textfont={"size": size})
    return figure
