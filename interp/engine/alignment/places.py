"""Where alignments are looked for: places along the axes of a grid, with how many features each has.

>>> laid(model, encoded, interp.grid("resid_post", position=["S2", "END"])).widths       # doctest: +SKIP
(576, 576, …)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from interp.engine.families import Family, named
from interp.engine.layout import canonical, indexed_axis
from interp.errors import InputError
from interp.interventions import Identity, Intervention, Replace
from interp.models import Encoded, Model
from interp.sites import Site


@dataclass(frozen=True, eq=False)
class Laid:
    """Places, one intervention of one change each, along axes."""

    targets: tuple[Intervention, ...]
    """Of the places that exist."""
    widths: tuple[int, ...]
    """Features of each."""
    axes: Mapping[str, Sequence[Any]]
    exists: np.ndarray[Any, Any]
    """``[place]`` bool, the last axis running fastest."""

    def spread(self, found: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """``[existing place, …]`` over the axes, NaN where a place does not exist."""
        full = np.full((len(self.exists), *found.shape[1:]), np.nan, dtype=found.dtype)
        full[self.exists] = found
        return full.reshape(*(len(values) for values in self.axes.values()), *found.shape[1:])


def laid(model: Model, encoded: Encoded, where: Any) -> Laid:
    """The places of a grid, of a site in every layer, or of changes that say site and positions alone.

    Raises:
        InputError: a place of several sites, or one that says its source, edit or basis itself.
    """
    families = asked(model, encoded, where)
    if len(families) > 1:
        raise InputError(f"where holds {len(families)} families, {', '.join(families)}; ask for one at a time")
    [family] = families.values()
    for target in family.interventions:
        [own, *more] = target.changes
        if more or type(own.edit) is not Replace or not isinstance(own.featurizer, Identity):
            raise InputError(
                f"{target!r} is no place to look for an alignment: expected one site with its positions, in its own "
                "coordinates; what is written there, and in which basis, is what is looked for"
            )
    widths = _widths(model, encoded, [target.changes[0].site for target in family.interventions])
    return Laid(tuple(family.interventions), widths, family.axes, family.exists)


def asked(model: Model, encoded: Encoded, where: Any) -> dict[str, Family]:
    """The families of places that are asked for, by name; nothing is run."""
    return named(model, encoded, where, {"source": None, "edit": None, "featurizer": None, "keep_error": True})


def _widths(model: Model, encoded: Encoded, sites: Sequence[Site]) -> tuple[int, ...]:
    """How many features sites have, seen in one forward pass of one prompt."""
    tensors = {site.tensor: None for site in sites}
    one = encoded.corrupted.take(torch.tensor([0], device=encoded.corrupted.mask.device))
    with torch.no_grad(), model.prepared({*tensors}):
        found = model.backend.run(model.inputs(one), reads=tensors, writes={})
    shapes = {site: canonical(site, found[site]).shape for site in tensors}
    for site in sites:
        if indexed_axis(site) == "unit" and site.unit is not None:
            raise InputError(f"{site!r} is one number: a subspace of it is it; ask for the whole site")
    return tuple(int(shapes[site.tensor][-1]) for site in sites)
