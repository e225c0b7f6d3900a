"""Cells that make one and the same change and differ in the head or unit alone, estimated together.

A grid over 30,000 units is then a handful of tensor operations a layer, and never more than one activation wide. The edit sees
what it sees in a sweep: rows of one head's features, or of one unit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine.cells import Cell, Place
from interp.engine.edits import Which, changed, same, within
from interp.engine.layout import indexed_axis
from interp.interventions import Activation, Change, Free
from interp.sites import Site

_NUMBERS = 1 << 24
"""Most numbers of an activation that are edited at once."""


@dataclass(frozen=True, eq=False)
class Bundle:
    """Cells of one change each, alike but for the head or unit."""

    cell: Cell
    """One of them, which stands for all: the one with the highest index."""
    numbers: Int[Tensor, " member"]
    """Which cells of the sweep they are."""
    indices: Int[Tensor, " member"] | None
    """Head or unit that each changes; None where all are changed together."""
    sources: Int[Tensor, " member"] | None
    """Head or unit that each takes its value from; None where the source has none, or gives all of them."""

    @property
    def place(self) -> Place:
        return self.cell.places[-1]  # what is given comes before

    @property
    def site(self) -> Site:
        return self.place.tensor

    def filled(self, cell: Cell) -> Bundle:
        """The same with the values that its cell writes."""
        return replace(self, cell=cell)

    def moved(
        self,
        examples: Int[Tensor, " row"],
        h: Float[Tensor, "row position ..."],
        gradients: Sequence[Float[Tensor, "row position ..."]],
        dtype: torch.dtype,
    ) -> Float[Tensor, "metric member row"]:
        """Σ g · (h' − h) of every cell, for activations and gradients in the engine's order of axes."""
        within(self.place, h)
        span = self.place.columns.shape[1]
        features = prod(h.shape[2:] if self.indices is None else h.shape[3:])
        few = max(1, _NUMBERS // max(1, span * len(self.numbers) * features))
        parts = [
            self._moved(examples[rows], h[rows], [g[rows] for g in gradients], dtype)
            for rows in (slice(first, first + few) for first in range(0, len(examples), few))
        ]
        return torch.cat(parts, dim=-1)

    def _moved(self, examples: Tensor, h: Tensor, gradients: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        columns = self.place.columns[examples]
        row, slot = (columns >= 0).nonzero(as_tuple=True)
        at = (row, columns[row, slot])
        old = self._taken(h, at)
        step = difference(self._edited(old, row, examples[row], slot), old, dtype)
        found = []
        for gradient in gradients:
            share = (self._taken(gradient, at).to(dtype) * step).flatten(2).sum(2)
            by_token = share.new_zeros(*columns.shape, len(self.numbers))
            by_token[row.to(share.device), slot.to(share.device)] = share
            found.append(by_token.sum(1))
        return rearrange(found, "metric row member -> metric member row")

    def _taken(self, tensor: Tensor, at: tuple[Tensor, Tensor]) -> Float[Tensor, "token member ..."]:
        """What each cell sees of a tensor; where all heads or units are changed together, each cell sees all of them."""
        row, column = (index.to(tensor.device) for index in at)
        if self.indices is None:
            found = tensor[row, column].reshape(len(row), 1, *(tensor.shape[2:] or (1,)))
            return found.expand(-1, len(self.numbers), *found.shape[2:])
        found = tensor[row[:, None], column[:, None], self.indices.to(tensor.device)[None]]
        return found if found.ndim > 2 else found[..., None]

    def _edited(self, old: Float[Tensor, "token member ..."], rows: Tensor, examples: Tensor, slots: Tensor) -> Tensor:
        """What the change makes of them, one row a token and cell."""
        place, members = self.place, old.shape[1]
        source = None if place.values is None else self._source(examples, slots).flatten(0, 1)
        attended = place.attended_by(examples, place.columns[examples, slots])
        attended = None if attended is None else attended.repeat_interleave(members, 0)
        which = None
        if isinstance(place.change.edit, Free):  # the only member of its bundle
            which = Which(rows, examples, place.columns[examples, slots])
        return changed(place, old.flatten(0, 1), source, attended, which).to(old.dtype).unflatten(0, old.shape[:2])

    def _source(self, examples: Tensor, slots: Tensor) -> Float[Tensor, "token member ..."]:
        values = self.place.values
        assert values is not None
        row, column = values.example[examples], values.columns[examples, slots]
        if values.index is None:
            found = values.at(examples, slots)
            return found[:, None].expand(-1, len(self.numbers), *found.shape[1:])
        assert self.sources is not None
        found = values.tensor[row[:, None], column[:, None], self.sources.to(values.tensor.device)[None]]
        return found if found.ndim > 2 else found[..., None]


def bundled(cells: Mapping[int, Cell]) -> list[Bundle]:
    """Cells of one change each by what they share."""
    alike: dict[Hashable, list[int]] = defaultdict(list)
    for number, cell in cells.items():
        alike[_shared(cell.places[-1])].append(number)
    return [_bundle(numbers, cells) for numbers in alike.values()]


def _bundle(numbers: list[int], cells: Mapping[int, Cell]) -> Bundle:
    places = {number: cells[number].places[-1] for number in numbers}
    one = cells[max(numbers, key=lambda number: places[number].index or 0)]
    device = one.places[-1].columns.device
    whole = one.places[-1].index is None
    sources = [_source_index(place.change) for place in places.values()]
    return Bundle(
        one,
        torch.tensor(numbers, device=device),
        None if whole else torch.tensor([place.index for place in places.values()], device=device),
        None if None in sources else torch.tensor(sources, device=device),
    )


def _shared(place: Place) -> Hashable:
    """What cells of one bundle have in common."""
    change = place.change
    return (
        id(change) if change.together else None,  # its rows must follow each other
        change.site.tensor,
        change.positions,
        change.attended,
        change.own,
        place.index is None,
        _source_index(change) is None,
        same(change.source),
        same(change.edit),
        id(change.featurizer),
        change.keep_error,
    )


def _source_index(change: Change) -> int | None:
    """Head or unit that a change takes its value from."""
    site = change.source.site_for(change.site) if isinstance(change.source, Activation) else change.site
    axis = indexed_axis(site)
    return getattr(site, axis) if axis else None


def difference(new: Tensor, old: Tensor, dtype: torch.dtype) -> Tensor:
    """``new − old``; 0 where they are equal, also where both are infinite, as masked scores are."""
    return torch.where(new == old, 0.0, new.to(dtype) - old.to(dtype))
