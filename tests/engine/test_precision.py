"""Full float32 precision inside whatever the user has set, in torch's older way or in its newer one; both as before after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sweeps
import torch
from torch import backends

from interp.engine import attribute, patch, patch_edges
from interp.engine.precision import _operations, computed, float32
from interp.errors import UnknownNameError
from interp.sites import grid

SETTINGS: dict[str, Callable[[], None]] = {
    "torch's default": lambda: None,
    "older, products": lambda: torch.set_float32_matmul_precision("high"),
    "older, products in bfloat16": lambda: torch.set_float32_matmul_precision("medium"),
    "older, CUDA": lambda: setattr(backends.cuda.matmul, "allow_tf32", True),
    "older, no convolutions": lambda: setattr(backends.cudnn, "allow_tf32", False),
    "newer, CUDA's products": lambda: setattr(backends.cuda.matmul, "fp32_precision", "tf32"),
    "newer, oneDNN's products": lambda: setattr(backends.mkldnn.matmul, "fp32_precision", "bf16"),
    "newer, everything": lambda: setattr(backends, "fp32_precision", "tf32"),
}


def state() -> list[Any]:
    """Every setting; asking in the older way may raise, which is part of the state."""

    def asked(ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except RuntimeError:
            return "raises"

    older = (torch.get_float32_matmul_precision, lambda: backends.cudnn.allow_tf32, lambda: backends.cuda.matmul.allow_tf32)
    return [*(operation.fp32_precision for operation in _operations()), *map(asked, older)]


@pytest.fixture(params=SETTINGS, ids=SETTINGS)
def user(request: pytest.FixtureRequest) -> Iterator[list[Any]]:
    """One of the settings in force; torch's defaults after."""
    own = [operation.fp32_precision for operation in _operations()]
    try:
        SETTINGS[request.param]()
        yield state()
    finally:
        backends.fp32_precision = "none"
        torch.set_float32_matmul_precision("highest")
        backends.cudnn.allow_tf32 = True
        for operation, before in zip(_operations(), own, strict=True):
            operation.fp32_precision = before


def test_inside_and_after(user: list[Any]) -> None:
    with float32():
        assert state() == ["ieee"] * len(_operations()) + ["highest", False, False]
        assert computed() == "ieee"
    assert state() == user
    with pytest.raises(KeyError), float32():
        raise KeyError
    assert state() == user


def test_what_may_be_used_is_said() -> None:
    assert computed() == "ieee+tf32", "torch lets cuDNN's convolutions use TF32"
    with float32():
        backends.mkldnn.matmul.fp32_precision = "bf16"
        assert computed() == "bf16+ieee"


def test_fast_means_tf32_and_is_part_of_what_a_result_is(user: list[Any], seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [5, 5])
    with float32("fast"):
        assert computed() == "tf32"
        assert state()[-3:] == ["high", True, True]
    assert state() == user
    sweeps_of: list[tuple[Any, list[Any]]] = [(patch, [grid("L1.z")]), (attribute, [grid("L1.z")]), (patch_edges, [])]
    for run, where in sweeps_of:
        full, fast = run(model, pairs, *where), run(model, pairs, *where, precision="fast")
        assert (full.attrs["float32_precision"], fast.attrs["float32_precision"]) == ("ieee", "tf32")
        assert fast.attrs["spec"] == full.attrs["spec"] | {"precision": "fast"}
        with pytest.raises(UnknownNameError, match="unknown precision 'quick'"):
            sweeps.unchecked(run)(model, pairs, *where, precision="quick")


def test_results_say_what_they_were_computed_with(user: list[Any], seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [5, 5])
    for run in (patch, attribute):
        assert run(model, pairs, grid("L1.z")).attrs["float32_precision"] == "ieee"
    assert patch_edges(model, pairs).attrs["float32_precision"] == "ieee"
    assert state() == user
