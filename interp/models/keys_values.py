"""Keys and values of positions that later ones attend to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class KeysValues:
    """One layer's keys and values, as attention uses them (after rotary embedding and q/k norms)."""

    keys: Float[Tensor, "example kv_head position d_head"]
    values: Float[Tensor, "example kv_head position d_value"]

    def then(self, other: KeysValues) -> KeysValues:
        """Those of these positions, and of the positions behind them."""
        return KeysValues(torch.cat([self.keys, other.keys], dim=-2), torch.cat([self.values, other.values], dim=-2))


class Carried:
    """Keys and values of the rows of a pass, from the column at which they start; grows as pieces of it are run.

    Args:
        start: that column; what comes before is the base run's.
    """

    def __init__(self, start: int) -> None:
        self.start = start
        self._layers: dict[int, KeysValues] = {}

    def grown(self, layer: int, new: KeysValues) -> KeysValues:
        """What is carried of a layer, with what follows it."""
        known = self._layers.get(layer)
        self._layers[layer] = new if known is None else known.then(new)
        return self._layers[layer]
