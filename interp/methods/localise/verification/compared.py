"""Estimates beside exact effects: the table, how they agree, and what was missed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from interp import axes as names
from interp import effects as fx
from interp import stats
from interp.effects import curves


class Correlated(NamedTuple):
    """How estimate and exact effect agree over some cells."""

    pearson: float
    pearson_interval: tuple[float, float]
    spearman: float
    spearman_interval: tuple[float, float]
    same_sign: int
    signed: int
    """Cells with a sign in both; 0 of a score, which has none."""
    n: int


@dataclass(frozen=True, eq=False, repr=False)
class Verification:
    """An estimate beside exact effects."""

    exact: xr.Dataset
    """Effects on the axes of the estimate, NaN where nothing was verified."""
    table: pd.DataFrame
    """A verified cell a row, largest exact effect first: ``cell`` and its axes, ``estimate``, ``exact`` with its interval
    ``low`` to ``high`` over examples, ranks by both among the verified, ``chosen`` (``"top"`` or ``"sample"``), ``missed``."""
    others: Correlated
    """Over the random sample of cells that are not among the first: without bias of these."""
    verified: Correlated
    """Over all that was verified; the first were chosen by the estimate."""
    top: int
    cells: int
    """That could be verified: those that exist and are not equal to the base by rule."""
    signed: bool
    """Whether the estimate has a sign; a score is compared with the mean size of the effects."""

    @property
    def fraction(self) -> float:
        """Of the cells that could be verified, what was."""
        return len(self.table) / self.cells

    @property
    def missed(self) -> pd.DataFrame:
        """Cells of the sample that are among the ``top`` largest exact effects of all that were verified."""
        return self.table[self.table["missed"]]

    @property
    def miss_rate(self) -> stats.Interval:
        """The share of the sample that was missed, with Wilson's interval."""
        return curves.proportion(self.table.loc[self.table["chosen"] == "sample", "missed"].to_numpy(float))

    def __repr__(self) -> str:
        rest, sampled = self.cells - self.top, self.others.n
        what = "estimate" if self.signed else "score"
        if not rest:
            head = f"all {self.cells:,} cells verified exactly"
        else:
            head = f"{len(self.table):,} of {self.cells:,} cells verified exactly ({self.fraction:.0%}): "
            head += f"the {self.top:,} of largest {what}" + (
                f", and {sampled:,} of the other {rest:,} at random" if sampled else ""
            )
        lines = [head]
        if sampled:
            lines.append(f"  the others    {_said(self.others)}")
        lines.append(f"  all of them   {_said(self.verified)}")
        if sampled:
            lines.append(f"  missed        {self._misses(rest, sampled)}")
        return "\n".join(lines)

    def _misses(self, rest: int, sampled: int) -> str:
        rate, missed = self.miss_rate, self.missed
        share = f"{float(rate.mean):.0%} [{100 * float(rate.low):.0f}, {100 * float(rate.high):.0f}] of the {rest:,}"
        each = [f"{row.cell} (exact {row.exact:.3g}, estimated {row.estimate:.3g})" for row in missed.head(3).itertuples()]
        more = f" and {len(missed) - 3} more" if len(missed) > 3 else ""
        return f"{len(missed) or 'none'} of the {sampled:,}, so {share}" + (f": {', '.join(each)}{more}" if each else "")


class Estimated(NamedTuple):
    """What an estimate says of every cell, in the order of the family."""

    number: NDArray[np.float64]
    signed: bool


def compared(
    exact: xr.Dataset, own: Estimated, first: NDArray[np.intp], drawn: NDArray[np.intp], cells: int, level: float
) -> Verification:
    """The exact effects of the first cells and of those drawn, out of so many, beside what was estimated of them."""
    table = _table(exact, own, first, drawn, level)
    sampled = table[table["chosen"] == "sample"]
    floor = float(fx.noise_floor(exact.isel({names.METRIC: 0})))
    others, verified = (_correlated(one, floor, level, signed=own.signed) for one in (sampled, table))
    return Verification(exact, table, others, verified, len(first), cells, own.signed)


def _table(exact: xr.Dataset, own: Estimated, first: NDArray[np.intp], drawn: NDArray[np.intp], level: float) -> pd.DataFrame:
    one = exact.isel({names.METRIC: 0})
    each = fx.effect(one) if own.signed else abs(fx.effect(one))
    axes = fx.swept_axes(one)
    at = np.concatenate([first, drawn])
    numbers = each.transpose(*axes, names.EXAMPLE).values.reshape(-1, one.sizes[names.EXAMPLE])[at]
    found = stats.t_interval(numbers, clusters=fx.clusters_of(one).labels, level=level)
    places = np.unravel_index(at, [one.sizes[axis] for axis in axes]) if axes else ()
    data: dict[str, Any] = {axis: one[axis].values[place] for axis, place in zip(axes, places, strict=True)}
    told = "intervention" if "intervention" in one.coords and one["intervention"].dims == (names.CELL,) else None
    if told:
        cells = [str(one[told].values[i]) for i in places[0]]
    else:
        cells = [fx.cell_name(row) for row in pd.DataFrame(data, index=range(len(at))).to_dict("records")]
    frame = pd.DataFrame({names.CELL: cells} | {axis: values for axis, values in data.items() if axis != names.CELL})
    frame["estimate"], frame["exact"] = own.number[at], found.mean
    frame["low"], frame["high"] = found.low, found.high
    frame["chosen"] = ["top"] * len(first) + ["sample"] * len(drawn)
    for key in ("estimate", "exact"):
        frame[f"rank_{key}"] = frame[key].abs().rank(ascending=False, method="first").astype(int)
    frame["missed"] = (frame["chosen"] == "sample") & (frame["rank_exact"] <= len(first))
    return frame.sort_values("rank_exact", kind="stable").reset_index(drop=True)


def _correlated(table: pd.DataFrame, floor: float, level: float, *, signed: bool) -> Correlated:
    if table.empty:
        return Correlated(np.nan, (np.nan, np.nan), np.nan, (np.nan, np.nan), 0, 0, 0)
    estimate, exact = table["estimate"].to_numpy(), table["exact"].to_numpy()
    found = curves.agreement(estimate, exact, floor=floor)
    return Correlated(
        found.pearson,
        stats.correlation_interval(found.pearson, found.n, level=level),
        found.spearman,
        stats.correlation_interval(found.spearman, found.n, ranks=True, level=level),
        round(found.sign * found.signed) if signed and found.signed else 0,
        found.signed if signed else 0,
        found.n,
    )


def _said(found: Correlated) -> str:
    parts = [f"Pearson {_number(found.pearson, found.pearson_interval)}"]
    parts.append(f"Spearman {_number(found.spearman, found.spearman_interval)}")
    parts += [f"same sign {found.same_sign:,} of {found.signed:,}"] if found.signed else []
    return "   ".join(parts)


def _number(value: float, interval: tuple[float, float]) -> str:
    if not np.isfinite(value):
        return "undefined"
    return f"{value:.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if np.isfinite(interval).all() else "")
