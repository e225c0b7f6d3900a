"""What the store costs: a unit of work written, a run saved and loaded, ten thousand runs listed.

    python experiments/benchmarks/store.py --json

`unit_ms` is what a sweep pays for every unit: its claim, its chunks, its file. `list_10k_s` is `Store.runs()` with its index,
`list_10k_first_s` without. Everything is on the local disk, in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import xarray as xr

from interp import effects
from interp.store import Store, run_id
from interp.store.marker import DATA, WHOLE, written

LAYERS, HEADS, EXAMPLES = 30, 9, 512
"""A map of SmolLM2's heads."""


def skeleton(spec: object, examples: int = EXAMPLES) -> xr.Dataset:
    nothing = np.zeros((1, examples), "float32")
    return effects.assemble(
        np.full((1, LAYERS, HEADS, examples), np.nan, "float32"),
        nothing,
        nothing,
        axes={"layer": list(range(LAYERS)), "head": list(range(HEADS))},
        metrics=["logit_diff"],
        coords={"template": ["a"] * examples, "clean_prompt": ["When Mary and John went to the store,"] * examples},
        attrs={"patching": "denoising", "noise_floor": {"logit_diff": 0.0}, "engine_semantics": 1, "spec": spec, "model": "m"},
    )


def unit_ms(folder: Path) -> dict[str, float]:
    """A run of 512 units."""
    store, took = Store(folder / "units"), []
    values = np.random.default_rng(0).normal(size=(1, LAYERS, HEADS, 1)).astype("float32")
    with store.begin(skeleton("units"), chunks={"example": 1}) as writing:
        began = time.perf_counter()
        for unit in writing:
            writing.write(unit, {"value": values}, {"wall_seconds": 0.0})
            took.append(time.perf_counter() - began)
            began = time.perf_counter()
        began = time.perf_counter()
        writing.finish()
    return {"unit_ms": 1e3 * median(took), "unit_ms_mean": 1e3 * float(np.mean(took)), "finish_s": time.perf_counter() - began}


def save_and_load(folder: Path) -> dict[str, float]:
    store, result = Store(folder / "whole"), effects.stamped(skeleton("whole").fillna(1.0))
    began = time.perf_counter()
    run = store.save(result)
    saved = time.perf_counter()
    run.load()
    return {"save_ms": 1e3 * (saved - began), "load_ms": 1e3 * (time.perf_counter() - saved)}


def list_many(folder: Path, count: int) -> dict[str, float]:
    """Runs whose markers are those of one run with other specs."""
    store = Store(folder / "many")
    run = store.save(effects.stamped(skeleton("many", examples=2).fillna(0.0)), tags=["demo"])
    assert run.marker is not None
    data = run.marker["data"]
    content = store.files.read(f"{run.id}/{data}/{DATA}")
    for number in range(count - 1):
        spec = {"n": number}
        identity = run_id(spec, 1)
        store.files.write(f"{identity}/{data}/{DATA}", content)
        store.files.write(f"{identity}/{WHOLE}", written({**run.marker, "id": identity, "spec": spec}))
    began = time.perf_counter()
    assert len(store.runs()) == count
    first = time.perf_counter()
    again = []
    for _ in range(5):
        began_again = time.perf_counter()
        assert len(Store(folder / "many").runs(model="m", tags="demo")) == count
        again.append(time.perf_counter() - began_again)
    return {"list_10k_s": median(again), "list_10k_first_s": first - began, "runs": count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--runs", type=int, default=10_000, help="how many runs are listed")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = unit_ms(Path(folder)) | save_and_load(Path(folder)) | list_many(Path(folder), given.runs)
    found |= {"python": platform.python_version()}  # type: ignore[dict-item]
    if given.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:18} {value:.4g}" if isinstance(value, float) else f"{name:18} {value}")


if __name__ == "__main__":
    main()
