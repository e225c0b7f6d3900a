"""The engine: runs thousands of interventions and gives the same numbers as one at a time."""

from __future__ import annotations

from interp.engine.plan import Plan
from interp.engine.sweep import explain, patch

__all__ = ["Plan", "explain", "patch"]
