"""Reports to read: text for a terminal, Markdown for the README.

>>> print(markdown(reports).splitlines()[0])                                              # doctest: +SKIP
| architecture | streams | sites | passed | refused |
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

from interp.doctor.examine import Report
from interp.doctor.laws import LAWS, STATEMENTS
from interp.doctor.verdict import Verdict
from interp.models.listing import described

NO_ROLE = "no module of this model plays that role"
"""Why a component is absent that nothing in a model suggests."""
_MARKS = {"passed": "✓", "failed": "✗", "refused": "–"}


def text(report: Report) -> str:
    """One model: its sites, what it lacks and why, every law, and its loss with and without BOS."""
    lines = [report.architecture, "", "sites"]
    lines += textwrap.indent(described(report.sites), "  ").splitlines()
    lines += _of_absent(report)
    lines += ["", "laws"]
    for verdict in report.verdicts:
        lines += _of_verdict(verdict)
    counts = [(report.passed, "passed"), (report.failed, "failed"), (report.refused, "refused")]
    lines += ["", f"loss: {report.loss}", "", ", ".join(f"{len(laws)} {what}" for laws, what in counts)]
    return "\n".join(lines)


def summary(reports: Sequence[Report]) -> str:
    """Many models: a mark for every law."""
    names = [law.name for law in LAWS]
    width = max(len(report.architecture) for report in reports)
    head = [f"{_letter(i)} {name}: {STATEMENTS[name]}" for i, name in enumerate(names)]
    rows = [f"{report.architecture:{width}}  {_marks(report)}{_reasons(report)}" for report in reports]
    failed = sum(bool(report.failed) for report in reports)
    legend = ", ".join(f"{mark} {status}" for status, mark in _MARKS.items())
    row = f"{'':{width}}  {' '.join(_letter(i) for i in range(len(names)))}"
    closing = f"{len(reports)} architectures, {failed} with a law that failed ({legend})"
    return "\n".join([*head, "", row, *rows, "", *_not_testable(reports), closing])


def _not_testable(reports: Sequence[Report]) -> list[str]:
    """By law, on how many models it was refused, and one of the reasons."""
    lines = []
    for law in LAWS:
        found = [(report.architecture, report[law.name].what) for report in reports if law.name in report.refused]
        if found:
            name, why = found[0]
            lines.append(f"– {law.name} cannot be tested on {len(found)}, as on {name}: {why}")
    return [*lines, ""] if lines else []


def markdown(reports: Iterable[Report]) -> str:
    """A table with a row for every model: what it has, how many laws it passed, and which could not be tested."""
    lines = ["| architecture | streams of blocks | sites | laws passed | not testable |", "|---|---|---|---|---|"]
    for report in reports:
        streams = dict.fromkeys(site.stream for site in report.sites if site.layers)
        count = sum(max(1, len(site.layers)) for site in report.sites)
        failed = f", **failed: {', '.join(report.failed)}**" if report.failed else ""
        refused = ", ".join(f"`{law}`" for law in report.refused)
        lines.append(
            f"| {report.architecture} | {', '.join(streams) or '–'} | {count} | {len(report.passed)}{failed} | {refused} |"
        )
    return "\n".join(lines)


def _of_absent(report: Report) -> list[str]:
    """What is not there for a reason of this model's own, and why."""
    lines = []
    for why, names in _by_reason(report.absent).items():
        if why != NO_ROLE:
            lines.append(f"    {', '.join(names)}: {why}")
    return ["", "  not there", *lines] if lines else []


def _by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for what, why in reasons.items():
        found.setdefault(why, []).append(what)
    return found


def _of_verdict(verdict: Verdict) -> list[str]:
    measured = "" if verdict.deviation is None else f" ({verdict.deviation:.0e}"
    measured += f" of {verdict.tolerance:.0e})" if measured and verdict.tolerance is not None else ")" if measured else ""
    lines = [
        f"  {_MARKS[verdict.status]} {verdict.law:15} {STATEMENTS.get(verdict.law, '')}",
        f"      {verdict.status}: {verdict.what}{measured}",
    ]
    return lines + [f"      not tested: {_some(whats)}: {why}" for why, whats in _by_reason(verdict.untested).items()]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _letter(number: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[number]


def _marks(report: Report) -> str:
    return " ".join(_MARKS[verdict.status] for verdict in report.verdicts)


def _reasons(report: Report) -> str:
    failed = [f"{verdict.law}: {verdict.what}" for verdict in report.verdicts if verdict.status == "failed"]
    return "".join(f"  {reason}" for reason in failed)
