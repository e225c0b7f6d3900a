"""From a site to a tensor of a module: where it is seen, and how its canonical layout lies in what is seen there.

>>> import torch
>>> fused = torch.arange(12.0).reshape(1, 1, 12)            # q, k, v of two heads of width 2, side by side
>>> Heads(2, start=4, stop=8).read(fused, None)[0, 0].tolist()
[[4.0, 5.0], [6.0, 7.0]]

A :class:`Tap` names a module and an event on it; its layout turns the tensor seen there into the axes that the site declares
and puts a changed value back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

Write = Callable[[Tensor], Tensor]
"""A whole site's tensor, in its canonical axes, to its changed value of the same shape."""


class Call(NamedTuple):
    """The call of a module during which a tensor is seen."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class Layout(Protocol):
    """``read`` gives the site's tensor in its canonical axes, ``put`` what is seen with that tensor changed."""

    def read(self, seen: Tensor, call: Call | None) -> Tensor: ...
    def put(self, seen: Tensor, new: Tensor, call: Call | None) -> Tensor: ...


@dataclass(frozen=True)
class Whole:
    """The tensor is the site."""

    def read(self, seen: Tensor, call: Call | None) -> Tensor:
        return seen

    def put(self, seen: Tensor, new: Tensor, call: Call | None) -> Tensor:
        return new


@dataclass(frozen=True)
class Heads:
    """Heads side by side in the last axis, or in a slice of it (fused projections)."""

    heads: int
    start: int = 0
    stop: int | None = None

    def read(self, seen: Tensor, call: Call | None) -> Float[Tensor, "example position head d_head"]:
        return rearrange(seen[..., self.start : self.stop], "... (head d_head) -> ... head d_head", head=self.heads)

    def put(self, seen: Tensor, new: Tensor, call: Call | None) -> Tensor:
        flat = rearrange(new, "... head d_head -> ... (head d_head)")
        if self.start == 0 and self.stop is None:
            return flat
        changed = seen.clone()
        changed[..., self.start : self.stop] = flat
        return changed


@dataclass(frozen=True)
class Interleaved:
    """One part of a fused projection in which each head holds its q, k and v side by side, ``[head, (q, k, v), d_head]``.

    >>> import torch
    >>> fused = torch.arange(6.0).reshape(1, 1, 6)          # two heads of width 1, each q, k, v
    >>> Interleaved(2, part=1).read(fused, None)[0, 0].tolist()
    [[1.0], [4.0]]
    """

    heads: int
    part: int
    """0 for q, 1 for k, 2 for v."""

    def read(self, seen: Tensor, call: Call | None) -> Float[Tensor, "example position head d_head"]:
        return self._parts(seen)[..., self.part, :]

    def put(self, seen: Tensor, new: Tensor, call: Call | None) -> Tensor:
        parts = self._parts(seen).clone()
        parts[..., self.part, :] = new
        return rearrange(parts, "... head part d_head -> ... (head part d_head)")

    def _parts(self, seen: Tensor) -> Float[Tensor, "example position head 3 d_head"]:
        return rearrange(seen, "... (head part d_head) -> ... head part d_head", head=self.heads, part=3)


@dataclass(frozen=True)
class Results:
    """Each head's own contribution to the output of W_O, seen where W_O is called: ``z`` goes in, the heads' sum comes out."""

    heads: int

    def read(self, seen: Tensor, call: Call | None) -> Float[Tensor, "example position head d_model"]:
        assert call is not None
        z = rearrange(first_tensor(call.args, call.kwargs), "... (head d_head) -> ... head d_head", head=self.heads)
        weight = rearrange(in_out(call.module), "(head d_head) d_model -> head d_head d_model", head=self.heads)
        return einsum(z, weight.to(z.device), "... head d_head, head d_head d_model -> ... head d_model")

    def put(self, seen: Tensor, new: Tensor, call: Call | None) -> Tensor:
        return seen + (new - self.read(seen, call)).sum(-2)


@dataclass(frozen=True)
class Tap:
    """Where a site is seen."""

    path: str
    """The module's path in the model; empty for the model itself."""
    event: Literal["input", "output", "scores", "pattern"]
    """The first tensor of its arguments or of its output, or the argument or result of the softmax that it calls."""
    layout: Layout = field(default_factory=Whole)
    in_place: bool = False
    """Write into the very tensor that is seen, because the caller keeps using it (the residual beside a norm's input)."""


def in_out(linear: nn.Module) -> Float[Tensor, "d_in d_out"]:
    """The weight of a linear map with inputs as rows: ``nn.Linear`` stores it transposed, transformers' ``Conv1D`` does not."""
    weight = linear.weight
    assert isinstance(weight, Tensor)
    return weight.mT if isinstance(linear, nn.Linear) else weight


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


def output_tensor(output: Any) -> Tensor:
    """The tensor of a module's output: the output itself, its ``logits``, or its first element."""
    if isinstance(output, Tensor):
        return output
    if hasattr(output, "logits"):
        return output.logits
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
    return type(output)((new, *output[1:])) if type(output) in (tuple, list) else output._replace(**{output._fields[0]: new})
