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

from collections.abc import Sequence
from typing import Any

import torch
import xarray as xr

from interp import axes, effects
from interp.engine import gauge, provenance
from interp.engine.asked import BASE, encoded_pairs
from interp.engine.background import Given, Hold, give, in_force
from interp.engine.batches import halvings
from interp.engine.budget import Budget
from interp.engine.edge_given import refuse
from interp.engine.edge_rows import EdgeRows
from interp.engine.families import check_words
from interp.engine.graph import LOGITS, SLOTS, Edge, check, node
from interp.engine.graph import edges as every_edge
from interp.engine.joins import refused
from interp.engine.precision import Precision, float32
from interp.engine.prepared import Patching, beside, standing
from interp.engine.readout import Reader
from interp.engine.runs import Runs
from interp.errors import EdgesError
from interp.interventions import Activation, Change, Intervention, Source
from interp.metrics import MetricLike
from interp.metrics import resolve as resolve_metrics
from interp.models import Encoded, Model
from interp.prompts import Pair, Pairs
from interp.sites import Site


def patch_edges(
    model: Model,
    pairs: Pairs | Sequence[Pair] | Encoded,
    metric: MetricLike | Sequence[MetricLike] = "logit_diff",
    *,
    edges: Edge | Sequence[Edge] | None = None,
    patching: Patching = "noising",
    source: Source | None = None,
    given: Given = None,
    hold: Hold = (),
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
) -> xr.Dataset:
    """The effect of edges, each alone.

    Args:
        model: one whose blocks can be resumed (:func:`interp.explain` says why not).
        pairs: prompts of equal length in each pair.
        metric: one or several.
        edges: some of :func:`interp.engine.edges`, or one; all of them where left out.
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

    Returns:
        Effects with dims ``(metric, cell, example)`` and, along ``cell``, the coordinates ``edge``, ``sender``, ``receiver``,
        ``slot`` and the layers and heads of both ends (−1 where there is none).

    Raises:
        EdgesError: the model's blocks cannot be resumed, or it is not causal; or something is given or held that rows of edges
            do not meet, such as another stream.
        UnknownSiteError: an edge that the model does not have.
        ValueError: ``edges`` is empty or holds something else, or ``rows`` is less than 1.
        UnequalLengthsError, AnswerError, ShapeMismatchError: see :func:`interp.patch`.
    """
    check_words(patching, precision=precision)
    reason = refused(model) or ("" if model.causal else "it is not causal")
    if reason:
        raise EdgesError(f"the edges of {model.name} cannot be swept: {reason}")
    wanted = every_edge(model) if edges is None else _checked(model, edges)
    changes, frozen, together = beside(model, given, hold)
    if together is not None:
        refuse(model, together)
    sites = [site for change in together.changes for site in change.sites] if together is not None else []
    encoded, metrics = encoded_pairs(model, pairs), resolve_metrics(metric)
    reader = Reader.of(model, encoded, metrics, whole=LOGITS in sites)
    budget = Budget(model, reader, encoded.clean.width, rows)
    runs = Runs(model, encoded, BASE[patching], budget.batch, reader)
    source = Activation() if source is None else source
    known, every = standing(runs, changes, frozen)
    with torch.no_grad(), model.prepared(sites), float32(precision), halvings() as halved:
        runs.want_logits("clean", "corrupted", "base")
        sweep = EdgeRows(runs, wanted, source, budget, changes, give(runs, known), every)
        value = sweep.run(progress)
        reference = runs.reference
        everyone = torch.arange(len(encoded), device=model.device)
        clean, corrupt, base = (
            reader.measure(runs.logits(side), everyone, reference) for side in ("clean", "corrupted", "base")
        )
        attrs = provenance.attributes(model, encoded, patching, metrics)
    return effects.assemble(
        value.cpu().numpy(),
        clean.cpu().numpy(),
        corrupt.cpu().numpy(),
        given=base.cpu().numpy() if changes is not None else None,
        axes={axes.CELL: list(range(len(wanted)))},
        metrics=[m.name for m in metrics],
        coords=provenance.example_coordinates(encoded) | _coordinates(wanted),
        attrs=attrs
        | {
            "site": "edges",
            "positions": "all",
            "source": repr(source),
            **in_force(model, changes, frozen),
            "strategy": "wavefront",
            "rows": len(wanted) * len(encoded),
            "noise_floor": sweep.noise_floor,
            **gauge.attribute(
                model,
                [*(Intervention((Change(edge.sender, source=source),)) for edge in wanted), *([changes] if changes else [])],
            ),
            "out_of_memory": len(halved),
            "spec": provenance.spec(
                model,
                encoded,
                patching,
                metrics,
                {"edges": "all" if edges is None else [repr(e) for e in wanted], "source": source.spec()}
                | ({"given": changes.spec()} if changes is not None else {})
                | ({"hold": [repr(change.site) for change in frozen.changes]} if frozen is not None else {})
                | ({"precision": precision} if precision != "full" else {}),
            ),
        },
    )


def _checked(model: Model, edges: Any) -> list[Edge]:
    """Edges that were asked for, each of which the model has."""
    wanted: list[Any] = [edges] if isinstance(edges, Edge | str) else list(edges)
    for edge in wanted:
        if not isinstance(edge, Edge):
            raise ValueError(
                f"edges holds {edge!r} of type {type(edge).__name__}; expected edges as interp.engine.edges(model) lists them, "
                "such as Edge.of('L0H1.z', 'L2.mlp_pre')"
            )
        check(model, edge)
    if not wanted:
        raise ValueError("edges is an empty list; leave it out for all of them")
    return wanted


def _coordinates(wanted: Sequence[Edge]) -> dict[str, Any]:
    def number(site: Site, axis: str) -> int:
        found = getattr(site, axis)
        return -1 if found is None else int(found)

    ends = {
        f"{end}_{axis}": [number(getattr(edge, end), axis) for edge in wanted]
        for end in ("sender", "receiver")
        for axis in (axes.LAYER, axes.HEAD)
    }
    names = {
        "edge": [repr(e) for e in wanted],
        "sender": [node(e.sender) for e in wanted],
        "receiver": [node(e.receiver) for e in wanted],
        "slot": [e.receiver.name if e.receiver.name in SLOTS else "" for e in wanted],
    }
    return {name: (axes.CELL, values) for name, values in (names | ends).items()}
