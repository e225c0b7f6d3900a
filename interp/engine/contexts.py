"""Prompts over which means by token are taken: of one length with those that they are for, and how many share each token.

>>> found = Contexts.of(model, encoded, prompts, Positions.parse("all but 0"))                  # doctest: +SKIP
>>> found.told                                                                               # doctest: +SKIP
{'prompts': 480, 'least': 4, 'median': 11.0, 'alone': 0.0}
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import UnequalLengthsError
from interp.models import Encoded, Model, Tokens
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import ALL, Positions


@dataclass(frozen=True, eq=False)
class Contexts:
    """Prompts of one length, each once."""

    prompts: tuple[Prompt, ...]
    told: Mapping[str, Any]
    """JSON: how many they are, and over how many of them the means are (``least``, ``median``), and of which share of the
    examples some mean is over one alone. What stands first among the positions has no context, and is not counted."""

    @classmethod
    def of(cls, model: Model, encoded: Encoded, prompts: Sequence[Prompt], positions: Positions) -> Contexts:
        """Of the clean prompts of some pairs.

        Args:
            positions: where means are written.

        Raises:
            UnequalLengthsError: prompts of different length.

        Warns:
            RuntimeWarning: means over a single prompt.
        """
        given = model.encode(Pairs(tuple(Pair(one, one) for one in prompts)), bos=encoded.asked).clean
        lengths = torch.cat([encoded.clean.said, given.said])
        if bool((lengths != lengths[0]).any()):
            counts = ", ".join(f"{int((lengths == n).sum())} of {int(n)} tokens" for n in lengths.unique())
            raise UnequalLengthsError(
                f"prompts and contexts have different lengths ({counts}), so that a place in one is none in another and means "
                "by place mix them; give prompts of one template whose words are as many tokens each, as "
                "interp.tasks.arithmetic(tokenizer=model.tokenizer) does"
            )
        ours, theirs = _ids(encoded.clean), _ids(given)
        first = {tuple(row): number for number, row in reversed([*enumerate(theirs.tolist())])}
        chosen = sorted(first.values())
        places = (encoded.clean.columns(positions) - encoded.clean.first[:, None])[0].tolist()
        told = {"prompts": len(chosen), **_shared(ours, theirs[chosen], [place for place in places if place > min(places)])}
        return cls(tuple(prompts[number] for number in chosen), told)


def _ids(tokens: Tokens) -> Int[Tensor, "prompt position"]:
    """Token ids of prompts of one length, without padding."""
    assert tokens.ids is not None
    return tokens.ids.gather(1, tokens.columns(ALL)[:, : int(tokens.said[0])])


def _shared(ours: Int[Tensor, "example position"], theirs: Int[Tensor, "prompt position"], places: list[int]) -> dict[str, Any]:
    """Over how many prompts each mean at some places is."""
    if not places:
        return {"least": None, "median": None, "alone": 0.0}
    counts = torch.stack([(ours[:, place, None] == theirs[None, :, place]).sum(-1) for place in places])
    alone = float((counts.amin(0) <= 1).double().mean())
    if alone:
        warnings.warn(
            f"in {alone:.0%} of the prompts some token's mean is over that one prompt alone, which changes nothing there, so "
            "that they look more faithful than they are; give more prompts, or contexts= that share their tokens",
            RuntimeWarning,
            stacklevel=5,
        )
    return {"least": int(counts.min()), "median": float(counts.double().median()), "alone": alone}
