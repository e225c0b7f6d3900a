"""The table of methods: complete, true, and the same in Python, on the command line and in the README."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, fields
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest

import interp
from interp.cli import main
from interp.methods import Method, readme, registry
from interp.outputs import between

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "interp" / "methods").glob("*/*.py")
    if path.stem != "__init__"
)


def test_the_table_has_a_row_for_every_method_by_family_and_id() -> None:
    table = interp.methods.table()
    assert isinstance(table, pd.DataFrame)
    assert list(table.columns) == ["id", "family", "name", "paper", "mediator", "search", "cost", "function"]
    assert table[["family", "id"]].apply(tuple, axis=1).is_monotonic_increasing
    known = {
        "interp.patch": "activation_patching",
        "interp.attribute": "attribution_patching",
        "interp.patch_edges": "edge_patching",
        "interp.dla": "direct_logit_attribution",
    }
    by_function = table.set_index("function")["id"]
    assert {function: by_function[function] for function in known} == known
    assert not (table == "").any(axis=None)
    assert table.map(lambda text: text == text.strip() and "\n" not in text and "|" not in text).all(axis=None)


def test_ids_are_words_of_their_own() -> None:
    ids = interp.methods.table()["id"]
    assert ids.is_unique
    assert ids.str.fullmatch(r"[a-z][a-z0-9_]*").all()


@pytest.mark.parametrize("row", registry.rows(), ids=lambda row: row["id"])
def test_its_function_is_there_under_the_path_that_is_said_and_has_a_docstring(row: dict[str, str]) -> None:
    module, _, name = row["function"].rpartition(".")
    function = getattr(import_module(module), name)
    assert callable(function)
    assert function.__doc__


@pytest.mark.parametrize("row", registry.rows(), ids=lambda row: row["id"])
def test_every_paper_has_authors_a_year_a_title_and_where_to_find_it(row: dict[str, str]) -> None:
    for paper in row["paper"].split("; "):
        assert re.fullmatch(r"[^,;]+ \d{4}, .{8,}, (arXiv \d{4}\.\d{5}|https://\S+)", paper), paper


@pytest.mark.parametrize("name", MODULES)
def test_every_method_module_says_what_it_holds(name: str) -> None:
    module = import_module(name)
    said = getattr(module, "METHODS", None) or (module.METHOD,)
    assert all(isinstance(method, Method) for method in said)
    family = name.split(".")[2]
    assert {(family, method) for method in said} <= set(registry.registered())


def test_a_module_that_says_nothing_is_no_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever adds a module without METHOD is told at once, by its name."""
    from interp.methods.readouts import logit_lens

    monkeypatch.delattr(logit_lens, "METHODS")
    with pytest.raises(AttributeError, match=r"interp\.methods\.readouts\.logit_lens.*METHOD"):
        interp.methods.table()


def test_the_command_prints_json_with_what_programs_need(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == interp.methods.table().to_dict("records")
    assert {"id", "paper", "mediator", "search", "function", "name", "family", "cost"} == set(found[0])


def test_the_command_prints_every_method_in_100_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    flat = re.sub(r"\s+", " ", printed)
    for row in registry.rows():
        assert f" {row['id']} {row['function']} search {row['search']} mediator {row['mediator']} cost {row['cost']} " in flat
        assert f"\n  {row['id']} " in printed
        for paper in row["paper"].split("; "):
            assert paper.split(", ")[0] in flat
            assert paper.split(", ")[-1] in flat
    assert [line for line in printed.splitlines() if line[:1].strip()] == sorted({row["family"] for row in registry.rows()})


def test_the_readme_holds_the_table() -> None:
    """``python -m interp.methods.readme`` writes it."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert between(page, readme.BEGIN, readme.END) == readme.table()


def test_the_readme_is_written_between_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Method("a", "an a", "Ada & Bob 2020, Of As, arXiv 2001.00001; Cy 2021, Of Bs, https://c.example/b", *"mscf")
    other = Method(**(asdict(one) | {"id": "b", "name": "a b"}))
    monkeypatch.setattr(readme, "registered", lambda: iter([("x", one), ("x", other)]))
    page = tmp_path / "README.md"
    page.write_text(f"before\n\n{readme.BEGIN}\n\nold text\n\n{readme.END}\n\nafter\n")
    readme.main(page)
    written = page.read_text()
    papers = (
        "Ada & Bob 2020, Of As, [2001.00001](https://arxiv.org/abs/2001.00001); Cy 2021, Of Bs, [article](https://c.example/b)"
    )
    assert written.startswith(f"before\n\n{readme.BEGIN}\n\n| ")
    assert written.endswith(f"| {papers} |\n\n{readme.END}\n\nafter\n")
    assert between(written, readme.BEGIN, readme.END).splitlines()[2:] == [
        f"| **x** | an a | `f` | m | s | c | {papers} |",
        f"|  | a b | `f` | m | s | c | {papers} |",
    ]
    readme.main(page)
    assert page.read_text() == written
    page.write_text("no marks")
    with pytest.raises(ValueError, match="the text lacks the mark '<!-- methods -->', or has it twice"):
        readme.main(page)


def test_every_field_says_what_it_holds() -> None:
    """A docstring stands under each, in the source."""
    source = Path(str(registry.__file__)).read_text(encoding="utf-8")
    for field in fields(Method):
        assert re.search(rf'\n    {field.name}: str\n    """', source), field.name
