"""Examples in docstrings run, with torch, the names of their module and the words for interventions at hand.

What needs a model says so by a skip.
"""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import torch

import interp
from interp import interventions

MODULES = [
    "interp",
    *(one.name for one in pkgutil.walk_packages(interp.__path__, "interp.") if not one.name.endswith("__main__")),
]
AT_HAND = {"torch": torch, "interp": interp, **{name: getattr(interventions, name) for name in interventions.__all__}}


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for example in doctest.DocTestFinder().find(module, globs={**AT_HAND, **vars(module)}):
        runner.run(example)
    assert runner.summarize(verbose=False).failed == 0, capsys.readouterr().out
