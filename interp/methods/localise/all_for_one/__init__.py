r"""All for one: how many blocks may wait, and in how few must the last token look at the others?

    >>> model = interp.load("HuggingFaceTB/SmolLM2-135M-Instruct")                                   # doctest: +SKIP
    >>> pairs = interp.tasks.arithmetic(36, before="2+3=5\n", tokenizer=model.tokenizer)           # doctest: +SKIP
    >>> every = [f"2+3=5\n{a}+{b}=" for a in range(1, 10) for b in range(1, 10)]                    # doctest: +SKIP
    >>> found = interp.all_for_one(model, pairs, waits=range(0, 30, 3), contexts=every, bos=True)   # doctest: +SKIP
    >>> interp.views.heatmap(found, "value")                                                       # doctest: +SKIP
    >>> from interp.methods.localise.all_for_one import faithfulness, pruned_heads, subgraph
    >>> subgraph(model, pairs, threshold=0.3, contexts=every[::2], bos=True)                       # doctest: +SKIP
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

from collections.abc import Iterable, Sequence
from operator import index
from typing import Any, SupportsIndex

import xarray as xr

from interp import axes
from interp.engine.precision import Precision
from interp.engine.stored import Into, StoreLike
from interp.errors import HeadOutOfRangeError, InputError
from interp.interventions import Arranged
from interp.methods.localise.all_for_one.restricted import Task, faithfulness
from interp.methods.localise.all_for_one.search import Subgraph, pruned_heads, subgraph
from interp.methods.registry import Method
from interp.metrics import MetricLike
from interp.models import Model
from interp.sites import PositionsLike

__all__ = ["METHOD", "Subgraph", "all_for_one", "faithfulness", "pruned_heads", "subgraph"]

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


def all_for_one(
    model: Model,
    pairs: Any,
    metric: MetricLike | Sequence[MetricLike] = "top1",
    *,
    waits: SupportsIndex | Iterable[SupportsIndex] | None = None,
    transfers: SupportsIndex | Iterable[SupportsIndex] | None = None,
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
        waits: one or several numbers of waiting blocks, counted from the first block; by default all there can be before the
            last block.
        transfers: one or several numbers of blocks behind these in which the last token looks; by default 0 to all. Cells with
            more blocks than the model has are absent.
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
        InputError: a model that does not read from left to right, prompts of which it answers none correctly, or numbers of
            blocks that are no whole numbers.
        UnknownSiteError: a block without attention scores.
        UnequalLengthsError: prompts of different length.
        HeadOutOfRangeError: more blocks than there are.

    Warns:
        RuntimeWarning: means over a single prompt, which change nothing.
    """
    task = Task.of(model, pairs, metric, contexts, spared, last, bos)
    layers = model.sizes[axes.LAYER]
    w, t = _numbers("waits", waits, range(layers), layers), _numbers("transfers", transfers, range(layers + 1), layers)
    cells = [task.restricted(i, j) if i + j <= layers else None for i in w for j in t]
    coords = {"first_transfer": (axes.LAYER, w)}
    where = Arranged(cells, {axes.LAYER: w, axes.WINDOW: t}, site="CAMA and ABP", coords=coords)
    into = Into.of(store, name, tags)
    return task.measured(where, {"rows": rows, "precision": precision, "progress": progress}, into)


def _numbers(argument: str, given: Any, usual: range, most: int) -> list[int]:
    many = [given] if isinstance(given, SupportsIndex) else usual if given is None else given
    try:
        found = [index(number) for number in many]
    except TypeError:
        raise InputError(
            f"{argument}={given!r}: expected whole numbers of blocks from 0 to {most}, such as {argument}=range(0, {most}, 3)"
        ) from None
    if not found or len(set(found)) < len(found) or min(found) < 0 or max(found) > most:
        raise HeadOutOfRangeError(
            f"{argument}={found}: expected different numbers of blocks from 0 to {most}, which is how many the model has"
        )
    return found
