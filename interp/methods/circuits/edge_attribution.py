"""Edge attribution patching: the effect of every edge to first order, from gradients in one run or along a path.

>>> scores = interp.attribute_edges(model, pairs)                                            # doctest: +SKIP
>>> scores = interp.attribute_edges(model, pairs, along="embeddings", steps=5)               # doctest: +SKIP

1. Run the base and the source; Δ_u = ã_u − a_u is what each writer would say more.
2. Take the gradient g_v of the metric at what every reader sees of the stream, in front of its norm:

   by default      in the base run (EAP)
   ``embeddings``  in runs whose embeddings are on the way from the base prompt's to the source prompt's, all behind them
                   following (EAP-IG, "inputs"); with ``quadrature="trapezoid", steps=1`` in the two runs themselves
                   ("clean–corrupted")
   ``activations`` in runs of the base in which the embedding, one layer's heads together, or one MLP is on the way, each of
                   them in turn; g_v is the mean over them (EAP-IG, "activations")

3. The estimate of an edge is ⟨Δ_u, g_v⟩, summed over positions.

The sum of a writer's edges is its attribution patching. Along embeddings, the edges out of the embedding add up to what the
source prompt's metric is more than the base's, as the steps grow. A metric that is least at the base, as the divergence from
it is, has no gradient there: all its estimates in the base run are 0. Where the network is linear all of these are exact.

Syed, Rager and Conmy, "Attribution Patching Outperforms Automated Circuit Discovery", arXiv 2310.10348; Hanna, Pezzelle and
Belinkov, "Have Faith in Faithfulness: Going Beyond Circuit Overlap When Finding Model Mechanisms", arXiv 2403.17806.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Literal, get_args

import torch
import xarray as xr

from interp.circuits import Edge, Graph
from interp.engine.cells import Cell
from interp.engine.estimates.quadrature import Quadrature
from interp.engine.graph.along import along_activations, along_embeddings, at_base
from interp.engine.graph.edges import spec_of, wanted_edges
from interp.engine.graph.slopes import EdgeSlopes
from interp.engine.graph.sweeping import Asked, Cells, Words, require_edges
from interp.engine.precision import Precision
from interp.engine.prepared import Patching
from interp.engine.recipe import others, recorded
from interp.engine.stored import Into, StoreLike
from interp.errors import UnknownNameError, require_whole
from interp.interventions import Activation, Source
from interp.methods.registry import Method
from interp.metrics import MetricLike
from interp.models import Encoded, Model
from interp.prompts import Pair, Pairs

METHOD = Method(
    id="edge_attribution",
    name="edge attribution patching, with integrated gradients",
    paper="Syed et al. 2023, Attribution Patching Outperforms Automated Circuit Discovery, arXiv 2310.10348; Hanna et al. "
    "2024, Have Faith in Faithfulness: Going Beyond Circuit Overlap When Finding Model Mechanisms, arXiv 2403.17806",
    mediator="edges from heads, MLPs and embeddings to the queries, keys, values, MLPs and logits that read them",
    search="gradient",
    cost="two forward passes and a backward pass a metric for all edges; along embeddings, so many more a step; along "
    "activations, for every layer's heads and MLP a step",
    function="interp.attribute_edges",
)
Along = Literal["embeddings", "activations"]


def attribute_edges(
    model: Model,
    pairs: Pairs | Sequence[Pair] | Encoded,
    metric: MetricLike | Sequence[MetricLike] = "logit_diff",
    *,
    along: Along | None = None,
    steps: int = 5,
    quadrature: Quadrature = "gauss",
    edges: Edge | str | Sequence[Edge | str] | None = None,
    graph: Graph | None = None,
    patching: Patching = "noising",
    source: Source | None = None,
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
    store: StoreLike | None = None,
    name: str | None = None,
    tags: Iterable[str] = (),
) -> xr.Dataset:
    """Estimate the effect of edges, each alone.

    Args:
        model, pairs, metric, edges, graph, patching, source, precision, progress, store, name, tags: as for
            :func:`interp.patch_edges`, whose exact effects these estimate.
        along: a path along which gradients are taken, see above; None for the base run alone.
        steps: points of the path.
        quadrature: ``"gauss"``, ``"midpoint"``, ``"left"``, ``"right"`` (from the base: the source included, the base not, as
            in EAP-IG's code) or ``"trapezoid"``, see :func:`interp.engine.estimates.quadrature.nodes`.
        rows: most examples in one forward and backward pass.

    Returns:
        What :func:`interp.patch_edges` returns, estimated; attributes ``estimate``, and of a path ``along``, ``steps`` and
        ``quadrature``, say how.

    Raises:
        UnknownNameError: an unknown path or quadrature.
        GradientError: the metric has no gradient (it counts or compares).
        EdgesError, UnknownSiteError, ValueError, UnequalLengthsError, AnswerError: as :func:`interp.patch_edges`; and what
            heads read is not their norm and projection of the stream.
    """
    said, into = others(locals()), Into.of(store, name, tags)
    for argument, value, known in (("along", along, Along), ("quadrature", quadrature, Quadrature)):
        if value is not None and value not in get_args(known):
            raise UnknownNameError(argument, value, get_args(known))
    require_whole("steps", steps, "at how many points gradients are taken")
    require_edges(model, patching, precision)
    shape, numbers = wanted_edges(model, edges, graph)
    path = at_base if along is None else partial(_ALONG[along], quadrature=quadrature, steps=steps)
    how = {} if along is None else {"along": along, "steps": steps, "quadrature": quadrature}
    asked = Asked.of(
        model,
        pairs,
        metric,
        Words("attribute_edges", patching, precision, Activation() if source is None else source, rows),
        Cells(
            count=len(numbers),
            coords=shape.coords(numbers),
            spec=spec_of(edges, shape, numbers),
            senders=shape.whole,
            together=True,
            facts={"estimate": "first order" if along is None else "integrated gradients", **how},
        ),
    )

    def rows_of(known: Sequence[Cell]) -> EdgeSlopes:
        at = torch.tensor(numbers, device=model.device)
        return EdgeSlopes(asked.runs, shape, at, asked.words.source, asked.budget, path)

    return asked.swept(rows_of, into, partial(recorded, "attribute_edges", model, asked.encoded, **said), progress)


_ALONG = {"embeddings": along_embeddings, "activations": along_activations}
