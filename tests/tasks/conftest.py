"""A tokenizer made here: one token a word or mark, years two as GPT-2 does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from interp import tasks
from interp.tasks import lexicon
from interp.tasks.causal_sentences import NEUTRAL, PEOPLE, PURPOSES
from interp.tasks.gender_bias import GENDERED
from interp.tasks.gender_bias import NEUTRAL as NOBODY

_SAMPLES = [
    *(template.text for template in (*tasks.IOI_TEMPLATES, *tasks.GREATER_THAN_TEMPLATES, *tasks.CAUSAL_TEMPLATES)),
    " ".join([*(template.text for template in tasks.GENDER_BIAS_TEMPLATES), *GENDERED, *GENDERED.values(), NOBODY]),
    *(" ".join(some) for some in tasks.OCCUPATIONS.values()),
    " ".join(["because so", *(" ".join(words) for words in (*PURPOSES, PEOPLE, NEUTRAL))]),
    *(" ".join(words) for words in lexicon.LISTS.values()),
    *(template.text.replace("{subject}", "") for relation in tasks.RELATIONS.values() for template in relation.templates),
    *(f"{fact.subject} {fact.answer}" for fact in tasks.FACTS),
    " ".join(f"{yy:02}" for yy in range(100)),
    "+ - =",
    " ".join(label for task in tasks.GYM.values() for some in task.labels.values() for label in some if label.strip(",.")),
]


@pytest.fixture(scope="session")
def word_tokenizer() -> Callable[..., Any]:
    """Makes a tokenizer of the lexicon's and the templates' words, less some.

    Numbers are cut into ``digits`` digits; a text of ``whole`` is one token whatever is in it.
    """

    def make(without: Iterable[str] = (), *, digits: int = 2, whole: Iterable[str] = ()) -> PreTrainedTokenizerFast:
        split = pre_tokenizers.Split(
            Regex("|".join([*whole, rf"\d{{{digits}}}", r"[^\W\d]+", r"[^\w\s]"])), behavior="removed", invert=True
        )
        words = {"[UNK]", *"0123456789", *whole}
        for text in _SAMPLES:
            words |= {word for word, _ in split.pre_tokenize_str(text)}
        vocabulary = {word: i for i, word in enumerate(sorted(words - set(without)))}
        inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        inner.pre_tokenizer = split
        return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")

    return make


@pytest.fixture(scope="session")
def tokenizer(word_tokenizer: Callable[..., Any]) -> Any:
    return word_tokenizer()
