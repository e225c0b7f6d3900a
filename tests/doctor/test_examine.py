"""What an examination reports, how it is written, and what it says of models that have little."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from interp import doctor
from interp.doctor import LAWS, Report, Verdict, architectures
from interp.doctor.models import examine_architecture, examine_named
from interp.doctor.verdict import Case, deviation, judged
from interp.models import load
from interp.models.listing import Listed

README = Path(__file__).parents[2] / "README.md"


def test_the_readme_holds_the_table_that_doctor_prints() -> None:
    """``python -m interp.doctor.readme`` writes it. What a row says is compared where its architecture is examined
    (``tests/conformance``)."""
    from interp.doctor import readme

    shown, head = readme.written(README.read_text(encoding="utf-8")).splitlines(), readme.table([]).splitlines()
    assert shown[: len(head)] == head
    assert [row.split(" | ")[0] for row in shown[len(head) :]] == [f"| {name}" for name in architectures.NAMES]


def test_readme_is_written_between_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from interp.doctor import readme

    monkeypatch.setattr(readme, "examine_all", lambda: [examine_architecture("dcgan")])
    page = tmp_path / "README.md"
    page.write_text(f"before\n\n{readme.BEGIN}\n\nold text\n\n{readme.END}\n\nafter\n")
    readme.main(page)
    once = page.read_text()
    assert once.startswith("before\n")
    assert once.endswith("after\n")
    assert "old text" not in once
    assert readme.written(once) == readme.table([examine_architecture("dcgan")])
    readme.main(page)
    assert page.read_text() == once
    page.write_text("no marks")
    with pytest.raises(ValueError, match=r"no marks.*interp\.doctor\.readme|lacks the mark"):
        readme.main(page)


def test_json_is_what_the_issue_asks_for() -> None:
    spec = json.loads(json.dumps(examine_architecture("bloom").spec()))
    assert spec["architecture"] == "bloom"
    assert spec["refused"] == ["experts", "permute_heads", "rotate"]
    assert spec["failed"] == []
    assert sorted([*spec["passed"], *spec["refused"]]) == sorted(law.name for law in LAWS)
    assert {verdict["law"] for verdict in spec["verdicts"]} == {law.name for law in LAWS}
    z = next(site for site in spec["sites"] if site["name"] == "z")
    assert z == {
        "stream": "main",
        "name": "z",
        "layers": [0, 1, 2],
        "sizes": {"example": None, "position": None, "head": 4, "d_head": 8},
    }


def test_the_text_shows_sites_by_stream_and_every_law() -> None:
    shown = doctor.text(examine_architecture("qwen2-vl"))
    assert "vision" in shown
    assert "L0–2" in shown
    assert "calls 3 softmaxes" in shown, "why its vision tower has no pattern"
    for law in LAWS:
        assert law.statement in shown
    assert "head 2" in shown, "grouped keys and values"


def test_a_failed_law_is_seen_everywhere() -> None:
    whole = examine_architecture("dcgan")
    broken = replace(whole, verdicts=(Verdict("repeat", "failed", "logits", float("inf"), 0.0), *whole.verdicts[1:]))
    assert broken.failed == ("repeat",)
    assert "✗ repeat" in doctor.text(broken)
    assert "1 with a law that failed" in doctor.summary([broken, whole])
    assert "**failed: repeat**" in doctor.markdown([broken])
    assert json.loads(json.dumps(broken.spec()))["verdicts"][0]["deviation"] == "inf"


def test_layers_are_shown_as_ranges() -> None:
    report = Report("toy", (Listed("main", "z", (0, 1, 2, 5), {"head": 3}),), {}, ())
    assert "z  L0–2, L5  head 3" in doctor.text(report)
    assert doctor.markdown([report]).splitlines()[-1] == "| toy | main | 4 | 0 |  |"


def test_the_worst_cases_are_named_first_and_what_is_no_number_fails() -> None:
    verdict = judged("repeat", [Case("a", 0.1), Case("b", float("nan")), Case("c", 0.0), Case("d", 0.2), Case("e", 1)], 0.01)
    assert (verdict.status, verdict.what) == ("failed", "b; e; d and 1 more")
    assert judged("repeat", [Case("a", 0.0), Case("b", 0.0)], 0.0).what == "2 cases, none deviates"
    assert deviation(torch.tensor([1.0]), torch.tensor([float("nan")])) == float("inf")
    assert deviation(torch.zeros(2), torch.zeros(3)) == float("inf")
    assert deviation(torch.tensor([3.0, 1.0]), torch.tensor([3.0, 0.0])) == 0.25


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, something: torch.Tensor) -> torch.Tensor:
        return self.inner(something)


def test_a_module_of_which_nothing_is_known_is_refused_and_one_with_an_example_is_examined() -> None:
    unknown = doctor.examine(load(Unknown(), name="mine"))
    assert unknown.passed == ("untouched",)
    assert "its forward needs something; show how it is called with load(module, example={...})" in unknown["repeat"].what
    known = doctor.examine(load(Unknown(), name="mine", example={"something": torch.randn(3, 2, 3)}))
    assert known.passed == ("sites", "repeat", "own_value", "untouched")
    assert "2 cases" in known["own_value"].what, "what goes into its one linear map and what comes out"
    assert known["heads"].what == "it has no stack of blocks"


@pytest.mark.parametrize("name", ["zoo/language-4l", "zoo/induction-2l"])
def test_the_zoo_passes(name: str) -> None:
    report = examine_named(name)
    assert report.failed == ()
    assert report.refused == ("experts", "fold_value_bias"), "the zoo has no experts, and its attention no biases"
