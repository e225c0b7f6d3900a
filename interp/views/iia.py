"""Interchange intervention accuracy by layer, beside its controls.

    >>> found = xr.Dataset({                                                            # doctest: +SKIP
    ...     "iia": accuracy,                      # [layer, seed], or [layer, example] of 0 and 1
    ...     "random_subspace": by_draw,           # [layer, seed]
    ...     "random_network": retrained,          # [layer, seed]
    ...     "full_vector": ceiling,               # [layer]
    ...     "chance": 0.5,
    ... })
    >>> views.iia(found)                                                                # doctest: +SKIP

An accuracy means little alone: a map that is expressive enough reaches a high one in a random network (Sutter et al., arXiv
2507.08802). So every other variable of the result that runs along the axis, or along none but seeds and examples, is a control
and is drawn; the line under the title compares maxima with maxima, and says which controls the claim does not beat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp import axes as names
from interp.effects.alignment import NOT_BEATEN, control_name
from interp.errors import InputError, ShapeMismatchError, UnknownNameError
from interp.views import bands, labels
from interp.views.colours import GREY
from interp.views.layout import PAGE
from interp.views.lines import MOST, Frame, Line, Style, around, bands_first, beside, traces

_HEIGHT = 250


@dataclass(frozen=True, slots=True)
class _Drawn:
    line: Line
    variable: str
    """``""`` of the accuracy itself."""

    @property
    def most(self) -> float:
        return float(np.nanmax(self.line.mean)) if np.isfinite(self.line.mean).any() else np.nan


def iia(
    results: xr.Dataset | xr.DataArray | xr.DataTree | Mapping[str, xr.Dataset | xr.DataArray],
    variable: str = "iia",
    *,
    x: str = names.LAYER,
    title: str | None = None,
    width: int = PAGE,
    template: str = "plotly_white",
    level: float = 0.95,
) -> go.Figure:
    """Lines of accuracy along layers with bands, and dashed lines of the controls.

    Where there are seeds the band is their range, else an interval over examples or templates, Wilson's where they are 0 or 1.
    Seeds that a variable does not have may be missing (NaN), so that a control can have more of them.

    Args:
        results: a Dataset with the accuracy and its controls, or an array of accuracies alone; several by name.
        variable: which one is the accuracy; an array is that one.
        x: the axis from left to right.
        title: in place of the one made from provenance.
        width: in pixels; ``views.PAGE`` and ``views.COLUMN`` are the widths of print.
        template: a plotly template.
        level: of intervals over examples.

    Raises:
        UnknownNameError: a result without that variable, or an accuracy without that axis.
        InputError: what is no share from 0 to 1.
        ShapeMismatchError: more lines than can be told apart.
    """
    every = bands.named(results)
    found: list[_Drawn] = []
    said: list[str] = []
    for name, result in every.items():
        for control, array in arrays(result, variable, x, name).items():
            own = bands.of_array(array, x, level=level, share=names.EXAMPLE in array.dims and _is_binary(array))
            called = control_name(control) if control else ""
            for line in own.lines:
                words = " ".join(filter(None, (name, called, line.name)))
                found.append(_Drawn(replace(line, name=words or variable), control))
            said.append(own.band)
    if len(found) > MOST:
        raise ShapeMismatchError(f"{len(found)} lines: at most {MOST} can be told apart; select, e.g. .isel(method=0)")
    axis = [value for one in found for value in one.line.at]
    words_on_axis = [] if all(isinstance(value, int | float) for value in axis) else list(dict.fromkeys(axis))
    numbers = list(range(len(words_on_axis))) if words_on_axis else axis
    head = title or f"interchange intervention accuracy by {labels.escape(x)}"
    parts = [bands.provenance(list(every.values()), []), *_fixed(every, x), _verdict(found, x)]
    band = bands.words(said)
    under = " · ".join(part for part in (*parts, band) if part)
    legend = [labels.escape(one.line.name) for one in found]
    frame = Frame(head, under, width, template, legend, height=_HEIGHT)
    drawn: list[go.Scatter] = []
    for number, (one, words, style) in enumerate(zip(found, legend, _styles(found, template), strict=True)):
        hover = one.line.hover("accuracy", [f"{x} {value}" for value in one.line.at])
        moved = beside(number, len(found), numbers)
        at = [words_on_axis.index(value) for value in one.line.at] if words_on_axis else one.line.at
        places = [value + moved for value in at] if moved else at
        drawn += traces(one.line, style, places, hover, legend=words)
    figure = go.Figure(bands_first(drawn), frame.layout)
    steps = frame.most(max(len(str(value)) for value in axis))
    whole = all(isinstance(value, int) for value in axis)
    ticks: dict[str, object] = {"tickmode": "linear", "tick0": 0, "dtick": _step(axis, steps)} if whole else {"nticks": steps}
    if words_on_axis:
        ticks = {"tickvals": numbers, "ticktext": [labels.escape(value) for value in words_on_axis]}
    figure.update_xaxes(
        title={"text": labels.escape(x), "standoff": int(0.6 * frame.size)}, zeroline=False, **ticks, **around(numbers)
    )
    figure.update_yaxes(title={"text": "accuracy"}, range=[-0.03, 1.05], zeroline=False, automargin=False)
    return figure


def arrays(result: xr.Dataset | xr.DataArray, variable: str, x: str, name: str = "") -> dict[str, xr.DataArray]:
    """The accuracy, called "", and what is a control; those without the axis are the same all along.

    Of a search over further axes what was chosen on validation pairs is taken, and its starts are seeds; what a result lists as
    its controls are all that it has.
    """
    whose = f"of {name}" if name else "of this result"
    if isinstance(result, xr.DataArray):
        result = xr.Dataset({variable: result}, attrs=result.attrs)
    if variable not in result.data_vars:
        raise UnknownNameError("variable", variable, map(str, result.data_vars), whose)
    if x not in result[variable].dims:
        raise UnknownNameError("axis", x, map(str, result[variable].dims), whose)
    listed = result.attrs.get("controls")
    every = _selected(result, variable, x)
    at = result[x].values if x in result.coords else np.arange(result.sizes[x])
    found = {"": every.pop(variable).assign_coords({x: at})}
    for key, array in every.items():
        if not (x in array.dims or set(array.dims) <= {names.SEED, names.EXAMPLE}) or key not in (listed or [key]):
            continue
        found[str(key)] = array.assign_coords({x: at}) if x in array.dims else array.expand_dims({x: at})
    for key, array in found.items():
        low, high = float(array.min()), float(array.max())
        if low < 0 or high > 1:
            off = high if high > 1 else low
            raise InputError(f"{key or variable} {whose} holds {off:.4g}; expected shares from 0 to 1")
    return found


def _selected(result: xr.Dataset, variable: str, x: str) -> dict[str, xr.DataArray]:
    """One value of every axis but examples and seeds; draws and networks of controls become seeds."""
    chosen = result.attrs.get("chosen")
    if not isinstance(chosen, Mapping):
        return {str(key): array for key, array in result.data_vars.items()}
    fixed = {dim: at for dim, at in chosen.items() if dim in result.dims and dim not in (x, names.SEED)}
    result = result.sel(fixed)
    kept = (x, names.SEED, names.EXAMPLE)
    found: dict[str, xr.DataArray] = {}
    for key, array in result.data_vars.items():
        more = [dim for dim in array.dims if dim not in (x, names.EXAMPLE)]
        if key != variable and any(dim not in kept for dim in more):
            rest = [dim for dim in array.dims if dim not in more]
            numbers = array.transpose(*rest, *more).values.reshape(*(array.sizes[dim] for dim in rest), -1)
            array = xr.DataArray(numbers, {dim: array[dim] for dim in rest if dim in array.coords}, (*rest, names.SEED))
        found[str(key)] = array
    return found


def _is_binary(array: xr.DataArray) -> bool:
    return bool(((array == 0) | (array == 1) | array.isnull()).all())


def _styles(found: Sequence[_Drawn], template: str) -> list[Style]:
    """Accuracies are solid; controls are dashed, in colours of their own; chance and the ceiling are grey."""
    styles, number = [], 0
    for one in found:
        if one.variable in ("chance", "full_vector"):
            styles.append(Style(GREY, "dash" if one.variable == "chance" else "dot", 1.5, marked=False))
            continue
        colour = Style.of(number, template).colour
        styles.append(Style(colour, "dash", 1.5, marked=False) if one.variable else Style.of(number, template))
        number += 1
    return styles


def _verdict(found: Sequence[_Drawn], x: str) -> str:
    """``max 0.97 at layer 5; controls: random subspace 0.61, chance 0.50; not above random network``."""
    claims = [one for one in found if not one.variable and np.isfinite(one.most)]
    controls = [one for one in found if one.variable and np.isfinite(one.most)]
    if not claims:
        return ""
    best = max(claims, key=lambda one: one.most)
    where = best.line.at[int(np.nanargmax(best.line.mean))]
    whose = f" of {best.line.name}" if len(claims) > 1 else ""
    words = f"max{whose} {best.most:.2f} at {x} {where}"
    if not controls:
        return labels.escape(f"{words} · no controls are given")
    largest: dict[str, float] = {}
    for one in controls:
        largest[one.variable] = max(largest.get(one.variable, -np.inf), one.most)
    called = {key: control_name(key) for key in largest}
    words += " · max of controls: " + ", ".join(_unbroken(f"{called[key]} {value:.2f}") for key, value in largest.items())
    unbeaten = [called[key] for key, value in largest.items() if key not in NOT_BEATEN and value >= best.most]
    return labels.escape(words + (f" · does not beat {', '.join(unbeaten)}" if unbeaten else ""))


def _unbroken(words: str) -> str:
    """Words that stay on one line."""
    return words.replace(" ", "\u00a0")


def _fixed(every: Mapping[str, xr.Dataset | xr.DataArray], x: str) -> list[str]:
    """What was selected or held, where it is the same in all results: ``rank=8``."""
    words = []
    for result in every.values():
        fixed = {key: c.item() for key, c in result.coords.items() if c.ndim == 0}
        chosen = result.attrs.get("chosen")
        if isinstance(chosen, Mapping):
            fixed |= {key: at for key, at in chosen.items() if key not in (x, names.SEED) and result.sizes.get(key, 1) > 1}
        words.append([f"{key}={labels.number(value)}" for key, value in fixed.items()])
    return [labels.escape(word) for word in words[0] if all(word in other for other in words)]


def _step(axis: Sequence[int], most: int) -> int:
    """Between round numbers with room for their labels."""
    span = max(axis) - min(axis)
    return next((step for step in (1, 2, 5, 10, 20, 25, 50, 100, 200, 500) if span / step <= most), 1000)
