"""The table of the strongest cells, with what is left of them without the luck that made them the strongest."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import xarray as xr

from interp import axes as names
from interp import stats
from interp.effects.cells import BY_NAME, behind, cell_name, choose_metric
from interp.effects.clusters import clusters_of
from interp.effects.quantities import effect
from interp.effects.schema import DENOISING, EffectsError, paired, swept_axes
from interp.effects.selection import examples_of
from interp.effects.significance import sign_flip
from interp.effects.summaries import summary

_OF_TEST = ("p_adjusted", "survives")


def top(ds: xr.Dataset, k: int = 10, metric: str | None = None, *, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """The ``k`` cells of largest |effect|, strongest first, as a table.

    The strongest of many are partly strong by luck, so what is adjusted for the choice stands beside what is not:

    =============================  ================================================================================
    ``cell`` and the swept axes    ``L9H6``, or the intervention, edge or circuit that it is
    ``effect``, ``low``, ``high``  mean and interval of the cell as if it had been chosen before looking
    ``recovery`` or ``damage``     whichever fits the run; NaN where undefined, left out without counterfactuals
    ``effect_adjusted``            the mean effect that a cell of this rank keeps on examples that did not rank it
                                   (:func:`interp.stats.held_out`); near 0 where only luck ranks
    ``p_adjusted``, ``survives``   of the max-T sign-flip test over all cells (:func:`sign_flip`)
    ``n``                          examples
    =============================  ================================================================================

    ``attrs["selected_on"]`` says on which examples the cells were chosen; see :func:`mark_in_sample`. ``attrs["sign_flips"]``
    says how the test was made. Intervals of the effect that hold for all cells at once, so for these too, are in
    :func:`sign_flip`.

    Cells that were not computed for every example are left out, with a warning.

    Args:
        ds: a result.
        k: how many cells.
        metric: by default the first.
        level: of the intervals; a cell survives at 1 − level.
        seed: of resamples, flips and halves.

    Raises:
        EffectsError: ``ds`` is no result, or ``k`` no number of cells.
        UnknownNameError: no such metric.
    """
    if not isinstance(k, int | np.integer) or k < 0:
        raise EffectsError(f"k is {k!r}; expected how many cells, a whole number from 0 on")
    chosen = choose_metric(ds, metric)
    if late := behind(chosen):
        every = (
            f"{late} of {chosen.sizes[names.EXAMPLE]} examples are not computed in every cell; cells that lack one are left out"
        )
        warnings.warn(f"{every}. effects.top(effects.furthest(result)) leaves out the examples instead", stacklevel=2)
    table = summary(chosen, "effect", level=level, seed=seed).isel({names.METRIC: 0})
    normalised = ["recovery" if ds.attrs["patching"] == DENOISING else "damage"] if paired(ds) else []
    for quantity in normalised:
        table[quantity] = summary(chosen, quantity, level=level, method="t")["mean"].isel({names.METRIC: 0})
    test = sign_flip(chosen, level=level, seed=seed).isel({names.METRIC: 0})
    table = table.assign({name: test[name] for name in _OF_TEST})
    axes = swept_axes(ds)
    flat = table.stack(place=axes, create_index=False) if axes else table.expand_dims("place")
    columns = [a for a in names.ALL if a in flat.coords and a not in (names.CELL, names.METRIC)]
    data = {c: np.broadcast_to(flat[c].values, flat.sizes["place"]) for c in columns}
    data |= {c: flat[c].values for c in ("mean", "low", "high", *normalised, *_OF_TEST, "n")}
    frame = pd.DataFrame(data).rename(columns={"mean": "effect"}).dropna(subset=["effect"])
    told = [name for name in BY_NAME if name in flat.coords and set(flat[name].dims) <= {"place"}]
    told = told or [names.CELL] * (names.CELL in axes and not columns)
    said = np.broadcast_to(flat[told[0]].values, flat.sizes["place"])[frame.index] if told else [""] * len(frame)
    at = [cell_name(row) for row in frame[columns].to_dict("records")] if columns or not told else [""] * len(frame)
    frame.insert(0, "cell", [" ".join(filter(None, (str(one), where))) for one, where in zip(said, at, strict=True)])
    order = frame["effect"].abs().sort_values(ascending=False, kind="stable").index[:k]
    frame = frame.loc[order].reset_index(drop=True)
    each = effect(chosen).transpose(*axes, names.EXAMPLE).values
    kept = stats.held_out(each, clusters_of(chosen).labels, k=max(1, len(frame)), seed=seed)[: len(frame)]
    frame.insert(frame.columns.get_loc("p_adjusted"), "effect_adjusted", np.sign(frame["effect"]) * kept)
    frame.attrs = {"in_sample": True, "selected_on": examples_of(ds), "sign_flips": test.attrs["sign_flips"]}
    return frame
