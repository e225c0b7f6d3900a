"""Arithmetic: sums and differences of two or three numbers, written without a space.

    >>> from interp import tasks
    >>> pair = tasks.arithmetic(64, seed=0)[0]
    >>> pair.clean.text, pair.answers
    ('2+21=', ('23',))
    >>> pair.corrupted.text, pair.wrong
    ('37+97=', ('134',))

All prompts of one form are one template: where a tokenizer is given, every number is one token and they are equally long.
A tokenizer that cuts numbers into digits (Llama 2, SmolLM2) leaves the operands and the answers that have one digit. The first
digit of a longer answer is not offered in its place: it is mostly known from the first digits of the operands alone.

The task is that of Mamidanna et al., *All for One* (arXiv 2509.09650): operands from 1 to 99, answers from 0 to 299.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product

from interp.errors import AnswerError, UnequalLengthsError, UnknownNameError
from interp.prompts import Pair, Pairs, Prompt
from interp.protocols import Tokenizer, spelled
from interp.tasks import lexicon
from interp.tasks.draw import Draw, balanced
from interp.tasks.template import Template

ARITHMETIC_FORMS: tuple[str, ...] = ("A+B", "A-B", "A+B+C", "A+B-C", "A-B+C", "A-B-C")

OPERANDS = range(1, 100)
ANSWERS = range(300)

CORRUPTIONS = ("operands", "A", "B", "C")

_LISTED = 20_000
"""Ways to fill a form that are written down one by one; of more than that operands are drawn until they fit."""
_TRIES = 10_000


def arithmetic_answer(form: str, numbers: Sequence[int]) -> int:
    """What comes out.

    >>> arithmetic_answer("A-B+C", (7, 5, 1))
    3
    """
    signs = f"+{form}"[::2]
    return sum(number if sign == "+" else -number for sign, number in zip(signs, numbers, strict=True))


def render_arithmetic(form: str, numbers: Sequence[int], *, before: str = "") -> Prompt:
    """One prompt with its roles.

    >>> render_arithmetic("A+B", (3, 4)).text, render_arithmetic("A+B-C", (3, 4, 5)).roles["OP2"]
    ('3+4=', (3, 4))

    Args:
        form: one of ``ARITHMETIC_FORMS``.
        numbers: the operands.
        before: a text that every prompt begins with, such as solved examples.

    Returns:
        The prompt with the roles A, OP, B, of three operands OP2 and C, and END (the equals sign).
    """
    known = iter(("OP", "OP2"))
    fillers: dict[str, str] = dict(zip("ABC", map(str, numbers), strict=False))
    slots = []
    for mark in form:
        name = mark if mark.isalpha() else next(known)
        fillers.setdefault(name, mark)
        slots.append(f"{{{name}}}")
    prompt = Template(f"arithmetic/{form}", "".join(slots) + "{END}").render(**fillers, END="=")
    roles = {role: (start + len(before), stop + len(before)) for role, (start, stop) in prompt.roles.items()}
    return Prompt(f"{before}{prompt.text}", roles)


def arithmetic(
    n: int = 64,
    *,
    seed: int = 0,
    corruption: str = "operands",
    forms: Sequence[str] = ("A+B",),
    operands: Sequence[int] | None = None,
    answers: Sequence[int] | None = None,
    before: str = "",
    tokenizer: Tokenizer | None = None,
) -> Pairs:
    r"""Pairs of sums and differences.

    Clean: operands that are drawn so that the answer is allowed. Corrupted: the same form with all operands, or one of them,
    drawn anew, so that the answer is another one, and allowed. Answers have *no* leading space.

    Args:
        n: number of pairs. The first pairs do not depend on it.
        seed: chooses everything.
        corruption: ``"operands"`` draws all of them anew, ``"A"``, ``"B"`` or ``"C"`` that one; prompts in which it could be
            no other number are left out.
        forms: of ``ARITHMETIC_FORMS``, used equally often (± 1). Of a form that can be filled in few ways, all of them are
            used equally often.
        operands: numbers to draw from, not negative; None for 1 to 99, or what ``tokenizer`` has of them.
        answers: numbers that may come out; None for 0 to 299, or what ``tokenizer`` has of them.
        before: a text that every prompt begins with, such as ``"1+1=2\n"``.
        tokenizer: if given, operands and answers are single tokens of it (others of the default ranges are left out, your own
            are refused), and all prompts of a form have equally many tokens (checked).

    Returns:
        Pairs whose ``template`` reads like "arithmetic/A+B" and whose entities are the operands.

    Raises:
        UnknownNameError: no such form or corruption.
        AnswerError: the tokenizer has not enough of the numbers, with what it makes of them.
        UnequalLengthsError: prompts of one form have different numbers of tokens.
        ValueError: nothing fits, repeated or negative numbers, or n < 1.
    """
    if n < 1:
        raise ValueError(f"n={n}: at least one pair is needed")
    if corruption not in CORRUPTIONS:
        raise UnknownNameError("corruption", corruption, CORRUPTIONS, "of arithmetic")
    if isinstance(forms, str) or not forms:
        raise ValueError(f"forms={forms!r}: give a list of some of {', '.join(ARITHMETIC_FORMS)}")
    for form in forms:
        if form not in ARITHMETIC_FORMS:
            raise UnknownNameError("form", form, ARITHMETIC_FORMS, "of arithmetic")
        if len(corruption) == 1 and corruption not in form:
            raise UnknownNameError(
                "corruption", corruption, [c for c in CORRUPTIONS if c in form or len(c) > 1], f"of {form!r}"
            )
    drawn_from = _numbers("operands", operands, OPERANDS, tokenizer, least=2)
    allowed = frozenset(_numbers("answers", answers, ANSWERS, tokenizer, least=2))
    ways = {form: _ways(form, drawn_from, allowed, corruption) for form in dict.fromkeys(forms)}
    order = balanced("arithmetic/form", seed, n, list(forms))
    even = {form: balanced(f"arithmetic/{form}", seed, order.count(form), way) if way else () for form, way in ways.items()}
    used = dict.fromkeys(ways, 0)
    items = []
    for k, form in enumerate(order):
        draw = Draw("arithmetic", seed, k)
        numbers = even[form][used[form]] if ways[form] else _drawn(draw, form, drawn_from, allowed, corruption)
        used[form] += 1
        if corruption == "operands":
            other = _drawn(draw, form, drawn_from, allowed - {arithmetic_answer(form, numbers)}, corruption)
        else:
            other = draw.pick(_others(form, numbers, drawn_from, allowed, corruption))
        clean, corrupted = (render_arithmetic(form, each, before=before) for each in (numbers, other))
        right, wrong = (str(arithmetic_answer(form, each)) for each in (numbers, other))
        items.append(Pair(clean, corrupted, (right,), (wrong,), f"arithmetic/{form}", tuple(map(str, numbers))))
    if tokenizer is not None:
        _check_one_length(items, tokenizer)
    lists = {"operands": drawn_from, "answers": sorted(allowed)}
    made_by = {
        "task": "arithmetic", "n": n, "seed": seed, "corruption": corruption, "forms": list(forms), "before": before,
        "single_token": tokenizer is not None,
        "lexicon": lexicon.record({name: [str(number) for number in numbers] for name, numbers in lists.items()}),
    }  # fmt: skip
    return Pairs(tuple(items), task="arithmetic", made_by=made_by)


def single_numbers(numbers: Sequence[int], tokenizer: Tokenizer) -> tuple[int, ...]:
    """Those of some numbers that ``tokenizer`` writes as one token behind an operator or an equals sign."""
    return tuple(number for number in numbers if _is_single(str(number), tokenizer))


def _is_single(number: str, tokenizer: Tokenizer) -> bool:
    for text in (f"+{number}=", f"={number}"):
        ids = lexicon.following(text, tokenizer)
        if len(ids) != len(text) - len(number) + 1 or str(tokenizer.decode(ids[1:2])).strip() != number:
            return False
    return True


def _numbers(
    argument: str, given: Sequence[int] | None, usual: range, tokenizer: Tokenizer | None, *, least: int
) -> tuple[int, ...]:
    numbers = tuple(usual if given is None else map(int, given))
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{argument} holds a number twice; give each once")
    if argument == "operands" and numbers and min(numbers) < 0:
        raise ValueError(f"operands hold {min(numbers)}; a negative operand is written with the operator, as in forms=['A-B']")
    if tokenizer is None:
        found = numbers
    else:
        found = single_numbers(numbers, tokenizer)
        if given is not None and (odd := [number for number in numbers if number not in found]):
            raise AnswerError(f"{argument} holds {odd[0]}; numbers must be one token, but {_written(str(odd[0]), tokenizer)}")
    if len(found) < least:
        said = "" if tokenizer is None else f" are single tokens; {_written('17', tokenizer)}, {_written('7', tokenizer)}"
        kind = AnswerError if tokenizer is not None else ValueError
        raise kind(f"{argument}: at least {least} numbers are needed, {len(found)} of {len(numbers)}{said or ' were given'}")
    return found


def _written(number: str, tokenizer: Tokenizer) -> str:
    ids = lexicon.following(f"={number}", tokenizer)
    return f"this tokenizer writes '={number}' as {spelled(tokenizer, ids)}"


@lru_cache(maxsize=64)
def _ways(form: str, operands: tuple[int, ...], allowed: frozenset[int], corruption: str) -> list[tuple[int, ...]]:
    """All ways to fill a form, where they are few; else none."""
    count = sum(mark.isalpha() for mark in form)
    if len(operands) ** count > _LISTED:
        return []
    found = [numbers for numbers in product(operands, repeat=count) if arithmetic_answer(form, numbers) in allowed]
    if len({arithmetic_answer(form, numbers) for numbers in found}) > 1:
        found = [numbers for numbers in found if _others(form, numbers, operands, allowed, corruption)]
        if found:
            return found
    raise ValueError(
        f"form {form!r} with these {len(operands)} operands has no two prompts that differ in {corruption} and have different "
        f"answers among the {len(allowed)} that are allowed; give more operands or answers"
    )


def _drawn(draw: Draw, form: str, operands: tuple[int, ...], allowed: frozenset[int], corruption: str) -> tuple[int, ...]:
    count = sum(mark.isalpha() for mark in form)
    for _ in range(_TRIES):
        numbers = tuple(draw.pick(operands) for _ in range(count))
        if arithmetic_answer(form, numbers) in allowed and _others(form, numbers, operands, allowed, corruption):
            return numbers
    raise ValueError(
        f"form {form!r}: none of {_TRIES} draws of its operands gave one of the {len(allowed)} answers that are allowed and "
        "could be another one; give other operands or answers"
    )


def _others(
    form: str, numbers: tuple[int, ...], operands: tuple[int, ...], allowed: frozenset[int], corruption: str
) -> list[tuple[int, ...]]:
    """Operands with another answer, where one operand is drawn anew; where all of them are, those themselves."""
    if corruption == "operands":
        return [numbers]
    at = "ABC".index(corruption)
    found = [(*numbers[:at], number, *numbers[at + 1 :]) for number in operands if number != numbers[at]]
    return [other for other in found if arithmetic_answer(form, other) in allowed]


def _check_one_length(items: Sequence[Pair], tokenizer: Tokenizer) -> None:
    first: dict[str, tuple[str, list[int]]] = {}
    for pair in items:
        for text in (str(pair.clean.text), str(pair.corrupted.text)):
            ids = tokenizer.encode(text, add_special_tokens=False)
            known, theirs = first.setdefault(pair.template, (text, ids))
            if len(ids) != len(theirs):
                raise UnequalLengthsError(
                    f"prompts of {pair.template} have different numbers of tokens\n"
                    f"  {known!r}: {spelled(tokenizer, theirs)}\n  {text!r}: {spelled(tokenizer, ids)}"
                )
