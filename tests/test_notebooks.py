"""Tutorials come in pairs: a notebook without outputs, and the script that CI runs. Both say the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"


def cells_of_script(path: Path) -> list[tuple[str, str]]:
    """Kind and text of every cell of a script in percent format."""
    parts = re.split(r"^# %%(.*)\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = []
    for head, body in zip(parts[::2], parts[1::2], strict=True):
        markdown = "[markdown]" in head
        text = re.sub(r"^# ?", "", body, flags=re.MULTILINE) if markdown else body
        found.append(("markdown" if markdown else "code", text.strip()))
    return found


@pytest.mark.parametrize("script", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_notebook_and_script_say_the_same(script: Path) -> None:
    notebook = json.loads(script.with_suffix(".ipynb").read_text(encoding="utf-8"))
    cells = [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in notebook["cells"]]
    assert cells == cells_of_script(script)
    assert len(cells) > 5
    assert not any(cell.get("outputs") for cell in notebook["cells"])


def test_every_notebook_has_a_script() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {path.stem for path in FOLDER.glob("*.py")} != set()
