"""Reading metrics off hidden states: the fused readout against plain logits.

    python experiments/benchmarks/readout.py [--json] [--case kl] [--quick]

256 rows of a model of width 768 with a vocabulary of 128256, float32: logit difference, log-probability of a token, and KL from
32 reference rows given as hidden states, each forward, and forward with the gradient by the hidden states. Everybody answers
the same random rows; inputs are made outside the clock, and before it runs, answers to a small question must agree with plain
logits in float64. ``peak_bytes`` is what one answer needs beside its inputs: on a CPU the growth of the largest resident size
in a fresh process, at the second answer, so that code and buffers that are loaded once do not count, with an allocator that
gives freed blocks back; on a GPU the growth of the largest allocated size.

``--device cuda --only "plain logits,interp,interp triton"`` is how the Triton kernel is judged.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import common
import torch
from contestants.timed import Contestant
from torch import Tensor

from interp import kernels

NAMES = ("plain logits", "interp", "interp triton")
DEFAULT = NAMES[:2]
METRICS = {"logit_diff": "logit difference", "logprob": "log-probability", "kl": "KL from a reference"}


@dataclass(frozen=True)
class Question:
    """One metric of some rows, or its gradient by their hidden states."""

    metric: str
    gradient: bool
    rows: int = 256
    examples: int = 32
    """Reference rows that KL is taken from."""
    width: int = 768
    vocab: int = 128256
    dtype: str = "float32"
    device: str = "cpu"

    @property
    def name(self) -> str:
        return f"{METRICS[self.metric]}, forward{' and backward' if self.gradient else ''}"


class Inputs(NamedTuple):
    x: Tensor
    """Row, width."""
    unembedding: Tensor
    columns: Tensor
    """A right and a wrong token of every row."""
    states: Tensor
    """Example, width: what KL is taken from."""
    example_of: Tensor


@functools.lru_cache(1)
def _drawn(rows: int, examples: int, width: int, vocab: int, dtype: str, device: str) -> Inputs:
    """Logits have a standard deviation of 3, as those of language models do."""
    draw = torch.Generator().manual_seed(0)
    unembedding = torch.empty(vocab, width).normal_(std=3 / width**0.5, generator=draw)
    states = torch.randn(examples, width, generator=draw)
    example_of = torch.arange(rows) % examples
    x = states[example_of] + 0.3 * torch.randn(rows, width, generator=draw)
    columns = torch.randint(vocab, (rows, 2), generator=draw)
    x, unembedding, states = (tensor.to(device, getattr(torch, dtype)) for tensor in (x, unembedding, states))
    return Inputs(x, unembedding, columns.to(device), states, example_of.to(device))


def inputs(question: Question) -> Inputs:
    """The same for every metric of one size."""
    sizes = (question.rows, question.examples, question.width, question.vocab)
    return _drawn(*sizes, question.dtype, question.device)


class Reader(Contestant):
    """The metric, or the gradient of its sum."""

    def __init__(self, device: str) -> None:
        self.device = device

    def answer(self, question: Question) -> Tensor:
        given = inputs(question)
        with torch.set_grad_enabled(question.gradient):
            x = given.x.detach().requires_grad_(question.gradient)
            value = getattr(self, question.metric)(given._replace(x=x))
        return torch.autograd.grad(value.sum(), x)[0] if question.gradient else value


class PlainLogits(Reader):
    """The formulas of the metrics, on logits of the whole vocabulary."""

    def logit_diff(self, given: Inputs) -> Tensor:
        right, wrong = self._at(given.x @ given.unembedding.T, given.columns)
        return right - wrong

    def logprob(self, given: Inputs) -> Tensor:
        logits = given.x @ given.unembedding.T
        return self._at(logits, given.columns)[0] - logits.logsumexp(-1)

    def kl(self, given: Inputs) -> Tensor:
        clean = (given.states @ given.unembedding.T).log_softmax(-1)[given.example_of]
        return (clean.exp() * (clean - (given.x @ given.unembedding.T).log_softmax(-1))).sum(-1)

    @staticmethod
    def _at(logits: Tensor, columns: Tensor) -> tuple[Tensor, ...]:
        return logits.gather(1, columns).unbind(1)


class FusedReadout(Reader):
    """:func:`interp.kernels.fused_readout`, in torch or in Triton."""

    def __init__(self, device: str, implementation: str) -> None:
        super().__init__(device)
        self.implementation = implementation

    def answer(self, question: Question) -> Tensor:
        with kernels.use(self.implementation):
            return super().answer(question)

    def logit_diff(self, given: Inputs) -> Tensor:
        read = kernels.fused_readout(given.x, given.unembedding, given.columns, logsumexp=False)
        return read.columns[:, 0] - read.columns[:, 1]

    def logprob(self, given: Inputs) -> Tensor:
        read = kernels.fused_readout(given.x, given.unembedding, given.columns)
        return read.columns[:, 0] - read.logsumexp

    def kl(self, given: Inputs) -> Tensor:
        reference = kernels.ReferenceStates(given.states, given.example_of)
        return kernels.fused_readout(given.x, given.unembedding, given.columns[:, :0], reference=reference).kl


def contestant(name: str, device: str) -> Reader:
    if name == "plain logits":
        return PlainLogits(device)
    return FusedReadout(device, "triton" if name == "interp triton" else "torch")


def floor(question: Question) -> int:
    """The least FLOPs: every logit that the metric reads once, and once more to take its derivative to the hidden state."""
    product = 2 * question.width
    columns = 2 if question.metric == "logit_diff" else question.vocab
    once = product * columns * question.rows
    reference = product * columns * question.examples if question.metric == "kl" else 0
    return once * (2 if question.gradient else 1) + reference


def peak_bytes(name: str, question: Question) -> int | None:
    """What one answer needs beside its inputs, measured in a fresh process; None where /proc is missing."""
    if question.device == "cpu" and not Path("/proc/self/clear_refs").exists():
        return None
    code = "import readout, sys; readout.report_peak(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, name, json.dumps(asdict(question)), str(torch.get_num_threads())],
        cwd=Path(__file__).parent, env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    return int(done.stdout)


def report_peak(name: str, question: str, threads: str) -> None:
    """Print the growth of the peak over the second answer; runs in a process of its own."""
    torch.set_num_threads(int(threads))
    asked = Question(**json.loads(question))
    made = contestant(name, asked.device)
    made.answer(asked)
    if asked.device != "cpu":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        made.answer(asked)
        print(torch.cuda.max_memory_allocated() - before)
        return
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # wipes the record of the largest resident size
    before = _resident("VmRSS")
    made.answer(asked)
    print(_resident("VmHWM") - before)


def _resident(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def measured(question: Question, names: tuple[str, ...], given: Any) -> dict[str, Any]:
    """One case, checked, timed and weighed."""
    common.say(question.name)
    peaks = {name: peak_bytes(name, question) for name in names}
    made = {name: contestant(name, given.device) for name in names}
    sample = replace(question, rows=8, examples=4, vocab=min(question.vocab, 4001))
    expected = PlainLogits("cpu").run(replace(sample, dtype="float64", device="cpu")).value
    rate = common.MatmulRate(question.rows, question.width, 4096, question.dtype, question.device)
    tolerance = 1e-5 * (1 + 20)  # of float32 logits whose largest is near 20
    case = common.Case(question.name, question, sample, floor(question), tolerance)
    inputs(question)  # made before the clock runs
    common.race(case, expected, made, rate, given.repeats or 5, lambda name: made[name].run(question, count=True).flops)
    shown = ", ".join(f"{name} {'unknown' if peak is None else f'{peak / 2**20:.1f} MiB'}" for name, peak in peaks.items())
    case.notes = {
        "about": f"{question.rows} rows of width {question.width}, {question.vocab} tokens, {question.dtype}, "
        f"{given.threads} CPU thread(s), {question.device}; peak beside the inputs: {shown}",
        "peak_bytes": peaks,
        "peak_bytes_measured": "growth of the largest allocated size" if question.device != "cpu" else "growth of VmHWM",
    }
    result = common.report(case, rate, common.machine(given.threads, given.device))
    if question.metric == "logit_diff":  # too little arithmetic for a floor of FLOPs to say anything
        result["percent_of_floor"] = None
    return result


def main() -> None:
    given = common.arguments(__doc__.splitlines()[0], NAMES)
    sizes = {"rows": 16, "examples": 4, "width": 32, "vocab": 4001} if given.quick else {}
    questions = [Question(metric, gradient, device=given.device, **sizes) for metric in METRICS for gradient in (False, True)]
    results = []
    with common.quiet():
        for question in questions:
            if given.case in question.name:
                results.append(measured(question, given.only or DEFAULT, given))
                common.say(common.table(results[-1]) + "\n")
    common.conclude(results, given.json)


if __name__ == "__main__":
    main()
