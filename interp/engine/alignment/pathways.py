"""What of a subspace is read at all: the split that tells a variable from a dormant pathway.

>>> read = readers(model, laid(model, encoded, interp.grid("mlp_post", position=["END"])))         # doctest: +SKIP
>>> read_parts(search, read)                                                                       # doctest: +SKIP

The units of an MLP are read through W_out alone, so a direction v there is v_read + v_unread, in the row space of W_out and in
its null space. v_unread says what the source is and nothing hears it; v_read is heard and may say nothing, being the same in
all rows. To interchange along v writes what the one says into the other: an answer follows that the network itself never takes
from there. What the read part does alone is what is carried (Makelov, Lange and Nanda, "Is This the Subspace You Are Looking
For?", arXiv 2311.17030).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from interp.engine.alignment.places import Laid
from interp.engine.alignment.search import Search
from interp.interventions import Change, Identity, Interpolate, Intervention, Replace, Select, Subspace
from interp.models import Model
from interp.models.maps import is_map, matrix
from interp.sites import Site

_LEAST = 1e-5
"""Singular values below this share of the largest one are nothing that is read."""


def readers(model: Model, places: Laid) -> list[Float[Tensor, "width read"] | None]:
    """An orthonormal basis of what is read at every place; None where no single linear map reads it.

    Known are the units of an MLP, one head's ``z``, and the input of a linear map by its path.
    """
    sites = [one.changes[0].site for one in places.targets]
    known: dict[Site, Tensor | None] = {}
    for site, width in zip(sites, places.widths, strict=True):
        if site not in known:
            weight = _weight(model, site, width)
            known[site] = None if weight is None else _range(weight.detach().double().cpu())
    return [known[site] for site in sites]


def read_parts(search: Search, read: Sequence[Tensor | None]) -> list[Intervention | None]:
    """Every hard intervention of a search in what is read of its subspace, which has as many dimensions or fewer.

    None where nothing is known of the reader, or the map is not linear.
    """
    each = len(search.ranks) * len(search.seeds)
    found: list[Intervention | None] = []
    for number, (one, width) in enumerate(search.cells):
        basis = read[number // each]
        parts = [None if basis is None else _read_part(change, basis, width) for change in one.changes]
        there = [part for part in parts if part is not None]
        found.append(replace(one, changes=tuple(there)) if len(there) == len(parts) else None)
    return found


def _read_part(change: Change, read: Float[Tensor, "width read"], width: int) -> Change | None:
    basis = _basis(change, width)
    if basis is None:
        return None
    own = basis.detach().double().cpu()
    part = _range(read @ (read.mT @ own), least=1.0)
    if not part.shape[1]:
        return replace(change, featurizer=Subspace(basis.detach()), edit=Interpolate(0.0))  # nothing of it is read
    return replace(change, featurizer=Subspace(part.to(basis)), edit=Replace())


def _basis(change: Change, width: int) -> Float[Tensor, "width column"] | None:
    """Of what a hard change swaps."""
    whole = getattr(change.featurizer, "basis", None)
    if isinstance(change.edit, Select):
        if whole is None and not isinstance(change.featurizer, Identity):
            return None
        axes = torch.eye(width) if whole is None else whole
        return axes[:, change.edit.chosen.to(axes.device)] if change.edit.chosen.ndim == 1 else None
    return whole if isinstance(whole, Tensor) else None


def _weight(model: Model, site: Site, width: int) -> Float[Tensor, "width out"] | None:
    """Of the linear map that reads a site, and is all that does."""
    anatomy, layer = model.anatomy, site.layer
    if site.path is not None:
        path = site.path if site.name == "input" and site.unit is None else None
    elif layer is None or site.name not in ("mlp_post", "z") or (site.name == "z") != (site.head is not None):
        path = None
    else:
        path = (anatomy.w_out if site.name == "mlp_post" else anatomy.w_o).get(layer)
    linear = None if path is None else model.module.get_submodule(path)
    if linear is None or not is_map(linear):
        return None
    heads = 1 if site.head is None else _heads(linear, width)
    whole = matrix(linear, width * heads, next(linear.parameters()))
    if whole.shape[0] != width * heads:
        return None
    return whole if site.head is None else rearrange(whole, "(head d_head) out -> head d_head out", head=heads)[site.head]


def _heads(linear: torch.nn.Module, width: int) -> int:
    """How many heads of so many features a map takes."""
    taken = getattr(linear, "in_features", None) or linear.get_parameter("weight").shape[0]
    return int(taken) // width


def _range(vectors: Float[Tensor, "width column"], least: float | None = None) -> Float[Tensor, "width rank"]:
    """An orthonormal basis of what vectors span.

    Args:
        least: of what a singular value counts by, by default the largest one.
    """
    left, values, _ = torch.linalg.svd(vectors, full_matrices=False)
    top = values.max() if least is None else least
    return left[:, values > _LEAST * top]
