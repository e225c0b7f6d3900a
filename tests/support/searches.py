"""What a search for circuits gives, made by a formula: two circuits of a graph of two blocks of two heads."""

from __future__ import annotations

import numpy as np
import xarray as xr

from interp import effects
from interp.circuits import Graph

GRAPH = Graph.like(2, heads=2)
KEPT = {"few": ["embed → m1", "m1 → logits"], "more": ["embed → L0H1.v", "L0H1 → m1", "embed → m1", "m1 → logits"]}
EXAMPLES = 4


def found() -> xr.Dataset:
    """Leaving out edge i changed i + 1; edges that went without being asked, the first five, have no number."""
    kept = np.zeros((len(KEPT), len(GRAPH)), bool)
    for cell, edges in enumerate(KEPT.values()):
        kept[cell, GRAPH.numbers(edges)] = True
    change = np.arange(1.0, 1 + len(GRAPH))[None].repeat(len(KEPT), 0)
    change[:, :5] = np.where(kept[:, :5], change[:, :5], np.nan)
    value = np.array([3.0, 1.0], "float32")[None, :, None] + np.zeros((1, len(KEPT), EXAMPLES), "float32")
    clean = np.zeros((1, EXAMPLES), "float32")
    result = effects.assemble(
        value,
        clean,
        clean + 10,
        axes={"cell": range(len(KEPT))},
        metrics=["kl"],
        coords={"clean_prompt": ["Ann met Bob"] * EXAMPLES, "corrupted_prompt": ["Ann met Cy"] * EXAMPLES},
        attrs={"patching": "noising", "noise_floor": {"kl": 0.0}, "engine_semantics": 1, "spec": "search", "model": "formula"},
    )
    along = {"circuit": ("cell", list(KEPT)), "edges": ("cell", kept.sum(-1))}
    edges = {name: ("edge", values) for name, (_, values) in GRAPH.coords().items()}
    by_edge = {name: (("cell", "edge"), numbers) for name, numbers in (("in_circuit", kept), ("change", change))}
    return result.assign_coords(along | edges).assign(by_edge)
