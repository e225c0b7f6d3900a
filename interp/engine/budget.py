"""How much fits in one pass: a budget of bytes, and what a row takes of it.

On a GPU the first pass is measured, and later ones have as many rows as really fit; a pass that still runs out of memory is
halved and resumed (:mod:`interp.engine.batches`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from interp.engine.pieces import divided, is_long, size
from interp.engine.readout import Reader
from interp.kernels.readout_torch import FEWEST, SHARE
from interp.models import Model

_CPU_BYTES = 1 << 30
_CPU_TOKENS = 1024
_CPU_NUMBERS = 1024 * 768
"""On a CPU larger passes stop paying: what a block leaves no longer fits in its caches. So many tokens, or so many numbers of
the stream where it is narrow."""
_BATCH = 256
_KEYS = 16
"""Keys and values of so many positions, which every row has a copy of, take about what one carried position takes."""


def memory(model: Model) -> int:
    """Bytes that a sweep may take: half of a GPU's free memory, 1 GiB on a CPU, or ``INTERP_MEMORY_BYTES``."""
    free = torch.cuda.mem_get_info(model.device)[0] // 2 if model.device.type == "cuda" else _CPU_BYTES
    return int(os.environ.get("INTERP_MEMORY_BYTES", free))


def check_rows(rows: int | None) -> None:
    """Raise ``ValueError`` for fewer than one row a pass."""
    if rows is not None and rows < 1:
        raise ValueError(f"rows={rows}; a pass has at least one row")


class Budget:
    """Rows that fit in a pass.

    Args:
        columns: number of positions of a whole prompt.
        rows: most rows in a pass whatever the memory; None for no such limit.
    """

    def __init__(self, model: Model, reader: Reader, columns: int, rows: int | None = None) -> None:
        check_rows(rows)
        self.model, self.columns, self.most = model, columns, rows
        self.bytes = memory(model)
        sizes, itemsize = model.sizes, model.dtype.itemsize
        d_model, d_head = sizes.get("d_model", 1024), sizes.get("d_head", 64)
        keys = 2 * sizes.get("kv_head", sizes.get("head", 1)) * d_head
        self.keys = keys * itemsize
        """Bytes that a position's keys and values take in one layer."""
        of_token = 8 * d_model + 3 * sizes.get("unit", 0) + 2 * keys + 3 * sizes.get("head", 0) * columns
        vocabulary = model.anatomy.outputs
        kept = reader.keep if reader.keep is not None else columns
        self.token = of_token * itemsize
        """Bytes that a carried position takes."""
        self.row = columns * keys * itemsize + _readout(reader, vocabulary, d_model)
        """Bytes that a row takes besides: keys and values before its positions, and its readout."""
        self.whole = columns * self.token + kept * vocabulary * (itemsize + 3 * 4)
        """Bytes of a row that runs a whole forward pass."""
        self.seen = 1.0
        """Measured bytes over estimated ones."""

    def examples(self, each: int) -> int:
        """Most examples of the base run to keep at once, for rows to begin from; it may take half of the memory.

        Args:
            each: bytes that one example takes.
        """
        return max(1, self.bytes // 2 // each)

    def rows(self, columns: int, share: int = 1) -> int:
        """Most rows to ask for in a pass that carries so many positions.

        Args:
            share: rows that one of them brings into the pass, itself and those that it leaves.
        """
        fits = int(self.bytes / (self.seen * self.taken(columns)))
        if self.model.device.type == "cpu":
            fits = min(fits, self._cpu_rows(columns))
        return max(1, self._limited(fits) // share)

    def _cpu_rows(self, columns: int) -> int:
        """Rows beyond which a pass stops paying; of a long prompt, as many as are no larger than a piece of one row."""
        if not is_long(self.model, self.columns):
            return max(_CPU_TOKENS, _CPU_NUMBERS // self.model.sizes.get("d_model", 1024)) // columns
        return size(self.model) // max(columns, self.columns // _KEYS)

    def taken(self, columns: int) -> int:
        """Bytes of a row that carries so many positions, in pieces where they are many."""
        at_once = self._at_once(columns)
        carried = columns * self.keys * self.model.sizes.get("layer", 1) if at_once < columns else 0
        return at_once * self.token + carried + self.row

    def _at_once(self, columns: int) -> int:
        return max(map(len, divided(self.model, range(columns))))

    def whole_rows(self) -> int:
        """Most rows of a whole forward pass."""
        return self._limited(int(self.bytes / (self.seen * self.whole)))

    @property
    def batch(self) -> int:
        """Most prompts of a whole forward pass of the base or a source, beyond which a pass gains nothing."""
        return min(self.whole_rows(), _BATCH)

    def backward_rows(self) -> int:
        """Most rows of a whole forward pass whose activations are kept, in every layer, for the backward pass."""
        return max(1, self.whole_rows() // (2 * self.model.sizes.get("layer", 1)))

    def _limited(self, fits: int) -> int:
        return max(1, fits if self.most is None else min(fits, self.most))

    @contextmanager
    def measured(self, rows: int, columns: int) -> Iterator[None]:
        """Compare what a pass takes with the estimate, where the device can say."""
        if self.model.device.type != "cuda":
            yield
            return
        before = torch.cuda.memory_allocated(self.model.device)
        torch.cuda.reset_peak_memory_stats(self.model.device)
        yield
        taken = torch.cuda.max_memory_allocated(self.model.device) - before
        self.seen = max(0.1, taken / (rows * self.taken(columns)))


def _readout(reader: Reader, vocabulary: int, d_model: int) -> int:
    """Bytes that reading a row takes: all logits with their log-softmax, or what the kernel holds of them at a time."""
    positions, number = reader.positions_of(reader.encoded.clean).shape[1], reader.dtype.itemsize
    if reader.columns is None or reader.way == "whole":
        return positions * vocabulary * (reader.model.dtype.itemsize + 3 * number)
    states = reader.columns.shape[1] + 2 * d_model
    chunk = min(vocabulary, max(vocabulary // SHARE, FEWEST)) if reader.way == "fused" else 0
    return positions * number * (states + 6 * chunk)
