"""The search for the fewest blocks and heads in which the last token must look: steps 5 to 7."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from interp import axes
from interp import effects as fx
from interp.engine.precision import Precision
from interp.errors import HeadOutOfRangeError, InputError, require_whole
from interp.interventions import Arranged
from interp.methods.localise.all_for_one.restricted import Task, faithfulness
from interp.metrics import MetricLike
from interp.models import Model
from interp.sites import PositionsLike, Site


@dataclass(frozen=True, eq=False, repr=False)
class Subgraph:
    """The fewest blocks in which the last token must look, behind the most that can wait."""

    waits: int
    transfers: int
    threshold: float
    by_waits: xr.Dataset
    """Effects at full transfer, by ``layer``: how many blocks wait."""
    by_transfers: xr.Dataset
    """Effects with ``waits`` blocks, by ``window``: how many transfer."""
    within: xr.Dataset | None
    """Effects by ``layer``, a transfer block: ``given`` is the subgraph alone, ``value`` what is left without a look in that
    block. None where nothing transfers."""
    single: xr.Dataset
    """Effects by ``layer``: the full model without the last token's look at the others in that block alone."""

    @property
    def faithfulness(self) -> float:
        """Of the subgraph alone: its sufficiency."""
        return float(faithfulness(self.by_transfers.sel({axes.WINDOW: self.transfers})).isel({axes.METRIC: 0}))

    def __repr__(self) -> str:
        first, behind = self.waits, self.waits + self.transfers
        waiting = f"blocks 0 to {first - 1} wait" if first else "no block waits"
        looking = f"{first} to {behind - 1} transfer" if behind > first else "none transfers"
        told = self.by_waits.attrs["all_for_one"]
        return (
            f"Subgraph(waits={self.waits}, transfers={self.transfers}: {waiting}, {looking}; faithfulness "
            f"{self.faithfulness:.2f} in {told['kept']} of {told['of']})"
        )


def subgraph(
    model: Model,
    pairs: Any,
    metric: MetricLike = "top1",
    *,
    threshold: float = 0.9,
    judged: Any = None,
    contexts: Any = None,
    spared: PositionsLike | None = None,
    last: PositionsLike = -1,
    bos: bool | None = None,
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
) -> Subgraph:
    """The search, and what it found taken apart.

    Of all numbers of waiting blocks the largest is taken whose faithfulness at full transfer reaches ``threshold``. It need not
    fall from the first block on: tokens that every prompt shares gather in blocks that wait and not in those that transfer.
    Then transfer blocks are added to none, until it is reached.

    Args:
        threshold: the least faithfulness, a share of the full model's metric.
        judged: other pairs, on which ``by_transfers``, ``within`` and ``single`` are measured again; else they are in sample.
        others: as for :func:`all_for_one`.

    Raises:
        InputError: nothing is faithful at full transfer. And what :func:`all_for_one` raises.
    """
    if not 0 < threshold <= 1:
        raise InputError(f"threshold={threshold}: expected a share of the full model's metric, above 0 and at most 1")
    options: dict[str, Any] = {"rows": rows, "precision": precision, "progress": progress}
    task = Task.of(model, pairs, metric, contexts, spared, last, bos)
    layers = model.sizes[axes.LAYER]
    counts = range(layers)
    full = Arranged([task.restricted(w, layers - w) for w in counts], {axes.LAYER: counts}, site="CAMA at full transfer")
    by_waits = task.measured(full, options).assign_coords(transfers=(axes.LAYER, [layers - w for w in counts]))
    share = faithfulness(by_waits).isel({axes.METRIC: 0}).values
    if not (share >= threshold).any():
        best = int(np.argmax(share))
        raise InputError(
            f"the last token alone is not enough: at full transfer the metric is at most {share[best]:.2f} of the full "
            f"model's, where {best} blocks wait, below threshold={threshold}. Other tokens gather what the answer needs; lower "
            "the threshold, or look at the map of all_for_one(…)"
        )
    waits = int(np.flatnonzero(share >= threshold)[-1])

    def transferring(of: Task) -> xr.Dataset:
        some = range(layers - waits + 1)
        cells = [of.restricted(waits, t) for t in some]
        return of.measured(Arranged(cells, {axes.WINDOW: some}, site=f"CAMA behind {waits} blocks and ABP"), options)

    by_transfers = transferring(task)
    enough = faithfulness(by_transfers).isel({axes.METRIC: 0}).values >= threshold
    enough[-1] = True  # all of them were, in another batch
    transfers = int(np.argmax(enough))
    judge = task if judged is None else Task.of(model, judged, metric, contexts, spared, last, bos)
    if judged is not None:
        by_transfers = transferring(judge)
    chosen = range(waits, waits + transfers)
    within = judge.blinded(chosen, options, judge.restricted(waits, transfers)) if transfers else None
    single = judge.blinded(range(layers), options)
    mark = partial(fx.mark_in_sample, selected_on=by_waits)
    return Subgraph(
        waits, transfers, threshold, by_waits, mark(by_transfers), within if within is None else mark(within), mark(single)
    )


def pruned_heads(
    model: Model,
    pairs: Any,
    judged: Any,
    waits: int,
    transfers: int,
    metric: MetricLike | Sequence[MetricLike] = "top1",
    *,
    by: MetricLike = "logprob",
    contexts: Any = None,
    spared: PositionsLike | None = None,
    last: PositionsLike = -1,
    bos: bool | None = None,
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
) -> xr.Dataset:
    """In how few heads of the transfer blocks the last token must look at the others.

    Heads are ranked once, each alone taken from the subgraph; that two of them may stand in for each other is not seen.

    Args:
        pairs: on which heads are ranked.
        judged: other pairs, on which what is left is measured.
        waits, transfers: the subgraph, as :func:`subgraph` finds it.
        by: the metric by whose mean heads are ranked, a smooth one: accuracy hardly tells single heads apart.
        others: as for :func:`all_for_one`.

    Returns:
        Effects with the axis ``cell``, how many heads have lost the look less one, and the coordinates ``layer`` and ``head``
        of the one that lost it there; ``given`` is the subgraph with all of them.

    Raises:
        InputError: no transfer block.
        HeadOutOfRangeError: more blocks than there are. And what :func:`all_for_one` raises.
    """
    layers = model.sizes[axes.LAYER]
    require_whole("waits", waits, "how many blocks wait", 0)
    require_whole("transfers", transfers, "how many blocks transfer")
    if waits + transfers > layers:
        raise HeadOutOfRangeError(f"waits={waits} and transfers={transfers}: expected {layers} blocks in all at most")
    options: dict[str, Any] = {"rows": rows, "precision": precision, "progress": progress}
    task, judge = (Task.of(model, some, metric, contexts, spared, last, bos) for some in (pairs, judged))
    among = range(waits, waits + transfers)
    heads = [(n, head) for n in among for head in range(model.sizes_at(Site("scores", layer=n))[axes.HEAD])]
    ranking = replace(task, metric=by).without([[one] for one in heads], options, task.restricted(waits, transfers))
    order = np.argsort(-fx.effect(ranking).mean(axes.EXAMPLE).values[0], kind="stable").tolist()
    ranked = [heads[number] for number in order]
    lost = [ranked[: count + 1] for count in range(len(ranked))]
    found = judge.without(lost, options, judge.restricted(waits, transfers))
    return fx.mark_in_sample(found, selected_on=ranking)
