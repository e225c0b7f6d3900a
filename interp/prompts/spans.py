"""Where a role is: a span of characters or positions, or the text that it covers.

>>> spanned("city", "Paris", "Paris is in France", [(0, 18)])
(0, 5)
>>> spanned("e", ("a", -1), "Paris is in France", [(0, 18)])                 # its last occurrence
(14, 15)
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from interp.errors import PositionError, nearest

Span = tuple[int, int]
"""Start and stop (exclusive) of a role: in characters of a text, else in positions."""
Said = Span | tuple[str, int] | str | Sequence[int | str]
"""A span; a text that occurs once; or a text and which of its occurrences, from 0, negative from the last."""
_SHOWN = 12
"""Characters on either side of an occurrence."""


def spanned(role: str, said: Said, text: str | tuple[int, ...], within: Sequence[Span]) -> Span:
    """A role as a span.

    Args:
        within: stretches of the text in which a text is looked for: all of it, or what was said in a chat.

    Raises:
        PositionError: the text is not there, or there several times; or what was said is no span.
    """
    if isinstance(said, str):
        return _only(role, said, text, within)
    parts: list[Any] = list(said) if isinstance(said, Sequence) else []
    if len(parts) == 2 and isinstance(parts[1], Integral):
        if isinstance(parts[0], str):
            return _chosen(role, parts[0], int(parts[1]), text, within)
        if isinstance(parts[0], Integral):
            return int(parts[0]), int(parts[1])
    raise PositionError(
        f"role {role!r} is {said!r}; expected the text that it covers, ('text', 1) for the second time that it occurs, or a "
        "span (start, stop)"
    )


def _only(role: str, said: str, text: str | tuple[int, ...], within: Sequence[Span]) -> Span:
    found = _occurrences(role, said, text, within)
    if len(found) > 1:
        assert isinstance(text, str)
        where = "; ".join(f"{i}: {_shown(text, span)}" for i, span in enumerate(found[:6]))
        more = f"; and {len(found) - 6} more" if len(found) > 6 else ""
        raise PositionError(
            f"role {role!r}: {said!r} occurs {len(found)} times in {_short(text)!r} – {where}{more}. Choose one by its number, "
            f"({said!r}, {len(found) - 1}) for the last, or give more of the text"
        )
    return found[0]


def _chosen(role: str, said: str, number: int, text: str | tuple[int, ...], within: Sequence[Span]) -> Span:
    found = _occurrences(role, said, text, within)
    if not -len(found) <= number < len(found):
        times = "once" if len(found) == 1 else f"{len(found)} times"
        raise PositionError(
            f"role {role!r}: ({said!r}, {number}) is beyond the last: {said!r} occurs {times} in {_short(str(text))!r}, "
            f"numbers 0 to {len(found) - 1}"
        )
    return found[number]


def _occurrences(role: str, said: str, text: Any, within: Sequence[Span]) -> list[Span]:
    if not isinstance(text, str):
        raise PositionError(f"role {role!r} is {said!r}, but the prompt is token ids, whose roles are spans of positions")
    if ":" in role:
        raise PositionError(f"role {role!r} is {said!r}, but roles of another stream are spans of its positions")
    if not said:
        raise PositionError(f"role {role!r} is an empty text; expected the text that it covers")
    found = [
        (i, i + len(said)) for start, stop in within for i in range(start, stop - len(said) + 1) if text.startswith(said, i)
    ]
    if not found:
        words = [word.strip(".,:;!?'\"()") for start, stop in within for word in text[start:stop].split()]
        near = nearest(said.strip(), dict.fromkeys(words), 1)
        did = f"; did you mean {near[0]!r}?" if near and near[0] != said else ""
        where = " in what was said" if within != [(0, len(text))] else ""
        raise PositionError(f"role {role!r}: {said!r} does not occur{where} in {_short(text)!r}{did}")
    return found


def _shown(text: str, span: Span) -> str:
    """An occurrence in its surroundings."""
    start, stop = span
    before, after = max(0, start - _SHOWN), min(len(text), stop + _SHOWN)
    left, right = "…" if before else "", "…" if after < len(text) else ""
    return f"{left}{text[before:start]}[{text[start:stop]}]{text[stop:after]}{right}".replace("\n", "⏎")


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:100] + " … " + text[-90:]
