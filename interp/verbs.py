"""Words of models and pairs that rooms above fulfil: ``model.run(…)`` is the engine's run.

>>> promised({"shout": "builtins:print"})
>>> fulfil("shout")("hello")
hello

A room knows the rooms below it and none above. What is said of a model in a word and done above it is promised here by
whoever sees both, which is the package's face, as ``"module:name"``, and looked up when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

_PROMISED: dict[str, str] = {}


def promised(verbs: Mapping[str, str]) -> None:
    """Say where verbs are fulfilled."""
    _PROMISED.update(verbs)


def fulfil(verb: str) -> Callable[..., Any]:
    """What does it."""
    module, _, name = _PROMISED[verb].partition(":")
    return getattr(import_module(module), name)
