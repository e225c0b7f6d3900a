"""Facts: prompts that ask for them, whom they are contrasted with, and tokenizers that leave some out."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import UnequalLengthsError, UnknownNameError
from interp.prompts import Pair, Prompt
from interp.tasks import FACTS, RELATIONS, facts, lexicon, render_fact

SEEDS = st.integers(0, 2**32)
TEMPLATES = {template.id: template for relation in RELATIONS.values() for template in relation.templates}


def at(prompt: Prompt, role: str) -> str:
    return str(prompt.text)[slice(*prompt.roles[role])]


def relation(pair: Pair) -> str:
    return pair.template.removeprefix("facts/").rpartition("-")[0]


def first(answer: Any) -> str:
    return str(answer).split()[0]


def test_there_are_facts_of_many_relations() -> None:
    assert len(FACTS) >= 150
    assert len(RELATIONS) >= 6
    assert len({(fact.relation, fact.subject) for fact in FACTS}) == len(FACTS)
    for one in RELATIONS.values():
        assert len({answer.split()[0] for answer in one.facts.values()}) > 2
        assert all(" = " not in said and said == said.strip() != "" for fact in one.facts.items() for said in fact)
        assert all(template.text.count("{subject}") == 1 and not template.text.endswith(" ") for template in one.templates)


def test_no_prompt_gives_its_answer_or_its_subject_twice() -> None:
    for fact in FACTS:
        for template in RELATIONS[fact.relation].templates:
            text = str(render_fact(template, subject=fact.subject).text)
            assert not re.search(rf"\b{re.escape(fact.answer)}\b", text), (text, fact)
            assert len(re.findall(rf"\b{re.escape(fact.subject)}\b", text)) == 1, text


@given(seed=SEEDS)
def test_prompts_roles_and_answers(seed: int) -> None:
    for pair in facts(8, seed=seed):
        known = RELATIONS[relation(pair)].facts
        subject, other = pair.entities
        template = TEMPLATES[pair.template]
        assert pair.clean == render_fact(template, subject=subject)
        assert pair.corrupted == render_fact(template, subject=other)
        assert (at(pair.clean, "subject"), at(pair.corrupted, "subject")) == (subject, other)
        assert at(pair.clean, "END") == at(pair.corrupted, "END") == template.text.split()[-1]
        assert (pair.answers, pair.wrong) == ((f" {known[subject]}",), (f" {known[other]}",))
        assert first(pair.answers[0]) != first(pair.wrong[0])


@given(seed=SEEDS, n=st.integers(1, 30), more=st.integers(0, 300))
def test_same_seed_same_pairs_and_a_prefix(seed: int, n: int, more: int) -> None:
    pairs = facts(n, seed=seed)
    assert pairs == facts(n, seed=seed)
    assert facts(n + more, seed=seed)[:n].items == pairs.items


def test_pairs_are_the_same_on_every_machine() -> None:
    # Recorded when the generator was written; a change of the lists is a change of the task.
    assert facts(64, seed=0).digest == "ba2d90b5257ce5d5"


def test_every_fact_is_asked_once_before_any_is_again_in_another_template(seed: int) -> None:
    pairs = facts(2 * len(FACTS), seed=seed)
    halves = pairs.items[: len(FACTS)], pairs.items[len(FACTS) :]
    asked = [{(relation(pair), pair.entities[0]) for pair in half} for half in halves]
    assert asked[0] == asked[1] == {(fact.relation, fact.subject) for fact in FACTS}
    templates = Counter((relation(pair), pair.entities[0], pair.template) for pair in pairs)
    assert set(templates.values()) == {1}


def test_a_tokenizer_makes_prompts_of_equal_length(tokenizer: Any, seed: int) -> None:
    pairs = facts(len(FACTS), seed=seed, tokenizer=tokenizer)
    for pair in pairs:
        clean, corrupted = (tokenizer.encode(str(p.text)) for p in (pair.clean, pair.corrupted))
        assert len(clean) == len(corrupted)
        assert tokenizer.encode(str(pair.answers[0]))[0] != tokenizer.encode(str(pair.wrong[0]))[0]
        assert tokenizer.unk_token_id not in clean + corrupted
    assert max(len(tokenizer.encode(pair.entities[0])) for pair in pairs) > 1
    assert max(len(tokenizer.encode(str(pair.answers[0]))) for pair in pairs) > 1


def test_what_a_tokenizer_does_not_know_is_left_out(word_tokenizer: Any, seed: int) -> None:
    pairs = facts(40, seed=seed, relations=["capital"], tokenizer=word_tokenizer(without=["France", "Madrid"]))
    said = {entity for pair in pairs for entity in pair.entities}
    assert "Germany" in said
    assert said.isdisjoint({"France", "Spain"})


def test_facts_with_answers_of_one_token(tokenizer: Any, seed: int) -> None:
    pairs = facts(100, seed=seed, one_token=True, tokenizer=tokenizer)
    answers = {str(answer).strip() for pair in pairs for answer in pair.answers + pair.wrong}
    assert all(lexicon.is_single(answer, tokenizer) for answer in answers)
    assert answers.isdisjoint({"New York", "South America"})


def test_relations_restrict(seed: int) -> None:
    pairs = facts(20, seed=seed, relations=["sport", "maker"])
    assert {relation(pair) for pair in pairs} == {"sport", "maker"}
    assert pairs.made_by["relations"] == ["sport", "maker"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n": 0}, ValueError, "n=0: at least one pair is needed"),
        ({"relations": []}, ValueError, "relations is empty; give names of RELATIONS, or None for all of them"),
        ({"relations": ["capitol"]}, UnknownNameError, "unknown relation 'capitol' of facts; did you mean 'capital'?"),
        ({"one_token": True}, ValueError, "one_token=True needs a tokenizer"),
    ],
)
def test_wrong_use(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        facts(**arguments)
    assert message in str(caught.value)


def test_a_tokenizer_that_pairs_nothing_is_refused(word_tokenizer: Any) -> None:
    with pytest.raises(UnequalLengthsError, match=r"^relations=\('capital',\): no two facts have equally long prompts"):
        facts(4, relations=["capital"], tokenizer=word_tokenizer(without=["capital"]))


def test_smollm2_knows_enough_of_them(smollm2: Path) -> None:
    """What ``kept`` is for: the answer, all of its tokens, is what greedy decoding says."""
    import interp

    model = interp.load(smollm2)
    found = facts(128, tokenizer=model.tokenizer).check(model, by="top1")
    known = {pair.entities[0] + relation(pair) for pair in found.kept}
    assert len(known) >= 50
    assert {len(tokens) > 1 for tokens, right in zip(found.answer_tokens, found.right, strict=True) if right} == {True, False}
