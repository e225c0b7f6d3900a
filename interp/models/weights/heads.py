"""What a head does, read from its weights: OV, what it writes of what it attends to, and QK, what it attends to.

    >>> import interp                                                                          # doctest: +SKIP
    >>> head = interp.weights.ov(model, "L3H2")                 # 576 × 576, kept as 576 × 64 × 576 # doctest: +SKIP
    >>> head.singular_values()[:3], float(head.norm())                                         # doctest: +SKIP
    >>> x @ head                                                # what it writes when it attends to x # doctest: +SKIP

Vectors are rows. ``x @ ov`` is what the head adds to the stream when all of its attention is on ``x``; ``x_query @ qk @ x_key``
is the score with which it attends (Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021, where vectors are
columns and both matrices transposed).

``x`` is the stream at the block's input, and the norm by which attention reads it is folded in: its gain, and its centring
where it is a LayerNorm. Left out is its scale, one positive number a token, which only data know; so ``x`` is to be divided by
its root mean square (or standard deviation) where sizes matter. A norm between attention and the stream (Gemma 2) is folded in
on the other side in the same way. Biases are no part of the matrices; :func:`ov_bias` and :func:`qk_bias` have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import einsum, repeat
from jaxtyping import Float
from torch import Tensor

from interp.errors import UnknownSiteError, WeightsError
from interp.models.model import Model
from interp.models.weights.behind import Behind, behind_attention
from interp.models.weights.factored import Factored
from interp.models.weights.norms import Norm, read_through
from interp.models.weights.projections import OutputMap, Projection, output_map, projection
from interp.models.weights.scores import ScoreForm, score_forms
from interp.sites import Site

Where = str | Site | int | None
"""Which heads: ``"L3H2"`` is one, ``3`` or ``"L3.z"`` a layer's, None all of them, ``"encoder:L3H2"`` one of another stream."""

_OF_HEADS = ("z", "q", "scores", "pattern", "result")
"""Sites that have the attention heads in one of their axes, and not the key/value heads."""


class Chosen(NamedTuple):
    """Which heads were asked for."""

    stream: str
    layers: list[int]
    head: int | None
    """None for all heads."""
    stacked: bool
    """Whether all layers were asked for, so that there is an axis of layers."""


class QKBias(NamedTuple):
    """What biases add to scores: ``x_query @ query + x_key @ key + constant``.

    The softmax takes no notice of ``x_query @ query`` and ``constant``, which are the same for every key.
    """

    query: Float[Tensor, "*batch d_model"]
    key: Float[Tensor, "*batch d_model"]
    constant: Float[Tensor, "*batch"]


def ov(model: Model, where: Where = None, *, fold_norm: bool = True) -> Factored:
    """W_V W_O of heads, ``[d_model, d_model]`` of rank d_head, with an axis of heads or of layers and heads in front.

    Args:
        where: a head, a layer or None for all.
        fold_norm: whether ``x`` is the stream, or what the value map takes.

    Raises:
        UnknownSiteError: no such layer, or one without attention whose values are known.
        HeadOutOfRangeError: no such head.
        WeightsError: values that are no map of the stream (multi-head latent attention, adaptive norms).
    """
    chosen = choose(model, where)
    return _stacked(chosen, ov_by_layer(model, chosen, fold_norm=fold_norm))


def qk(
    model: Model,
    where: Where = None,
    *,
    scaled: bool = False,
    distance: int | None = None,
    fold_norm: bool = True,
) -> Factored:
    """W_Q W_Kᵀ of heads, ``[d_model, d_model]`` of rank d_head, with an axis of heads or of layers and heads in front.

    Args:
        where: a head, a layer or None for all.
        scaled: whether the model's own scale is in it (1/√d_head in most), so that it gives what the softmax sees.
        distance: how many positions the key is before the query, for models whose positions turn queries and keys; measured on
            the model. By default nothing is turned, which is a distance of 0. Biases that positions add to scores (alibi, T5's)
            are no part of it.
        fold_norm: whether ``x`` is the stream, or what the query and key maps take. In models that norm queries and keys
            (Qwen3, Gemma 3, OLMo 2), the gains of these norms are folded in too, the model's scale always with them, and what
            is left out is one more positive number a query and a key: their root mean squares.

    Raises:
        UnknownSiteError: no such layer, or one without attention whose queries, keys and scores are known.
        HeadOutOfRangeError: no such head.
        WeightsError: scores that are no form of the stream, or a distance that cannot be had.
    """
    chosen = choose(model, where)
    return _stacked(chosen, qk_by_layer(model, chosen, scaled=scaled, distance=distance, fold_norm=fold_norm))


def ov_bias(model: Model, where: Where = None, *, fold_norm: bool = True) -> Float[Tensor, "*batch d_model"]:
    """What heads add to the stream whatever they attend to: the value bias, and the norm's seen through W_V, behind W_O.

    Rows of a pattern sum to 1, so it is added once. b_O, which belongs to no head, is not in it.

    Raises:
        as :func:`ov`.
    """
    chosen = choose(model, where)
    found = []
    for layer in chosen.layers:
        v, out, norm, behind = _values(model, chosen, layer, fold_norm)
        bias = _read_bias(v, norm)
        group = len(out.weight) // len(bias)
        each = einsum(
            repeat(bias, "kv d -> (kv group) d", group=group), behind.of(out.weight), "head d, head d d_model -> head d_model"
        )
        found.append(each if chosen.head is None else each[chosen.head])
    return torch.stack(found) if chosen.stacked else found[0]


def qk_bias(
    model: Model, where: Where = None, *, scaled: bool = False, distance: int | None = None, fold_norm: bool = True
) -> QKBias:
    """What the biases of queries, keys and the norm before them add to scores.

    Raises:
        as :func:`qk`; WeightsError: queries and keys are normed, so that what their biases add depends on the data.
    """
    chosen = choose(model, where)
    forms = _forms(model, chosen, distance or 0, fold_norm)
    found = []
    for layer in chosen.layers:
        if forms[layer].normed:
            raise WeightsError(
                f"layer {layer} of {model.name} norms its queries and keys, so that what their biases add depends on the data"
            )
        (left, key), (q_bias, k_bias) = _queries_and_keys(model, chosen, layer, forms[layer], scaled, fold_norm)
        one = QKBias(
            einsum(left, k_bias, "head d_model d, head d -> head d_model"),
            einsum(key, q_bias, "head d_model d, head d -> head d_model"),
            einsum(q_bias, k_bias, "head d, head d -> head"),
        )
        found.append(one if chosen.head is None else QKBias(*(part[chosen.head] for part in one)))
    return QKBias(*map(torch.stack, zip(*found, strict=True))) if chosen.stacked else found[0]


# which heads


def choose(model: Model, where: Where) -> Chosen:
    """The heads that are meant.

    Raises:
        UnknownSiteError: no such layer, stream or attention, or a name that means no heads.
        HeadOutOfRangeError: a head or layer beyond the model's.
    """
    if isinstance(where, int):
        where = Site("z", layer=where)
    site = Site("z") if where is None else Site.parse(where)
    if site.name not in _OF_HEADS:
        example = "'L3H2', 'L3.z' or 3"
        raise UnknownSiteError("heads", where, [], why=f"{site.name!r} is not of attention heads; name them as {example}")
    z = Site("z", layer=site.layer, head=site.head, stream=site.stream)
    model.check(z)
    layers = [site.layer] if site.layer is not None else attending(model, site.stream)
    return Chosen(site.stream, layers, site.head, site.layer is None)


def attending(model: Model, stream: str) -> list[int]:
    """The layers of a stream that have attention heads."""
    count = len(model.anatomy.streams[stream].blocks)
    return [layer for layer in range(count) if model.has(Site("z", layer=layer, stream=stream))]


def labels(model: Model, stream: str) -> list[tuple[int, int]]:
    """Layer and head of every attention head, in the order of the network."""
    sites = [Site("z", layer=layer, stream=stream) for layer in attending(model, stream)]
    return [(site.layer or 0, head) for site in sites for head in range(model.anatomy.size(site, "head"))]


def _stacked(chosen: Chosen, found: Sequence[Factored]) -> Factored:
    if not chosen.stacked:
        return found[0]
    shapes = {one.left.shape for one in found}
    if len(shapes) > 1:
        raise WeightsError(f"layers differ in the number or width of their heads ({shapes}); ask for one layer at a time")
    device = found[0].device
    return Factored(torch.stack([one.left.to(device) for one in found]), torch.stack([one.right.to(device) for one in found]))


# the matrices


def ov_by_layer(model: Model, chosen: Chosen, *, fold_norm: bool = True) -> list[Factored]:
    """:func:`ov` of each chosen layer; layers may differ in their heads."""
    return [_ov(model, chosen, layer, fold_norm) for layer in chosen.layers]


def qk_by_layer(
    model: Model, chosen: Chosen, *, scaled: bool = False, distance: int | None = None, fold_norm: bool = True
) -> list[Factored]:
    """:func:`qk` of each chosen layer, the scores of all of them measured in one forward pass."""
    forms = _forms(model, chosen, distance or 0, fold_norm)
    return [_qk(model, chosen, layer, forms[layer], scaled, fold_norm) for layer in chosen.layers]


def _values(model: Model, chosen: Chosen, layer: int, fold_norm: bool) -> tuple[Projection, OutputMap, Norm | None, Behind]:
    v, z = (Site(name, layer=layer, stream=chosen.stream) for name in ("v", "z"))
    own, out = projection(model, v), output_map(model, z)
    norm = read_through(model, v) if fold_norm else None
    _check_width(model, v, own)
    return own, out, norm, behind_attention(model, z) if fold_norm else Behind()


def _ov(model: Model, chosen: Chosen, layer: int, fold_norm: bool) -> Factored:
    v, out, norm, behind = _values(model, chosen, layer, fold_norm)
    group = len(out.weight) // len(v.weight)
    left, right = v.weight if norm is None else norm.before(v.weight), behind.of(out.weight)
    if chosen.head is not None:
        return Factored(left[chosen.head // group], right[chosen.head])
    return Factored(repeat(left, "kv d_model d -> (kv group) d_model d", group=group), right)


def _forms(model: Model, chosen: Chosen, distance: int, fold_norm: bool) -> dict[int, ScoreForm]:
    forms = score_forms(model, chosen.layers, chosen.stream, distance)
    normed = [layer for layer, form in forms.items() if form.normed]
    if normed and not fold_norm:
        raise WeightsError(
            f"layer {normed[0]} of {model.name} norms its queries and keys over {forms[normed[0]].normed}: its scores are a "
            "form of normed queries and keys alone, which fold_norm=True gives"
        )
    return forms


def _qk(model: Model, chosen: Chosen, layer: int, form: ScoreForm, scaled: bool, fold_norm: bool) -> Factored:
    (left, key), _ = _queries_and_keys(model, chosen, layer, form, scaled, fold_norm)
    return Factored(left, key.mT) if chosen.head is None else Factored(left[chosen.head], key[chosen.head].mT)


def _queries_and_keys(
    model: Model, chosen: Chosen, layer: int, form: ScoreForm, scaled: bool, fold_norm: bool
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Maps of queries, with the form of the scores, and of keys, ``[head, d_model, d_head]``; and the biases of both."""
    sites = [Site(name, layer=layer, stream=chosen.stream) for name in ("q", "k")]
    maps, biases = [], []
    for site in sites:
        own = projection(model, site)
        _check_width(model, site, own)
        norm = read_through(model, site) if fold_norm else None
        maps.append(own.weight if norm is None else norm.before(own.weight))
        biases.append(_read_bias(own, norm))
    group = len(maps[0]) // len(maps[1])
    key, k_bias = (repeat(one, "kv ... -> (kv group) ...", group=group) for one in (maps[1], biases[1]))
    if form.scale is not None:  # exactly the identity, but for the scale
        scale = form.scale if scaled else 1.0
        return (maps[0] * scale, key), (biases[0] * scale, k_bias)
    turn = form.form.to(maps[0])
    if not scaled and not form.normed:
        turn = turn / plain_scale(model, layer, chosen.stream)
    return (maps[0] @ turn, key), (einsum(biases[0], turn, "head q, head q k -> head k"), k_bias)


def plain_scale(model: Model, layer: int, stream: str) -> float:
    """The number by which a layer multiplies products of queries and keys at one position.

    Raises:
        WeightsError: they are not multiplied by one number.
    """
    scale = score_forms(model, [layer], stream)[layer].scale
    if scale is None:
        raise WeightsError(
            f"layer {layer} of {model.name} does not multiply queries by keys and one scale, even at one position; scaled=True "
            "reads its scores as they are"
        )
    return scale


def _read_bias(own: Projection, norm: Norm | None) -> Float[Tensor, "head d_head"]:
    """Of what a map gives: its own bias, and that of the norm before it seen through its weight."""
    bias = torch.zeros_like(own.weight[:, 0]) if own.bias is None else own.bias
    return bias if norm is None else bias + einsum(norm.bias.to(own.weight), own.weight, "d_model, head d_model d -> head d")


def _check_width(model: Model, site: Site, own: Projection) -> None:
    """Raise where a map takes something narrower or wider than the stream, which it then cannot read."""
    width = model.anatomy.size(site.at(name="resid_pre"), "d_model")
    if own.weight.shape[1] != width:
        raise WeightsError(
            f"{model.taps(site).path}, which gives {site!r} of {model.name}, takes {own.weight.shape[1]} numbers and not the "
            f"stream's {width}: something that is not linear stands between (in multi-head latent attention the norm of the "
            "latent), so that the head is no map of the stream"
        )
