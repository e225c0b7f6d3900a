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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from interp.errors import ShapeMismatchError, UnknownNameError, WeightsError
from interp.models.model import Model, refuse_compiled
from interp.models.weights.by_head import HEADS_OF, head_change

Weight = Tensor | Callable[[Tensor], Tensor]
"""The weight itself, or what makes it of a copy of the old one."""


class _Place(NamedTuple):
    """Where a module holds a parameter."""

    module: nn.Module
    name: str


@contextmanager
def reweighted(model: Model, changes: Mapping[str, Weight]) -> Iterator[Model]:
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
    digests = model._digests
    try:
        # Parameters are told apart by their ids, which those of another block may have had.
        model._digests = {}
        for places, _, new in exchanged:
            _put(places, new)
        yield model
    finally:
        for places, old, _ in reversed(exchanged):
            _put(places, old)
        model._digests = digests


class _Exchange(NamedTuple):
    places: list[_Place]
    old: nn.Parameter
    new: nn.Parameter


def _put(places: list[_Place], parameter: nn.Parameter) -> None:
    for module, name in places:
        setattr(module, name, parameter)  # a recurrent layer keeps a list of its own, which this keeps right


def _exchanged(model: Model, changes: Mapping[str, Weight]) -> list[_Exchange]:
    """What comes in whose place, checked before anything is touched."""
    places: dict[int, list[_Place]] = {}
    known: dict[str, nn.Parameter] = {}
    for path, module in model.module.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                places.setdefault(id(parameter), []).append(_Place(module, name))
                known[f"{path}.{name}" if path else name] = parameter
    wanted = _wanted(model, changes, known)
    return [_Exchange(places[id(old)], old, _made(name, old, value)) for name, old, value in wanted]


def _wanted(
    model: Model, changes: Mapping[str, Weight], known: Mapping[str, nn.Parameter]
) -> list[tuple[str, nn.Parameter, Weight]]:
    """Each parameter once, with what to put there and the name by which it was called."""
    if not isinstance(changes, Mapping):
        raise WeightsError(f"changes={changes!r} is no mapping from names of parameters to weights")
    found: dict[int, tuple[str, nn.Parameter, Weight]] = {}
    heads: dict[int, tuple[str, nn.Parameter, Weight]] = {}
    for key, value in changes.items():
        if HEADS_OF.match(key):
            name, changed, change = head_change(model, key, value)
            parameter = known[name]
            before = heads.get(id(parameter))
            heads[id(parameter)] = (
                f"{before[0]}, {key}" if before else key,
                parameter,
                _then(before[2] if before else None, change),
            )
            del changed
            continue
        names = fnmatch.filter(known, key) if any(c in key for c in "*?[") and key not in known else [key]
        if not names or names[0] not in known:
            what = "parameter that fits the pattern" if not names else "parameter"
            raise UnknownNameError(what, key, known, f"of {model.name}")
        for name in names:
            parameter = known[name]
            before = found.get(id(parameter))
            if before is not None and before[0].partition(" = ")[0] != key:
                raise WeightsError(
                    f"{before[0]!r} and {key!r} name one parameter, {name} of {model.name} (tied weights are one parameter); "
                    "give one change of it"
                )
            found[id(parameter)] = (key if key == name else f"{key} = {name}", parameter, value)
    both = [number for number in heads if number in found]
    if both:
        raise WeightsError(
            f"{found[both[0]][0]!r} and {heads[both[0]][0]!r} change one parameter of {model.name}; give one change of it"
        )
    return [*found.values(), *heads.values()]


def _then(first: Weight | None, change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """One head's change after another's, in one fused parameter."""
    if first is None:
        return change
    assert callable(first) and not isinstance(first, Tensor)
    return lambda old: change(first(old))


def _made(name: str, old: nn.Parameter, value: Any) -> nn.Parameter:
    if old.is_meta:
        raise WeightsError(f"{name} is not in memory (it is on the meta device, or put away by accelerate): it cannot be changed")
    with torch.no_grad():
        new = value(old.detach().clone()) if callable(value) and not isinstance(value, Tensor) else value
    if not isinstance(new, Tensor):
        given = "the function for " if callable(value) else ""
        raise WeightsError(f"{given}{name} gave {type(new).__name__} {str(new)[:60]!r}; a tensor is expected")
    one, other = ((tuple(t.shape), t.dtype, t.device) for t in (new, old))
    if one != other:
        raise ShapeMismatchError(
            f"{name} has shape {other[0]}, {other[1]} on {other[2]}; the weight to put there has shape {one[0]}, {one[1]} on "
            f"{one[2]}"
        )
    return nn.Parameter(new.detach().clone(), requires_grad=old.requires_grad)
