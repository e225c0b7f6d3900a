"""The cells of a sweep that is estimated: what each moves for given slopes, and which of them can be made in one pass.

>>> cells = Cells(prepared, known)                                                       # doctest: +SKIP
>>> cells.moved(part.examples, part.graph(cells.sites).slopes()).shape                   # doctest: +SKIP
torch.Size([1, 144, 16])
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.engine.cells import Cell, Place
from interp.engine.edits import Edits
from interp.engine.estimates.bundles import bundled, difference
from interp.engine.estimates.slopes import Slopes
from interp.engine.filling import fill
from interp.engine.layout import canonical
from interp.engine.prepared import Prepared
from interp.models.taps import Write
from interp.sites import Site


class Cells:
    """The cells to estimate with what they write: those of one change in bundles, those of several changes one by one."""

    def __init__(self, prepared: Prepared, known: Sequence[Cell]) -> None:
        self._prepared, self._known = prepared, known
        self._own = {number: prepared.cells[number] for family in prepared.families for number in family[:-1]}
        single = {number: cell for number, cell in self._own.items() if len(cell.intervention.changes) == 1}
        several = {number: cell for number, cell in self._own.items() if number not in single}
        bundles = bundled(single)
        filled = fill([*(bundle.cell for bundle in bundles), *several.values()], prepared.runs, known)
        self.by_rule, self.dtype = prepared.by_rule, prepared.reader.dtype
        self.bundles = [bundle.filled(cell) for bundle, cell in zip(bundles, filled[: len(bundles)], strict=True)]
        self.several = dict(zip(several, filled[len(bundles) :], strict=True))
        changes = [change for cell in filled for change in cell.intervention.changes]
        self.sites = list(dict.fromkeys(change.site.tensor for change in changes))

    @cached_property
    def each(self) -> dict[int, Cell]:
        """Every cell by its number, with the values that it writes; what is given is left out."""
        filled = fill(list(self._own.values()), self._prepared.runs, self._known)
        return {
            number: replace(cell, places=tuple(place for place in cell.places if not place.given))
            for number, cell in zip(self._own, filled, strict=True)
        }

    @torch.no_grad()
    def moved(
        self, examples: Tensor, found: Slopes, only: Collection[int] | None = None, *, but: Collection[Site] = ()
    ) -> Float[Tensor, "metric cell example"]:
        """Σ g · (h' − h) of every cell and metric; 0 by rule where it cannot move anything.

        Args:
            only: numbers of the cells that are meant; those of a bundle come together.
            but: tensors whose changes are left out.
        """
        total = torch.zeros(len(found.gradient), len(self.by_rule), len(examples), dtype=self.dtype, device=examples.device)
        by_rule = self.by_rule[:, examples]
        wanted = None if only is None else set(only)
        for bundle in self.bundles:
            meant = bundle.site not in but and (wanted is None or not wanted.isdisjoint(bundle.numbers.tolist()))
            if meant and not bool(by_rule[bundle.numbers[0]].all()):
                h = canonical(bundle.site, found.activation[bundle.site])
                gradients = [canonical(bundle.site, gradient[bundle.site]) for gradient in found.gradient]
                total[:, bundle.numbers] = bundle.moved(examples, h, gradients, self.dtype).to(total.device)
        for number, cell in self.several.items():
            if (wanted is None or number in wanted) and not bool(by_rule[number].all()):
                total[:, number] = self._together(cell, examples, found, but).to(total.device)
        return total.masked_fill(by_rule, 0.0)

    def _together(self, cell: Cell, examples: Tensor, found: Slopes, but: Collection[Site]) -> Float[Tensor, "metric example"]:
        """The sum over tensors of what several changes move."""
        edits = Edits.of(cell, examples)
        total = torch.zeros(len(found.gradient), len(examples), dtype=self.dtype, device=examples.device)
        for site in edits.sites(own=True):
            if site not in but:
                h = found.activation[site]
                step = difference(edits.write(site, own=True)(h), h, self.dtype)
                total += torch.stack([(g[site].to(step) * step).flatten(1).sum(1) for g in found.gradient]).to(total.device)
        return total


def joint_writes(cells: Iterable[Cell], examples: Int[Tensor, " row"]) -> dict[Site, Write]:
    """The writes of several cells in one pass."""
    many = list(cells)
    return Edits.of(replace(many[0], places=tuple(place for cell in many for place in cell.places)), examples).writes()


def apart(cells: Mapping[int, Cell]) -> list[list[int]]:
    """Cells in groups of which no two share a coordinate, so that a group can be made in one pass.

    Args:
        cells: by number, without what is given.
    """
    groups: list[tuple[list[int], dict[tuple[Site, int | None], Tensor]]] = []
    for number, cell in cells.items():
        own = [(place, covered(place)) for place in cell.places]
        group = next((one for one in groups if not any(_taken(one[1], *place) for place in own)), None)
        if group is None:
            group = [], {}
            groups.append(group)
        group[0].append(number)
        for place, mask in own:
            key = place.tensor, place.index
            group[1][key] = group[1][key] | mask if key in group[1] else mask
    return [numbers for numbers, _ in groups]


def covered(place: Place) -> Bool[Tensor, "example column"]:
    """Where a change is made."""
    assert place.prompts is not None
    columns, width = place.columns, place.prompts.width
    spare = torch.zeros(len(columns), width + 1, dtype=torch.bool, device=columns.device)
    return spare.scatter(1, torch.where(columns >= 0, columns, width), True)[:, :-1]


def _taken(taken: Mapping[tuple[Site, int | None], Tensor], place: Place, mask: Tensor) -> bool:
    return any(
        site == place.tensor and (None in (index, place.index) or index == place.index) and bool((of & mask).any())
        for (site, index), of in taken.items()
    )
