"""Indirect-object pairs: what stands where, what each corruption changes, and what is refused."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import UnequalLengthsError, UnknownNameError
from interp.prompts import Pair, Prompt
from interp.tasks import IOI_TEMPLATES, Template, ioi, lexicon, render_ioi
from interp.tasks.indirect_object import CORRUPTIONS, ORDERS

SEEDS = st.integers(0, 2**32)


def at(prompt: Prompt, role: str) -> str:
    return str(prompt.text)[slice(*prompt.roles[role])]


def words(prompt: Prompt) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", str(prompt.text))


def changed(pair: Pair) -> list[tuple[str, str]]:
    """Words of the clean and of the corrupted prompt where they differ."""
    return [(a, b) for a, b in zip(words(pair.clean), words(pair.corrupted), strict=True) if a != b]


@given(seed=SEEDS, corruption=st.sampled_from(CORRUPTIONS))
def test_clean_prompt_and_its_roles(seed: int, corruption: str) -> None:
    for pair in ioi(8, seed=seed, corruption=corruption):
        io, s = pair.entities[:2]
        assert (pair.answers, pair.wrong) == ((f" {io}",), (f" {s}",))
        assert [at(pair.clean, r) for r in ("IO", "S1", "S2")] == [io, s, s]
        assert words(pair.clean).count(io) == 1
        assert words(pair.clean).count(s) == 2
        first, second = sorted(pair.clean.roles[r][0] for r in ("IO", "S1"))
        abba = pair.template.endswith("ABBA")
        assert (pair.clean.roles["IO"][0] == first) is abba
        assert second < pair.clean.roles["S2"][0] < pair.clean.roles["END"][0]
        assert at(pair.clean, "END") == words(pair.clean)[-1] == "to"
        after = words(pair.clean)[words(pair.clean).index(s) + 1]
        assert at(pair.clean, "S1+1") == after
        assert (after == "and") is not abba  # the subject named first is followed by "and", and only then


@given(seed=SEEDS)
def test_swap_changes_exactly_the_s2_word_and_trades_the_answers(seed: int) -> None:
    for pair in ioi(8, seed=seed, corruption="swap"):
        io, s = pair.entities
        assert changed(pair) == [(s, io)]
        assert [at(pair.corrupted, r) for r in ("IO", "S1", "S2")] == [io, s, io]
        # Said once in the corrupted prompt, and so the receiver there: the clean prompt's wrong answer.
        assert words(pair.corrupted).count(s) == 1
        assert pair.swap().answers == (f" {s}",)


@given(seed=SEEDS)
def test_order_changes_exactly_the_two_first_names(seed: int) -> None:
    for pair in ioi(8, seed=seed, corruption="order"):
        io, s = pair.entities
        assert sorted(changed(pair)) == sorted([(io, s), (s, io)])
        assert [at(pair.corrupted, r) for r in ("IO", "S1", "S2")] == [s, io, s]
        # The corrupted prompt is the other order's clean prompt, so its answer is the same.
        assert words(pair.corrupted).count(s) == 2


@given(seed=SEEDS)
def test_abc_puts_three_new_names_in_the_three_places(seed: int) -> None:
    for pair in ioi(8, seed=seed, corruption="abc"):
        io, s, *new = pair.entities
        assert len({io, s, *new}) == 5
        assert [at(pair.corrupted, r) for r in ("IO", "S1", "S2")] == new
        assert Counter(changed(pair)) == Counter([(io, new[0]), (s, new[1]), (s, new[2])])


@given(seed=SEEDS)
def test_names_keeps_who_is_repeated(seed: int) -> None:
    for pair in ioi(8, seed=seed, corruption="names"):
        io, s, *new = pair.entities
        assert len({io, s, *new}) == 4
        assert [at(pair.corrupted, r) for r in ("IO", "S1", "S2")] == [new[0], new[1], new[1]]


@given(seed=SEEDS, n=st.integers(1, 30), more=st.integers(0, 30), corruption=st.sampled_from(CORRUPTIONS))
def test_same_seed_same_pairs_and_a_prefix(seed: int, n: int, more: int, corruption: str) -> None:
    pairs = ioi(n, seed=seed, corruption=corruption)
    assert pairs == ioi(n, seed=seed, corruption=corruption)
    assert ioi(n + more, seed=seed, corruption=corruption)[:n].items == pairs.items


def test_pairs_are_the_same_on_every_machine() -> None:
    # Recorded when the generator was written; checked on Python 3.11 and 3.13. A change here changes every published number.
    assert ioi(64, seed=0).digest == "37d7c029a25c61d7"


def test_clean_prompts_do_not_depend_on_the_corruption(seed: int) -> None:
    clean = [[pair.clean for pair in ioi(20, seed=seed, corruption=corruption)] for corruption in CORRUPTIONS]
    assert clean[0] == clean[1] == clean[2] == clean[3]


def test_seeds_give_other_pairs(seed: int) -> None:
    assert ioi(20, seed=seed).digest != ioi(20, seed=seed + 1).digest


def test_templates_and_orders_are_balanced(seed: int) -> None:
    counts = Counter(pair.template for pair in ioi(4 * len(IOI_TEMPLATES) + 7, seed=seed))
    assert len(counts) == 2 * len(IOI_TEMPLATES)
    assert set(counts.values()) <= {2, 3}  # 47 pairs over 20 kinds
    assert {t.rsplit("-")[1] for t in counts} == set(ORDERS)


def test_names_are_drawn_evenly(seed: int) -> None:
    counts = Counter(name for pair in ioi(6000, seed=seed) for name in pair.entities)
    assert set(counts) == set(lexicon.NAMES)
    # 12 000 draws over 120 names: 100 each, standard deviation just below 10; six of them is never seen
    assert max(abs(count - 100) for count in counts.values()) < 60


def test_restrictions_hold(seed: int) -> None:
    train, _, test = lexicon.split(lexicon.NAMES)
    pairs = ioi(40, seed=seed, order="BABA", templates=[3, 0], names=test, places=["park"], objects=["ball"], corruption="abc")
    assert {pair.template for pair in pairs} == {"ioi/0-BABA", "ioi/3-BABA"}
    assert {name for pair in pairs for name in pair.entities} <= set(test)
    assert {name for pair in pairs for name in pair.entities}.isdisjoint(train)
    assert all("park" in words(pair.clean) and "ball" in words(pair.clean) for pair in pairs)


def test_there_are_several_templates_with_every_slot() -> None:
    assert len(IOI_TEMPLATES) >= 6
    assert len({template.text for template in IOI_TEMPLATES}) == len({t.id for t in IOI_TEMPLATES}) == len(IOI_TEMPLATES)
    for template in IOI_TEMPLATES:
        assert sorted(template.slots) == ["first", "giver", "object", "place", "second"]
        assert not template.text.startswith("{first}")  # a first word has no space before it: another token
        assert template.slots.index("first") < template.slots.index("second") < template.slots.index("giver")


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_token_lengths_are_equal_and_constant_per_template(corruption: str, tokenizer: Any, seed: int) -> None:
    pairs = ioi(100, seed=seed, corruption=corruption, tokenizer=tokenizer)
    lengths: dict[str, set[int]] = {}
    for pair in pairs:
        for prompt in (pair.clean, pair.corrupted):
            lengths.setdefault(pair.template, set()).add(len(tokenizer.encode(prompt.text)))
    assert all(len(found) == 1 for found in lengths.values())
    assert pairs.items == ioi(100, seed=seed, corruption=corruption).items  # this tokenizer knows every word


def test_words_that_a_tokenizer_lacks_are_left_out(word_tokenizer: Any, seed: int) -> None:
    kept = lexicon.NAMES[:6]
    pairs = ioi(60, seed=seed, corruption="abc", tokenizer=word_tokenizer(without=lexicon.NAMES[6:]))
    assert {name for pair in pairs for name in pair.entities} == set(kept)
    assert pairs.made_by["lexicon"]["names"] == {"size": 6, "digest": lexicon.digest(kept)}
    assert pairs.made_by["single_token"] is True


def test_a_given_name_of_several_tokens_is_refused(tokenizer: Any) -> None:
    with pytest.raises(
        UnequalLengthsError, match=r"names holds 'Mary12', which this tokenizer writes as 2 tokens \['Mary', '12'\]"
    ):
        ioi(4, names=["Tom", "John", "Mary12"], tokenizer=tokenizer)


def test_prompts_of_unequal_length_are_refused_although_every_name_is_a_token(word_tokenizer: Any) -> None:
    # "Mary and" is one token of this tokenizer, and "Tom and" two: only a look at the whole prompts shows it.
    with pytest.raises(UnequalLengthsError, match=r"the clean prompt has \d+ tokens and the corrupted one \d+\n +clean: +\["):
        ioi(4, names=["Tom", "Mary"], corruption="order", tokenizer=word_tokenizer(whole=["Mary and"]))


def test_made_by_is_json_and_says_everything() -> None:
    import json

    made_by = ioi(3, seed=5, corruption="abc", order="ABBA", templates=[1]).made_by
    assert json.loads(json.dumps(made_by)) == {
        "task": "ioi",
        "n": 3,
        "seed": 5,
        "corruption": "abc",
        "order": "ABBA",
        "templates": ["ioi/1"],
        "single_token": False,
        "lexicon": {
            name: {"size": len(lexicon.LISTS[name]), "digest": lexicon.DIGESTS[name]} for name in ("names", "places", "objects")
        },
    }


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"corruption": "swp"}, UnknownNameError, "unknown corruption 'swp' of ioi; did you mean 'swap'?"),
        ({"order": "ABAB"}, UnknownNameError, "unknown order 'ABAB' of ioi; did you mean 'BABA' or 'ABBA'?"),
        ({"templates": [99]}, UnknownNameError, "unknown template 99"),
        ({"templates": [-1]}, UnknownNameError, "unknown template -1"),
        ({"templates": []}, ValueError, "templates is empty"),
        ({"n": 0}, ValueError, "n=0: at least one pair is needed"),
        (
            {"names": ["Tom", "Mary"], "corruption": "abc"},
            ValueError,
            "names: at least 5 different words are needed, 2 were given",
        ),
        ({"names": ["Tom", "Tom"]}, ValueError, "names holds 'Tom' twice"),
        ({"names": ["Tom", "bank"]}, ValueError, "names holds 'bank', which is also a word of places"),
        ({"names": ["Tom", "Soon"]}, ValueError, "names holds 'Soon', which is also a word of template 'ioi/5'"),
        ({"places": []}, ValueError, "places: at least 1 different words are needed, 0 were given"),
    ],
)
def test_wrong_use(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        ioi(**arguments)
    assert message in str(caught.value)


def test_rendering_from_given_fillers() -> None:
    own = Template("mine", "So {first} and {second} saw a {object} in the {place}. Then {giver} gave it to")
    prompt = render_ioi(own, "ABBA", io="Mary", s="John", place="park", object="dog")
    assert prompt.text == "So Mary and John saw a dog in the park. Then John gave it to"
    assert prompt.roles == {"IO": (3, 7), "S1": (12, 16), "S1+1": (17, 20), "S2": (45, 49), "END": (58, 60)}
    assert at(render_ioi(own, "ABBA", io="Mary", s="John", place="park", object="dog", giver="Mary"), "S2") == "Mary"
    with pytest.raises(UnknownNameError, match="unknown order 'ABB'"):
        render_ioi(own, "ABB", io="Mary", s="John", place="park", object="dog")
