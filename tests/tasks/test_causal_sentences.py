"""Causal sentences: clauses, delimiters and what nonsense replaces."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import UnknownNameError
from interp.prompts import Prompt
from interp.tasks import CAUSAL_TEMPLATES, causal_sentences, render_causal
from interp.tasks.causal_sentences import NEUTRAL, PEOPLE, PURPOSES

SEEDS = st.integers(0, 2**32)
PARTS = ("first", "cause", "effect", "delimiter")


def at(prompt: Prompt, role: str) -> str:
    return str(prompt.text)[slice(*prompt.roles[role])]


@pytest.mark.parametrize(
    ("index", "said", "parts"),
    [
        (0, "pool", ("The", "they wanted to", "boys went to the pool", "because")),
        (5, "swim", ("All", "boys planned to swim", "they came to the", "so")),
    ],
)
def test_roles_by_hand(index: int, said: str, parts: tuple[str, ...]) -> None:
    prompt = render_causal(CAUSAL_TEMPLATES[index], people="boys", said=said)
    assert tuple(at(prompt, role) for role in PARTS) == parts
    assert at(prompt, "said") == said
    assert str(prompt.text).endswith(at(prompt, "END"))


@given(seed=SEEDS)
def test_first_cause_delimiter_and_effect_are_the_whole_sentence_once(seed: int) -> None:
    for corruption in ("nonsense", "delimiter"):
        for pair in causal_sentences(12, seed=seed, corruption=corruption):
            for prompt in (pair.clean, pair.corrupted):
                order = sorted(prompt.roles[role] for role in PARTS)
                assert " ".join(str(prompt.text)[slice(*span)] for span in order) == prompt.text


@given(seed=SEEDS)
def test_nonsense_is_another_purpose_that_the_wrong_answer_fits(seed: int) -> None:
    for pair in causal_sentences(12, seed=seed):
        people, place, activity, *other = pair.entities
        assert people in PEOPLE
        assert (place, activity) in PURPOSES
        assert tuple(other) in PURPOSES
        assert place != other[0]
        said, answer = (0, 1) if at(pair.clean, "delimiter") == "because" else (1, 0)
        own = (place, activity)
        assert (at(pair.clean, "said"), at(pair.corrupted, "said")) == (own[said], other[said])
        assert (pair.answers, pair.wrong) == ((" " + own[answer],), (" " + other[answer],))
        clean, corrupted = str(pair.clean.text), str(pair.corrupted.text)
        assert corrupted == clean.replace(f" {own[said]} ", f" {other[said]} ")


@given(seed=SEEDS)
def test_a_swapped_delimiter_leaves_everything_else(seed: int) -> None:
    nonsense, swapped = causal_sentences(12, seed=seed), causal_sentences(12, seed=seed, corruption="delimiter")
    for one, other in zip(nonsense, swapped, strict=True):
        assert (one.clean, one.answers, one.wrong, one.entities) == (other.clean, other.answers, other.wrong, other.entities)
        own, neutral = at(other.clean, "delimiter"), at(other.corrupted, "delimiter")
        assert own in ("because", "so")
        assert neutral in NEUTRAL
        assert str(other.corrupted.text) == str(other.clean.text).replace(f" {own} ", f" {neutral} ")


@given(seed=SEEDS, n=st.integers(1, 30), more=st.integers(0, 60))
def test_same_seed_same_pairs_and_a_prefix(seed: int, n: int, more: int) -> None:
    pairs = causal_sentences(n, seed=seed)
    assert pairs == causal_sentences(n, seed=seed)
    assert causal_sentences(n + more, seed=seed)[:n].items == pairs.items


def test_pairs_are_the_same_on_every_machine() -> None:
    # Recorded when the generator was written.
    assert causal_sentences(64, seed=0).digest == "e72cd021a7baeeaa"


def test_templates_are_balanced_and_chosen(seed: int) -> None:
    assert set(Counter(pair.template for pair in causal_sentences(20, seed=seed)).values()) == {3, 4}  # 20 pairs, 6 templates
    assert {pair.template for pair in causal_sentences(9, seed=seed, templates=[3])} == {"causal_sentences/3"}


def test_a_tokenizer_decides_which_words_are_used(word_tokenizer: Any, seed: int) -> None:
    tokenizer = word_tokenizer(without=["pool", "read", "boys", "while"])
    for pair in causal_sentences(60, seed=seed, corruption="delimiter", tokenizer=tokenizer):
        assert {"pool", "swim", "library", "read", "boys"}.isdisjoint(pair.entities)
        assert at(pair.corrupted, "delimiter") != "while"
        assert len(tokenizer.encode(pair.clean.text)) == len(tokenizer.encode(pair.corrupted.text))
    none_left = word_tokenizer(without=[place for place, _ in PURPOSES[1:]])
    with pytest.raises(ValueError, match="1 of the purposes are single tokens of this tokenizer; at least 2 are needed"):
        causal_sentences(3, tokenizer=none_left)


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="n=0: at least one pair is needed"):
        causal_sentences(0)
    with pytest.raises(UnknownNameError, match="unknown corruption 'delimeter' of causal_sentences; did you mean 'delimiter'"):
        causal_sentences(1, corruption="delimeter")
    with pytest.raises(UnknownNameError, match=r"unknown template .?6.? of causal_sentences"):
        causal_sentences(1, templates=[6])
    with pytest.raises(ValueError, match="templates is empty; give indices into CAUSAL_TEMPLATES, or None for all of them"):
        causal_sentences(1, templates=[])
