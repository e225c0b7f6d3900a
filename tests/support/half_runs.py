"""A run that is written unit by unit, whose values are known: value = 100 · layer + position + example / 1000."""

import numpy as np
import xarray as xr

from interp import effects

LAYERS, POSITIONS, EXAMPLES = 5, 3, 7
CHUNKS = {"layer": 2, "example": 3}
ATTRS = {
    "patching": "denoising",
    "noise_floor": {"m": 0.0},
    "engine_semantics": 1,
    "model": "tiny",
    "task": "t",
    "method": "patch",
}


def whole(dtype="float32"):
    at = np.indices((LAYERS, POSITIONS, EXAMPLES))
    return (100 * at[0] + at[1] + at[2] / 1000).astype(dtype)[None]


def skeleton(spec=1, dtype="float32", **attrs):
    return effects.assemble(
        np.full((1, LAYERS, POSITIONS, EXAMPLES), np.nan, dtype),
        np.ones((1, EXAMPLES), dtype),
        np.zeros((1, EXAMPLES), dtype),
        axes={"layer": list(range(LAYERS)), "position": list(range(POSITIONS))},
        metrics=["m"],
        coords={"template": [f"t{n // 2}" for n in range(EXAMPLES)]},
        attrs=ATTRS | {"spec": {"n": spec}} | attrs,
    )


def part(unit, dtype="float32"):
    index = (slice(None), unit.index.get("layer", slice(None)), slice(None), unit.index.get("example", slice(None)))
    return {"value": whole(dtype)[index]}


def write(store, spec=1, slow=None, **words):
    """Write a run, or what is left of it; the units that were done here, and the run."""
    done = []
    with store.begin(skeleton(spec), chunks=CHUNKS, **words) as writing:
        for unit in writing:
            if slow is not None:
                slow(unit)
            writing.write(unit, part(unit), {"unit": unit.number})
            done.append(unit.number)
        run = writing.finish(lambda family, attrs: {"units": [facts["unit"] for facts in writing.facts()]})
    return done, run


def tree(spec=1):
    return xr.DataTree.from_dict({"/a": skeleton([spec, "a"]), "/b": skeleton([spec, "b"])})
