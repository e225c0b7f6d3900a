"""How a site's tensor lies in what is seen of a module: whole, a slice, heads side by side, tokens of all examples in one axis.

>>> import torch
>>> fused = torch.arange(12.0).reshape(1, 1, 12)            # q, k, v of two heads of width 2, side by side
>>> Heads(2, start=4, stop=8).read(fused, None)[0, 0].tolist()
[[4.0, 5.0], [6.0, 7.0]]

A layout turns the tensor seen there into the axes that the site declares and puts a changed value back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from interp.errors import LoadError, ShapeMismatchError
from interp.models.calls import Call, first_tensor
from interp.models.maps import per_head


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
    """Heads in the last axis: all of it, a slice of it, or a slice of each of several groups.

    Fused projections differ in how they lie. With ``groups=1`` a slice holds all heads of one kind (GPT-2: all queries, then
    all keys, then all values); otherwise each group holds its own (GPT-NeoX: query, key and value of one head after another).

    >>> import torch
    >>> fused = torch.arange(6.0).reshape(1, 1, 6)          # two heads of width 1, each q, k, v
    >>> Heads(2, groups=2, start=1, stop=2).read(fused, None)[0, 0].tolist()
    [[1.0], [4.0]]
    """

    heads: int
    groups: int = 1
    start: int = 0
    stop: int | None = None
    """Slice of each group."""

    def read(self, seen: Tensor, call: Call | None) -> Float[Tensor, "example position head d_head"]:
        if self.groups == 1:
            return rearrange(seen[..., self.start : self.stop], "... (head d_head) -> ... head d_head", head=self.heads)
        each = {"group": self.groups, "head": self.heads // self.groups}
        inside = rearrange(seen, "... (group width) -> ... group width", group=self.groups)[..., self.start : self.stop]
        return rearrange(inside, "... group (head d_head) -> ... (group head) d_head", **each)

    def put(self, seen: Tensor, new: Tensor, call: Call | None) -> Tensor:
        if self.groups == 1 and self.start == 0 and self.stop is None:
            return rearrange(new, "... head d_head -> ... (head d_head)")
        changed = rearrange(seen, "... (group width) -> ... group width", group=self.groups).clone()
        changed[..., self.start : self.stop] = rearrange(
            new, "... (group head) d_head -> ... group (head d_head)", group=self.groups
        )
        return rearrange(changed, "... group width -> ... (group width)")


@dataclass(frozen=True)
class Units:
    """A slice of the last axis: one half of a map that holds gate and linear branch."""

    start: int
    stop: int

    def read(self, seen: Tensor, call: Call | None) -> Float[Tensor, "example position unit"]:
        return seen[..., self.start : self.stop]

    def put(self, seen: Tensor, new: Tensor, call: Call | None) -> Tensor:
        changed = seen.clone()
        changed[..., self.start : self.stop] = new
        return changed


@dataclass(frozen=True)
class Flat:
    """Tokens of all examples in one axis, ``[(example position), …]``, or a spare axis behind the examples.

    >>> import torch
    >>> Flat().read(torch.zeros(6, 4), Call(torch.nn.Identity(), (), {}, examples=2)).shape
    torch.Size([2, 3, 4])
    """

    layout: Layout = field(default_factory=Whole)

    def read(self, seen: Tensor, call: Call | None) -> Tensor:
        assert call is not None
        return self.layout.read(seen.reshape(call.examples, -1, seen.shape[-1]), call)

    def put(self, seen: Tensor, new: Tensor, call: Call | None) -> Tensor:
        assert call is not None
        return self.layout.put(seen.reshape(call.examples, -1, seen.shape[-1]), new, call).reshape(seen.shape)


@dataclass(frozen=True)
class Half:
    """Half of the examples, where every prompt is run twice: first all without it, then all with it."""

    half: int
    layout: Layout

    def read(self, seen: Tensor, call: Call | None) -> Tensor:
        return self.layout.read(seen, call).chunk(2)[self.half]

    def put(self, seen: Tensor, new: Tensor, call: Call | None) -> Tensor:
        halves = list(self.layout.read(seen, call).chunk(2))
        halves[self.half] = new
        return self.layout.put(seen, torch.cat(halves), call)


@dataclass(frozen=True)
class MergedHeads:
    """Scores and patterns with examples and heads in one axis, as some implementations multiply them."""

    heads: int

    def read(self, seen: Tensor, call: Call | None) -> Float[Tensor, "example head position source_position"]:
        return rearrange(seen, "(example head) position source -> example head position source", head=self.heads)

    def put(self, seen: Tensor, new: Tensor, call: Call | None) -> Tensor:
        return rearrange(new, "example head position source -> (example head) position source")


@dataclass(frozen=True)
class BesideSink:
    """Scores or a pattern with a sink in the last column: a learned score of every head that takes its share of each row.

    The sink has no values, so it is no position and is left out. Rows of the pattern then sum to less than 1.

    >>> import torch
    >>> BesideSink().read(torch.tensor([[[[0.5, 0.2, 0.3]]]]), None)
    tensor([[[[0.5000, 0.2000]]]])
    """

    parameter: str | None = None
    """Of scores, the attention module's parameter that holds the sinks, by which the constant is known that may have been taken
    from all scores of a row before the softmax."""

    def read(self, seen: Tensor, call: Call | None) -> Float[Tensor, "example head position source_position"]:
        return seen[..., :-1] - self._constant(seen, call)

    def put(self, seen: Tensor, new: Tensor, call: Call | None) -> Tensor:
        return torch.cat([new + self._constant(seen, call), seen[..., -1:]], dim=-1)

    def _constant(self, seen: Tensor, call: Call | None) -> Tensor | float:
        if self.parameter is None:
            return 0.0
        assert call is not None
        sinks: Tensor = getattr(call.module, self.parameter)
        return seen[..., -1:] - rearrange(sinks, "head -> head 1 1").to(seen)


@dataclass(frozen=True)
class Shared:
    """One tensor for all examples, as position embeddings are; each may be written a value of its own."""

    def read(self, seen: Tensor, call: Call | None) -> Float[Tensor, "example position d_model"]:
        assert call is not None
        return (seen if seen.ndim == 3 else seen.unsqueeze(0)).expand(call.examples, -1, -1)

    def put(self, seen: Tensor, new: Tensor, call: Call | None) -> Tensor:
        return new


@dataclass(frozen=True)
class Pooled:
    """One vector for a whole example, at its only position: what a classifier gives."""

    def read(self, seen: Tensor, call: Call | None) -> Float[Tensor, "example 1 vocab"]:
        return seen.unsqueeze(1)

    def put(self, seen: Tensor, new: Tensor, call: Call | None) -> Tensor:
        return new.squeeze(1)


@dataclass(frozen=True)
class Own:
    """Of a matrix that compares every example's image with every example's text, each example's own number.

    >>> import torch
    >>> Own().read(torch.eye(3), None).shape
    torch.Size([3, 1, 1])
    """

    def read(self, seen: Tensor, call: Call | None) -> Float[Tensor, "example 1 1"]:
        return seen.diagonal()[:, None, None]

    def put(self, seen: Tensor, new: Tensor, call: Call | None) -> Tensor:
        return seen.diagonal_scatter(new[:, 0, 0])


@dataclass(frozen=True)
class Named:
    """A tensor whose axes the user named, as they lie: one holds the examples, one what is at a position, the others positions.

    >>> import torch
    >>> Named.parse("example [channel] row column").read(torch.zeros(2, 3, 4, 5), None).shape
    torch.Size([2, 20, 3])
    """

    names: tuple[str, ...]
    unit: str

    @classmethod
    def parse(cls, axes: str) -> Named:
        """From names in the order of the tensor's axes, with what is at a position in brackets; by default the last.

        Raises:
            LoadError: names that do not say which axis is which.
        """
        written = axes.split()
        marked = [name[1:-1] for name in written if name.startswith("[") and name.endswith("]")]
        names = tuple(name.strip("[]") for name in written)
        if (
            "example" not in names
            or len(set(names)) < len(names)
            or len(marked) > 1
            or not all(n.isidentifier() for n in names)
        ):
            raise LoadError(
                f"axes {axes!r}: name every axis once, 'example' among them, and what is at a position in brackets, as in "
                "'example [channel] row column'"
            )
        unit = (marked or [name for name in reversed(names) if name != "example"] or [""])[0]
        if unit in ("", "example"):
            raise LoadError(f"axes {axes!r}: no axis is left for what is at a position")
        return cls(names, unit)

    @property
    def positions(self) -> tuple[str, ...]:
        """The axes that positions run along, the last fastest."""
        return tuple(name for name in self.names if name not in ("example", self.unit))

    def read(self, seen: Tensor, call: Call | None) -> Float[Tensor, "example position unit"]:
        if seen.ndim != len(self.names):
            raise ShapeMismatchError(f"axes {' '.join(self.names)!r} were given for a tensor of shape {tuple(seen.shape)}")
        return rearrange(seen, f"{' '.join(self.names)} -> example ({' '.join(self.positions)}) {self.unit}")

    def put(self, seen: Tensor, new: Tensor, call: Call | None) -> Tensor:
        sizes = dict(zip(self.names, seen.shape, strict=True))
        known = {name: sizes[name] for name in self.positions}
        return rearrange(new, f"example ({' '.join(self.positions)}) {self.unit} -> {' '.join(self.names)}", **known)


IMAGE = Named(("example", "channel", "row", "column"), "channel")
"""How a feature map lies: its pixels are positions, row by row, with the channels of each."""


@dataclass(frozen=True)
class Results:
    """Each head's own contribution to the output of W_O, seen where W_O is called: ``z`` goes in, the heads' sum comes out."""

    heads: int

    def read(self, seen: Tensor, call: Call | None) -> Float[Tensor, "example position head d_model"]:
        assert call is not None
        z = first_tensor(call.args, call.kwargs)
        z = z.reshape(call.examples, -1, z.shape[-1]) if call.examples else z
        return per_head(call.module, rearrange(z, "... (head d_head) -> ... head d_head", head=self.heads))

    def put(self, seen: Tensor, new: Tensor, call: Call | None) -> Tensor:
        return seen + (new - self.read(seen, call)).sum(-2)
