"""The README's table of methods, as they are registered.

python -m interp.methods.readme           # writes it between its two marks
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from interp.methods.registry import registered
from interp.outputs import put_between

BEGIN, END = "<!-- methods -->", "<!-- /methods -->"


def table() -> str:
    """The methods in a row each, with links to their papers."""
    lines = ["| | method | call | what is changed or read | search | cost | paper |", "|---|---|---|---|---|---|---|"]
    before = ""
    for family, method in registered():
        shown = "" if family == before else f"**{family}**"
        papers = re.sub(r"arXiv (\S+?)(?=;|$)", r"[\1](https://arxiv.org/abs/\1)", method.paper)
        papers = re.sub(r"(?<!\()https://(\S+?)(?=;|$)", r"[article](https://\1)", papers)
        cells = (shown, method.name, f"`{method.function}`", method.mediator, method.search, method.cost, papers)
        lines.append(f"| {' | '.join(cells)} |")
        before = family
    return "\n".join(lines)


def main(readme: Path) -> None:
    """Write the table between the two marks of a README."""
    put_between(readme, BEGIN, END, table())


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "README.md"))
