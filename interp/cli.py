"""The command line: ``interp demo``, ``interp doctor``, ``interp ls``, ``interp show``, ``interp rerun``,
``interp view``.

Every command is a dataclass; the text under a field is its help.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from interp.errors import StoreError, UserError


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
class Ls:
    """List the runs of a store."""

    store: tyro.conf.Positional[Path]
    """Folder of the store."""

    def run(self) -> None:
        from interp.store import Store

        if not self.store.is_dir():
            raise StoreError(f"{self.store} is no folder, so it is no store; interp demo makes one in interp-demo/runs")
        runs = Store(self.store).runs()
        print(runs.to_string(index=False) if len(runs) else f"{self.store} holds no runs")


@dataclass(frozen=True)
class Show:
    """Print what a run holds: its axes, its provenance and its strongest cells."""

    store: tyro.conf.Positional[Path]
    """Folder of the store."""
    run_id: tyro.conf.Positional[str]
    """Id of the run, a unique beginning of it, or its name."""
    top: int = 10
    """How many of the strongest cells."""

    def run(self) -> None:
        import json

        import xarray as xr

        from interp import effects
        from interp.store import Store

        result = Store(self.store).load(self.run_id)
        families = {n.path: n.to_dataset() for n in result.leaves} if isinstance(result, xr.DataTree) else {self.run_id: result}
        for name, family in families.items():
            print(f"{name}: {', '.join(f'{axis} {size}' for axis, size in family.sizes.items())}")
            print(json.dumps({k: v for k, v in family.attrs.items() if k != "spec"}, indent=2, default=str))
            if effects.swept_axes(family):
                print(effects.top(family, self.top).to_string(index=False))


@dataclass(frozen=True)
class Rerun:
    """Make a run again from its recipe and compare; the exit status is 1 if a number is off by more than rounding."""

    run_id: tyro.conf.Positional[str]
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
        from interp.store import Store

        run = Store(self.store).run(self.run_id)
        model = load(self.model, device=self.device or None) if self.model else None
        found = rerun(run, model=model, device=None if self.model else self.device or None)
        print(found)
        return int(not found.within)


@dataclass(frozen=True)
class View:
    """Look through a store in the browser: its runs, their maps, the examples behind a cell, two runs side by side."""

    store: tyro.conf.Positional[str]
    """Folder or address of the store."""
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
        if "://" not in self.store and not Path(self.store).is_dir():
            raise StoreError(f"{self.store} is no folder, so it is no store; interp demo makes one in interp-demo/runs")
        from interp.app.server import serve

        with serve(self.store, port=self.port) as server, suppress(KeyboardInterrupt):
            print(f"{self.store} is shown at {server.url} (Ctrl+C ends it)", flush=True)
            if self.browser:
                webbrowser.open(server.url)
            threading.Event().wait()


Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
    | Annotated[Ls, tyro.conf.subcommand("ls")]
    | Annotated[Show, tyro.conf.subcommand("show")]
    | Annotated[Rerun, tyro.conf.subcommand("rerun")]
    | Annotated[View, tyro.conf.subcommand("view")]
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
