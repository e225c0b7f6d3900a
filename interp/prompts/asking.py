"""Pairs without a dataset class: from texts, lists, a table or JSON lines.

    >>> pairs("The capital of France is", "The capital of Italy is", " Paris", " Rome")
    Pairs(pairs, 1 pair)
    >>> countries = {"France": " Paris", "Italy": " Rome", "Spain": " Madrid"}
    >>> made = pairs([f"The capital of {c} is" for c in countries], "The capital of Peru is", list(countries.values()), " Lima",
    ...              roles={"country": [(c, "Peru") for c in countries]}, entity=list(countries))
    >>> made, made[1].corrupted.roles
    (Pairs(pairs, 3 pairs), {'country': (15, 19)})
    >>> pairs(frame, counterfactual="cf", entity=["country", "other"])                       # doctest: +SKIP
    >>> pairs("capitals.jsonl")                                                              # doctest: +SKIP

A list has one value a pair, anything else serves all of them; what is several within one pair – answers of equal standing, a
role's texts in both prompts – is a tuple.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from interp.errors import AnswerError, AnswerWarning, InputError, PositionError
from interp.prompts.chats import is_chat
from interp.prompts.pairs import Pair, Pairs, Prompt, listed, one_answer
from interp.prompts.tables import Row, as_table, blank, rows_of

_WANTED = {
    "clean": "the prompt with the behaviour",
    "counterfactual": "its contrast, from which values are taken and which says what a full effect is; pass the prompt that "
    "differs in what you ask about",
    "answer": "what the model should say after the clean prompt; for metrics that read none, such as 'kl', pass answer=()",
}


def pairs(
    given: Any = None,
    /,
    counterfactual: Any = None,
    answer: Any = None,
    wrong: Any = None,
    *,
    clean: Any = None,
    roles: Any = None,
    template: Any = None,
    entity: Any = None,
    task: str = "pairs",
) -> Pairs:
    """Make pairs of prompts.

    Args:
        given: the clean prompts – a text, token ids, a chat or a :class:`interp.Prompt`, or a list of such – or a table: a
            data frame of pandas, a list of records, a mapping of columns, or a path to JSON lines. Of a table the other
            arguments name the columns; by default they are called as the arguments are (also ``corrupted``, ``answers``,
            ``entities``).
        counterfactual: the contrast of every clean prompt.
        answer: what the model should say after the clean prompt, exactly as it follows, so usually with a leading space; or a
            token id. A tuple holds several of equal standing.
        wrong: what it should not say, usually right after the counterfactual.
        clean: the clean prompts by name, where ``given`` is left out; of a table the name of their column.
        roles: parts by name: ``{"city": "Paris"}`` the text that is covered in both prompts, ``{"city": ("Paris", "Rome")}``
            in the clean and in the counterfactual one; ``("Paris", 1)`` its second occurrence, ``(0, 5)`` a span. A list has
            one of these a pair, and so has a list of such mappings. In a table a text that names a column stands for it.
        template: id of the template, by which intervals cluster and :meth:`interp.Pairs.split` splits.
        entity: id of what fills the template, or a tuple of several; of a table the name of a column or a list of names.
        task: a name for the pairs.

    Raises:
        InputError: a column is missing or has another length, or a prompt is none.
        AnswerError: an answer is blank, or only one of answer and wrong begins with a space.
        PositionError: a role is not in its prompt, or there several times.
        UnknownNameError: a column that the table does not have.

    Warns:
        AnswerWarning: a prompt and its answer would be read as one word, or with two spaces between them.
    """
    columns = {"clean": clean, "counterfactual": counterfactual, "answer": answer, "wrong": wrong}
    columns |= {"template": template, "entity": entity, "roles": roles}
    table = as_table(given, alone=all(value is None for value in columns.values()))
    if table is not None:
        found, source = table.rows(columns), table.source
    else:
        if given is not None and clean is not None:
            raise InputError("the clean prompts are given twice, as the first argument and as clean=…")
        columns["clean"] = clean if given is None else given
        for name in ("clean", "counterfactual", "answer"):
            if columns[name] is None:
                raise _lacking(name)
        found, source = rows_of(columns, _single), "arguments"
    made = Pairs(tuple(_pair(row) for row in found), task, {"from": source})
    _warn_of_spaces(made)
    return made


def _single(column: str, value: Any) -> bool:
    """Whether a value of an argument is one, which serves every pair, rather than a list with one a pair."""
    if column in ("clean", "counterfactual"):
        return isinstance(value, str | Prompt | Mapping) or is_chat(value) or _is_ids(value)
    return not isinstance(value, list) and not (hasattr(value, "tolist") and getattr(value, "ndim", 0) > 0)


def _is_ids(value: Any) -> bool:
    if hasattr(value, "ndim"):
        return bool(value.ndim == 1) and str(value.dtype).rpartition(".")[2].startswith(("int", "uint"))
    return isinstance(value, Sequence) and len(value) > 0 and all(isinstance(token, Integral) for token in value)


def _lacking(name: str, row: Row | None = None) -> InputError | AnswerError:
    kind = AnswerError if name == "answer" else InputError
    where = "" if row is None else f"{row.where}, column {row.names.get(name, name)!r}: "
    return kind(f"{where}{name} is missing: {_WANTED[name]}")


def _pair(row: Row) -> Pair:
    """The pair of one row; what is wrong with it is said with its row and column."""
    for name in _WANTED:
        if blank(row[name]):
            raise _lacking(name, row)
    roles = _roles(row)
    clean, corrupted = (_prompt(row, name, own) for name, own in zip(("clean", "counterfactual"), roles, strict=True))
    answers, wrong = (_answers(row, name) for name in ("answer", "wrong"))
    _check_spaces(row, answers, wrong)
    entity = row["entity"]
    entities = () if blank(entity) else (entity,) if isinstance(entity, str | Integral) else tuple(entity)
    template = "" if blank(row["template"]) else str(row["template"])
    named = tuple(str(one) for one in entities if not blank(one))
    try:
        return Pair(clean, corrupted, answers, wrong, template, named, _sources(row))
    except AnswerError as error:
        raise AnswerError(f"{row.where}: {error}") from error


def _prompt(row: Row, name: str, roles: Mapping[str, Any]) -> Prompt:
    value = row[name]
    where = f"{row.where}, column {row.names.get(name, name)!r}"
    try:
        if isinstance(value, Mapping):
            return _of_record(value, roles)
        if isinstance(value, Prompt):
            return Prompt(
                value.text, {**value.roles, **roles}, value.target, value.images, value.inputs, value.messages, value.templated
            )
        if not isinstance(value, str) and not is_chat(value) and not _is_ids(value):
            raise InputError(f"{value!r} is {type(value).__name__}; expected a text, token ids, a chat or an interp.Prompt")
        return Prompt(value, roles)
    except PositionError as error:
        both = "" if name == "clean" else "; where the prompts differ, a role has the texts of both: ('Paris', 'Rome')"
        raise PositionError(f"{where}: {error}{both}") from error
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _of_record(record: Mapping[str, Any], roles: Mapping[str, Any]) -> Prompt:
    """A prompt from an object of JSON lines."""
    if strange := set(record) - {"text", "roles", "target", "templated"}:
        raise InputError(f"a prompt that is an object has text, roles, target and templated, but here {sorted(strange)}")
    target = record.get("target")
    target = _of_record(target, {}) if isinstance(target, Mapping) else target
    own = {**record.get("roles", {}), **roles}
    return Prompt(record.get("text", ""), own, target, templated=bool(record.get("templated")))


def _sources(row: Row) -> dict[str, Prompt]:
    """Further prompts by name."""
    given = {} if blank(row["sources"]) else row["sources"]
    if not isinstance(given, Mapping):
        raise InputError(f"{row.where}: sources is {given!r}; expected a mapping of names to prompts")
    return {
        str(name): one if isinstance(one, Prompt) else _of_record(one, {}) if isinstance(one, Mapping) else Prompt(one)
        for name, one in given.items()
    }


def _roles(row: Row) -> tuple[dict[str, Any], dict[str, Any]]:
    """What each role covers in the clean prompt and in the counterfactual one; None where it is not there."""
    given = {} if blank(row["roles"]) else row["roles"]
    if not isinstance(given, Mapping):
        raise InputError(f"{row.where}: roles is {given!r}; expected a mapping such as {{'city': 'Paris'}}")
    if given and all(isinstance(own, Mapping) for own in given.values()):
        sides = [given.get("clean", {}), given.get("counterfactual", given.get("corrupted", {}))]
        if strange := set(given) - {"clean", "counterfactual", "corrupted"}:
            raise InputError(
                f"{row.where}: roles of both prompts have the keys clean and counterfactual, not {sorted(strange)}"
            )
    else:
        both = {role: _both(said) for role, said in given.items()}
        sides = [{role: said[side] for role, said in both.items()} for side in (0, 1)]
    one, other = ({role: said for role, said in side.items() if not blank(said)} for side in sides)
    return one, other


def _both(said: Any) -> tuple[Any, Any]:
    """What is said of a role in the clean prompt and in the other: ``("Paris", "Rome")``, unlike ``("Paris", 1)``."""
    if isinstance(said, tuple | list) and len(said) == 2 and not isinstance(said[1], Integral):
        return said[0], said[1]
    return said, said


def _answers(row: Row, name: str) -> tuple[Any, ...]:
    """Answers of equal standing: texts, token ids, or sequences of ids."""
    value = row[name]
    if blank(value):
        return ()
    several = listed(value)
    found: list[Any] = []
    for one in several if isinstance(several, tuple | list) else [several]:
        where = f"{row.where}, column {row.names.get(name, name)!r}"
        try:
            found.append(one_answer(one))
        except AnswerError as error:
            raise AnswerError(f"{where}: {error}") from error
        if isinstance(found[-1], str) and not found[-1].strip():
            raise AnswerError(f"{where}: {one!r} is blank; expected a text such as ' Paris', as it follows the prompt")
    return tuple(found)


def _check_spaces(row: Row, answers: Sequence[Any], wrong: Sequence[Any]) -> None:
    """Raise if words are compared of which only some begin with a space: their first tokens are of different kinds."""
    words = [one for one in (*answers, *wrong) if isinstance(one, str) and one.strip()[0].isalnum()]
    spaced, bare = ([one for one in words if one[0].isspace() == with_space] for with_space in (True, False))
    if spaced and bare:
        raise AnswerError(
            f"{row.where}: {spaced[0]!r} begins with a space and {bare[0]!r} does not, so that a tokenizer makes different "
            f"kinds of tokens of them; write both as they follow the prompt, usually {' ' + bare[0]!r}, and in a chat "
            f"{spaced[0].strip()!r}"
        )


def _warn_of_spaces(made: Pairs) -> None:
    """Warn of answers that their prompts do not leave room for, or leave it twice."""
    odd = [(i, pair.clean.text, one) for i, pair in enumerate(made) for one in pair.answers if _runs_on(pair.clean, one)]
    if odd:
        number, text, answer = odd[0]
        many = len({i for i, *_ in odd})
        warnings.warn(
            f"{many} of {len(made)} pairs, such as pair {number}, read {'…' + str(text)[-12:] + str(answer)!r}: an answer is "
            "written exactly as it follows the prompt, with the space between them in front of the answer",
            AnswerWarning,
            stacklevel=3,
        )


def _runs_on(prompt: Prompt, answer: Any) -> bool:
    chat = bool(prompt.messages) or prompt.templated
    if not isinstance(prompt.text, str) or not isinstance(answer, str) or chat or prompt.target is not None:
        return False
    last, first = prompt.text[-1:], answer[0]
    joined = last.isascii() and first.isascii() and last.isalpha() and first.isalpha()
    return joined or (last == " " and first == " ")
