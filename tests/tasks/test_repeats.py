"""Induction pairs: one repetition, two possible ones, nothing else."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import PositionError, UnequalLengthsError
from interp.tasks import induction, lexicon, render_induction

SEEDS = st.integers(0, 2**32)


@given(seed=SEEDS, length=st.integers(6, 40))
def test_the_last_word_is_the_only_repetition(seed: int, length: int) -> None:
    for pair in induction(4, seed=seed, length=length):
        a, b, c, d = pair.entities
        clean, corrupted = str(pair.clean.text).split(" "), str(pair.corrupted.text).split(" ")
        assert len(clean) == len(corrupted) == length
        assert clean[:-1] == corrupted[:-1]
        assert len(set(clean[:-1])) == length - 1
        assert (clean[-1], corrupted[-1]) == (a, c)
        assert clean[clean.index(a) + 1] == b
        assert clean[clean.index(c) + 1] == d
        assert len({a, b, c, d}) == 4
        assert clean[0] not in pair.entities  # it has no space before it, so it may be another token
        assert (pair.answers, pair.wrong) == ((f" {b}",), (f" {d}",))


@given(seed=SEEDS)
def test_roles_cut_out_their_words(seed: int) -> None:
    for pair in induction(4, seed=seed):
        for prompt, last in ((pair.clean, 0), (pair.corrupted, 2)):
            cut = [str(prompt.text)[slice(*prompt.roles[role])] for role in ("A", "B", "C", "D", "END")]
            assert cut == [*pair.entities, pair.entities[last]]
            assert prompt.roles["A"][1] + 1 == prompt.roles["B"][0]
            assert prompt.roles["END"][1] == len(prompt.text)


@given(seed=SEEDS, n=st.integers(1, 20), more=st.integers(0, 20))
def test_same_seed_same_pairs_and_a_prefix(seed: int, n: int, more: int) -> None:
    pairs = induction(n, seed=seed)
    assert pairs == induction(n, seed=seed)
    assert induction(n + more, seed=seed)[:n].items == pairs.items


def test_pairs_are_the_same_on_every_machine() -> None:
    # Recorded when the generator was written; checked on Python 3.11 and 3.13.
    assert induction(64, seed=0).digest == "6de61df7c5354aed"


def test_every_arrangement_occurs(seed: int) -> None:
    # 7 words: six before the last, A and C in places 1 to 4 and two apart: (1,3) (1,4) (2,4), each in both orders
    places = Counter(
        tuple(str(p.clean.text).split(" ").index(word) for word in p.entities[::2])
        for p in induction(1200, seed=seed, length=7)
    )
    assert set(places) == {(1, 3), (1, 4), (2, 4), (3, 1), (4, 1), (4, 2)}
    # 200 each, standard deviation 13; seven of them
    assert max(abs(count - 200) for count in places.values()) < 91


def test_token_lengths_are_equal(word_tokenizer: Any, seed: int) -> None:
    tokenizer = word_tokenizer(without=lexicon.WORDS[20:])
    pairs = induction(50, seed=seed, length=10, tokenizer=tokenizer)
    assert {word for p in pairs for word in str(p.clean.text).split(" ")} == set(lexicon.WORDS[:20])
    assert {len(tokenizer.encode(prompt.text)) for p in pairs for prompt in (p.clean, p.corrupted)} == {10}
    with pytest.raises(UnequalLengthsError, match="words holds 'zyzzyva'"):
        induction(4, words=[*lexicon.WORDS[:20], "zyzzyva"], tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n=0: at least one pair is needed"),
        ({"length": 5}, "length=5: at least 6 words are needed, one before, A B, C D and the last"),
        ({"length": 8, "words": ["a", "b"]}, "words: at least 7 different words are needed, 2 were given"),
    ],
)
def test_wrong_use(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        induction(**arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(("a", "c"), [(1, 2), (0, 3), (1, 4), (3, 3)])
def test_overlapping_or_outlying_places_are_refused(a: int, c: int) -> None:
    with pytest.raises(PositionError, match=rf"a={a} and c={c} must differ by 2 or more and lie between 1 and 3 \(5 words\)"):
        render_induction(["u", "v", "w", "x", "y"], a, c, last=a)
