"""What every additive part of the last stream has along directions: layers, attention and MLPs, heads, units, source tokens.

    >>> parts = Additive(model, read, direction)                                             # doctest: +SKIP
    >>> [(term.name, value.shape) for term, value in parts.heads(3)][:2]                     # doctest: +SKIP
    [('L3H0', torch.Size([2])), ('L3H1', torch.Size([2]))]

The stream is a sum, so its inner product with a vector is the sum of those of its parts. What stands behind a part is pulled
back through what follows it: a head's output through W_O and, where a norm follows attention (Gemma-2), through that norm
with its scale held. What a part is known to be is checked in numbers: where the finer parts do not add up to the coarser one,
because something is changed between them, the coarser one is left whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from interp.models import Model
from interp.models.decoding import form_of
from interp.models.deviation import rounding
from interp.models.maps import is_map, matrix
from interp.models.norms import bias_of
from interp.sites import Site

WRITERS = {"attn_out": "a", "mixer_out": "x", "cross_out": "c", "mlp_out": "m"}
"""What adds to the stream inside a block, with the letter that a term of it is named by."""
KINDS = {"attn_out": "attention", "mixer_out": "mixer", "cross_out": "cross-attention", "mlp_out": "mlp"}
_HEADS = ("z", "ln1_post_scale")
_UNITS = ("mlp_post", "ln2_post_scale")
_SOURCES = ("v", "pattern")


@dataclass(frozen=True, slots=True)
class Term:
    """One part of a sum."""

    name: str
    kind: str
    layer: int | None = None
    head: int | None = None


class Value(NamedTuple):
    """A term and what it contributes."""

    term: Term
    value: Float[Tensor, "example ..."]


@dataclass(frozen=True, eq=False)
class Split:
    """A part of the stream, divided."""

    parts: Float[Tensor, "example *word part"]
    rest: list[Value]
    """What is not divided: biases."""


Read = Callable[[Site], Tensor]
"""A site's tensor at the position of each example, ``[example, …]``; values of attention (``v``) at every position."""


class Additive:
    """The parts of one position's last stream, each along a direction or several.

    Args:
        read: gives the tensors of :meth:`sites`.
        direction: by which the stream is multiplied, already divided by a held scale; float64. One, or one a word.
    """

    def __init__(self, model: Model, read: Read, direction: Float[Tensor, "example *word d_model"]) -> None:
        self.model, self._read, self.direction = model, read, direction
        self.layers = range(len(model.anatomy.main.blocks))
        self.tolerance = rounding(model.dtype) / 10

    @staticmethod
    def sites(model: Model, by: str, layers: Collection[int]) -> list[Site]:
        """Every tensor that is read to divide by ``"layer"``, ``"component"``, ``"head"``, ``"neuron"`` or ``"source"``.

        Args:
            layers: those that are divided further than into attention and MLP.
        """
        every = range(len(model.anatomy.main.blocks))
        found = [Site("embed"), Site("pos_embed"), *(Site("resid_pre", layer=layer) for layer in every)]
        found.append(Site("resid_post", layer=every[-1]))
        if by != "layer":
            found += [Site(name, layer=layer) for layer in every for name in WRITERS]
        finer = {"head": _HEADS, "neuron": _UNITS, "source": (*_HEADS, *_SOURCES)}.get(by, ())
        found += [Site(name, layer=layer) for layer in layers for name in finer]
        return [site for site in found if model.has(site)]

    # coarse parts

    def entering(self) -> list[Value]:
        """What enters the first block: token and position embedding, where it is their sum."""
        whole = self._along(Site("resid_pre", layer=0))
        both = [Site("embed"), Site("pos_embed")]
        if all(map(self.model.has, both)):
            parts = [self._along(site) for site in both]
            if self._same(parts[0] + parts[1], whole):
                return [Value(Term(site.name, site.name), part) for site, part in zip(both, parts, strict=True)]
        return [Value(Term("embed", "embed"), whole)]

    def layer(self, layer: int) -> Value:
        """What a block adds."""
        after = Site("resid_pre", layer=layer + 1) if layer < self.layers[-1] else Site("resid_post", layer=layer)
        moved = self._along(after) - self._along(Site("resid_pre", layer=layer))
        return Value(Term(f"L{layer}", "layer", layer), moved)

    def components(self, layer: int) -> list[Value]:
        """What attention, mixers and MLPs add, and what else a block does to the stream."""
        found = [
            Value(Term(f"{letter}{layer}", KINDS[name], layer), self._along(site))
            for name, letter in WRITERS.items()
            if self.model.has(site := Site(name, layer=layer))
        ]
        whole = self.layer(layer).value
        rest = whole - sum((value for _, value in found), torch.zeros_like(whole))
        return (
            found if self._same(rest, torch.zeros_like(rest)) else [*found, Value(Term(f"L{layer}.rest", "rest", layer), rest)]
        )

    # finer parts

    def heads(self, layer: int) -> Split | None:
        """What every head adds, ``[example, *word, head]``; None where they are not known, or do not add up to attention."""
        z, linear = Site("z", layer=layer), self._w_o(layer)
        if linear is None or not self.model.has(z) or not self.model.has(Site("attn_out", layer=layer)):
            return None
        tensor = self._read(z)
        parts = einsum(tensor.double(), self._through(layer, tensor.shape[-2]), "e head d, e ... head d -> e ... head")
        return self._checked(layer, "attn", linear, parts)

    def sources(self, layer: int, groups: Float[Tensor, "example group source_position"] | None = None) -> Split | None:
        """The same by the token attended to, ``[example, *word, head, source_position]``.

        Args:
            groups: 1 where a token is in a group, which together are all tokens; their sums are then what is given,
                ``[example, *word, head, group]``.
        """
        split, sites = self.heads(layer), [Site(name, layer=layer) for name in _SOURCES]
        if split is None or not all(map(self.model.has, sites)):
            return None
        values, pattern = (self._read(site).double() for site in sites)
        heads, columns = pattern.shape[1], values.shape[1]
        shared = repeat(values, "e source kv d -> e source (kv group) d", group=heads // values.shape[-2])
        pattern, through = pattern[..., :columns], self._through(layer, heads)
        if groups is None:
            each = einsum(shared, through, "e source head d, e ... head d -> e ... head source")
            found = einsum(pattern, each, "e head source, e ... head source -> e ... head source")
        else:
            weights = einsum(pattern, groups.double(), "e head source, e part source -> e head part source")
            read = einsum(weights, shared, "e head part source, e source head d -> e head part d")
            found = einsum(read, through, "e head part d, e ... head d -> e ... head part")
        return Split(found, split.rest) if self._same(found.sum(-1), split.parts) else None

    def units(self, layer: int) -> Split | None:
        """What every unit of an MLP adds, ``[example, *word, unit]``; None where they do not add up to it, or are not known."""
        post, path = Site("mlp_post", layer=layer), self.model.anatomy.w_out.get(layer)
        linear = None if path is None else self.model.module.get_submodule(path)
        if linear is None or not is_map(linear) or not all(map(self.model.has, (post, Site("mlp_out", layer=layer)))):
            return None
        units = self._read(post).double()
        weight = matrix(linear, units.shape[-1], next(linear.parameters())).double()
        parts = einsum(units, self._back(layer, "mlp")[0] @ weight.mT, "e unit, e ... unit -> e ... unit")
        return self._checked(layer, "mlp", linear, parts)

    def _checked(self, layer: int, part: str, linear: nn.Module, parts: Float[Tensor, "example *word part"]) -> Split | None:
        """Parts with the biases beside them, if together they are what the whole adds."""
        direction, shift = self._back(layer, part)
        bias = bias_of(linear)
        added = shift + (direction @ bias.double() if isinstance(bias, Tensor) else 0.0)
        if not self._same(parts.sum(-1) + added, self._along(Site(f"{part}_out", layer=layer))):
            return None
        term = Term(f"L{layer}.{part}_bias", "bias", layer)
        return Split(parts, [Value(term, added)] if bool(added.any()) else [])

    # helpers

    def _w_o(self, layer: int) -> nn.Module | None:
        path = self.model.anatomy.w_o.get(layer)
        linear = None if path is None else self.model.module.get_submodule(path)
        return linear if linear is not None and is_map(linear) else None

    def _through(self, layer: int, heads: int) -> Float[Tensor, "example *word head d_head"]:
        """The direction, pulled back to each head's z."""
        linear = self._w_o(layer)
        assert linear is not None
        width = self.model.anatomy.size(Site("z", layer=layer), "d_head") * heads
        weight = rearrange(matrix(linear, width, next(linear.parameters())), "(head d_head) d -> head d_head d", head=heads)
        return einsum(self._back(layer, "attn")[0], weight.double(), "e ... d, head d_head d -> e ... head d_head")

    def _back(self, layer: int, part: str) -> tuple[Float[Tensor, "example *word d_model"], Float[Tensor, "example ..."]]:
        """The direction, pulled back through a norm that follows a part, and what the norm's bias adds."""
        site = Site("ln1_post_scale" if part == "attn" else "ln2_post_scale", layer=layer)
        none = self.direction.new_zeros(self.direction.shape[:-1])
        if not self.model.has(site):
            return self.direction, none
        form, norm = form_of(self.model, site)
        bias = bias_of(norm)
        shift = self.direction @ bias.double() if isinstance(bias, Tensor) else none
        scale = self._read(site).double().reshape(-1, *(1 for _ in self.direction.shape[1:]))
        return form.back(norm, self.direction) / scale, shift

    def _along(self, site: Site) -> Float[Tensor, "example ..."]:
        return einsum(self._read(site).double(), self.direction, "e d, e ... d -> e ...")

    def _same(self, one: Tensor, other: Tensor) -> bool:
        """Equal up to rounding, relative to 1 + the largest number."""
        if not one.numel():
            return True
        size = 1 + max(float(other.abs().max()), float(self._along(Site("resid_post", layer=self.layers[-1])).abs().max()))
        return float((one - other).abs().max()) <= self.tolerance * size
