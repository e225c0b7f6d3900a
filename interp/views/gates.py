"""The taxonomy of gated heads as a map: which are facilitating, interfering or irrelevant, in every seed or in some.

    >>> from interp import views
    >>> views.gates(interp.gate_heads(model, pairs))                                           # doctest: +SKIP

Blue facilitates and red interferes, dark where a head has the role in all seeds and light where it has it in some; letters say
the same without colours: F and I always, f and i in some seeds, ± both in different seeds.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray

from interp import axes as names
from interp import effects as fx
from interp.effects.gating import FACILITATING, INCONSISTENT, INTERFERING, ROLES, counts, is_gating
from interp.errors import InputError
from interp.views import labels
from interp.views.colours import COLOURS
from interp.views.layout import PAGE, dress, make_room


class Kind(NamedTuple):
    """How a head is shown."""

    says: str
    letter: str
    colour: str

    @property
    def name(self) -> str:
        """In the legend."""
        return f"{self.letter} {self.says}".strip()


ALWAYS_F = Kind("always facilitating", "F", COLOURS[0])
SOME_F = Kind("facilitating in some seeds", "f", COLOURS[5])
ALWAYS_I = Kind("always interfering", "I", COLOURS[1])
SOME_I = Kind("interfering in some seeds", "i", COLOURS[4])
BOTH = Kind("either, by seed", "±", COLOURS[3])
STRANGE = Kind("inconsistent in some seeds", "?", COLOURS[6])
ALWAYS_N = Kind("always irrelevant", "", "#f0f0f0")
ABSENT = Kind("no such head", "", "#9a9a9a")
KINDS = (ALWAYS_F, SOME_F, ALWAYS_I, SOME_I, BOTH, STRANGE, ALWAYS_N, ABSENT)
_SMALLEST = 6
"""Pixels of letters that can be read."""
_LETTER = 0.7
"""Size of a letter in a cell."""
_GLYPH, _MARK = 0.55, 40
"""Width of a character of the legend, in sizes of its type, and pixels of what stands beside a name."""
_WIDE = 480
"""Pixels from which on a figure has room for one row of a legend; a narrower one has a row for each name."""


def gates(results: xr.Dataset, *, title: str | None = None, width: int = PAGE, template: str = "plotly_white") -> go.Figure:
    """A map of roles, layer by head.

    Args:
        results: what :func:`interp.gate_heads` returns.
        title: in place of the one made here.
        width: in pixels; ``views.PAGE`` and ``views.COLUMN`` are the widths of print.
        template: a plotly template.

    Raises:
        InputError: something else than gates with roles.
    """
    if not is_gating(results):
        raise InputError(
            f"results is a {type(results).__name__}; expected what interp.gate_heads(…) returns, with gate, role and share by "
            f"layer and head{fx.unread(results)}"
        )
    many = counts(results)
    seeds = results.sizes[names.SEED]
    shown = _kinds(many, seeds)
    layers, heads = shown.shape
    hover = _hover(results, many)
    figure = go.Figure()
    for number, kind in enumerate(KINDS):
        chosen = shown == number
        if chosen.any():
            figure.add_heatmap(
                z=np.where(chosen, 1.0, np.nan), x=np.arange(heads), y=np.arange(layers),
                customdata=np.where(chosen, hover, ""), text=np.where(chosen, kind.letter, ""),
                hovertemplate="%{customdata}<extra></extra>", hoverongaps=False,
                colorscale=[[0, kind.colour], [1, kind.colour]], zmin=0, zmax=1, showscale=False, showlegend=True,
                name=kind.name, xgap=0.5, ygap=0.5,
            )  # fmt: skip
    attrs = fx.attrs_of(results)
    always = [int((shown == KINDS.index(kind)).sum()) for kind in (ALWAYS_F, ALWAYS_I)]
    head = f"roles of {attrs.get('site') or 'heads'}: {always[0]} of {int((many.sum(0) > 0).sum())} always facilitating, "
    words = [attrs.get("model"), attrs.get("task"), f"{seeds} seeds", f"gates cut at {attrs.get('cut', 0.5):.2g}"]
    under = " · ".join(labels.escape(word) for word in [*words, *labels.in_sample(attrs)] if word)
    columns, rows = labels.ticks(results, names.HEAD), labels.ticks(results, names.LAYER)
    dress(
        figure, title or labels.escape(f"{head}{always[1]} interfering"), under, columns, rows, width=width, template=template
    )
    margin = figure.layout.margin
    inner, glyphs = width - margin.l - margin.r, max(len(trace.name) for trace in figure.data)
    across = max(1, int(inner / (_GLYPH * figure.layout.font.size * glyphs + _MARK)))
    if width >= _WIDE and len(figure.data) > across:
        make_room(figure, below=int(2.2 * figure.layout.font.size * (math.ceil(len(figure.data) / across) - 1)))
    cell = min((figure.layout.width - margin.l - margin.r) / heads, (figure.layout.height - margin.t - margin.b) / layers)
    size = min(float(figure.layout.font.size), _LETTER * cell)
    if size >= _SMALLEST:
        figure.update_traces(texttemplate="%{text}", textfont={"size": size})
        for trace in figure.data:
            dark = trace.name in (ALWAYS_F.name, ALWAYS_I.name)
            trace.textfont.color = "#ffffff" if dark else "#000000"
    return figure


def _kinds(many: NDArray[np.floating], seeds: int) -> NDArray[np.int_]:
    """``[layer, head]``: which of :data:`KINDS` each head is."""
    helps, hurts, strange = (many[ROLES.index(role)] for role in (FACILITATING, INTERFERING, INCONSISTENT))
    rules = [
        (np.isnan(helps), ABSENT),
        ((helps > 0) & (hurts > 0), BOTH),
        (helps == seeds, ALWAYS_F),
        (hurts == seeds, ALWAYS_I),
        (helps > 0, SOME_F),
        (hurts > 0, SOME_I),
        (strange > 0, STRANGE),
    ]
    return np.select([rule for rule, _ in rules], [KINDS.index(kind) for _, kind in rules], KINDS.index(ALWAYS_N))


def _hover(results: xr.Dataset, many: NDArray[np.floating]) -> NDArray[np.object_]:
    """``L9H6 facilitating in 7 of 10 seeds, irrelevant in 3`` and the gates behind it."""
    layers, heads = (results[axis].values.tolist() for axis in (names.LAYER, names.HEAD))
    gate = results["gate"].transpose("stage", names.SEED, names.LAYER, names.HEAD)
    up, down = (gate.sel(stage=stage).values for stage in ("B+", "B-"))
    out = np.empty((len(layers), len(heads)), object)
    for i, layer in enumerate(layers):
        for j, head in enumerate(heads):
            name = f"<b>{fx.cell_name({names.LAYER: layer, names.HEAD: head})}</b>"
            if np.isnan(many[0, i, j]):
                out[i, j] = f"{name} {ABSENT.says}"
                continue
            plays = [(role, round(float(many[k, i, j]))) for k, role in enumerate(ROLES) if round(float(many[k, i, j]))]
            said = ", ".join(f"{role} in {count}" for role, count in plays)
            ranges = [f"{of[:, i, j].mean():.3f} ({of[:, i, j].min():.3f} to {of[:, i, j].max():.3f})" for of in (up, down)]
            out[i, j] = f"{name} {said} of {len(up)} seeds<br>G⁺ {ranges[0]}<br>G⁻ {ranges[1]}"
    return out
