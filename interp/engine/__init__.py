"""The engine: runs thousands of interventions and gives the same numbers as one at a time."""

from __future__ import annotations

from interp.engine.sweep import patch

__all__ = ["patch"]
