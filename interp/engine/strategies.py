"""How the rows of a sweep are run. A row is one cell on one example; every strategy gives the same numbers.

``serial`` makes one intervention a forward pass and edits token by token: slow, and obviously right. ``batched`` stacks many
rows along the batch, each with its own site, positions and source, and edits all of them at a site at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine.batches import in_batches
from interp.engine.cells import Cell, Place
from interp.engine.edits import Edits, Rows, Which, by_cell, changed, fitting, spanned, within
from interp.engine.layout import LOGITS, canonical
from interp.engine.lines import Lines
from interp.engine.prompts import forward
from interp.engine.readout import Reader
from interp.interventions import Free
from interp.models import Model, Tokens
from interp.models.taps import Write
from interp.sites import Site

Progress = Callable[[int], None]
Measured = Float[Tensor, "metric row"]


@dataclass(frozen=True, eq=False)
class Work:
    """All that a strategy needs."""

    model: Model
    base: Tokens
    cells: Sequence[Cell]
    reader: Reader
    reference: Float[Tensor, "example position vocab"] | None
    lines: Lines
    """Which cells' rows leave which in the wave."""

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
            within(place, seen)
            slots = [slot for slot, column in enumerate(place.columns[example].tolist()) if column >= 0]
            size = len(slots) if isinstance(place.change.edit, Free) else place.change.joint
            for first in range(0, len(slots), size or 1):
                together = slots[first : first + size]  # one token, unless several are changed together
                columns = place.columns[example].tolist()
                new = _changed(place, example, together, [seen[row, columns[slot]] for slot in together])
                for slot, value in zip(together, new, strict=True):
                    column = columns[slot]
                    seen[row, column] = value if place.index is None else _put(seen[row, column], place.index, value)
        return h

    return write


def _changed(place: Place, example: int, slots: list[int], values: list[Tensor]) -> Tensor:
    """The new values of one token of an example, or of the several that are changed as one."""
    own = [value if place.index is None else value[place.index] for value in values]
    old = torch.stack([value.reshape(value.shape or (1,)) for value in own])
    s = old
    if place.values:
        s = place.values.at(torch.full((len(slots),), example), torch.tensor(slots)).to(old.device)
    fitting(place, old, s)
    examples = torch.full((len(slots),), example, device=place.columns.device)
    attended = place.attended_by(examples, place.columns[example, slots])
    if isinstance(place.change.edit, Free):
        which = Which(torch.zeros_like(examples), examples, place.columns[example, slots])
        return changed(place, old, s if place.values else None, attended, which)
    new = place.change(old, s)
    return new if attended is None else spanned(place, old, new, attended)


def _put(values: Tensor, index: int, new: Tensor) -> Tensor:
    values = values.clone()
    values[index] = new.reshape(values[index].shape)
    return values


def _after(first: Write | None, second: Write) -> Write:
    return second if first is None else lambda h: second(first(h))


@dataclass(frozen=True, eq=False)
class Whole:
    """Rows of whole forward passes."""

    work: Work
    rows: Rows

    def measure(self, part: slice) -> Measured:
        """Every metric of some of the rows, in one pass. Gradients flow where they are asked for."""
        work, examples = self.work, self.rows[part, 1]
        edits = Edits(work.cells, self.rows[part])
        ran = forward(work.model, work.base.take(examples), {}, work.reader, edits)
        assert ran.logits is not None
        return work.reader.measure(ran.logits, examples, work.reference)


def batched(work: Work, rows: Rows, progress: Progress, limit: int) -> Measured:
    """At most ``limit`` rows a pass; on out-of-memory the limit is halved and the work goes on where it was."""
    return torch.cat(in_batches(len(rows), limit, Whole(work, rows).measure, progress), dim=-1)
