"""The two prompts of an example, cut into tokens, with those marked that differ and that a cell changes.

>>> [(t.text, t.differs) for t in words("Ann met Bob", "Ann met Cy")[1]]
[('Ann', False), (' met', False), (' Cy', True)]
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import xarray as xr

from interp import axes as names
from interp import effects as fx
from interp.app.data import numbers

Span = tuple[int, int]
_WORD = re.compile(r"\s*\S+|\s+\Z")


@dataclass(frozen=True, slots=True)
class Token:
    """A token, or a word where the result names no tokens."""

    text: str
    differs: bool = False
    """From the other prompt."""
    marked: bool = False
    """The cell changes it, or takes it from here."""
    position: str = ""


@dataclass(frozen=True, slots=True)
class Shown:
    """One prompt of an example."""

    title: str
    tokens: list[Token]


def prompts(ds: xr.Dataset, example: int, cell: Mapping[str, int] | None = None, recipe: Any = None) -> list[Shown]:
    """Both prompts of a sweep's example, the one that is changed last; the only one of another result.

    Args:
        ds: the result.
        example: where it stands in the result.
        cell: the place of what is marked.
        recipe: of the run, which says where roles are.
    """
    if not fx.is_effects(ds):
        return _alone(ds, example, cell)
    one = ds.isel({names.EXAMPLE: example})
    base = "corrupted" if ds.attrs["patching"] == fx.DENOISING else "clean"
    if "clean_token" in one.coords:
        both: dict[str, list[Token]] | None = _tokens(one, cell)
    else:
        pair = _inside(recipe, "pairs", "Pairs", "items", "tuple", numbers(ds)[example], "Pair")
        both = _texts(one, pair, _role(ds, cell))
    if both is None:
        return []
    if not fx.paired(ds):
        return [Shown("the prompt", both["clean"])]
    source = "clean" if base == "corrupted" else "corrupted"
    return [Shown(f"{source}: values come from here", both[source]), Shown(f"{base}: changed here", both[base])]


def answers(ds: xr.Dataset, example: int) -> str:
    """What an example is answered with: ``answer ' Mary' · wrong ' John'``; "" where the result does not say."""
    one = ds.isel({names.EXAMPLE: example}) if names.EXAMPLE in ds.dims else ds
    told = {name: str(one[name].item()) for name in ("answer", "wrong") if name in one.coords and not one[name].ndim}
    return " · ".join(f"{name} {text!r}" for name, text in told.items() if text)


def where(ds: xr.Dataset, cell: Mapping[str, int]) -> str:
    """At which tokens a cell changes the run, in words."""
    if names.POSITION in cell and names.POSITION in ds.coords:
        role = _role(ds, cell)
        return f"at the role {role}" if role is not None else f"at position {ds[names.POSITION].values[cell[names.POSITION]]}"
    return "at every position" if ds.attrs.get("positions") == "all" else ""


def words(clean: str, corrupted: str, spans: tuple[Span | None, Span | None] = (None, None)) -> tuple[list[Token], list[Token]]:
    """Two texts by words, those marked as differing that are not in the other, and those that a span of characters touches."""
    first, second = _WORD.findall(clean), _WORD.findall(corrupted)
    blocks = SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks()
    same = {i for block in blocks for i in range(block.a, block.a + block.size)}
    also = {i for block in blocks for i in range(block.b, block.b + block.size)}
    return _cut(first, same, spans[0]), _cut(second, also, spans[1])


def _cut(found: list[str], same: set[int], span: Span | None) -> list[Token]:
    tokens, end = [], 0
    for i, word in enumerate(found):
        start, end = end + len(word) - len(word.lstrip()), end + len(word)
        tokens.append(Token(word, i not in same, span is not None and start < span[1] and span[0] < end))
    return tokens


def _role(ds: xr.Dataset, cell: Mapping[str, int] | None) -> str | None:
    """The role at which a cell is."""
    if not cell or names.POSITION not in cell or names.POSITION not in ds.coords:
        return None
    position = ds[names.POSITION].values.tolist()[cell[names.POSITION]]
    return position if isinstance(position, str) else None


def _inside(data: Any, *path: str | int) -> Any:
    """What JSON holds at a path; None where it has no such place."""
    for key in path:
        if isinstance(key, int):
            data = data[key] if isinstance(data, list) and key < len(data) else None
        else:
            data = data.get(key) if isinstance(data, dict) else None
    return data


def _tokens(one: xr.Dataset, cell: Mapping[str, int] | None) -> dict[str, list[Token]]:
    clean = [str(token) for token in one["clean_token"].values]
    other = [str(token) for token in one["corrupted_token"].values] if "corrupted_token" in one.coords else clean
    positions = [str(position) for position in one[names.POSITION].values.tolist()]
    at = cell.get(names.POSITION) if cell else None
    return {
        side: [
            Token(word, clean[i] != other[i], i == at, position)
            for i, (word, position) in enumerate(zip(found, positions, strict=True))
        ]
        for side, found in (("clean", clean), ("corrupted", other))
    }


def _texts(one: xr.Dataset, pair: Any, role: str | None) -> dict[str, list[Token]] | None:
    """The texts by words, with those marked at which the recipe's pair has the role."""
    if "clean_prompt" not in one.coords:
        return None
    sides = ("clean", "corrupted") if "corrupted_prompt" in one.coords else ("clean", "clean")
    texts = [str(one[f"{side}_prompt"].item()) for side in sides]
    spans = [_span(_inside(pair, side, "Prompt"), text, role) for side, text in zip(sides, texts, strict=True)]
    return dict(zip(("clean", "corrupted"), words(texts[0], texts[1], (spans[0], spans[1])), strict=True))


def _span(prompt: Any, text: str, role: str | None) -> Span | None:
    """The characters of a role in the prompt of a recipe, if that is the prompt of the result."""
    span = _inside(prompt, "roles", "dict", str(role), "tuple")
    if role is None or _inside(prompt, "text") != text or not isinstance(span, list) or len(span) != 2:
        return None
    return int(span[0]), int(span[1])


def _alone(ds: xr.Dataset, example: int, cell: Mapping[str, int] | None) -> list[Shown]:
    one = ds.isel({names.EXAMPLE: example}) if names.EXAMPLE in ds.dims else ds
    at = {i for axis, i in (cell or {}).items() if axis.endswith(names.POSITION)}
    for coordinate in ("input_token", "token", "source_token"):
        if coordinate in one.coords and one[coordinate].dims in ((names.POSITION,), (names.SOURCE_POSITION,)):
            positions = one[one[coordinate].dims[0]].values.tolist()
            found = [
                Token(str(word), marked=i in at, position=str(position))
                for i, (word, position) in enumerate(zip(one[coordinate].values.tolist(), positions, strict=True))
            ]
            return [Shown("the prompt", found)]
    if "prompt" in one.coords and not one["prompt"].ndim:
        return [Shown("the prompt", [Token(word) for word in _WORD.findall(str(one["prompt"].item()))])]
    return []
