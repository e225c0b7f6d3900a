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
    block, at = f"{BLOCKS[family]}.{cell['layer']}", cell.get("position", slice(None))
    width = tiny.WIDTH // tiny.HEADS
    if cell["site"] == "resid_post":
        with network.trace(input_ids=source):
            taken = network.get(block).output.save()
        with network.trace(input_ids=base):
            network.get(block).output[:, at] = taken[:, at]
            logits = network.output.logits.save()
        return logits
    if cell["site"] == "resid_pre":
        with network.trace(input_ids=source):
            taken = network.get(block).input.save()
        with network.trace(input_ids=base):
            network.get(block).input[:, at] = taken[:, at]
            logits = network.output.logits.save()
        return logits
    assert cell["site"] == "z"
    head = slice(cell["head"] * width, (cell["head"] + 1) * width)
    with network.trace(input_ids=source):
        taken = network.get(f"{block}.{W_O[family]}").input.save()
    with network.trace(input_ids=base):
        network.get(f"{block}.{W_O[family]}").input[:, at, head] = taken[:, at, head]
        logits = network.output.logits.save()
    return logits


if __name__ == "__main__":
    serve(patched)
