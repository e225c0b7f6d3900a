"""Metrics: frozen objects that declare what they read and give one number a row and example.

>>> from interp import metrics
>>> metrics.resolve("logit_diff")[0].reads.columns
'answers'
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from interp.errors import MetricError, UnknownNameError
from interp.metrics.protocol import Metric, Readout, Reads, require
from interp.metrics.standard import (
    KL,
    L2,
    STANDARD,
    Accuracy,
    FromLogits,
    LogitDiff,
    LogProb,
    Odds,
    Prob,
    ProbDiff,
    Rank,
    SameTop1,
    Top1,
)

MetricLike = str | Metric | Callable[[Tensor], Tensor]


def names() -> tuple[str, ...]:
    """Every metric that can be asked for by name."""
    return tuple(sorted(STANDARD))


def resolve(metrics: MetricLike | Sequence[MetricLike]) -> tuple[Metric, ...]:
    """Metric objects from names, metric objects and functions of logits, one or several.

    Raises:
        UnknownNameError: a name that no metric has, with the near matches.
        MetricError: something else than these.
    """
    many = metrics if isinstance(metrics, Sequence) and not isinstance(metrics, str) else (metrics,)
    if not many:
        raise ValueError("no metric was given: name at least one, such as 'logit_diff'")
    found = tuple(_one(metric) for metric in many)
    labels = [metric.name for metric in found]
    if len(set(labels)) < len(labels):
        raise ValueError(f"two metrics of one sweep have the same name: {', '.join(labels)}")
    return found


def _one(metric: MetricLike) -> Metric:
    if isinstance(metric, str):
        if metric not in STANDARD:
            raise UnknownNameError("metric", metric, STANDARD)
        return STANDARD[metric]
    if isinstance(metric, Metric):
        return metric
    if not callable(metric) or isinstance(metric, type):
        what = f"the class {metric.__name__}" if isinstance(metric, type) else f"of type {type(metric).__name__}"
        raise MetricError(f"metric is {what}; expected a name such as 'logit_diff', a metric, or a function of logits")
    return FromLogits(metric, name=getattr(metric, "__name__", "metric"))


__all__ = [
    "KL", "L2", "Accuracy", "FromLogits", "LogProb", "LogitDiff", "Metric", "MetricLike", "Odds", "Prob", "ProbDiff", "Rank",
    "Readout", "Reads", "SameTop1", "Top1", "names", "require", "resolve",
]  # fmt: skip
