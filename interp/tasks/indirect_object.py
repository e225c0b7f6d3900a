"""Indirect-object identification: who was given the thing?

    >>> from interp import tasks
    >>> pairs = tasks.ioi(64, seed=0)
    >>> pairs[1].clean.text
    'One morning Aaron and Daniel met at the market, and Aaron handed a basket to'
    >>> pairs[1].answers, pairs[1].wrong, pairs[1].template
    ((' Daniel',), (' Aaron',), 'ioi/0-BABA')

Two people are named, one of them, the subject S, is named again as the giver, and the sentence breaks off before the
receiver: the indirect object IO, the name said once. The task and the roles are those of Wang et al., *Interpretability in
the Wild* (arXiv 2211.00593); templates and words are our own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from interp.errors import UnknownNameError
from interp.prompts import Pair, Pairs, Prompt
from interp.protocols import Tokenizer
from interp.tasks import lexicon
from interp.tasks.draw import Draw, balanced
from interp.tasks.template import Template, check_lengths, last_word, word_after

#: Shapes: opener and place (0, 1), temporal clause (2, 3), place or object first (4–7), speech (8, 9).
IOI_TEMPLATES: tuple[Template, ...] = (
    Template("ioi/0", "One morning {first} and {second} met at the {place}, and {giver} handed a {object} to"),
    Template("ioi/1", "Last week {first} and {second} spent a day at the {place}. Before leaving, {giver} gave a {object} to"),
    Template("ioi/2", "After {first} and {second} came back from the {place}, {giver} gave a {object} to"),
    Template("ioi/3", "While {first} and {second} were waiting at the {place}, {giver} passed a {object} to"),
    Template("ioi/4", "At the {place} there were only {first} and {second}, so {giver} offered a {object} to"),
    Template("ioi/5", "The {place} was quiet when {first} and {second} came in. Soon {giver} showed a {object} to"),
    Template("ioi/6", "The {object} was still in the {place} when {first} and {second} found it, and {giver} gave it to"),
    Template("ioi/7", "A {object} was what {first} and {second} saw first at the {place}, and {giver} gave it to"),
    Template("ioi/8", 'In the {place}, {first} and {second} sat down. "This {object} is yours," said {giver} and gave it to'),
    Template("ioi/9", 'As {first} and {second} left the {place}, {giver} said: "Take this {object}," and handed it to'),
)

ORDERS = ("ABBA", "BABA")

CORRUPTIONS = ("swap", "order", "abc", "names")


def render_ioi(template: Template, order: str, *, io: str, s: str, place: str, object: str, giver: str | None = None) -> Prompt:
    """One prompt with its roles.

    >>> render_ioi(IOI_TEMPLATES[2], "BABA", io="Mary", s="John", place="park", object="book").text
    'After John and Mary came back from the park, John gave a book to'

    Args:
        template: one of ``IOI_TEMPLATES``, or your own with the slots first, second, giver, place and object.
        order: "ABBA" names the indirect object first, "BABA" the subject.
        io: name of the indirect object.
        s: name of the subject.
        place: filler.
        object: filler.
        giver: who stands at S2; None for the subject.

    Returns:
        The prompt with the roles IO, S1, S1+1 (the word or mark after S1), S2 and END (the last word), spans in characters
        without the space before. Roles are *places in the sentence*: S2 is the giver's place, whoever stands there.
    """
    if order not in ORDERS:
        raise UnknownNameError("order", order, ORDERS)
    first, second = (io, s) if order == "ABBA" else (s, io)
    prompt = template.render(first=first, second=second, giver=s if giver is None else giver, place=place, object=object)
    at, text = prompt.roles, str(prompt.text)
    io_span, s_span = (at["first"], at["second"]) if order == "ABBA" else (at["second"], at["first"])
    roles = {"IO": io_span, "S1": s_span, "S1+1": word_after(text, s_span[1]), "S2": at["giver"], "END": last_word(text)}
    return Prompt(text, roles)


def ioi(
    n: int = 64,
    *,
    seed: int = 0,
    corruption: str = "swap",
    order: str = "both",
    templates: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    places: Sequence[str] | None = None,
    objects: Sequence[str] | None = None,
    tokenizer: Tokenizer | None = None,
) -> Pairs:
    """Pairs of indirect-object prompts.

    >>> train, _, test = lexicon.split(lexicon.NAMES)
    >>> held_out = ioi(512, seed=1, names=test, templates=[0, 3], corruption="abc")

    With the clean prompt's names IO and S, in the clean prompt's template, place and object:

    ========  ==========================================  ==========================================================
    name      corrupted prompt                            what it leaves
    ========  ==========================================  ==========================================================
    "swap"    S2 becomes IO; nothing else changes         a natural prompt whose answer is S: answer and wrong trade places
    "order"   IO and S1 trade places; S2 stays            a natural prompt with the *same* answer IO: only position changed
    "abc"     IO, S1, S2 become three new names           nobody is named twice, so nothing says who receives
    "names"   IO becomes a new name, S1 and S2 another    a natural prompt of the same order about two other people
    ========  ==========================================  ==========================================================

    Answer and wrong are always the clean prompt's IO and S. Under "order" the corrupted prompt prefers the same answer, so a
    recovery between the two has a denominator near zero; under "abc" and "names" neither name occurs in the corrupted prompt.
    The roles of a corrupted prompt are the same places as in its clean prompt (under "order", its IO place holds S).

    Args:
        n: number of pairs. The first pairs do not depend on it.
        seed: chooses everything; the clean prompts do not depend on ``corruption``.
        corruption: "swap", "order", "abc" or "names".
        order: "ABBA" (IO named first), "BABA", or "both" in equal numbers.
        templates: indices into ``IOI_TEMPLATES``; None for all. Templates and orders are used equally often (± 1).
        names: fillers to restrict to; None for the lexicon's.
        places: as ``names``.
        objects: as ``names``. They stand after "a" in most templates.
        tokenizer: if given, fillers are single tokens of it (the lexicon's other words are left out, your own are refused) and
            both prompts of every pair have equally many tokens (checked).

    Returns:
        Pairs whose ``template`` reads like "ioi/3-BABA" and whose entities are IO, S and then the names that the corruption
        brought in. Answers have a leading space.

    Raises:
        UnknownNameError: no such corruption, order or template.
        UnequalLengthsError: a given filler is not one token of ``tokenizer``.
        ValueError: too few or repeated fillers, a name that is also another word of the prompt, or n < 1.
    """
    if n < 1:
        raise ValueError(f"n={n}: at least one pair is needed")
    if corruption not in CORRUPTIONS:
        raise UnknownNameError("corruption", corruption, CORRUPTIONS, "of ioi")
    if order not in (*ORDERS, "both"):
        raise UnknownNameError("order", order, (*ORDERS, "both"), "of ioi")
    indices = range(len(IOI_TEMPLATES)) if templates is None else templates
    for index in indices:
        if not 0 <= index < len(IOI_TEMPLATES):
            raise UnknownNameError("template", index, map(str, range(len(IOI_TEMPLATES))), "of ioi")
    if not indices:
        raise ValueError("templates is empty; give indices into IOI_TEMPLATES, or None for all of them")
    new = {"abc": 3, "names": 2}.get(corruption, 0)
    fill = {
        "names": lexicon.choose("names", names, "names", tokenizer, least=2 + new),
        "places": lexicon.choose("places", places, "places", tokenizer, least=1),
        "objects": lexicon.choose("objects", objects, "objects", tokenizer, least=1),
    }
    _refuse_names_elsewhere(fill, [IOI_TEMPLATES[i] for i in indices])
    kinds = [(i, o) for i in indices for o in (ORDERS if order == "both" else (order,))]
    items = tuple(
        _pair(IOI_TEMPLATES[i], o, corruption, fill, Draw("ioi", seed, k))
        for k, (i, o) in enumerate(balanced("ioi", seed, n, kinds))
    )
    if tokenizer is not None:
        check_lengths(items, tokenizer)
    made_by = {
        "task": "ioi", "n": n, "seed": seed, "corruption": corruption, "order": order,
        "templates": [IOI_TEMPLATES[i].id for i in indices],
        "single_token": tokenizer is not None,
        "lexicon": lexicon.record(fill),
    }  # fmt: skip
    return Pairs(items, task="ioi", made_by=made_by)


def _refuse_names_elsewhere(fill: dict[str, tuple[str, ...]], templates: Sequence[Template]) -> None:
    """A name that also stands elsewhere in the prompt would be repeated without being the subject."""
    for where, words in (
        *((key, set(fill[key])) for key in ("places", "objects")),
        *((f"template {template.id!r}", set(re.findall(r"\w+", template.text))) for template in templates),
    ):
        for name in fill["names"]:
            if name in words:
                raise ValueError(
                    f"names holds {name!r}, which is also a word of {where}; a name must occur only where it is put"
                )


def _pair(template: Template, order: str, corruption: str, fill: dict[str, tuple[str, ...]], draw: Draw) -> Pair:
    io, s = draw.distinct(fill["names"], 2)
    place, thing = draw.pick(fill["places"]), draw.pick(fill["objects"])
    clean = render_ioi(template, order, io=io, s=s, place=place, object=thing)
    new = draw.distinct(fill["names"], {"abc": 3, "names": 2}.get(corruption, 0), without=(io, s))
    if corruption == "swap":
        who = {"io": io, "s": s, "giver": io}
    elif corruption == "order":
        who = {"io": s, "s": io, "giver": s}
    else:  # "abc" has a third new name for the giver, "names" has the new subject again
        who = {"io": new[0], "s": new[1], "giver": new[-1]}
    corrupted = render_ioi(template, order, place=place, object=thing, **who)
    return Pair(clean, corrupted, (" " + io,), (" " + s,), f"{template.id}-{order}", (io, s, *new))
