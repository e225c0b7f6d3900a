"""Patches by nnsight, one trace a patch, for test_nnsight.py. Run as a process of its own."""

from __future__ import annotations

from typing import Any

import nnsight
import tiny
import torch
from answering import serve
from torch import Tensor

BLOCKS = {"gpt2": "transformer.h", "llama": "model.layers"}
W_O = {"gpt2": "attn.c_proj", "llama": "self_attn.o_proj"}


def patched(job: dict[str, Any]) -> list[Tensor]:
    network = nnsight.NNsight(getattr(tiny, job["family"])(job["seed"]))
    base, source = torch.tensor(job["base"]), torch.tensor(job["source"])
    return [_one(network, base, source, job["family"], cell) for cell in job["cells"]]


def _one(network: Any, base: Tensor, source: Tensor, family: str, cell: dict[str, Any]) -> Tensor:
    """Two traces: one takes the value from the source run, one writes it into the base run."""
    block, at, width = f"{BLOCKS[family]}.{cell['layer']}", cell.get("position", slice(None)), tiny.WIDTH // tiny.HEADS
    if cell["site"] == "resid_post":
        module = network.get(block)
        with network.trace(input_ids=source):
            taken = module.output.save()
        with network.trace(input_ids=base):
            module.output[:, at] = taken[:, at]
            logits = network.output.logits.save()
    else:  # resid_pre, or a head's z among the inputs of W_O
        module = network.get(block if cell["site"] == "resid_pre" else f"{block}.{W_O[family]}")
        features = slice(None) if cell["site"] == "resid_pre" else slice(cell["head"] * width, (cell["head"] + 1) * width)
        with network.trace(input_ids=source):
            taken = module.input.save()
        with network.trace(input_ids=base):
            module.input[:, at, features] = taken[:, at, features]
            logits = network.output.logits.save()
    return logits


if __name__ == "__main__":
    serve(patched)
