"""The original's files: templates as JSON, and pairs sampled from them.

    >>> tasks = read_gym("syntaxgym.json")                                                       # doctest: +SKIP
    >>> causal_gym(64, name=tasks["agr_gender"], before=("<|endoftext|>",))                      # doctest: +SKIP
    >>> pairs = read_gym_pairs("train.json", before="<|endoftext|>")["agr_gender"]               # doctest: +SKIP

The files belong to the repository and the data set of Arora, Jurafsky and Potts (arXiv 2402.12560), and none is shipped. A file
of templates is an object of tasks by name, each with ``templates``, ``label`` (the slots that tell the types apart), ``labels``
by type, ``result_prepend_space`` (whether labels lack their leading space) and ``variables``: a list of fillers, or lists by
type. Variables of one head (``vp.verb``, ``vp.object``) are drawn together. A file of pairs is a list of objects, or an object
a line, with ``base`` and ``src`` (lists of spans), ``base_type``, ``src_type``, ``base_label``, ``src_label`` and ``task``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from interp.errors import InputError
from interp.prompts import Pair, Pairs
from interp.tasks.causal_gym.pairs import GYM
from interp.tasks.causal_gym.task import GymTask, joined, opened

_START = "<|endoftext|>"
_COLUMNS = ("base", "src", "base_type", "src_type", "base_label", "src_label")


def read_gym(path: str | PathLike[str]) -> dict[str, GymTask]:
    """The tasks of a file of templates by name; one of several templates is as many tasks, ``name-0``, ``name-1``, …

    Group and description are those of our task of the same name, and empty where there is none.

    Raises:
        InputError: no such file, or it is not in this format; the message names the task.
    """
    found = {}
    for name, given in _table(Path(path)).items():
        for task in _tasks(name, given):
            found[task.name] = task
    return found


def _table(path: Path) -> dict[str, Any]:
    table = _json(path)
    if not isinstance(table, dict) or not table:
        raise InputError(f"{path.name} holds a {type(table).__name__}; expected an object of tasks by name")
    return table


def _json(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"there is no file {path}; expected JSON in the format of CausalGym")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path.name} is no JSON: {error}") from error


def _tasks(name: str, given: Any) -> Iterator[GymTask]:
    if not isinstance(given, dict):
        raise InputError(f"task {name!r} is a {type(given).__name__}; expected an object")
    for key, kind in (("templates", list), ("label", (str, list)), ("labels", dict), ("variables", dict)):
        if not isinstance(given.get(key), kind) or not given[key]:
            raise InputError(f"task {name!r} has {key}={given.get(key)!r}; expected that of a template of CausalGym")
    own = [given["label"]] if isinstance(given["label"], str) else given["label"]
    space = " " if given.get("result_prepend_space", False) else ""
    labels = {kind: tuple(space + one for one in some) for kind, some in given["labels"].items()}
    ours = GYM.get(name)
    for number, template in enumerate(given["templates"]):
        used = {slot: given["variables"][slot] for slot in _slots(name, template, given["variables"])}
        for slot, fillers in used.items():
            if isinstance(fillers, dict) != (slot in own):
                what = "by type" if slot in own else "in one list, since label does not name it"
                raise InputError(f"task {name!r}, variable {slot!r}: a {type(fillers).__name__}; expected fillers {what}")
        yield GymTask(
            name if len(given["templates"]) == 1 else f"{name}-{number}",
            ours.group if ours else "", ours.description if ours else "", template,
            labels=labels,
            varies={slot: {kind: tuple(some) for kind, some in used[slot].items()} for slot in used if slot in own},
            free={slot: tuple(used[slot]) for slot in used if slot not in own},
            matched=_together(used),
        )  # fmt: skip


def _slots(name: str, template: str, variables: Mapping[str, Any]) -> tuple[str, ...]:
    slots = tuple(piece.split("}")[0] for piece in template.split("{")[1:])
    for slot in slots:
        if slot not in variables:
            raise InputError(f"task {name!r} has no variable {slot!r}, which its template {template!r} names")
    return slots


def _together(used: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """Variables that have one head, in groups; those of the type are drawn by themselves."""
    heads: dict[str, list[str]] = {}
    for slot, fillers in used.items():
        if "." in slot and not isinstance(fillers, dict):
            heads.setdefault(slot.split(".")[0], []).append(slot)
    return tuple(tuple(group) for group in heads.values() if len(group) > 1)


def read_gym_pairs(path: str | PathLike[str], *, before: str = "") -> dict[str, Pairs]:
    """Sampled pairs by task, in the order of the file, base as the corrupted and source as the clean prompt.

    The spans are roles ``"0"``, ``"1"``, … by their number in the file, and where the file's first is the original's start of
    text alone, it is none. A span that is empty in some pair of a task is one with the span in front of it, ``"1+2"``, in all
    of them.

    Args:
        path: a list as JSON, or JSON lines.
        before: what stands in front of every sentence instead of the original's ``<|endoftext|>``, which is taken away. A model
            whose tokenizer knows that token is given it by ``before="<|endoftext|>"``.

    Raises:
        InputError: no such file, or a pair lacks something, or its two prompts have different numbers of spans.
    """
    by_task: dict[str, list[dict[str, Any]]] = {}
    for where, row in _rows(Path(path)):
        lacking = [name for name in (*_COLUMNS, "task") if name not in row]
        if lacking:
            raise InputError(f"{where} lacks {', '.join(lacking)}; expected a pair of CausalGym")
        if len(row["base"]) != len(row["src"]):
            raise InputError(f"{where} has {len(row['base'])} spans in base and {len(row['src'])} in src; expected as many")
        by_task.setdefault(str(row["task"]), []).append(row)
    return {name: _pairs(name, rows, before) for name, rows in by_task.items()}


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects of a list or of lines, with where they stand."""
    if not path.is_file():
        raise InputError(f"there is no file {path}; expected the pairs of CausalGym as JSON or JSON lines")
    text = path.read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        numbered = [(f"{path.name}, pair {k}", row) for k, row in enumerate(_json(path))]
    else:
        numbered = []
        for k, line in enumerate(text.splitlines(), start=1):
            try:
                numbered += [(f"{path.name}, line {k}", json.loads(line))] if line.strip() else []
            except json.JSONDecodeError as error:
                raise InputError(f"{path.name}, line {k}: no JSON ({error.msg}); expected one object a line") from error
    for where, row in numbered:
        if not isinstance(row, dict):
            raise InputError(f"{where}: a {type(row).__name__}; expected an object")
        yield where, row


def _pairs(name: str, rows: list[dict[str, Any]], before: str) -> Pairs:
    spans = {len(row["base"]) for row in rows}
    if len(spans) > 1:
        raise InputError(f"pairs of task {name!r} have {sorted(spans)} spans; expected one number of them")
    plain = [{side: _without_start(row[side]) for side in ("base", "src")} for row in rows]
    regions = _named([spans for both in plain for spans in both.values()])
    items = []
    for row, both in zip(rows, plain, strict=True):
        base, source = (opened(before, joined(list(zip(regions, both[side], strict=True)))) for side in ("base", "src"))
        items.append(Pair(source, base, row["src_label"], row["base_label"], f"causal_gym/{name}"))
    made_by = {"task": "causal_gym", "name": name, "read": True, "before": before, "regions": list(dict.fromkeys(regions))}
    return Pairs(tuple(items), task="causal_gym", made_by=made_by)


def _without_start(spans: list[str]) -> list[str]:
    return [spans[0].removeprefix(_START), *spans[1:]]


def _named(prompts: list[list[str]]) -> list[str]:
    """A name for every span: its number, and the numbers of all that it is one with; none for one that is always empty."""
    number = len(prompts[0])
    said = [[bool(spans[k].strip()) for spans in prompts] for k in range(number)]
    groups: list[list[int]] = []
    for k in range(number):
        if all(said[k]) and (not groups or any(all(said[j]) for j in groups[-1])):
            groups.append([k])
        elif any(said[k]):
            groups = groups or [[]]
            groups[-1].append(k)
    names = {k: "+".join(map(str, group)) for group in groups for k in group}
    return [names.get(k, "") for k in range(number)]
