"""Pairs of random prompts for any model, in the shapes of the example by which it was loaded."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

import torch
from torch import Tensor

from interp.doctor import architectures
from interp.doctor.sweeps import DERIVED, prompt_of
from interp.models import Model, load
from interp.prompts import Pair, Pairs

OTHERS = ("t5", "bart", "whisper", "vit", "dinov2", "resnet", "swin", "clip", "siglip", "blip", "llava", "qwen2-vl")
"""Architectures that read more than one text, or none."""
DIFFUSERS = ("unet", "dit")


@cache
def model(architecture: str) -> Model:
    """Made once."""
    return load(architectures.build(architecture), name=architecture)


def pairs(tested: Model, seed: int, examples: int = 2, *, differ: Collection[str] | None = None) -> Pairs:
    """Random pairs.

    Args:
        differ: arguments of the forward in which the two prompts of a pair differ; all of them by default.
    """
    generator = torch.Generator().manual_seed(seed)
    names = [name for name in tested.example if not name.endswith(DERIVED)]
    items = []
    for number in range(examples):
        clean = {name: _draw(tested, name, generator) for name in names}
        other = {name: _draw(tested, name, generator) for name in names}
        corrupted = {name: other[name] if differ is None or name in differ else clean[name] for name in names}
        n = tested.anatomy.outputs
        answers = ((number % n,), ((number + 1) % n,)) if n > 1 else ((0,), ())
        items.append(Pair(prompt_of(clean), prompt_of(corrupted), *answers))
    return Pairs(tuple(items))


def _draw(tested: Model, name: str, generator: torch.Generator) -> Tensor:
    """One example of an argument: noise, or other token ids where no picture's tokens are."""
    like = tested.example[name]
    own = like[0] if len(like) == 3 else like[: len(like) // 3]  # several patches of a picture in one axis with the others'
    if like.is_floating_point():
        return torch.randn(own.shape, generator=generator)
    if not name.endswith("input_ids"):
        return own
    ids = torch.randint(4, 90, own.shape, generator=generator)
    return ids if tested.reading.image is None else torch.where(own == tested.reading.image, own, ids)
