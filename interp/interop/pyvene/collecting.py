"""What a ``CollectIntervention`` collects, from a run in our engine.

>>> block = {"component": "block_output", "layer": 2, "intervention_type": pyvene.CollectIntervention} # doctest: +SKIP
>>> found = from_config([block], model, 3)                                                   # doctest: +SKIP
>>> collect(model, found, pairs)[0].shape                     # [example, token, feature]    # doctest: +SKIP
torch.Size([64, 1, 768])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp import axes
from interp.engine.asked import BASE, encoded_pairs
from interp.engine.cells import check, place
from interp.engine.edits import Edits
from interp.engine.filling import fill
from interp.engine.layout import canonical
from interp.engine.prepared import Patching
from interp.engine.readout import Reader
from interp.engine.runs import Runs
from interp.errors import InteropError
from interp.interop.pyvene.changes import Read
from interp.interop.pyvene.reading import Imported
from interp.metrics import resolve
from interp.models import Encoded, Model, Tokens
from interp.prompts import Pair, Pairs


def collect(
    model: Model, found: Imported, pairs: Pairs | Sequence[Pair] | Encoded, *, patching: Patching = "denoising"
) -> list[Float[Tensor, "example token *feature"]]:
    """The values that a config collects on the base run, with its other interventions in force: one tensor for each read.

    Several heads have an axis of their own, ``[example, token, head, feature]``. All examples run in one pass.

    Args:
        found: from :func:`from_config` or :func:`load`.
        pairs, patching: as for :func:`interp.patch`; the base is the corrupted prompt when denoising.

    Raises:
        InteropError: it collects nothing, or at as many tokens in one example as not in another.
    """
    if not found.reads:
        raise InteropError("this config collects nothing: it has no CollectIntervention")
    encoded = encoded_pairs(model, pairs)
    sites = {read.site.tensor for read in found.reads}
    with torch.no_grad(), model.prepared([*sites, *(change.site for change in found.changes)]):
        writes: dict[Any, Any] = {}
        reader = Reader.of(model, encoded, resolve(lambda logits: logits[..., 0]), whole=True)
        base = BASE[patching]
        runs = Runs(model, encoded, base, batch=len(encoded), reader=reader)
        if found.changes:
            check([found.intervention], model)
            cell = fill(place([found.intervention], runs), runs)[0]
            examples = torch.arange(len(encoded), device=model.device)
            writes = Edits.of(cell, examples).writes()
        values = model.backend.run(model.inputs(runs.base), sites, writes)
        return [_taken(values[read.site.tensor], read, runs.base) for read in found.reads]


def _taken(values: Tensor, read: Read, tokens: Tokens) -> Tensor:
    columns = tokens.columns(read.positions)
    if bool((columns < 0).any()):
        raise InteropError(f"{read!r} names more tokens in some examples than in others")
    seen = canonical(read.site.tensor, values)
    taken = seen[torch.arange(len(columns), device=columns.device)[:, None], columns]
    if read.site.head is not None:
        taken = taken[:, :, read.site.head]
    elif read.heads is not None and axes.HEAD in read.site.axes:
        taken = taken[:, :, list(read.heads)] if read.by_head else taken.flatten(2)
    return taken if read.columns is None else taken[..., list(read.columns)]
