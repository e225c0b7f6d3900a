"""What the parity tests share: tiny random models, random pairs, the tolerance, and peers in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from transformers import PreTrainedModel

from interp.prompts import Pair, Pairs, Prompt

HERE = Path(__file__).parent
LENGTH, SHARED = 6, 2
"""Tokens of a prompt, and how many of them at its beginning clean and corrupted prompt share."""


@pytest.fixture(params=["gpt2", "llama"])
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def network(family: str, seed: int) -> PreTrainedModel:
    """The model under test; a peer gets a copy, or makes it again from the same seed."""
    return getattr(tiny, family)(seed)


@pytest.fixture
def pairs(seed: int) -> Pairs:
    """Three pairs of random tokens that share a beginning, so that the rule of no effect has cells to decide.

    Token 0 is left out: it is the padding token here, and a peer may mask it.
    """
    draw = torch.Generator().manual_seed(seed + 1)
    found = []
    for _ in range(3):
        clean, corrupted = torch.randint(1, tiny.VOCAB, (2, LENGTH), generator=draw)
        corrupted[:SHARED] = clean[:SHARED]
        answer, wrong = torch.randperm(tiny.VOCAB, generator=draw)[:2].tolist()
        found.append(Pair(Prompt(tuple(clean.tolist())), Prompt(tuple(corrupted.tolist())), (answer,), (wrong,)))
    return Pairs(tuple(found), "random tokens")


@pytest.fixture
def assert_close() -> Callable[..., None]:
    """Equal to 1e-5 × (1 + scale), the tolerance of float32 on small models; for metrics the scale is max |logit|.

    It leaves room for another order of summation, which is all that may differ between two programs of one formula.
    """

    def check(got: Any, expected: Any, scale: float, what: object = "") -> None:
        got, expected = torch.as_tensor(got), torch.as_tensor(expected)
        assert got.shape == expected.shape, what
        deviation = float((got - expected).abs().max())
        allowed = 1e-5 * (1 + scale)
        print(f"{what} deviation {deviation:.1e}, allowed {allowed:.1e}")  # pytest -rP shows it where a test passes
        assert deviation <= allowed, what

    return check


@pytest.fixture
def largest_logit() -> Callable[[PreTrainedModel, Pairs], float]:
    """max |logit| of both prompts of every pair, by transformers itself."""

    @torch.no_grad()
    def measure(network: PreTrainedModel, pairs: Pairs) -> float:
        prompts = [list(prompt.text) for pair in pairs for prompt in (pair.clean, pair.corrupted)]
        return float(network(input_ids=torch.tensor(prompts)).logits.abs().max())

    return measure


class Peer:
    """A peer in a process of its own, which takes a job and gives its answer as one line of JSON each.

    nnsight gives every object of a process a ``save`` method, replaces ``Tensor.backward`` and silences the C library's
    backtraces, and pyvene imports nnsight: neither may share a process with tests of anything else.
    """

    def __init__(self, script: Path) -> None:
        path = os.pathsep.join([str(HERE.parent / "support"), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip

    def __call__(self, job: Mapping[str, Any]) -> Tensor:
        """The metric of every cell and example."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline() or '{"error": "the process ended; its own words are above"}')
        if "error" in answer:
            pytest.fail(answer["error"], pytrace=False)
        return torch.tensor(answer["values"])

    def close(self) -> None:
        self.process.communicate()  # closes both pipes; the process ends with its input


@pytest.fixture(scope="session")
def peer() -> Iterator[Callable[[str], Peer]]:
    """Starts the script of that name, once."""
    started: dict[str, Peer] = {}

    def start(name: str) -> Peer:
        if name not in started:
            started[name] = Peer(HERE / f"{name}.py")
        return started[name]

    yield start
    for one in started.values():
        one.close()


@pytest.fixture
def job(family: str, seed: int, pairs: Pairs) -> dict[str, Any]:
    """A denoising sweep for a peer: which model, which prompts, which answers; the cells are each test's own."""
    return {
        "family": family,
        "seed": seed,
        "base": [list(pair.corrupted.text) for pair in pairs],
        "source": [list(pair.clean.text) for pair in pairs],
        "answers": [pair.answers[0] for pair in pairs],
        "wrong": [pair.wrong[0] for pair in pairs],
    }
