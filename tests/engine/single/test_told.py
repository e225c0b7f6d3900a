"""Answers of which one token is read: how they may be given, and what is said of those that are read otherwise than meant.

Expected: ids of the tokenizer itself; a model whose logits are made by hand says which spelling follows a prompt.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch

from interp.engine.single.told import Told
from interp.errors import AnswerError, AnswerWarning
from interp.methods.readouts.direct_logit_attribution import dla
from interp.methods.readouts.logit_lens import lens
from interp.models import Model, load
from interp.prompts import Pair, Pairs

IDS = (5, 9, 31)
NUMBERS: list[Any] = [
    *(17, np.int64(17), torch.tensor(17), torch.tensor([17]), np.array([17])),
    *([17], [torch.tensor(17)], (np.int32(17),)),
]


@pytest.mark.parametrize("number", NUMBERS, ids=repr)
def test_a_number_in_whatever_form_is_an_id(number: Any) -> None:
    model = sweeps.model("gpt2")
    plain = dla(model, [IDS], 17, 4)
    assert dla(model, [IDS], number, torch.tensor(4)).contribution.equals(plain.contribution)
    assert lens(model, [IDS], number).answer_logit.equals(lens(model, [IDS], 17).answer_logit)


@pytest.mark.parametrize("wrong", [1.5, True, torch.tensor(0.5), None, [[1, 2]]], ids=repr)
def test_what_is_neither_text_nor_id_is_refused(wrong: Any) -> None:
    with pytest.raises(AnswerError, match=r"answer is .*; expected a text as it follows the prompt|prompt 0 has no answer"):
        dla(sweeps.model("gpt2"), [IDS], wrong)


@pytest.fixture
def model() -> Model:
    return load("zoo/language-4l")


TEXT = "One morning Aaron and Daniel met at the market, and Aaron handed a basket to"


@pytest.mark.parametrize("read", [dla, lens])
def test_of_several_tokens_the_first_is_read_and_said(read: Any, model: Model) -> None:
    one, two = (model.tokenizer.encode(word, add_special_tokens=False)[0] for word in (" Daniel", " Aaron"))
    said = rf"answer ' Daniel Aaron' is 2 tokens, ' Daniel' \(id {one}\) \+ ' Aaron' \(id {two}\); the first of them is read$"
    with pytest.warns(AnswerWarning, match=said):
        found = read(model, TEXT, " Daniel Aaron")
    plain = read(model, TEXT, " Daniel")
    assert found.equals(plain)
    pairs = Pairs((Pair(TEXT, TEXT, " Daniel Aaron", " Aaron"), Pair(TEXT, TEXT, " Daniel", " Aaron Daniel")))
    with pytest.warns(AnswerWarning, match="the first of them is read" + (", and so with 1 more" if read is dla else "")):
        found = read(model, pairs)
    assert found["answer"].values.tolist() == [" Daniel"] * 2


@pytest.mark.filterwarnings("ignore:answer ' Daniel Aaron' is 2 tokens")
def test_an_answer_of_one_prompt_is_none_of_another(model: Model) -> None:
    pairs = Pairs((Pair(TEXT, TEXT, " Daniel Aaron"), Pair(TEXT, TEXT)))
    assert "answer" not in lens(model, pairs).coords
    with pytest.raises(AnswerError, match="prompt 1 has no answer; one is attributed: pass answer="):
        dla(model, pairs)


@pytest.mark.parametrize("read", [dla, lens])
def test_prompts_begin_as_they_were_encoded_whatever_is_the_answer(read: Any, model: Model) -> None:
    encoded = model.encode(Pairs((Pair(TEXT, TEXT, " Daniel"),)), bos=False)
    assert [read(model, encoded, answer).attrs["bos"] for answer in (None, " Aaron")] == [False, False]


def test_answers_that_begin_alike_are_refused_where_they_are_compared(model: Model) -> None:
    with pytest.raises(AnswerError, match=r"prompt 0: answer ' Daniel Aaron' .* and wrong ' Daniel and' .* begin alike"):
        dla(model, TEXT, " Daniel Aaron", " Daniel and")
    pairs = Pairs((Pair(TEXT, TEXT, " Daniel Aaron", " Daniel and"),))
    with pytest.raises(AnswerError, match="end the prompt with what they share, and give what follows it"):
        dla(model, pairs)
    with pytest.warns(AnswerWarning, match="' Daniel Aaron' is 2 tokens"):
        assert lens(model, pairs)["answer"].item() == " Daniel"


class Words:
    """A tokenizer of four words, two of which are spellings of one."""

    words = ("The", " end", "end", " of")
    bos_token_id = eos_token_id = pad_token_id = None

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        ids = []
        while text:
            ids.append(max((i for i, w in enumerate(self.words) if text.startswith(w)), key=lambda i: len(self.words[i])))
            text = text[len(self.words[ids[-1]]) :]
        return {"input_ids": ids}

    def encode(self, text: str, **options: Any) -> list[int]:
        return self(text)["input_ids"]

    def convert_ids_to_tokens(self, ids: Any) -> list[str]:
        return [self.words[i] for i in ids]

    def decode(self, ids: list[int], **options: Any) -> str:
        return "".join(self.words[i] for i in ids)


@pytest.mark.parametrize(("preferred", "warned"), [(1, True), (2, False)])
def test_a_missing_space_is_said_where_the_model_prefers_it(preferred: int, warned: bool) -> None:
    model = load(tiny.gpt2(0), tokenizer=Words(), name="words")
    told = Told.of(model, ["The", "The"], "end")
    assert told is not None
    assert told.examples == [0, 1]
    logits = torch.zeros(2, 4)
    logits[0, preferred] = 2.0
    logits[1, 3 - preferred] = 1.0  # on average
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        told.warn_of_spaces(logits)
    said = "answer 'end' is read as given, 'end' (id 2), but the model prefers ' end' (id 1) there: an answer is written as it "
    said += "follows the prompt, usually with a leading space, ' end'"
    assert [str(one.message) for one in seen] == ([said] if warned else [])
    for word in (" end", " of", 2):
        other = Told.of(model, "The", word)
        assert other is not None
        assert other.examples == []


@pytest.mark.real
@pytest.mark.parametrize("read", [dla, lens])
def test_a_missing_space_of_a_real_model(read: Any, smollm2: Any) -> None:
    model = load(smollm2)
    with pytest.warns(AnswerWarning, match=r"answer 'Paris' is read as given, 'Paris' \(id 38634\), .* ' Paris' \(id 7042\)"):
        assert read(model, "The capital of France is", "Paris")["answer"].item() == "Paris"
    with pytest.warns(AnswerWarning, match="with a leading space, ' Paris'"):
        read(model, "Question: What is the capital of France? Answer:", "Paris")
    read(model, "The capital of France starts with Par", "is")  # goes on with the word
    read(model, "The capital of France is", " Paris")
