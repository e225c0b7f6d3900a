"""What the README shows is true: its Python runs, and the sites that it lists are those that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import interp

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_its_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    effect = names["effect"]
    assert effect["value"].dims == ("metric", "layer", "position", "example")  # type: ignore[index]
    assert names["cut"].attrs["attention"] == "as in the model, changed rows beside it"  # type: ignore[attr-defined]
    assert list(interp.Store("runs").runs()["name"]) == ["heads"]


def test_it_lists_every_site() -> None:
    table = README[README.index("| site | holds |") :].split("\n\n")[0]
    listed = set(re.findall(r"`(\w+)`", table))
    assert listed == set(interp.sites.COMPONENTS)
