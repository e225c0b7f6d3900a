r"""The tokens of both prompts of a pair side by side, with their positions and roles.

>>> print("\\n".join(aligned(model.encode(pairs))))                                          # doctest: +SKIP
  pair 0
   pos  clean    roles  pos  counterfactual  roles
     0  'Paris'  city     0  'Rome'          city   ←
     1  ' is'             1  ' is'
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import groupby, zip_longest

from interp.models import Encoded, Tokens

_LONG = 9
"""So many tokens in a row that are the same in both prompts, and have no role, are not all printed."""


def aligned(encoded: Encoded, example: int = 0) -> list[str]:
    """The tokens of both prompts of a pair side by side, with their positions and roles."""
    sides = [_tokens(encoded.clean, example), _tokens(encoded.corrupted, example)]
    rows = _matched(*([token for token, _ in side] for side in sides), *([roles for _, roles in side] for side in sides))
    cells = [[_cell(side, at) for side, at in zip(sides, row, strict=True)] for row in rows]
    heads = (("clean", "roles"), ("counterfactual", "roles"))
    widths = [[max(len(heads[s][k]), *(len(row[s][1 + k]) for row in cells)) for k in (0, 1)] for s in (0, 1)]

    def line(left: tuple[str, str, str], right: tuple[str, str, str], mark: str) -> str:
        shown = [f"{p:>4}  {t:{w[0]}}  {r:{w[1]}}" for (p, t, r), w in zip((left, right), widths, strict=True)]
        return f"  {'  '.join(shown)}  {mark}".rstrip()

    lines = [line(left, right, "" if left[1] == right[1] else "←") for left, right in cells]
    dull = [left[1:] == right[1:] and not left[2] for left, right in cells]
    return [f"  pair {example}", line(("pos", *heads[0]), ("pos", *heads[1]), ""), *_without(lines, dull)]


def _matched(
    one: Sequence[str], other: Sequence[str], roles: Sequence[str] = (), theirs: Sequence[str] = ()
) -> list[tuple[int | None, int | None]]:
    """Which tokens stand side by side: equal ones, and of the others, where there are more on one side, those of one role."""
    found: list[tuple[int | None, int | None]] = []
    for kind, a, b, c, d in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if kind == "replace" and b - a != d - c and (roles or theirs):
            inner = _matched(roles[a:b], theirs[c:d])
            found += [(None if i is None else a + i, None if k is None else c + k) for i, k in inner]
        else:
            found += zip_longest(range(a, b), range(c, d))
    return found


def _without(lines: Sequence[str], dull: Sequence[bool]) -> list[str]:
    """Lines without the middle of a long stretch that shows nothing: a system prompt."""
    found: list[str] = []
    for is_dull, stretch in groupby(zip(dull, lines, strict=True), key=lambda both: both[0]):
        own = [line for _, line in stretch]
        found += (
            own if not is_dull or len(own) < _LONG else [*own[:2], f"   ⋮  {len(own) - 4} more, the same in both", *own[-2:]]
        )
    return found


def _cell(side: Sequence[tuple[str, str]], at: int | None) -> tuple[str, str, str]:
    return ("", "–", "") if at is None else (str(at), *side[at])


def _tokens(tokens: Tokens, example: int) -> list[tuple[str, str]]:
    """Every token of a prompt with the names of its roles."""
    first, n = int(tokens.first[example]), counts(tokens)[example]
    strings = tokens.strings[example] if tokens.strings else tuple("·" * n)
    roles: list[list[str]] = [[] for _ in range(n)]
    for role, columns in tokens.roles.items():
        for column in columns[example].tolist():
            if column >= 0:
                roles[column - first].append(role)
    return [(repr(string), ", ".join(names)) for string, names in zip(strings, roles, strict=True)]


def counts(tokens: Tokens) -> list[int]:
    """How many tokens every prompt has."""
    return [len(strings) for strings in tokens.strings] if tokens.strings else tokens.lengths.tolist()
