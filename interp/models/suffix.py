"""Keys and values that later positions attend to without their being computed again, through transformers' Cache interface.

A model that is given a :class:`Suffix` believes that it goes on with prompts whose first ``start`` tokens it has seen: masks,
windows and rotary phases come out as in the whole prompt, because the model's own code makes them. What differs from a cache
for generation: nothing grows, rows may repeat prompts in any order, and every layer keeps the full length, sliding ones too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from interp.models.hooks import Left
from interp.models.keys_values import Carried, KeysValues


class _Layer(DynamicLayer):
    """One layer: what comes before ``start``, for the rows that are being run."""

    def __init__(self, number: int, start: int, before: KeysValues | None) -> None:
        super().__init__()
        self.number, self.start, self.before = number, start, before
        self.rows: Tensor | None = None
        self.capture = False
        self.whole: KeysValues | None = None
        self.carried: Carried | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.whole is None:
            found = KeysValues(key_states, value_states)
            begin = self.start
            if self.carried is not None:
                found, begin = self.carried.grown(self.number, found), self.carried.start
            if begin:
                found = self._base(begin).then(found)
            if self.capture:
                self.whole = found
                raise Left
            return found.keys, found.values
        return self.whole.keys, self.whole.values  # known already, from a pass over more positions than are run now

    def _base(self, stop: int) -> KeysValues:
        """The base run's before a column."""
        assert self.before is not None
        keys, values = self.before.keys[:, :, :stop], self.before.values[:, :, :stop]
        return KeysValues(keys, values) if self.rows is None else KeysValues(keys[self.rows], values[self.rows])

    def get_seq_length(self) -> int:
        return self.start

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.start + query_length, 0


class Suffix(Cache):
    """A cache as it stands after ``start`` positions.

    Args:
        start: number of positions that are not run again.
        before: keys and values of the base run, by layer; None where masks alone are wanted.
        layers: number of layers.
    """

    def __init__(self, start: int, before: Sequence[KeysValues] | None, layers: int) -> None:
        self.served = [_Layer(i, start, before[i] if before is not None else None) for i in range(layers)]
        super().__init__(layers=list(self.served))

    def serve(
        self,
        layer: int,
        rows: Tensor | None,
        *,
        capture: bool = False,
        whole: KeysValues | None = None,
        carried: Carried | None = None,
    ) -> None:
        """Set up one layer for its next call.

        Args:
            rows: which example of the base run each row is; None for one row an example, in order.
            capture: leave the block once keys and values are known (:class:`interp.models.hooks.Left`); :meth:`captured` then
                has them.
            whole: keys and values of all positions, known from such a call.
            carried: those of the rows' own pass so far, which this call goes on with; the base run's come before them.
        """
        served = self.served[layer]
        served.rows, served.capture, served.whole, served.carried = rows, capture, whole, carried

    def captured(self, layer: int) -> KeysValues:
        """Keys and values of the last call of a layer that was served with ``capture``; they are not kept."""
        found = self.served[layer].whole
        assert found is not None
        self.serve(layer, None)
        return found


def recording() -> DynamicCache:
    """A cache that keeps every layer's keys and values whole, sliding layers too (hence without the model's config)."""
    return DynamicCache()


def recorded(cache: DynamicCache) -> list[KeysValues]:
    """What :func:`recording` kept."""
    layers: Any = cache.layers
    return [KeysValues(layer.keys, layer.values) for layer in layers]
