"""Whether seeds agree: what of a map belongs to the task, and what to one run of training."""

from __future__ import annotations

import numpy as np
import xarray as xr

from interp import axes as names
from interp import stats
from interp.effects.cells import choose_metric
from interp.effects.clusters import clusters_of
from interp.effects.curves import ranks
from interp.effects.quantities import effect
from interp.effects.schema import EffectsError, swept_axes


def stability(
    ds: xr.Dataset, k: int = 10, metric: str | None = None, *, axis: str = names.SEED, clusters: str | None = "template"
) -> xr.Dataset:
    """Agreement of the effects of several seeds, of one metric.

    ====================  ==========================  ==================================================================
    variable              dims                        meaning
    ====================  ==========================  ==================================================================
    ``mean``              the other axes              mean effect over seeds
    ``spread``            the other axes              standard deviation of the seeds' means
    ``within``            the other axes              the standard deviation that examples alone would give, were all
                                                      seeds the same but for noise; from how each example differs
                                                      between seeds, since all seeds see the same ones
    ``same_sign``         the other axes              share of seeds whose effect has the sign of ``mean``
    ``in_top``            the other axes              share of seeds in which the cell is among the ``k`` of largest
                                                      |effect|
    ``rank_correlation``  seed, other                 Spearman's correlation of two seeds' maps
    ====================  ==========================  ==================================================================

    A spread well above ``within`` is one between seeds. Cells that a seed lacks are NaN, and no part of ``rank_correlation``;
    nor are those that are 0 by rule everywhere.

    Args:
        ds: effects with a ``seed`` axis, as from ``interp.over(…, axis="seed")``.
        k: how many cells are the strongest.
        metric: by default the first.
        axis: what is compared: "seed", or another axis of models.
        clusters: as for :func:`summary`.

    Raises:
        EffectsError: no such axis, or a single place on it.
    """
    chosen = choose_metric(ds, metric)
    swept = swept_axes(chosen)
    if axis not in swept or chosen.sizes[axis] < 2:
        have = ", ".join(f"{a} ({chosen.sizes[a]})" for a in swept) or "none"
        raise EffectsError(
            f"stability compares several places of the axis {axis!r}; this result has the axes {have}; "
            f"get them with interp.over(models, …, axis={axis!r})"
        )
    rest = [a for a in swept if a != axis]
    each = effect(chosen).transpose(axis, *rest, names.EXAMPLE)
    values = each.values.astype(float)
    seeds, shape = len(values), values.shape[1:-1]
    means = values.mean(-1)
    labels = clusters_of(chosen, clusters).labels
    errors = stats.t_interval(values - values.mean(0), clusters=labels).se  # of a seed's difference from all seeds
    size = np.abs(means).reshape(seeds, -1)
    order = np.argsort(-np.where(np.isnan(size), -1.0, size), axis=-1, kind="stable")[:, : min(k, size.shape[-1])]
    strongest = np.zeros(size.shape, bool)
    np.put_along_axis(strongest, order, True, axis=-1)
    missing = np.isnan(means)
    share = np.where(missing.any(0), np.nan, (strongest.reshape(means.shape) & ~missing).mean(0))
    mean = means.mean(0)
    same = np.where(np.isnan(mean), np.nan, (np.sign(means) == np.sign(mean)).mean(0))
    out = xr.Dataset(
        {
            "mean": (rest, mean),
            "spread": (rest, means.std(0, ddof=1)),
            "within": (rest, np.sqrt((errors**2).sum(0) / (seeds - 1)).reshape(shape)),
            "same_sign": (rest, same),
            "in_top": (rest, share),
            "rank_correlation": ((axis, "other"), _rank_correlation(means.reshape(seeds, -1))),
        },
        attrs=dict(chosen.attrs) | {"k": k, "metric": str(chosen[names.METRIC].values)},
    )
    kept = {name: one for name, one in each.coords.items() if not {names.EXAMPLE} & set(one.dims)}
    return out.assign_coords(kept | {"other": ("other", chosen[axis].values)})


def _rank_correlation(
    maps: np.ndarray[tuple[int, int], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Between all rows, over the columns that every row has and that are not 0 in all of them; NaN where fewer than two are."""
    shared = maps[:, np.isfinite(maps).all(0) & (maps != 0).any(0)]
    if shared.shape[1] < 2:
        return np.full((len(maps), len(maps)), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = np.corrcoef([ranks(row) for row in shared])
    return found
