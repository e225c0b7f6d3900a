"""A bound on what was not verified: patch random subsets of the other cells, and say what none of them exceeds.

>>> checked = interp.verify(model, pairs, where, estimated, top=20)                         # doctest: +SKIP
>>> interp.subset_bound(model, pairs, where, verified=checked.exact, subsets=200)                  # doctest: +SKIP
logit_diff: none of 220 cells moves it by more than 0.14, with 95% confidence
  from 200 random subsets of about 22 cells; largest estimates L4H2 0.07 ± 0.02, L9H1 −0.05 ± 0.02, L0H3 0.04 ± 0.02

1. Draw subsets of the cells that were not verified, each cell with the same probability and by itself.
2. Patch each subset jointly; its effect is the mean over examples.
3. Of every cell take the mean effect of the subsets with it less that of those without it, and a one-sided bound of Welch's t
   on its size (:func:`interp.stats.welch_bounds`). The largest of these is above what any cell does, with that confidence.

What is estimated of a cell is its effect beside others that are patched at random; it is its effect alone where effects add up.
The diagnostic of Kramár et al., "AtP*: An efficient and scalable method for localizing LLM behaviour to components", arXiv
2403.00745.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from interp import axes as names
from interp import effects as fx
from interp import stats
from interp.engine import patch
from interp.engine.asked import together
from interp.engine.background import Given, Hold, given_changes, held
from interp.engine.families import Where, asked, check_words, sourced
from interp.engine.precision import Precision
from interp.engine.prepared import Options, Patching, Strategy
from interp.engine.stored import StoreLike
from interp.errors import InputError, ShapeMismatchError, require_whole
from interp.interventions import EditLike, Featurizer, Intervention, Source
from interp.interventions.source import Unequal
from interp.methods.registry import Method
from interp.metrics import MetricLike
from interp.metrics import resolve as resolve_metrics
from interp.models import Model

METHOD = Method(
    id="subset_bound",
    name="bound by random subsets",
    paper="Kramár et al. 2024, AtP*: An efficient and scalable method for localizing LLM behaviour to components, "
    "arXiv 2403.00745",
    mediator="random sets of streams, heads, MLPs, units",
    search="random subsets",
    cost="a forward pass a subset and example",
    function="interp.subset_bound",
)


@dataclass(frozen=True, eq=False, repr=False)
class Bound:
    """What no cell exceeds."""

    theta: float
    """No cell that was not verified moves the metric by more, with confidence ``level``."""
    cells: xr.Dataset
    """``estimate``, ``standard_error`` and ``upper`` of every cell, NaN where it was verified, is absent or known by rule."""
    effects: xr.Dataset
    """Of the subsets that hold something, a cell each."""
    included: xr.DataArray
    """Which cells each of them holds."""
    subsets: int
    """That were drawn."""
    level: float

    def __repr__(self) -> str:
        frame = self.cells[["estimate", "standard_error"]].to_dataframe().dropna(subset=["estimate"])
        frame = frame.loc[frame["estimate"].abs().sort_values(ascending=False, kind="stable").index]
        axes = [str(axis) for axis in self.cells["estimate"].dims]
        said = []
        for place, row in zip(frame.reset_index()[axes].to_dict("records"), frame.head(3).itertuples(), strict=False):
            said.append(f"{fx.cell_name(place)} {row.estimate:.2g} ± {row.standard_error:.1g}")
        size, metric = float(self.included.sum()) / self.subsets, str(self.effects[names.METRIC].values[0])
        cells = int(self.cells["upper"].notnull().sum())
        head = f"none of {cells:,} cells moves it by more than {self.theta:.2g}, with {self.level:.0%} confidence"
        if alone := int(np.isinf(self.cells["upper"]).sum()):
            head = f"no bound, for {alone:,} of {cells:,} cells are in too few of the subsets; draw more of them"
        drawn = f"{self.subsets:,} random subsets of about {size:.0f} cells"
        return f"{metric}: {head}\n  from {drawn}; largest estimates {', '.join(said)}"


def subset_bound(
    model: Model,
    pairs: Any,
    where: Where,
    metric: MetricLike = "logit_diff",
    *,
    verified: xr.Dataset | xr.DataArray | None = None,
    subsets: int = 200,
    share: float = 0.1,
    seed: int = 0,
    level: float = 0.95,
    patching: Patching = "denoising",
    source: Source | None = None,
    edit: EditLike | None = None,
    featurizer: Featurizer | None = None,
    keep_error: bool = True,
    unequal: Unequal = "last",
    corruption: Given = None,
    given: Given = None,
    hold: Hold = (),
    strategy: Strategy = "auto",
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
    store: StoreLike | None = None,
    name: str | None = None,
    tags: Iterable[str] = (),
) -> Bound:
    """Bound the effect of every cell that was not verified.

    Args:
        model, pairs, where, metric, patching, source, edit, featurizer, keep_error, unequal, corruption, given, hold, strategy,
            rows,
            precision, progress: as for :func:`interp.patch`; ``where`` is one grid or one list.
        verified: exact effects on the axes of ``where``, NaN where nothing was verified, as ``interp.verify(…).exact``; cells
            that have a number are left out.
        subsets: how many to patch.
        share: the probability with which a cell is in a subset.
        seed: of the draw.
        level: the confidence.
        store, name, tags: where to keep the sweep over subsets.

    Raises:
        ShapeMismatchError: what is verified has other axes than ``where``.
        InputError: several families, no cell is left, fewer than 4 subsets, or what is verified is no array.
        ValueError: a share or level that is none. And what :func:`interp.patch` raises.

    Warns:
        RuntimeWarning: some cell is in too few subsets for a bound, so that there is none over all cells.
    """
    require_whole("subsets", subsets, "how many to patch, of which a bound is sharp with hundreds", 4)
    if not 0 < share < 1:
        raise ValueError(f"share={share}; expected the probability with which a cell is in a subset, between 0 and 1")
    if not 0 < level < 1:
        raise ValueError(f"level={level}; expected a confidence between 0 and 1, such as 0.95")
    if verified is not None and not isinstance(verified, xr.Dataset | xr.DataArray):
        raise InputError(
            f"verified is a {type(verified).__name__}; expected exact effects on the axes of where, as interp.verify(…).exact"
        )
    if isinstance(where, Mapping):
        raise InputError(f"where has the families {', '.join(map(repr, where))}; bound one at a time, where[…]")
    check_words(patching, strategy, precision)
    measured = resolve_metrics(metric)[0]
    options = Options(
        *(patching, strategy, given_changes(model, given), held(model, hold), rows, True, progress, precision),
        corruption=together(corruption, "corruption"),
    )
    change = {"source": sourced(source, unequal), "edit": edit, "featurizer": featurizer, "keep_error": keep_error}
    prepared, families = asked(model, pairs, where, measured, change, options)
    family = next(iter(families.values()))
    sizes = {axis: list(values) for axis, values in family.axes.items()}
    left = family.exists.copy()
    left[family.exists] = ~prepared.by_rule[list(prepared.families[0][:-1])].all(-1).cpu().numpy()
    if verified is not None:
        left &= ~_known(verified, sizes)
    at = np.flatnonzero(left)
    if not at.size:
        raise InputError("no cell is left to bound: all are verified, absent or equal to the base by rule")
    numbers = np.cumsum(family.exists) - 1
    own = [family.interventions[numbers[i]] for i in at]
    included = np.random.default_rng(seed).random((subsets, len(at))) < share
    included = included[included.any(1)]  # the effect of none is 0, and known
    rows_of = [_joint([own[i] for i in np.flatnonzero(one)]) for one in included]
    found = patch(
        model, prepared.encoded, rows_of, measured, patching=patching, corruption=corruption, given=given, hold=hold,
        strategy=strategy, rows=rows, precision=precision, progress=progress, store=store, name=name, tags=tags,
    )  # fmt: skip
    assert isinstance(found, xr.Dataset)
    effect = fx.effect(found).isel({names.METRIC: 0}).mean(names.EXAMPLE).values.astype(float)
    empty = subsets - len(included)
    every = np.concatenate([included, np.zeros((empty, len(at)), bool)])
    bounds = stats.welch_bounds(every, np.concatenate([effect, np.zeros(empty)]), level=level)
    if alone := int(np.isinf(bounds.upper).sum()):
        warnings.warn(
            f"{alone} of {len(at)} cells {'is' if alone == 1 else 'are'} in fewer than two of {subsets} subsets, or in all but "
            f"one, so that nothing bounds what they do; raise subsets=, or share={share} where it is small",
            RuntimeWarning,
            stacklevel=2,
        )

    def laid(column: Any) -> xr.Variable:
        full = np.full(len(family.exists), np.nan)
        full[at] = column
        return xr.Variable(tuple(sizes), full.reshape([len(values) for values in sizes.values()]))

    columns = {"estimate": bounds.estimate, "standard_error": bounds.standard_error, "upper": bounds.upper}
    cells = xr.Dataset({key: laid(column) for key, column in columns.items()}, {axis: (axis, v) for axis, v in sizes.items()})
    whole = np.zeros((len(included), len(family.exists)), bool)
    whole[:, at] = included
    dims = ["subset", *sizes]
    drawn = xr.DataArray(whole.reshape(-1, *(len(values) for values in sizes.values())), dict(cells.coords), dims)
    return Bound(float(bounds.upper.max()), cells.assign_attrs(found.attrs), found, drawn, subsets, level)


def _joint(many: list[Intervention]) -> Intervention:
    """Several cells in one pass; where two of them share a coordinate the later one has the last word."""
    return Intervention(tuple(change for one in many for change in one.changes), ordered=True)


def _known(verified: xr.Dataset | xr.DataArray, sizes: Mapping[str, list[Any]]) -> np.ndarray[Any, Any]:
    """Which cells have a number, flat.

    Raises:
        ShapeMismatchError: other axes.
    """
    array = verified["value"] if isinstance(verified, xr.Dataset) else verified
    rest = [dim for dim in array.dims if dim in (names.METRIC, names.EXAMPLE)]
    known = array.notnull().any(rest)
    if {str(d): known.sizes[d] for d in known.dims} != {axis: len(values) for axis, values in sizes.items()}:
        listed = [", ".join(f"{a} ({n})" for a, n in one) or "none" for one in (known.sizes.items(), _lengths(sizes))]
        raise ShapeMismatchError(f"what is verified has the axes {listed[0]}, where has {listed[1]}; expected the same cells")
    found: np.ndarray[Any, Any] = known.transpose(*sizes).values.ravel()
    return found


def _lengths(sizes: Mapping[str, list[Any]]) -> list[tuple[str, int]]:
    return [(axis, len(values)) for axis, values in sizes.items()]
