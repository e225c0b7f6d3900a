"""Cases of the kernels, each against its formula in float64 on the same rounded inputs; shared by this process and a worker.

    python tests/support/kernel_cases.py '[{"kernel": "head_gates", "sizes": [5, 3, 7, 33, 2], …}, …]'

prints, for every case, the error of the result and of each gradient as a multiple of what is allowed. Triton's interpreter has
to be there before triton is imported, so its cases run in a process of their own (``worker``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from einops import einsum, rearrange
from torch import Tensor

from interp import kernels


@dataclass(frozen=True)
class Case:
    kernel: str
    sizes: tuple[int, ...]
    """subspace_interchange: rows, width, rank, sets; head_gates: rows, positions, heads, d_head, sets; fused_readout: rows,
    width, vocabulary, columns, examples."""
    dtype: str
    seed: int
    softcap: float | None = None
    bias: bool = False
    reference: str | None = None
    """``"states"`` or ``"logprobs"``."""

    def __str__(self) -> str:
        options = [str(self.softcap)] * (self.softcap is not None) + ["bias"] * self.bias + [self.reference or ""]
        return "-".join(filter(None, [self.kernel, "x".join(map(str, self.sizes)), self.dtype, *options]))


def allowed(dtype: torch.dtype) -> float:
    """Of an error relative to 1 + the largest value: rounding of a few sums.

    bfloat16 results may be off by one unit of the last of 8 bits: Triton's interpreter cuts where hardware rounds.
    """
    return {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 2**-7}[dtype]


def errors(case: Case, implementation: str) -> dict[str, float]:
    """Error of the result and of every gradient against the formula, over what is allowed: right where all are at most 1."""
    torch.manual_seed(case.seed)
    with kernels.use(implementation):
        found, expected = globals()[f"_{case.kernel}"](case)
    return {name: _error(value, expected[name]) for name, value in found.items()}


def _error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape, (found.shape, expected.shape)
    if not found.numel():
        return 0.0
    worst = (found.double() - expected).abs().max() / (1 + expected.abs().max())
    return float(worst) / allowed(found.dtype)


def _draw(case: Case, *sizes: int) -> Tensor:
    return torch.randn(sizes, dtype=torch.float64).to(getattr(torch, case.dtype))


def _graded(results: dict[str, Tensor], inputs: dict[str, Tensor], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The results, and the gradients of their weighted sum by the inputs."""
    total = [(results[name] * weight.to(results[name].dtype)).sum() for name, weight in weights.items()]
    gradients = torch.autograd.grad(torch.stack([value.double() for value in total]).sum(), list(inputs.values()))
    named = {f"gradient by {name}": gradient for name, gradient in zip(inputs, gradients, strict=True)}
    return {name: value.detach() for name, value in results.items()} | named


def _both(case: Case, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Leaves in the case's dtype, and the same numbers in float64."""
    return tuple(
        {n: t.to(kind).requires_grad_() for n, t in inputs.items()} for kind in (getattr(torch, case.dtype), torch.float64)
    )  # type: ignore[return-value]


def _subspace_interchange(case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    rows, width, rank, sets = case.sizes
    inputs = {"h": _draw(case, rows, width), "s": _draw(case, rows, width), "bases": _draw(case, sets, width, rank)}
    set_of = torch.randint(0, sets, (rows,))
    narrow, wide = _both(case, inputs)
    weights = {"result": _draw(case, rows, width)}
    served = wide["bases"][set_of]
    moved = einsum(wide["s"] - wide["h"], served, served, "row width, row width k, row other k -> row other")
    found = {"result": kernels.subspace_interchange(*narrow.values(), set_of)}
    return _graded(found, narrow, weights), _graded({"result": wide["h"] + moved}, wide, weights)


def _head_gates(case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    rows, positions, heads, width, sets = case.sizes
    set_of = torch.randint(0, sets, (rows,))
    narrow, wide = _both(case, {"z": _draw(case, rows, positions, heads, width), "gates": _draw(case, sets, heads)})
    weights = {"result": _draw(case, rows, positions, heads, width)}
    expected = wide["z"] * rearrange(wide["gates"][set_of], "row head -> row 1 head 1")
    return (
        _graded({"result": kernels.head_gates(*narrow.values(), set_of)}, narrow, weights),
        _graded({"result": expected}, wide, weights),
    )


def _fused_readout(case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    rows, width, vocab, columns, examples = case.sizes
    narrow, wide = _both(case, {"x": _draw(case, rows, width)})
    unembedding, bias = _draw(case, vocab, width), _draw(case, vocab) if case.bias else None
    chosen, example_of = torch.randint(0, vocab, (rows, columns)), torch.randint(0, examples, (rows,))

    def logits(states: Tensor) -> Tensor:
        raw = states.double() @ unembedding.double().T + (0 if bias is None else bias.double())
        return raw if case.softcap is None else case.softcap * torch.tanh(raw / case.softcap)

    states = _draw(case, examples, width)
    clean = logits(states).log_softmax(-1).to(states.dtype)
    given = {
        None: None,
        "states": kernels.ReferenceStates(states, example_of),
        "logprobs": kernels.ReferenceLogProbs(clean, example_of),
    }[case.reference]
    read = kernels.fused_readout(narrow["x"], unembedding, chosen, bias=bias, softcap=case.softcap, reference=given)
    plain = logits(wide["x"])
    target = (logits(states) if case.reference == "states" else clean.double())[example_of].log_softmax(-1)
    expected = {"columns": plain.gather(1, chosen), "logsumexp": plain.logsumexp(-1)}
    if given is not None:
        expected["kl"] = (target.exp() * (target - plain.log_softmax(-1))).sum(-1)
    found = {name: value for name, value in read._asdict().items() if value is not None}
    weights = {name: torch.randn_like(value) for name, value in expected.items()}
    return _graded(found, narrow, weights), _graded(expected, wide, weights)


def worker(cases: list[Case]) -> list[dict[str, float]]:
    """Errors of the Triton kernels, run by Triton's interpreter in a fresh process."""
    command = [sys.executable, __file__, json.dumps([asdict(case) for case in cases])]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


if __name__ == "__main__":
    assert Path(sys.argv[0]).name == "kernel_cases.py"
    from interp.kernels import readout_triton

    readout_triton.PROGRAMS = 4  # few, so that each walks through several tiles of a small vocabulary
    asked = [Case(**case | {"sizes": tuple(case["sizes"])}) for case in json.loads(sys.argv[1])]
    print(json.dumps([errors(case, "triton") for case in asked]))
