"""Positions of a stream: which are real, which a role covers, and what an index of the user's means in each prompt.

    >>> places = Places.full(examples=2, count=17, roles={"patches": (1, 17)})
    >>> places.columns(Positions.parse("patches[0]")).tolist()
    [[1], [1]]

Padding never shows: an index counts from the first real position, a negative one from the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import PositionError, UnknownNameError
from interp.prompts import Span
from interp.sites import Positions

Scope = Literal["all", "prompt", "new"]
"""Where an edit of all positions acts when text is generated: everywhere, in the prompt, or from the prompt's end on."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Places:
    """Positions of one stream in several prompts."""

    mask: Bool[Tensor, "example position"]
    """True where a position is real."""
    roles: Mapping[str, Int[Tensor, "example span"]] = field(default_factory=dict)
    """Columns that a role covers, padded with −1."""
    partial: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Roles that only some of the prompts name, which are no roles of all, with the examples that do not."""
    strings: tuple[tuple[str, ...], ...] = ()
    """What is at the real positions of every prompt, as text, where it is known."""
    lattice: Mapping[str, int] = field(default_factory=dict)
    """Axes that the positions run along, with their sizes, the last fastest: rows and columns of an image."""
    ahead: int = 0
    """Positions still to come behind every prompt, the last columns of the mask; neither roles nor −1 mean them."""
    scope: Scope = "all"
    """Which of them all positions are, where some are to come."""
    forced: Int[Tensor, " example"] | None = None
    """How many tokens of an answer, known beforehand, stand behind every prompt, real in the mask; only all positions mean
    them: indices, −1, roles and strings are the prompt's. None where nothing does."""

    @classmethod
    def full(cls, examples: int, count: int, roles: Mapping[str, Span] | None = None, device: object = "cpu") -> Places:
        """As many real positions in every prompt, with roles that cover the same ones in all of them."""
        mask = torch.ones(examples, count, dtype=torch.bool, device=str(device))
        spans = {role: torch.arange(*span).expand(examples, -1).to(mask.device) for role, span in (roles or {}).items()}
        return cls(mask=mask, roles=spans)

    def __len__(self) -> int:
        return int(self.mask.shape[0])

    @property
    def width(self) -> int:
        """Number of columns, padding included."""
        return int(self.mask.shape[1])

    @property
    def lengths(self) -> Int[Tensor, " example"]:
        """Number of real positions."""
        return self.mask.sum(-1)

    @property
    def said(self) -> Int[Tensor, " example"]:
        """Number of positions of the prompts themselves, without what is to come or forced behind them."""
        return self.lengths - self.ahead - (0 if self.forced is None else self.forced)

    @property
    def alone(self) -> Places:
        """The same prompts without an answer's tokens behind them, at the same columns."""
        if self.forced is None:
            return self
        columns = torch.arange(self.width, device=self.mask.device)
        ends = self.first + self.said
        return Places(mask=self.mask & (columns < ends[:, None]), roles=self.roles, strings=self.strings, lattice=self.lattice)

    def growing(self, ahead: int, scope: Scope = "all") -> Places:
        """The same prompts with positions still to come behind them; every prompt must end in the last column.

        >>> Places.full(1, 3).growing(2).columns(Positions.parse((-1, 4))).tolist()
        [[2, 4]]
        """
        mask = torch.nn.functional.pad(self.mask, (0, ahead), value=True)
        return Places(
            mask=mask,
            roles=self.roles,
            partial=self.partial,
            strings=self.strings,
            lattice=self.lattice,
            ahead=ahead,
            scope=scope,
        )

    @property
    def prompt(self) -> Places:
        """The same without what is still to come."""
        return replace(self, mask=self.mask[:, : self.width - self.ahead], ahead=0, scope="all") if self.ahead else self

    def roles_at(self, positions: Iterable[int]) -> list[str]:
        """The role that every prompt has at each index, the first of several; "" where it is none.

        >>> Places.full(2, 4, {"subject": (1, 3)}).roles_at([0, 1, -1, -2])
        ['', 'subject', '', 'subject']
        """
        found = []
        for position in positions:
            column = self.first + position + (self.said if position < 0 else 0)
            covering = (role for role, columns in self.roles.items() if (columns == column[:, None]).any(1).all())
            found.append(next(covering, ""))
        return found

    @property
    def first(self) -> Int[Tensor, " example"]:
        """Column of the first real position."""
        return self.mask.int().argmax(-1)

    def take(self, examples: Tensor | Sequence[int] | slice) -> Self:
        """Some of the examples, repeats allowed. The strings are left behind: they do not enter a forward pass."""
        chosen = torch.as_tensor(examples) if not isinstance(examples, slice) else examples
        return replace(self, **self._each(lambda tensor: tensor[chosen]) | {"strings": (), "partial": {}})

    def to(self, device: torch.device | str) -> Self:
        return replace(self, **self._each(lambda tensor: tensor.to(device)))

    def _each(self, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Every field that holds tensors, each of them changed; all have the examples in front."""
        roles = {role: change(columns) for role, columns in self.roles.items()}
        return {"mask": change(self.mask), "roles": roles, "forced": None if self.forced is None else change(self.forced)}

    def coordinates(self) -> dict[str, list[int]]:
        """Along each axis of the lattice, where every position is."""
        if not self.lattice:
            return {}
        grids = torch.meshgrid(*(torch.arange(n) for n in self.lattice.values()), indexing="ij")
        return {name: grid.flatten().tolist() for name, grid in zip(self.lattice, grids, strict=True)}

    def at(self, **where: int | Sequence[int]) -> Positions:
        """The positions in some rows, columns, …: ``places.at(row=3)``, ``places.at(row=range(4), column=0)``.

        Raises:
            UnknownNameError: an axis that the positions do not run along.
            PositionError: nothing is there.
        """
        known = self.coordinates()
        for name in where:
            if name not in known:
                raise UnknownNameError("axis of positions", name, known)
        asked = {name: {chosen} if isinstance(chosen, int) else {*chosen} for name, chosen in where.items()}
        found = [i for i in range(self.width) if all(known[name][i] in chosen for name, chosen in asked.items())]
        if not found:
            raise PositionError(f"no position is at {where}; the axes are {dict(self.lattice)}")
        return Positions(indices=tuple(found))

    def columns(self, positions: Positions, *, what: str = "positions") -> Int[Tensor, "example span"]:
        """The columns that ``positions`` name in every example, padded with −1.

        Raises:
            PositionError: an index past the end of some prompt, or an unknown role, naming the prompt.
        """
        if positions.is_all:
            return self._all()
        if positions.but is not None:
            return _without(self._all(), self.columns(positions.but, what=what))
        if positions.role is not None:
            return self._role(positions)
        assert positions.indices is not None
        lengths, first = self.said, self.first
        for index in positions.indices:
            outside = ((lengths + self.ahead <= index) | (lengths < -index)).nonzero().flatten()
            if len(outside):
                raise PositionError(self._outside(what, index, int(outside[0])))
        found = [first + index if index >= 0 else first + lengths + index for index in positions.indices]
        columns = torch.stack(found, dim=-1)
        ordered = columns.sort(dim=-1).values
        repeated = (ordered[:, 1:] == ordered[:, :-1]).any(-1).nonzero().flatten()
        if len(repeated):
            raise PositionError(f"{what} {positions!r} names one token twice in example {int(repeated[0])}")
        return columns

    def _all(self) -> Int[Tensor, "example span"]:
        """Every position that is meant by all of them."""
        said = self.said
        begins = self.first + said if self.scope == "new" else self.first
        counts = {"all": self.lengths, "prompt": said, "new": torch.full_like(said, self.ahead)}[self.scope]
        width = {"all": self.width, "prompt": self.width - self.ahead, "new": self.ahead}[self.scope]
        offsets = torch.arange(width, device=self.mask.device).expand(len(self), -1)
        return torch.where(offsets < counts[:, None], begins[:, None] + offsets, -1)

    def _outside(self, what: str, index: int, example: int) -> str:
        """What is said of an index past the end."""
        n = int(self.said[example])
        shown = f": {' '.join(repr(s) for s in self.strings[example])}" if self.strings else ""
        if self.ahead:
            return (
                f"{what} {index} can never be reached in example {example}: its prompt has {n} tokens, and the last new token "
                f"that the model is fed is at {n + self.ahead - 1} (0 to {n + self.ahead - 1}, or −{n} to −1)" + shown
            )
        more = 0 if self.forced is None else int(self.forced[example])
        told = f"; the {more} tokens of its answer behind them have no index" if more else ""
        return (
            f"{what} {index} is past the end of example {example}, which has {n} tokens (0 to {n - 1}, or −{n} to −1)"
            + told
            + shown
        )

    def _unnamed(self, role: str) -> str:
        """Why there is no such role; empty where only a misspelling would be a reason."""
        if role in self.partial:
            without = self.partial[role]
            few = ", ".join(map(str, without[:5])) + (", …" if len(without) > 5 else "")
            count = f"{len(without)} of {len(self)} prompts do not name it (examples {few})"
            return f"{count}; give it to every prompt, or leave these out"
        return "" if self.roles else "these prompts name none; count from the end, as in -1, or write Prompt(…, roles={…})"

    def _role(self, positions: Positions) -> Int[Tensor, "example span"]:
        assert positions.role is not None
        if positions.role not in self.roles:
            raise UnknownNameError("role", positions.role, self.roles, why=self._unnamed(positions.role))
        columns = self.roles[positions.role]
        if positions.pick is None:
            return columns
        sizes = (columns >= 0).sum(-1)
        short = ((sizes <= positions.pick) | (sizes < -positions.pick)).nonzero().flatten()
        if len(short):
            raise PositionError(
                f"{positions!r}: role {positions.role!r} of example {int(short[0])} spans {int(sizes[short[0]])} tokens"
            )
        where = torch.full_like(sizes, positions.pick) if positions.pick >= 0 else sizes + positions.pick
        return columns.gather(-1, where[:, None])

    def padded(self, width: int, *, left: bool = True, pad: int = 0) -> Self:
        """The same positions with more padding.

        Args:
            pad: the token id that stands there.
        """
        return replace(self, **self._padded(width - self.width, left, pad))

    def _padded(self, more: int, left: bool, pad: int) -> dict[str, Any]:
        moved = more if left else 0
        mask = torch.nn.functional.pad(self.mask, (more, 0) if left else (0, more), value=False)
        return {"mask": mask, "roles": {r: torch.where(at >= 0, at + moved, at) for r, at in self.roles.items()}}


def _without(every: Int[Tensor, "example position"], left: Int[Tensor, "example span"]) -> Int[Tensor, "example rest"]:
    """Those columns of each row that are not among others; −1 behind them."""
    kept = (every >= 0) & (every[:, :, None] != left[:, None, :]).all(-1)
    order = torch.argsort(kept.int(), dim=-1, descending=True, stable=True)[:, : max(1, int(kept.sum(-1).max()))]
    return torch.where(kept, every, -1).gather(-1, order)


def padded(rows: Sequence[Sequence[int]], least: int = 1) -> Int[Tensor, "example span"]:
    """Rows of unequal length, padded with −1; so many columns at least."""
    found = torch.full((len(rows), max(least, *map(len, rows))), -1, dtype=torch.long)
    for i, row in enumerate(rows):
        found[i, : len(row)] = torch.tensor(row, dtype=torch.long)
    return found
