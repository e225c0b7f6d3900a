"""Prompts that come as tensors, padded on whichever side their tokenizer pads.

>>> import torch
>>> unpadded({"input_ids": torch.tensor([[5, 6, 0]]), "attention_mask": torch.tensor([[1, 1, 0]])})
[(5, 6)]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from interp.errors import PositionError


def unpadded(batch: Tensor | Mapping[str, Any]) -> list[tuple[int, ...]]:
    """The real token ids of every row of a tensor, or of what a tokenizer returns, padded on either side.

    Raises:
        PositionError: a mask that is not one run of real tokens a row, or ids that are no tensor of two dimensions.
    """
    if isinstance(batch, Mapping) and "input_ids" not in batch:
        raise PositionError(
            f"a mapping of prompts has input_ids and attention_mask, but here {', '.join(map(str, batch)) or 'nothing'}"
            + ("; a chat is a list of messages, [{…}]" if "role" in batch else "")
        )
    try:
        ids = torch.as_tensor(batch["input_ids"] if isinstance(batch, Mapping) else batch)
    except ValueError as error:
        raise PositionError(
            f"input_ids are no tensor ({error}); rows of different lengths are given as a list of lists"
        ) from error
    if ids.is_floating_point():
        raise PositionError(f"token ids are whole numbers, but here is a tensor of {str(ids.dtype).removeprefix('torch.')}")
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else torch.as_tensor(mask).bool()
    if ids.ndim != 2 or real.shape != ids.shape:
        shapes = f"input_ids {tuple(ids.shape)}, attention_mask {tuple(real.shape)}"
        raise PositionError(f"token ids and their mask are [example, position] both, but here {shapes}")
    runs = (real[:, 1:] & ~real[:, :-1]).sum(-1) + real[:, 0]
    if bool((runs != 1).any()):
        example = int((runs != 1).nonzero()[0])
        raise PositionError(f"the attention mask of example {example} is not one run of ones: {real[example].int().tolist()}")
    return [tuple(row[keep].tolist()) for row, keep in zip(ids, real, strict=True)]
