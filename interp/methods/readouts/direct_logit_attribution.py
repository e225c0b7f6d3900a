"""Direct logit attribution: a logit difference as the exact sum of what embeddings, heads, MLPs, units or source tokens write.

    >>> found = dla(model, "The capital of France is", " Paris", " Rome")                    # doctest: +SKIP
    >>> found.contribution.sel(term="L9H6").item(), found.total.item(), found.logit_diff.item()     # doctest: +SKIP
    (0.61, 3.42, 3.42)
    >>> dla(model, pairs, by="neuron", layers=[20]).contribution.sel(term="m20")              # doctest: +SKIP

1. Run the prompts once; hold the scale σ of the last norm at each example's value.
2. Pull the difference of the two tokens' unembedding columns back through the norm: a direction u / σ of the stream.
3. The contribution of every additive part of the stream is its inner product with it: Σ contributions + bias = logit difference.

Elhage et al., "A Mathematical Framework for Transformer Circuits" (2021); Wang et al., "Interpretability in the Wild" (2022).
It is the direct path alone: what a head does by way of later layers is seen by patching (:func:`interp.patch`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from interp import axes
from interp.engine import provenance
from interp.engine.additive import Additive, Term, Value
from interp.engine.budget import Budget
from interp.engine.cells import check, fill, place
from interp.engine.edits import Edits
from interp.engine.families import given_changes
from interp.engine.precision import float32
from interp.engine.prepared import expanded
from interp.engine.readout import Reader
from interp.engine.runs import Runs
from interp.errors import AnswerError, HeadOutOfRangeError, InputError, PositionError, UnknownNameError, UnknownSiteError
from interp.interventions import Activation, Intervention
from interp.models import Bos, Encoded, Model, Tokens
from interp.models.decoding import FINAL, Decoder
from interp.models.encoding import as_prompt
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import Positions, PositionsLike, Site

By = Literal["layer", "component", "head", "neuron", "source"]
BY = ("layer", "component", "head", "neuron", "source")
Words = str | int | Sequence[str | int] | None
_BASE = Activation("base")


def dla(
    model: Model,
    prompts: Any,
    answer: Words = None,
    wrong: Words = None,
    *,
    by: By = "head",
    layers: int | Iterable[int] | None = None,
    position: PositionsLike = -1,
    given: Any = None,
    bos: Bos | None = None,
) -> xr.Dataset:
    """Divide the difference of two logits among the parts that write to the residual stream, with the last norm's scale held.

    Args:
        prompts: a text, token ids, a :class:`interp.Prompt`, a list of such, or pairs, whose clean prompts are run.
        answer: one token, a text as it follows the prompt or its id; one for all or one for each. By default the pairs' own.
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
        its end) where terms are divided by these; what is not is then in ``other`` by (example, other_term). ``total``, the
        sum of everything; ``logit_diff``, the model's own, before a soft cap; ``scale``, σ. Coordinates of a term: ``layer``
        and ``head`` (−1 for none) and ``kind``. "bias" is the last norm's bias and the unembedding's; "L3.rest" what layer 3
        does to the stream otherwise, where something is given there, or where its parts are not known.

    Raises:
        InputError: the model's logits are no sum of contributions (the reason is told), or logits are given.
        AnswerError: no answer, or one that is not one token. PositionError: ``position`` is not one token.
        UnknownNameError, HeadOutOfRangeError, UnknownSiteError: ``by``, ``layers``, or a model that cannot be divided so.
    """
    if by not in BY:
        raise UnknownNameError("by", by, BY)
    decoder = Decoder.of(model)
    chosen = _layers(model, layers)
    where = Positions.parse(position)
    asked = _asked(model, prompts, answer, wrong, given, where, bos)
    with torch.no_grad(), float32():
        run = _run(asked, [*Additive.sites(model, by, chosen), *([FINAL] if model.has(FINAL) else [])])
        final = run(Site("resid_post", layer=model.sizes[axes.LAYER] - 1))
        scale = run(FINAL).double() if model.has(FINAL) else decoder.scale(final).double()
        right, less = asked.encoded.answers[:, 0], asked.encoded.wrong[:, 0] if asked.encoded.wrong.shape[1] else None
        directions, bias = decoder.directions(right, less)
        parts = Additive(model, run, directions / scale[:, None])
        divided = _divided(parts, by, chosen)
        divided.whole.append(Value(Term("bias", "bias"), bias))
        logits = _logits(asked, decoder, final, scale)
        compared = logits.mean(-1) if less is None else logits.gather(-1, less[:, None])[:, 0]
        own = logits.gather(-1, right[:, None])[:, 0] - compared
    return _labelled(asked, divided, own, scale, by)


class _Asked(NamedTuple):
    model: Model
    encoded: Encoded
    runs: Runs
    columns: Int[Tensor, "example 1"]
    where: Positions
    given: Intervention | None


def _layers(model: Model, layers: int | Iterable[int] | None) -> list[int]:
    n = model.sizes[axes.LAYER]
    chosen = list(range(n)) if layers is None else [layers] if isinstance(layers, int) else sorted(set(layers))
    outside = [layer for layer in chosen if not 0 <= layer < n]
    if outside or not chosen:
        said = f"layer {outside[0]} does not exist" if outside else "layers is empty"
        raise HeadOutOfRangeError(f"layers={layers!r}: {said}; {model.name} has {n} layers, 0 to {n - 1}")
    return chosen


# the run


def _asked(model: Model, prompts: Any, answer: Words, wrong: Words, given: Any, where: Positions, bos: Bos | None) -> _Asked:
    """Prompts and answers as tensors, and what is in force put into the runs."""
    pairs, paired = _pairs(prompts)
    pairs = _answered(pairs, _each(answer, "answer", len(pairs)), _each(wrong, "wrong", len(pairs)))
    encoded: Encoded = model.encode(pairs, bos=bos)
    columns = encoded.clean.columns(where, what="position")
    if columns.shape[1] != 1 or bool((columns < 0).any()):
        many = (columns >= 0).sum(-1)
        example = int((many != 1).nonzero()[0]) if bool((many != 1).any()) else 0
        raise PositionError(
            f"position={where!r} names {int(many[example])} tokens in example {example}; logits are read at one, such as -1"
            + (f" or '{where.role}[-1]'" if where.role else "")
        )
    reader = Reader(model, encoded, (), where, whole=False, columns=None)
    runs = Runs(model, encoded, "clean", min(Budget(model, reader, encoded.clean.width).whole_rows(), 256), reader)
    changes = given_changes(given)
    if changes is not None:
        changes = expanded(changes, model)
        check([changes], model)
        _refuse(changes, paired)
        with torch.no_grad(), float32():
            cells = fill(place([changes], runs), runs)
        runs.given = lambda examples: Edits(cells, torch.stack([torch.zeros_like(examples), examples], dim=-1))
    return _Asked(model, encoded, runs, columns, where, changes)


def _pairs(prompts: Any) -> tuple[Pairs, bool]:
    """Prompts as pairs, those that come alone with themselves, and whether they came as pairs."""
    if isinstance(prompts, Pairs):
        return prompts, True
    many = [prompts] if isinstance(prompts, str | Prompt | Pair) else prompts
    if isinstance(many, Tensor | np.ndarray):
        many = many.tolist()
    if isinstance(many, Tokens | dict) or not isinstance(many, Sequence) or not many:
        raise InputError(
            f"prompts is {type(prompts).__name__}; expected a text, token ids, interp.Prompt, pairs or a list of such"
        )
    if all(isinstance(one, int) for one in many):
        many = [many]
    if all(isinstance(one, Pair) for one in many):
        return Pairs(tuple(many)), True
    if any(isinstance(one, Pair) for one in many):
        raise InputError("prompts holds pairs and prompts; give either")
    return Pairs(tuple(Pair(one, one) for one in map(as_prompt, many)), "prompts"), False


def _each(words: Words, name: str, n: int) -> list[str | int] | None:
    """One token for every prompt."""
    if words is None:
        return None
    many = [words] * n if isinstance(words, str | int) else list(words)
    if len(many) != n:
        raise AnswerError(f"{name} holds {len(many)} tokens for {n} prompts; give one for all of them, or one for each")
    return many


def _answered(pairs: Pairs, answers: list[str | int] | None, wrong: list[str | int] | None) -> Pairs:
    """The same prompts with one answer each, and one contrast or none; by default their own."""
    if not len(pairs):
        raise InputError("prompts holds no pair")
    own = answers is None
    items = []
    for i, pair in enumerate(pairs):
        said = {"answers": pair.answers if answers is None else (answers[i],)}
        said["wrong"] = (wrong[i],) if wrong is not None else pair.wrong if own else ()
        for name, words in said.items():
            if len(words) > 1 or (name == "answers" and not words):
                what = "no answer" if not words else f"{len(words)} {name}, {', '.join(map(repr, words))}"
                argument = "answer" if name == "answers" else "wrong"
                raise AnswerError(f"prompt {i} has {what}; one token is attributed: pass {argument}=")
        items.append(replace(pair, **said))
    if len({len(pair.wrong) for pair in items}) > 1:
        raise AnswerError("some pairs have a wrong answer and some have none; pass wrong=")
    return replace(pairs, items=tuple(items))


def _refuse(given: Intervention, paired: bool) -> None:
    for change in given.changes:
        if change.site.name == "logits":
            raise InputError(
                f"given: {change!r} changes the logits themselves, which is no part of what is written to the stream"
            )
        source = change.source
        if not paired and change.edit.reads_source and isinstance(source, Activation) and source.is_counterpart:
            raise InputError(
                f"given: {change!r} takes its values from the other prompt of a pair, but these are no pairs: pass "
                "interp.Pair(clean, corrupted), or say whose values they are, as in Activation('another text') or Constant(0.0)"
            )


class _Run:
    """Tensors of the one run, at the position of each example."""

    def __init__(self, asked: _Asked, wanted: dict[Site, Int[Tensor, "example 1"] | None]) -> None:
        self.asked, self.wanted = asked, wanted

    def __call__(self, site: Site) -> Tensor:
        columns = self.wanted[site]
        kept = self.asked.runs.read(_BASE, site, columns)
        if columns is None:
            return kept.tensor
        return kept.at(torch.arange(len(columns), device=columns.device), columns)[:, 0]


def _run(asked: _Asked, sites: Iterable[Site]) -> _Run:
    """Announce all that will be read, so that it comes from one run."""
    wanted = {site: None if site.name == "v" else asked.columns for site in sites}
    for site, columns in wanted.items():
        asked.runs.want(_BASE, site, columns)
    asked.runs.want_logits("base")
    return _Run(asked, wanted)


def _logits(
    asked: _Asked, decoder: Decoder, final: Float[Tensor, "example d_model"], scale: Float[Tensor, " example"]
) -> Float[Tensor, "example vocab"]:
    """The model's logits, before a soft cap, which is left out by running its unembedding alone."""
    if decoder.softcap is None:
        return asked.runs.logits("base")[:, 0].double()
    normed = final if decoder.norm is None or decoder.module is None else decoder.norm.apply(decoder.module, final, scale)
    return decoder.logits(normed)


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
    asked: _Asked, divided: _Divided, own: Float[Tensor, " example"], scale: Float[Tensor, " example"], by: str
) -> xr.Dataset:
    n = len(asked.encoded)
    whole = torch.stack([value for _, value in divided.whole], dim=-1)
    total = whole.sum(-1) + sum((part.sum(-1) for _, part in divided.split), torch.zeros_like(own))
    axis = {"neuron": axes.UNIT, "source": axes.SOURCE_POSITION}.get(by)
    terms, others = [term for term, _ in divided.whole], []
    data: dict[str, Any] = {}
    coords: dict[str, Any] = {axes.EXAMPLE: np.arange(n)}
    if axis is None:
        data["contribution"] = ((axes.EXAMPLE, "term"), _numbers(asked, whole))
    else:
        others, terms = terms, [term for term, _ in divided.split]
        parts = [part for _, part in divided.split]
        if axis == axes.SOURCE_POSITION:
            parts = [_aligned(asked.encoded.clean, part) for part in parts]
            coords |= _source_tokens(asked.encoded.clean)
        width = max(part.shape[-1] for part in parts)
        padded = [torch.nn.functional.pad(part, (0, width - part.shape[-1]), value=float("nan")) for part in parts]
        stacked = rearrange(padded, "term example part -> example term part")
        data["contribution"] = ((axes.EXAMPLE, "term", axis), _numbers(asked, stacked))
        data["other"] = ((axes.EXAMPLE, "other_term"), _numbers(asked, whole))
        coords[axis] = np.arange(width)
    for name, value in (("total", total), ("logit_diff", own), ("scale", scale)):
        data[name] = ((axes.EXAMPLE,), _numbers(asked, value))
    coords |= _described("term", "", terms) | (_described("other_term", "other_", others) if others else {})
    coords |= _prompts(asked)
    attrs = provenance.identity(asked.model, asked.encoded) | {
        "method": "direct logit attribution",
        "by": by,
        "position": repr(asked.where),
        "given": None if asked.given is None else repr(asked.given),
        "held": "the scale of the last norm, at each example's own value, and of norms behind attention and MLP",
        "wrong": "one token" if asked.encoded.wrong.shape[1] else "the mean over the vocabulary",
        "units": "logits",
        "softcap": asked.model.stack.softcap if asked.model.stack is not None else None,
        "logit_diff": "of the model's own logits, before a soft cap",
        "deviation": float((total - own).abs().max()),
        "device": str(asked.model.device),
        "versions": provenance.versions(),
    }
    return xr.Dataset(data, coords, attrs)


def _numbers(asked: _Asked, tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.to(torch.float64 if asked.model.dtype == torch.float64 else torch.float32).cpu().numpy()


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
    return {"source_token": ((axes.EXAMPLE, axes.SOURCE_POSITION), words)} if words else {}


def _prompts(asked: _Asked) -> dict[str, Any]:
    model, encoded = asked.model, asked.encoded

    def said(ids: Int[Tensor, "example token"]) -> list[str]:
        words = model.tokenizer
        return [str(i) if words is None else words.decode([i]) for i in ids[:, 0].tolist()]

    texts = [p.clean.text if isinstance(p.clean.text, str) else " ".join(map(str, p.clean.text)) for p in encoded.pairs]
    found = {"prompt": (axes.EXAMPLE, texts), "answer": (axes.EXAMPLE, said(encoded.answers))}
    return found | ({"wrong": (axes.EXAMPLE, said(encoded.wrong))} if encoded.wrong.shape[1] else {})
