"""High-level causal models: the algorithms that a network might carry out, and rows by which they are told apart.

>>> from interp import tasks
>>> task = tasks.hierarchical_equality()
>>> task.model
equality(w, x, y, z → WX(w, x), YZ(y, z), O(WX, YZ))
>>> rows = task.counterfactuals(256, ("WX",), seed=0)
>>> float(rows.flip.mean())
0.5
"""

from __future__ import annotations

from interp.tasks.causal_model.kinds import Boolean, Categorical, CausalModelError, Integer, Kind, Real, Several, Vector
from interp.tasks.causal_model.mechanisms import Change, Mechanism, Set
from interp.tasks.causal_model.model import CausalModel, Values
from interp.tasks.causal_model.rivals import Distinguished, distinguishes, separating
from interp.tasks.causal_model.rows import Counterfactuals, counterfactuals
from interp.tasks.causal_model.task import CausalTask
from interp.tasks.causal_model.transforms import (
    Abstracted,
    Merged,
    is_abstraction,
    marginalise,
    merge_values,
    merge_variables,
)

__all__ = [
    "Abstracted", "Boolean", "Categorical", "CausalModel", "CausalModelError", "CausalTask", "Change", "Counterfactuals",
    "Distinguished", "Integer", "Kind", "Mechanism", "Merged", "Real", "Set", "Several", "Values", "Vector",
    "counterfactuals", "distinguishes", "is_abstraction", "marginalise", "merge_values", "merge_variables", "separating",
]  # fmt: skip
