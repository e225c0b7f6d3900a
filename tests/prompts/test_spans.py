"""Roles by the text that they cover. Expected spans are counted by hand."""

from __future__ import annotations

import re
from typing import Any

import pytest
import sweeps
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import PositionError
from interp.prompts import Prompt
from interp.prompts.spans import spanned

TEXT = "Paris is in France, and Paris is large"


@pytest.mark.parametrize(
    ("said", "span"),
    [
        ("France", (12, 18)),
        (("Paris", 0), (0, 5)),
        (("Paris", 1), (24, 29)),
        (("Paris", -1), (24, 29)),
        (["Paris", 1], (24, 29)),  # as JSON has it
        ((3, 8), (3, 8)),
        (TEXT, (0, 38)),
        ("is in", (6, 11)),
    ],
)
def test_a_role_is_said_in_several_ways_and_kept_in_one(said: Any, span: tuple[int, int]) -> None:
    prompt = Prompt(TEXT, {"it": said, "whole": (0, 38)})  # roles may overlap
    assert prompt == Prompt(TEXT, {"it": span, "whole": (0, 38)})
    assert prompt.spec()["roles"]["it"] == list(span)
    assert repr(prompt) == f"Prompt(text={TEXT!r}, roles={{'it': {span}, 'whole': (0, 38)}})"


def test_occurrences_may_overlap() -> None:
    assert Prompt("aaaa", {"x": ("aa", 2)}).roles["x"] == (2, 4)
    with pytest.raises(PositionError, match="'aa' occurs 3 times"):
        Prompt("aaaa", {"x": "aa"})


WRONG = {
    "several": (
        "Paris",
        f"role 'x': 'Paris' occurs 2 times in {TEXT!r} – 0: [Paris] is in Franc…; 1: …France, and [Paris] is large. Choose one "
        "by its number, ('Paris', 1) for the last, or give more of the text",
    ),
    "none": ("Frence", f"role 'x': 'Frence' does not occur in {TEXT!r}; did you mean 'France'?"),
    "beyond": (("France", 1), f"('France', 1) is beyond the last: 'France' occurs once in {TEXT!r}, numbers 0 to 0"),
    "before": (("Paris", -3), "('Paris', -3) is beyond the last: 'Paris' occurs 2 times"),
    "empty": ("", "role 'x' is an empty text; expected the text that it covers"),
    "two texts": (("Paris", "France"), "role 'x' is ('Paris', 'France'); expected the text that it covers"),
    "outside": ((30, 50), "role 'x' spans [30, 50) of a prompt of length 38"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_role(name: str) -> None:
    said, words = WRONG[name]
    with pytest.raises(PositionError, match=re.escape(words)):
        Prompt(TEXT, {"x": said})  # type: ignore[dict-item]


def test_what_is_neither_a_text_nor_a_span() -> None:
    with pytest.raises(PositionError, match=r"role 'x' is 3; expected the text that it covers, \('text', 1\)"):
        sweeps.unchecked(spanned)("x", 3, TEXT, [(0, 38)])


def test_token_ids_and_other_streams_have_numbers() -> None:
    with pytest.raises(PositionError, match="role 'x' is 'Paris', but the prompt is token ids, whose roles are spans"):
        Prompt((1, 2, 3), {"x": "Paris"})
    with pytest.raises(PositionError, match="roles of another stream are spans of its positions"):
        Prompt(TEXT, {"vision:x": "Paris"})
    assert Prompt(TEXT, {"vision:x": (50, 60)}).roles["vision:x"] == (50, 60)


@given(st.text("ab", min_size=1, max_size=12), st.text("ab", min_size=1, max_size=3), st.integers(-13, 13))
def test_the_nth_occurrence_is_what_a_search_finds(text: str, said: str, number: int) -> None:
    """Reference: a regular expression with a look-ahead, which finds overlapping matches."""
    starts = [match.start() for match in re.finditer(f"(?={said})", text)]
    if -len(starts) <= number < len(starts):
        assert Prompt(text, {"x": (said, number)}).roles["x"] == (starts[number], starts[number] + len(said))
    else:
        with pytest.raises(PositionError):
            Prompt(text, {"x": (said, number)})
