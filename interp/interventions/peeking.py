"""What a token knows by itself, and what it may look at: the two halves of the All-for-One subgraph.

    >>> peeking([2], [3])
    Intervention(L2.scores@all but -1 attended=all but 0 own=False Cut(); L3.scores attended=all but 0 own=False Cut())
    >>> cama(2)
    Intervention(L1.resid_post@all but 0 ← Activation(base, mean over example by token))

Context-aware mean ablation writes, for every token, the mean of its residual stream over prompts with that token at that place:
what was gathered from other tokens is averaged away. Attention-based peeking hides tokens from each other by −∞ before the
softmax, so that rows renormalise (Mamidanna et al., "All for One: LLMs Solve Mental Math at the Last Token With Information
Transferred From Other Tokens", arXiv 2509.09650).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import index
from typing import Any, SupportsIndex

from interp.errors import HeadOutOfRangeError
from interp.interventions.edit import Cut
from interp.interventions.intervention import Change, Intervention
from interp.interventions.source import TOKEN, Activation, Runs
from interp.prompts import Prompt, Text
from interp.sites import ALL, Positions, PositionsLike, Site


def cama(
    waits: SupportsIndex, *, prompts: Runs | Sequence[Text | Prompt] = "base", spared: PositionsLike | None = 0
) -> Intervention:
    """Context-aware mean ablation: every token's stream behind the first ``waits`` blocks is what its place and token say.

    Args:
        waits: how many blocks wait, counted from the first: the streams that leave block ``waits − 1`` are replaced, those that
            enter the first block where it is 0.
        prompts: over which means are taken: those of a run of the pairs, or others.
        spared: tokens that are left alone, by default the first, a BOS; None for no token.

    Raises:
        HeadOutOfRangeError: less than no block.
    """
    count = index(waits)
    if count < 0:
        raise HeadOutOfRangeError(f"waits={count}: expected how many blocks wait, 0 or more")
    site = Site("resid_post", layer=count - 1) if count else Site("resid_pre", layer=0)
    given: Any = prompts
    return Intervention((Change(site, but(spared), Activation(given, pool="mean", by=TOKEN)),))


def peeking(
    transfers: Iterable[SupportsIndex],
    selfs: Iterable[SupportsIndex],
    *,
    last: PositionsLike = -1,
    bos: PositionsLike | None = 0,
) -> Intervention:
    """Attention-based peeking: in some blocks the last token alone sees the others, in others none does.

    Args:
        transfers: block indices in which ``last`` attends as it does, and every other token to itself and ``bos`` alone.
        selfs: block indices in which every token, the last included, attends to itself and ``bos`` alone.
        last: the token that may look.
        bos: what every token sees beside itself, by default the first one; None where prompts begin with no BOS.
    """
    others = Positions(but=Positions.parse(last))
    return Intervention(
        tuple(
            Change(Site("scores", layer=index(layer)), where, edit=Cut(), attended=but(bos), own=False)
            for layers, where in ((transfers, others), (selfs, ALL))
            for layer in layers
        )
    )


def but(spared: PositionsLike | None) -> Positions:
    """All tokens but some."""
    return ALL if spared is None else Positions(but=Positions.parse(spared))
