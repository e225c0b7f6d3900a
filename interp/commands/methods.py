"""``interp methods``: the methods that are there, to read or as JSON."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass

import tyro

_WRAP = textwrap.TextWrapper(
    100, initial_indent="    ", subsequent_indent=" " * 14, break_long_words=False, break_on_hyphens=False
)


@dataclass(frozen=True)
class Methods:
    """List the methods: what each changes or reads, how it searches, what it costs, its paper, and the function to call."""

    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print a list with an object for every method: id, family, name, paper, mediator, search, cost and function."""

    def run(self) -> None:
        from interp.methods.registry import rows

        print(json.dumps(rows(), indent=1, ensure_ascii=False) if self.json else text(rows()))


def text(rows: list[dict[str, str]]) -> str:
    """The methods by family, in 100 columns: a function beside its id, and below what it does, costs and comes from."""
    wide = max(len(row["id"]) for row in rows)
    lines: list[str] = []
    for i, row in enumerate(rows):
        if i == 0 or row["family"] != rows[i - 1]["family"]:
            lines += ["", row["family"]] if lines else [row["family"]]
        lines.append(f"  {row['id']:{wide}}  {row['function']}")
        for label in ("search", "mediator", "cost", "paper"):
            said = _short(row[label]) if label == "paper" else row[label]
            lines += _WRAP.wrap(f"{label:8}  {said}")
    return "\n".join(lines)


def _short(papers: str) -> str:
    """Papers without their titles."""
    parts = (paper.split(", ") for paper in papers.split("; "))
    return "; ".join(f"{part[0]}, {part[-1]}" for part in parts)
