"""Tasks with their causal models: networks that do them may carry out one algorithm or another.

>>> from interp import tasks
>>> tasks.price_tagging().models["left"]
left(lo, hi, amount → L(lo, amount), R(amount, hi), O(L, R))
"""

from __future__ import annotations

from interp.tasks.algorithms.attributes import attributes
from interp.tasks.algorithms.binding import binding
from interp.tasks.algorithms.comparison import comparison
from interp.tasks.algorithms.equality import and_or, equality_of_vectors, hierarchical_equality
from interp.tasks.algorithms.giving import ioi_algorithm
from interp.tasks.algorithms.prices import price_tagging

__all__ = [
    "and_or",
    "attributes",
    "binding",
    "comparison",
    "equality_of_vectors",
    "hierarchical_equality",
    "ioi_algorithm",
    "price_tagging",
]
