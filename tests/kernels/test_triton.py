"""The Triton kernels in Triton's interpreter, against the formulas in float64, and through the compiler for real GPUs.

The interpreter runs them on a CPU in one process for all cases; that they are fast is for a GPU to show.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from kernel_cases import Case, worker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="triton is made for Linux")

SUPPORT = Path(__file__).parents[1] / "support"

_INTERCHANGE = [(5, 33, 7, 3), (40, 33, 1, 2), (1, 130, 20, 1), (0, 33, 7, 2)]
_GATES = [(5, 3, 7, 33, 2), (140, 1, 2, 5, 1), (1, 4, 1, 8, 3), (0, 3, 7, 33, 2)]
_READOUT = [(5, 33, 1009, 3, 4), (40, 7, 1009, 0, 2), (1, 33, 65, 2, 1), (0, 33, 1009, 3, 2)]
_KINDS = [(None, False, "states"), (3.0, True, "states"), (None, True, "logprobs"), (3.0, False, "logprobs"), (3.0, True, None)]

CASES = [
    *(Case("subspace_interchange", sizes, dtype, 0) for sizes in _INTERCHANGE for dtype in ("float32", "bfloat16")),
    *(Case("head_gates", sizes, dtype, 0) for sizes in _GATES for dtype in ("float32", "bfloat16")),
    *(Case("fused_readout", sizes, dtype, 0) for sizes in _READOUT for dtype in ("float32", "bfloat16")),
    *(Case("fused_readout", (5, 33, 300, 2, 4), dtype, 0, *kind) for kind in _KINDS for dtype in ("float32", "bfloat16")),
    Case("subspace_interchange", (5, 33, 7, 3), "float64", 0),
    Case("head_gates", (5, 3, 7, 33, 2), "float64", 0),
    Case("fused_readout", (5, 33, 300, 2, 4), "float64", 0, 3.0, True, "states"),
]


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, float]]:
    return dict(zip(map(str, CASES), worker(CASES), strict=True))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_agree_with_their_formulas(case: Case, found: dict[str, dict[str, float]]) -> None:
    """Errors as multiples of what is allowed: results and all gradients."""
    assert max(found[str(case)].values()) <= 1, found[str(case)]


# The interpreter accepts what the compiler does not: every kernel is compiled to machine code as well, which needs no GPU.
# A launch is replaced by a compilation for the types of its arguments; what the results hold is then of no meaning.
COMPILE = """
import json, sys, torch, triton
import checked
checked.install()  # as in tests that run on a GPU: kernels must be left alone
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction
from interp.kernels import gates_triton, readout_triton, subspace_triton
from interp.kernels.readout_parts import Head, Reference

TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float64: "*fp64", torch.int64: "*i64"}
compiled = {}

def launch(kernel, grid):
    def run(*args):
        types, constants = {}, {}
        for parameter, value in zip(kernel.params, args, strict=True):
            if parameter.is_constexpr:
                types[parameter.name], constants[parameter.name] = "constexpr", value
            else:
                number = "fp32" if isinstance(value, float) else "i32"
                types[parameter.name] = TYPES[value.dtype] if isinstance(value, torch.Tensor) else number
        key = f"{kernel.__name__} {sorted(types.values())} {constants}"
        if key not in compiled:
            done = triton.compile(ASTSource(kernel, types, constants), target=GPUTarget("cuda", 90, 32))
            compiled[key] = [kernel.__name__, len(done.asm["cubin"]), done.metadata.shared]
    return run

JITFunction.__getitem__ = launch
for name in sys.argv[1:]:
    dtype = getattr(torch, name)
    leaf = lambda *sizes: torch.randn(sizes).to(dtype).requires_grad_()
    rows = torch.tensor([0, 1, 1, 0, 0])
    subspace_triton.interchange(leaf(5, 33), leaf(5, 33), leaf(2, 33, 7), rows).sum().backward()
    gates_triton.gate(leaf(5, 2, 3, 4), leaf(2, 3), rows).sum().backward()
    given = Reference.of(leaf(4, 33).detach(), None, rows), Reference.of(None, leaf(4, 100).detach(), rows)
    kinds = [(None, None, None), (3.0, leaf(100).detach(), given[0]), (None, None, given[1])]
    for softcap, bias, reference in kinds if name == "float32" else kinds[1:2]:
        head = Head(leaf(100, 33).detach(), bias, softcap, torch.promote_types(dtype, torch.float32))
        lse, kl = readout_triton.whole(leaf(5, 33), head, reference)
        (lse if kl is None else lse + kl).sum().backward()
print(json.dumps(list(compiled.values())))
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int, int]]:
    """Name, bytes of machine code and of shared memory of every kernel and variant, built anew."""
    cache = {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")), "TRITON_INTERPRET": "0", "PYTHONPATH": str(SUPPORT)}
    command = [sys.executable, "-c", COMPILE, "float32", "bfloat16", "float64"]
    done = subprocess.run(command, env=os.environ | cache, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [tuple(line) for line in json.loads(done.stdout)]


def test_every_kernel_compiles_for_a_gpu(compiled: list[tuple[str, int, int]]) -> None:
    """For compute capability 9.0 (H100, H200), whose blocks have 227 KiB of shared memory at most."""
    counts = Counter(name for name, _, _ in compiled)
    interchange = {"_project": 6, "_expand": 6, "_basis_gradient": 3}
    assert counts == interchange | {"_scale": 3, "_scale_and_sum": 3, "_sum_by_set": 2, "_forward": 5, "_backward": 5}
    assert all(code > 0 and shared <= 227 * 1024 for _, code, shared in compiled)
