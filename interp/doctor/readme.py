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
from interp.outputs import between, put_between

BEGIN = "<!-- interp doctor --all; written by python -m interp.doctor.readme -->"
END = "<!-- end of interp doctor --all -->"


def written(readme: str) -> str:
    """The table that a README holds.

    Raises:
        ValueError: it lacks one of the marks.
    """
    return between(readme, BEGIN, END)


def table(reports: Sequence[Report]) -> str:
    """The laws in a line each, and the architectures in a row each."""
    return "\n".join(f"- `{law.name}`: {law.statement}" for law in LAWS) + "\n\n" + markdown(reports)


def main(readme: Path) -> None:
    """Write the table between the two marks of a README."""
    put_between(readme, BEGIN, END, table(examine_all()))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "README.md"))
