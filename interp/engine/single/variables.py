"""Which arrays a cache has: sites that were named, gathered by component.

>>> [one.name for one in variables(model, ["resid_post", "L3.z", "encoder:z"])]            # doctest: +SKIP
['resid_post', 'z', 'encoder:z']

Sites of one component are one variable, with the layers and the heads that were named along its axes. Where they make no
rectangle – heads 9 and 6 of one layer, head 0 of another – each is a variable of its own, ``L9H6.z``, without those axes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from interp.engine.layout import indexed_axis
from interp.models import Model
from interp.sites import MAIN, Site


@dataclass(frozen=True)
class Variable:
    """One array of a cache."""

    name: str
    sites: tuple[Site, ...]
    """Whole tensors, one a layer."""
    layers: tuple[int, ...] | None
    """Numbers of the layers; None for an array without that axis."""
    indices: tuple[int, ...] | None = None
    """Heads, experts or units that are kept; None for all of them."""
    single: bool = False
    """Whether the axis of these is left out, because the name says which."""


def variables(model: Model, sites: Any) -> list[Variable]:
    """The arrays that some sites make.

    Args:
        sites: a name such as ``"resid_post"``, ``"L3.z"``, ``"L2H1.z"``, ``"encoder:L0.z"``, ``"features.3:output"``, a
            :class:`interp.Site`, or a list of such. A component without a layer means every layer that has it.

    Raises:
        ValueError: no site was named.
        UnknownSiteError, HeadOutOfRangeError: the model does not have it.
    """
    many = [sites] if isinstance(sites, str | Site) else list(sites or ()) if isinstance(sites, Iterable) else []
    if not many:
        raise ValueError(
            f"sites={sites!r} names nothing to keep; expected a name such as 'resid_post', 'L3.z', 'L2H1.z', or a list of "
            f"them; model.sites() lists those of {model.name}"
        )
    asked: dict[str, list[Site]] = {}
    for site in dict.fromkeys(map(model.site, many)):
        alone = site.path is not None or site.call is not None or site.half is not None
        asked.setdefault(repr(site) if alone else _name(site), []).append(site)
    return [one for name, group in asked.items() for one in _gathered(model, name, group)]


def _name(site: Site) -> str:
    return site.name if site.stream == MAIN else f"{site.stream}:{site.name}"


def _gathered(model: Model, name: str, group: Sequence[Site]) -> list[Variable]:
    """One variable of all sites of a component, or one of each."""
    if group[0].path is not None or group[0].call is not None or group[0].half is not None:
        return [_alone(model, site) for site in group]
    kept: dict[Site, set[int] | None] = {}
    for site in group:
        for tensor in model.each(site.tensor):
            index, before = _index(site), kept.get(tensor, set())
            kept[tensor] = None if index is None or before is None else before | {index}
    numbers = list(kept.values())
    if any(one != numbers[0] for one in numbers):
        return [_alone(model, site) for site in group]
    tensors = tuple(sorted(kept, key=lambda site: site.layer or 0))
    layers = tuple(site.layer for site in tensors if site.layer is not None)
    indices = None if numbers[0] is None else tuple(sorted(numbers[0]))
    return [Variable(name, tensors, layers if group[0].component.per_layer else None, indices)]


def _alone(model: Model, site: Site) -> Variable:
    tensors, index = model.each(site.tensor), _index(site)
    every = site.path is None and site.layer is None and site.component.per_layer
    layers = tuple(tensor.layer for tensor in tensors if tensor.layer is not None) if every else None
    return Variable(repr(site), tensors, layers, None if index is None else (index,), single=True)


def _index(site: Site) -> int | None:
    axis = indexed_axis(site)
    found: int | None = None if axis is None else getattr(site, axis)
    return found
