"""Gender bias: who comes in whose place, what is right then, and what the card says of the metric and of mediation."""

from __future__ import annotations

import re
from collections import Counter
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import interp
from interp.errors import AnswerError, UnequalLengthsError, UnknownNameError
from interp.prompts import Prompt
from interp.tasks import GENDER_BIAS_TEMPLATES, OCCUPATIONS, gender_bias, lexicon, render_gender_bias
from interp.tasks.gender_bias import CORRUPTIONS, GENDERED, NEUTRAL

SEEDS = st.integers(0, 2**32)
PRONOUN = {occupation: pronoun for pronoun, some in OCCUPATIONS.items() for occupation in some}
OTHER = {"she": "he", "he": "she"}


def person(prompt: Prompt) -> str:
    return str(prompt.text)[slice(*prompt.roles["person"])]


def test_there_are_enough_and_none_is_two_things() -> None:
    """Card 9: at least 60 occupations and 12 frames. As many of each stereotype, and a frame says nothing of a person."""
    assert len(PRONOUN) == sum(map(len, OCCUPATIONS.values())) == 72
    assert len({len(some) for some in OCCUPATIONS.values()}) == 1
    assert len({template.text for template in GENDER_BIAS_TEMPLATES}) == len(GENDER_BIAS_TEMPLATES) >= 12
    said = set(re.findall(r"\w+", " ".join(template.text.replace("{person}", "") for template in GENDER_BIAS_TEMPLATES)))
    assert said.isdisjoint({*PRONOUN, *GENDERED, *GENDERED.values(), NEUTRAL, "her", "him", "his", "hers"})
    assert all(template.slots == ("person",) for template in GENDER_BIAS_TEMPLATES)


@pytest.mark.parametrize("template", GENDER_BIAS_TEMPLATES, ids=lambda template: template.id)
def test_roles(template: Any) -> None:
    prompt = render_gender_bias(template, person="nurse")
    assert person(prompt) == "nurse"
    assert str(prompt.text).split()[-1] == str(prompt.text)[slice(*prompt.roles["END"])]
    assert "the nurse" in str(prompt.text).lower()  # so that no article depends on the noun


@given(seed=SEEDS)
def test_what_comes_in_the_place_of_the_occupation(seed: int) -> None:
    made = {corruption: gender_bias(24, seed=seed, corruption=corruption) for corruption in CORRUPTIONS}
    for together in zip(*made.values(), strict=True):
        by = dict(zip(made, together, strict=True))
        [occupation] = by["gendered"].entities
        own = PRONOUN[occupation]
        for pair in together:
            assert pair.clean == by["gendered"].clean
            assert person(pair.clean) == pair.entities[0] == occupation
            assert (pair.answers, pair.wrong) == ((f" {own}",), (f" {OTHER[own]}",))
            frame = str(pair.clean.text).replace(f" {occupation} ", " {} ", 1)
            assert str(pair.corrupted.text) == frame.format(person(pair.corrupted))
        assert person(by["gendered"].corrupted) == {"she": "woman", "he": "man"}[OTHER[own]]
        assert person(by["agreeing"].corrupted) == {"she": "woman", "he": "man"}[own]
        assert person(by["neutral"].corrupted) == "person"
        other = person(by["swapped"].corrupted)
        assert PRONOUN[other] == OTHER[own]
        assert by["swapped"].entities == (occupation, other)


@given(seed=SEEDS, n=st.integers(1, 30), more=st.integers(0, 60))
def test_same_seed_same_pairs_and_a_prefix(seed: int, n: int, more: int) -> None:
    pairs = gender_bias(n, seed=seed)
    assert pairs == gender_bias(n, seed=seed)
    assert gender_bias(n + more, seed=seed)[:n].items == pairs.items


def test_pairs_are_the_same_on_every_machine() -> None:
    # Recorded when the generator was written.
    assert gender_bias(64, seed=0).digest == "bae32f412b5f426e"


def test_templates_and_stereotypes_are_balanced_and_nothing_comes_twice_before_all_has_been(seed: int) -> None:
    every = 18 * 72
    pairs = gender_bias(every, seed=seed)
    assert len({(pair.template, pair.entities) for pair in pairs}) == every
    kinds = Counter((pair.template, pair.answers) for pair in pairs[:40])
    assert set(kinds.values()) == {1, 2}  # 40 pairs, 18 templates with either stereotype
    assert len(kinds) == 36
    again = gender_bias(10, seed=seed, templates=[3], occupations=["nurse", "boss"])
    assert Counter(pair.entities for pair in again) == {("nurse",): 5, ("boss",): 5}


def test_halves_share_neither_templates_nor_occupations() -> None:
    pairs = gender_bias(600)
    first, second = ({pair.template for pair in half} for half in pairs.split(by="template"))
    assert (len(first), len(second), len(first | second)) == (9, 9, 18)
    own, others = ({pair.entities for pair in half} for half in pairs.split(by="entity"))
    assert (len(own), len(others), len(own | others)) == (36, 36, 72)


def test_a_tokenizer_decides_which_occupations_are_used(word_tokenizer: Any, seed: int) -> None:
    tokenizer = word_tokenizer(without=["nurse", "boss"])
    pairs = gender_bias(100, seed=seed, corruption="swapped", tokenizer=tokenizer)
    assert {"nurse", "boss"}.isdisjoint(entity for pair in pairs for entity in pair.entities)
    for pair in pairs:
        assert len(tokenizer.encode(pair.clean.text)) == len(tokenizer.encode(pair.corrupted.text))
    with pytest.raises(UnequalLengthsError, match="occupations holds 'nurse', which this tokenizer writes as 1 token"):
        gender_bias(4, occupations=["nurse", "captain"], tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"none of the 35 occupations is one whose stereotype is 'she'.* as several tokens"):
        gender_bias(4, tokenizer=word_tokenizer(without=[*OCCUPATIONS["she"], "boss"]))
    for word, corruption in (("she", "gendered"), ("man", "swapped"), ("person", "neutral")):
        with pytest.raises(AnswerError, match=f"gender_bias needs ' {word}' as one token; this tokenizer writes it as 1"):
            gender_bias(4, corruption=corruption, tokenizer=word_tokenizer(without=[word]))


def test_every_word_is_one_token_of_smollm2(smollm2: Path) -> None:
    from transformers import AutoTokenizer

    words = [*PRONOUN, *GENDERED, *GENDERED.values(), NEUTRAL]
    assert lexicon.single_token(words, AutoTokenizer.from_pretrained(smollm2)) == tuple(words)


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="n=0: at least one pair is needed"):
        gender_bias(0)
    with pytest.raises(UnknownNameError, match="unknown corruption 'gender' of gender_bias; did you mean 'gendered'"):
        gender_bias(1, corruption="gender")
    with pytest.raises(UnknownNameError, match=r"unknown template .?18.? of gender_bias"):
        gender_bias(1, templates=[18])
    with pytest.raises(ValueError, match="templates is empty; give indices into GENDER_BIAS_TEMPLATES, or None for all"):
        gender_bias(1, templates=[])
    with pytest.raises(UnknownNameError, match="unknown occupation 'nurs' of gender_bias; did you mean 'nurse'"):
        gender_bias(1, occupations=["nurs", "boss"])
    with pytest.raises(
        ValueError, match=r"none of the 2 occupations is one whose stereotype is 'he'; at least one of each is needed$"
    ):
        gender_bias(1, occupations=["nurse", "singer"])


def as_ids(pairs: interp.Pairs) -> interp.Pairs:
    """The pairs with a token for each word, for networks without a tokenizer."""
    known: dict[str, int] = {}

    def ids(text: object) -> list[int]:
        return [known.setdefault(word, len(known)) for word in str(text).split()]

    def one(pair: interp.Pair) -> interp.Pair:
        return interp.Pair(ids(pair.clean.text), ids(pair.corrupted.text), *(ids(a[0])[0] for a in (pair.answers, pair.wrong)))

    return interp.Pairs(tuple(map(one, pairs)))


@pytest.fixture
def few() -> interp.Pairs:
    """Few words, so that networks of 40 tokens know them."""
    return as_ids(gender_bias(6, seed=0, templates=[8, 10], occupations=["nurse", "singer", "boss", "judge"]))


def test_the_logit_difference_is_the_logarithm_of_the_odds(few: interp.Pairs) -> None:
    """Card 9.1: y = P(anti) / P(stereo), read as a metric; log y = −logit_diff, since both are of one softmax."""
    import sweeps

    model = sweeps.model("llama", torch.float64)
    found = interp.patch(model, few, "L0.z", ["odds", "logit_diff"])["clean"]
    np.testing.assert_allclose(np.log(found.sel(metric="odds")), -found.sel(metric="logit_diff"), rtol=0, atol=1e-9)
    he, she = few[0].answers[0], few[0].wrong[0]
    with torch.no_grad():
        logits = model.module(torch.tensor([few[0].clean.text])).logits[0, -1]
    p = logits.softmax(-1)
    assert float(found.sel(metric="logit_diff")[0]) == pytest.approx(log(p[he] / p[she]), abs=1e-9)


def test_a_source_that_is_the_base_does_nothing(few: interp.Pairs) -> None:
    """Card 9: source = base gives 0, to the bit."""
    import sweeps

    same = interp.Pairs(tuple(interp.Pair(pair.clean, pair.clean, pair.answers, pair.wrong) for pair in few))
    found = interp.mediate(sweeps.model("llama", torch.float64), same, interp.grid("z", head=...), "logit_diff")
    for effect in interp.effects.mediation(found, aggregate=None).values():
        assert float(abs(effect).max()) == 0


def test_effects_add_on_the_log_scale_of_a_linear_net(few: interp.Pairs) -> None:
    """Card 9: TE = NDE + NIE to 1e-9 with −logit_diff as response; with the odds themselves they do not add."""
    from nets_linear import linear

    found = interp.mediate(linear(), few, interp.grid("z", head=...), ["logit_diff", "odds"])
    each = interp.effects.mediation(found, aggregate=None)
    gap = abs(each["direct"] + each["indirect"] - each["total"]).max([d for d in each["direct"].dims if d != "metric"])
    assert float(gap.sel(metric="logit_diff")) <= 1e-9
    assert float(gap.sel(metric="odds")) > 1e-6
    assert float(abs(each["total"]).max()) > 1e-3


def test_nothing_goes_past_the_whole_stream_of_a_layer(few: interp.Pairs) -> None:
    """Card 9: all positions of a layer's stream as mediator leave no direct effect."""
    import sweeps

    found = interp.mediate(sweeps.model("llama", torch.float64), few, "L1.resid_post", "logit_diff")
    each = interp.effects.mediation(found, aggregate=None)
    np.testing.assert_allclose(each["direct"], 0, rtol=0, atol=1e-9)
    assert float(abs(each["total"]).max()) > 1e-3


def test_a_real_model_has_the_stereotypes_and_knows_the_nouns(loaded_smollm2: interp.Model) -> None:
    """What the pairs are for: margins have the sign that they should have, before and behind the exchange."""
    pairs = gender_bias(72, seed=0, tokenizer=loaded_smollm2.tokenizer)
    checked = pairs.check(loaded_smollm2)
    assert checked.passed > 36
    assert checked.clean["margin"].mean() > 0.3
    assert checked.corrupted["margin"].mean() < -1
