"""The ends of a graph's edges as places in dense tables, and where in the network nodes stand.

>>> ends = Ends(Graph.like(2, heads=2), torch.device("cpu"))
>>> ends.left_out(torch.ones(1, 46), torch.float32).shape             # circuit, receiver, span, sender
torch.Size([1, 15, 1, 7])
>>> ends.entering, ends.attending, ends.reached
([1, 4, 7], [2, 2], [0, 0, 0, 0, 0, 0, 1, 2, 2, 2, 2, 2, 2, 3, 4])
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.circuits import Graph


class Ends:
    """Of each edge the numbers of its sender and its receiver, each one at all tokens, and of the span that it is between."""

    sender: Int[Tensor, " edge"]
    receiver: Int[Tensor, " edge"]
    span: Int[Tensor, " edge"]

    def __init__(self, graph: Graph, device: torch.device) -> None:
        sender, receiver = (torch.tensor(ends, device=device) for ends in (graph.sender, graph.receiver))
        self.sender, self.receiver, self.span = sender // graph.ends, receiver // graph.ends, receiver % graph.ends
        blocks, layers = range(len(graph.blocks)), [one.layer for one in graph.saying]
        self.entering = [sum(layer is None or layer < block for layer in layers) for block in range(len(blocks) + 1)]
        """How many senders there are in front of each block, and behind the last."""
        self.attending = [sum(one.layer == block and one.head is not None for one in graph.saying) for block in blocks]
        """How many senders the heads of each block are."""
        last = 2 * len(blocks)
        self.reached = [last if s.layer is None else 2 * s.layer + (s.name == "mlp_pre") for s in graph.reading]
        """Of each receiver, twice its block, 1 more of an MLP; of the logits twice how many blocks there are."""
        self._shape = (len(graph.reading), graph.ends, len(graph.saying))

    def __len__(self) -> int:
        return len(self.sender)

    def left_out(
        self, kept: Float[Tensor, "circuit edge"], dtype: torch.dtype
    ) -> Float[Tensor, "circuit receiver span sender"]:
        """How much of each edge is left out; 0 where there is none."""
        out = torch.zeros(len(kept), *self._shape, device=kept.device, dtype=dtype)
        out[:, self.receiver, self.span, self.sender] = 1 - kept.to(out)
        return out

    def begins(self, out: Float[Tensor, "circuit receiver span sender"]) -> Int[Tensor, " circuit"]:
        """Where something is left out first, as ``reached`` says it."""
        at = torch.tensor(self.reached, device=out.device)
        return torch.where(out.detach().ne(0).flatten(2).any(-1), at, self.reached[-1]).amin(-1)
