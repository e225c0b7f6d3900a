"""``interp show``, ``interp rm``, ``interp check``, ``interp tidy``: what runs hold, and whether they are whole."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass

import tyro

from interp.commands.places import OfStore, RunFirst, RunsFirst, opened
from interp.errors import UserError


@dataclass(frozen=True)
class Show:
    """Print what a run holds: its axes, its provenance and its strongest cells; of half a run, as far as it is."""

    run_id: RunFirst
    """Id of the run, a unique beginning of it, or its name."""
    store: str = "runs"
    """Folder or address of the store."""
    top: int = 10
    """How many of the strongest cells, of each metric."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print all that the result says of itself, by family, and nothing else."""

    def run(self) -> None:
        from interp import effects as fx
        from interp.report import fact, provenance, tables
        from interp.store.run import RUNNING, UNFINISHED

        run = opened(self.store).run(self.run_id)
        half = run.status in (RUNNING, UNFINISHED)
        done, total = run.progress
        families = fx.families(run.load(partial=half))
        if self.json:
            print(json.dumps({name: ds.attrs for name, ds in families.items()}, indent=1, ensure_ascii=False))
            return
        tags = f" ({', '.join(run.tags)})" if run.tags else ""
        print(" ".join(filter(None, (run.id, run.name))) + tags)
        if half:
            print(f"{run.status}: {done} of {total} work units are done")
        for name, ds in families.items():
            known = fx.furthest(ds) if half else ds
            print(f"\n{name or 'holds'}: {', '.join(map(str, ds.data_vars))}")
            print(f"  {', '.join(f'{axis} {size}' for axis, size in ds.sizes.items())}")
            facts = {name: fact(value) for name, value in provenance(ds).items()}
            print("\n".join(f"  {name:<{max(map(len, facts))}}  {value}" for name, value in facts.items()))
            for said, table in tables(known, self.top):
                print(f"\nthe {said}\n{table.to_string(index=False, float_format='{:.3g}'.format)}")


@dataclass(frozen=True)
class Rm:
    """Remove runs from a store, with all that is kept beside them."""

    run_ids: RunsFirst
    """Ids of the runs, unique beginnings of them, or names."""
    store: str = "runs"
    """Folder or address of the store."""
    yes: tyro.conf.FlagCreatePairsOff[bool] = False
    """Ask nothing."""

    def run(self) -> int:
        store = opened(self.store)
        runs = list({run.id: run for run in map(store.run, self.run_ids)}.values())
        if not runs:
            raise UserError("rm needs at least one run: its id, a unique beginning of it, or its name")
        for run in runs:
            print(" ".join(filter(None, (run.id, run.name, run.status, f"{run.size / 1000:,.0f} kB"))))
        if not self.yes:
            if not sys.stdin.isatty():
                raise UserError("nobody is here to be asked whether these runs are to be removed; say so with --yes")
            if input(f"Remove {'these runs' if len(runs) > 1 else 'this run'}? [y/N] ").strip().lower() not in ("y", "yes"):
                print("nothing was removed")
                return 1
        for run in runs:
            store.delete(run.id)
        print(f"removed {len(runs)} run{'s' * (len(runs) > 1)}")
        return 0


@dataclass(frozen=True)
class Check:
    """Verify every checksum of a store, or of some runs of it; the exit status is 1 if a run is damaged."""

    run_ids: RunsFirst = ()
    """Ids of the runs, unique beginnings of them, or names; by default all."""
    store: str = "runs"
    """Folder or address of the store."""

    def run(self) -> int:
        from interp.store.run import COMPLETE, DAMAGED

        store = opened(self.store)
        found = [run.check() for run in (map(store.run, self.run_ids) if self.run_ids else store)]
        for run in found:
            if run.status != COMPLETE:
                print(f"{run.id} {run.name or ''}".rstrip() + f" is {run.status}: {run.reason}")
        counted = Counter(run.status for run in found)
        print(f"{len(found)} run{'s' * (len(found) != 1)}: {', '.join(f'{n} {status}' for status, n in counted.items())}")
        return int(counted[DAMAGED] > 0)


@dataclass(frozen=True)
class Tidy(OfStore):
    """Remove what killed writers left behind and what was set aside as damaged. Call it while nobody writes to the store."""

    def run(self) -> None:
        removed = opened(self.address).tidy()
        print("\n".join(f"removed {path}" for path in removed) or "nothing to remove")
