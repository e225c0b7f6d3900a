"""Cross-model patching: which part of a model that was trained further makes the difference, layer by layer.

    python experiments/sources/cross_model.py

The base model runs, and each layer's residual stream at each role is replaced by that of the other model on the same prompt.
What was "trained further" here is the shipped model with the MLP of block 2 moved, so that the change shows behind block 2.
"""

from __future__ import annotations

import copy

import pandas as pd
import torch

import interp


def moved(model: interp.Model, layer: int, size: float, seed: int = 0) -> interp.Model:
    """A copy of a model with noise on the weights of one block's MLP, as a stand-in for fine-tuning."""
    module, generator = copy.deepcopy(model.module), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if f".{layer}.mlp." in name and weight.ndim == 2:
                weight += size * weight.std() * torch.randn(weight.shape, generator=generator)
    return interp.load(module, tokenizer=model.tokenizer, name="moved")


def table(base: interp.Model, other: interp.Model, pairs: interp.Pairs) -> pd.DataFrame:
    """How much of the way from the base's logit difference to the other's each stream goes; the last one has all of it."""
    same = interp.Activation("base", model=other)
    where = interp.grid("resid_post", layer=..., position=["S2", "END"])
    effect = interp.effect(interp.patch(base, pairs, where, source=same, patching="noising")).mean("example").isel(metric=0)
    return (effect / effect.isel(layer=-1).sel(position="END")).to_pandas().round(2)


if __name__ == "__main__":
    model = interp.load("zoo/language-4l")
    pairs = interp.tasks.ioi(32, seed=0, tokenizer=model.tokenizer)
    print(table(model, moved(model, layer=2, size=0.5), pairs))
