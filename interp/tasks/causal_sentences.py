"""Sentences of a cause and an effect, with the word between them that says so: does the end fit the beginning?

    >>> from interp import tasks
    >>> pair = tasks.causal_sentences(64, seed=0)[0]
    >>> pair.clean.text, pair.answers, pair.template
    ('All visitors came to the bar because they planned to', (' drink',), 'causal_sentences/2')
    >>> pair.corrupted.text, pair.wrong
    ('All visitors came to the kitchen because they planned to', (' cook',))
    >>> tasks.causal_sentences(64, seed=0, corruption="delimiter")[0].corrupted.text
    'All visitors came to the bar while they planned to'

Forms and corruptions are those of Lee et al., *Causal Interventions on Causal Paths* (arXiv 2410.21353); the sentences are our
own. A sentence breaks off before its last word, so that what is made of the first clause can be read there.
"""

from __future__ import annotations

from collections.abc import Sequence

from interp.errors import UnknownNameError
from interp.prompts import Pair, Pairs, Prompt
from interp.protocols import Tokenizer
from interp.tasks import lexicon
from interp.tasks.draw import Draw, balanced
from interp.tasks.template import Template, check_lengths, last_word

#: "e because c" (0–2) and "c so e" (3–5); ``|`` stands before and behind a clause, and in no prompt.
CAUSAL_TEMPLATES: tuple[Template, ...] = (
    Template("causal_sentences/0", "The |{people} went to the {place}| {delimiter} |they wanted to|"),
    Template("causal_sentences/1", "The |{people} drove to the {place}| {delimiter} |they hoped to|"),
    Template("causal_sentences/2", "All |{people} came to the {place}| {delimiter} |they planned to|"),
    Template("causal_sentences/3", "The |{people} wanted to {activity}| {delimiter} |they went to the|"),
    Template("causal_sentences/4", "The |{people} hoped to {activity}| {delimiter} |they drove to the|"),
    Template("causal_sentences/5", "All |{people} planned to {activity}| {delimiter} |they came to the|"),
)

#: Where one goes, and what for.
PURPOSES: tuple[tuple[str, str], ...] = (
    *(("library", "read"), ("pool", "swim"), ("kitchen", "cook"), ("restaurant", "eat"), ("bar", "drink")),
    *(("church", "pray"), ("club", "dance"), ("office", "work"), ("hotel", "sleep"), ("lake", "fish"), ("gym", "exercise")),
    *(("store", "shop"), ("school", "learn")),
)

PEOPLE: tuple[str, ...] = (
    *("children", "students", "friends", "teachers", "parents", "visitors", "neighbors", "workers", "women", "men", "boys"),
    *("girls", "players", "soldiers"),
)

#: Words in place of "because" and "so" that say of no cause.
NEUTRAL: tuple[str, ...] = ("and", "while", "but", "then")

CORRUPTIONS = ("nonsense", "delimiter")


def render_causal(template: Template, *, people: str, said: str, delimiter: str | None = None) -> Prompt:
    """One prompt with its roles.

    >>> prompt = render_causal(CAUSAL_TEMPLATES[3], people="boys", said="swim")
    >>> prompt.text, prompt.text[slice(*prompt.roles["cause"])], prompt.text[slice(*prompt.roles["effect"])]
    ('The boys wanted to swim so they went to the', 'boys wanted to swim', 'they went to the')

    Args:
        template: one of ``CAUSAL_TEMPLATES``.
        people: filler.
        said: the place or the activity of the first clause, whichever the template has.
        delimiter: between the clauses; None for "because" or "so", as the template's form is.

    Returns:
        The prompt with the roles first (its first word), cause, effect, delimiter, said and END (the last word), spans in
        characters. Cause and effect are *places in the sentence*, also where the delimiter says of no cause.
    """
    slot = _slot(template)
    whole = template.render(people=people, delimiter=delimiter or ("because" if slot == "place" else "so"), **{slot: said})
    marked = str(whole.text)
    marks = [i - n for n, i in enumerate(i for i, sign in enumerate(marked) if sign == "|")]
    text = marked.replace("|", "")
    clauses = {"effect": (marks[0], marks[1]), "cause": (marks[2], marks[3])}
    if slot == "activity":
        clauses = {"cause": clauses["effect"], "effect": clauses["cause"]}
    start, stop = (at - marked[:at].count("|") for at in whole.roles["delimiter"])
    roles = {"first": (0, text.index(" ")), **clauses, "delimiter": (start, stop)}
    begin = marks[1] - len(said)
    return Prompt(text, {**roles, "said": (begin, marks[1]), "END": last_word(text)})


def causal_sentences(
    n: int = 64,
    *,
    seed: int = 0,
    corruption: str = "nonsense",
    templates: Sequence[int] | None = None,
    tokenizer: Tokenizer | None = None,
) -> Pairs:
    """Pairs of sentences of a cause and an effect.

    ===========  ===============================================  =====================================================
    name         corrupted prompt                                 what it leaves
    ===========  ===============================================  =====================================================
    "nonsense"   the place or activity that is said is another's  the clean answer is nonsense after it; ``wrong`` is not
    "delimiter"  "because" or "so" becomes "and", "while", …      the same two clauses, with no word that joins them as
                                                                  cause and effect; the answer stays the likelier
    ===========  ===============================================  =====================================================

    In "c so e" the cause comes first and is what nonsense replaces; in "e because c" it is the effect, after which the known
    cause is nonsense: what a next token says of the sentence can be read of the later clause alone.

    Args:
        n: number of pairs. The first pairs do not depend on it.
        seed: chooses everything; clean prompts and answers do not depend on ``corruption``.
        corruption: "nonsense" or "delimiter".
        templates: indices into ``CAUSAL_TEMPLATES``; None for all, equally often (± 1).
        tokenizer: if given, fillers and delimiters are single tokens of it (others are left out) and both prompts of every pair
            have equally many tokens (checked).

    Returns:
        Pairs whose answer is the word that fits the clean prompt and whose wrong answer fits the other place or activity; their
        entities are people, place, activity, and the other place and activity. Answers have a leading space.

    Raises:
        UnknownNameError: no such corruption or template.
        ValueError: n < 1, no templates, or too few words are single tokens.
    """
    if n < 1:
        raise ValueError(f"n={n}: at least one pair is needed")
    if corruption not in CORRUPTIONS:
        raise UnknownNameError("corruption", corruption, CORRUPTIONS, "of causal_sentences")
    indices = range(len(CAUSAL_TEMPLATES)) if templates is None else templates
    for index in indices:
        if not 0 <= index < len(CAUSAL_TEMPLATES):
            raise UnknownNameError("template", index, map(str, range(len(CAUSAL_TEMPLATES))), "of causal_sentences")
    if not indices:
        raise ValueError("templates is empty; give indices into CAUSAL_TEMPLATES, or None for all of them")
    usable = {word for words in (*PURPOSES, PEOPLE, NEUTRAL) for word in words}
    usable = usable if tokenizer is None else set(lexicon.single_token(usable, tokenizer))
    purposes = tuple(one for one in PURPOSES if usable.issuperset(one))
    people, neutral = (tuple(word for word in words if word in usable) for words in (PEOPLE, NEUTRAL))
    for what, found, least in (("purposes", purposes, 2), ("people", people, 1), ("delimiters", neutral, 1)):
        if len(found) < least:
            raise ValueError(f"{len(found)} of the {what} are single tokens of this tokenizer; at least {least} are needed")
    items = tuple(
        _pair(CAUSAL_TEMPLATES[index], corruption, purposes, people, neutral, Draw("causal_sentences", seed, k))
        for k, index in enumerate(balanced("causal_sentences", seed, n, list(indices)))
    )
    if tokenizer is not None:
        check_lengths(items, tokenizer)
    made_by = {
        "task": "causal_sentences", "n": n, "seed": seed, "corruption": corruption,
        "templates": [CAUSAL_TEMPLATES[i].id for i in indices],
        "single_token": tokenizer is not None,
        "lexicon": lexicon.record({"purposes": ["/".join(one) for one in purposes], "people": people, "neutral": neutral}),
    }  # fmt: skip
    return Pairs(items, task="causal_sentences", made_by=made_by)


def _slot(template: Template) -> str:
    """What the first clause says: a place or an activity."""
    return "place" if "place" in template.slots else "activity"


def _pair(
    template: Template,
    corruption: str,
    purposes: Sequence[tuple[str, str]],
    people: Sequence[str],
    neutral: Sequence[str],
    draw: Draw,
) -> Pair:
    who, (own, other), delimiter = draw.pick(people), draw.distinct(purposes, 2), draw.pick(neutral)
    said = 0 if _slot(template) == "place" else 1
    clean = render_causal(template, people=who, said=own[said])
    if corruption == "nonsense":
        corrupted = render_causal(template, people=who, said=other[said])
    else:
        corrupted = render_causal(template, people=who, said=own[said], delimiter=delimiter)
    return Pair(clean, corrupted, (" " + own[1 - said],), (" " + other[1 - said],), template.id, (who, *own, *other))
