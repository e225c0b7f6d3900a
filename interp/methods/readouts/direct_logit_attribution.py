"""Direct logit attribution: a logit difference as the exact sum of what embeddings, heads, MLPs, units or source tokens write.

    >>> found = dla(model, "The capital of France is", " Paris", " Rome")                    # doctest: +SKIP
    >>> found.contribution.sel(term="L9H6").item(), found.total.item(), found.logit_diff.item()     # doctest: +SKIP
    (0.61, 3.42, 3.42)
    >>> interp.views.heatmap(found.by_head)                                 # layer × head  # doctest: +SKIP
    >>> dla(model, pairs, by="neuron", layers=[20]).contribution.sel(term="m20")              # doctest: +SKIP

1. Run the prompts once; hold the scale σ of the last norm at each example's value.
2. Pull the difference of the two tokens' unembedding columns back through the norm: a direction u / σ of the stream.
3. The contribution of an additive part of the stream is its inner product with it: Σ contributions + bias = logit difference.

Elhage et al., "A Mathematical Framework for Transformer Circuits" (2021); Wang et al., "Interpretability in the Wild" (2022).
It is the direct path alone: what a head does by way of later layers is seen by patching (:func:`interp.patch`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from interp import axes
from interp.engine.additive import Additive, Term, Value
from interp.engine.background import Given
from interp.engine.precision import float32
from interp.engine.single.answered import Answered, answered
from interp.engine.single.decoded import Decoded, some_layers
from interp.engine.single.told import Told, Words
from interp.errors import AnswerError, UnknownNameError, UnknownSiteError
from interp.methods.registry import Method
from interp.models import Model, Tokens
from interp.models.decoding import Decoder
from interp.models.encoding import Bos
from interp.sites import Positions, PositionsLike

METHOD = Method(
    id="direct_logit_attribution",
    name="direct logit attribution",
    paper="Elhage et al. 2021, A Mathematical Framework for Transformer Circuits, "
    "https://transformer-circuits.pub/2021/framework/index.html; "
    "Wang et al. 2022, Interpretability in the Wild, arXiv 2211.00593",
    mediator="what heads, MLPs, units, source tokens and embeddings write to the stream, by position",
    search="reading",
    cost="one forward pass",
    function="interp.dla",
)

By = Literal["layer", "component", "head", "neuron", "source"]
BY = ("layer", "component", "head", "neuron", "source")


def dla(
    model: Model,
    prompts: Any,
    answer: Words = None,
    wrong: Words = None,
    *,
    by: By = "head",
    layers: int | Iterable[int] | None = None,
    position: PositionsLike = -1,
    given: Given = None,
    bos: Bos | None = None,
) -> xr.Dataset:
    """Divide the difference of two logits among the parts that write to the residual stream, with the last norm's scale held.

    Args:
        prompts: a text, token ids, a :class:`interp.Prompt`, a list of such, or pairs, whose clean prompts are run.
        answer: what the logit is of: a text as it follows the prompt, usually with a leading space, or a token id (an int, or
            a tensor or array of such); one for all or one for each. By default the pairs' own. Of several tokens the first
            is read.
        wrong: the token that it is compared with, likewise. Without one the logit is compared with its mean over the
            vocabulary, since a logit by itself holds a shift that the softmax takes out again.
        by: ``"layer"``; ``"component"``: attention, mixer and MLP of every layer; ``"head"``: the same with every head by
            itself; ``"neuron"``: MLPs by unit; ``"source"``: heads by the token attended to.
        layers: those that are divided by head, unit or source; by default all of them.
        position: at which token the logits are read: an index, or a role that names one token.
        given: interventions in force, as in :func:`interp.patch`.
        bos: how texts begin; by default as the model was loaded.

    Returns:
        ``contribution`` by (example, term), and by unit or source_position (tokens counted from the prompt's first; NaN behind
        its end) where terms are divided by these; what is not is then in ``other`` by (example, other_term). ``by_head``, those
        of heads by (example, layer, head), where they are divided so; NaN where a layer has fewer of them. ``total``, the sum
        of everything; ``logit_diff``, the model's own, before a soft cap; ``scale``, σ. Coordinates of a term: ``term_layer``
        and ``term_head`` (−1 for none) and ``term_kind``. "bias" is the last norm's bias and the unembedding's; "L3.rest" what
        layer 3 does to the stream otherwise, where something is given there, or where its parts are not known.

    Raises:
        InputError: the model's logits are no sum of contributions (the reason is told), or logits are given.
        AnswerError: no answer, no token, or an answer and a wrong one that begin with the same token.
        PositionError: ``position`` is not one token.
        UnknownNameError, HeadOutOfRangeError, UnknownSiteError: ``by``, ``layers``, or a model that cannot be divided so.

    Warns:
        AnswerWarning: an answer of several tokens, or one without the space with which the model would say it.
    """
    if by not in BY:
        raise UnknownNameError("by", by, BY)
    decoder = Decoder.of(model)
    chosen = some_layers(model, layers)
    with float32():
        told = Told.of(model, prompts, answer, wrong, bos=bos)
        if told is None:
            raise AnswerError(
                "prompt 0 has no answer; one is attributed: pass answer=, a text as it follows the prompt, such as ' Paris', "
                "or a token id"
            )
        asked = answered(model, prompts, told.pairs, position=position, given=given, bos=bos)
    with torch.no_grad(), float32(), model.prepared(asked.changed):
        decoded = Decoded.of(asked, decoder, by, chosen)
        directions, bias = decoder.directions(asked.right, asked.wrong)
        divided = _divided(decoded.parts(directions), by, chosen)
        divided.whole.append(Value(Term("bias", "bias"), bias))
        logits = decoded.logits
        compared = logits.mean(-1) if asked.wrong is None else _of(logits, asked.wrong)
        own = _of(logits, asked.right) - compared
    told.warn_of_spaces(logits[told.examples])
    return _labelled(asked, divided, own, decoded.scale, by)


def _of(logits: Float[Tensor, "example vocab"], ids: Int[Tensor, " example"]) -> Float[Tensor, " example"]:
    return logits.gather(-1, ids.to(logits.device)[:, None])[:, 0]


# the parts


class _Divided(NamedTuple):
    """Parts that are divided along a further axis, if there is one, and those that are not."""

    whole: list[Value]
    split: list[tuple[Term, Float[Tensor, "example part"]]]


def _divided(parts: Additive, by: str, layers: Sequence[int]) -> _Divided:
    model, found = parts.model, _Divided(parts.entering(), [])
    for layer in parts.layers:
        if by == "layer":
            found.whole.append(parts.layer(layer))
            continue
        for term, value in parts.components(layer):
            of_heads = term.kind == "attention" and by in ("head", "source") and layer in layers
            of_units = term.kind == "mlp" and by == "neuron" and layer in layers
            split = None
            if of_heads:
                split = parts.heads(layer) if by == "head" else parts.sources(layer)
            elif of_units:
                split = parts.units(layer)
            if split is None:
                found.whole.append(Value(term, value))
                continue
            if of_units:
                found.split.append((term, split.parts))
            else:
                heads = [Term(f"L{layer}H{i}", "head", layer, i) for i in range(split.parts.shape[1])]
                if by == "head":
                    found.whole.extend(Value(head, split.parts[:, i]) for i, head in enumerate(heads))
                else:
                    found.split.extend((head, split.parts[:, i]) for i, head in enumerate(heads))
            found.whole.extend(split.rest)
    if by in ("neuron", "source") and not found.split:
        name = "mlp_post" if by == "neuron" else "pattern"
        why = model.anatomy.absent.get(name, f"what is known of it does not add up in the layers {list(layers)}")
        raise UnknownSiteError("division", by, [b for b in BY if b != by], why=f"{model.name} cannot be divided so: {why}")
    return found


# the result


def _labelled(
    asked: Answered, divided: _Divided, own: Float[Tensor, " example"], scale: Float[Tensor, " example"], by: str
) -> xr.Dataset:
    whole = torch.stack([value for _, value in divided.whole], dim=-1)
    total = whole.sum(-1) + sum((part.sum(-1) for _, part in divided.split), torch.zeros_like(own))
    axis = {"neuron": axes.UNIT, "source": axes.SOURCE_POSITION}.get(by)
    terms, others = [term for term, _ in divided.whole], []
    data: dict[str, Any] = {}
    coords = asked.coords()
    if axis is None:
        data["contribution"] = ((axes.EXAMPLE, "term"), asked.numbers(whole))
    else:
        others, terms = terms, [term for term, _ in divided.split]
        parts = [part for _, part in divided.split]
        if axis == axes.SOURCE_POSITION:
            parts = [_aligned(asked.encoded.clean, part) for part in parts]
            coords |= _source_tokens(asked.encoded.clean)
        width = max(part.shape[-1] for part in parts)
        padded = [torch.nn.functional.pad(part, (0, width - part.shape[-1]), value=float("nan")) for part in parts]
        stacked = rearrange(padded, "term example part -> example term part")
        data["contribution"] = ((axes.EXAMPLE, "term", axis), asked.numbers(stacked))
        data["other"] = ((axes.EXAMPLE, "other_term"), asked.numbers(whole))
        coords[axis] = np.arange(width)
    for name, value in (("total", total), ("logit_diff", own), ("scale", scale)):
        data[name] = ((axes.EXAMPLE,), asked.numbers(value))
    if any(term.head is not None for term in terms):
        data["by_head"], heads = _by_head(terms, *data["contribution"])
        coords |= heads
    coords |= _described("term", "term_", terms) | (_described("other_term", "other_", others) if others else {})
    coords |= _answers(asked)
    attrs = asked.attrs() | {
        "method": "direct logit attribution",
        "by": by,
        "position": repr(asked.where),
        "held": "the scale of the last norm, at each example's own value, and of norms behind attention and MLP",
        "wrong": "one token" if asked.wrong is not None else "the mean over the vocabulary",
        "units": "logits",
        "softcap": asked.model.stack.softcap if asked.model.stack is not None else None,
        "logit_diff": "of the model's own logits, before a soft cap",
        "deviation": float((total - own).abs().max()),
    }
    found = xr.Dataset(data, coords, attrs)
    return asked.signed(found, {"by_head": "contribution to the logit difference"}) if "by_head" in found else found


def _by_head(
    terms: Sequence[Term], dims: tuple[str, ...], numbers: np.ndarray[Any, Any]
) -> tuple[tuple[tuple[str, ...], np.ndarray[Any, Any]], dict[str, Any]]:
    """The terms that are heads with two axes in place of one: the variable, and the coordinates of these."""
    heads = [(i, t.layer, t.head) for i, t in enumerate(terms) if t.layer is not None and t.head is not None]
    layers = sorted({layer for _, layer, _ in heads})
    found = np.full((len(numbers), len(layers), 1 + max(head for *_, head in heads), *numbers.shape[2:]), np.nan, numbers.dtype)
    for i, layer, head in heads:
        found[:, layers.index(layer), head] = numbers[:, i]
    where = (dims[0], axes.LAYER, axes.HEAD, *dims[2:])
    return (where, found), {axes.LAYER: layers, axes.HEAD: np.arange(found.shape[2])}


def _described(dim: str, prefix: str, terms: Sequence[Term]) -> dict[str, Any]:
    return {
        dim: [term.name for term in terms],
        f"{prefix}kind": (dim, [term.kind for term in terms]),
        f"{prefix}layer": (dim, [-1 if term.layer is None else term.layer for term in terms]),
        f"{prefix}head": (dim, [-1 if term.head is None else term.head for term in terms]),
    }


def _aligned(tokens: Tokens, part: Float[Tensor, "example column"]) -> Float[Tensor, "example source_position"]:
    """Counted from each prompt's first token, NaN behind its end."""
    columns = tokens.columns(Positions())[:, : int(tokens.lengths.max())].to(part.device)
    return torch.where(columns >= 0, part.gather(-1, columns.clamp(min=0)), float("nan"))


def _source_tokens(tokens: Tokens) -> dict[str, Any]:
    longest = int(tokens.lengths.max())
    words = [[*row, *[""] * (longest - len(row))] for row in tokens.strings]
    roles = tokens.roles_at(range(longest))
    told: dict[str, Any] = {"source_role": (axes.SOURCE_POSITION, roles)} if any(roles) else {}
    return told | ({"source_token": ((axes.EXAMPLE, axes.SOURCE_POSITION), words)} if words else {})


def _answers(asked: Answered) -> dict[str, Any]:
    words = asked.model.tokenizer

    def said(ids: Int[Tensor, " example"]) -> list[str]:
        return [str(i) if words is None else words.decode([i]) for i in ids.tolist()]

    found = {"answer": (axes.EXAMPLE, said(asked.right))}
    return found if asked.wrong is None else found | {"wrong": (axes.EXAMPLE, said(asked.wrong))}
