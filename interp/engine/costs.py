"""What a row costs: floating-point operations of its matrix products, from the sizes of the modules that it runs.

Counted are a block's linear maps, attention's two products, and the unembedding; two operations a multiplication. Norms and
nonlinearities are left out. A mixture of experts counts the experts that a token is sent to, as far as the config says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from interp.engine.joins import POINTS, Point
from interp.models import Model


@dataclass(frozen=True, slots=True)
class Block:
    """Operations of one block for one token."""

    into: float
    """Projections into attention."""
    out: float
    """W_O."""
    mlp: float
    attend: float
    """For one token attended to."""

    def attention(self, tokens: float, attended: float) -> float:
        return tokens * (self.into + self.out + self.attend * attended)


@dataclass(frozen=True, slots=True)
class Costs:
    """Operations of a model's parts."""

    blocks: tuple[Block, ...]
    column: float
    """One logit of one token."""
    vocabulary: int

    @classmethod
    def of(cls, model: Model) -> Costs:
        module: Any = model.module
        anatomy, sizes = model.anatomy, model.sizes
        blocks = []
        for layer in range(sizes.get("layer", 0)):
            whole = _operations(module.get_submodule(anatomy.main.blocks[layer]), module)
            attention = (
                _operations(module.get_submodule(anatomy.attention[layer]), module) if layer in anatomy.attention else 0.0
            )
            out = _operations(module.get_submodule(anatomy.w_o[layer]), module) if layer in anatomy.w_o else 0.0
            attend = 4.0 * sizes.get("head", 0) * sizes.get("d_head", 0)
            blocks.append(Block(attention - out, out, whole - attention, attend))
        return cls(tuple(blocks), 2.0 * sizes.get("d_model", 0), anatomy.outputs)

    def whole(self, columns: int, read: int | None = None) -> float:
        """A forward pass of one prompt, with the logits of ``read`` positions, or of all of them."""
        blocks = sum(b.attention(columns, columns / 2) + columns * b.mlp for b in self.blocks)
        return blocks + (columns if read is None else read) * self.vocabulary * self.column

    def resumed(self, depth: int, start: int, tail: int, columns: int, logits: int) -> float:
        """One row of the wave.

        Args:
            depth: where it joins.
            start: first column that it carries.
            tail: first column that is read.
            columns: number of positions of a whole prompt.
            logits: number of logits that are read.
        """
        layer, point = divmod(max(depth, 0), POINTS)
        total, last = logits * self.column, len(self.blocks) - 1
        carried, read = columns - start, columns - tail
        for number in range(layer, len(self.blocks)):
            block = self.blocks[number]
            here = point if number == layer else Point.PRE
            out = read if number == last else carried
            if here == Point.PRE:
                total += block.attention(out, columns) + (carried * block.into if number == last and read < carried else 0)
            if here != Point.POST:
                total += out * block.mlp
        return total


def _operations(part: nn.Module, module: Any) -> float:
    """Two for each weight of a linear map; a stack of experts counts those that one token is sent to."""
    config = getattr(module, "config", None)
    chosen, experts = (getattr(config, name, None) for name in ("num_experts_per_tok", "num_local_experts"))
    total = 0.0
    for weight in part.parameters():
        share = chosen / experts if weight.ndim == 3 and chosen and experts else 1.0
        total += 2.0 * weight.numel() * share if weight.ndim >= 2 else 0.0
    return total


@cache
def rate(device: str, dtype: torch.dtype, width: int) -> float:
    """Operations a second of a matrix product like a block's, measured once."""
    import time

    a = torch.randn(512, width, device=device).to(dtype)
    b = torch.randn(width, 4 * width, device=device).to(dtype)
    seconds = []
    for _ in range(4):
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        began = time.perf_counter()
        a @ b
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return 2.0 * a.shape[0] * width * 4 * width / min(seconds[1:])
