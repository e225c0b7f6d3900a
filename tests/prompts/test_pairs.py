"""Prompts and pairs: what is refused, what identifies them, which roles they share."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sweeps
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.errors import AnswerError, InputError, PositionError
from interp.prompts import Pair, Pairs, Prompt

CLEAN = Prompt("Mary and John", {"IO": (0, 4), "S": (9, 13)})
CORRUPTED = Prompt("Mary and Anne", {"S": (9, 13), "IO": (0, 4), "extra": (5, 8)})
PAIR = Pair(CLEAN, CORRUPTED, (" Mary",), (" John",), template="t", entities=("Mary", "John"))


@pytest.mark.parametrize("span", [(-1, 2), (3, 3), (4, 2), (0, 14), (13, 14)])
def test_a_role_outside_its_prompt(span: tuple[int, int]) -> None:
    words = re.escape(f"role 'IO' spans [{span[0]}, {span[1]}) of a prompt of length 13: 'Mary and John'")
    with pytest.raises(PositionError, match=words):
        Prompt("Mary and John", {"IO": span})


def test_a_prompt_of_ids_counts_roles_in_tokens() -> None:
    assert Prompt((5, 6, 7), {"last": (2, 3)}).spec() == {"text": [5, 6, 7], "roles": {"last": [2, 3]}}
    with pytest.raises(PositionError, match="of a prompt of length 3"):
        Prompt((5, 6, 7), {"last": (2, 4)})


def test_an_answer_cannot_be_right_and_wrong() -> None:
    with pytest.raises(AnswerError, match=r"an answer is both right and wrong: \[' Mary'\]"):
        Pair(CLEAN, CORRUPTED, (" Mary", " Anne"), (" John", " Mary"))


def test_a_text_stands_for_its_prompt_and_an_answer_for_the_only_one() -> None:
    pair = Pair("Mary and John", "Mary and Anne", " Mary", " John")
    assert pair == Pair(Prompt("Mary and John"), Prompt("Mary and Anne"), (" Mary",), (" John",))
    assert Pair((1, 2), [1, 3], 5, [6, 7]) == Pair(Prompt((1, 2)), Prompt((1, 3)), (5,), (6, 7))
    assert replace(pair, wrong=(" Anne",)).answers == (" Mary",)


@pytest.mark.parametrize("ids", [[1, 2, 3], np.array([1, 2, 3]), torch.tensor([1, 2, 3]), range(1, 4)])
def test_token_ids_of_any_kind_are_a_tuple(ids: Any) -> None:
    prompt = Prompt(ids)
    assert prompt == Prompt((1, 2, 3))
    assert json.dumps(prompt.spec()) == '{"text": [1, 2, 3], "roles": {}}'


def test_token_ids_of_several_prompts_are_no_prompt() -> None:
    words = r"the text of a prompt is a Tensor of shape \(1, 3\); expected a text, or the token ids of one prompt"
    with pytest.raises(InputError, match=words):
        Prompt(torch.zeros(1, 3).long())


def test_swapping_twice_changes_nothing() -> None:
    swapped = PAIR.swap()
    assert (swapped.clean, swapped.corrupted, swapped.answers, swapped.wrong) == (CORRUPTED, CLEAN, (" John",), (" Mary",))
    assert swapped.template == "t"
    assert swapped.swap() == PAIR
    pairs = Pairs((PAIR, swapped), "task", {"seed": 3})
    assert pairs.swap().items == (swapped, PAIR)
    assert pairs.swap().made_by == {"seed": 3}


def test_roles_are_those_that_every_prompt_has_in_the_first_prompts_order() -> None:
    without = replace(PAIR, corrupted=Prompt("Mary and Anne", {"IO": (0, 4)}))
    assert Pairs((PAIR,)).roles == ("IO", "S")
    assert Pairs((PAIR, without)).roles == ("IO",)
    assert Pairs(()).roles == ()


def test_pairs_are_a_sequence() -> None:
    other = PAIR.swap()
    pairs = Pairs((PAIR, other, PAIR), "demo", {"seed": 1})
    assert len(pairs) == 3
    assert pairs[1] is other
    assert list(pairs) == [PAIR, other, PAIR]
    assert isinstance(pairs[:2], Pairs)
    assert (pairs[:2].items, pairs[:2].task, pairs[:2].made_by) == ((PAIR, other), "demo", {"seed": 1})
    assert repr(pairs) == "Pairs(demo, 3 pairs)"
    assert repr(pairs[:1]) == "Pairs(demo, 1 pair)"


def test_the_digest_is_of_the_content_alone() -> None:
    pairs = Pairs((PAIR,), "a", {"seed": 1})
    assert re.fullmatch("[0-9a-f]{16}", pairs.digest)
    assert pairs.digest == Pairs((PAIR,), "b", {"seed": 2}).digest
    reordered = replace(PAIR, clean=Prompt("Mary and John", {"S": (9, 13), "IO": (0, 4)}))
    assert Pairs((reordered,)).digest == pairs.digest, "the order in which roles are written does not matter"


@settings(max_examples=40)
@given(
    st.sampled_from(
        [
            {"clean": CORRUPTED},
            {"corrupted": CLEAN},
            {"clean": Prompt("Mary and John", {"IO": (0, 4)})},
            {"clean": Prompt("Mary and John", {"IO": (0, 3), "S": (9, 13)})},
            {"clean": Prompt((1, 2, 3))},
            {"answers": (" Anne",)},
            {"answers": ()},
            {"answers": (7,)},
            {"answers": ("7",)},
            {"wrong": (" John", " Anne")},
            {"template": "u"},
            {"entities": ("John", "Mary")},
        ]
    )
)
def test_any_change_of_content_changes_the_digest(change: dict[str, object]) -> None:
    assert Pairs((replace(PAIR, **change),)).digest != Pairs((PAIR,)).digest  # type: ignore[arg-type]


def test_the_digest_sees_order_and_number() -> None:
    other = PAIR.swap()
    assert len({Pairs(items).digest for items in [(PAIR,), (PAIR, PAIR), (PAIR, other), (other, PAIR), ()]}) == 5


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (torch.tensor(5), (5,)),
        (np.int64(5), (5,)),
        (np.array(5), (5,)),
        (torch.tensor([5, 7]), (5, 7)),
        (np.array([5, 7]), (5, 7)),
        ([torch.tensor(5), torch.tensor([7, 8])], (5, (7, 8))),
        ([(np.int64(5), 7)], ((5, 7),)),
        (torch.tensor([[5, 7]]), ((5, 7),)),
        (np.array([" Mary", " John"]), (" Mary", " John")),
    ],
)
def test_answers_are_plain_numbers_in_whatever_they_came(said: Any, kept: tuple[Any, ...]) -> None:
    pair = Pair("a", "b", said)
    assert pair.answers == kept
    plain = [one for answer in pair.answers for one in (answer if isinstance(answer, tuple) else (answer,))]
    assert {type(one) for one in plain} <= {int, str}
    assert pair.spec() == Pair("a", "b", list(kept)).spec()


@pytest.mark.parametrize("said", [3.5, torch.tensor(3.5), True, [None], [("a",)]])
def test_what_is_no_answer_is_refused(said: Any) -> None:
    with pytest.raises(AnswerError, match="expected a text such as ' Paris', as it follows the prompt, a token id"):
        sweeps.unchecked(Pair.__init__)(object.__new__(Pair), "a", "b", said)
