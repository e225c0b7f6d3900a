"""Values of a source, as one tensor with two maps of indices: which of its examples serves which of ours, and which position.

>>> values.at(examples, slots)                                                      # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Values:
    """Values of one source for one change."""

    tensor: Tensor
    """``[example, position, *rest]``, ``rest`` being (head), features."""
    example: Int[Tensor, " example"]
    """Which row of the tensor serves each example of the sweep."""
    columns: Int[Tensor, "example span"]
    """Which position of the tensor serves each token of the change, padded with −1."""
    index: int | None
    """Head or unit that is taken, None for all."""
    exact: bool = True
    """Whether the features must be the target's one by one; a constant may broadcast."""

    def at(self, examples: Tensor, slots: Tensor) -> Tensor:
        """Values ``[n, *features]`` of n tokens, each given by its example and its number within the change's positions."""
        found = self.tensor[self.example[examples], self.columns[examples, slots]]
        if self.index is None:
            return found if found.ndim > 1 else found[:, None]
        return found[:, self.index] if found.ndim > 2 else found[:, self.index, None]
