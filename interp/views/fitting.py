"""Which views fit a result: what a report draws of it when nobody says more.

>>> drawn = {shows: draw() for shows, draw in fitting(effects).items()}                # doctest: +SKIP
>>> list(drawn)                                                                        # doctest: +SKIP
['logit_diff: layer by head', 'prob: layer by head']
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import plotly.graph_objects as go
import xarray as xr

from interp import axes as names
from interp import effects as fx
from interp.views.attention import attention
from interp.views.circuit import circuit
from interp.views.circuits import SIZE
from interp.views.curve import curve
from interp.views.dla import dla
from interp.views.faithfulness import faithfulness
from interp.views.heatmap import heatmap
from interp.views.iia import iia
from interp.views.lens import lens
from interp.views.paths import paths

Draw = Callable[..., go.Figure]


def fitting(ds: xr.Dataset) -> dict[str, Draw]:
    """The views of a result, best first, by what each shows; one is drawn by calling it, with ``width`` and ``template``.

    Edges are a circuit and paths; circuits of several sizes a curve of faithfulness; a sweep is a map of two axes for every
    metric, a slider for a third, a curve where it has one axis; a lens, attention patterns, contributions and accuracies have
    views of their own; of anything else every variable with one to three axes is drawn. Of further axes the last place is
    shown. Nothing fits a list of interventions, which is a table (:func:`interp.effects.top`).

    Args:
        ds: a dataset; of a tree, one family (:func:`interp.effects.families`).
    """
    if fx.is_effects(ds):
        return _of_effects(ds)
    own: list[tuple[str, set[str], Draw]] = [
        ("logit lens", {"token", "prob", "entropy"}, partial(lens, ds)),
        ("attention pattern", {"pattern"}, partial(attention, ds)),
        ("direct logit attribution", {"contribution"}, partial(dla, ds)),
        ("interchange intervention accuracy", {"iia"}, partial(iia, ds)),
    ]
    variables = {str(name) for name in ds.data_vars}
    found = {shows: draw for shows, needed, draw in own if needed <= variables}
    if "by_head" in variables:
        found["contribution of heads"] = partial(heatmap, ds, "by_head")
    return found or _of_arrays(ds)


def _of_effects(ds: xr.Dataset) -> dict[str, Draw]:
    metrics = [str(metric) for metric in ds[names.METRIC].values.ravel()]
    if {"sender_layer", "receiver_layer"} <= set(ds.coords):
        views = {"circuit": circuit, "paths": paths}
        return {f"{m}: {shows}": partial(view, ds, metric=m) for m in metrics for shows, view in views.items()}
    if SIZE in ds.coords and ds[SIZE].dims == (names.CELL,):
        return {f"{m}: faithfulness": partial(faithfulness, ds, metric=m) for m in metrics}
    found: dict[str, Draw] = {}
    for metric in metrics:
        drawn = _drawn(ds, list(fx.swept_axes(ds)), f"{metric}: ", metric=metric)
        found |= drawn if drawn is not None else {}
    return found


def _of_arrays(ds: xr.Dataset) -> dict[str, Draw]:
    found: dict[str, Draw] = {}
    for name, array in ds.data_vars.items():
        if array.dtype.kind in "fiub":
            swept = [str(dim) for dim in array.dims if dim not in (names.METRIC, names.EXAMPLE)]
            if names.METRIC in array.dims:
                array = array.isel({names.METRIC: 0})
            drawn = _drawn(array.assign_attrs({**ds.attrs, **array.attrs}), swept, f"{name}: ")
            found |= drawn if drawn is not None else {}
    return found


def _drawn(array: xr.Dataset | xr.DataArray, swept: list[str], called: str, **options: Any) -> dict[str, Draw] | None:
    """A map or a curve over the axes that are longer than one place; None where none is, or where they are a mere list."""
    long = [axis for axis in swept if array.sizes[axis] > 1]
    if not long or long == [names.CELL]:
        return None
    if len(long) == 1:
        rest = [axis for axis in swept if axis != long[0]]
        return {f"{called}by {long[0]}": partial(curve, array.isel(dict.fromkeys(rest, 0)), x=long[0], **options)}
    y = names.LAYER if names.LAYER in long[:-1] else long[-2]
    x = long[-1] if len(long) == 2 else next(axis for axis in long if axis != y and axis not in names.MODELS)
    spare = [axis for axis in long if axis not in (x, y)]
    slider = spare[0] if spare else None
    last = dict.fromkeys(spare[1:], -1)
    map_ = partial(heatmap, array.isel(last), x=x, y=y, slider=slider, **options)
    return {f"{called}{y} by {x}": map_}
