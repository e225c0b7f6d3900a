"""Rows of whatever holds columns: a data frame, a list of records, a mapping of columns, JSON lines.

>>> table = as_table([{"clean": "a", "corrupted": "b", "answers": [" c"]}])
>>> [row["counterfactual"] for row in table.rows({})]
['b']
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from interp.errors import InputError, UnknownNameError

NAMES = {
    "clean": ("clean",),
    "counterfactual": ("counterfactual", "corrupted"),
    "answer": ("answer", "answers"),
    "wrong": ("wrong",),
    "template": ("template",),
    "entity": ("entity", "entities"),
    "sources": ("sources",),
    "roles": ("roles",),
}
"""What the columns of a table are called."""
REQUIRED = ("clean", "counterfactual", "answer")


@dataclass(frozen=True)
class Row:
    """One row: values by the arguments of :func:`interp.pairs`, None where there is none."""

    values: Mapping[str, Any]
    where: str
    """Which row, in words."""
    names: Mapping[str, str]
    """What the table calls a column."""

    def __getitem__(self, column: str) -> Any:
        return self.values.get(column)


@dataclass(frozen=True)
class Table:
    """Records with the words in which each is named."""

    records: Sequence[Mapping[Any, Any]]
    where: Sequence[str]
    source: str
    """What they came from, in words."""

    def rows(self, asked: Mapping[str, Any]) -> list[Row]:
        """Rows by the arguments of :func:`interp.pairs`.

        Args:
            asked: a column's name in this table, or several for entities; roles may be a mapping, whose texts may be names.

        Raises:
            UnknownNameError: a column that the table does not have, or one that looks like a misspelling.
        """
        present = list(dict.fromkeys(str(name) for record in self.records for name in record))
        names = {column: self._name(column, asked.get(column), present) for column in NAMES if column != "roles"}
        roles = asked.get("roles")
        names["roles"] = self._name("roles", roles if not isinstance(roles, Mapping) else None, present)
        taken = {one for name in names.values() for one in (name if isinstance(name, list | tuple) else [name])}
        _refuse_misspelt(present, taken, {column for column, name in names.items() if name is None})
        found = []
        for record, where in zip(self.records, self.where, strict=True):
            values = {column: _cell(record, name) for column, name in names.items()}
            if isinstance(roles, Mapping):
                values["roles"] = {role: _said(record, said, present) for role, said in roles.items()}
            found.append(Row(values, where, {column: name for column, name in names.items() if isinstance(name, str)}))
        return found

    def _name(self, column: str, asked: Any, present: Sequence[str]) -> Any:
        """What the table calls a column; None if it has none."""
        if isinstance(asked, tuple) and not asked:  # none is wanted
            return ()
        if asked is not None:
            for one in asked if isinstance(asked, list) else [asked]:
                if one not in present:
                    raise UnknownNameError("column", one, present, f"of the table, for {column}={asked!r}")
            return asked
        found = next((name for name in NAMES[column] if name in present), None)
        if found is None and column in REQUIRED:
            raise UnknownNameError("column", column, present, f"of the table, which needs one; name yours as {column}='…'")
        return found


def as_table(given: Any, *, alone: bool = True) -> Table | None:
    """A table; None if something is prompts rather than one.

    Args:
        alone: whether no columns were given beside it, so that a text may be a path.

    Raises:
        InputError: a file that is not there, or holds no JSON lines.
    """
    if isinstance(given, PathLike) or (isinstance(given, str) and alone and _is_path(given)):
        return _of_file(Path(fspath(given)))
    if hasattr(given, "columns") and hasattr(given, "to_dict"):  # a data frame of pandas, which is not imported for this
        labels = [str(label) for label in given.index]
        return Table(given.to_dict("records"), [f"row {label}" for label in labels], "a data frame")
    if isinstance(given, Mapping):
        return Table(*_of_columns(given), "columns")
    if isinstance(given, list | tuple) and given and all(isinstance(one, Mapping) and "role" not in one for one in given):
        return Table(given, [f"record {i}" for i in range(len(given))], "records")
    return None


def rows_of(columns: Mapping[str, Any], single: Callable[[str, Any], bool]) -> list[Row]:
    """Rows from arguments, of which a single value serves every row.

    Raises:
        InputError: lists of different lengths.
    """
    roles = columns["roles"]
    flat = {name: value for name, value in columns.items() if value is not None}
    if isinstance(roles, Mapping):
        del flat["roles"]
        flat |= {f"roles[{role!r}]": said for role, said in roles.items()}
    lists = {name: list(value) for name, value in flat.items() if not single(name, value)}
    lengths = {name: len(value) for name, value in lists.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        counts = ", ".join(f"{name} {n}" for name, n in lengths.items())
        raise InputError(
            f"the lists differ in length, or are empty: {counts}; a list has one value a pair, one value serves all pairs, and "
            "what is several within one pair is a tuple, such as answer=(' Paris', ' paris') or {'city': ('Paris', 'Rome')}"
        )
    n = next(iter(lengths.values()), 1)
    found = []
    for i in range(n):
        values = {name: lists[name][i] if name in lists else value for name, value in flat.items()}
        if isinstance(roles, Mapping):
            values["roles"] = {role: values.pop(f"roles[{role!r}]") for role in roles}
        found.append(Row(values, f"pair {i}", {}))
    return found


def blank(value: Any) -> bool:
    """Whether a cell is empty: None, or what pandas puts where nothing is."""
    return value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)


def _is_path(text: str) -> bool:
    return "\n" not in text and text.lower().endswith((".jsonl", ".json", ".csv", ".tsv", ".ndjson"))


def _of_file(path: Path) -> Table:
    if path.suffix.lower() in (".csv", ".tsv"):
        raise InputError(f"{path} is no JSON lines; read it with pandas: interp.pairs(pandas.read_csv({str(path)!r}))")
    if not path.is_file():
        raise InputError(f"there is no file {path}; expected JSON lines, as Pairs.to_jsonl writes them")
    records, where = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path.name}, line {number}: no JSON ({error.msg}); expected one object a line") from error
        if not isinstance(record, dict):
            raise InputError(f"{path.name}, line {number}: a {type(record).__name__}; expected one object a line")
        records.append(record)
        where.append(f"{path.name}, line {number}")
    if not records:
        raise InputError(f"{path} holds no lines")
    return Table(records, where, path.name)


def _of_columns(columns: Mapping[Any, Any]) -> tuple[list[dict[Any, Any]], list[str]]:
    lengths = {name: len(value) for name, value in columns.items() if not isinstance(value, str) and hasattr(value, "__len__")}
    if len(set(lengths.values())) != 1 or len(lengths) < len(columns):
        said = ", ".join(f"{name} {lengths.get(name, 'no list')}" for name in columns) or "none"
        raise InputError(f"a mapping of columns has lists of one length, but here: {said}")
    n = next(iter(lengths.values()))
    return [{name: list(value)[i] for name, value in columns.items()} for i in range(n)], [f"row {i}" for i in range(n)]


def _refuse_misspelt(present: Sequence[str], taken: set[Any], lacking: set[str]) -> None:
    """A column that is not read, and nearly has the name of one that would be, is no accident to pass over."""
    known = [name for column in lacking for name in NAMES[column]]
    for name in present:
        near = get_close_matches(name, known, 1, cutoff=0.8) if name not in taken else []
        if near:
            column = next(column for column in lacking if near[0] in NAMES[column])
            raise UnknownNameError("column", name, [], why=f"is {near[0]!r} meant? Say {column}={name!r}, or drop the column")


def _cell(record: Mapping[Any, Any], name: Any) -> Any:
    if isinstance(name, list | tuple):
        return tuple(record.get(one) for one in name)
    return None if name is None else record.get(name)


def _said(record: Mapping[Any, Any], said: Any, present: Sequence[str]) -> Any:
    """What is said of a role, texts that name columns taken from them."""
    if isinstance(said, str):
        return record.get(said) if said in present else said
    if isinstance(said, tuple) and not (len(said) == 2 and isinstance(said[1], int)):
        return tuple(_said(record, one, present) for one in said)
    if isinstance(said, tuple) and isinstance(said[0], str):
        return _said(record, said[0], present), said[1]
    return said
