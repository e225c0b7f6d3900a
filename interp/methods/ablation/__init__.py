"""Taking a component out: by zero, by its mean, by another example's value, or by the constant that hurts least."""

from __future__ import annotations

from interp.methods.ablation.ablation import Optimal, ablate, optimal_constants

__all__ = ["Optimal", "ablate", "optimal_constants"]
