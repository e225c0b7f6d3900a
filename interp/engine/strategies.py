"""How the rows of a sweep are run. A row is one cell on one example; every strategy gives the same numbers.

``serial`` makes one intervention a forward pass and edits token by token: slow, and obviously right. ``batched`` stacks many
rows along the batch, each with its own site, positions and source, and edits all of them at a site at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine.batches import in_batches
from interp.engine.cells import Cell, Place
from interp.engine.layout import LOGITS, canonical, indexed_axis
from interp.engine.readout import Reader
from interp.errors import HeadOutOfRangeError, ShapeMismatchError
from interp.interventions import Edit, apply
from interp.models import Model, Tokens
from interp.models.taps import Write
from interp.sites import Site

Progress = Callable[[int], None]
Rows = Int[Tensor, "row 2"]
"""Cell and example of each row, cell by cell."""
Measured = Float[Tensor, "metric row"]

_Key = tuple[int, Edit | int, int, bool, bool, int]
"""What changes share that are made together: order, edit, featurizer, keep_error, whole or indexed, and source tensor."""
_Parts = list[tuple[Place, Tensor, Tensor, Tensor]]
"""Places with their rows, slots and examples."""


@dataclass(frozen=True, eq=False)
class Work:
    """All that a strategy needs."""

    model: Model
    base: Tokens
    cells: Sequence[Cell]
    reader: Reader
    reference: Float[Tensor, "example position vocab"] | None

    def forward(self, examples: Int[Tensor, " row"], writes: dict[Site, Write]) -> Measured:
        """One pass of the base prompts of ``examples`` with ``writes`` in force."""
        tokens = self.base.take(examples)
        found = self.model.backend.run(self.model.inputs(tokens, self.reader.keep), reads=[LOGITS], writes=writes)
        return self.reader.measure(self.reader.logits(tokens, found[LOGITS]), examples, self.reference)


def serial(work: Work, rows: Rows, progress: Progress) -> Measured:
    """One intervention a forward pass, over all of its examples. The reference."""
    measured = []
    for cell, examples in by_cell(rows):
        writes: dict[Site, Write] = {}
        for place in sorted(work.cells[cell].places, key=lambda place: place.order):
            writes[place.tensor] = _after(writes.get(place.tensor), _token_by_token(place, examples))
        measured.append(work.forward(examples, writes))
        progress(len(examples))
    return torch.cat(measured, dim=-1)


def _token_by_token(place: Place, examples: Tensor) -> Write:
    def write(h: Tensor) -> Tensor:
        h = h.clone()
        seen = canonical(place.tensor, h)
        for row, example in enumerate(examples.tolist()):
            _within(place, seen)
            for slot, column in enumerate(place.columns[example].tolist()):
                if column < 0:
                    continue
                old = seen[row, column] if place.index is None else seen[row, column, place.index]
                old = old.reshape(1, *old.shape or (1,))
                s = place.values.at(torch.tensor([example]), torch.tensor([slot])).to(h.device) if place.values else old
                _fitting(place, old, s)
                new = place.change(old, s)[0]
                seen[row, column] = new if place.index is None else _put(seen[row, column], place.index, new)
        return h

    return write


def _within(place: Place, seen: Tensor) -> None:
    if place.index is not None and place.index >= seen.shape[2]:
        axis = indexed_axis(place.change.site)
        raise HeadOutOfRangeError(f"{axis} {place.index} of {place.change.site!r} does not exist: there are {seen.shape[2]}")


def _fitting(place: Place, old: Tensor, s: Tensor) -> None:
    """Values of an activation have the features of their target one by one; only constants broadcast."""
    if place.values is not None and place.values.exact and s.shape[1:] != old.shape[1:]:
        raise ShapeMismatchError(
            f"the source of {place.change!r} has features {tuple(s.shape[1:])}, but the site has {tuple(old.shape[1:])}; "
            "nothing is broadcast silently"
        )


def _put(values: Tensor, index: int, new: Tensor) -> Tensor:
    values = values.clone()
    values[index] = new.reshape(values[index].shape)
    return values


def _after(first: Write | None, second: Write) -> Write:
    return second if first is None else lambda h: second(first(h))


def batched(work: Work, rows: Rows, progress: Progress, limit: int) -> Measured:
    """At most ``limit`` rows a pass; on out-of-memory the limit is halved and the work goes on where it was."""

    def run(chunk: slice) -> Measured:
        return work.forward(rows[chunk, 1], writes_of(work.cells, rows[chunk]))

    return torch.cat(in_batches(len(rows), limit, run, progress), dim=-1)


def by_cell(rows: Rows) -> Iterator[tuple[int, Tensor]]:
    """Each cell's number and the examples it runs on."""
    cells, counts = rows[:, 0].unique_consecutive(return_counts=True)
    yield from zip(cells.tolist(), rows[:, 1].split(counts.tolist()), strict=True)


@dataclass(frozen=True, eq=False)
class _Group:
    """Changes of one tensor that differ in row, position, head and value alone, as index arrays of one length."""

    example_of: Place
    """One of the changes; the others share its edit, featurizer and kind of source."""
    at: tuple[Tensor, ...]
    """Row, column and, where one head or unit is changed, its index."""
    source: Tensor | None

    def __call__(self, seen: Tensor) -> None:
        """Change ``seen`` in place."""
        _within(self.example_of, seen)
        old = seen[self.at]
        scalar = old.ndim == 1
        old = old[:, None] if scalar else old
        s = old if self.source is None else self.source.to(old.device)
        _fitting(self.example_of, old, s)
        s = s.reshape(len(s), *(1 for _ in range(old.ndim - s.ndim)), *s.shape[1:])
        change = self.example_of.change
        new = apply(change.edit, change.featurizer, old, s, keep_error=change.keep_error, where=repr(change.site.tensor))
        seen[self.at] = (new[:, 0] if scalar else new).to(seen.dtype)


def writes_of(cells: Sequence[Cell], rows: Rows) -> dict[Site, Write]:
    """The writes of one pass in which row i is ``rows[i]``."""
    parts: dict[Site, dict[_Key, _Parts]] = defaultdict(lambda: defaultdict(list))
    start = 0
    for cell, examples in by_cell(rows):
        for place in cells[cell].places:
            columns = place.columns[examples]
            row, slot = (columns >= 0).nonzero(as_tuple=True)
            change, values = place.change, place.values
            key = (
                place.order,
                change.edit if isinstance(change.edit, Hashable) else id(change.edit),
                id(change.featurizer),
                change.keep_error,
                place.index is None,
                id(values.tensor) if values is not None else 0,
            )
            parts[place.tensor][key].append((place, row + start, slot, examples[row]))
        start += len(examples)
    return {site: _write(site, [_group(found) for _, found in _ordered(groups)]) for site, groups in parts.items()}


def _ordered(groups: dict[_Key, _Parts]) -> list[tuple[_Key, _Parts]]:
    """Groups in the order of their changes; within one, no two changes of a row meet."""
    return sorted(groups.items(), key=lambda item: item[0][0])


def _group(parts: _Parts) -> _Group:
    first = parts[0][0]
    at = [torch.cat([row for _, row, _, _ in parts])]
    at.append(torch.cat([place.columns[example, slot] for place, _, slot, example in parts]))
    if first.index is not None:
        at.append(torch.cat([torch.full_like(row, place.index or 0) for place, row, _, _ in parts]))
    source = None
    if first.values is not None:
        source = torch.cat([place.values.at(example, slot) for place, _, slot, example in parts if place.values])
    return _Group(first, tuple(at), source)


def _write(site: Site, groups: list[_Group]) -> Write:
    def write(h: Tensor) -> Tensor:
        h = h.clone()
        seen = canonical(site, h)
        for group in groups:
            group(seen)
        return h

    return write
