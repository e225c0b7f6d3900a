"""A prepared sweep, run: at once, or into a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr

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
    facts = provenance.attributes(p.model, p.encoded, p.options.patching, p.metrics)
    facts |= {"noise_floor": dict.fromkeys(metric.name for metric in p.metrics)}
    nothing = np.full((metrics, examples), np.nan, str(p.reader.dtype).removeprefix("torch."))
    found = []
    for cells, family in zip(p.families, families.values(), strict=True):
        value = np.repeat(nothing[:, None], len(cells) - 1, axis=1)
        given = nothing if p.given is not None else None
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
            first, values = next(iter(family.axes.items()))
            found[self.path(name)] = cut({"example": len(p.encoded), first: len(values)}, first, seconds * share)
        return found

    @contextmanager
    def begin(self) -> Iterator[_Begun]:
        with measuring(self.prepared) as sweep:
            yield _Begun(self, sweep)


class _Begun:
    """The same, with its baselines."""

    def __init__(self, units: _Units, sweep: Measuring) -> None:
        p, self.sweep = units.prepared, sweep
        self.every = p.rows
        self.numbers: dict[str, tuple[tuple[str, ...], np.ndarray[Any, Any]]] = {}
        found = []
        for (name, family), cells in zip(units.families.items(), p.families, strict=True):
            number = np.full(len(family.exists), -1)
            number[family.exists] = np.arange(cells.start, cells.stop - 1)
            self.numbers[units.path(name)] = tuple(family.axes), number.reshape([len(v) for v in family.axes.values()])
            own = self.every[self.every[:, 0] == cells[-1]]
            written_back = sweep.base.clone()
            written_back[:, own[:, 1]] = sweep.run(own, lambda n: None)
            value = torch.full((len(p.metrics), len(cells) - 1, len(p.encoded)), torch.nan, dtype=sweep.base.dtype)
            found.append(labelled(p, sweep.measured(cells, value, sweep.floor(written_back), 0), family))
        self.skeleton = joined(found, units.families, units.attrs, tree=units.tree)

    def rows(self, family: str, index: Index) -> int:
        return len(self._part(family, index)[1])

    def values(self, family: str, index: Index, progress: Callable[[int], None]) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
        cells, rows, examples = self._part(family, index)
        there = cells.ravel() >= 0
        wanted = torch.from_numpy(cells.ravel()[there]).to(rows.device)
        halved = len(self.sweep.halved)
        value = self.sweep.base[:, None, examples].repeat(1, len(wanted), 1)
        at = torch.searchsorted(wanted, rows[:, 0].contiguous())
        value[:, at, rows[:, 1] - examples.start] = self.sweep.run(rows, progress)
        undefined = warn_of_nan(value, [self.sweep.work.cells[cell] for cell in wanted.tolist()])
        facts = {"out_of_memory": len(self.sweep.halved) - halved, "rows_not_a_number": undefined}
        full = np.full((len(value), len(there), value.shape[-1]), np.nan, dtype=value.cpu().numpy().dtype)
        full[:, there] = value.cpu().numpy()
        return full.reshape(len(value), *cells.shape, value.shape[-1]), facts

    def _part(self, family: str, index: Index) -> tuple[np.ndarray[Any, Any], Any, slice]:
        """The cells of a part, −1 where the site is absent, its rows, and its examples."""
        axes, numbers = self.numbers[family]
        cells = numbers[tuple(index.get(axis, slice(None)) for axis in axes)]
        examples = index["example"]
        own = torch.isin(self.every[:, 0], torch.from_numpy(cells[cells >= 0]).to(self.every.device))
        own &= (self.every[:, 1] >= examples.start) & (self.every[:, 1] < examples.stop)
        return cells, self.every[own], examples
