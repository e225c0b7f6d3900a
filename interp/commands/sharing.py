"""``interp export`` and ``interp report``: runs for other programs and other people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from interp.commands.places import RunFirst, RunsFirst, opened
from interp.errors import UserError
from interp.outputs import file_to_write


@dataclass(frozen=True)
class Export:
    """Write a run as netCDF, CSV or Parquet, or all of it as one zip that is read without torch."""

    run_id: RunFirst
    """Id of the run, a unique beginning of it, or its name."""
    out: tyro.conf.Positional[Path | None] = None
    """File for its numbers, which ends in .nc, .csv or .parquet."""
    bundle: Path | None = None
    """File for data, figures, prompts, provenance and a script that makes the run again; it ends in .zip."""
    store: str = "runs"
    """Folder or address of the store."""
    partial: tyro.conf.FlagCreatePairsOff[bool] = False
    """Of half a run, write what is there so far: NaN where it is not computed yet."""

    def run(self) -> None:
        from interp import bundle

        if self.out is None and self.bundle is None:
            raise UserError(f"export needs a file to write: interp export {self.run_id} heads.csv, or --bundle heads.zip")
        store = opened(self.store)
        written = store.export(self.run_id, self.out, partial=self.partial) if self.out is not None else []
        written += [bundle.write(store.run(self.run_id), self.bundle)] if self.bundle is not None else []
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
