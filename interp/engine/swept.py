"""A prepared sweep, run: at once, or into a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp.engine import provenance
from interp.engine.families import Family, labelled
from interp.engine.measure import Measured, Measuring, measure, measuring, warn_of_nan
from interp.engine.plan import Plan
from interp.engine.prepared import Prepared
from interp.engine.stored import Index, Into, Result, cut, keep


def swept(
    prepared: Prepared,
    families: Mapping[str, Family],
    attrs: Mapping[str, Any],
    *,
    tree: bool,
    into: Into | None = None,
    beside: Callable[[], Mapping[str, bytes]] = dict,
) -> Result:
    """The result of a sweep.

    Args:
        families: in the order in which they were prepared.
        attrs: further attributes of each.
        tree: whether families were asked for by name.
        into: a store to keep it in.
        beside: files to keep there beside it.
    """
    if into is None:
        measured = measure(prepared)
        found = [labelled(prepared, one, family) for one, family in zip(measured, families.values(), strict=True)]
        return joined(found, families, attrs, tree=tree)
    asked, units = bare(prepared, families, attrs, tree=tree), _Units(prepared, families, attrs, tree)
    return keep(into, asked, units.begin, units.chunks(), beside=beside, progress=prepared.options.progress)


def bare(p: Prepared, families: Mapping[str, Family], attrs: Mapping[str, Any], *, tree: bool) -> Result:
    """The result of a sweep without any number: what a store knows it by."""
    metrics, examples = len(p.metrics), len(p.encoded)
    facts = provenance.attributes(p.subject, p.options.patching, p.metrics)
    facts |= {"noise_floor": dict.fromkeys(metric.name for metric in p.metrics)}
    nothing = np.full((metrics, examples), np.nan, str(p.reader.dtype).removeprefix("torch."))
    found = []
    for cells, family in zip(p.families, families.values(), strict=True):
        value = np.repeat(nothing[:, None], len(cells) - 1, axis=1)
        given = nothing if p.options.given is not None else None
        found.append(labelled(p, Measured(value, nothing, nothing, given, np.zeros(value.shape[1:], bool), facts), family))
    return joined(found, families, attrs, tree=tree)


def joined(found: Sequence[xr.Dataset], families: Iterable[str], attrs: Mapping[str, Any], *, tree: bool) -> Result:
    """Families' results as one, with further attributes."""
    found = [result.assign_attrs(attrs) for result in found]
    return xr.DataTree.from_dict(dict(zip(families, found, strict=True))) if tree else found[0]


@dataclass(frozen=True, eq=False)
class _Units:
    """A sweep as parts of itself."""

    prepared: Prepared
    families: Mapping[str, Family]
    attrs: Mapping[str, Any]
    tree: bool

    def path(self, name: str) -> str:
        return f"/{name}" if self.tree else "/"

    def chunks(self) -> dict[str, dict[str, int]]:
        p = self.prepared
        seconds, total = sum(one.seconds for one in Plan.of(p).chosen), max(1, int((~p.by_rule).sum()))
        found = {}
        for (name, family), cells in zip(self.families.items(), p.families, strict=True):
            share = int((~p.by_rule[cells.start : cells.stop]).sum()) / total
            sizes = {axis: len(values) for axis, values in family.axes.items()}
            found[self.path(name)] = cut({"example": len(p.encoded)} | sizes, next(iter(sizes), None), seconds * share)
        return found

    @contextmanager
    def begin(self) -> Iterator[_Begun]:
        with measuring(self.prepared) as sweep:
            yield _Begun(self, sweep)


class _Begun:
    """The same, with its baselines."""

    def __init__(self, units: _Units, sweep: Measuring) -> None:
        p, self.sweep, every = units.prepared, sweep, units.prepared.rows
        self.numbers: dict[str, tuple[tuple[str, ...], np.ndarray[Any, Any]]] = {}
        found = []
        for (name, family), cells in zip(units.families.items(), p.families, strict=True):
            number = np.full(len(family.exists), -1)
            number[family.exists] = np.arange(cells.start, cells.stop - 1)
            self.numbers[units.path(name)] = tuple(family.axes), number.reshape([len(v) for v in family.axes.values()])
            own = every[every[:, 0] == cells[-1]]
            written_back = sweep.base.clone()
            written_back[:, own[:, 1]] = sweep.run(own, lambda n: None)
            value = torch.full((len(p.metrics), len(cells) - 1, len(p.encoded)), torch.nan, dtype=sweep.base.dtype)
            found.append(labelled(p, sweep.measured(cells, value, sweep.floor(written_back), 0), family))
        self.skeleton = joined(found, units.families, units.attrs, tree=units.tree)

    def rows(self, family: str, index: Index) -> int:
        return int(self._part(family, index)[2].sum())

    def values(self, family: str, index: Index, progress: Callable[[int], None]) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
        cells, wanted, runs = self._part(family, index)
        examples, halved = index["example"], len(self.sweep.halved)
        value = self.sweep.base[:, None, examples].repeat(1, len(wanted), 1)
        cell, example = runs.nonzero(as_tuple=True)
        rows = torch.stack([wanted[cell], example + examples.start], dim=-1)
        value[:, cell, example] = self.sweep.run(rows, progress)
        undefined = warn_of_nan(value, [self.sweep.work.cells[number] for number in wanted.tolist()])
        facts = {"out_of_memory": len(self.sweep.halved) - halved, "rows_not_a_number": undefined}
        found = value.cpu().numpy()
        full = np.full((len(found), *cells.shape, found.shape[-1]), np.nan, dtype=found.dtype)
        full[:, cells >= 0] = found
        return full, facts

    def _part(self, family: str, index: Index) -> tuple[np.ndarray[Any, Any], Tensor, Tensor]:
        """The cells of a part, −1 where the site is absent; those that exist; which of these run on which of its examples."""
        axes, numbers = self.numbers[family]
        cells = np.asarray(numbers[tuple(index.get(axis, slice(None)) for axis in axes)])  # of a single cell, a number
        by_rule = self.sweep.prepared.by_rule
        wanted = torch.from_numpy(cells[cells >= 0]).to(by_rule.device)
        return cells, wanted, ~by_rule[wanted, index["example"]]
