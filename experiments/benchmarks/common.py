"""What the benchmarks share: settings, interleaved timing of contestants that agree, the matmul rate, tables and JSON.

python experiments/benchmarks/sweep.py --only serial,transformer-lens,interp --json
"""

from __future__ import annotations

import os

# Before anything imports transformers; worker processes inherit it.
os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "false"}

import argparse
import contextlib
import importlib.metadata
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from contestants.timed import Contestant, Run
from contestants.worker import Worker
from torch import Tensor

SLOW = 20.0
"""A contestant whose run takes longer, in seconds, is run once unless ``--repeats`` says otherwise: it is a mean as it is."""


def arguments(description: str, names: tuple[str, ...]) -> argparse.Namespace:
    """Parse the command line, and set the number of threads here and in the workers to come."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print a list of cases; the tables go to the standard error")
    parser.add_argument("--only", help=f"contestants, separated by commas, of: {', '.join(names)}")
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--repeats", type=int, help=f"runs of each contestant (3; 1 where a run takes over {SLOW:.0f} s)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny models, to see that everything runs; speeds mean nothing")
    given = parser.parse_args()
    given.only = tuple(given.only.split(",")) if given.only else None
    unknown = [name for name in given.only or () if name not in names]
    if unknown:
        parser.error(f"--only {','.join(unknown)}: there is no such contestant; there are {', '.join(names)}")
    os.environ |= {name: str(given.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    torch.set_num_threads(given.threads)
    return given


def machine(threads: int, device: str) -> dict[str, Any]:
    """What the figures were measured on and with."""
    packages = ("torch", "transformers", "transformer-lens", "nnsight", "pyvene")
    return {
        "processor": _processor(),
        "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "cpu",
        "cores": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


class MatmulRate:
    """The rate of a dense product in FLOP/s, in the dtype and with the threads of the contestants."""

    def __init__(self, rows: int, inner: int, columns: int, dtype: str, device: str) -> None:
        draw = torch.Generator().manual_seed(0)
        self.a, self.b = (
            torch.randn(*size, generator=draw).to(device, getattr(torch, dtype)) for size in ((rows, inner), (inner, columns))
        )
        self.product, self.rates = f"[{rows}×{inner}]·[{inner}×{columns}] {dtype}", []
        self._seconds(3)  # the first products are slower

    def measure(self) -> None:
        """Twenty products on a GPU, five on a CPU; called before every run of a contestant."""
        count = 20 if self.a.is_cuda else 5
        flops = 2 * self.a.shape[0] * self.a.shape[1] * self.b.shape[1]
        self.rates.append(count * flops / self._seconds(count))

    @property
    def median(self) -> float:
        return statistics.median(self.rates)

    def _seconds(self, count: int) -> float:
        wait: Callable[[], None] = torch.cuda.synchronize if self.a.is_cuda else lambda: None
        wait()
        began = time.perf_counter()
        for _ in range(count):
            self.a @ self.b
        wait()
        return time.perf_counter() - began


@dataclass
class Case:
    """One question to every contestant, and what came of it."""

    name: str
    full: Any
    """The question that is timed."""
    sample: Any
    """A small question whose answers must agree before anything is timed; it warms up as well."""
    floor: int
    """The least FLOPs of ``full``."""
    tolerance: float
    """How far answers may be apart."""
    notes: dict[str, Any] = field(default_factory=dict)
    compared: int | None = None
    """How many entries along the last axis of an answer must agree; all of them if None."""
    differences: dict[str, float] = field(default_factory=dict, init=False)
    runs: dict[str, list[Run]] = field(default_factory=dict, init=False)
    flops: dict[str, int] = field(default_factory=dict, init=False)


Contestants = Mapping[str, Contestant | Worker]


def race(
    case: Case,
    expected: Tensor,
    contestants: Contestants,
    rate: MatmulRate,
    repeats: int | None,
    count: Callable[[str], int],
) -> None:
    """Check all on the sample, then time the whole question in turns, comparing every answer with the first contestant's.

    Args:
        expected: the reference's answer to the sample.
        count: the FLOPs that a contestant executes, by name; called after the clock has stopped.
    """
    agree(case, expected, {name: contestant.run(case.sample).value for name, contestant in contestants.items()})
    turn, waiting = 0, dict(contestants)
    while waiting:
        for name, contestant in list(waiting.items()):
            rate.measure()
            case.runs.setdefault(name, []).append(contestant.run(case.full))
            say(f"  {name}: {case.runs[name][-1].seconds:.2f} s")
            wanted = repeats or (1 if case.runs[name][0].seconds > SLOW else 3)
            if len(case.runs[name]) >= wanted:
                del waiting[name]
        answers = {name: runs[min(turn, len(runs) - 1)].value for name, runs in case.runs.items()}
        agree(case, next(iter(answers.values())), answers)
        turn += 1
    case.flops = {name: count(name) for name in contestants}


def agree(case: Case, expected: Tensor, answers: Mapping[str, Tensor]) -> None:
    """Keep each contestant's largest difference from what is expected.

    Raises:
        SystemExit: a contestant answers something else.
    """
    for name, value in answers.items():
        if value.shape != expected.shape:
            raise SystemExit(f"{case.name}: {name} answers {tuple(value.shape)}, expected {tuple(expected.shape)}")
        difference = float((value - expected)[..., : case.compared].abs().max())
        if not difference <= case.tolerance:  # also where it is not a number
            raise SystemExit(f"{case.name}: {name} is off by {difference:.2e}, allowed {case.tolerance:.2e}")
        case.differences[name] = max(difference, case.differences.get(name, 0.0))


def report(case: Case, rate: MatmulRate, settings: dict[str, Any]) -> dict[str, Any]:
    """One case as JSON: ``percent_of_floor`` is ours, ``max_abs_diff`` the largest of all; ``contestants`` has every one's."""
    seconds = {name: statistics.median(run.seconds for run in runs) for name, runs in case.runs.items()}
    best, ours = case.floor / rate.median, seconds.get("interp")
    each = {
        name: {
            "seconds": taken,
            "every_run": [run.seconds for run in case.runs[name]],
            "ratio": None if ours is None else taken / ours,
            "flops_executed": case.flops[name],
            "gflop_per_second": case.flops[name] / taken / 1e9,
            "percent_of_floor": 100 * best / taken,
            "max_abs_diff": case.differences[name],
        }
        for name, taken in seconds.items()
    }
    return {
        "case": case.name,
        "seconds": seconds,
        "ratio": {name: line["ratio"] for name, line in each.items()},
        "percent_of_floor": each["interp"]["percent_of_floor"] if "interp" in each else None,
        "max_abs_diff": max(case.differences.values()),
        "tolerance": case.tolerance,
        "floor_flops": case.floor,
        "floor_seconds": best,
        "matmul": {"product": rate.product, "gflop_per_second": rate.median / 1e9, "measured": len(rate.rates)},
        "contestants": each,
        **case.notes,
        "machine": settings,
    }


def table(result: Mapping[str, Any]) -> str:
    """A case for people."""
    matmul = result["matmul"]
    lines = [
        "",
        result["case"],
        f"floor {result['floor_flops'] / 1e9:,.1f} GFLOP = {result['floor_seconds']:.3f} s at {matmul['gflop_per_second']:.1f} "
        f"GFLOP/s, the rate of {matmul['product']} (median of {matmul['measured']}); tolerance {result['tolerance']:.1e}",
        result["about"],
        *([f"no-op cells, {len(inert)}: {_by_place(inert)}"] if (inert := result.get("no_op_cells")) else []),
        f"{'contestant':18}{'seconds':>10}{'runs':>6}{'ratio':>8}{'GFLOP':>12}{'GFLOP/s':>9}{'% floor':>9}{'max |diff|':>12}",
    ]
    for name, line in result["contestants"].items():
        ratio = "" if line["ratio"] is None else f"{line['ratio']:.2f}"
        lines.append(
            f"{name:18}{line['seconds']:10.3f}{len(line['every_run']):6d}{ratio:>8}{line['flops_executed'] / 1e9:12,.1f}"
            f"{line['gflop_per_second']:9.1f}{line['percent_of_floor']:9.1f}{line['max_abs_diff']:12.1e}"
        )
    return "\n".join(lines)


def _by_place(names: list[str]) -> str:
    """``L0.resid_pre@0``, ``L1.resid_pre@0``, … as ``L0,1.resid_pre@0``."""
    layers: dict[str, list[str]] = {}
    for name in names:
        layer, place = name.split(".")
        layers.setdefault(place, []).append(layer.removeprefix("L"))
    return "; ".join(f"L{','.join(each)}.{place}" for place, each in layers.items())


def say(line: str) -> None:
    """Progress and tables: to the standard error, so that ``--json`` prints nothing else."""
    print(line, file=sys.stderr, flush=True)


def conclude(results: list[dict[str, Any]], as_json: bool) -> None:
    """The results on the standard output, as tables or as JSON."""
    print(json.dumps(results, indent=1, ensure_ascii=False) if as_json else "\n".join(table(result) for result in results))


def quiet() -> contextlib.AbstractContextManager[Any]:
    """What a library prints while it works goes to the standard error."""
    return contextlib.redirect_stdout(sys.stderr)
