"""``interp export`` and ``interp report``: runs for other programs and other people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from interp.commands.places import RunFirst, RunsFirst, opened
from interp.errors import UserError
from interp.outputs import file_to_write


@dataclass(frozen=True)
class Export:
    """Write a run as netCDF, CSV or Parquet, or all of it as one zip that is read without torch."""

    run_id: RunFirst
    """Id of the run, a unique beginning of it, or its name."""
    out: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FILE…")] = ()
    """Files to write: its numbers as .nc, .csv or .parquet; as .zip, a bundle of all of it."""
    bundle: tyro.conf.FlagCreatePairsOff[bool] = False
    """Data, figures, prompts, provenance and a script that makes the run again, in one .zip, called after the run unless FILE
    says it."""
    store: str = "runs"
    """Folder or address of the store."""
    partial: tyro.conf.FlagCreatePairsOff[bool] = False
    """Of half a run, write what is there so far: NaN where it is not computed yet."""

    def run(self) -> None:
        from interp import bundle

        store = opened(self.store)
        run, zips = store.run(self.run_id), [path for path in self.out if path.suffix.lower() == ".zip"]
        if self.bundle and not zips:
            zips = [Path(bundle.named(run))]
        elif not self.out:
            raise UserError(f"export needs a file to write: interp export {self.run_id} heads.csv, heads.zip or --bundle")
        written = [one for path in self.out if path not in zips for one in store.export(run.id, path, partial=self.partial)]
        written += [bundle.write(run, path) for path in zips]
        print("\n".join(f"wrote {path}" for path in written))


@dataclass(frozen=True)
class Report:
    """Write one HTML file about several runs: their figures, strongest cells and provenance. It opens without a network."""

    run_ids: RunsFirst
    """Ids of the runs, unique beginnings of them, or names."""
    store: str = "runs"
    """Folder or address of the store."""
    out: Path = Path("report.html")
    """The file."""
    title: str = ""
    """Of the page; by default the runs' names."""

    def run(self) -> None:
        from interp import report

        if not self.run_ids:
            raise UserError("report needs at least one run: its id, a unique beginning of it, or its name")
        file_to_write(self.out, "--out")
        store = opened(self.store)
        runs = [store.run(run) for run in self.run_ids]
        title = self.title or ", ".join(run.name or run.id for run in runs)
        print(f"wrote {report.write(self.out, title, report.of_runs(runs))}")
