"""Stores that are damaged at random: nothing crashes the listing, nothing outside is read, no number is wrong in silence."""

import contextlib
import json
import os
import random
import shutil
from pathlib import Path

import half_runs as half
import numpy as np

from interp.errors import StoreError
from interp.store import Store, Unit

SECRET = b"what lies outside a store is not its own"
CANARY = 12345.0


def build(folder):
    """A store with two whole runs, one of them a tree, and one half done; and beside it a store that nothing may reach."""
    store, outside = Store(folder / "runs"), Store(folder / "outside")
    with contextlib.suppress(KeyboardInterrupt):
        half.write(store, spec="half", slow=_stop, name="half", beside={"recipe.json": b"{}"})
    whole = half.skeleton("whole").assign(value=(half.skeleton()["value"].dims, half.whole()))
    store.save(whole, name="whole", tags=["a"], beside={"recipe.json": b"{}"})
    tree = half.tree("tree")
    for family in ("a", "b"):
        tree[family] = tree[family].to_dataset().assign(value=(half.skeleton()["value"].dims, half.whole()))
    store.save(tree, name="tree")
    store.runs()  # makes the index
    outside.save(whole.assign(value=whole["value"] * 0 + CANARY), name="secret", beside={"secret.txt": SECRET})
    return store


def _stop(unit: Unit):
    if unit.number == 5:
        raise KeyboardInterrupt


HARMS = (
    "flip",
    "flip many",
    "truncate",
    "grow",
    "empty",
    "remove",
    "rename",
    "swap",
    "link",
    "folder link",
    "json",
    "huge",
    "dots",
)


def harm(folder, rng):
    """One random damage; what it was."""
    root = folder / "runs"
    files = sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink())
    kind, file = rng.choice(HARMS), rng.choice(files)
    data = file.read_bytes()
    if kind in ("flip", "flip many") and data:
        changed = bytearray(data)
        for _ in range(1 if kind == "flip" else rng.randrange(2, 50)):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        file.write_bytes(bytes(changed))
    elif kind == "truncate":
        file.write_bytes(data[: rng.randrange(len(data) + 1)])
    elif kind == "grow":
        file.write_bytes(data + rng.randbytes(rng.randrange(1, 100)))
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "remove":
        shutil.rmtree(file.parent) if rng.random() < 0.3 and file.parent != root else file.unlink()
    elif kind == "rename":
        where = file if rng.random() < 0.5 or file.parent == root else file.parent
        name = rng.choice(["9", "run.json", "plan.json", "0" * 12, f"{rng.randrange(16**12):012x}"]) + rng.choice(["", "x"])
        with contextlib.suppress(OSError):  # a folder is not put in a file's place
            where.rename(where.with_name(name))
    elif kind == "swap":
        other = rng.choice(files)
        mine, theirs = file.read_bytes(), other.read_bytes()
        file.write_bytes(theirs)
        other.write_bytes(mine)
    elif kind == "link":
        file.unlink()
        file.symlink_to(rng.choice(sorted(p for p in (folder / "outside").rglob("*") if p.is_file())))
    elif kind == "folder link" and file.parent != root:
        shutil.rmtree(file.parent)
        file.parent.symlink_to(rng.choice(sorted(p for p in (folder / "outside").rglob("*") if p.is_dir())))
    elif kind in ("json", "huge", "dots"):
        _forge(rng.choice(sorted(root.glob("*/*.json"))) if list(root.glob("*/*.json")) else file, kind, rng)
    return f"{kind} {file.relative_to(root)}"


def _forge(path, kind, rng):
    """A marker that says something else, now and then with a digest that holds: whoever wrote it knew the format."""
    from interp.store.identity import canonical, sha256

    try:
        marker = json.loads(path.read_bytes())
        marker.pop("digest")
    except (ValueError, KeyError, AttributeError, OSError):
        return
    key = rng.choice(sorted(marker))
    if kind == "huge":
        marker[key] = "x" * 2_000_000
    elif kind == "dots":
        way = rng.choice(["../../outside", "..", "/etc/passwd", "../runs", "a/../../b", "....//", "\x00", "~"])
        if rng.random() < 0.5:
            marker["data"] = way
        else:
            marker["files"] = {way: next(iter(marker["files"].values()), {})} if isinstance(marker["files"], dict) else way
    else:
        marker[key] = rng.choice([None, [], {}, 0, -1, 10**30, "", "text", True, 1.5, [[]], {"": {}}])
    if rng.random() < 0.7:
        with contextlib.suppress(ValueError):
            marker["digest"] = sha256(canonical(marker))
    path.write_text(json.dumps(marker))


def look(folder):
    """Everything that a user does with a store; what was refused. Raises where anything is wrong."""
    store, refused = Store(folder / "runs"), 0
    table = store.runs()
    assert set(table["status"]) <= {"complete", "running", "unfinished", "damaged"}
    assert all(table["reason"][table["status"] == "damaged"])
    store.runs(model="t*", tags="a", since="2020-01-01")
    for run in store:
        repr(run), run.size, run.check().status
        for act in (
            lambda run=run: run.progress,
            run.beside,
            run.load,
            lambda run=run: run.load(partial=True),
            lambda run=run: store.load(run.id),
        ):
            try:
                found = act()
            except StoreError as error:
                refused += 1
                said = str(error)
            else:
                _right(found)
                said = run.id
            assert run.id in said, said
    for name in ("half", "whole", "tree", "secret", "../outside"):
        with contextlib.suppress(StoreError):
            _right(store.load(name, partial=True))
    return refused


def _right(found):
    """Values are those that were written, or not there."""
    if isinstance(found, dict):
        assert SECRET not in found.values()
    if not hasattr(found, "data_vars"):
        return
    for ds in [found] if not hasattr(found, "leaves") else [node.to_dataset() for node in found.leaves]:
        values = ds["value"].values
        assert values.shape == half.whole().shape
        known = ~np.isnan(values)
        assert np.array_equal(values[known], half.whole()[known])


def fuzz(folder, rounds, seed):
    """Damage stores and look at them; how often something was refused, and nothing was."""
    rng, seen = random.Random(seed), {"rounds": rounds, "refused": 0, "untouched": 0}
    template = Path(folder) / "template"
    build(template)
    usual = look(template)  # half a run is not loaded as if it were whole
    for number in range(rounds):
        copy = Path(folder) / f"copy{number}"
        shutil.copytree(template, copy)
        done = [harm(copy, rng) for _ in range(rng.choice([1, 1, 2, 3, 5])) if any((copy / "runs").rglob("*"))]
        before = _state(copy / "outside")
        try:
            refused = look(copy)
            store = Store(copy / "runs")
            for run in list(store):
                store.delete(run.id)
            assert store.runs().empty
        except Exception as error:
            error.add_note(f"round {number} of seed {seed}: {', '.join(done)}")
            raise
        assert _state(copy / "outside") == before, done
        seen["refused"] += refused
        seen["untouched"] += refused == usual
        shutil.rmtree(copy)
    return seen


def _state(folder):
    return {os.path.relpath(p, folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
