"""Means of activations over examples: position by position, over all real tokens, or over the tokens that positions name.

>>> h = torch.arange(8.0).reshape(2, 4, 1)                                        # two prompts of four tokens
>>> named(h, torch.tensor([[3], [2]]), ["", ""], over=("example",)).flatten()      # the last token of one of three
tensor([4.5000])
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from interp import axes
from interp.interventions.source import SPAN
from interp.models import Places
from interp.sites import Positions


def aligned(
    tensor: Float[Tensor, "example column ..."], tokens: Places, groups: Sequence[str], over: Sequence[str]
) -> tuple[Float[Tensor, "group position ..."], Float[Tensor, "group position"]]:
    """Means at every position, counted from each prompt's first real token, and how many real tokens each is of.

    Args:
        groups: of each example, the group within which the mean is taken.
        over: with ``"position"`` real tokens are pooled too, so that there is one position.
    """
    return _pooled(tensor, tokens.columns(Positions()), groups, over)


def by_token(
    tensor: Float[Tensor, "prompt column ..."],
    theirs: Int[Tensor, "prompt place"],
    columns: Int[Tensor, "prompt place"],
    ours: Int[Tensor, "example position"],
) -> tuple[Float[Tensor, "example position ..."], Int[Tensor, "example position"]]:
    """For every example and position the mean over the prompts with the same token there, and how many they are.

    Args:
        theirs: token ids of the prompts by position, −1 behind their end.
        columns: where these positions are in the tensor.
        ours: token ids of the examples, likewise.
    """
    width = max(theirs.shape[1], ours.shape[1])
    theirs, ours = (pad(ids, (0, width - ids.shape[1]), value=-1) for ids in (theirs, ours))
    wide = torch.promote_types(tensor.dtype, torch.float32)
    rows = torch.arange(len(theirs), device=tensor.device)
    found = torch.zeros(*ours.shape, *tensor.shape[2:], dtype=wide, device=tensor.device)
    count = torch.zeros_like(ours)
    for position in range(columns.shape[1]):
        alike = (ours[:, position, None] == theirs[None, :, position]) & (theirs[None, :, position] >= 0)
        count[:, position] = alike.sum(-1)
        taken = tensor[rows, columns[:, position].clamp(min=0)].to(wide)
        total = (alike.to(wide) @ taken.flatten(1)).view(len(ours), *taken.shape[1:])
        found[:, position] = total / count[:, position].clamp(min=1).view(-1, *(1 for _ in taken.shape[1:])).to(wide)
    return found, count


def named(
    tensor: Float[Tensor, "example column ..."],
    columns: Int[Tensor, "example span"],
    groups: Sequence[str],
    over: Sequence[str],
) -> Float[Tensor, "group slot ..."]:
    """Means of the tokens that positions name in each prompt, slot by slot, or over all of them.

    Args:
        columns: of the tensor, padded with −1.
    """
    return _pooled(tensor, columns, groups, over)[0]


def _pooled(tensor: Tensor, columns: Tensor, groups: Sequence[str], over: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Sums in at least float32, over counts."""
    names = sorted(set(groups))
    member = torch.tensor([names.index(g) for g in groups], device=tensor.device)
    real = (columns >= 0).to(torch.promote_types(tensor.dtype, torch.float32))
    rows = torch.arange(len(columns), device=tensor.device)[:, None]
    taken = tensor[rows, columns.clamp(min=0)].to(real.dtype)
    ones = tuple(1 for _ in tensor.shape[2:])
    total = torch.zeros(len(names), *taken.shape[1:], dtype=real.dtype, device=tensor.device)
    total.index_add_(0, member, taken * real.view(*real.shape, *ones))
    count = torch.zeros(len(names), real.shape[1], dtype=real.dtype, device=tensor.device).index_add_(0, member, real)
    if axes.POSITION in over or SPAN in over:
        total, count = total.sum(1, keepdim=True), count.sum(1, keepdim=True)
    return total / count.clamp(min=1).view(*count.shape, *ones), count
