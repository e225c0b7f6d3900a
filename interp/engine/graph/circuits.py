"""What circuits do: the model with all other edges ablated, each circuit a row of the wave.

>>> effects = interp.patch_circuits(model, pairs, [circuit, ~circuit])                   # doctest: +SKIP
>>> effects["circuit"].values                                                          # doctest: +SKIP
array(['copying', '~copying'], dtype=object)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np
import torch
import xarray as xr

from interp import axes
from interp.circuits import Circuit
from interp.engine.cells import Cell
from interp.engine.graph.edges import as_asked, spec_of_graph
from interp.engine.graph.mixed import Mixed
from interp.engine.graph.sweeping import Asked, Cells, Words, require_edges
from interp.engine.precision import Precision
from interp.engine.prepared import Patching
from interp.engine.recipe import others, recorded
from interp.engine.stored import Into, StoreLike
from interp.errors import EdgesError, InputError
from interp.interventions import Activation, Source
from interp.metrics import MetricLike
from interp.models import Encoded, Model
from interp.prompts import Pair, Pairs


def patch_circuits(
    model: Model,
    pairs: Pairs | Sequence[Pair] | Encoded,
    circuits: Circuit | Sequence[Circuit],
    metric: MetricLike | Sequence[MetricLike] = "logit_diff",
    *,
    patching: Patching = "noising",
    source: Source | None = None,
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
    store: StoreLike | None = None,
    name: str | None = None,
    tags: Iterable[str] = (),
) -> xr.Dataset:
    """What a model does that has the edges of a circuit alone: its readers see of all other writers what the source says.

    Args:
        model: one whose blocks can be resumed, and whose heads read the stream through a norm and a projection.
        pairs: prompts of equal length in each pair.
        circuits: one or several, of the model's graph (:func:`interp.graph`), with its nodes told apart or not.
        metric: one or several.
        patching: ``"noising"`` runs on the clean prompt, and what is left out is seen from the corrupted one; ``"denoising"``
            the reverse.
        source: what is seen in the place of an edge that is left out: by default the other prompt's contribution; a mean,
            another example's, or ``Constant(0.0)``, which takes contributions away (of heads, up to value biases).
        rows: most rows in one pass; by default what a memory budget allows.
        precision: as for :func:`interp.patch`.
        progress: likewise.
        store: likewise, with ``name`` and ``tags``.
        name: of the run in the store.
        tags: likewise.

    Returns:
        Effects with dims ``(metric, cell, example)`` and, along ``cell``, ``circuit``, their names, and ``edges``, how many
        each has. With all edges the value is the base's; with none that of the source's run, if the source is one.

    Raises:
        EdgesError: the model's blocks cannot be resumed, it is not causal, its stream is no sum of its writers, or a circuit is
            of another graph.
        InputError: no circuit, or something else.
        UnequalLengthsError, AnswerError, ShapeMismatchError: see :func:`interp.patch`.
    """
    said, into = others(locals()), Into.of(store, name, tags)
    require_edges(model, patching, precision)
    several = _checked(model, circuits)
    shape = several[0].graph
    digests = [sha256(np.packbits(one.kept).tobytes()).hexdigest()[:16] for one in several]
    asked = Asked.of(
        model,
        pairs,
        metric,
        Words("patch_circuits", patching, precision, Activation() if source is None else source, rows),
        Cells(
            count=len(several),
            coords={
                "circuit": (axes.CELL, [one.name for one in several]),
                "edges": (axes.CELL, [len(one) for one in several]),
                "digest": (axes.CELL, digests),
            },
            spec={"circuits": digests, **spec_of_graph(shape)},
            senders=shape.whole,
        ),
    )

    def rows_of(known: Sequence[Cell]) -> Mixed:
        kept = torch.tensor(np.stack([one.kept for one in several]), device=model.device)
        return Mixed(asked.runs, shape, asked.words.source, asked.budget, kept.float())

    return asked.swept(rows_of, into, partial(recorded, "patch_circuits", model, asked.encoded, **said), progress)


def _checked(model: Model, circuits: Any) -> list[Circuit]:
    """Circuits of the model's graph, at least one."""
    several = [circuits] if isinstance(circuits, Circuit) else list(circuits)
    if not several:
        raise InputError("circuits is empty; give at least one, such as Circuit.whole(graph)")
    for one in several:
        if not isinstance(one, Circuit):
            raise InputError(f"circuits hold {one!r} of type {type(one).__name__}; expected interp.circuits.Circuit")
    shape = as_asked(model, several[0].graph)
    for one in several:
        if one.graph != several[0].graph:
            raise EdgesError(f"{one!r} is of another graph than {several[0]!r}: {one.graph!r} and {several[0].graph!r}")
    return [replace(one, graph=shape) for one in several]
