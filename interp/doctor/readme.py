"""The README's table of architectures, as the examination gives it.

    python -m interp.doctor.readme           # writes it between its two marks
"""

from __future__ import annotations

import sys
from pathlib import Path

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
    return readme[readme.index(BEGIN) + len(BEGIN) : readme.index(END)].strip()


def laws() -> str:
    """Every law in one line of Markdown."""
    return "\n".join(f"- `{law.name}`: {law.statement}" for law in LAWS)


def main(readme: Path) -> None:
    text = readme.read_text(encoding="utf-8")
    table = f"{laws()}\n\n{markdown(examine_all())}"
    readme.write_text(text.replace(written(text), table) if written(text) else text.replace(END, f"{table}\n{END}"), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "README.md"))
