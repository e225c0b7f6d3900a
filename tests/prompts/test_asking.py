"""Pairs from texts, lists, tables and JSON lines: what is made, what is refused and in which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from interp.errors import AnswerError, InputError, PositionError, UnknownNameError
from interp.prompts import Pair, Pairs, Prompt
from interp.prompts.asking import _answers, pairs
from interp.prompts.tables import Row
from interp.tasks import greater_than, ioi

ONE = Pair("Paris is in", "Rome is in", " France", " Italy")
TWO = Pair("Lima is in", "Rome is in", " Peru", " Italy")


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_the_face() -> None:
    assert interp.pairs is pairs


def test_single_values() -> None:
    assert pairs("Paris is in", "Rome is in", " France", " Italy").items == (ONE,)
    assert pairs(clean="Paris is in", counterfactual="Rome is in", answer=" France", wrong=" Italy").items == (ONE,)
    assert pairs("a b", "a c", (" d", " e")).items == (Pair("a b", "a c", (" d", " e")),)
    assert pairs("a b", "a c", ()).items == (Pair("a b", "a c"),)
    assert (pairs("a b", "a c", " d", task="demo").task, pairs("a b", "a c", " d").made_by) == ("demo", {"from": "arguments"})


def test_lists_and_one_value_for_all() -> None:
    made = pairs(["Paris is in", "Lima is in"], "Rome is in", [" France", " Peru"], " Italy")
    assert made.items == (ONE, TWO)
    tagged = pairs(["a", "b"], ["c", "d"], " e", template="t", entity=["x", ("y", "z")])
    assert [(pair.template, pair.entities) for pair in tagged] == [("t", ("x",)), ("t", ("y", "z"))]
    several = pairs(["a", "b"], ["c", "d"], [" e", (" f", " g")], (" h", " i"))
    assert [(p.answers, p.wrong) for p in several] == [((" e",), (" h", " i")), ((" f", " g"), (" h", " i"))]
    arrays = pairs(np.array(["a", "b"]), pd.Series(["c", "d"]), pd.Series([" e", " f"]))
    assert [pair.answers for pair in arrays] == [(" e",), (" f",)]


@pytest.mark.parametrize("ids", [[1, 2], (1, 2), np.array([1, 2]), torch.tensor([1, 2])])
def test_token_ids(ids: Any) -> None:
    assert pairs(ids, [3, 4], 5, 6).items == (Pair((1, 2), (3, 4), 5, 6),)
    assert pairs([ids, [7]], [[3, 4], [8]], [5, 9], np.array([6, 6])).items == (
        Pair((1, 2), (3, 4), 5, 6),
        Pair((7,), (8,), 9, 6),
    )
    assert pairs(torch.tensor([[1, 2], [3, 4]]), [5, 6], 7).items == (Pair((1, 2), (5, 6), 7), Pair((3, 4), (5, 6), 7))


def test_chats() -> None:
    one = pairs(chat("Where is Paris?"), chat("Where is Rome?"), "France", "Italy", roles={"city": ("Paris", "Rome")})
    assert one.items == (
        Pair(
            Prompt(chat("Where is Paris?"), {"city": "Paris"}),
            Prompt(chat("Where is Rome?"), {"city": "Rome"}),
            "France",
            "Italy",
        ),
    )
    assert one.roles == ("city", "user")
    two = pairs([chat("a"), chat("b")], chat("c"), ["d", "e"])
    assert [pair.clean for pair in two] == [Prompt(chat("a")), Prompt(chat("b"))]


ROLES = {
    "a text of both": ({"to": "in"}, {"to": (9, 11)}, {"to": (8, 10)}),
    "a text of each": ({"city": ("Paris", "Rome")}, {"city": (0, 5)}, {"city": (0, 4)}),
    "occurrences": ({"i": ("i", -1)}, {"i": (9, 10)}, {"i": (8, 9)}),
    "occurrences of each": ({"i": (("i", 2), ("i", 0))}, {"i": (9, 10)}, {"i": (5, 6)}),
    "a span": ({"x": (0, 3)}, {"x": (0, 3)}, {"x": (0, 3)}),
    "one a pair": ({"city": [("Paris", "Rome")]}, {"city": (0, 5)}, {"city": (0, 4)}),
    "mappings": ([{"city": ("Paris", "Rome")}], {"city": (0, 5)}, {"city": (0, 4)}),
    "by side": ({"clean": {"city": "Paris"}, "counterfactual": {"to": "in"}}, {"city": (0, 5)}, {"to": (8, 10)}),
    "one side": ({"city": ("Paris", None)}, {"city": (0, 5)}, {}),
}


@pytest.mark.parametrize("how", ROLES)
def test_roles(how: str) -> None:
    said, clean, corrupted = ROLES[how]
    if how == "by side":
        said = [said]
    made = pairs("Paris is in", "Rome is in", " x", roles=said)[0]
    assert (made.clean.roles, made.corrupted.roles) == (clean, corrupted)


def test_a_prompt_brings_its_own_roles() -> None:
    made = pairs(Prompt("Paris is in", {"city": "Paris"}), "Rome is in", " x", roles={"to": "in"})
    assert made[0].clean.roles == {"city": (0, 5), "to": (9, 11)}


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "clean": ["Paris is in", "Lima is in"],
            "cf": ["Rome is in", "Rome is in"],
            "answer": [" France", " Peru"],
            "wrong": [" Italy", None],
            "city": ["Paris", "Lima"],
            "other": ["Rome", "Rome"],
            "year": [1, 2],
        },
        index=["p", "l"],
    )


def test_a_data_frame() -> None:
    made = pairs(
        frame(), counterfactual="cf", entity=["city", "other"], roles={"city": ("city", "other"), "to": "in"}, task="t"
    )
    assert made.made_by == {"from": "a data frame"}
    assert [pair.entities for pair in made] == [("Paris", "Rome"), ("Lima", "Rome")]
    assert [pair.wrong for pair in made] == [(" Italy",), ()]
    assert [pair.clean.roles for pair in made] == [{"city": (0, 5), "to": (9, 11)}, {"city": (0, 4), "to": (8, 10)}]
    assert made[1].corrupted.roles == {"city": (0, 4), "to": (8, 10)}
    same = pairs(frame().rename(columns={"cf": "corrupted", "answer": "answers"}), entity="city")
    assert [(pair.corrupted.text, pair.answers, pair.entities) for pair in same] == [
        ("Rome is in", (" France",), ("Paris",)),
        ("Rome is in", (" Peru",), ("Lima",)),
    ]
    assert pairs(frame().to_dict("records"), counterfactual="cf").digest == pairs(frame(), counterfactual="cf").digest
    assert pairs(frame().to_dict("list"), counterfactual="cf").digest == pairs(frame(), counterfactual="cf").digest
    assert pairs(frame().drop(columns="answer"), counterfactual="cf", answer=())[0].answers == ()


@pytest.mark.parametrize(
    "made",
    [
        ioi(12, seed=3),
        greater_than(4, seed=1),
        Pairs((Pair(Prompt((1, 2, 3), {"x": (1, 2)}), (4, 5), 6, (7, 8), "t", ("a",)),)),
        Pairs((Pair(Prompt(chat("Where is Paris?"), {"city": "Paris"}), chat("Where?"), "x"),)),
        Pairs((Pair(Prompt("good day", {"g": "good"}, target="guten"), Prompt("bad day", target=Prompt("ab", {"a": "a"}))),)),
        Pairs((Pair(Prompt("<s>a", templated=True), Prompt((1,), target=(2, 3)), " b", wrong=5),)),
    ],
)
def test_json_lines_and_back(made: Pairs, tmp_path: Path) -> None:
    path = made.to_jsonl(tmp_path / "some.jsonl")
    assert len(path.read_text(encoding="utf-8").splitlines()) == len(made)
    for read in (pairs(path), pairs(str(path)), pairs(made.records()), pairs(json.loads(json.dumps(made.records())))):
        assert read.items == made.items
        assert read.digest == made.digest
    assert pairs(path).made_by == {"from": "some.jsonl"}


def test_json_lines_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "hand.jsonl"
    path.write_text(
        '{"clean": "Paris is in", "corrupted": "Rome is in", "answer": " France", "roles": {"city": ["Paris", "Rome"], '
        '"i": ["i", 0]}, "entities": ["a"]}\n\n{"clean": [1, 2], "corrupted": [3], "answer": 4}\n'
    )
    made = pairs(path)
    assert made[0].clean.roles == {"city": (0, 5), "i": (3, 4)}
    assert made[0].corrupted.roles == {"city": (0, 4), "i": (5, 6)}
    assert made[1] == Pair((1, 2), (3,), 4)


def test_a_prompt_with_arrays_is_no_json() -> None:
    shown = Prompt(inputs={"pixel_values": np.zeros(3)})
    with pytest.raises(InputError, match="a prompt with inputs cannot be written as JSON lines"):
        Pairs((Pair(shown, shown),)).records()


TABLE: dict[str, Any] = {"clean": ["a b", "c d"], "counterfactual": ["e", "f"], "answer": [" g", " h"]}
WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "no counterfactual": (
        lambda: pairs("a", None, " b"),
        InputError,
        "counterfactual is missing: its contrast, from which values",
    ),
    "no answer": (lambda: pairs("a", "b"), AnswerError, r"answer is missing: what the model should say .* pass answer=\(\)"),
    "nothing": (lambda: pairs(), InputError, "clean is missing: the prompt with the behaviour"),
    "twice": (lambda: pairs("a", "b", " c", clean="d"), InputError, "the clean prompts are given twice"),
    "lengths": (
        lambda: pairs(["a", "b"], ["c"], [" d", " e", " f"]),
        InputError,
        r"differ in length, or are empty: clean 2, counterfactual 1, answer 3; a list has one value a pair",
    ),
    "of roles": (
        lambda: pairs("a", "b", " c", roles={"x": ["a", "b"], "y": ["a"]}),
        InputError,
        r"roles\['x'\] 2, roles\['y'\] 1",
    ),
    "empty": (lambda: pairs([], "b", " c"), InputError, "clean 0"),
    "blank": (
        lambda: pairs(["a", "b"], "c", [" d", " "]),
        AnswerError,
        "pair 1, column 'answer': ' ' is blank; expected a text",
    ),
    "float": (lambda: pairs("a", "b", 3.0), AnswerError, "pair 0, column 'answer': 3.0 is a float; expected a text such as"),
    "truth": (lambda: pairs("a", "b", True), AnswerError, "True is a bool"),
    "prompt": (
        lambda: pairs(["a", 3.5], "b", " c"),
        InputError,
        "pair 1, column 'clean': 3.5 is float; expected a text, token ids",
    ),
    "both": (lambda: pairs("a", "b", " c", " c"), AnswerError, r"pair 0: an answer is both right and wrong: \[' c'\]"),
    "space": (
        lambda: pairs(["a", "a"], "b", [" c", " Paris"], [" d", "Rome"]),
        AnswerError,
        "pair 1: ' Paris' begins with a space and 'Rome' does not, .* usually ' Rome', and in a chat 'Paris'",
    ),
    "role": (
        lambda: pairs("Paris is", "Rome is", " c", roles={"city": "Paris"}),
        PositionError,
        r"pair 0, column 'counterfactual': role 'city': 'Paris' does not occur in 'Rome is'.*of both: \('Paris', 'Rome'\)",
    ),
    "roles": (lambda: pairs("a", "b", " c", roles=["x"]), InputError, "pair 0: roles is 'x'; expected a mapping"),
    "sides": (
        lambda: pairs([{"clean": "a", "corrupted": "b", "answer": " c", "roles": {"clean": {}, "other": {}}}]),
        InputError,
        r"record 0: roles of both prompts have the keys clean and counterfactual, not \['other'\]",
    ),
    "column": (
        lambda: pairs(frame(), counterfactual="cff"),
        UnknownNameError,
        r"unknown column 'cff' of the table, for counterfactual='cff'; did you mean 'cf'\? \(known: clean, cf, answer",
    ),
    "no column": (
        lambda: pairs(frame()),
        UnknownNameError,
        "unknown column 'counterfactual' of the table, which needs one; name yours as counterfactual='…'",
    ),
    "entities": (
        lambda: pairs(frame(), counterfactual="cf", entity=["city", "othr"]),
        UnknownNameError,
        "'othr' .*mean 'other'",
    ),
    "misspelt": (lambda: pairs({**TABLE, "wrnog": [1, 2]}), UnknownNameError, "'wrnog': is 'wrong' meant\\? Say wrong='wrnog'"),
    "cell": (
        lambda: pairs(frame().assign(answer=[" France", None]), counterfactual="cf"),
        AnswerError,
        "row l, column 'answer': answer is missing",
    ),
    "columns": (lambda: pairs({**TABLE, "wrong": [" x"]}), InputError, "one length, but here: clean 2, .*, wrong 1"),
    "file": (lambda: pairs("no/such.jsonl"), InputError, "there is no file no/such.jsonl; expected JSON lines"),
    "csv": (lambda: pairs("some.csv"), InputError, r"interp.pairs\(pandas.read_csv\('some.csv'\)\)"),
    "object": (
        lambda: pairs([{"clean": {"txt": "a"}, "counterfactual": "b", "answer": " c"}]),
        InputError,
        r"record 0, column 'clean': a prompt that is an object has text, roles, target and templated, but here \['txt'\]",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_named(name: str) -> None:
    call, error, words = WRONG[name]
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{]", "bad.jsonl, line 2: no JSON"),
        ("[1]", "bad.jsonl, line 2: a list; expected one object a line"),
    ],
)
def test_lines_that_are_no_records(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("{}\n" + text)
    with pytest.raises(InputError, match=words):
        pairs(path)
    path.write_text("\n")
    with pytest.raises(InputError, match="holds no lines"):
        pairs(path)


def test_an_answer_of_several_ids_is_a_sequence_within_the_answers() -> None:
    """As JSON lines have it; what a pair makes of it is the pair's affair."""
    row = Row({"answer": [[5, 7]], "wrong": ((5, 8), 3)}, "row 0", {})
    assert (_answers(row, "answer"), _answers(row, "wrong")) == (((5, 7),), ((5, 8), 3))


@pytest.mark.parametrize(
    ("clean", "answer", "said"),
    [("Paris is in", "France", "Paris is inFrance"), ("Paris is in ", " France", "Paris is in  France")],
)
def test_a_space_too_few_or_too_many_is_said(clean: str, answer: str, said: str) -> None:
    with pytest.warns(RuntimeWarning, match=f"1 of 2 pairs, such as pair 1, read '…{said[-(12 + len(answer)) :]}': an answer"):
        pairs([clean.strip(), clean], "Rome is", [" France", answer])


@pytest.mark.parametrize(
    ("clean", "answer", "wrong"),
    [
        ("2 + 2 =", " 4", " 5"),
        ("(a, b", ")", "]"),
        ("It ended", ".", " with"),  # a full stop is not a word that lacks its space
        (chat("Where?"), "France", "Italy"),
        (Prompt("<s>user: Where? you", templated=True), "France", "Italy"),
        ("東京は", "日本", "中国"),
        ((1, 2), 3, 4),
    ],
)
def test_what_needs_no_space(clean: Any, answer: Any, wrong: Any) -> None:
    assert len(pairs(clean, clean, answer, wrong)) == 1  # a warning would be an error


def test_answers_may_be_numbers_of_tensors() -> None:
    clean, other = ["a b", "c d"], ["x b", "x d"]
    for answer in (torch.tensor([5, 7]), [torch.tensor(5), torch.tensor(7)], np.array([5, 7])):
        made = pairs(clean, other, answer, np.int64(6))
        assert [pair.answers for pair in made] == [(5,), (7,)]
        assert [pair.wrong for pair in made] == [(6,), (6,)]
    assert [pair.answers for pair in pairs(clean, other, torch.tensor(5))] == [(5,), (5,)]
