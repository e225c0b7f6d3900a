"""The call of a module: which of the tensors that it takes and gives is the one that a site is seen in.

>>> import torch
>>> first_tensor((), {"attention_mask": None, "hidden_states": torch.ones(2)})
tensor([1., 1.])
>>> with_output((torch.zeros(2), "cache"), torch.ones(2))
(tensor([1., 1.]), 'cache')
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn


class Call(NamedTuple):
    """The call of a module during which a tensor is seen."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    examples: int = 0
    """How many there are, where the tap asks for it."""
    forward: Callable[..., Any] | None = None
    """What runs the module on its own, where its forward is not what it is called by; None for its forward."""


def first_tensor(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The tensor that a module was called on: its first positional argument, else its first tensor keyword."""
    for value in (*args[:1], *kwargs.values()):
        if isinstance(value, Tensor):
            return value
    raise TypeError(f"called without a tensor: args {[type(a).__name__ for a in args]}, keywords {list(kwargs)}")


def with_first(args: tuple[Any, ...], kwargs: Mapping[str, Any], new: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same call with that tensor replaced."""
    if args and isinstance(args[0], Tensor):
        return (new, *args[1:]), dict(kwargs)
    key = next(key for key, value in kwargs.items() if isinstance(value, Tensor))
    return args, {**kwargs, key: new}


def with_tensors(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], new: Sequence[Tensor | None]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same call with its first tensors replaced, those excepted for which None is given."""
    rest = iter(new)

    def other(value: Any) -> Any:
        replaced = next(rest, None) if isinstance(value, Tensor) else None
        return value if replaced is None else replaced

    return tuple(other(value) for value in args), {name: other(value) for name, value in kwargs.items()}


def output_tensor(output: Any) -> Tensor:
    """The tensor of a module's output: the output itself, its ``logits``, or its first element."""
    if isinstance(output, Tensor):
        return output
    if hasattr(output, "logits"):
        return output.logits
    if isinstance(output, Mapping):
        return next(value for value in output.values() if isinstance(value, Tensor))
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    raise TypeError(f"no tensor in an output of type {type(output).__name__}")


def with_output(output: Any, new: Tensor) -> Any:
    """The same output with that tensor replaced."""
    if isinstance(output, Tensor):
        return new
    if hasattr(output, "logits"):
        output.logits = new
        return output
    if isinstance(output, MutableMapping):
        output[next(key for key, value in output.items() if isinstance(value, Tensor))] = new
        return output
    return type(output)((new, *output[1:])) if type(output) in (tuple, list) else output._replace(**{output._fields[0]: new})
