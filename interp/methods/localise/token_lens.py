"""Token Lens: what attention brings to one position from each group of tokens, decoded to logits.

    >>> prompt = interp.Prompt("Three cities in France are Paris,", {"subject": "France", "earlier": "Paris"})
    >>> found = token_lens(model, prompt, tokens=[" Paris", " Lyon"])                        # doctest: +SKIP
    >>> found.by_group.sel(group="earlier", token=" Paris")                                # doctest: +SKIP
    >>> views.curve(found.by_group.sel(token=" Lyon"), x="layer")                          # doctest: +SKIP

1. Run the prompts once; hold the scale σ of the last norm at each example's value at the position.
2. The contribution of a group T of tokens at a layer: z_T = Σ_heads Σ_{t in T} A_t v_t W_O, and through the norm that follows
   attention, where there is one, at its held scale.
3. Decode: W_U (γ ⊙ z_T / σ), of a LayerNorm with z_T less its mean. Groups that are a partition sum to attention's output, with
   its bias counted once; embedding, attention and MLPs sum to the model's own logits before a soft cap.

Tianyi Lorena Yan and Robin Jia, "Promote, Suppress, Iterate: How Language Models Answer One-to-Many Factual Queries" (2025),
arXiv 2502.20475. An MLP reads one position alone, so that its output is decoded whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp import axes
from interp.engine.additive import Additive
from interp.engine.background import Given
from interp.engine.precision import float32
from interp.engine.single.at_one import AtOne, at_one
from interp.engine.single.decoded import Decoded, by_site, some_layers
from interp.engine.single.targets import TOKEN, Targets
from interp.errors import PositionError, UnknownNameError, UnknownSiteError
from interp.methods.registry import Method
from interp.models import Model
from interp.models.decoding import Decoder
from interp.models.encoding import Bos
from interp.sites import PositionsLike
from interp.sites.positions import grouped

METHOD = Method(
    id="token_lens",
    name="Token Lens",
    paper="Yan & Jia 2025, Promote, Suppress, Iterate: How Language Models Answer One-to-Many Factual Queries, "
    "arXiv 2502.20475",
    mediator="what attention brings to one position from groups of tokens, by layer and head",
    search="reading",
    cost="one forward pass",
    function="interp.token_lens",
)

By = Literal["layer", "head"]
BY = ("layer", "head")
GROUP, SITE = "group", "site"
REST = "rest"
"""The tokens of no group."""


def token_lens(
    model: Model,
    prompts: Any,
    groups: Any = None,
    tokens: Any = None,
    *,
    by: By = "layer",
    layers: int | Iterable[int] | None = None,
    position: PositionsLike = -1,
    rest: bool = True,
    centred: bool = False,
    given: Given = None,
    bos: Bos | None = None,
) -> xr.Dataset:
    """What groups of tokens add to some logits at one position, through the attention of every layer.

    Args:
        prompts: a text, token ids, a :class:`interp.Prompt`, a list of such, or pairs, whose clean prompts are run.
        groups: tokens that are attended to: roles or indices, each of a list by itself, or a mapping of names to such, where a
            list is one group; by default every role of the prompts. The position itself is a token like others.
        tokens: whose logits are read: words as they follow the prompts, usually with a leading space, token ids, or a mapping
            of names to one of these or one for each prompt; by default the prompts' answers and wrong answers.
        by: ``"layer"``: heads summed; ``"head"``: every head by itself.
        layers: those that are divided by groups; by default all of them.
        position: where logits are read: an index, or a role that names one token.
        rest: add a group of all other tokens, which makes a partition of them.
        centred: read logits less their mean over the vocabulary, which a softmax does not see; by default as they are.
        given: interventions in force, as in :func:`interp.patch`.
        bos: how texts begin; by default as the model was loaded.

    Returns:
        ``by_group`` by (example, layer, group, token), with heads (example, layer, head, group, token): NaN where a layer has
        no attention, or none whose parts are known. ``bias`` (example, layer, token), what attention adds whatever it attends
        to: Σ groups + bias = attn_out. ``logit`` (example, layer, site, token), the whole output of attention and MLP decoded
        alike. ``embed``, what enters the first block, and ``constant``, the last norm's bias and the unembedding's, by
        (example, token): with all of ``logit`` they sum to ``final``, the model's own logits before a soft cap. ``scale``, σ.
        ``word`` and ``token_id`` say which token a name of ``token`` is in each example.

    Raises:
        InputError: the model's logits are no sum of contributions (the reason is told), or logits are given.
        PositionError: groups that share a token, no groups, or a ``position`` that is not one token.
        UnknownNameError: a role that the prompts do not have.
        AnswerError: no tokens, or what is none.
        UnknownSiteError, HeadOutOfRangeError: no layer whose attention can be divided by tokens, or no such layer.
    """
    if by not in BY:
        raise UnknownNameError("by", by, BY)
    decoder, chosen = Decoder.of(model), some_layers(model, layers)
    with float32():
        targets = Targets.of(model, prompts, tokens, bos=bos)
        run = at_one(model, prompts, position=position, given=given, bos=bos)
    names, members = _members(run, groups)
    with torch.no_grad(), float32(), model.prepared(run.changed):
        decoded = Decoded.of(run, decoder, "source", chosen)
        parts, constant, final = decoded.towards(targets.columns, centred=centred)
        found = _by_group(parts, members, chosen, by)
        embed = sum((value for _, value in parts.entering()), torch.zeros_like(constant))
        sites, logit = by_site(parts)
        if not rest:
            names, found["by_group"] = names[:-1], found["by_group"][..., :-1, :]
        total = embed + logit.nansum((1, 2)) + constant
        found |= {"logit": logit, "embed": embed, "constant": constant, "final": final}
        deviation = float((total - final).abs().max())
    dims = {"logit": (axes.LAYER, SITE), "bias": (axes.LAYER,)}
    dims["by_group"] = (axes.LAYER, *((axes.HEAD,) if by == "head" else ()), GROUP)
    data: dict[str, Any] = {
        name: ((axes.EXAMPLE, *dims.get(name, ()), TOKEN), targets.numbers(run.numbers(tensor)))
        for name, tensor in found.items()
    }
    data["scale"] = (axes.EXAMPLE, run.numbers(decoded.scale))
    heads = {axes.HEAD: np.arange(found["by_group"].shape[2])} if by == "head" else {}
    coords = {axes.LAYER: list(parts.layers), SITE: sites, GROUP: names} | heads | targets.coords() | run.coords()
    attrs = run.attrs() | {
        "method": "token lens",
        "position": repr(run.where),
        "held": "the scale of the last norm, at each example's own value, and of norms behind attention and MLP",
        "centred": centred,
        "units": "logits",
        "softcap": decoder.softcap,
        "deviation": deviation,
    }
    return run.signed(xr.Dataset(data, coords, attrs), dict.fromkeys(("by_group", "logit"), "contribution to the logit"))


def _members(run: AtOne, groups: Any) -> tuple[list[int | str], Float[Tensor, "example group column"]]:
    """Which token is in which group, the rest of them the last."""
    tokens = run.encoded.clean
    if groups is None:
        if not tokens.roles:
            raise PositionError(
                "groups=None, but these prompts name no roles; give groups=, a mapping of names to positions such as "
                "{'subject': [3, 4], 'last': -1}, or write Prompt(…, roles={'subject': …})"
            )
        groups = list(tokens.roles)
    named = grouped(groups, "groups")
    if REST in named:
        raise PositionError(f"groups names {REST!r}, which are the tokens of no group; give another name")
    found = torch.zeros(len(tokens), len(named) + 1, tokens.width, device=tokens.mask.device)
    for number, several in enumerate(named.values()):
        for columns in (tokens.columns(one, what="groups") for one in several):
            example, slot = (columns >= 0).nonzero(as_tuple=True)
            found[example, number, columns[example, slot]] = 1.0
    names: list[int | str] = [*map(str, named), REST]
    shared = (found.sum(1) > 1).nonzero()
    if len(shared):
        example, column = shared[0].tolist()
        both = [name for name, there in zip(names, found[example, :, column].tolist(), strict=True) if there]
        at = column - int(tokens.first[example])
        raise PositionError(
            f"groups {both[0]!r} and {both[1]!r} share token {at} of example {example}, whose contribution would count twice; "
            "give groups without a token in common"
        )
    found[:, -1] = 1 - found.sum(1)
    return names, found


def _by_group(
    parts: Additive, members: Float[Tensor, "example group column"], layers: Iterable[int], by: By
) -> dict[str, Float[Tensor, "example layer ..."]]:
    """Contributions by layer and group, by head in between, and what is added beside them; NaN where it is not known."""
    splits = {layer: parts.sources(layer, members) for layer in layers}
    known = {layer: split for layer, split in splits.items() if split is not None}
    if not known:
        why = parts.model.anatomy.absent.get("pattern", f"what is known of it does not add up in the layers {list(splits)}")
        raise UnknownSiteError(
            "division", "tokens", (), why=f"attention of {parts.model.name} cannot be divided by what it attends to: {why}"
        )
    each = {layer: split.parts.permute(0, 2, 3, 1) for layer, split in known.items()}  # example head group token
    each = {layer: one.sum(1, keepdim=True) for layer, one in each.items()} if by == "layer" else each
    one = next(iter(each.values()))
    by_group = one.new_full(
        (len(one), len(parts.layers), max(part.shape[1] for part in each.values()), *one.shape[2:]), torch.nan
    )
    bias = one.new_full((len(one), len(parts.layers), one.shape[-1]), torch.nan)
    for layer, part in each.items():
        by_group[:, layer, : part.shape[1]] = part
        bias[:, layer] = sum((value for _, value in known[layer].rest), torch.zeros_like(bias[:, layer]))
    return {"by_group": by_group[:, :, 0] if by == "layer" else by_group, "bias": bias}
