"""The page "Coming from TransformerLens, nnsight or pyvene" runs, and all four libraries give the same numbers.

Expected numbers: the peers' own, on the same weights, each in a process of its own (notebooks/coming_from). The tolerance is
1e-5 × (1 + largest number), as the page has it; what is found is about 1e-6.
"""

from __future__ import annotations

import ast
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
LIBRARIES = {"TransformerLens", "nnsight", "pyvene"}


@pytest.fixture(scope="module")
def page() -> Iterator[dict[str, Any]]:
    """What stands in the page's variables after it ran."""
    path = list(sys.path)
    yield runpy.run_path(str(FOLDER / "coming_from_elsewhere.py"))
    sys.path[:] = path
    for name in [name for name in sys.modules if name.partition(".")[0] == "coming_from"]:
        del sys.modules[name]


def test_every_task_is_there_in_every_library(page: dict[str, Any]) -> None:
    tasks = page["question"].TASKS
    assert len(tasks) == len(set(tasks)) == 10
    assert set(page["peers"].numbers) == LIBRARIES
    assert set(page["peers"].tables) == set(tasks)
    for library, answers in page["peers"].numbers.items():
        assert set(answers) == set(tasks), library


def test_the_numbers_agree(page: dict[str, Any]) -> None:
    """Between all peers here, and with ours by the tables of the page."""
    peers = page["peers"]
    for task in page["question"].TASKS:
        table, answers = peers.tables[task], [peers.numbers[library][task] for library in sorted(LIBRARIES)]
        allowed = 1e-5 * (1 + max(np.abs(answer).max() for answer in answers))
        for answer in answers:
            assert answer.shape == answers[0].shape, task
            assert np.isfinite(answer).all(), task
            assert np.abs(answer - answers[0]).max() <= allowed, task
        print(f"{task}: {table['largest deviation'].max():.1e}, allowed {allowed:.1e}")  # pytest -rP shows it
        assert set(table.index) == LIBRARIES | {"interp"}
        assert (table["largest deviation"] <= allowed).all(), task
        assert table["agrees"].all(), task


def test_there_was_something_to_agree_on(page: dict[str, Any]) -> None:
    """No answer is as small as the tolerance, and every intervention moves the logit difference by far more than it."""
    numbers, stream = page["peers"].numbers["nnsight"], page["stream"]
    for task in page["question"].TASKS:
        assert np.ptp(numbers[task]) > 0.1, task
    clean, corrupt = (side.sel(metric="logit_diff").values for side in (stream.clean, stream.corrupt))
    bases = {"zero_a_head": clean, "steer": clean, "interchange_in_a_subspace": corrupt, "patch_the_stream": corrupt}
    for task, base in bases.items():
        assert np.abs(numbers[task] - base).max() > 1e-2, task


def test_a_wrong_number_is_seen(page: dict[str, Any]) -> None:
    compare, numbers = page["peers"].compare, page["peers"].numbers["pyvene"]
    wrong = numbers["steer"] + np.array([0, 1e-2, 0], np.float32)
    assert not compare("steer", wrong)["agrees"].drop("interp").any()
    assert compare("steer", numbers["steer"])["agrees"].all()
    with pytest.raises(ValueError, match="shape"):
        compare("steer", wrong[:, None])


def test_shown_is_what_runs(page: dict[str, Any]) -> None:
    """Sources are read without importing a peer into this process."""
    from coming_from.side_by_side import PEERS, source

    for library, module in PEERS.items():
        for task in page["question"].TASKS:
            shown = source(library, task)
            assert shown is not None
            assert isinstance(ast.parse(shown).body[0], ast.FunctionDef)
            assert shown in (FOLDER / "coming_from" / f"{module}.py").read_text(encoding="utf-8")
        assert f"coming_from.{module}" not in sys.modules
