"""Greater-than: an event that began in one year ends in a later one.

    >>> from interp import tasks
    >>> pair = tasks.greater_than(64, seed=0)[0]
    >>> pair.clean.text
    'The struggle lasted from the year 1471 to the year 14'
    >>> pair.answers[:2], pair.wrong[-2:], pair.corrupted.text
    (('72', '73'), ('70', '71'), 'The struggle lasted from the year 1401 to the year 14')

The task is that of Hanna et al., *How does GPT-2 compute greater-than?* (arXiv 2305.00586); templates and nouns are our own.
"""

from __future__ import annotations

from collections.abc import Sequence

from interp.errors import AnswerError, UnknownNameError
from interp.prompts import Pair, Pairs, Prompt
from interp.protocols import Tokenizer, spelled
from interp.tasks import lexicon
from interp.tasks.draw import Draw, balanced
from interp.tasks.template import Template, check_lengths

GREATER_THAN_TEMPLATES: tuple[Template, ...] = (
    Template("greater_than/0", "The {noun} lasted from the year {xx}{yy} to the year {end}"),
    Template("greater_than/1", "The {noun} went on from the year {xx}{yy} until the year {end}"),
    Template("greater_than/2", "The {noun} began in the year {xx}{yy} and ended in the year {end}"),
    Template("greater_than/3", "The {noun} started in {xx}{yy} and was not over before {end}"),
    Template("greater_than/4", "According to the book, the {noun} ran from {xx}{yy} to {end}"),
)

#: The eleventh hundred is left out: GPT-2 writes half of its years in other ways (" 110" "2", " 1" "120").
CENTURIES: tuple[str, ...] = ("12", "13", "14", "15", "16", "17")

TWO_DIGITS: tuple[str, ...] = tuple(f"{yy:02}" for yy in range(100))

#: The corrupted year, after which every clean year lies.
FIRST = "01"

CORRUPTIONS = ("01",)

#: Years that GPT-2 writes as one token, or as " 130" "2": left out where no tokenizer is given.
_ODD = {"1280", "1440", *(f"13{yy:02}" for yy in range(2, 10)), *(f"15{yy:02}" for yy in range(2, 10))}

#: From the second to the last but one of each century, so that clean and corrupted differ and an answer is left.
YEARS: tuple[str, ...] = tuple(c + yy for c in CENTURIES for yy in TWO_DIGITS[2:99] if c + yy not in _ODD)


def render_greater_than(template: Template, *, noun: str, year: str) -> Prompt:
    """One prompt with its roles.

    >>> render_greater_than(GREATER_THAN_TEMPLATES[0], noun="war", year="1732").text
    'The war lasted from the year 1732 to the year 17'

    Returns:
        The prompt with the roles NOUN, XX1 (the first century), YY (the first year), XX2 and END (the second century, the
        last token: two names of one span).
    """
    century, yy = year[:2], year[2:]
    prompt = template.render(noun=noun, xx=century, yy=yy, end=century)
    at = prompt.roles
    return Prompt(prompt.text, {"NOUN": at["noun"], "XX1": at["xx"], "YY": at["yy"], "XX2": at["end"], "END": at["end"]})


def _alone(yy: str, tokenizer: Tokenizer) -> list[int]:
    """The one token of two digits that continue a word, or nothing."""
    ids = tokenizer.encode(yy, add_special_tokens=False)
    return ids if len(ids) == 1 and str(tokenizer.decode(ids)).strip() == yy else []


def splits(year: str, tokenizer: Tokenizer) -> bool:
    """Whether ``tokenizer`` writes " 1732" as the token " 17" and the token "32", the same as "32" has when it stands alone."""
    head, tail = lexicon.following(" " + year[:2], tokenizer), _alone(year[2:], tokenizer)
    return len(head) == 1 and bool(tail) and lexicon.following(" " + year, tokenizer) == head + tail


def usable_years(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The years of ``CENTURIES`` that ``tokenizer`` writes as century and year.

    Raises:
        AnswerError: there is none, or the two-digit answers are not all tokens; it says how the tokenizer writes " 1732".
    """
    good = {c: [yy for yy in TWO_DIGITS if splits(c + yy, tokenizer)] for c in CENTURIES}
    years = tuple(c + yy for c, found in good.items() if FIRST in found for yy in found if FIRST < yy < "99")
    missing = [yy for yy in TWO_DIGITS if not _alone(yy, tokenizer)]
    if not years or missing:
        raise AnswerError(
            "greater_than needs a tokenizer that writes a year as two tokens, ' 17' and '32', as GPT-2 does; "
            + _written("1732", tokenizer)
            + (f", and has no token for {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}" if years else "")
        )
    return years


def _written(year: str, tokenizer: Tokenizer) -> str:
    ids = lexicon.following(" " + year, tokenizer)
    return f"this one writes ' {year}' as {len(ids)} token{'' if len(ids) == 1 else 's'} {spelled(tokenizer, ids)}"


def _choose_years(years: Sequence[str] | None, tokenizer: Tokenizer | None) -> tuple[str, ...]:
    if years is None:
        return YEARS if tokenizer is None else usable_years(tokenizer)
    if not years:
        raise ValueError("years is empty; give four-digit years, or None for YEARS")
    for year in years:
        if not (len(year) == 4 and year.isdigit() and FIRST < year[2:] < "99"):
            raise AnswerError(f"years holds {year!r}; four digits are needed, of which the last two lie between 02 and 98")
        if tokenizer is not None and not (splits(year, tokenizer) and splits(year[:2] + FIRST, tokenizer)):
            odd = year if not splits(year, tokenizer) else year[:2] + FIRST
            raise AnswerError(f"years holds {year!r}; century and year must be two tokens, but {_written(odd, tokenizer)}")
    return tuple(dict.fromkeys(years))


def greater_than(
    n: int = 64,
    *,
    seed: int = 0,
    corruption: str = "01",
    templates: Sequence[int] | None = None,
    nouns: Sequence[str] | None = None,
    years: Sequence[str] | None = None,
    tokenizer: Tokenizer | None = None,
) -> Pairs:
    """Pairs of greater-than prompts.

    Clean: an event began in the year XXYY and ended in XX__. Corrupted ("01"): the same prompt with YY = 01, for which every
    later year is right, so nothing but YY says where the right answers begin. Answers are the two-digit tokens after YY, wrong
    ones those up to and including YY, together all hundred of them. They continue a token and have *no* leading space.

    Args:
        n: number of pairs. The first pairs do not depend on it.
        seed: chooses everything.
        corruption: "01".
        templates: indices into ``GREATER_THAN_TEMPLATES``; None for all. Templates are used equally often (± 1), and so are
            the two-digit years YY.
        nouns: fillers to restrict to; None for the lexicon's events.
        years: four-digit years to restrict to, such as ("1732", "1733"); None for ``YEARS``, or what ``tokenizer`` allows.
        tokenizer: if given, nouns are single tokens of it, years are two (the others are left out, your own are refused), and
            both prompts of every pair have equally many tokens (checked).

    Returns:
        Pairs whose ``template`` reads like "greater_than/3" and whose entities are the noun and the year.

    Raises:
        UnknownNameError: no such corruption or template.
        AnswerError: the tokenizer does not write years as century and year, or a given year is not usable.
        UnequalLengthsError: a given noun is not one token of ``tokenizer``.
        ValueError: too few or repeated fillers, or n < 1.
    """
    if n < 1:
        raise ValueError(f"n={n}: at least one pair is needed")
    if corruption not in CORRUPTIONS:
        raise UnknownNameError("corruption", corruption, CORRUPTIONS, "of greater_than")
    indices = range(len(GREATER_THAN_TEMPLATES)) if templates is None else templates
    for index in indices:
        if not 0 <= index < len(GREATER_THAN_TEMPLATES):
            raise UnknownNameError("template", index, map(str, range(len(GREATER_THAN_TEMPLATES))), "of greater_than")
    if not indices:
        raise ValueError("templates is empty; give indices into GREATER_THAN_TEMPLATES, or None for all of them")
    events = lexicon.choose("nouns", nouns, "events", tokenizer, least=1)
    span = _choose_years(years, tokenizer)
    by_yy: dict[str, list[str]] = {}
    for year in span:
        by_yy.setdefault(year[2:], []).append(year)
    frames = balanced("greater_than/template", seed, n, [GREATER_THAN_TEMPLATES[i] for i in indices])
    endings = balanced("greater_than/yy", seed, n, sorted(by_yy))
    items = []
    for k, (template, yy) in enumerate(zip(frames, endings, strict=True)):
        draw = Draw("greater_than", seed, k)
        noun, year = draw.pick(events), draw.pick(by_yy[yy])
        clean = render_greater_than(template, noun=noun, year=year)
        corrupted = render_greater_than(template, noun=noun, year=year[:2] + FIRST)
        later = int(yy) + 1
        items.append(Pair(clean, corrupted, TWO_DIGITS[later:], TWO_DIGITS[:later], template.id, (noun, year)))
    if tokenizer is not None:
        check_lengths(items, tokenizer)
    made_by = {
        "task": "greater_than", "n": n, "seed": seed, "corruption": corruption,
        "templates": [GREATER_THAN_TEMPLATES[i].id for i in indices],
        "single_token": tokenizer is not None,
        "lexicon": lexicon.record({"events": events, "years": span}),
    }  # fmt: skip
    return Pairs(tuple(items), task="greater_than", made_by=made_by)
