"""Exact edge patching: the effect of every edge of the residual stream's graph, as rows of the wave.

    >>> effects = interp.patch_edges(model, pairs, metric="logit_diff")                      # doctest: +SKIP
    >>> effects.sizes["cell"]                                                              # doctest: +SKIP
    32491

An edge's row sees the base run, except that one reader sees one writer's contribution from the source (Conmy et al., arXiv
2304.14997). What the reader then gives is all that changes, so a row joins behind it. For heads, one run of a block's attention
with a writer changed serves every head's query, and one more their keys and values each: only the heads' outputs differ from
row to row, and W_O takes them to the stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import xarray as xr

from interp.circuits import Edge, Graph, whole_of
from interp.engine.background import Given, Hold
from interp.engine.cells import Cell
from interp.engine.graph.edges import spec_of, wanted_edges
from interp.engine.graph.rows import EdgeRows
from interp.engine.graph.sweeping import Asked, Cells, Words, require_edges
from interp.engine.precision import Precision
from interp.engine.prepared import Patching
from interp.engine.recipe import others, recorded
from interp.engine.stored import Into, StoreLike
from interp.interventions import Activation, Source
from interp.metrics import MetricLike
from interp.models import Encoded, Model
from interp.prompts import Pair, Pairs


def patch_edges(
    model: Model,
    pairs: Pairs | Sequence[Pair] | Encoded,
    metric: MetricLike | Sequence[MetricLike] = "logit_diff",
    *,
    edges: Edge | str | Sequence[Edge | str] | None = None,
    graph: Graph | None = None,
    patching: Patching = "noising",
    source: Source | None = None,
    given: Given = None,
    hold: Hold = (),
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
    store: StoreLike | None = None,
    name: str | None = None,
    tags: Iterable[str] = (),
) -> xr.Dataset:
    """The effect of edges, each alone.

    Args:
        model: one whose blocks can be resumed (:func:`interp.explain` says why not).
        pairs: prompts of equal length in each pair.
        metric: one or several.
        edges: some of those of :func:`interp.graph`, or one, or as they are printed, ``"L3H0 → L9H6.q"``; all of them where
            left out.
        graph: by default ``interp.graph(model)``; one whose embedding is split, or whose nodes are told apart in coordinates or
            by tokens.
        patching: ``"noising"`` runs on the clean prompt and lets the reader see the corrupted one's contribution;
            ``"denoising"`` the reverse.
        source: what the reader sees of the writer: by default the other prompt's contribution; a mean, another example's, or
            ``Constant(0.0)``, which takes the contribution away (of a head, up to its value bias: attribute ``gauge``).
        given: interventions in force on the base and in every row, as for :func:`interp.patch`: effects are counted from the
            base that they leave, and a source run is as it is without them. What the source says of a writer comes after what
            is given of its own output; what is given behind it is in force, as a forward pass meets it. So a stream that is
            given between writer and reader passes on what its edit lets through, and nothing where it is overwritten; a
            reader's own queries, keys, values or MLP are made of what it sees, and then edited.
        hold: as for :func:`interp.patch`; what is held of a reader is not reached.
        rows: most rows in one pass; by default what a memory budget allows.
        precision: as for :func:`interp.patch`.
        progress: likewise.
        store: likewise, with ``name`` and ``tags``.
        name: of the run in the store.
        tags: likewise.

    Returns:
        Effects with dims ``(metric, cell, example)`` and, along ``cell``, the coordinates ``edge``, ``sender``, ``receiver``,
        ``slot``, the layers and heads of both ends (−1 where there is none), and ``receiver_heads``, how many heads read what
        the receiver makes: of keys and values that heads share more than one.

    Raises:
        EdgesError: the model's blocks cannot be resumed, or it is not causal; or something is given or held that rows of edges
            do not meet, such as another stream; or the embedding is no sum of those of tokens and positions; or the graph is
            another model's.
        UnknownSiteError: an edge that the model does not have.
        ValueError: ``edges`` is empty or holds something else, or ``rows`` is less than 1.
        UnequalLengthsError, AnswerError, ShapeMismatchError: see :func:`interp.patch`.
    """
    said, into = others(locals()), Into.of(store, name, tags)
    require_edges(model, patching, precision)
    shape, numbers = wanted_edges(model, edges, graph)
    wanted = [shape.edges[number] for number in numbers]
    asked = Asked.of(
        model,
        pairs,
        metric,
        Words("patch_edges", patching, precision, Activation() if source is None else source, rows),
        Cells(
            count=len(wanted),
            coords=shape.coords(numbers),
            spec=spec_of(edges, shape, numbers),
            senders=shape.whole if edges is None else tuple(dict.fromkeys(whole_of(edge.sender) for edge in wanted)),
        ),
        given=given,
        hold=hold,
    )

    def rows_of(known: Sequence[Cell]) -> EdgeRows:
        return EdgeRows(asked.runs, shape, wanted, asked.words.source, asked.budget, asked.changes, known, asked.every)

    return asked.swept(rows_of, into, partial(recorded, "patch_edges", model, asked.encoded, **said), progress)
