"""Interventions of any kind laid out along axes, as a grid lays out those at one site each.

    >>> from itertools import product
    >>> many = [Intervention.of(f"L{l}H{h}.z", f"L{l}.mlp_out") for l, h in product(range(2), range(3))]
    >>> Arranged(many, {"layer": range(2), "head": range(3)}, site="z and mlp_out")
    Arranged(z and mlp_out, layer=2, head=3)

A sweep takes it in place of a grid, and its result has these axes. What a method changes together in one forward pass, several
sites, held parts, values of other runs, is one intervention; where it stands in the map is said here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from interp import axes as names
from interp.errors import InputError, ShapeMismatchError, UnknownNameError
from interp.interventions.digest import anonymous
from interp.interventions.intervention import Change, Intervention


@dataclass(frozen=True, eq=False, repr=False)
class Arranged:
    """Interventions along axes."""

    interventions: tuple[Intervention | None, ...]
    """One a cell, the last axis running fastest; None where the model has nothing to change."""
    axes: Mapping[str, tuple[int | str, ...]]
    """Swept axes, each with its values."""
    site: str
    """What is changed, in words; it stands in titles."""
    coords: Mapping[str, tuple[str, tuple[Any, ...]]]
    """Further coordinates, each with the axis that it runs along."""

    def __init__(
        self,
        interventions: Sequence[Intervention | Change | None],
        axes: Mapping[str, Sequence[int | str]],
        *,
        site: str = "",
        coords: Mapping[str, tuple[str, Sequence[Any]]] | None = None,
    ) -> None:
        """
        Raises:
            ShapeMismatchError: more or fewer interventions than the axes have cells.
            InputError: something else than interventions, or none at all.
            UnknownNameError: an axis that is none.
        """
        for axis in axes:
            if axis not in names.SWEPT:
                raise UnknownNameError("swept axis", axis, names.SWEPT)
        laid = {axis: tuple(axes[axis]) for axis in sorted(axes, key=names.SWEPT.index)}
        if list(laid) != list(axes):
            raise ShapeMismatchError(f"axes are given as {', '.join(axes)}; results have them in the order {', '.join(laid)}")
        sizes = {axis: len(values) for axis, values in laid.items()}
        if math.prod(sizes.values()) != len(interventions):
            said = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
            raise ShapeMismatchError(
                f"{len(interventions)} interventions do not fill the axes {said}, which have {math.prod(sizes.values())} cells"
            )
        given = tuple(Intervention((one,)) if isinstance(one, Change) else one for one in interventions)
        strange = next((one for one in given if one is not None and not isinstance(one, Intervention)), None)
        if strange is not None:
            raise InputError(f"interventions hold {strange!r} of type {type(strange).__name__}; expected interp.Intervention")
        if all(one is None for one in given):
            raise InputError("interventions are None in every cell: there is nothing to change")
        set_ = object.__setattr__
        set_(self, "interventions", given)
        set_(self, "axes", laid)
        set_(self, "site", site or ", ".join(dict.fromkeys(c.site.name for one in given if one for c in one.changes)))
        set_(self, "coords", {name: (axis, tuple(values)) for name, (axis, values) in (coords or {}).items()})

    def spec(self) -> dict[str, Any]:
        """JSON that says which interventions these are; of many, by their digest."""
        said = [None if one is None else one.spec() for one in self.interventions]
        told = {"sha256": sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()}
        functions = {"function": None} if anonymous(said) else {}
        return {"axes": {axis: list(values) for axis, values in self.axes.items()}, "interventions": told | functions}

    def __repr__(self) -> str:
        return f"Arranged({', '.join([self.site, *(f'{axis}={len(values)}' for axis, values in self.axes.items())])})"
