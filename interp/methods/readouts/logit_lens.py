"""The logit lens: what the residual stream of every layer would say if it were the last.

    >>> ds = interp.lens(model, "The Eiffel Tower is in the city of", " Paris")                 # doctest: +SKIP
    >>> ds.token.sel(layer=20, position=-1 + ds.sizes["position"], rank=1).item()            # doctest: +SKIP
    >>> interp.views.lens(ds)                                                               # doctest: +SKIP

nostalgebraist 2020, "interpreting GPT: the logit lens": a state z is decoded as W_U · norm_f(z), with the norm of its own
scale, and with multipliers and soft cap: by the model's own forward from its last block on. With ``translators`` it is the
tuned lens (Belrose et al. 2023, "Eliciting Latent Predictions from Transformers with the Tuned Lens", arXiv 2303.08112):
z ← A z + b first, A being the whole map and not what is added to the identity.

Logits are made for a few layers and positions at a time; what is kept of them are the highest and five numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from interp import axes
from interp.engine.precision import float32
from interp.engine.single.asked import Asked, ask
from interp.engine.single.chosen import Chosen
from interp.engine.single.filled import filled
from interp.engine.single.told import Told, Words
from interp.engine.single.variables import variables
from interp.errors import HeadOutOfRangeError, InputError, ShapeMismatchError, UnknownSiteError
from interp.methods.registry import Method
from interp.models import Bos, Model
from interp.models.stack import Stack
from interp.sites import MAIN, Site

METHODS = (
    Method(
        id="logit_lens",
        name="logit lens",
        paper="nostalgebraist 2020, interpreting GPT: the logit lens, https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru",
        mediator="the residual stream, by layer and position",
        search="reading",
        cost="one forward pass, and an unembedding for every layer",
        function="interp.lens",
    ),
    Method(
        id="tuned_lens",
        name="tuned lens, of translators that are given",
        paper="Belrose et al. 2023, Eliciting Latent Predictions from Transformers with the Tuned Lens, arXiv 2303.08112",
        mediator="the residual stream, by layer and position",
        search="reading",
        cost="one forward pass, and an unembedding for every layer",
        function="interp.lens",
    ),
)

RANK = "rank"
EMBED = -1
"""The number of the stream that enters block 0, as a layer."""
_LOGITS = 1 << 24
"""Logits that are made at once."""

Translators = Mapping[int, tuple[Any, Any]]
"""By layer a matrix ``[d_model, d_model]`` and a bias ``[d_model]``: z ← A z + b before the norm."""


def lens(
    model: Model,
    prompts: Any,
    answer: Words = None,
    *,
    top: int = 5,
    layers: int | Iterable[int] | None = None,
    sites: str | Site = "resid_post",
    given: Any = None,
    position: Any = None,
    translators: Translators | None = None,
    bos: Bos | None = None,
    side: str = "clean",
) -> xr.Dataset:
    """Decode the stream of every layer at every position by the model's own last norm and unembedding.

    Args:
        prompts: as in :func:`interp.cache`.
        answer: whose logit, probability and rank are kept too: a text as it follows the prompt (``" Paris"``), or a token id
            (an int, or a tensor or array of such); one for all prompts or one for each. Of pairs by default their answers (the
            first, where there are several). Of several tokens the first is read.
        top: how many of the most probable tokens are kept.
        layers: one or several, −1 being what enters block 0; None for all.
        sites: what is decoded: a component of the stream's width in every layer that has it.
        given: interventions in force, as in :func:`interp.patch`.
        position: at which positions, as in :func:`interp.cache`; by default all.
        translators: of a tuned lens, by layer (−1 is what enters block 0); layers without one are decoded as they are.
        bos: how texts begin; by default as the model was loaded.
        side: of pairs, which prompts are run; :func:`interp.run` runs the corrupted ones by default.

    Returns:
        By (example, layer, position, rank), the most probable first and rank 1: ``token_id``, ``token``, ``prob``, ``logit``.
        By (example, layer, position): ``entropy`` of the lens, ``kl`` = KL(final ‖ lens), both in nats, and ``final_rank``,
        the rank in the lens of the final distribution's most probable token. With an answer: ``answer_logit``,
        ``answer_prob``, ``answer_rank``. A rank is 1 + the number of tokens with a greater logit. ``layer`` is the block's
        number, −1 what enters block 0; ``depth`` names it ("embed", "L0", …). Behind a prompt's end are NaN, −1 and "".

    Raises:
        InputError: the model's blocks do not stand one on the other (the reason is told), or something is given behind the last
            block.
        UnknownSiteError: ``sites`` is no component of the stream's width.
        HeadOutOfRangeError: a layer that does not have it.
        AnswerError: answers that are no tokens, or not one for each prompt.
        ShapeMismatchError: translators that do not fit the stream.

    Warns:
        AnswerWarning: an answer of several tokens, or one without the space with which the model would say it.
    """
    if model.stack is None:
        raise InputError(
            f"lens decodes by what {model.name} does after its last block, which is unknown: {model.stack_refused}"
        )
    component = _component(model, sites)
    if not isinstance(top, int) or top < 1:
        raise ValueError(f"top={top!r}; expected how many tokens to keep, 1 at least")
    told = Told.of(model, prompts, answer, bos=bos, compared=False)
    asked = ask(model, prompts, given=given, bos=bos, side=side, answered=None if told is None else told.pairs)
    _refuse_behind(asked)
    wanted = asked.encoded.answers[:, 0] if told is not None and _answered(asked) else None
    chosen = Chosen.of(asked.tokens, position)
    numbers = _layers(model, component, layers)
    hidden, last = _hidden(asked, component, position, numbers)
    maps = _translated(model, translators or {}, numbers)
    rows = (chosen.at >= 0).nonzero()
    found = _Found.empty(
        len(asked.tokens), len(numbers), len(chosen.names), min(top, model.anatomy.outputs or top), wanted is not None
    )
    with float32(), torch.no_grad(), model.prepared():
        for some in rows.split(max(1, _LOGITS // max(1, model.anatomy.outputs or 1))):
            _read(model.stack, some, hidden, last, maps, wanted, found)
        if told is not None and told.examples:
            ends = torch.from_numpy(last)[told.examples, chosen.at[told.examples].argmax(-1)].to(asked.tokens.mask.device)
            told.warn_of_spaces(model.stack.logits(ends[:, None].to(model.dtype))[:, 0])
        attrs = asked.attrs() | {"site": component.name, "translators": sorted(translators or {}), "method": "logit lens"}
    ds = _labelled(asked, numbers, chosen, found, wanted).assign_attrs(attrs)
    for array in ds.data_vars.values():  # what is taken out alone says where it is from
        array.attrs |= {key: attrs[key] for key in ("model", "task", "given", "site")}
    return ds


def _component(model: Model, sites: str | Site) -> Site:
    """What is decoded in every layer."""
    site = Site.parse(sites) if isinstance(sites, str | Site) else sites
    if not isinstance(site, Site) or site.path or site.layer is not None or not site.component.per_layer or site.stream != MAIN:
        raise UnknownSiteError("component to decode", sites, ("resid_post", "resid_mid", "attn_out", "mlp_out"))
    if site.axes != (axes.EXAMPLE, axes.POSITION, "d_model"):
        why = f"its axes are {', '.join(site.axes)}, and the unembedding reads the stream"
        raise UnknownSiteError("component to decode", sites, ("resid_post", "resid_mid", "attn_out", "mlp_out"), why=why)
    model.check(site)
    return site


def _refuse_behind(asked: Asked) -> None:
    """What is changed behind the last block would be missing in every layer's logits."""
    for change in asked.given.changes if asked.given is not None else ():
        if asked.model.anatomy.layer_of(change.site) is None:
            raise InputError(
                f"given: {change!r} acts behind the last block or beside them, where the lens does not run the model"
            )


def _answered(asked: Asked) -> bool:
    return asked.encoded.answers.shape[1] > 0 and bool((asked.encoded.answers[:, 0] >= 0).all())


def _layers(model: Model, component: Site, layers: int | Iterable[int] | None) -> list[int]:
    """The layers that are decoded; −1, what enters block 0, is one of the stream's own."""
    there = [EMBED] if component.name == "resid_post" else []
    there += [site.layer for site in model.each(component) if site.layer is not None]
    if layers is None:
        return there
    asked = list(layers) if isinstance(layers, Iterable) else [layers]
    if not asked:
        raise ValueError("layers is empty; None is all of them")
    for layer in asked:
        if layer not in there:
            raise HeadOutOfRangeError(
                f"layer {layer!r} of {component.name!r} is not decoded: {model.name} has {there[0]} to {there[-1]}"
                + (", −1 being what enters block 0" if there[0] == EMBED else "")
            )
    return sorted({int(layer) for layer in asked})


def _hidden(
    asked: Asked, component: Site, position: Any, layers: Sequence[int]
) -> tuple[list[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """What is decoded in each layer, and what leaves the last block: ``[example, position, d_model]``."""
    last = Site("resid_post", layer=asked.model.sizes[axes.LAYER] - 1)
    at = {layer: Site("resid_pre", layer=0) if layer == EMBED else component.at(layer=layer) for layer in layers}
    found = {
        site: array.whole[:, i]
        for array in filled(asked, variables(asked.model, [*at.values(), last]), position)
        for i, site in enumerate(array.variable.sites)
    }
    return [found[at[layer]] for layer in layers], found[last]


def _translated(model: Model, translators: Translators, layers: Sequence[int]) -> dict[int, tuple[Tensor, Tensor]]:
    """Translators by the place of their layer, on the model's device."""
    found = {}
    width = model.sizes["d_model"]
    for layer, (matrix, bias) in translators.items():
        if layer not in layers:
            raise InputError(f"translators name layer {layer}; the layers that are decoded are {', '.join(map(str, layers))}")
        a, b = (torch.as_tensor(part, dtype=torch.promote_types(model.dtype, torch.float32)) for part in (matrix, bias))
        if a.shape != (width, width) or b.shape != (width,):
            raise ShapeMismatchError(
                f"the translator of layer {layer} has shapes {tuple(a.shape)} and {tuple(b.shape)}; the stream of {model.name} "
                f"needs {(width, width)} and {(width,)}"
            )
        found[layers.index(layer)] = (a.detach().to(model.device), b.detach().to(model.device))
    return found


@dataclass(frozen=True, eq=False)
class _Found:
    """What is kept: ``[example, layer, position]``, and with the highest tokens along a last axis."""

    ids: np.ndarray[Any, Any]
    numbers: dict[str, np.ndarray[Any, Any]]

    @classmethod
    def empty(cls, examples: int, layers: int, positions: int, top: int, answers: bool) -> _Found:
        shape = (examples, layers, positions)
        names = ["entropy", "kl", "final_rank", *(["answer_logit", "answer_prob", "answer_rank"] if answers else [])]
        numbers = {name: np.full(shape, np.nan, np.float32) for name in names}
        numbers |= {name: np.full((*shape, top), np.nan, np.float32) for name in ("logit", "prob")}
        return cls(np.full((*shape, top), -1, np.int64), numbers)

    def put(self, layer: int, rows: Int[Tensor, "row 2"], ids: Tensor, numbers: Mapping[str, Tensor]) -> None:
        example, slot = rows.T.numpy()
        self.ids[example, layer, slot] = ids.cpu().numpy()
        for name, found in numbers.items():
            self.numbers[name][example, layer, slot] = found.cpu().numpy()


def _read(
    stack: Stack,
    rows: Int[Tensor, "row 2"],
    hidden: Sequence[np.ndarray[Any, Any]],
    last: np.ndarray[Any, Any],
    maps: Mapping[int, tuple[Tensor, Tensor]],
    wanted: Int[Tensor, " example"] | None,
    found: _Found,
) -> None:
    """Some positions in every layer; a product with the unembedding serves as many layers as fit."""
    example, slot = rows.T.numpy()
    parameter = next(stack.module.parameters())

    def decoded(states: list[np.ndarray[Any, Any]], numbers: Sequence[int]) -> Float[Tensor, "layer row vocab"]:
        z = [torch.from_numpy(state[example, slot]).to(parameter.device) for state in states]
        z = [one.to(maps[n][0]) @ maps[n][0].mT + maps[n][1] if n in maps else one for n, one in zip(numbers, z, strict=True)]
        flat = torch.cat(z)[:, None].to(parameter.dtype)
        logits = stack.logits(flat)[:, 0].unflatten(0, (len(states), len(rows)))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    final = decoded([last], [-1])[0]
    logp = final.log_softmax(-1)
    share, best = logp.exp(), final.argmax(-1)
    negentropy = (share * logp).sum(-1)
    del logp
    goal = None if wanted is None else wanted[rows[:, 0].to(wanted.device)]
    scratch = torch.empty_like(final)
    step = max(1, _LOGITS // max(1, final.numel()))
    for start in range(0, len(hidden), step):
        numbers = range(start, min(start + step, len(hidden)))
        for layer, logits in zip(numbers, decoded([hidden[n] for n in numbers], numbers), strict=True):
            ids, kept = _kept(logits, share, negentropy, best, goal, found.ids.shape[-1], scratch)
            found.put(layer, rows, ids, kept)


def _kept(
    logits: Float[Tensor, "row vocab"],
    share: Float[Tensor, "row vocab"],
    negentropy: Float[Tensor, " row"],
    best: Int[Tensor, " row"],
    goal: Int[Tensor, " row"] | None,
    top: int,
    scratch: Float[Tensor, "row vocab"],
) -> tuple[Int[Tensor, "row rank"], dict[str, Tensor]]:
    """The highest tokens and the numbers about all of them; ``logits`` and ``scratch`` are written over.

    With c = logit − highest and Z = Σ eᶜ: entropy = log Z − Σ c eᶜ / Z, and KL(final ‖ lens) = Σ p log p − Σ p c + log Z.
    """
    values, ids = logits.topk(top, dim=-1)
    highest = values[:, :1].clone()
    own = None if goal is None else logits.gather(-1, goal[:, None])
    logits.sub_(highest)
    z = torch.exp(logits, out=scratch).sum(-1)
    entropy = z.log() - torch.mul(scratch, logits, out=scratch).sum(-1) / z
    kl = negentropy - torch.mul(share, logits, out=scratch).sum(-1) + z.log()
    found = {
        "logit": values,
        "prob": (values - highest).exp() / z[:, None],
        "entropy": entropy,
        "kl": kl.clamp(min=0),  # rounding alone makes it negative
        "final_rank": _rank(logits, best, scratch),
    }
    if goal is not None and own is not None:
        found["answer_logit"] = own[:, 0]
        found["answer_prob"] = (own - highest)[:, 0].exp() / z
        found["answer_rank"] = _rank(logits, goal, scratch)
    return ids, found


def _rank(logits: Float[Tensor, "row vocab"], token: Int[Tensor, " row"], scratch: Tensor) -> Float[Tensor, " row"]:
    return 1 + torch.gt(logits, logits.gather(-1, token[:, None]), out=scratch).sum(-1)


def _labelled(
    asked: Asked, layers: Sequence[int], chosen: Chosen, found: _Found, wanted: Int[Tensor, " example"] | None
) -> xr.Dataset:
    three = (axes.EXAMPLE, axes.LAYER, axes.POSITION)
    words = _words(asked.model, found.ids)
    data: dict[str, Any] = {"token_id": ((*three, RANK), found.ids), "token": ((*three, RANK), words)}
    for name, numbers in found.numbers.items():
        data[name] = ((*three, RANK) if numbers.ndim == 4 else three, numbers)
    coords: dict[str, Any] = {
        axes.EXAMPLE: np.arange(len(asked.tokens)),
        axes.LAYER: list(layers),
        "depth": (axes.LAYER, ["embed" if layer == EMBED else f"L{layer}" for layer in layers]),
        axes.POSITION: list(chosen.names),
        RANK: np.arange(1, found.ids.shape[-1] + 1),
        "prompt": (axes.EXAMPLE, asked.prompts),
    }
    tokens = chosen.tokens()
    if tokens is not None:
        coords["input_token"] = ((axes.EXAMPLE, axes.POSITION), tokens)
    if any(roles := chosen.roles(asked.tokens)):
        coords["role"] = (axes.POSITION, roles)
    if wanted is not None:
        coords["answer"] = (axes.EXAMPLE, _words(asked.model, wanted.cpu().numpy()))
    return xr.Dataset(data, coords)


def _words(model: Model, ids: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Tokens as text, "" for −1; numbers where there is no tokenizer."""
    different, where = np.unique(ids, return_inverse=True)
    said = [str(i) if model.tokenizer is None else model.tokenizer.decode([i]) for i in different.tolist() if i >= 0]
    table = np.array([*([""] * int((different < 0).sum())), *said], object)
    return table[where].reshape(ids.shape)
