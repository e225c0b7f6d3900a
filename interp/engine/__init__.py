"""The engine: runs thousands of interventions and gives the same numbers as one at a time."""

from __future__ import annotations

from interp.engine.attribution import attribute
from interp.engine.edges import patch_edges
from interp.engine.plan import Plan
from interp.engine.slopes import Gradients, gradients
from interp.engine.sweep import explain, patch

__all__ = ["Gradients", "Plan", "attribute", "explain", "gradients", "patch", "patch_edges"]
