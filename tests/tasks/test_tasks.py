"""The registry, and the examples of the room's docstrings."""

from __future__ import annotations

import doctest
import importlib
import json
from typing import Any

import pytest

from interp import tasks
from interp.errors import UnknownNameError


@pytest.mark.parametrize("name", tasks.names())
def test_make_is_the_generator_of_that_name(name: str, tokenizer: Any, seed: int) -> None:
    pairs = tasks.make(name, 5, seed=seed, tokenizer=tokenizer)
    assert pairs == getattr(tasks, name)(5, seed=seed, tokenizer=tokenizer)
    assert pairs.task == pairs.made_by["task"] == name
    assert (len(pairs), pairs.made_by["n"], pairs.made_by["seed"]) == (5, 5, seed)
    json.dumps(pairs.made_by)
    assert "END" in pairs.roles
    assert all(pair.template.startswith(name + "/") and pair.entities for pair in pairs)


def test_make_passes_arguments_on() -> None:
    assert tasks.make("induction", 3, length=8) == tasks.induction(3, length=8)


def test_an_unknown_task_names_its_neighbours() -> None:
    with pytest.raises(UnknownNameError) as caught:
        tasks.make("greater_then")
    assert str(caught.value) == (
        f"unknown task 'greater_then'; did you mean 'greater_than'? (known: {', '.join(tasks.names())})"
    )


@pytest.mark.parametrize(
    "module",
    [
        *("", ".lexicon", ".draw", ".template", ".indirect_object", ".years", ".repeats", ".causal_sentences", ".facts"),
        *(".known", ".sums", ".gender_bias", ".causal_gym", ".causal_gym.task", ".causal_gym.pairs"),
    ],
)
def test_docstring_examples_are_true(module: str) -> None:
    found = doctest.testmod(importlib.import_module("interp.tasks" + module), verbose=False, extraglobs={"pairs": None})
    assert found.attempted > 0
    assert found.failed == 0
