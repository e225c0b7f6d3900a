"""Greater-than pairs: the years, the two sets of answers, and tokenizers that do not fit."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import AnswerError, UnequalLengthsError, UnknownNameError
from interp.prompts import Prompt
from interp.tasks import GREATER_THAN_TEMPLATES, greater_than, lexicon, render_greater_than
from interp.tasks.years import CENTURIES, YEARS, usable_years

SEEDS = st.integers(0, 2**32)


def at(prompt: Prompt, role: str) -> str:
    return str(prompt.text)[slice(*prompt.roles[role])]


@given(seed=SEEDS)
def test_prompts_roles_and_answers(seed: int) -> None:
    for pair in greater_than(8, seed=seed):
        noun, year = pair.entities
        century, yy = year[:2], year[2:]
        assert [at(pair.clean, r) for r in ("NOUN", "XX1", "YY", "XX2", "END")] == [noun, century, yy, century, century]
        assert [at(pair.corrupted, r) for r in ("NOUN", "XX1", "YY", "XX2", "END")] == [noun, century, "01", century, century]
        assert pair.clean.roles == pair.corrupted.roles
        assert str(pair.clean.text).endswith(" " + century)
        assert str(pair.corrupted.text) == str(pair.clean.text).replace(year, century + "01")
        assert all(answer > yy for answer in pair.answers)
        assert all(answer <= yy for answer in pair.wrong)
        assert sorted((*pair.answers, *pair.wrong)) == [f"{i:02}" for i in range(100)]


def test_the_answers_to_one_year_by_hand() -> None:
    pair = greater_than(1, years=["1796"])[0]
    assert pair.answers == ("97", "98", "99")
    assert (pair.wrong[0], pair.wrong[-1], len(pair.wrong)) == ("00", "96", 97)


@given(seed=SEEDS, n=st.integers(1, 30), more=st.integers(0, 120))
def test_same_seed_same_pairs_and_a_prefix(seed: int, n: int, more: int) -> None:
    pairs = greater_than(n, seed=seed)
    assert pairs == greater_than(n, seed=seed)
    assert greater_than(n + more, seed=seed)[:n].items == pairs.items


def test_pairs_are_the_same_on_every_machine() -> None:
    # Recorded when the generator was written; checked on Python 3.11 and 3.13.
    assert greater_than(64, seed=0).digest == "021cab6facb84114"


def test_templates_and_years_are_balanced(seed: int) -> None:
    pairs = greater_than(97 * 2 + 10, seed=seed)
    assert set(Counter(pair.template for pair in pairs).values()) <= {40, 41}  # 204 pairs over 5 templates
    yys = Counter(pair.entities[1][2:] for pair in pairs)
    assert sorted(yys) == [f"{i:02}" for i in range(2, 99)]
    assert set(yys.values()) <= {2, 3}  # 204 pairs over 97 years
    assert {pair.entities[1][:2] for pair in pairs} <= set(CENTURIES)


def test_years_that_gpt2_writes_otherwise_are_left_out() -> None:
    # Looked up in GPT-2's vocabulary: " 1280" and " 1440" are words of it, " 1302" is " 130" and "2".
    assert {"1280", "1440", "1302", "1509"}.isdisjoint(YEARS)
    assert {"1281", "1301", "1310", "1732", "1776"} & set(YEARS) == {"1281", "1310", "1732", "1776"}  # 01 is the corrupted year
    assert len(YEARS) == 6 * 97 - 18


def test_a_tokenizer_decides_which_years_are_used(word_tokenizer: Any, seed: int) -> None:
    tokenizer = word_tokenizer()
    assert len(usable_years(tokenizer)) == 6 * 97  # it splits every year
    for pair in greater_than(60, seed=seed, tokenizer=tokenizer):
        ids = [tokenizer.convert_ids_to_tokens(tokenizer.encode(p.text)) for p in (pair.clean, pair.corrupted)]
        assert len(ids[0]) == len(ids[1])
        assert [(a, b) for a, b in zip(*ids, strict=True) if a != b] == [(pair.entities[1][2:], "01")]


def test_a_century_is_left_out_where_its_corrupted_year_is_one_token(word_tokenizer: Any) -> None:
    assert {year[:2] for year in usable_years(word_tokenizer(whole=["1701"]))} == set(CENTURIES) - {"17"}
    with pytest.raises(AnswerError, match=r"years holds '1732'; .* but this one writes ' 1701' as 1 token \['1701'\]"):
        greater_than(4, years=["1732"], tokenizer=word_tokenizer(whole=["1701"]))


def test_the_tokenizer_of_smollm2_is_refused(smollm2: Path) -> None:
    from transformers import AutoTokenizer

    with pytest.raises(AnswerError, match=r"this one writes ' 1732' as 5 tokens \['Ġ', '1', '7', '3', '2'\]$"):
        greater_than(4, tokenizer=AutoTokenizer.from_pretrained(smollm2))


def test_a_tokenizer_that_splits_digits_is_refused_with_what_it_does(word_tokenizer: Any) -> None:
    with pytest.raises(AnswerError) as caught:
        greater_than(4, tokenizer=word_tokenizer(digits=1))
    assert str(caught.value) == (
        "greater_than needs a tokenizer that writes a year as two tokens, ' 17' and '32', as GPT-2 does; "
        "this one writes ' 1732' as 4 tokens ['1', '7', '3', '2']"
    )
    with pytest.raises(
        AnswerError, match=r"years holds '1732'; century and year must be two tokens, but this one writes ' 1732'"
    ):
        greater_than(4, years=["1732"], tokenizer=word_tokenizer(digits=1))


def test_a_tokenizer_that_lacks_an_answer_is_refused(word_tokenizer: Any) -> None:
    with pytest.raises(AnswerError, match=r"and has no token for 07, 88$"):
        greater_than(4, tokenizer=word_tokenizer(without=["07", "88"]))


def test_a_noun_that_is_not_one_token_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UnequalLengthsError, match="nouns holds 'kerfuffle'"):
        greater_than(4, nouns=["war", "kerfuffle"], tokenizer=tokenizer)


def test_restrictions_hold(seed: int) -> None:
    pairs = greater_than(20, seed=seed, templates=[2], nouns=["war", "siege"], years=["1732", "1603"])
    assert {pair.template for pair in pairs} == {"greater_than/2"}
    assert {pair.entities for pair in pairs} <= {(noun, year) for noun in ("war", "siege") for year in ("1732", "1603")}
    assert Counter(pair.entities[1] for pair in pairs) == {"1732": 10, "1603": 10}
    assert pairs.made_by["lexicon"]["events"] == {"size": 2, "digest": lexicon.digest(["war", "siege"])}
    assert pairs.made_by["lexicon"]["years"] == {"size": 2, "digest": lexicon.digest(["1732", "1603"])}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"corruption": "02"}, UnknownNameError, "unknown corruption '02' of greater_than; did you mean '01'?"),
        ({"templates": [5]}, UnknownNameError, "unknown template 5"),
        ({"templates": []}, ValueError, "templates is empty"),
        ({"n": 0}, ValueError, "n=0: at least one pair is needed"),
        ({"years": []}, ValueError, "years is empty"),
        (
            {"years": ["1701"]},
            AnswerError,
            "years holds '1701'; four digits are needed, of which the last two lie between 02 and 98",
        ),
        ({"years": ["1799"]}, AnswerError, "years holds '1799'"),
        ({"years": ["732"]}, AnswerError, "years holds '732'"),
    ],
)
def test_wrong_use(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        greater_than(**arguments)
    assert message in str(caught.value)


def test_rendering_from_given_fillers() -> None:
    prompt = render_greater_than(GREATER_THAN_TEMPLATES[0], noun="war", year="1732")
    assert prompt.text == "The war lasted from the year 1732 to the year 17"
    assert prompt.roles == {"NOUN": (4, 7), "XX1": (29, 31), "YY": (31, 33), "XX2": (46, 48), "END": (46, 48)}
