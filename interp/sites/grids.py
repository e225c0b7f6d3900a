"""Rectangular families of sites: one cell for every combination of the swept axes, alone or in windows of layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from numbers import Integral
from operator import index
from types import EllipsisType
from typing import Any, SupportsIndex

from interp import axes
from interp.errors import HeadOutOfRangeError, PositionError
from interp.sites.positions import ALL, Numbers, Positions, PositionsLike, raw_index, whole_numbers
from interp.sites.site import Site


@dataclass(frozen=True, slots=True)
class Cell:
    """One place of a grid: its sites, the positions at them, and its coordinates along the swept axes."""

    sites: tuple[Site, ...]
    """One; of a window of layers that of every layer in it."""
    positions: Positions
    coords: Mapping[str, int | str]


@dataclass(frozen=True, slots=True, repr=False)
class Grid:
    """A rectangular family of sites; made by :func:`grid`, laid out by :meth:`cells` once the sizes are known."""

    site: Site
    positions: Positions
    swept: tuple[tuple[str, tuple[int | str, ...] | None], ...]
    """Swept axes in the order of ``axes.SWEPT``, each with its values; None stands for every value that exists."""
    attended: Positions = ALL
    """Of scores and patterns, the attended positions that every cell changes."""
    window: int = 1
    """How many adjacent layers every cell changes together; less at both ends."""

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.swept)

    def values(self, sizes: Mapping[str, int]) -> dict[str, tuple[int | str, ...]]:
        """The values along each swept axis, once the model and the prompts say how many there are.

        Args:
            sizes: number of layers, heads, units and positions, by axis name.

        Raises:
            HeadOutOfRangeError: an index beyond ``sizes``.
        """
        found: dict[str, tuple[int | str, ...]] = {}
        for axis, given in self.swept:
            if given is None and axis in (axes.CALL, axes.HALF) and axis not in sizes:
                raise HeadOutOfRangeError(f"{axis}=...: one forward pass of this model calls {self.site!r} once; leave it out")
            if given is None and axis not in sizes:
                raise HeadOutOfRangeError(
                    f"how many {axis}s {self.site!r} has is not known before it runs; give a list of them"
                )
            found[axis] = tuple(range(sizes[axis])) if given is None else given
        fixed = {a: getattr(self.site, a) for a in (axes.LAYER, *axes.INDEXED, axes.CALL, axes.HALF)}
        for axis in fixed:
            chosen = found.get(axis, () if fixed[axis] is None else (fixed[axis],))
            beyond = [v for v in chosen if isinstance(v, int) and not 0 <= v < sizes.get(axis, v + 1)]
            if beyond:
                raise HeadOutOfRangeError(
                    f"{axis} {beyond[0]} of {self.site.name!r} does not exist: this model has {sizes[axis]} {axis}s "
                    f"there, 0 to {sizes[axis] - 1}"
                )
        return found

    def cells(self, sizes: Mapping[str, int]) -> Iterator[Cell]:
        """Every cell, the last axis running fastest."""
        values = self.values(sizes)
        for combination in product(*values.values()):
            coords = dict(zip(values, combination, strict=True))
            site = self.site.at(**{a: v for a, v in coords.items() if a != axes.POSITION})
            positions = Positions.parse(coords[axes.POSITION]) if axes.POSITION in coords else self.positions
            yield Cell(self.sites(site, sizes), positions, coords)

    def sites(self, centre: Site, sizes: Mapping[str, int]) -> tuple[Site, ...]:
        """The sites of a window around one: layers [l − ⌊w/2⌋, l + ⌈w/2⌉), as far as there are some."""
        if self.window == 1 or centre.layer is None:
            return (centre,)
        first, behind = centre.layer - self.window // 2, centre.layer + (self.window + 1) // 2
        return tuple(centre.at(layer=layer) for layer in range(max(0, first), min(sizes[axes.LAYER], behind)))

    def spec(self) -> dict[str, object]:
        """JSON that says which grid this is."""
        return {
            "site": repr(self.site),
            "positions": repr(self.positions),
            "axes": {axis: "all" if given is None else list(given) for axis, given in self.swept},
            **({} if self.attended.is_all else {"attended": repr(self.attended)}),
            **({} if self.window == 1 else {"window": self.window}),
        }

    def __repr__(self) -> str:
        swept = [f"{axis}={'all' if given is None else list(given)}" for axis, given in self.swept]
        at = [] if self.positions.is_all or axes.POSITION in self.axes else [f"position={self.positions!r}"]
        at += [] if self.attended.is_all else [f"attended={self.attended!r}"]
        at += [] if self.window == 1 else [f"window={self.window}"]
        return f"grid({', '.join([repr(self.site), *swept, *at])})"


def grid(
    site: str | Site,
    *,
    layer: SupportsIndex | Numbers | EllipsisType | None = None,
    head: SupportsIndex | Numbers | EllipsisType | None = None,
    expert: SupportsIndex | Numbers | EllipsisType | None = None,
    unit: SupportsIndex | Numbers | EllipsisType | None = None,
    call: SupportsIndex | Numbers | EllipsisType | None = None,
    half: SupportsIndex | Numbers | EllipsisType | None = None,
    position: PositionsLike | Iterable[SupportsIndex | str] = None,
    attended: PositionsLike | Iterable[str] = None,
    window: SupportsIndex = 1,
) -> Grid:
    """A grid of interventions at one site each, one cell for every combination of the swept axes.

    >>> grid("resid_pre", position=...)
    grid(resid_pre, layer=all, position=all)
    >>> grid("z", layer=[8, 9], head=..., position=-1)
    grid(z, layer=[8, 9], head=all, position=-1)
    >>> grid("mlp_out", layer=..., position=["S1", "S2", "END"]).axes
    ('layer', 'position')

    Args:
        site: a component name (``"z"``), or a site with some coordinates already fixed (``"L9.z"``).
        layer, head, expert, unit, call, half: ``...`` sweeps all of them, a sequence sweeps those, a number fixes one, None
            leaves the site's own. Without a layer all of them are swept.
        position: ``...`` sweeps every raw index; a list of indices or roles sweeps those; a single index or role (or several,
            as ``Positions``) fixes them; None means all positions together. Of a list with roles in it the result's coordinate
            is text: ``effects.sel(position="-1")``, or ``interp.effects.at(effects, position=-1)``.
        attended: of scores and patterns, the attended positions at which every cell is changed; None means whole rows.
        window: how many adjacent layers each cell changes together: w around layer l are [l − ⌊w/2⌋, l + ⌈w/2⌉), fewer at both
            ends. Results say by the coordinate ``window_layers`` how many they were.

    Raises:
        UnknownSiteError: no such component.
        HeadOutOfRangeError: the component has no such axis.
        PositionError: ``attended`` of a component without attended positions, or positions that are none.
    """
    base = Site.parse(site)
    if base.path is None and layer is None and base.layer is None and base.component.per_layer:
        layer = ...
    asked = {"layer": layer, "head": head, "expert": expert, "unit": unit, "call": call, "half": half}
    swept: dict[str, tuple[int | str, ...] | None] = {}
    for axis, given in asked.items():
        if given is None:
            continue
        if isinstance(given, Integral):
            base = base.at(**{axis: int(given)})
            continue
        try:
            values = None if given is ... else whole_numbers(given)
        except TypeError:
            many = f"{axis}={given!r}: give ... for all of them, a number, or a list of numbers"
            raise HeadOutOfRangeError(many) from None
        if values is not None:
            _refuse_empty_or_repeated(axis, values)
        base.at(**{axis: values[0] if values else 0})  # refuses an axis that the component does not have
        swept[axis] = values
    positions = ALL
    if position is ...:
        swept[axes.POSITION] = None
    elif isinstance(position, Iterable) and not isinstance(position, str | Positions):
        places = tuple(p if isinstance(p, str) else raw_index(p, position) for p in position)
        _refuse_empty_or_repeated(axes.POSITION, places, PositionError)
        swept[axes.POSITION] = places
    else:
        positions = Positions.parse(position)
    ordered = tuple((axis, swept[axis]) for axis in axes.SWEPT if axis in swept)
    where: Any = attended
    if isinstance(where, Sequence) and not isinstance(where, str) and any(isinstance(p, str) for p in where):
        raise PositionError(f"attended={list(where)} is not swept: give one role or indices, and a grid for each span")
    span = Positions.parse(where)
    if not span.is_all and not base.square:
        raise PositionError(f"attended={span!r} of {base!r}: only scores and patterns have rows of attended positions")
    return Grid(base, positions, ordered, span, _window(base, ordered, window))


def _window(site: Site, swept: Iterable[tuple[str, object]], window: Any) -> int:
    try:
        width = index(window)
    except TypeError:
        width = 0
    if width < 1:
        raise HeadOutOfRangeError(f"window={window!r}: give a number of adjacent layers, 1 at least")
    if width > 1 and axes.LAYER not in dict(swept):
        raise HeadOutOfRangeError(
            f"window={width} of {site!r}: a window slides along layers, and this grid does not sweep them"
        )
    return width


def _refuse_empty_or_repeated(axis: str, values: Sequence[int | str], error: type[Exception] = HeadOutOfRangeError) -> None:
    if len(values) == 0:
        raise error(f"{axis} is an empty list; give at least one value, or ... for all of them")
    if len(set(values)) < len(values):
        raise error(f"{axis} names a value twice: {list(values)}")
