"""Acceptance tests: one per "Done when" line, at full size, with the figures that it measured.

    @pytest.mark.done_when(2, "batched equals serial to 1e-5 × (1 + max |logit|)")
    def test_batched_equals_serial(figures):
        figures["max_abs_diff"] = ...
        assert figures["max_abs_diff"] <= ...

A line may be split over several tests. ``.ci/acceptance`` runs them and writes the JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

RESULTS: dict[str, dict[str, Any]] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--issue", type=int, action="append", help="only the lines of this issue (may be repeated)")
    parser.addoption("--json", type=Path, help="write the results there")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted, chosen, others = config.getoption("--issue"), [], []
    for item in items:
        marker = item.get_closest_marker("done_when")
        if marker is None:
            raise pytest.UsageError(f"{item.nodeid} does not say which line it measures: @pytest.mark.done_when(issue, line)")
        issue, line = marker.args
        item.user_properties.append(("done_when", (issue, line)))
        (chosen if wanted is None or issue in wanted else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = chosen


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """What the test measured, JSON, kept also where the test fails."""
    measured: dict[str, Any] = {}
    request.node.user_properties.append(("figures", measured))
    yield measured
    json.dumps(measured)  # a figure that is no JSON fails its own test, not the whole report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    properties = dict(report.user_properties)
    issue, line = properties["done_when"]
    result = RESULTS.setdefault(
        report.nodeid,
        {"id": report.nodeid, "issue": issue, "line": line, "outcome": "passed", "figures": {}, "seconds": 0.0},
    )
    result["figures"] = properties.get("figures", {})
    result["seconds"] = round(result["seconds"] + report.duration, 3)
    if report.outcome != "passed":
        result["outcome"] = report.outcome
        result["reason"] = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext[-2000:]


def pytest_sessionfinish(session: pytest.Session) -> None:
    target = session.config.getoption("--json")
    if target is not None:
        text = json.dumps(list(RESULTS.values()), indent=1, ensure_ascii=False, default=repr)
        Path(session.config.invocation_params.dir, target).write_text(text + "\n")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for result in RESULTS.values():
        terminalreporter.write_line(f"{result['outcome']:7} #{result['issue']} {result['line']}")
        if result["figures"]:
            terminalreporter.write_line(f"        {json.dumps(result['figures'], ensure_ascii=False, default=repr)}")
