"""At which positions of some prompts something is kept: all, an index, several, a role, or a list of these.

>>> places = Places.full(examples=2, count=17, roles={"patches": (1, 4)})
>>> chosen = Chosen.of(places, ["patches[0]", "last"])
>>> chosen.at.tolist(), chosen.names
([[1, 16], [1, 16]], ('patches[0]', '-1'))
>>> Chosen.of(places, "patches").names, Chosen.of(places, -1).names
(('patches[0]', 'patches[1]', 'patches[2]'), (-1,))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import PositionError
from interp.models import Places
from interp.sites import Positions
from interp.sites.positions import parsed


@dataclass(frozen=True, eq=False)
class Chosen:
    """Positions of every prompt, counted from its first real token."""

    at: Int[Tensor, "example position"]
    """−1 where a prompt has none there."""
    columns: Int[Tensor, "example position"]
    """The same as columns of the padded prompts."""
    names: tuple[int | str, ...]
    """What each is called on an axis: its number, the index that was given, or its role."""
    strings: tuple[tuple[str, ...], ...]
    """The tokens there, by example, "" where there is none; none at all where they are not known."""
    whole: bool
    """Whether they are all positions."""

    @classmethod
    def of(cls, places: Places, position: Any) -> Chosen:
        """Those of some prompts.

        Raises:
            PositionError: nothing that names positions, a list that names one twice, or an index past the end of a prompt.
            UnknownNameError: a role that the prompts do not have.
        """
        several = parsed(position)
        found = [(one, places.columns(one, what="position").cpu()) for one in several]
        columns = torch.cat([at for _, at in found], dim=-1)
        columns = columns[:, : int(((columns >= 0).any(0).nonzero().max() + 1) if (columns >= 0).any() else 0)]
        if not columns.shape[1]:
            raise PositionError(f"position={said(position)} names no position")
        names: list[int | str] = [name for one, at in found for name in _names(one, at.shape[1])][: columns.shape[1]]
        if any(isinstance(name, str) for name in names):
            names = list(map(str, names))
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise PositionError(f"position={said(position)} names {twice[0]!r} twice")
        at = torch.where(columns >= 0, columns - places.first.cpu()[:, None], -1)
        words = tuple(
            tuple(row[p] if p >= 0 else "" for p in where) for row, where in zip(places.strings, at.tolist(), strict=False)
        )
        return cls(at, columns, tuple(names), words, whole=len(several) == 1 and several[0].is_all)

    @property
    def ragged(self) -> bool:
        """Whether some prompt has none at some of them."""
        return bool((self.at < 0).any())

    def tokens(self) -> np.ndarray[Any, Any] | None:
        """The tokens there, ``[example, position]``; None where they are not known."""
        if not self.strings:
            return None
        return np.array(self.strings, object).reshape(len(self.strings), len(self.names))

    def roles(self, places: Places) -> list[str]:
        """The role that every prompt has at each of them, where they are called by their numbers; else none at all."""
        indices = [name for name in self.names if isinstance(name, int)]
        return places.roles_at(indices) if len(indices) == len(self.names) else []


def said(position: Any) -> str:
    """Positions in words: ``-1``, ``subject``, ``IO,S1``."""
    return ",".join(map(repr, parsed(position)))


def _names(positions: Positions, count: int) -> list[int | str]:
    """What each of so many positions is called."""
    if positions.is_all:
        return list(range(count))
    if positions.indices is not None:
        return list(positions.indices)
    return [f"{positions!r}[{i}]" for i in range(count)] if count > 1 else [repr(positions)]
