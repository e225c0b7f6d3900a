"""What someone new gets wrong, and the words that say what to do instead.

Annotations that tests check would answer before the package does, so these run in a process of their own without that check.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sweeps
import torch

import interp
from interp import errors
from interp.effects import EffectsError
from interp.sites import Site

CHECKED = os.environ.get("INTERP_TYPECHECK") != "0"
as_users_have_it = pytest.mark.skipif(CHECKED, reason="run by test_without_the_check_of_annotations")
KINDS = sweeps.unchecked(interp.grid)
WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "every head by a word": (
        lambda: KINDS("L1.z", head="each"),
        errors.HeadOutOfRangeError,
        "head='each': give ... for all of",
    ),
    "every layer by a word": (lambda: KINDS("z", layer="all"), errors.HeadOutOfRangeError, "a number, or a list of numbers"),
    "half a layer": (lambda: KINDS("z", layer=[0.5]), errors.HeadOutOfRangeError, r"layer=\[0.5\]: give"),
    "half a position": (lambda: KINDS("L1.z", position=1.5), errors.PositionError, "position=1.5: give an index, a role"),
    "a position within a list": (
        lambda: KINDS("L1.z", position=[(1, 2)]),
        errors.PositionError,
        r"position=\[\(1, 2\)\]: give an",
    ),
    "several sites": (lambda: KINDS(["L1.z", "L2.z"]), errors.UnknownSiteError, "a site is one name, such as 'L3.z', or an"),
    "no site": (
        lambda: sweeps.unchecked(Site.parse)(None),
        errors.UnknownSiteError,
        "its type is NoneType; a site is one name",
    ),
    "text in an intervention": (
        lambda: sweeps.unchecked(interp.Intervention)("L1.z"),
        errors.InputError,
        r"an Intervention holds a tuple of changes, but here is 'L1.z'; write Intervention.of\('L9H6.z'",
    ),
    "texts as ids": (lambda: sweeps.unchecked(interp.Prompt)(["a", "b"]), errors.InputError, "several prompts are a list of"),
    "an id below 0": (lambda: interp.Prompt([5, -1]), errors.InputError, "with -1 in it; expected a text, or the token ids"),
    "ids that are no whole numbers": (lambda: interp.Prompt(torch.tensor([1.5])), errors.InputError, "with 1.5 in it"),
    "another way to begin": (
        lambda: sweeps.unchecked(interp.load)(sweeps.model("gpt2").module, bos="yes"),
        errors.UnknownNameError,
        "unknown bos 'yes' .known: model, True, False.",
    ),
    "the recovery of a number": (lambda: sweeps.unchecked(interp.recovery)(3), EffectsError, "is an xarray Dataset; got int"),
    "the effect of nothing": (lambda: sweeps.unchecked(interp.effect)(None), EffectsError, "Dataset; got NoneType"),
    "a summary of a list": (lambda: sweeps.unchecked(interp.summary)([]), EffectsError, "Dataset; got list"),
}
ASKED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a name for a model": ({"model": "gpt2"}, errors.InputError, "model is the text 'gpt2'; pass what interp.load"),
    "a module": ({"model": torch.nn.Linear(2, 2)}, errors.InputError, "model is a Linear; pass what interp.load"),
    "no metric": ({"metric": None}, errors.MetricError, "metric is of type NoneType; expected a name such as 'logit_diff'"),
    "the class of a metric": ({"metric": dict}, errors.MetricError, "metric is the class dict"),
    "a metric of numpy": (
        {"metric": lambda logits: logits[..., 0].numpy()},
        errors.MetricError,
        "metric '<lambda>' returned ndarray for logits of shape .*; expected a tensor with one number a row and example",
    ),
    "a metric that is a number": ({"metric": lambda logits: 1.0}, errors.MetricError, "returned float for logits"),
    "several grids": (
        {"where": [interp.grid("L1.z")] * 2},
        ValueError,
        "several grids are given by name: {'first': interp.grid",
    ),
    "changes by name": (
        {"where": {"a": interp.Change("L1.z")}},
        ValueError,
        r"where\['a'\] is a Change; a mapping holds grids",
    ),
}


@as_users_have_it
@pytest.mark.parametrize("name", WRONG)
def test_arguments(name: str) -> None:
    call, error, words = WRONG[name]
    with pytest.raises(error, match=words):
        call()


@as_users_have_it
@pytest.mark.parametrize("name", ASKED)
def test_sweeps(name: str, seed: int) -> None:
    options, error, words = ASKED[name]
    given = {"pairs": sweeps.random_pairs(seed, [6, 6]), "where": interp.grid("L1.z"), "model": sweeps.model("gpt2")} | options
    for verb in (interp.patch,) if callable(options.get("metric")) else (interp.patch, interp.explain):
        with pytest.raises(error, match=words):
            sweeps.unchecked(verb)(**given)


@as_users_have_it
def test_a_module_that_was_not_loaded_is_not_run() -> None:
    with pytest.raises(errors.InputError, match=r"model is a Linear; pass what interp\.load"):
        sweeps.unchecked(interp.run)(torch.nn.Linear(2, 2), [[1, 2]])


def test_ids_of_any_kind_are_read() -> None:
    for ids in ([1, 2], (1, 2), np.array([1, 2]), torch.tensor([1, 2]), range(1, 3), [torch.tensor(1), np.int64(2)]):
        assert interp.Prompt(ids).text == (1, 2)


@pytest.mark.skipif(not CHECKED, reason="annotations are not checked in this run")
def test_without_the_check_of_annotations() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env={**os.environ, "INTERP_TYPECHECK": "0"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
