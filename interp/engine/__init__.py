"""The engine: runs thousands of interventions and gives the same numbers as one at a time."""

from __future__ import annotations

from interp.engine.checking import Check, check
from interp.engine.estimates.attribution import attribute
from interp.engine.estimates.slopes import Gradients, gradients
from interp.engine.graph.circuits import patch_circuits
from interp.engine.graph.edges import Edge, edges
from interp.engine.graph.patching import patch_edges
from interp.engine.plan import Plan
from interp.engine.single.edited import edited
from interp.engine.single.ran import Run
from interp.engine.single.run import run
from interp.engine.sweep import explain, patch
from interp.engine.texts.generated import Generated
from interp.engine.texts.generating import generate
from interp.engine.texts.scoring import score

__all__ = [
    "Check",
    "Edge",
    "Generated",
    "Gradients",
    "Plan",
    "Run",
    "attribute",
    "check",
    "edges",
    "edited",
    "explain",
    "generate",
    "gradients",
    "patch",
    "patch_circuits",
    "patch_edges",
    "run",
    "score",
]
