"""At which tokens of a prompt.

>>> Positions.parse("subject[-1]"), Positions.parse([0, 3]), Positions.parse("last"), Positions.parse(...)
(subject[-1], 0,3, -1, all)
>>> Positions.parse("all but 0")
all but 0
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from operator import index
from types import EllipsisType
from typing import Any, SupportsIndex

from interp.errors import PositionError

_INDICES = re.compile(r"-?\d+(,-?\d+)*\Z")
_BUT = "all but "
_NO_POSITION = "position={!r}: give an index, a role such as 'subject', a list of these, or ... for all of them"


@dataclass(frozen=True, slots=True, repr=False)
class Positions:
    """At which tokens: all of them, raw indices, a role of the task, or all but some.

    Indices count from the first real token (BOS included where there is one), negative ones from the end; padding never
    shows. A role is a span that the task names (``"subject"``); ``pick`` takes one of its tokens, so
    ``Positions(role="subject", pick=-1)``, written ``subject[-1]``, is its last token. ``but`` means every other position than
    those that it names, and is written ``all but 0``, ``all but subject``.
    """

    indices: tuple[int, ...] | None = None
    role: str | None = None
    pick: int | None = None
    but: Positions | None = None

    def __post_init__(self) -> None:
        if self.but is not None and (self.indices is not None or self.role is not None or self.but.is_everywhere):
            raise PositionError(
                f"but={self.but!r} names the tokens that are left out of all, indices or a role, with nothing beside it"
            )
        if self.indices is not None and self.role is not None:
            raise PositionError(f"positions are either indices or a role, not both: indices={self.indices}, role={self.role!r}")
        if self.pick is not None and self.role is None:
            raise PositionError(f"pick={self.pick} needs a role to pick from")
        if self.indices is not None and len(self.indices) == 0:
            raise PositionError("positions are an empty tuple; leave them out to mean all of them")
        if self.indices is not None and len(set(self.indices)) < len(self.indices):
            raise PositionError(f"positions {self.indices} name one token twice")

    @property
    def is_all(self) -> bool:
        return self.indices is None and self.role is None and self.but is None

    @property
    def is_everywhere(self) -> bool:
        """Whether they are as many as a prompt has: all of them, or all but some."""
        return self.indices is None and self.role is None

    @property
    def is_one(self) -> bool:
        """Whether they are one token of every prompt, as far as they say; a role may span several."""
        return self.pick is not None or (self.indices is not None and len(self.indices) == 1)

    @classmethod
    def parse(cls, positions: PositionsLike) -> Positions:
        """From ``...`` or ``"all"``, ``"last"``, indices, a role, ``"subject[-1]"``, or all but such: ``"all but 0"``."""
        if isinstance(positions, Positions):
            return positions
        if positions is ... or positions is None:
            return cls()
        if isinstance(positions, str):
            if positions in ("all", "last"):
                return cls() if positions == "all" else cls(indices=(-1,))
            if positions.startswith(_BUT):
                return cls(but=cls.parse(positions.removeprefix(_BUT)))
            if _INDICES.match(positions):
                return cls(indices=tuple(map(int, positions.split(","))))
            found = re.fullmatch(r"(?P<role>[^\[\]@]+)(?:\[(?P<pick>-?\d+)\])?", positions)
            if not found:
                raise PositionError(
                    f"positions {positions!r} are neither 'all', 'last', a role nor a picked role like 'subject[-1]'"
                )
            return cls(role=found["role"], pick=int(found["pick"]) if found["pick"] is not None else None)
        if isinstance(positions, Integral):
            return cls(indices=(int(positions),))
        try:
            return cls(indices=whole_numbers(positions))
        except TypeError:
            raise PositionError(_NO_POSITION.format(positions)) from None

    def __repr__(self) -> str:
        if self.is_all:
            return "all"
        if self.but is not None:
            return f"{_BUT}{self.but!r}"
        if self.role is not None:
            return self.role if self.pick is None else f"{self.role}[{self.pick}]"
        assert self.indices is not None
        return ",".join(map(str, self.indices))


Numbers = Iterable[SupportsIndex]
"""Several indices: a list, a range, an array."""

PositionsLike = Positions | str | SupportsIndex | Numbers | EllipsisType | None

ALL = Positions()
LAST = Positions(indices=(-1,))


def raw_index(one: Any, positions: Any) -> int:
    """``one`` of the positions as a raw index."""
    try:
        return index(one)
    except TypeError:
        raise PositionError(_NO_POSITION.format(positions)) from None


def whole_numbers(given: Any) -> tuple[int, ...]:
    """Several whole numbers; one that stands in a 0-dimensional array or tensor counts as several of one."""
    return tuple(index(v) for v in (given if isinstance(given, Iterable) and getattr(given, "ndim", None) != 0 else (given,)))


def parsed(position: Any) -> list[Positions]:
    """Positions from ``-1``, ``"last"``, a role, several indices, or a list of such; None for all of them.

    Raises:
        PositionError: it names no positions.
    """
    many = isinstance(position, Sequence) and not isinstance(position, str)
    if many and any(isinstance(one, str | Positions) for one in position):
        return [Positions.parse(one) for one in position]
    return [Positions.parse(position)]


def grouped(given: Any, argument: str) -> dict[int | str, list[Positions]]:
    """Groups of tokens by name: each of a list by itself, or those of a mapping, of which one may be several together.

    >>> grouped("END", "queries"), grouped([0, 1], "attended"), grouped(["S1", -1], "attended")
    ({'END': [END]}, {0: [0], 1: [1]}, {'S1': [S1], '-1': [-1]})
    >>> grouped({"names": ["IO", "S1"], "none": []}, "groups")
    {'names': [IO, S1], 'none': []}

    Args:
        argument: what the caller's user calls them.

    Raises:
        PositionError: what names no positions, a group that is named twice, or none at all.
    """
    found: dict[int | str, list[Positions]]
    if isinstance(given, Mapping):
        found = {str(name): [] if _is_empty(one) else parsed(one) for name, one in given.items()}
    else:
        alone = isinstance(given, str | Positions | SupportsIndex) or given is ... or given is None
        if not alone and not isinstance(given, Iterable):
            raise PositionError(f"{argument}={given!r} names no tokens; give a role, an index, a list of these, or a mapping")
        every = [Positions.parse(one) for one in ([given] if alone else given)]
        numbers = all(one.indices is not None and len(one.indices) == 1 for one in every)
        names = [one.indices[0] if numbers and one.indices else repr(one) for one in every]
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise PositionError(f"{argument}={given!r} names {twice[0]!r} twice")
        found = {name: [one] for name, one in zip(names, every, strict=True)}
    if not found:
        raise PositionError(f"{argument}={given!r} names no tokens; give a role, an index, a list of these, or a mapping")
    return found


def _is_empty(one: Any) -> bool:
    return isinstance(one, Sequence) and not isinstance(one, str) and not one
