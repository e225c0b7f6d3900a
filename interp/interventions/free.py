"""Any function as an edit: ``(h, ctx) -> h``, with what it needs to know of the values that it is given.

    >>> def clip(h, ctx):
    ...     return h.clamp(-3, 3)
    >>> Change("L2.mlp_out", "END", edit=clip)
    L2.mlp_out@END Free(clip)

The function sees the site's own axes, at the positions of the change alone: ``[example, position, head, d_head]`` of ``L3.z``,
``[example, position, d_head]`` of ``L3H2.z``; in a featurizer's coordinates the last axis is ``feature``. It returns the same
shape. How many rows come together, and of which interventions that share the function, is the strategy's business, so it treats
each row by itself; rows in which a span has different numbers of tokens come in different calls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ShapeMismatchError
from interp.sites import Site


@dataclass(frozen=True, eq=False)
class Context:
    """What a free function is told of the values that it changes."""

    site: Site
    """Of the change, with the head, expert or unit that it names."""
    axes: tuple[str, ...]
    """Of the values; the first counts rows."""
    rows: Int[Tensor, " row"]
    """Which example each row is."""
    positions: Int[Tensor, "row position"]
    """Counted from the first real token of each prompt."""
    tokens: Int[Tensor, "row position"]
    """Token ids there; −1 where no token enters: at pictures, and at what is only being written."""
    source: Float[Tensor, "row position ..."] | None = None
    """The value of the change's source, where it was given one, in the axes of the values."""


Function = Callable[[Tensor, Context], Tensor]


@dataclass(frozen=True, repr=False)
class Free:
    """A function of values and their context as an edit. It has no spec, so its runs are anonymous: no resume."""

    function: Function
    reads_source: bool = False
    """Whether the change was given a source, which the context then holds."""
    kind = "free"
    commutes = False

    def __call__(self, h: Tensor, s: Tensor) -> Tensor:
        raise TypeError(f"{self!r} is called with a context: Free.told(h, context)")

    def told(self, h: Tensor, context: Context) -> Tensor:
        """What the function makes of ``h``.

        Raises:
            ShapeMismatchError: it returned something else than a tensor of the same shape.
        """
        new: Any = self.function(h, context)
        if not isinstance(new, Tensor) or new.shape != h.shape:
            got = f"shape {tuple(new.shape)}" if isinstance(new, Tensor) else repr(type(new).__name__)
            raise ShapeMismatchError(
                f"the edit {self.name} at {context.site!r} returned {got} for values of shape {tuple(h.shape)} "
                f"({', '.join(context.axes)}); return the changed values, of the same shape"
            )
        return new

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind, "function": None}

    def __repr__(self) -> str:
        return f"Free({self.name})"
