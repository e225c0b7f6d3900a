"""What a head's queries, keys or values are of a stream of its own: its norm and its own rows of the projection.

>>> slot = Slot.of(model, Site("q", layer=3))                                             # doctest: +SKIP
>>> slot.read(stream).shape                  # from row, head, position, d_model             # doctest: +SKIP
torch.Size([8, 17, 12, 64])
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.circuits import SLOTS, Graph
from interp.errors import EdgesError, UnknownSiteError, WeightsError
from interp.models import Model
from interp.models.decoding import form_of
from interp.models.deviation import rounding
from interp.models.hooks import Forward
from interp.models.layouts import Heads
from interp.models.maps import in_out
from interp.models.weights.projections import projection
from interp.sites import Site


@dataclass(frozen=True, eq=False)
class Slot:
    """One projection of a layer as a map of what each head sees of the stream."""

    site: Site
    norm: nn.Module | None
    """Before the projection; None without one."""
    weight: Float[Tensor, "head d_model d_head"]
    bias: Float[Tensor, "head d_head"] | None
    dtype: torch.dtype

    @classmethod
    def of(cls, model: Model, site: Site) -> Slot:
        """The projection at q, k or v of a layer.

        Raises:
            EdgesError: its weights or the norm before it are not known.
        """
        try:
            found = projection(model, site)
            scale = Site("ln1_scale", layer=site.layer)
            norm = form_of(model, scale)[1] if model.has(scale) else None
        except (WeightsError, UnknownSiteError) as error:
            raise EdgesError(f"what {site!r} is of the stream of {model.name} is not known: {error}") from None
        weight, bias = (None if t is None else t.to(_wide(model.dtype)) for t in found)
        assert weight is not None
        return cls(site, norm, weight, bias, model.dtype)

    def read(
        self, stream: Float[Tensor, "*row head position d_model"], heads: Int[Tensor, " head"] | None = None
    ) -> Float[Tensor, "*row position head d_head"]:
        """Queries, keys or values of heads that each see a stream of their own.

        Args:
            heads: whose each stream is; by default one of every head.
        """
        weight, bias = self.weight, self.bias
        if heads is not None:
            weight, bias = weight[heads], None if bias is None else bias[heads]
        normed = stream if self.norm is None else self.norm(stream.flatten(0, -3)).reshape(stream.shape)
        made = einsum(normed.to(weight.dtype), weight, "... head position d, head d e -> ... position head e")
        return (made if bias is None else made + bias).to(self.dtype)

    def back(
        self,
        stream: Float[Tensor, "example position d_model"],
        gradient: Float[Tensor, "example position head d_head"],
    ) -> Float[Tensor, "example position head d_model"]:
        """The gradient at what each head sees of a stream, from that at its queries, keys or values."""
        heads = self.weight.shape[0]
        with torch.enable_grad():
            each = stream[:, None].expand(-1, heads, -1, -1).detach().clone().requires_grad_()
            (found,) = torch.autograd.grad(self.read(each), each, gradient)
        return rearrange(found, "e h p d -> e p h d")

    def check(
        self,
        stream: Float[Tensor, "example position d_model"],
        expected: Float[Tensor, "example position head d_head"],
        real: Bool[Tensor, "example position"],
    ) -> None:
        """Raise unless a run's stream makes the run's own, at its real tokens.

        Raises:
            EdgesError: it does not, because something else stands between.
        """
        stream, expected = stream[real][None], expected[real][None]
        found = self.read(stream[:, None].expand(-1, len(self.weight), -1, -1))
        missed, size = float((found - expected).abs().max()), 1 + float(expected.abs().max())
        if not missed <= 10 * rounding(self.dtype) * size:
            raise EdgesError(
                f"{self.site!r} is not one norm of the stream and its projection, off by {missed:.1e} (of {size:.1e}): heads "
                "cannot be given streams of their own"
            )


def slots(model: Model, graph: Graph) -> dict[Site, Slot]:
    """Every projection of a model; raises as :meth:`Slot.of`."""
    return {site: Slot.of(model, site) for layer in range(len(graph.blocks)) for site in projections(graph, layer)}


def spared(model: Model, written: Iterable[Slot]) -> dict[nn.Module, Forward]:
    """What stands in for linear maps that would be written over, all they give: nothing is computed of it.

    Args:
        written: slots that are written whole. Maps that carry a hook or a forward of somebody's own are run as they are.
    """
    wide, found = Counter[str](), dict[nn.Module, Forward]()
    for slot in written:
        tap = model.taps(slot.site)
        if tap.event == "output" and isinstance(tap.layout, Heads):
            wide[tap.path] += slot.weight.shape[0] * slot.weight.shape[-1]
    for path, features in wide.items():
        module = model.module.get_submodule(path)
        weight = in_out(module)
        alone = not module._forward_hooks and not module._forward_pre_hooks and "forward" not in module.__dict__
        if alone and weight is not None and weight.shape[1] == features:
            found[module] = partial(_empty, features)
    return found


def _empty(features: int, x: Tensor) -> Tensor:
    return x.new_zeros(*x.shape[:-1], features)


def projections(graph: Graph, layer: int) -> list[Site]:
    """Queries, keys and values of a layer; none where it has no heads."""
    return [Site(slot, layer=layer) for slot in SLOTS] if graph.blocks[layer].heads else []


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
