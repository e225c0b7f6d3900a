"""Information-flow routes: how much of what every reader sees each writer said, from one forward pass.

>>> shares = interp.information_flow(model, pairs)                                          # doctest: +SKIP
>>> circuit = interp.circuits.strongest(shares, interp.graph(model), 200)                   # doctest: +SKIP

1. Run the prompts. A reader sees the sum r = Σ_u a_u of what the writers before it add to the stream.
2. A writer's proximity is by how much the sum is nearer to nothing without it, relu(‖r‖₁ − ‖r − a_u‖₁).
3. Its share is its proximity over that of all writers, on average over tokens; at the logits over those that are read.

Shares of a reader add up to 1. Nothing is changed, and no metric is asked: what flows is not what matters for an answer, so
this is the baseline of cheap scores. With another ``source`` a_u − ã_u takes the place of a_u, so that what a writer says on
any prompt, or on average, does not count.

Ferrando and Voita, "Information Flow Routes: Automatically Interpreting Language Models at Scale", arXiv 2403.00824. Theirs
divides heads further, by the token attended to.
"""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr

from interp import axes
from interp.circuits import Graph
from interp.engine.cells import Cell
from interp.engine.graph.edges import as_asked, spec_of_graph
from interp.engine.graph.shares import Shares
from interp.engine.graph.sweeping import Asked, Cells, Words, require_edges
from interp.engine.precision import Precision
from interp.engine.prepared import Patching
from interp.interventions import Constant, Source
from interp.methods.registry import Method
from interp.models import Encoded, Model
from interp.prompts import Pair, Pairs

METHOD = Method(
    id="information_flow_routes",
    name="information-flow routes",
    paper="Ferrando & Voita 2024, Information Flow Routes: Automatically Interpreting Language Models at Scale, "
    "arXiv 2403.00824",
    mediator="edges of the residual stream",
    search="reading",
    cost="a forward pass; with another source, one more",
    function="interp.information_flow",
)


def information_flow(
    model: Model,
    pairs: Pairs | Sequence[Pair] | Encoded,
    *,
    graph: Graph | None = None,
    patching: Patching = "noising",
    source: Source | None = None,
    rows: int | None = None,
    precision: Precision = "full",
) -> xr.Dataset:
    """How much of what every reader sees is each writer's.

    Args:
        model, rows, precision: as for :func:`interp.patch_circuits`.
        pairs: the clean prompts are run; with ``patching="denoising"`` the corrupted ones.
        graph: as for :func:`interp.patch_edges`.
        source: what a writer is held against; by default ``Constant(0.0)``, nothing, as in the paper. ``Activation()`` is what
            it says on the other prompt.

    Returns:
        ``score``, ``[cell, example]``, with the coordinates of edges that :func:`interp.patch_edges` has. It ranks edges
        (:func:`interp.circuits.strongest`), and is no effect.

    Raises:
        EdgesError, UnequalLengthsError, ShapeMismatchError: see :func:`interp.patch_circuits`.
        UnknownNameError: an unknown word.
    """
    require_edges(model, patching, precision)
    shape, held = as_asked(model, graph), Constant(0.0) if source is None else source
    words = Words("information_flow", patching, precision, held, rows)
    asked = Asked.of(
        model,
        pairs,
        "kl",
        words,
        Cells(len(shape), shape.coords(), {"edges": "all", **spec_of_graph(shape)}, shape.whole, together=True),
    )

    def rows_of(known: Sequence[Cell]) -> Shares:
        return Shares(asked.runs, shape, held, asked.budget)

    with asked.begin(rows_of) as sweep:
        shares = sweep.made.values(range(len(shape)), range(len(asked.encoded)), lambda done: None)[0]
        like = sweep.skeleton
    coords = {name: one for name, one in like.coords.items() if axes.METRIC not in one.dims}
    attrs = {key: value for key, value in like.attrs.items() if key not in ("noise_floor", "units", "spec", "rows")}
    return xr.Dataset({"score": ((axes.CELL, axes.EXAMPLE), shares.cpu().numpy())}, coords=coords, attrs=attrs)
