"""How many rows fit in one pass."""

from __future__ import annotations

import os

import torch

from interp.engine.readout import Reader
from interp.models import Encoded, Model

_CPU_BYTES = 1 << 30
"""On a CPU larger batches stop paying long before memory is short."""


def rows_a_pass(model: Model, encoded: Encoded, reader: Reader) -> int:
    """Rows whose activations and logits take about half of the free memory of a GPU, or 1 GiB on a CPU.

    An estimate from the widths of the stream, the MLP, the scores and the logits that are kept; a pass that still runs out of
    memory is halved and resumed.
    """
    tokens = encoded.clean.ids.shape[1]
    sizes = model.sizes
    width = 8 * sizes.get("d_model", 1024) + 3 * sizes.get("unit", 0) + 3 * sizes.get("head", 0) * tokens
    vocabulary = getattr(getattr(model.module, "config", None), "vocab_size", 0) or 0
    kept = reader.keep if reader.keep is not None else tokens
    one = tokens * width * model.dtype.itemsize + kept * vocabulary * (model.dtype.itemsize + 3 * 4)
    return max(1, memory(model) // max(one, 1))


def memory(model: Model) -> int:
    """Bytes that a sweep may take: half of a GPU's free memory, 1 GiB on a CPU, or ``INTERP_MEMORY_BYTES``."""
    free = torch.cuda.mem_get_info(model.device)[0] // 2 if model.device.type == "cuda" else _CPU_BYTES
    return int(os.environ.get("INTERP_MEMORY_BYTES", free))
