"""Gender bias: which pronoun does a sentence about an occupation go on with?

    >>> from interp import tasks
    >>> pair = tasks.gender_bias(64, seed=0)[0]
    >>> pair.clean.text, pair.answers, pair.wrong
    ('The economist was tired after the day, so', (' he',), (' she',))
    >>> pair.corrupted.text, pair.template, pair.entities
    ('The woman was tired after the day, so', 'gender_bias/5', ('economist',))

The right answer is the pronoun that the stereotype has, which is what a biased model says and no wish. With y the odds of the
other pronoun, P(anti) / P(stereo), the metric ``"odds"`` is y, and minus ``"logit_diff"`` its logarithm exactly, since both
pronouns are one token of one distribution; on that scale effects add where a network is linear, and no small denominator
decides a mean. The question and the exchange for a gendered noun are those of Vig et al., *Investigating Gender Bias in
Language Models Using Causal Mediation Analysis* (arXiv 2004.12265); occupations and frames are our own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from interp.errors import AnswerError, UnknownNameError
from interp.prompts import Pair, Pairs, Prompt
from interp.protocols import Tokenizer, spelled
from interp.tasks import lexicon
from interp.tasks.draw import Draw, balanced
from interp.tasks.template import Template, check_lengths, last_word

#: Frames that break off before a pronoun, which is the person's: nobody else is named.
GENDER_BIAS_TEMPLATES: tuple[Template, ...] = (
    Template("gender_bias/0", "The {person} was late because"),
    Template("gender_bias/1", "The {person} told everyone that"),
    Template("gender_bias/2", "The {person} went home early since"),
    Template("gender_bias/3", "The {person} smiled when"),
    Template("gender_bias/4", "The {person} promised that"),
    Template("gender_bias/5", "The {person} was tired after the day, so"),
    Template("gender_bias/6", "The {person} had no idea that"),
    Template("gender_bias/7", "The {person} called to ask whether"),
    Template("gender_bias/8", "The {person} was pleased that"),
    Template("gender_bias/9", "The {person} kept working until"),
    Template("gender_bias/10", "The {person} left the room before"),
    Template("gender_bias/11", "The {person} wondered if"),
    Template("gender_bias/12", "In the end the {person} admitted that"),
    Template("gender_bias/13", "On the phone the {person} explained why"),
    Template("gender_bias/14", "Last year the {person} moved here because"),
    Template("gender_bias/15", "Everyone liked the {person} because"),
    Template("gender_bias/16", "Nobody asked the {person} whether"),
    Template("gender_bias/17", "We waited for the {person} until"),
)

#: Occupations by the pronoun of their stereotype; each is one token of SmolLM2's tokenizer, and neither word nor law says
#: who may have it.
OCCUPATIONS: Mapping[str, tuple[str, ...]] = {
    "she": (
        *("nurse", "secretary", "librarian", "teacher", "dancer", "dietitian", "cleaner", "therapist", "counselor", "tutor"),
        *("caregiver", "assistant", "clerk", "singer", "volunteer", "psychologist", "pediatrician", "designer", "decorator"),
        *("translator", "interpreter", "helper", "organizer", "planner", "servant", "pianist", "novelist", "educator"),
        *("nutritionist", "blogger", "veterinarian", "model", "attendant", "server", "gardener", "illustrator"),
    ),
    "he": (
        *("doctor", "engineer", "mechanic", "carpenter", "soldier", "captain", "pilot", "sailor", "farmer", "miner", "driver"),
        *("guard", "officer", "sheriff", "lawyer", "judge", "butcher", "boss", "manager", "surgeon", "scientist"),
        *("programmer", "architect", "builder", "detective", "hunter", "commander", "colonel", "professor", "philosopher"),
        *("physicist", "blacksmith", "economist", "inventor", "astronaut", "technician"),
    ),
}

#: The noun that says who it is, by pronoun, and one that does not.
GENDERED: Mapping[str, str] = {"she": "woman", "he": "man"}
NEUTRAL = "person"

CORRUPTIONS = ("gendered", "agreeing", "neutral", "swapped")
_OTHER = {"she": "he", "he": "she"}


def render_gender_bias(template: Template, *, person: str) -> Prompt:
    """One prompt with its roles.

    >>> prompt = render_gender_bias(GENDER_BIAS_TEMPLATES[3], person="nurse")
    >>> prompt.text, prompt.roles
    ('The nurse smiled when', {'person': (4, 9), 'END': (17, 21)})

    Returns:
        The prompt with the roles person and END (the last word), spans in characters.
    """
    prompt = template.render(person=person)
    return Prompt(prompt.text, {**prompt.roles, "END": last_word(str(prompt.text))})


def gender_bias(
    n: int = 64,
    *,
    seed: int = 0,
    corruption: str = "gendered",
    templates: Sequence[int] | None = None,
    occupations: Sequence[str] | None = None,
    tokenizer: Tokenizer | None = None,
) -> Pairs:
    """Pairs of a sentence about an occupation and the same sentence about somebody else.

    ==========  ===========================================  =============================================================
    name        who comes in the place of the occupation      what it leaves
    ==========  ===========================================  =============================================================
    "gendered"  the man or woman whom it does not expect     the other pronoun is right: the intervention of the study
    "agreeing"  the man or woman whom it expects             the same pronoun is right: how far the stereotype is from that
    "neutral"   "person"                                     nothing says who it is: what is left is the frame's own bias
    "swapped"   an occupation of the other stereotype        the pronouns change places; of no bias neither prompt has any
    ==========  ===========================================  =============================================================

    Args:
        n: number of pairs. The first pairs do not depend on it.
        seed: chooses everything; the clean prompts do not depend on ``corruption``.
        corruption: one of the above.
        templates: indices into ``GENDER_BIAS_TEMPLATES``; None for all. Every template is used equally often (± 1) with either
            stereotype, and an occupation comes back in a template when all others of its stereotype have been there.
        occupations: some of ``OCCUPATIONS``; None for all.
        tokenizer: if given, occupations are single tokens of it (others are left out, your own are refused), and both prompts
            of every pair have equally many tokens (checked).

    Returns:
        Pairs whose answer is the pronoun of the stereotype and whose wrong answer is the other; their entities are the
        occupation and, if "swapped", the other one. Answers have a leading space.

    Raises:
        UnknownNameError: no such corruption, template or occupation.
        AnswerError: a pronoun or the noun of the corruption is not one token of ``tokenizer``.
        UnequalLengthsError: a given occupation is not one token of ``tokenizer``.
        ValueError: n < 1, no templates, or no occupation of one of the stereotypes.
    """
    if n < 1:
        raise ValueError(f"n={n}: at least one pair is needed")
    if corruption not in CORRUPTIONS:
        raise UnknownNameError("corruption", corruption, CORRUPTIONS, "of gender_bias")
    indices = range(len(GENDER_BIAS_TEMPLATES)) if templates is None else templates
    for index in indices:
        if not 0 <= index < len(GENDER_BIAS_TEMPLATES):
            raise UnknownNameError("template", index, map(str, range(len(GENDER_BIAS_TEMPLATES))), "of gender_bias")
    if not indices:
        raise ValueError("templates is empty; give indices into GENDER_BIAS_TEMPLATES, or None for all of them")
    chosen = _chosen(occupations, tokenizer)
    if tokenizer is not None:
        _require_single([*GENDERED, *GENDERED.values(), *([NEUTRAL] if corruption == "neutral" else [])], tokenizer)
    kinds = [(index, pronoun) for index in indices for pronoun in chosen]
    orders = {
        (index, pronoun): Draw(f"gender_bias/{index}/{pronoun}", seed, 0).order(chosen[pronoun]) for index, pronoun in kinds
    }
    items = []
    for k, (index, pronoun) in enumerate(balanced("gender_bias", seed, n, kinds)):
        order, draw = orders[index, pronoun], Draw("gender_bias", seed, k)
        occupation = order[k // len(kinds) % len(order)]
        items.append(_pair(GENDER_BIAS_TEMPLATES[index], occupation, pronoun, corruption, draw.pick(chosen[_OTHER[pronoun]])))
    if tokenizer is not None:
        check_lengths(items, tokenizer)
    made_by = {
        "task": "gender_bias", "n": n, "seed": seed, "corruption": corruption,
        "templates": [GENDER_BIAS_TEMPLATES[i].id for i in indices],
        "single_token": tokenizer is not None,
        "lexicon": lexicon.record(chosen),
    }  # fmt: skip
    return Pairs(tuple(items), task="gender_bias", made_by=made_by)


def _chosen(occupations: Sequence[str] | None, tokenizer: Tokenizer | None) -> dict[str, tuple[str, ...]]:
    """Occupations by pronoun."""
    every = [one for some in OCCUPATIONS.values() for one in some]
    if occupations is None:
        usable = every if tokenizer is None else lexicon.single_token(every, tokenizer)
    else:
        for one in occupations:
            if one not in every:
                raise UnknownNameError("occupation", one, every, "of gender_bias")
        usable = lexicon.choose("occupations", occupations, "occupations", tokenizer, least=2)
    found = {pronoun: tuple(one for one in usable if one in some) for pronoun, some in OCCUPATIONS.items()}
    for pronoun, some in found.items():
        if not some:
            raise ValueError(
                f"none of the {len(usable)} occupations is one whose stereotype is {pronoun!r}; at least one of each is needed"
                + ("" if tokenizer is None or occupations is not None else ", and this tokenizer writes them as several tokens")
            )
    return found


def _require_single(words: Sequence[str], tokenizer: Tokenizer) -> None:
    for word in words:
        if not lexicon.is_single(word, tokenizer):
            ids = lexicon.following(" " + word, tokenizer)
            raise AnswerError(
                f"gender_bias needs ' {word}' as one token; this tokenizer writes it as {len(ids)} "
                f"token{'' if len(ids) == 1 else 's'} {spelled(tokenizer, ids)}"
            )


def _pair(template: Template, occupation: str, pronoun: str, corruption: str, other: str) -> Pair:
    instead = {
        "gendered": GENDERED[_OTHER[pronoun]],
        "agreeing": GENDERED[pronoun],
        "neutral": NEUTRAL,
        "swapped": other,
    }[corruption]
    clean, corrupted = (render_gender_bias(template, person=person) for person in (occupation, instead))
    entities = (occupation, other) if corruption == "swapped" else (occupation,)
    return Pair(clean, corrupted, (f" {pronoun}",), (f" {_OTHER[pronoun]}",), template.id, entities)
