"""The command line: ``interp COMMAND``.

Every command is a dataclass; the text under a field is its help. Those that work on a store alone are in
:mod:`interp.commands`. What stands alone on the line is a run (``interp show RUN``), by its id, the beginning of one, or its
name; the store is ``--store`` of every command, by default the folder ``runs``. Commands about no runs, ``interp ls``, ``tidy``
and ``view``, take it alone too (``interp ls ADDRESS``).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from interp.commands.listing import Ls
from interp.commands.methods import Methods
from interp.commands.places import OfStore, RunFirst, opened
from interp.commands.runs import Check, Rm, Show, Tidy
from interp.commands.sharing import Export, Report
from interp.errors import UserError


@dataclass(frozen=True)
class Demo:
    """Check that a model identifies the indirect object, patch it, and draw which places carry the answer."""

    model: str = "zoo/language-4l"
    """A hub id, a folder, a GGUF file, or a model of the zoo."""
    out: Path = field(default_factory=lambda: Path("interp-demo"))
    """Folder for report.html, the figures and the store of results."""
    examples: int = 32
    """Pairs of prompts."""
    seed: int = 0
    """Seed of the pairs."""

    def run(self) -> None:
        from interp.demo import demo

        demo(self.model, self.out, examples=self.examples, seed=self.seed)


@dataclass(frozen=True)
class Doctor:
    """List the sites of a model and hold it to the laws by which they are known; the exit status is 1 if it breaks one."""

    model: tyro.conf.Positional[str] = ""
    """A hub id, a folder, a GGUF file, or a model of the zoo."""
    all: tyro.conf.FlagCreatePairsOff[bool] = False
    """Instead of one model, every architecture that is answered for, built tiny from its configuration."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print a list with an object for every model: architecture, passed, failed and refused laws, verdicts, sites, and loss
    with and without BOS."""

    def run(self) -> int:
        import json

        from interp import doctor

        if self.all == bool(self.model):
            raise UserError("doctor needs a model to examine, or --all for every architecture, and not both")
        reports = doctor.examine_all() if self.all else [doctor.examine_named(self.model)]
        if self.json:
            print(json.dumps([report.spec() for report in reports], indent=1, ensure_ascii=False))
        else:
            print(doctor.summary(reports) if self.all else doctor.text(reports[0]))
        return int(any(report.failed for report in reports))


@dataclass(frozen=True)
class Rerun:
    """Make a run again from its recipe and compare; the exit status is 1 if a number is off by more than rounding."""

    run_id: RunFirst
    """Id of the run, a unique beginning of it, or its name."""
    store: str = "runs"
    """Folder or address of the store."""
    model: str = ""
    """Another place to load the model from: a hub id, a folder, a GGUF file, or a model of the zoo."""
    device: str = ""
    """Where to run; by default where the run was made."""

    def run(self) -> int:
        from interp.models import load
        from interp.reruns import rerun

        run = opened(self.store).run(self.run_id)
        model = load(self.model, device=self.device or None) if self.model else None
        found = rerun(run, model=model, device=None if self.model else self.device or None)
        print(found)
        return int(not found.within)


@dataclass(frozen=True)
class View(OfStore):
    """Look through a store in the browser: its runs, their maps, the examples behind a cell, two runs side by side."""

    port: int = 8050
    """Port on 127.0.0.1; 0 takes a free one. Nothing answers at any other address."""
    browser: bool = True
    """Open the page in the browser."""

    def run(self) -> None:
        import importlib.util
        import threading
        import webbrowser
        from contextlib import suppress

        if importlib.util.find_spec("dash") is None:
            raise UserError("interp view needs dash, which is not installed: pip install 'interp-workbench[app]'")
        opened(self.address)
        from interp.app.server import serve

        with serve(self.address, port=self.port) as server, suppress(KeyboardInterrupt):
            print(f"{self.address} is shown at {server.url} (Ctrl+C ends it)", flush=True)
            if self.browser:
                webbrowser.open(server.url)
            threading.Event().wait()


Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
    | Annotated[Methods, tyro.conf.subcommand("methods")]
    | Annotated[Ls, tyro.conf.subcommand("ls")]
    | Annotated[Show, tyro.conf.subcommand("show")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Rerun, tyro.conf.subcommand("rerun")]
    | Annotated[View, tyro.conf.subcommand("view")]
    | Annotated[Rm, tyro.conf.subcommand("rm")]
    | Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[Tidy, tyro.conf.subcommand("tidy")]
)


def main(args: list[str] | None = None) -> int:
    """Run one command and return its exit status; a mistake of the user is one message on standard error and status 2."""
    command = tyro.cli(
        Command, prog="interp", description="Find out by intervention which parts of a network cause its behaviour.", args=args
    )
    try:
        return command.run() or 0
    except UserError as error:
        print(f"interp: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
