"""Error classes: what they derive from, and the words that name near matches."""

from __future__ import annotations

import inspect
import pickle

import pytest

from interp import errors
from interp.errors import UnknownNameError, UnknownSiteError, nearest

CLASSES = [
    c
    for _, c in inspect.getmembers(errors, inspect.isclass)
    if c.__module__ == errors.__name__ and c is not errors.UserError and not issubclass(c, Warning)
]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda c: c.__name__)
def test_callers_that_do_not_know_this_package_catch_them(kind: type[Exception]) -> None:
    """Mistakes are ValueError or KeyError; a site that did not fire is nobody's argument, so RuntimeError."""
    assert issubclass(kind, (ValueError, KeyError, RuntimeError))
    assert issubclass(kind, errors.UserError)
    assert kind.__doc__


def test_an_unknown_name_says_what_was_meant_without_escaped_quotes() -> None:
    error = UnknownNameError("metric", "logit_dif", ["logit_diff", "kl", "prob"])
    assert str(error).startswith("unknown metric 'logit_dif'")
    assert "did you mean 'logit_diff'?" in str(error)
    assert "kl" in str(error), "a short list is shown whole"
    assert "\\'" not in str(error)
    assert (error.kind, error.name, error.known) == ("metric", "logit_dif", ["logit_diff", "kl", "prob"])


def test_nothing_near_and_nothing_at_all() -> None:
    assert "did you mean" not in str(UnknownNameError("metric", "zzz", ["kl"]))
    assert str(UnknownNameError("metric", "zzz", [])).startswith("unknown metric 'zzz'")
    assert "did you mean" not in str(UnknownNameError("metric", 3, ["kl"]))


def test_a_long_list_is_not_printed_whole() -> None:
    text = str(UnknownSiteError("module", "layer.77", [f"layer.{i}" for i in range(500)]))
    assert "layer.7" in text
    assert len(text) < 400


def test_a_number_is_not_misspelt() -> None:
    assert str(UnknownNameError("layer", 40, ["0", "4", "24"])) == "unknown layer 40 (known: 0, 4, 24)"


def test_near_matches_are_best_first() -> None:
    assert nearest("resid_prex", ["resid_post", "resid_pre", "z"])[0] == "resid_pre"
    assert nearest("q", ["zzz"]) == []
    assert nearest("end", ["IO", "S2", "END"]) == ["END"]


def test_an_unknown_name_travels_between_processes() -> None:
    """Errors of workers are pickled; one whose constructor takes other arguments than ``args`` would break the pool."""
    error = UnknownNameError("metric", "kll", ["kl"])
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
