"""Facts: what a model recalls of a subject that it knows, such as a country's capital.

    >>> from interp import tasks
    >>> pair = tasks.facts(64, seed=0, relations=["capital"])[0]
    >>> pair.clean.text, pair.answers
    ('The capital of Portugal is the city of', (' Lisbon',))
    >>> pair.corrupted.text, pair.wrong
    ('The capital of Finland is the city of', (' Helsinki',))

Which of them a model knows is said by ``pairs.check(model, by="top1").kept``. The facts and templates are our own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from interp.errors import UnequalLengthsError, UnknownNameError
from interp.prompts import Pair, Pairs, Prompt
from interp.protocols import Tokenizer
from interp.tasks import lexicon
from interp.tasks.draw import Draw, balanced
from interp.tasks.known import RELATIONS
from interp.tasks.template import Template, check_lengths, last_word


class Fact(NamedTuple):
    """A true sentence."""

    relation: str
    subject: str
    answer: str


FACTS: tuple[Fact, ...] = tuple(
    Fact(name, subject, answer) for name, relation in RELATIONS.items() for subject, answer in relation.facts.items()
)


def render_fact(template: Template, *, subject: str) -> Prompt:
    """One prompt with the roles subject and END (the last word).

    >>> render_fact(RELATIONS["capital"].templates[0], subject="France")
    Prompt(text='The capital of France is', roles={'subject': (15, 21), 'END': (22, 24)})
    """
    prompt = template.render(subject=subject)
    return Prompt(prompt.text, {**prompt.roles, "END": last_word(str(prompt.text))})


def facts(
    n: int = 64,
    *,
    seed: int = 0,
    relations: Iterable[str] | None = None,
    one_token: bool = False,
    tokenizer: Tokenizer | None = None,
) -> Pairs:
    """Pairs of prompts that ask for a fact each.

    Clean: a template of a relation with a subject. Corrupted: the same template with another subject of the relation that has
    another answer; that answer is the wrong one, so the pair is symmetric. Every fact is asked for once before any is again, in
    another template as far as there are any. Answers begin with a space, have one token or several, and differ in their first.

    Args:
        n: number of pairs. The first pairs do not depend on it.
        seed: chooses everything.
        relations: names of ``RELATIONS`` to restrict to; None for all of them.
        one_token: leave out facts whose answer is several tokens; needs a tokenizer.
        tokenizer: if given, both prompts of every pair have equally many tokens; facts of which no other of the relation has
            as many are left out.

    Returns:
        Pairs whose ``template`` reads like "facts/capital-0" and whose entities are the two subjects. The roles are subject
        and END (the last word).

    Raises:
        UnknownNameError: no such relation.
        UnequalLengthsError: ``tokenizer`` leaves no two facts that can be paired.
        ValueError: n < 1, no relations, or ``one_token`` without a tokenizer.
    """
    if n < 1:
        raise ValueError(f"n={n}: at least one pair is needed")
    if one_token and tokenizer is None:
        raise ValueError("one_token=True needs a tokenizer, which says how many tokens an answer is; give tokenizer=…")
    names = tuple(RELATIONS) if relations is None else tuple(dict.fromkeys(relations))
    for name in names:
        if name not in RELATIONS:
            raise UnknownNameError("relation", name, RELATIONS, "of facts")
    if not names:
        raise ValueError("relations is empty; give names of RELATIONS, or None for all of them")
    asked = [fact for fact in FACTS if fact.relation in names]
    if one_token and tokenizer is not None:
        asked = [fact for fact in asked if lexicon.is_single(fact.answer, tokenizer)]
    others = _others(asked, tokenizer)
    if not others:
        raise UnequalLengthsError(
            f"relations={names}: no two facts have equally long prompts and answers that begin differently in this tokenizer"
        )
    items = []
    for k, fact in enumerate(balanced("facts", seed, n, list(others))):
        mine = others[fact]
        templates = Draw(f"facts/{fact.relation}/{fact.subject}", seed, 0).order(list(mine))
        template = templates[k // len(others) % len(templates)]
        other = Draw("facts", seed, k).pick(mine[template])
        clean, corrupted = (render_fact(template, subject=one.subject) for one in (fact, other))
        items.append(Pair(clean, corrupted, " " + fact.answer, " " + other.answer, template.id, (fact.subject, other.subject)))
    if tokenizer is not None:
        check_lengths(items, tokenizer)
    made_by = {
        "task": "facts", "n": n, "seed": seed, "relations": list(names), "one_token": one_token,
        "equal_lengths": tokenizer is not None,
        "lexicon": lexicon.record({"facts": [" = ".join(fact) for fact in others]}),
    }  # fmt: skip
    return Pairs(tuple(items), task="facts", made_by=made_by)


def _others(asked: Sequence[Fact], tokenizer: Tokenizer | None) -> Mapping[Fact, Mapping[Template, Sequence[Fact]]]:
    """Of every fact that has some, those it can be paired with in each template."""
    begins = {fact: _begins(fact, tokenizer) for fact in asked}
    found: dict[Fact, dict[Template, list[Fact]]] = {}
    for relation in dict.fromkeys(fact.relation for fact in asked):
        members = [fact for fact in asked if fact.relation == relation and begins[fact] is not None]
        for template in RELATIONS[relation].templates:
            tokens = {fact: _tokens(str(template.render(subject=fact.subject).text), tokenizer) for fact in members}
            for fact in members:
                same = [one for one in members if len(tokens[one]) == len(tokens[fact]) > 0 and begins[one] != begins[fact]]
                if same:
                    found.setdefault(fact, {})[template] = same
    return {fact: found[fact] for fact in asked if fact in found}


def _tokens(text: str, tokenizer: Tokenizer | None) -> Sequence[object]:
    """Those of a prompt, as many for any prompt without a tokenizer; none where a word is unknown to it."""
    if tokenizer is None:
        return [text]
    ids = tokenizer.encode(text, add_special_tokens=False)
    return ids if _read_back(text, ids, tokenizer) else []


def _begins(fact: Fact, tokenizer: Tokenizer | None) -> object:
    """The first token of the answer, or its first word; None where a word of it is unknown to the tokenizer."""
    if tokenizer is None:
        return fact.answer.split()[0]
    ids = lexicon.following(" " + fact.answer, tokenizer)
    return ids[0] if _read_back(fact.answer, ids, tokenizer) else None


def _read_back(text: str, ids: Sequence[int], tokenizer: Tokenizer) -> bool:
    """Whether tokens are those of a text, whatever the tokenizer makes of spaces and capitals."""
    told, read = ("".join(one.split()).casefold() for one in (text, str(tokenizer.decode(list(ids)))))
    return told == read
