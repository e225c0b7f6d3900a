"""The changes of many rows at once: at each site, index arrays that say which row, column and head, and what is written there.

A pass may hold back some columns (those before the first change) and some rows (those that join later), so the writes of a site
are made for a range of rows and a first column. A write knows which queries it changes, so that of attention no other rows need
be formed (:mod:`interp.models.queries`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.engine.cells import Cell, Place
from interp.engine.layout import canonical, canonical_axes, indexed_axis
from interp.errors import HeadOutOfRangeError, PositionError, ShapeMismatchError
from interp.interventions import Context, Cut, Free, apply, freely
from interp.models.queries import Queries
from interp.models.taps import Write
from interp.sites import Site

Rows = Int[Tensor, "row 2"]
"""Cell and example of each row."""

_Key = tuple[int, Hashable, int, bool, bool, int]
"""What changes share that are made together: order, edit, featurizer, keep_error, whole or indexed, and source tensor."""


class _Part(NamedTuple):
    """One place of a cell on consecutive rows."""

    place: Place
    rows: range
    examples: Tensor


class Which(NamedTuple):
    """Which tokens some values are of, for functions that see those of a row together."""

    row: Int[Tensor, " value"]
    """Numbers of the rows, those of one row next to each other."""
    example: Int[Tensor, " value"]
    column: Int[Tensor, " value"]
    """Of the base's tokens."""


class Edits:
    """The changes of some rows, by site.

    Args:
        rows: a cell's rows are consecutive.
    """

    def __init__(self, cells: Sequence[Cell], rows: Rows) -> None:
        self._parts: dict[Site, list[_Part]] = defaultdict(list)
        start = 0
        for cell, examples in by_cell(rows):
            span = range(start, start + len(examples))
            for place in cells[cell].places:
                self._parts[place.tensor].append(_Part(place, span, examples))
            start = span.stop

    @classmethod
    def of(cls, cell: Cell, examples: Int[Tensor, " row"]) -> Edits:
        """Those of one cell, whose rows are some examples."""
        return cls([cell], torch.stack([torch.zeros_like(examples), examples], dim=-1))

    def sites(self, first: int = 0, stop: int | None = None, *, own: bool = False) -> list[Site]:
        """Where rows ``first`` to ``stop`` are changed.

        Args:
            own: leave out what is given.
        """
        return [site for site, parts in self._parts.items() if any(_within(part, first, stop, own) for part in parts)]

    @property
    def places(self) -> list[Place]:
        """Every change of every row."""
        return [part.place for parts in self._parts.values() for part in parts]

    def touched(self, sites: Sequence[Site], columns: range, first: int = 0, stop: int | None = None) -> Int[Tensor, " column"]:
        """Which of some columns rows ``first`` to ``stop`` change at some sites, ascending."""
        found = [
            part.place.columns[part.examples].flatten()
            for site in sites
            for part in self._parts.get(site, ())
            if _within(part, first, stop, False)
        ]
        at = torch.cat(found).unique()
        return at[(at >= columns.start) & (at < columns.stop)]

    def writes(self, columns: range | None = None) -> dict[Site, Write]:
        """The writes of all rows at all sites.

        Args:
            columns: those of the tensors, where they are not all; sites at which nothing is changed there are left out.
        """
        if columns is None:
            return {site: self.write(site) for site in self._parts}
        sites = [site for site in self._parts if len(self.touched([site], columns))]
        return {site: self.write(site, column=columns.start, until=columns.stop) for site in sites}

    def write(
        self,
        site: Site,
        first: int = 0,
        stop: int | None = None,
        column: int = 0,
        *,
        until: int | None = None,
        own: bool = False,
    ) -> SiteWrite:
        """The write at one site of a tensor that holds rows ``first`` to ``stop`` and columns ``column`` to ``until``.

        Other columns are left out: whoever holds them back knows that nothing happens there, or has them elsewhere.

        Args:
            own: leave out what is given, because the tensor has it already.
        """
        groups: dict[_Key, list[_Part]] = defaultdict(list)
        for part in self._parts[site]:
            if _within(part, first, stop, own):
                groups[_key(part.place)].append(part)
        made = [_group(parts, first, column, until) for _, parts in sorted(groups.items(), key=lambda item: item[0][0])]
        return SiteWrite(site, made)  # those that change nothing here as well: what is learned has a gradient of zero then


def by_cell(rows: Rows) -> Iterator[tuple[int, Tensor]]:
    """Each cell's number and the examples it runs on."""
    cells, counts = rows[:, 0].unique_consecutive(return_counts=True)
    yield from zip(cells.tolist(), rows[:, 1].split(counts.tolist()), strict=True)


def same(part: object) -> Hashable:
    """Equal for sources or edits that are known to be the same."""
    try:
        hash(part)
    except TypeError:  # a prompt with roles, a dataclass of the user's own: known by themselves alone
        return id(part)
    return part


def _within(part: _Part, first: int, stop: int | None, own: bool) -> bool:
    return part.rows.start >= first and (stop is None or part.rows.stop <= stop) and not (own and part.place.given)


def _key(place: Place) -> _Key:
    """Within a group no two changes of a row meet; groups are made in the order of their changes."""
    change, values = place.change, place.values
    return (
        place.order,
        same(change.edit),
        id(change.featurizer),
        change.keep_error,
        place.index is None,
        id(values.tensor) if values is not None else 0,
    )


@dataclass(frozen=True, eq=False)
class _Group:
    """Changes of one tensor that differ in row, position, head and value alone, as index arrays of one length."""

    example_of: Place
    """One of the changes; the others share its edit, featurizer and kind of source."""
    at: tuple[Tensor, ...]
    """Row, column and, where one head or unit is changed, its index."""
    source: Tensor | None
    attended: Tensor | None = None
    """Of attention scores and patterns, where in the row each change is made ``[n, source_position]``."""
    which: Which | None = None
    """Which tokens they are, where a free function asks."""

    def __call__(self, seen: Tensor, where: tuple[Tensor, Tensor] | None = None) -> None:
        """Change ``seen`` in place.

        Args:
            where: row and column of each change in ``seen``, if it does not hold all of them.
        """
        within(self.example_of, seen)
        at = tuple(index.to(seen.device) for index in (self.at if where is None else (*where, *self.at[2:])))
        old = seen[at]
        scalar = old.ndim == 1
        new = changed(self.example_of, old[:, None] if scalar else old, self.source, self.attended, self.which)
        seen[at] = (new[:, 0] if scalar else new).to(seen.dtype)


@dataclass(frozen=True, eq=False)
class SiteWrite:
    """All changes of one tensor, in their order; also of some of its columns, or of the changed rows of attention, alone."""

    site: Site
    groups: list[_Group]

    def __call__(self, h: Tensor) -> Tensor:
        h = h.clone()
        seen = canonical(self.site, h)
        for group in self.groups:
            group(seen)
        return h

    def at(self, part: Tensor, columns: Int[Tensor, " column"]) -> Tensor:
        """The same of some columns, ascending, those that are changed among them."""
        part = part.clone()
        seen = canonical(self.site, part)
        for group in self.groups:
            group(seen, (group.at[0], torch.searchsorted(columns, group.at[1])))
        return part

    def pairs(self, examples: int) -> tuple[Tensor, Tensor]:
        """Row and column of every query that is changed."""
        none = torch.zeros(0, dtype=torch.long)
        row, column = ([group.at[i] for group in self.groups] or [none] for i in (0, 1))
        return torch.cat(row), torch.cat(column)

    def partly(self, part: Tensor, queries: Queries) -> Tensor:
        """The same of some rows of attention ``[n, head, slot, source_position]``, changed in place."""
        seen = canonical(self.site, part)
        for group in self.groups:
            if len(group.at[0]):  # else there may be no query to look for it among
                group(seen, queries.find(group.at[0], group.at[1]))
        return part


def _group(parts: list[_Part], first: int, column: int, until: int | None) -> _Group:
    example_of = parts[0].place
    row, at, index, source, attended, which = [], [], [], [], [], []
    for number, (place, own, examples) in enumerate(parts):
        columns = place.columns[examples]
        there = columns >= column if until is None else (columns >= column) & (columns < until)
        kept, slot = there.nonzero(as_tuple=True)
        row.append(kept + (own.start - first))
        at.append(columns[kept, slot] - column)
        if place.index is not None:
            index.append(torch.full_like(kept, place.index))
        if place.values is not None:
            source.append(place.values.at(examples[kept], slot))
        rows = place.attended_by(examples[kept], columns[kept, slot])
        if rows is not None:
            attended.append(rows)
        if isinstance(place.change.edit, Free):
            which.append(Which(row[-1] * len(parts) + number, examples[kept], columns[kept, slot]))
    where = (torch.cat(row), torch.cat(at), *((torch.cat(index),) if index else ()))
    s, real = torch.cat(source) if source else None, torch.cat(attended) if attended else None
    if real is not None and not example_of.tensor.name.startswith("cross_"):  # nothing behind the last column is attended to
        s, real = None if s is None else s[..., :until], real[..., :until]
    told = Which(*map(torch.cat, zip(*which, strict=True))) if which else None
    return _Group(example_of, where, s, real, told)


def within(place: Place, seen: Tensor) -> None:
    """Raise if the head or unit of a place is beyond those of the tensor."""
    if place.index is not None and place.index >= seen.shape[2]:
        axis = indexed_axis(place.change.site)
        raise HeadOutOfRangeError(f"{axis} {place.index} of {place.change.site!r} does not exist: there are {seen.shape[2]}")


def changed(
    place: Place,
    old: Float[Tensor, "row ..."],
    source: Float[Tensor, "row ..."] | None,
    attended: Bool[Tensor, "row source_position"] | None = None,
    which: Which | None = None,
) -> Float[Tensor, "row ..."]:
    """What the change of a place makes of some values, a token each.

    Args:
        source: what it reads, features last; None if its edit reads nothing.
        attended: of attention scores and patterns, where in the row the change is made; the rest stays.
        which: which tokens they are; only a free function asks.

    Raises:
        ShapeMismatchError: see :func:`fitting`, and what the edit returned.
        PositionError: see :func:`spanned`.
    """
    s = old if source is None else source.to(old.device)
    fitting(place, old, s)
    s = s.reshape(len(s), *(1 for _ in range(old.ndim - s.ndim)), *s.shape[1:])
    change = place.change
    if isinstance(change.edit, Free):
        assert which is not None
        new = _freely(place, change.edit, old, None if source is None else s, which)
    else:
        new = apply(change.edit, change.featurizer, old, s, keep_error=change.keep_error, where=repr(change.site.tensor))
    if attended is None:
        return new
    ones = (1 for _ in range(new.ndim - 2))
    return spanned(place, old, new, attended.reshape(len(new), *ones, attended.shape[-1]))


def _freely(
    place: Place, edit: Free, old: Float[Tensor, "value ..."], source: Float[Tensor, "value ..."] | None, which: Which
) -> Float[Tensor, "value ..."]:
    """What a free function makes of some values: rows of as many tokens in one call, in the site's own axes."""
    site, prompts, change = place.change.site, place.prompts, place.change
    assert prompts is not None
    lying = list(canonical_axes(site.tensor))
    if place.index is not None and len(lying) > 3:  # the one head or expert; a single unit stays as a feature
        lying.remove(indexed_axis(site) or "")
    axes = tuple(axis for axis in site.axes if axis in lying)
    there, back = [lying.index(axis) for axis in axes], [axes.index(axis) for axis in lying]
    positions = which.column - prompts.first[which.example]
    inside = which.column < (0 if place.ids is None else place.ids.shape[1])
    tokens = torch.full_like(which.column, -1)
    if place.ids is not None:
        tokens[inside] = place.ids[which.example[inside], which.column[inside]]
    counts = which.row.unique_consecutive(return_counts=True)[1]
    starts, new = counts.cumsum(0) - counts, torch.empty_like(old)
    for count in counts.unique().tolist():
        at = starts[counts == count][:, None] + torch.arange(count, device=counts.device)
        values = at.to(old.device)
        told = Context(site, axes, which.example[at[:, 0]], positions[at], tokens[at])
        s = None if source is None else source[values].permute(there)
        made = freely(edit, change.featurizer, old[values].permute(there), s, told, keep_error=change.keep_error)
        new[values] = made.permute(back).to(new.dtype)
    return new


def spanned(place: Place, old: Tensor, new: Tensor, attended: Tensor) -> Tensor:
    """Rows of attention that are new at some attended positions and old elsewhere; what is made of −∞ is −∞, or a number.

    Raises:
        PositionError: they are scores of which −∞ leaves nothing to attend to, so that they have no softmax.
    """
    row = torch.where(attended.to(new.device) & ~(new.isnan() & old.isneginf()), new, old)
    if isinstance(place.change.edit, Cut):
        masked = torch.finfo(old.dtype).min / 2  # where a mask stands, or −∞
        if bool(((old > masked).any(-1) & ~(row > masked).any(-1)).any()):
            raise PositionError(
                f"{place.change!r} leaves nothing to attend to: a row of −∞ has no softmax. Keep a token that is attended to, "
                "or set probabilities to 0 instead: attention_knockout(…, renormalise=False)"
            )
    return row


def fitting(place: Place, old: Tensor, s: Tensor) -> None:
    """Values of an activation have the features of their target one by one; only constants broadcast."""
    if place.values is not None and place.values.exact and s.shape[1:] != old.shape[1:]:
        raise ShapeMismatchError(
            f"the source of {place.change!r} has features {tuple(s.shape[1:])}, but the site has {tuple(old.shape[1:])}; "
            "nothing is broadcast silently"
        )
