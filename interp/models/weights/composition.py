"""How much of what one head writes another one reads: composition scores of all pairs of heads.

    >>> scores = interp.weights.composition(model, "k")                                       # doctest: +SKIP
    >>> scores.sel(sender="L0H3", receiver="L1H0").item()                                    # doctest: +SKIP
    >>> interp.views.head_to_head(scores)                                                    # doctest: +SKIP

With rows as vectors (Elhage et al. 2021, "Three Kinds of Composition"), of a head h1 before a head h2:

    Q    ‖OV¹ QK²‖ / ‖OV¹‖ ‖QK²‖          what h1 writes decides where h2 attends from
    K    ‖OV¹ QK²ᵀ‖ / ‖OV¹‖ ‖QK²‖         what h1 writes decides where h2 attends to
    V    ‖OV¹ OV²‖ / ‖OV¹‖ ‖OV²‖          h2 moves on what h1 writes

Norms are Frobenius'. No ``[d_model, d_model]`` matrix is formed: ‖A B C D‖ is that of four small ones, with A and D replaced by
the triangular factors of their QR, which have the same norms.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from interp.errors import UnknownNameError
from interp.models.model import Model
from interp.models.weights.factored import Factored
from interp.models.weights.heads import Chosen, attending, labels, ov_by_layer, qk_by_layer
from interp.sites import MAIN

Kind = Literal["q", "k", "v"]
_KINDS = ("q", "k", "v")


class _Side(NamedTuple):
    """One half of every head's product, the other half having shrunk to a triangle that is multiplied in."""

    matrix: Tensor
    """Of senders ``[head, d_head, d_model]``, of receivers ``[head, d_model, d_head]``."""
    norm: Float[Tensor, " head"]
    """Of the whole product."""


def composition(model: Model, kind: Kind = "v", *, stream: str = MAIN, fold_norm: bool = True) -> xr.DataArray:
    """The composition score of every pair of heads of a stream.

    Two random matrices score about 1 / √d_model, so what counts is what stands out from a model's own background.

    Args:
        kind: whether the sender's output is read as query (``"q"``), key or value.
        stream: of which stack of blocks.
        fold_norm: whether the gains and the centring of the norms are in it (:mod:`interp.models.weights.heads`). What
            turns queries and keys by their positions is left out: scores are those of a query and a key at one position.

    Returns:
        ``[sender, receiver]``, heads by their names, with ``sender_layer``, ``sender_head`` and the like as coordinates; NaN
        where the sender is not in an earlier layer than the receiver.

    Raises:
        UnknownNameError: another kind.
        as :func:`interp.models.weights.heads.ov` and ``qk``.
    """
    if kind not in _KINDS:
        raise UnknownNameError("kind of composition", kind, _KINDS)
    heads = labels(model, stream)
    every = Chosen(stream, attending(model, stream), None, stacked=True)
    written = ov_by_layer(model, every, fold_norm=fold_norm)
    read = written if kind == "v" else qk_by_layer(model, every, fold_norm=fold_norm)
    table = np.full((len(heads), len(heads)), np.nan)
    senders: list[_Side] = []
    column = 0
    for own, what in zip(written, read, strict=True):
        received = _receiver(what.mT if kind == "k" else what)
        width = len(received.norm)
        row = 0
        for sender in senders:
            scores = _scores(sender, received)
            table[row : row + len(scores), column : column + width] = scores.cpu().numpy()
            row += len(scores)
        senders.append(_sender(own))
        column += width
    names = [f"L{layer}H{head}" for layer, head in heads]
    coords: dict[str, object] = {}
    for side in ("sender", "receiver"):
        coords[side] = names
        coords |= {f"{side}_layer": (side, [layer for layer, _ in heads]), f"{side}_head": (side, [head for _, head in heads])}
    attrs = {"model": model.name, "digest": model.digest, "kind": kind, "fold_norm": int(fold_norm), "stream": stream}
    quantity = {"quantity": f"{kind.upper()}-composition"}
    return xr.DataArray(table, coords, ("sender", "receiver"), name="composition", attrs=attrs | quantity)


def _sender(product: Factored) -> _Side:
    triangle = torch.linalg.qr(product.left).R
    return _Side(triangle @ product.right, product.norm())


def _receiver(product: Factored) -> _Side:
    triangle = torch.linalg.qr(product.right.mT).R
    return _Side(product.left @ triangle.mT, product.norm())


def _scores(sender: _Side, receiver: _Side) -> Float[Tensor, "sender receiver"]:
    """Of all heads of one layer with all of another: one product of what the two sides hold."""
    one = rearrange(sender.matrix, "sender i d_model -> (sender i) d_model")
    other = rearrange(receiver.matrix.to(one), "receiver d_model j -> d_model (receiver j)")
    count = {"sender": len(sender.norm), "receiver": len(receiver.norm)}
    squares = rearrange(one @ other, "(sender i) (receiver j) -> sender receiver i j", **count).square().sum((-2, -1))
    return squares.sqrt() / (sender.norm[:, None] * receiver.norm.to(one))
