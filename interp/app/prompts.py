"""The two prompts of an example, cut into tokens, with those marked that differ and that a cell changes.

>>> [(t.text, t.differs) for t in words("Ann met Bob", "Ann met Cy")[1]]
[('Ann', False), (' met', False), (' Cy', True)]
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher

import xarray as xr

from interp import axes as names
from interp import effects as fx
from interp.app.choices import is_sweep

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


def prompts(ds: xr.Dataset, example: int, cell: Mapping[str, int] | None = None) -> list[Shown]:
    """Both prompts of a sweep's example, the one that is changed last; the only one of another result."""
    if not is_sweep(ds):
        return _alone(ds, example, cell)
    one = ds.isel({names.EXAMPLE: example})
    base = "corrupted" if ds.attrs["patching"] == fx.DENOISING else "clean"
    both = _tokens(one, cell) if "clean_token" in one.coords else _texts(one)
    if both is None:
        return []
    if not fx.paired(ds):
        return [Shown("the prompt", both["clean"])]
    source = "clean" if base == "corrupted" else "corrupted"
    return [Shown(f"{source}: values come from here", both[source]), Shown(f"{base}: changed here", both[base])]


def where(ds: xr.Dataset, cell: Mapping[str, int]) -> str:
    """At which tokens a cell changes the run, in words."""
    if names.POSITION in cell and names.POSITION in ds.coords:
        position = ds[names.POSITION].values.tolist()[cell[names.POSITION]]
        if isinstance(position, str):
            return f"at the role {position}"
        return f"at position {position}"
    return "at every position" if ds.attrs.get("positions") == "all" else ""


def words(clean: str, corrupted: str) -> tuple[list[Token], list[Token]]:
    """Two texts by words, those marked that are not in the other."""
    first, second = _WORD.findall(clean), _WORD.findall(corrupted)
    blocks = SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks()
    shared = (
        {i for block in blocks for i in range(block.a, block.a + block.size)},
        {i for block in blocks for i in range(block.b, block.b + block.size)},
    )
    left, right = (
        [Token(word, differs=i not in same) for i, word in enumerate(found)]
        for found, same in zip((first, second), shared, strict=True)
    )
    return left, right


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


def _texts(one: xr.Dataset) -> dict[str, list[Token]] | None:
    if "clean_prompt" not in one.coords:
        return None
    clean = str(one["clean_prompt"].item())
    other = str(one["corrupted_prompt"].item()) if "corrupted_prompt" in one.coords else clean
    return dict(zip(("clean", "corrupted"), words(clean, other), strict=True))


def _alone(ds: xr.Dataset, example: int, cell: Mapping[str, int] | None) -> list[Shown]:
    one = ds.isel({names.EXAMPLE: example}) if names.EXAMPLE in ds.dims else ds
    for coordinate in ("input_token", "token"):
        if coordinate in one.coords and one[coordinate].dims == (names.POSITION,):
            at = cell.get(names.POSITION) if cell else None
            positions = one[names.POSITION].values.tolist()
            found = [
                Token(str(word), marked=i == at, position=str(position))
                for i, (word, position) in enumerate(zip(one[coordinate].values.tolist(), positions, strict=True))
            ]
            return [Shown("the prompt", found)]
    if "prompt" in one.coords and not one["prompt"].ndim:
        return [Shown("the prompt", [Token(word) for word in _WORD.findall(str(one["prompt"].item()))])]
    return []
