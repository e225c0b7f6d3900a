"""A plain classifier: linear layers with a ReLU between them, each a module with a name.

>>> net = MLP((16, 32, 32, 2), seed=0)
>>> [name for name, _ in net.named_children()]
['linear1', 'act1', 'linear2', 'act2', 'readout']
>>> model = interp.load(net, example={"x": torch.zeros(3, 16)})
>>> model.site("act1:output")                  # what the first hidden layer says, behind its ReLU
act1:output
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Layers(nn.Module):
    """Modules one after the other, by name; ``x [example, feature]`` enters the first."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Float[Tensor, "example feature"]) -> Float[Tensor, "example output"]:
        for part in self.children():
            x = part(x)
        return x


class MLP(Layers):
    """``linear1 act1 linear2 act2 … readout``; sites are ``"act1:output"`` and so on.

    Args:
        widths: of the input, the hidden layers and the output.
        seed: of the first weights, torch's own for linear layers; by default what torch's generator comes to.
        dtype: of the weights.

    Raises:
        ValueError: fewer than two widths, or one below 1.
    """

    def __init__(self, widths: Sequence[int], *, seed: int | None = None, dtype: torch.dtype = torch.float32) -> None:
        if len(widths) < 2 or min(widths) < 1:
            raise ValueError(f"widths={tuple(widths)}; expected those of the input and the output at least, each 1 or more")
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        with torch.random.fork_rng(devices=(), enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            for number, (below, above) in enumerate(pairwise(widths[:-1]), start=1):
                parts |= {f"linear{number}": nn.Linear(below, above, dtype=dtype), f"act{number}": nn.ReLU()}
            parts["readout"] = nn.Linear(widths[-2], widths[-1], dtype=dtype)
        super().__init__(**parts)
        self.widths = tuple(widths)
