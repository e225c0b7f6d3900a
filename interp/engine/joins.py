"""Where in the network a row of the wave begins: at the first place that it changes.

A block has three joins: ``PRE``, before it; ``MID``, when its attention is known; ``POST``, when its MLP is known too. What a
change needs decides: a residual stream enters before, what attention gives in the middle, what the MLP gives after it.
Attention internals (q, k, v, scores, pattern) are recomputed with their block, so they join before it.
"""

from __future__ import annotations

from enum import IntEnum

from interp.interventions import Change, Intervention
from interp.models import Encoded, Model
from interp.models.hooks import of_others
from interp.models.model import TorchHooks
from interp.sites import MAIN, Site


class Point(IntEnum):
    """A join of a block."""

    PRE = 0
    MID = 1
    POST = 2


POINTS = len(Point)
NEVER = 1 << 40
"""The depth of a row that cannot be resumed."""
EARLY = ("embed", "pos_embed")
_STREAM = (*EARLY, "resid_pre", "resid_post")
_OF_ATTENTION = ("attn_out", "z", "result")
_OF_MLP = ("mlp_out", "mlp_post")
_INSIDE_MLP = ("resid_mid", "mlp_pre", "mlp_up", "routing", "expert_out", "ln2_scale", "ln2_post_scale")
_BEHIND_ATTENTION = ("ln1_post_scale",)
"""What still runs where a row joins when its attention is known."""


def depth(layer: int, point: Point) -> int:
    """Joins in the order of the network, as one number."""
    return POINTS * layer + point


def refused(model: Model) -> str:
    """Why no row of this model can be resumed between blocks; empty if rows can."""
    if model.stack is None:
        return model.stack_refused
    if not isinstance(model.backend, TorchHooks):
        return f"its backend {type(model.backend).__name__} runs whole forward passes only"
    for name, _ in of_others(model.module):
        return f"a hook of yours on {name or 'the model'} would see some positions alone, or act twice on resumed rows"
    return ""


def unresumed(encoded: Encoded) -> str:
    """Why prompts run whole forward passes; empty if rows can begin between blocks."""
    if encoded.clean.others:
        return f"its prompts hold more than the tokens of one stream: {', '.join(encoded.clean.others)}"
    return "" if encoded.clean.flush and encoded.corrupted.flush else "its prompts are padded on the right"


def resumes(model: Model) -> bool:
    """Whether a row can begin behind positions whose keys and values are known, which no later one changes."""
    return model.causal and model.stack is not None and model.stack.resumes


def join(model: Model, intervention: Intervention, given: Intervention | None = None) -> int | str:
    """The depth at which an intervention's rows begin, or the reason why they cannot be resumed between blocks.

    A row with several changes begins at the first and meets the rest in passing; with a changed embedding it begins at −1.

    Args:
        given: changes in force on the base. A row does not begin inside a block in which something is given.
    """
    found = [_begin(model, change) for change in intervention.changes]
    taken = [_begin(model, change) for change in given.changes] if given else []
    reasons = [reason for reason in found + taken if isinstance(reason, str)]
    if reasons:
        return reasons[0]
    first = min(number for number in found if isinstance(number, int))
    blocks = {change.site.path for change in given.changes if change.site.path is not None} if given else set()
    if any(
        model.anatomy.block_of(path) is not None and path.count(".") == (model.anatomy.blocks or "").count(".") + 1
        for path in blocks
    ):
        return "something is given by the path of a block; name it resid_pre or resid_post"
    if first >= POINTS and given and _is_behind(intervention, given):
        first -= POINTS  # what is given comes after the row's own change, so the row begins before both
    layer = first // POINTS
    within: set[int | None] = (
        {model.anatomy.block_of(model.taps(change.site.tensor).path) for change in given.changes} if given else set()
    )
    return depth(layer, Point.PRE) if first >= 0 and layer in within else first


def _begin(model: Model, change: Change) -> int | str:
    """The depth from which a change can be made. One of several tokens together needs all of them, and of the last block's
    attention, MLP and output a row has those that are read alone.
    """
    found, last = begin(model, change.site.tensor), model.sizes.get("layer", 0) - 1
    if isinstance(found, str) or not change.together or change.positions.is_one or found <= depth(last, Point.PRE):
        return found
    if found > depth(last, Point.POST):
        return f"{change.site!r} is changed at several tokens together, and the last block gives those that are read"
    return depth(last, Point.PRE)


def _is_behind(intervention: Intervention, given: Intervention) -> bool:
    """Whether a block's input is given where the intervention changes the output of the block before it."""
    taken = {change.site.layer for change in given.changes if change.site.name == "resid_pre"}
    return any(
        c.site.name == "resid_post" and c.site.layer is not None and c.site.layer + 1 in taken for c in intervention.changes
    )


def begin(model: Model, site: Site) -> int | str:
    """The depth from which a change of one site can be made, or why it cannot be made between blocks."""
    if site.path is not None:
        layer = model.anatomy.block_of(site.path)
        return f"{site!r} is not inside a block" if layer is None else depth(layer, Point.PRE)
    if site.stream != MAIN:
        return f"{site!r} is outside the main stream, which reads it"
    if site.name in EARLY:
        return -1
    if site.name == "logits":
        return "logits are changed after the last block"
    if site.name == "ln_final_scale":
        return depth(model.sizes["layer"], Point.PRE)
    assert site.layer is not None
    if site.name == "resid_post":
        return depth(site.layer + 1, Point.PRE)
    if model.stack is not None and site.name in model.stack.unfolded:
        return f"{site.name} is unfolded from cached latents, at all positions of a row"
    if site.name in _OF_ATTENTION + _BEHIND_ATTENTION and model.anatomy.main.order.get(site.layer) == "unknown":
        return depth(site.layer, Point.PRE)
    if site.name in _OF_MLP or (site.name in _OF_ATTENTION and parallel(model, site.layer)):
        return depth(site.layer, Point.POST)
    return depth(site.layer, Point.MID if site.name in _OF_ATTENTION + _BEHIND_ATTENTION + _INSIDE_MLP else Point.PRE)


def parallel(model: Model, layer: int) -> bool:
    """Whether attention and MLP of a block read the same stream, so that the MLP does not see what attention gives."""
    return model.anatomy.main.order.get(layer) == "parallel"


def inside(model: Model, site: Site, layer: int) -> bool:
    """Whether a site is inside a block, its input and output excepted."""
    if site.path is not None:
        return model.anatomy.block_of(site.path) == layer
    return site.layer == layer and site.name not in _STREAM


def begun(model: Model, start: int) -> set[Site]:
    """Tensors of the base run from which a row of some depth begins."""
    layer, point = divmod(start, POINTS)
    if start < 0:
        return {Site("resid_pre", layer=0)}
    if layer == model.sizes["layer"]:
        return {Site("resid_post", layer=layer - 1)}
    found, anatomy = {Site("resid_pre", layer=layer)}, model.anatomy
    if point >= Point.MID:
        found.add(Site("output", path=anatomy.attention[layer]))
    if point == Point.POST and layer in anatomy.mlp:
        found.add(Site("output", path=anatomy.mlp[layer]))
    return found


def moved(start: int, site: Site) -> Site | None:
    """The tensor that a row moves inside the block in which it begins, at the columns of a change alone, if it does."""
    layer, point = divmod(start, POINTS)
    if start < 0 or point == Point.PRE or site.layer != layer or site.name not in _OF_ATTENTION + _OF_MLP:
        return None
    return Site("z" if site.name == "result" else site.name, layer=layer)
