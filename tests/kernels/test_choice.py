"""Which implementation runs: torch unless asked otherwise, and never another than what was asked for."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch

from interp import kernels
from interp.errors import UnknownNameError, UserError


@pytest.fixture(autouse=True)
def _no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INTERP_KERNELS", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.mark.parametrize("name", kernels.KERNELS)
def test_torch_is_what_runs_unless_asked_otherwise(name: str) -> None:
    assert kernels.implementation(name, "cpu") == "torch"
    assert kernels.implementation(name, torch.device("cuda", 0)) == "torch"


def test_the_environment_chooses_and_a_block_overrules_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERP_KERNELS", "triton")
    assert kernels.implementation("head_gates", "cuda") == "triton"
    with kernels.use("torch"):
        assert kernels.implementation("head_gates", "cuda") == "torch"
        with kernels.use("triton"):
            assert kernels.implementation("head_gates", "cuda") == "triton"
        assert kernels.implementation("head_gates", "cuda") == "torch"
    assert kernels.implementation("head_gates", "cuda") == "triton"


def test_a_block_ends_with_an_exception_and_does_not_reach_other_threads() -> None:
    seen = []
    thread = threading.Thread(target=lambda: seen.append(kernels.implementation("head_gates", "cpu")))

    def fail() -> None:
        with kernels.use("triton"):
            thread.start()
            thread.join()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert seen == ["torch"]
    assert kernels.implementation("head_gates", "cpu") == "torch"


def test_unknown_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="unknown kernel 'head_gate'; did you mean 'head_gates'"):
        kernels.implementation("head_gate", "cpu")
    with pytest.raises(UnknownNameError, match="unknown implementation 'tritom'; did you mean 'triton'"), kernels.use("tritom"):
        pass
    monkeypatch.setenv("INTERP_KERNELS", "cuda")
    with pytest.raises(UnknownNameError, match=r"'cuda' in the environment variable INTERP_KERNELS.*known: torch, triton"):
        kernels.implementation("head_gates", "cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="triton is made for Linux")
def test_triton_without_a_gpu_is_refused_and_nothing_else_runs() -> None:
    expected = "'head_gates' was asked for in Triton on device 'cpu'; expected a CUDA device, or TRITON_INTERPRET=1"
    with kernels.use("triton"):
        with pytest.raises(UserError, match=expected):
            kernels.implementation("head_gates", "cpu")
        with pytest.raises(UserError, match=expected):
            kernels.head_gates(torch.ones(1, 1, 1, 1), torch.ones(1, 1), torch.zeros(1).long())


def test_triton_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with kernels.use("triton"), pytest.raises(UserError, match="which is not installed; pip install triton"):
        kernels.implementation("head_gates", "cuda")


def test_references_run_where_triton_cannot_be_imported() -> None:
    code = """
import sys
sys.modules["triton"] = None  # importing it raises
import torch
from interp import kernels
kernels.head_gates(torch.ones(1, 1, 1, 1), torch.ones(1, 1), torch.zeros(1).long())
kernels.subspace_interchange(torch.ones(1, 1), torch.ones(1, 1), torch.ones(1, 1, 1), torch.zeros(1).long())
kernels.fused_readout(torch.ones(1, 1), torch.ones(2, 1), torch.zeros(1, 1).long())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
