r"""All for one: how many blocks may wait, and in how few must the last token look at the others?

    >>> model = interp.load("HuggingFaceTB/SmolLM2-135M-Instruct")                                   # doctest: +SKIP
    >>> pairs = interp.tasks.arithmetic(36, before="2+3=5\n", tokenizer=model.tokenizer)           # doctest: +SKIP
    >>> every = [f"2+3=5\n{a}+{b}=" for a in range(1, 10) for b in range(1, 10)]                    # doctest: +SKIP
    >>> found = all_for_one(model, pairs, waits=range(0, 30, 3), contexts=every, bos=True)         # doctest: +SKIP
    >>> interp.views.heatmap(found, "value")                                                     # doctest: +SKIP
    >>> subgraph(model, pairs, threshold=0.3, contexts=every[::2], bos=True)                     # doctest: +SKIP
    Subgraph(waits=20, transfers=4: blocks 0 to 19 wait, 20 to 23 transfer; faithfulness 0.64 in 14 of 36)

Mamidanna, Rai, Yao and Zhou, "All for One: LLMs Solve Mental Math at the Last Token With Information Transferred From Other
Tokens" (arXiv 2509.09650).

1. Context-aware mean ablation: behind the first L_wait blocks each token's stream is its mean over prompts with that token at
   that place.
2. Attention-based peeking: in the next L_transfer blocks every token sees BOS and itself, and the last one all others.
3. In the rest every token, the last one included, sees BOS and itself alone.
4. Faithfulness is the accuracy of what is left, over that of the model, on the prompts that the model answers correctly.
5. The search takes the most waiting blocks that are faithful at full transfer, behind which it collapses, then the fewest
   transfer blocks.
6. Necessity takes the look at the others away, block by block: from the subgraph, and from the model as it is.
7. Heads of the transfer blocks lose it one after the other, those first that alone lose least on some prompts; what is left is
   measured on others.

Blocks are counted: ``waits=15`` means that blocks 0 to 14 wait and that transfer begins in block 15. (The paper's demonstration
names the last block that waits, 14.) Prompts are of one length, so that a place means the same in all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, SupportsIndex

import numpy as np
import xarray as xr

from interp import axes
from interp import effects as fx
from interp.engine import check, patch
from interp.engine.asked import encoded_pairs
from interp.engine.checking import By
from interp.engine.contexts import Contexts
from interp.engine.families import asked
from interp.engine.precision import Precision
from interp.engine.prepared import Options
from interp.engine.recipe import recorded
from interp.engine.seeing import require_hiding
from interp.engine.stored import Into, StoreLike
from interp.engine.swept import swept
from interp.errors import HeadOutOfRangeError, InputError
from interp.interventions import Arranged, Intervention, attention_knockout, cama, peeking
from interp.interventions.peeking import but
from interp.methods.registry import Method
from interp.metrics import MetricLike
from interp.metrics import resolve as resolve_metrics
from interp.models import Encoded, Model
from interp.models.encoding import as_prompts
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import PositionsLike, Site

METHOD = Method(
    id="all_for_one",
    name="All for One: context-aware mean ablation and attention-based peeking",
    paper="Mamidanna et al. 2025, All for One: LLMs Solve Mental Math at the Last Token With Information Transferred From "
    "Other Tokens, arXiv 2509.09650",
    mediator="streams of all tokens, and which tokens see each other, by block",
    search="exhaustive",
    cost="a forward pass for the means, and for every cell what of one comes after the blocks that wait",
    function="interp.all_for_one",
)

_LOOK = "the last token's look at the others"
_TITLES = {axes.LAYER: "waits", axes.WINDOW: "transfers"}


def all_for_one(
    model: Model,
    pairs: Any,
    metric: MetricLike | Sequence[MetricLike] = "top1",
    *,
    waits: Iterable[SupportsIndex] | None = None,
    transfers: Iterable[SupportsIndex] | None = None,
    contexts: Any = None,
    spared: PositionsLike | None = None,
    last: PositionsLike = -1,
    bos: bool | None = None,
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
    store: StoreLike | None = None,
    name: str | None = None,
    tags: Iterable[str] = (),
) -> xr.Dataset:
    """What a model still answers with so many blocks that wait and so many that transfer.

    Args:
        model: a causal decoder with attention scores in every block.
        pairs: of one template, such as ``interp.tasks.arithmetic`` makes; their clean prompts alone are run, those that the
            model answers correctly: where the metric is ``"accuracy"``, with the answer above the wrong one, else with the
            answer the most likely token.
        metric: ``"top1"`` is the paper's accuracy. The metric ``"accuracy"`` compares with the wrong answer alone.
        waits: numbers of waiting blocks, counted from the first block; by default all there can be before the last block.
        transfers: numbers of blocks behind these in which the last token looks; by default 0 to all. Cells with more blocks
            than the model has are absent.
        contexts: prompts over which the means are taken; by default the clean prompts of all pairs, equal ones once. Enough of
            them should share each token and its place: over one alone a mean changes nothing.
        spared: tokens that mean ablation leaves alone; by default BOS.
        last: the token that looks.
        bos: whether all prompts begin with a BOS, which every token sees; by default whether the tokenizer put one there.
        rows, precision, progress, store, name, tags: as for :func:`interp.patch`.

    Returns:
        Effects with the axes ``layer``, how many blocks wait, which is the index of the first that does not, and ``window``,
        how many transfer from there. ``value`` on kept prompts; :func:`faithfulness` divides. ``attrs["all_for_one"]`` says
        how many prompts were kept of how many, and over how many the means are.

    Raises:
        InputError: a model that does not read from left to right, or prompts of which it answers none correctly.
        UnknownSiteError: a block without attention scores.
        UnequalLengthsError: prompts of different length.
        HeadOutOfRangeError: more blocks than there are.

    Warns:
        RuntimeWarning: means over a single prompt, which change nothing.
    """
    task = _Task.of(model, pairs, metric, contexts, spared, last, bos)
    layers = model.sizes[axes.LAYER]
    w, t = _numbers("waits", waits, range(layers), layers), _numbers("transfers", transfers, range(layers + 1), layers)
    cells = [task.restricted(i, j) if i + j <= layers else None for i in w for j in t]
    coords = {"first_transfer": (axes.LAYER, w)}
    where = Arranged(cells, {axes.LAYER: w, axes.WINDOW: t}, site="CAMA and ABP", coords=coords)
    into = Into.of(store, name, tags)
    return task.measured(where, {"rows": rows, "precision": precision, "progress": progress}, into)


def faithfulness(results: xr.Dataset) -> xr.DataArray:
    """The restricted model's mean over the full model's, on the prompts that were kept."""
    full = results["clean"].mean(axes.EXAMPLE)
    found: xr.DataArray = (results["value"].mean(axes.EXAMPLE, skipna=False) / full).rename("faithfulness")
    return found.assign_attrs(results.attrs)


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
    task = _Task.of(model, pairs, metric, contexts, spared, last, bos)
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

    def transferring(of: _Task) -> xr.Dataset:
        some = range(layers - waits + 1)
        cells = [of.restricted(waits, t) for t in some]
        return of.measured(Arranged(cells, {axes.WINDOW: some}, site=f"CAMA behind {waits} blocks and ABP"), options)

    by_transfers = transferring(task)
    enough = faithfulness(by_transfers).isel({axes.METRIC: 0}).values >= threshold
    enough[-1] = True  # all of them were, in another batch
    transfers = int(np.argmax(enough))
    judge = task if judged is None else _Task.of(model, judged, metric, contexts, spared, last, bos)
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
        HeadOutOfRangeError: no transfer blocks, or more than there are. And what :func:`all_for_one` raises.
    """
    layers = model.sizes[axes.LAYER]
    if waits < 0 or transfers < 1 or waits + transfers > layers:
        raise HeadOutOfRangeError(
            f"waits={waits} and transfers={transfers}: expected one transfer block at least, and {layers} blocks in all at most"
        )
    options: dict[str, Any] = {"rows": rows, "precision": precision, "progress": progress}
    task, judge = (_Task.of(model, some, metric, contexts, spared, last, bos) for some in (pairs, judged))
    among = range(waits, waits + transfers)
    heads = [(n, head) for n in among for head in range(model.sizes_at(Site("scores", layer=n))[axes.HEAD])]
    ranking = replace(task, metric=by).without([[one] for one in heads], options, task.restricted(waits, transfers))
    order = np.argsort(-fx.effect(ranking).mean(axes.EXAMPLE).values[0], kind="stable").tolist()
    ranked = [heads[number] for number in order]
    lost = [ranked[: count + 1] for count in range(len(ranked))]
    found = judge.without(lost, options, judge.restricted(waits, transfers))
    return fx.mark_in_sample(found, selected_on=ranking)


# ------------------------------------------------------------------------------------------------------- steps


@dataclass(frozen=True, eq=False)
class _Task:
    """Prompts that the model answers, and what is the same in every cell."""

    model: Model
    encoded: Encoded
    """The kept pairs, each clean prompt with itself."""
    metric: Any
    contexts: tuple[Prompt, ...]
    spared: PositionsLike | None
    last: PositionsLike
    bos: int | None
    told: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        model: Model,
        pairs: Any,
        metric: Any,
        contexts: Any,
        spared: PositionsLike | None,
        last: PositionsLike,
        bos: bool | None,
    ) -> _Task:
        require_hiding(model)
        every = encoded_pairs(model, pairs)
        by: By = "margin" if resolve_metrics(metric)[0].name == "accuracy" else "top1"
        checked = check(model, every, by=by)
        if not checked.passed:
            says = checked.says(0)
            raise InputError(
                f"{model.name} answers none of {checked.n} prompts correctly (to the first, "
                f"{str(checked.pairs[0].clean.text)[-40:]!r}, it says {says!r}), so that nothing can be kept; take a task that "
                "it does: see interp.check(model, pairs)"
            )
        told = checked.kept.made_by["check"]
        kept = tuple(
            Pair(pair.clean, pair.clean, pair.answers, pair.wrong, pair.template, pair.entities) for pair in checked.kept
        )
        encoded = model.encode(Pairs(kept, checked.kept.task, checked.kept.made_by), bos=every.asked)
        prompts = [pair.clean for pair in every.pairs] if contexts is None else as_prompts(contexts)
        begins = 0 if (every.bos if bos is None else bos) else None
        left = begins if spared is None else spared
        found = Contexts.of(model, encoded, prompts, but(left))
        return cls(
            model,
            encoded,
            metric,
            found.prompts,
            left,
            last,
            begins,
            {"kept": told["correct"], "of": told["of"], "by": told["by"], "contexts": found.told},
        )

    @cached_property
    def _means(self) -> list[Intervention]:
        """Mean ablation behind 0, 1, … blocks: one object each, which cells share."""
        layers = self.model.sizes[axes.LAYER]
        return [cama(waits, prompts=self.contexts, spared=self.spared) for waits in range(layers + 1)]

    def restricted(self, waits: int, transfers: int) -> Intervention:
        """Steps 1 to 3."""
        behind = waits + transfers
        selfs = range(behind, self.model.sizes[axes.LAYER])
        return self._means[waits] & peeking(range(waits, behind), selfs, last=self.last, bos=self.bos)

    def measured(self, where: Arranged, options: Mapping[str, Any], into: Into | None = None) -> xr.Dataset:
        """Step 4."""
        change = dict.fromkeys(("source", "edit", "featurizer")) | {"keep_error": True}
        prepared, families = asked(self.model, self.encoded, where, self.metric, change, Options("noising", **options))
        titles = {axis: _TITLES[axis] for axis in where.axes}
        attrs = {
            "method": "all_for_one",
            "all_for_one": {**self.told, "blocks": "counted from the first"},
            "axis_titles": titles,
        }
        beside = partial(
            recorded, "patch", self.model, self.encoded, where=where, metric=self.metric, patching="noising", **options
        )
        found = swept(prepared, families, attrs, tree=False, into=into, beside=beside)
        assert isinstance(found, xr.Dataset)
        return found

    def blinded(self, layers: Sequence[int], options: Mapping[str, Any], given: Intervention | None = None) -> xr.Dataset:
        """Step 6: the last token's look at the others taken away in one block."""
        return self._blind(
            Arranged([self._hidden(layer) for layer in layers], {axes.LAYER: layers}, site=_LOOK), options, given
        )

    def without(
        self,
        heads: Sequence[Sequence[tuple[int, int]]],
        options: Mapping[str, Any],
        given: Intervention,
    ) -> xr.Dataset:
        """Step 7: the same in several heads at once, a cell each."""
        cells = [
            Intervention(tuple(change for layer, head in some for change in self._hidden(layer, head).changes))
            for some in heads
        ]
        named = [some[-1] for some in heads]
        coords = {axis: (axes.CELL, [one[i] for one in named]) for i, axis in enumerate((axes.LAYER, axes.HEAD))}
        return self._blind(Arranged(cells, {axes.CELL: range(len(cells))}, site=_LOOK, coords=coords), options, given)

    def _hidden(self, layer: int, head: int | None = None) -> Intervention:
        return attention_knockout(self.last, but(self.bos), layers=layer, heads=head, renormalise=True, own=False)

    def _blind(self, where: Arranged, options: Mapping[str, Any], given: Intervention | None) -> xr.Dataset:
        found = patch(self.model, self.encoded, where, self.metric, patching="noising", given=given, **options)
        assert isinstance(found, xr.Dataset)
        return found.assign_attrs(all_for_one=dict(self.told))


def _numbers(argument: str, given: Iterable[SupportsIndex] | None, usual: range, most: int) -> list[int]:
    found = [int(number) for number in (usual if given is None else given)]
    if not found or len(set(found)) < len(found) or min(found) < 0 or max(found) > most:
        raise HeadOutOfRangeError(
            f"{argument}={found}: expected different numbers of blocks from 0 to {most}, which is how many the model has"
        )
    return found
