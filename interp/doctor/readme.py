"""The README's table of architectures, as the examination gives it.

python -m interp.doctor.readme           # writes it between its two marks
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from interp.doctor.examine import Report
from interp.doctor.laws import LAWS
from interp.doctor.models import examine_all
from interp.doctor.table import markdown

BEGIN = "<!-- interp doctor --all; written by python -m interp.doctor.readme -->"
END = "<!-- end of interp doctor --all -->"


def written(readme: str) -> str:
    """The table that a README holds.

    Raises:
        ValueError: it lacks one of the marks.
    """
    for mark in (BEGIN, END):
        if readme.count(mark) != 1:
            raise ValueError(f"the README lacks the mark {mark!r}, or has it twice")
    return readme[readme.index(BEGIN) + len(BEGIN) : readme.index(END)].strip()


def table(reports: Sequence[Report]) -> str:
    """The laws in a line each, and the architectures in a row each."""
    return "\n".join(f"- `{law.name}`: {law.statement}" for law in LAWS) + "\n\n" + markdown(reports)


def main(readme: Path) -> None:
    """Write the table between the two marks of a README."""
    text = readme.read_text(encoding="utf-8")
    written(text)
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n\n{table(examine_all())}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "README.md"))
