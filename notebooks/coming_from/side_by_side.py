"""Sources of the peers' snippets as they run, their numbers, and the comparison.

>>> peers = Peers.of(folder)                                                                     # doctest: +SKIP
>>> show("steer")                                                                               # doctest: +SKIP
>>> peers.compare("steer", ours)                                                                # doctest: +SKIP
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

HERE = Path(__file__).parent
PEERS = {"TransformerLens": "in_transformer_lens", "nnsight": "in_nnsight", "pyvene": "in_pyvene"}
OURS = "interp"
TOLERANCE = 1e-5
"""Of 1 + the largest number. Four programs of one formula add up in different orders, in float32."""


def source(peer: str, name: str) -> str | None:
    """A function of a peer's file as it is written; None where it has none of that name. Nothing is imported."""
    text = (HERE / f"{PEERS[peer]}.py").read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            return "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    return None


def show(*names: str) -> None:
    """Print what every peer runs."""
    for peer in PEERS:
        found = [text for name in names if (text := source(peer, name)) is not None]
        print(f"──── {peer} {'─' * (100 - len(peer))}", *found, sep="\n\n", end="\n\n")


@dataclass(frozen=True)
class Peers:
    """The peers' numbers by library and task, and all comparisons so far."""

    numbers: dict[str, dict[str, np.ndarray[Any, Any]]]
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: str) -> Peers:
        """Run every peer in a process of its own, all at once.

        Raises:
            RuntimeError: one of them failed; with the end of what it said.
        """
        environment = os.environ | {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
        started = {
            peer: subprocess.Popen(
                [sys.executable, "-m", "coming_from.worker", name, str(folder)],
                cwd=HERE.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            for peer, name in PEERS.items()
        }  # fmt: skip
        said = {peer: process.communicate()[0] for peer, process in started.items()}
        for peer, process in started.items():
            if process.returncode:
                raise RuntimeError(f"{peer} ended with {process.returncode}:\n{said[peer][-3000:]}")
        return cls({peer: dict(np.load(Path(folder, f"{name}.npz"))) for peer, name in PEERS.items()})

    def compare(self, task: str, ours: Any) -> pd.DataFrame:
        """The four answers to a task: one number of each, at the same place, and how far all numbers are from ours.

        Raises:
            ValueError: an answer of another shape than ours.
        """
        mine = np.asarray(ours)
        middling = np.abs(mine).ravel().argsort()[3 * mine.size // 4]  # the largest may be a 1 that everyone has
        at = np.unravel_index(middling, mine.shape)
        rows = [_row(OURS, mine, mine, at)]
        rows += [_row(peer, answers[task], mine, at) for peer, answers in self.numbers.items()]
        where = ", ".join(map(str, at))
        table = pd.DataFrame(rows).set_index("library").rename(columns={"one": f"number [{where}]"})
        self.tables[task] = table
        return table

    def summary(self) -> pd.DataFrame:
        """Largest deviations from ours by task and library."""
        return pd.DataFrame({task: table["largest deviation"] for task, table in self.tables.items()}).T.drop(columns=OURS)


def _row(library: str, answer: np.ndarray[Any, Any], ours: np.ndarray[Any, Any], at: tuple[Any, ...]) -> dict[str, Any]:
    if answer.shape != ours.shape:
        raise ValueError(f"{library} answers in the shape {answer.shape}, interp in {ours.shape}")
    deviation = float(np.abs(answer - ours).max())
    return {
        "library": library,
        "numbers": "×".join(map(str, answer.shape)),
        "one": float(answer[at]),
        "largest deviation": deviation,
        "agrees": bool(deviation <= TOLERANCE * (1 + np.abs(ours).max())),
    }
