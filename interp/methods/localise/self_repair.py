"""Self-repair: what a component does directly, what is lost without it, and what makes up for the difference.

    >>> heads = interp.grid("z", layer=..., head=..., position=[-1])                                      # doctest: +SKIP
    >>> found = interp.self_repair(model, pairs, heads, "mean")                                           # doctest: +SKIP
    >>> found[["total", "direct", "norm", "heads", "mlps"]].sel(metric="logit_diff").mean("example")     # doctest: +SKIP
    >>> interp.views.heatmap(found, "compensation")                                                        # doctest: +SKIP

McGrath et al., "The Hydra Effect" (arXiv 2307.15771); Rushing and Nanda, "Explorations of Self-Repair in Language Models"
(arXiv 2402.15390). With D the difference of two logits, σ the last norm's scale, and d(p) what a part p of the stream adds to
D·σ:

1. Ablate a component. Total effect: D′ − D.
2. Direct effect: (d′(c) − d(c)) / σ, what is missing of its own contribution with the last norm as it was.
3. Compensation = total − direct, which is a sum, exactly:
   heads and MLPs: Σ (d′(p) − d(p)) / σ over the other parts, which answer to the ablation;
   norm: Σ d′(p) · (1/σ′ − 1/σ), the last norm dividing by less (or more) than before;
   rest: what is neither, such as a norm behind attention in some architectures; 0 elsewhere.

A negative direct effect with a positive compensation is repair. Parts of a block behind a norm of their own (Gemma-2) are taken
at the scale that this norm has in each run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from interp import axes, effects
from interp.engine import provenance
from interp.engine.additive import Term
from interp.engine.background import Given
from interp.engine.families import Where, named
from interp.engine.precision import float32
from interp.engine.single.answered import Answered, answered
from interp.engine.single.decoded import Decoded
from interp.errors import InputError, UnknownNameError, UnknownSiteError
from interp.interventions import Activation, Constant, Intervention, Source
from interp.interventions.source import SPAN
from interp.methods.registry import Method
from interp.models import Model
from interp.models.decoding import Decoder
from interp.sites import PositionsLike

METHOD = Method(
    id="self_repair",
    name="self-repair",
    paper="McGrath et al. 2023, The Hydra Effect: Emergent Self-repair in Language Model Computations, arXiv 2307.15771; "
    "Rushing & Nanda 2024, Explorations of Self-Repair in Language Models, arXiv 2402.15390",
    mediator="heads, attention and MLPs",
    search="exhaustive",
    cost="a forward pass, and for every component what of one comes after it",
    function="interp.self_repair",
)
Kind = Literal["zero", "mean", "resample", "counterfactual"]
PARTS = ("heads", "mlps", "norm", "rest")
"""What the compensation is divided into."""
_QUANTITIES = {
    "total": "total effect of the ablation",
    "direct": "direct effect of the ablation",
    "compensation": "compensation (total − direct)",
    "heads": "compensation by heads",
    "mlps": "compensation by MLPs",
    "norm": "compensation by the last norm",
    "rest": "compensation by the rest",
}
"""What they are called in figures."""
_KINDS = {"head": "heads", "attention": "heads", "cross-attention": "heads", "mlp": "mlps", "mixer": "mlps"}
_OWN = {"z": "head", "result": "head", "attn_out": "attention", "mlp_out": "mlp", "mixer_out": "mixer"}
"""Sites that are ablated, and the terms that are their own."""


def self_repair(
    model: Model,
    pairs: Any,
    where: Where,
    kind: Kind = "mean",
    *,
    position: PositionsLike = -1,
    given: Given = None,
    seed: int = 0,
    progress: bool | None = None,
) -> xr.Dataset:
    """Ablate every component on the clean prompts and divide what that does to the logit difference.

    Args:
        model: whose logits are a linear map of a normed stream.
        pairs: with one answer of one token each, and a wrong one or none (then the mean over the vocabulary).
        where: heads (``z``, ``result``), ``attn_out``, ``mlp_out`` or ``mixer_out``: a grid, or interventions, of which sites
            and positions alone count.
        kind: what takes the component's place: zero, its mean over examples and over the tokens that are changed, its value in
            another example, or in the other prompt of the pair.
        position: at which logits are read.
        given: interventions in force on the base; effects are counted from there.
        seed: of resampling.
        progress: show a bar; by default after the first second.

    Returns:
        Effects of the ablation in the metric ``"logit_diff"``, before a soft cap, and beside ``value`` the variables ``total``,
        ``direct``, ``compensation`` and its terms ``heads``, ``mlps``, ``norm`` and ``rest``, by (metric, axes, example).

    Raises:
        UnknownNameError: another kind.
        UnknownSiteError: a component that has no contribution of its own, such as a residual stream.
        InputError: the logits are no sum of contributions; several families; ``"counterfactual"`` of prompts that have none.
        AnswerError, PositionError: as of :func:`interp.dla`.
    """
    if kind not in get_args(Kind):
        raise UnknownNameError("kind", kind, get_args(Kind))
    if isinstance(where, Mapping):
        raise InputError(f"where holds several families ({', '.join(where)}); self-repair takes one of them")
    decoder = Decoder.of(model)
    layers = range(model.sizes[axes.LAYER])
    with float32():
        asked = answered(model, pairs, position=position, given=given)
    if kind == "counterfactual" and not asked.paired:
        raise InputError("kind='counterfactual' takes the other prompt's values, but these are no pairs")
    change = {"source": _source(kind, seed), "edit": None, "featurizer": None, "keep_error": True}
    [family] = named(model, asked.encoded, where, change).values()
    for intervention in family.interventions:
        _own(intervention)
    sites = {site for intervention in family.interventions for site in intervention.sites}
    shown: dict[str, Any] = {"disable": progress is False, "delay": 0 if progress else 1}
    with torch.no_grad(), float32(), model.prepared({*asked.changed, *sites}):
        base = _Divided.of(asked, decoder, layers)
        runs = asked.under(family.interventions, Decoded.sites(model, "head", layers))
        bar = tqdm(runs, total=len(family.interventions), unit="component", leave=False, **shown)
        ablated = (_Divided.of(run, decoder, layers, base) for run in bar)
        found = [_compared(base, run, _own(one)) for run, one in zip(ablated, family.interventions, strict=True)]
        other = asked.runs.logits("corrupted")[:, 0].double() if asked.paired else None
    whole = {name: _spread(torch.stack([one[name] for one in found]), family.exists, family.axes) for name in found[0]}
    clean = asked.numbers(base.logit)
    corrupt = clean if other is None else asked.numbers(_difference(asked, other, decoder))
    result = effects.assemble(
        _as(asked, whole.pop("value"))[None],
        clean[None],
        corrupt[None],
        axes=family.axes,
        metrics=["logit_diff"],
        absent=None if family.exists.all() else ~family.exists.reshape([len(v) for v in family.axes.values()]),
        coords=provenance.example_coordinates(asked.encoded) | family.coords,
        attrs=_attrs(asked, family.attrs, kind, seed),
    )
    dims, of = result["value"].dims, {key: result.attrs.get(key) for key in ("model", "task", "given")}
    return result.assign(
        {
            name: (dims, _as(asked, numbers)[None], {"quantity": _QUANTITIES[name], "units": "logits"} | of)
            for name, numbers in whole.items()
        }
    )


class _Divided:
    """A run's logit difference as a sum of parts, at its own scale and at the base's.

    Args:
        scale: σ at which parts are taken; the run's own where left out.
    """

    def __init__(self, run: Decoded, asked: Answered, scale: Float[Tensor, " example"] | None) -> None:
        directions, bias = run.decoder.directions(asked.right, asked.wrong)
        self.scale = run.scale
        parts = run.parts(directions, scale)
        self.terms: dict[Term, Float[Tensor, " example"]] = {}
        for layer in parts.layers:
            for term, value in parts.components(layer):
                split = parts.heads(layer) if term.kind == "attention" else None
                if split is None:
                    self.terms[term] = value
                    continue
                for head in range(split.parts.shape[-1]):
                    self.terms[Term(f"L{layer}H{head}", "head", layer, head)] = split.parts[..., head]
                self.terms |= {own.term: own.value for own in split.rest}
        along = (directions * run.final.double()).sum(-1)
        self.logit = along / run.scale + bias
        self.held = self.logit if scale is None else along / scale + bias

    @classmethod
    def of(cls, asked: Answered, decoder: Decoder, layers: Sequence[int], base: _Divided | None = None) -> _Divided:
        return cls(Decoded.of(asked, decoder, "head", layers), asked, None if base is None else base.scale)


def _compared(base: _Divided, ablated: _Divided, own: Sequence[Term]) -> dict[str, Float[Tensor, " example"]]:
    """The effects of one ablation, and what they are made of."""
    zero = torch.zeros_like(base.logit)
    found = {name: zero.clone() for name in ("direct", *PARTS)}
    for term in base.terms.keys() | ablated.terms.keys():
        moved = ablated.terms.get(term, zero) - base.terms.get(term, zero)
        found["direct" if _among(term, own) else _KINDS.get(term.kind, "rest")] += moved
    total = ablated.logit - base.logit
    found["norm"] = ablated.logit - ablated.held
    found["rest"] += ablated.held - base.logit - sum(found[name] for name in ("direct", "heads", "mlps", "rest"))
    return {"value": ablated.logit, "total": total, "compensation": total - found["direct"], **found}


def _own(intervention: Intervention) -> list[Term]:
    """The terms that a component's own contribution is in; a head or layer left out means all of them."""
    found = []
    for change in intervention.changes:
        site = change.site
        if site.name not in _OWN or site.path is not None:
            why = "it is no part of the sum that the last stream is"
            raise UnknownSiteError("component", repr(site), ["L3H0.z", "L3.attn_out", "L3.mlp_out"], why=why)
        found.append(Term("", _OWN[site.name], site.layer, site.head))
    return found


def _among(term: Term, own: Sequence[Term]) -> bool:
    """Whether a term is one of a component's own: attention's are those of all its heads, and the other way round."""
    alike = {"head": ("head", "attention"), "attention": ("head", "attention")}
    return any(
        term.layer == one.layer
        and term.kind in alike.get(one.kind, (one.kind,))
        and (one.head is None or term.head is None or one.head == term.head)
        for one in own
    )


def _source(kind: str, seed: int) -> Source:
    if kind == "zero":
        return Constant(0.0)
    if kind == "mean":
        return Activation("base", pool="mean", over=(axes.EXAMPLE, SPAN))
    return Activation("base", pool="resample", seed=seed) if kind == "resample" else Activation("source")


def _difference(asked: Answered, logits: Float[Tensor, "example vocab"], decoder: Decoder) -> Float[Tensor, " example"]:
    """The logit difference of other prompts, before a soft cap."""
    uncapped = logits if decoder.softcap is None else decoder.softcap * torch.atanh(logits / decoder.softcap)
    right = uncapped.gather(-1, asked.right[:, None])[:, 0]
    wrong = asked.wrong
    return right - (uncapped.mean(-1) if wrong is None else uncapped.gather(-1, wrong[:, None])[:, 0])


def _as(asked: Answered, numbers: Float[Tensor, "*axes"]) -> np.ndarray[Any, Any]:
    return asked.numbers(numbers)


def _spread(values: Tensor, exists: np.ndarray[Any, Any], laid: Mapping[str, Sequence[Any]]) -> Tensor:
    """``[existing cell, example]`` laid out over the axes; NaN where a component does not exist."""
    full = values.new_full((exists.size, values.shape[-1]), torch.nan)
    full[torch.from_numpy(exists.ravel())] = values
    return full.reshape(*(len(v) for v in laid.values()), values.shape[-1])


def _attrs(asked: Answered, family: Mapping[str, Any], kind: str, seed: int) -> dict[str, Any]:
    source = {
        "zero": "zero",
        "mean": "mean over example+span",
        "resample": "another example",
        "counterfactual": "corrupted run",
    }
    ablation = {"kind": kind} | ({"seed": seed} if kind == "resample" else {})
    return (
        asked.attrs()
        | dict(family)
        | {
            "method": "self_repair",
            "ablation": ablation,
            "patching": "noising",
            "source": source[kind],
            "edit": "Replace()",
            "strategy": "batched",
            "noise_floor": {"logit_diff": 0.0},
            "engine_semantics": provenance.ENGINE_SEMANTICS,
            "spec": None,
            "position": repr(asked.where),
            "paired": asked.paired,
            "dtype": str(asked.model.dtype).removeprefix("torch."),
        }
    )
