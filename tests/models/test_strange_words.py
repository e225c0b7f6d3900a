"""Words that a tokenizer does not know are named, in prompts and in answers."""

from __future__ import annotations

import warnings

import pytest
import spelling
import sweeps

from interp.errors import AnswerError
from interp.models import Model, load
from interp.prompts import Pair, Pairs


@pytest.fixture(scope="module")
def model() -> Model:
    return load(sweeps.zoo(0), tokenizer=spelling.words(), name="reader")


def warned(model: Model, prompts: object) -> str:
    with pytest.warns(RuntimeWarning) as caught:
        model.encode(prompts)
    (one,) = caught
    return str(one.message)


def test_words_of_prompts_are_counted(model: Model) -> None:
    told = warned(model, ["Mary saw a quagga", "John went home", "Mary gave a quagga to John", "a zebra and a quagga"])
    assert told.startswith(
        "3 of 4 prompts hold words that the tokenizer of reader does not know and reads as one and the same: "
    )
    assert told.endswith("'quagga' (3), 'saw', 'zebra'")


def test_many_words_are_cut(model: Model) -> None:
    told = warned(model, " ".join(f"word{i}" for i in range(11)))
    assert told.startswith("1 of 1 prompts hold words")
    assert told.endswith("'word7' and 3 more")


def test_of_pairs_both_prompts_are_read(model: Model) -> None:
    told = warned(model, Pairs((Pair("Mary saw John", "Mary met John", " John"),)))
    assert told.startswith("2 of 2 prompts hold")
    assert told.endswith("'saw', 'met'")


def test_known_words_are_not_told(model: Model) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode(["Mary went home", "John gave a book"])


def test_an_unknown_answer_is_named(model: Model) -> None:
    words = r"an answer is a word that the tokenizer of reader does not know: 'quagga'; give this tokenizer to the task"
    with pytest.raises(AnswerError, match=words):
        model.encode(Pairs((Pair("Mary gave a", "John gave a", " book", " quagga"),)))
