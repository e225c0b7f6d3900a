"""Interchange interventions by pyvene, for test_pyvene.py. Run as a process of its own."""

from __future__ import annotations

from typing import Any

import pyvene
import tiny
import torch
from answering import serve
from torch import Tensor
from transformers import PreTrainedModel

COMPONENTS = {
    "resid_pre": "block_input",
    "resid_post": "block_output",
    "attn_out": "attention_output",
    "mlp_out": "mlp_output",
    "z": "head_attention_value_output",
    "q": "head_query_output",
    "k": "head_key_output",
    "v": "head_value_output",
}


def patched(job: dict[str, Any]) -> list[Tensor]:
    network = getattr(tiny, job["family"])(job["seed"])  # its own: every call removes all hooks of the network
    base, source = torch.tensor(job["base"]), torch.tensor(job["source"])
    return [_one(network, base, source, cell, job.get("basis")) for cell in job["cells"]]


def _one(network: PreTrainedModel, base: Tensor, source: Tensor, cell: dict[str, Any], basis: Any) -> Tensor:
    """A new intervenable model for every cell: after a call with one location, later ones are not always believed."""
    columns = None if basis is None else torch.tensor(basis)
    if columns is None:
        kind, rank = pyvene.VanillaIntervention, {}
    elif columns.shape[0] == columns.shape[1]:
        kind, rank = pyvene.RotatedSpaceIntervention, {}
    else:
        kind, rank = pyvene.LowRankRotatedSpaceIntervention, {"low_rank_dimension": columns.shape[1]}
    unit = "h.pos" if "head" in cell else "pos"
    where = pyvene.RepresentationConfig(cell["layer"], COMPONENTS[cell["site"]], unit, 1, **rank)
    model = pyvene.IntervenableModel(pyvene.IntervenableConfig([where], intervention_types=kind), network)
    if columns is not None:
        (intervention,) = model.interventions.values()
        intervention.rotate_layer.weight = columns
    at: Any = cell["position"]
    if "head" in cell:
        each = [[[cell["head"]]] * len(base), [[at]] * len(base)]
        at = ([each], [each])
    _, found = model({"input_ids": base}, [{"input_ids": source}], {"sources->base": at})
    return found.logits


if __name__ == "__main__":
    serve(patched)
