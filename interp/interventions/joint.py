"""Coordinates of several tokens or heads taken together: one vector of all of them, for a featurizer or an edit of that width.

    >>> pair = Joint("(b t) d -> b (t d)", tokens=2, inner=Rotation(2 * 768, 16))
    >>> Change("L6.resid_post", (3, 5), featurizer=pair)
    L6.resid_post@3,5 ← Activation(source) in Joint('(b t) d -> b (t d)', tokens=2, inner=Rotation(1536 → 16))

The engine hands an edit one row a token, ``[(row token), *features]``. A joint featurizer rearranges these rows before its
inner featurizer encodes them, and back after it has decoded. Since one token's new value then depends on another's old one,
also on a later one's, the engine never resumes a row between them (:attr:`interp.interventions.Change.joint`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import HeadOutOfRangeError, ShapeMismatchError
from interp.interventions.digest import digest, told
from interp.interventions.featurizer import Featurizer


class Joint(nn.Module):
    """A featurizer of rearranged values.

    Args:
        pattern: einops', from what the engine gives, ``(b t) d`` or ``(b t) h d`` with ``t`` tokens and ``h`` heads, to what
            the inner featurizer takes. Every axis of the one side is on the other.
        tokens: how many are taken together, the positions of a change; 1 where each is taken alone.
        heads: which heads are taken together, in this order; None where the values have no such axis.
        of: how many heads there are.
        inner: in whose coordinates; None leaves them as they are.
    """

    def __init__(
        self,
        pattern: str,
        *,
        tokens: int = 1,
        heads: Sequence[int] | None = None,
        of: int | None = None,
        inner: Featurizer | None = None,
    ) -> None:
        super().__init__()
        if tokens < 1:
            raise ValueError(f"tokens={tokens}; expected at least 1")
        if heads is not None and not (of and len(set(heads)) == len(heads) and all(0 <= head < of for head in heads)):
            raise HeadOutOfRangeError(f"heads={tuple(heads)} of={of}; expected different heads, 0 to {(of or 1) - 1}")
        self.pattern, self.tokens = pattern, tokens
        self.heads, self.of = None if heads is None else tuple(heads), of
        self.inner = inner
        there, _, back = (side.strip() for side in pattern.partition("->"))
        self._back = f"{back} -> {there}"

    def encode(self, h: Float[Tensor, "row ..."]) -> Tensor:
        if len(h) % self.tokens:
            raise ShapeMismatchError(f"{self!r} takes {self.tokens} tokens together, but was given {len(h)} rows")
        taken = h if self.heads is None else h[:, list(self.heads)]
        try:
            arranged = rearrange(taken, self.pattern, **self._sizes)
        except Exception as error:  # einops has one class for everything
            raise ShapeMismatchError(f"{self!r} does not fit values of shape {tuple(h.shape)}") from error
        return arranged if self.inner is None else self.inner.encode(arranged)

    def decode(self, f: Tensor) -> Tensor:
        """Heads that are not taken decode to zero, so they keep their value as any error does."""
        decoded = f if self.inner is None else self.inner.decode(f)
        taken = rearrange(decoded, self._back, **self._sizes)
        if self.heads is None:
            return taken
        spread = taken.new_zeros(len(taken), self.of or 0, *taken.shape[2:])
        return spread.index_copy(1, torch.tensor(self.heads, device=taken.device), taken)

    @property
    def _sizes(self) -> dict[str, int]:
        names = set(self.pattern.replace("(", " ").replace(")", " ").split())
        sizes = {"t": self.tokens} | ({} if self.heads is None else {"h": len(self.heads)})
        return {name: size for name, size in sizes.items() if name in names}

    def spec(self) -> dict[str, Any]:
        inner = None if self.inner is None else {k: v for k, v in told(self.inner).items() if k != "sha256"}
        own = {"kind": "joint", **self.options(), "inner": inner}
        return own | ({"sha256": digest(self.state_dict())} if self.state_dict() else {})

    def options(self) -> dict[str, Any]:
        """Arguments that make another one like this."""
        heads = None if self.heads is None else list(self.heads)
        return {"pattern": self.pattern, "tokens": self.tokens, "heads": heads, "of": self.of, "inner": self.inner}

    def __repr__(self) -> str:
        heads = "" if self.heads is None else f", heads={self.heads}"
        return f"Joint({self.pattern!r}, tokens={self.tokens}{heads}{'' if self.inner is None else f', inner={self.inner!r}'})"
