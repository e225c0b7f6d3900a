"""What is independent: examples, or clusters of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interp.errors import ShapeMismatchError

Array = NDArray[np.float64]

#: Resampled values held at once: cells are taken in slabs of this many values, 64 MB.
SLAB = 2**23


@dataclass(frozen=True)
class Units:
    """The clusters of examples, or the examples themselves."""

    numbers: NDArray[np.intp] | None
    """The cluster of each example; None where examples are the units."""
    sizes: Array
    """Examples in each unit."""

    @property
    def count(self) -> int:
        """How many units there are."""
        return len(self.sizes)

    @property
    def effective(self) -> float:
        """How many units of equal size tell as much."""
        return float(self.sizes.sum() ** 2 / (self.sizes**2).sum())

    def sums(self, values: Array) -> Array:
        """``[..., example]`` summed over each unit: ``[..., unit]``; a unit with a missing example is NaN."""
        if self.numbers is None:
            return values
        one_hot = np.zeros((len(self.numbers), self.count))
        one_hot[np.arange(len(self.numbers)), self.numbers] = 1.0
        sums = np.asarray(np.nan_to_num(values) @ one_hot)
        missing = ~np.isfinite(values)  # 0 · NaN would leave its own cluster and spoil the others
        sums[(missing @ one_hot) > 0] = np.nan
        return sums


def effective_number(clusters: ArrayLike) -> float:
    """How many clusters of equal size tell as much as these: (Σ size)² / Σ size² (Kish, Survey Sampling, 1965).

    >>> effective_number(["a", "a", "b", "b"]), effective_number(["a", "a", "a", "b"])
    (2.0, 1.6)
    """
    _, sizes = np.unique(np.asarray(clusters).astype(str), return_counts=True)
    return Units(None, sizes.astype(float)).effective


def prepare(values: dict[str, ArrayLike], clusters: ArrayLike | None, level: float = 0.5) -> tuple[list[Array], Units]:
    """Arrays ``[..., example]`` as float64, and their units. One label for all examples is no cluster.

    Raises:
        ShapeMismatchError: the arrays do not share their examples, or have none.
        ValueError: ``level`` is out of range.
    """
    arrays = {name: np.asarray(array, float) for name, array in values.items()}
    labels = None if clusters is None else np.asarray(clusters)
    sizes = {array.shape[-1:] for array in arrays.values()} | (set() if labels is None else {labels.shape})
    if len(sizes) != 1 or not all(next(iter(sizes))) or () in sizes:
        listed = [f"{name} {array.shape}" for name, array in arrays.items()]
        listed += [] if labels is None else [f"clusters {labels.shape}"]
        raise ShapeMismatchError(
            f"the last axis of every array is example and must be equal and not empty: {', '.join(listed)}"
        )
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    examples = next(iter(sizes))[0]
    if labels is not None:
        names, numbers, counts = np.unique(labels.astype(str), return_inverse=True, return_counts=True)
        if len(names) > 1:
            return list(arrays.values()), Units(numbers, counts.astype(float))
    return list(arrays.values()), Units(None, np.ones(examples))


def at_least_one(**numbers: int) -> None:
    """Raise unless every number is 1 or more."""
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
