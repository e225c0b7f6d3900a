"""What DAS contestants are asked: rotations trained at some sites, each to its own start, on the same batches.

At ``block_output`` of a layer and at one position, h' = h + R Rᵀ (s − h): base h, source s, and R with ``rank`` orthonormal
columns. The loss of a step is the mean cross-entropy, over the whole vocabulary, of the label after the last token. Batches
come in order, the same in every epoch; Adam. An answer is a tensor of losses ``[site, step]``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from contestants.networks import Shape

Ids = tuple[tuple[int, ...], ...]
Place = tuple[int, int]
"""Layer and position."""


@dataclass(frozen=True)
class Training:
    """Rotations to train, one a site, independently of each other."""

    shape: Shape
    sites: tuple[Place, ...]
    rank: int
    base: Ids
    source: Ids
    labels: tuple[int, ...]
    batch: int
    epochs: int
    lr: float = 1e-3
    seed: int = 2

    @property
    def steps(self) -> int:
        return self.epochs * (len(self.base) // self.batch)

    def batches(self) -> list[slice]:
        """Of every step."""
        one = [slice(i, i + self.batch) for i in range(0, len(self.base), self.batch)]
        return one * self.epochs

    def seed_of(self, place: Place) -> int:
        """Of the site's start, by itself or in a grid."""
        return self.seed + 1009 * place[0] + place[1]

    def ids(self, side: str) -> Tensor:
        """``[example, position]`` of ``"base"`` or ``"source"``."""
        return torch.tensor(getattr(self, side), device=self.shape.device)


@dataclass(frozen=True)
class Start:
    """Where the training of a site begins; numpy, so that it can be stored, or handed to another program."""

    weight: np.ndarray
    """R, ``[d_model, rank]``, orthonormal columns. R = base @ Q(original), as below."""
    base: np.ndarray
    """``[d_model, d_model]``, orthogonal: the frame of ``torch.nn.utils.parametrizations.orthogonal``."""
    original: np.ndarray
    """``[d_model, rank]``: what Adam moves, of which the entries below the diagonal are Householder vectors."""


def rotation(training: Training, place: Place) -> nn.Module:
    """A layer whose ``weight`` ``[d_model, rank]`` stays orthonormal by torch's parametrisation; a site's start is its own."""
    torch.manual_seed(training.seed_of(place))
    layer = nn.Module()
    layer.weight = nn.Parameter(torch.empty(training.shape.width, training.rank))
    nn.init.orthogonal_(layer.weight)
    return nn.utils.parametrizations.orthogonal(layer)


def start(training: Training, place: Place) -> Start:
    """The start of one site: the same for every contestant."""
    layer = rotation(training, place)
    parametrization = layer.parametrizations.weight
    tensors = layer.weight, parametrization[0].base, parametrization.original
    return Start(*(tensor.detach().cpu().numpy() for tensor in tensors))


def random_training(
    shape: Shape, sites: tuple[Place, ...], rank: int, *, pairs: int, tokens: int, batch: int, epochs: int, seed: int = 1
) -> Training:
    """Random prompts without a token in common, and random labels. Token 0, which may be padding, never occurs."""
    draw = torch.Generator().manual_seed(seed)
    base, source = torch.randint(1, shape.vocab, (2, pairs, tokens), generator=draw)
    labels = torch.randint(1, shape.vocab, (pairs,), generator=draw)
    return Training(
        shape,
        sites,
        rank,
        base=tuple(map(tuple, base.tolist())),
        source=tuple(map(tuple, source.tolist())),
        labels=tuple(labels.tolist()),
        batch=batch,
        epochs=epochs,
    )
