"""A head from token to token: W_E OV W_U, what it says of a token that it attends to, and W_E QK W_Eᵀ, which attends to which.

    >>> interp.weights.full_ov(model, "L3H2").table(3, [" John", " Mary"])                      # doctest: +SKIP
    >>> interp.views.heatmap(interp.weights.copying_score(model))                            # doctest: +SKIP
    >>> interp.weights.token_direction(model, " Paris", " Rome").shape                        # doctest: +SKIP

Both are ``[vocab, vocab]`` of rank d_head, kept as factors. W_E is what the embedding gives for a token, without positions; W_U
has the gain and the centring of the final norm folded in, as the head's matrices have that of their own
(:mod:`interp.models.weights.heads`), so that rows are right up to one positive factor each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import WeightsError
from interp.models.model import Model
from interp.models.weights.factored import Factored, Top
from interp.models.weights.heads import Where, choose, labels, ov, qk
from interp.models.weights.norms import before_unembedding, unembedding
from interp.models.weights.projections import kept_matrix, wide
from interp.protocols import Tokenizer
from interp.sites import MAIN, Site


@dataclass(frozen=True, eq=False, repr=False)
class TokenCircuit(Factored):
    """A product ``[…, vocab, vocab]`` whose rows and columns are tokens."""

    tokenizer: Tokenizer | None = None

    def table(self, k: int, rows: Sequence[str | int] | Int[Tensor, " row"], *, largest: bool = True) -> xr.Dataset:
        """The tokens with the largest numbers in the rows of some tokens.

        Args:
            k: how many of each row.
            rows: tokens, as text of exactly one token each or as ids.
            largest: False for the smallest numbers, smallest first.

        Returns:
            ``value`` and ``id``, and ``token`` where there is a tokenizer, over ``(…, row, rank)``.
        """
        ids = self.ids(rows)
        found = self.top(k, ids, largest=largest)
        dims = (*(("head",) if self.ndim == 3 else ()), "row", "rank")
        columns = found.columns.cpu().numpy()
        table = xr.Dataset(
            {"value": (dims, found.values.cpu().numpy()), "id": (dims, columns)},
            coords={"row": self._texts(ids.cpu().numpy()), "row_id": ("row", ids.cpu().numpy()), "rank": np.arange(k)},
        )
        return table if self.tokenizer is None else table.assign(token=(dims, self._texts(columns)))

    def top(self, k: int, rows: Sequence[str | int] | Int[Tensor, " row"] | None = None, *, largest: bool = True) -> Top:
        """See :meth:`interp.models.weights.factored.Factored.top`; :meth:`table` gives the same with its tokens."""
        return super().top(k, None if rows is None else self.ids(rows), largest=largest)

    def ids(self, rows: Sequence[str | int] | Int[Tensor, " row"]) -> Int[Tensor, " row"]:
        """The ids of tokens.

        Raises:
            WeightsError: text that is not one token, text without a tokenizer, or an id beyond the vocabulary.
        """
        return token_ids(rows, self.tokenizer, self.shape[-2])

    def _texts(self, ids: Any) -> Any:
        if self.tokenizer is None:
            return ids
        decode: Any = self.tokenizer.decode
        known = {int(i): decode([int(i)]) for i in np.unique(ids)}
        return np.vectorize(known.__getitem__, otypes=[object])(ids)


def full_ov(model: Model, where: Where, *, fold_norm: bool = True) -> TokenCircuit:
    """W_E W_V W_O W_U of a head, or of a layer's heads: row and column are the token attended to and the token predicted.

    Args:
        where: a head or a layer of the main stream.
        fold_norm: whether the gains and the centring of the norms are in it.

    Raises:
        WeightsError: no embedding as wide as the stream, or no unembedding that reads it.
        as :func:`interp.models.weights.heads.ov`.
    """
    _check_some(model, where, "full_ov")
    circuit = ov(model, where, fold_norm=fold_norm)
    found = circuit.between(embedding_matrix(model).to(circuit.left), unembedding_matrix(model, fold_norm).to(circuit.left))
    return TokenCircuit(found.left, found.right, model.tokenizer)


def full_qk(
    model: Model, where: Where, *, scaled: bool = False, distance: int | None = None, fold_norm: bool = True
) -> TokenCircuit:
    """W_E W_Q W_Kᵀ W_Eᵀ of a head, or of a layer's heads: row and column are the token that attends and the one attended to.

    Raises:
        as :func:`full_ov` and :func:`interp.models.weights.heads.qk`.
    """
    _check_some(model, where, "full_qk")
    circuit = qk(model, where, scaled=scaled, distance=distance, fold_norm=fold_norm)
    embedding = embedding_matrix(model).to(circuit.left)
    found = circuit.between(embedding, embedding.mT)
    return TokenCircuit(found.left, found.right, model.tokenizer)


def copying_score(model: Model, *, fold_norm: bool = True) -> xr.DataArray:
    """How far every head copies: Σλ / Σ|λ| over the eigenvalues λ of its full OV circuit, from −1 to 1.

    1 where all are positive, so that attending to a token speaks for that token (Elhage et al. 2021, "Summarizing OV/QK
    matrices"). The eigenvalues are those of ``W_O W_U W_E W_V``, ``[d_head, d_head]``.

    Returns:
        ``[layer, head]``, the layers that have attention; NaN where a layer has fewer heads than another, or a
        head's eigenvalues are all 0.
    """
    unembed, embed = unembedding_matrix(model, fold_norm), embedding_matrix(model)
    around = unembed @ embed.to(unembed)
    heads = labels(model, MAIN)
    layers = sorted({layer for layer, _ in heads})
    table = np.full((len(layers), 1 + max((head for _, head in heads), default=-1)), np.nan)
    for row, layer in enumerate(layers):
        circuit = ov(model, layer, fold_norm=fold_norm)
        score = positive_share(circuit.between(after=around.to(circuit.left)))
        table[row, : len(score)] = score.cpu().numpy()
    attrs = {"model": model.name, "digest": model.digest, "fold_norm": int(fold_norm), "quantity": "copying score Σλ / Σ|λ|"}
    coords = {"layer": layers, "head": np.arange(table.shape[1])}
    return xr.DataArray(table, coords, ("layer", "head"), name="copying_score", attrs=attrs)


def token_direction(
    model: Model,
    token: str | int,
    less: str | int | None = None,
    *,
    centred: bool = False,
    unit: bool = False,
    fold_norm: bool = True,
) -> Float[Tensor, " d_model"]:
    """The direction of the residual stream that speaks for a token, or for one rather than another.

    >>> paris = interp.weights.token_direction(model, " Paris", " Rome")                     # doctest: +SKIP
    >>> steered = interp.Change("L20.resid_post", -1, paris, edit=interp.Add(4.0))            # doctest: +SKIP
    >>> interp.Change("L20.resid_post", -1, paris, edit=interp.ProjectOut())                  # doctest: +SKIP

    It is the token's column of W_U, less the other's, with the gain and the centring of the final norm folded in: of a stream x
    that leaves the last block, ``x @ direction / σ`` is the difference of the two logits but for a constant, with σ the scale
    of the final norm. In earlier layers it is what a lens would read.

    Args:
        token: text of exactly one token, a space in front being part of it, or an id.
        less: the token that is spoken against.
        centred: less the mean over the vocabulary, which no softmax sees; with ``less`` it makes no difference.
        unit: of length 1, so that a dose is a length.
        fold_norm: False for the columns of W_U alone.

    Raises:
        WeightsError: text that is not one token, an id beyond the vocabulary, twice the same token, or no unembedding that
            reads the stream.
    """
    columns = unembedding_matrix(model, fold_norm)
    ids = token_ids([token] if less is None else [token, less], model.tokenizer, columns.shape[-1])
    if less is not None and int(ids[0]) == int(ids[1]):
        raise WeightsError(f"{token!r} less {less!r} is no direction: they are one token, id {int(ids[0])}")
    direction = columns[:, ids[0]].clone()
    if less is not None:
        direction -= columns[:, ids[1]]
    elif centred:
        direction -= columns.mean(-1)
    return direction / direction.norm() if unit else direction


def token_ids(
    tokens: str | Sequence[str | int] | Int[Tensor, " row"], tokenizer: Tokenizer | None, vocabulary: int
) -> Int[Tensor, " row"]:
    """The ids of tokens, given as text or as ids.

    Raises:
        WeightsError: text that is not one token, text without a tokenizer, or an id beyond the vocabulary.
    """
    found = [
        _id(one, tokenizer) if isinstance(one, str) else int(one) for one in ([tokens] if isinstance(tokens, str) else tokens)
    ]
    strange = [i for i in found if not 0 <= i < vocabulary]
    if strange:
        raise WeightsError(f"token ids {strange} are not in the vocabulary, which has {vocabulary}")
    return torch.tensor(found)


def _id(text: str, tokenizer: Tokenizer | None) -> int:
    if tokenizer is None:
        raise WeightsError(f"{text!r} is text, and the model has no tokenizer; give token ids")
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        tokens = [tokenizer.decode([i]) for i in ids]
        raise WeightsError(f"{text!r} is {len(ids)} tokens ({tokens}); give one token (a space in front is part of it)")
    if ids[0] == getattr(tokenizer, "unk_token_id", None):
        raise WeightsError(f"{text!r} is no token of this tokenizer (a space in front is part of a token)")
    return int(ids[0])


def embedding_matrix(model: Model) -> Float[Tensor, "vocab d_model"]:
    """What the embedding gives for every token, a factor of its own included.

    Raises:
        UnknownSiteError: no embedding of tokens enters the stream.
        WeightsError: it is no table of tokens, or gives something narrower than the stream.
    """
    site = Site("embed")
    model.check(site)
    part: Any = model.module.get_submodule(model.taps(site).path)
    weight = getattr(part, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not isinstance(part, torch.nn.Embedding):
        raise WeightsError(f"{model.name} embeds no tokens: {model.taps(site).path} is no table of them")
    width = model.anatomy.size(Site("resid_pre", layer=0), "d_model")
    with torch.no_grad():  # called, since some multiply what they look up
        found = wide(part.forward(torch.arange(len(weight), device=weight.device)))
    if found.shape[-1] != width:
        raise WeightsError(f"tokens are embedded in {found.shape[-1]} numbers, and the stream of {model.name} has {width}")
    return found


def unembedding_matrix(model: Model, fold_norm: bool = True) -> Float[Tensor, "d_model vocab"]:
    """W_U, of the stream behind the last block: the gain and the centring of the final norm folded in, its scale left out.

    Raises:
        WeightsError: there is none, or something else stands between it and the stream.
    """
    path = unembedding(model)
    norm = before_unembedding(model) if fold_norm else None
    weight = kept_matrix(model, path)
    return weight if norm is None else norm.before(weight)


def _check_some(model: Model, where: Where, what: str) -> None:
    chosen = choose(model, where)
    if chosen.stacked or chosen.stream != MAIN:
        raise WeightsError(f"{what} is of a head or of a layer of the main stream, as 'L3H2' or 3; where={where!r} was given")


def positive_share(circuit: Factored) -> Float[Tensor, "*batch"]:
    """Σλ / Σ|λ| over the eigenvalues of a square product: 1 where all are positive, −1 where all are negative."""
    values = circuit.eigenvalues()
    return values.real.sum(-1) / values.abs().sum(-1)
