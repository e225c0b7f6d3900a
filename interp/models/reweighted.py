"""Other weights for a while: inside the block the model has them, behind it the very parameters that it had before.

    >>> down = "model.layers.3.mlp.down_proj.weight"
    >>> with interp.reweighted(model, {down: lambda w: w - w.mean(0)}):                          # doctest: +SKIP
    ...     interp.patch(model, pairs, sites, metric="logit_diff")                               # doctest: +SKIP
    >>> with interp.reweighted(model, {"model.layers.*.mlp.*.weight": lambda w: 0.5 * w}):       # doctest: +SKIP
    ...     model.digest                                         # of the weights as they are    # doctest: +SKIP

Nothing is written in place. The ``nn.Parameter`` objects are exchanged for others and put back when the block is left, by an
error too: the same objects, with the same numbers, gradients and ``requires_grad``. An optimiser that holds them does not see
the ones in between.

A parameter that stands in several places (an embedding tied to the unembedding) is one parameter here as well: named in either
place, it is exchanged in all of them, so that tied weights stay tied.
"""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from interp.errors import UnknownNameError, WeightsError
from interp.models.hooks import refuse_compiled
from interp.models.model import Model
from interp.models.weights.by_head import HEADS_OF, fitting, head_change
from interp.sites import Site


class _Place(NamedTuple):
    """Where a module holds a parameter."""

    module: nn.Module
    name: str


@contextmanager
def reweighted(model: Model, changes: Mapping[str, Any]) -> Iterator[Model]:
    """Inside: the model with some weights exchanged.

    Args:
        model: its module is the one that changes; another model of the same module sees the same weights.
        changes: by the name of a parameter as in ``module.named_parameters()``, a pattern of such names (``*`` stands for
            anything, dots too), or a head's or a layer's own matrix, as ``"L3H2.W_Q"`` or ``"L3.W_O"``
            (:mod:`interp.models.weights.by_head`). The tensor to put there, which is copied, or a function that is given a copy
            of the old one and returns the new one, of the same shape, dtype and device.

    Yields:
        The same model.

    Raises:
        UnknownNameError: no parameter of that name, or none that fits the pattern.
        ShapeMismatchError: a weight of another shape, dtype or device than the one in whose place it comes.
        WeightsError: two names for one parameter, something that is no tensor, or a weight that is not in memory.
        CompiledModelError: a compiled model, which may have its weights built in.
    """
    refuse_compiled(model.module)
    exchanged = _exchanged(model, changes)
    try:
        for places, _, new in exchanged:
            _put(places, new)
        yield model
    finally:
        for places, old, _ in reversed(exchanged):
            _put(places, old)


class _Exchange(NamedTuple):
    places: list[_Place]
    old: nn.Parameter
    new: nn.Parameter


@dataclass
class _Wanted:
    """The changes of one parameter."""

    name: str
    parameter: nn.Parameter
    by: list[str]
    """The keys that name it."""
    changes: list[Any]
    parts: list[Site]
    """The heads that are changed; none where the whole parameter is."""


def _put(places: list[_Place], parameter: nn.Parameter) -> None:
    for module, name in places:
        setattr(module, name, parameter)  # as an assignment, of which modules that keep lists of their weights take note


def _exchanged(model: Model, changes: Mapping[str, Any]) -> list[_Exchange]:
    """What comes in whose place, checked before anything is touched."""
    places: dict[int, dict[_Place, None]] = defaultdict(dict)
    known: dict[str, nn.Parameter] = {}
    for path, module in model.module.named_modules(remove_duplicate=False):  # a module may have several paths
        for name, parameter in module._parameters.items():
            if parameter is not None:
                places[id(parameter)][_Place(module, name)] = None
                known[f"{path}.{name}" if path else name] = parameter
    # A module of a peer may have names of its own for the same parameters.
    known |= {name: p for name, p in model.module.named_parameters() if id(p) in places}
    wanted = _wanted(model, changes, known)
    return [_Exchange([*places[id(one.parameter)]], one.parameter, _made(one)) for one in wanted]


def _wanted(model: Model, changes: Mapping[str, Any], known: Mapping[str, nn.Parameter]) -> list[_Wanted]:
    """Every parameter that changes, once."""
    found: dict[int, _Wanted] = {}
    for key, value in changes.items():
        for name, change, part in _named(model, key, value, known):
            parameter, parts = known[name], [] if part is None else [part]
            one = found.setdefault(id(parameter), _Wanted(name, parameter, [key], [change], parts))
            if key in one.by:
                continue  # one pattern finds tied weights in each of their places
            if part is None or not one.parts or any(_overlap(part, other) for other in one.parts):
                raise WeightsError(
                    f"{one.by[-1]!r} and {key!r} name one parameter, {name} of {model.name} (tied weights are one parameter), "
                    "or one part of it; give one change of it"
                )
            one.by.append(key)
            one.changes.append(change)
            one.parts.append(part)
    return list(found.values())


def _named(model: Model, key: str, value: Any, known: Mapping[str, nn.Parameter]) -> Iterator[tuple[str, Any, Site | None]]:
    """The parameters that a key names, with the change of each, and the heads if it is of some alone."""
    if HEADS_OF.match(key):
        yield head_change(model, key, value)
        return
    pattern = key not in known and any(mark in key for mark in "*?[")
    names = fnmatch.filter(known, key) if pattern else [name for name in known if name == key]
    if not names:
        head = key.partition(".")[0]
        matrices = [f"{head}.W_{which}" for which in "QKVO"] if head.rpartition(":")[2].startswith("L") else []
        kind = "pattern of parameters" if pattern else "parameter"
        raise UnknownNameError(kind, key, known, f"of {model.name}", aliases=matrices)
    yield from ((name, value, None) for name in names)


def _overlap(one: Site, other: Site) -> bool:
    return one.tensor == other.tensor and (one.head == other.head or None in (one.head, other.head))


def _made(wanted: _Wanted) -> nn.Parameter:
    old = wanted.parameter
    if old.is_meta:
        raise WeightsError(
            f"{wanted.name} is not in memory (it is on the meta device, or put away by accelerate): it cannot be exchanged"
        )
    new = old.detach()
    with torch.no_grad():
        for change in wanted.changes:
            new = fitting(" = ".join(dict.fromkeys((*wanted.by, wanted.name))), change, new)
    return nn.Parameter(new.clone(), requires_grad=old.requires_grad)
