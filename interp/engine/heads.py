"""The heads of a model, all layers together: a number each, laid out as a map, and an edit with one for each.

>>> heads = Heads.of(model)                                                              # doctest: +SKIP
>>> heads.edited(lambda count, own: Gate((count, 1)))                                    # doctest: +SKIP
>>> heads.laid(torch.rand(len(heads))).shape                                             # doctest: +SKIP
(12, 12)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp import axes
from interp.errors import UnknownSiteError
from interp.interventions import Change, Gate, Intervention, learnable
from interp.models import Model
from interp.sites import PositionsLike, Site

OUTPUTS = ("z", "cross_z")
"""What heads put out before W_O, of attention to their own stream and to another."""


@dataclass(frozen=True, eq=False)
class Heads:
    """Every head of one component; numbers of theirs are in the order of layers, then of heads."""

    model: Model
    sites: tuple[Site, ...]
    """One a layer that has it."""
    counts: tuple[int, ...]

    @classmethod
    def of(cls, model: Model, where: str | Site = "z") -> Heads:
        """
        Raises:
            UnknownSiteError: it is not what heads put out in every layer, or the model has none.
        """
        site = model.site(where)
        if site.path is not None or site.name not in OUTPUTS or (site.layer, site.head) != (None, None):
            why = "it is not what all heads put out, every layer's"
            raise UnknownSiteError("component", repr(site), [*OUTPUTS, "encoder:z"], why=why)
        sites = model.each(site)
        return cls(model, sites, tuple(model.sizes_at(one)[axes.HEAD] for one in sites))

    def __len__(self) -> int:
        return sum(self.counts)

    @property
    def layers(self) -> list[int]:
        return [int(site.layer or 0) for site in self.sites]

    @cached_property
    def there(self) -> np.ndarray[Any, Any]:
        """``[layer, head]``: where the map has a head; layers may differ in how many they have."""
        return np.arange(max(self.counts)) < np.array(self.counts)[:, None]

    @property
    def coords(self) -> dict[str, Any]:
        return {axes.LAYER: self.layers, axes.HEAD: np.arange(max(self.counts))}

    @property
    def dtype(self) -> torch.dtype:
        """Of what is learned of them."""
        return torch.promote_types(self.model.dtype, torch.float32)

    def laid(self, numbers: Float[Tensor, "*many of_head"]) -> np.ndarray[Any, Any]:
        """``[…, layer, head]``, NaN where a layer has fewer heads."""
        found = numbers.detach().cpu().numpy()
        full = np.full((*found.shape[:-1], *self.there.shape), np.nan, dtype=found.dtype)
        full[..., self.there] = found
        return full

    def flat(self, laid: np.ndarray[Any, Any]) -> Float[Tensor, "*many of_head"]:
        """The other way round."""
        return torch.from_numpy(np.ascontiguousarray(laid[..., self.there]))

    def parts(self, numbers: Float[Tensor, " of_head"]) -> tuple[Tensor, ...]:
        """``[head, 1]`` for every layer."""
        return tuple(part[:, None] for part in numbers.to(self.model.device, self.dtype).split(self.counts))

    def edited(self, edit: Callable[[int, int], Any], positions: PositionsLike | None = None) -> Intervention:
        """One intervention on all of them.

        Args:
            edit: of a layer's heads, called with which one of :attr:`sites` it is and how many they are.
        """
        each = [(site, edit(i, n)) for i, (site, n) in enumerate(zip(self.sites, self.counts, strict=True))]
        return Intervention(tuple(Change(site, ... if positions is None else positions, edit=one) for site, one in each))

    def gates(self, logits: Float[Tensor, " of_head"]) -> Intervention:
        """A learned gate on every head."""
        parts = self.parts(logits)
        return self.edited(lambda i, n: Gate((n, 1), start=parts[i]).to(self.model.device))


class Held:
    """Heads that are scaled by given numbers, 0 and 1 among them; layers with the same numbers share their change.

    Interventions that begin alike are run together until they part, which they are known by.
    """

    def __init__(self, heads: Heads) -> None:
        self.heads = heads
        self._known: dict[tuple[Site, tuple[float, ...]], Change] = {}

    def scaled(self, factors: Float[Tensor, " of_head"]) -> Intervention:
        parts = self.heads.parts(factors.double())
        return Intervention(tuple(map(self._change, self.heads.sites, parts)))

    def _change(self, site: Site, factors: Tensor) -> Change:
        key = (site, tuple(factors.flatten().tolist()))
        if key not in self._known:
            gate = Gate(tuple(factors.shape), start=factors.double().logit().to(factors)).requires_grad_(False)
            self._known[key] = Change(site, edit=gate)
        return self._known[key]


def seeds_of(seeds: int | Sequence[int]) -> list[int]:
    """So many, from 0 on, or those that are given."""
    found = list(range(seeds)) if isinstance(seeds, int) else [int(seed) for seed in seeds]
    if not found or len(set(found)) < len(found):
        raise ValueError(f"seeds={seeds!r}; expected how many there are, at least 1, or different numbers")
    return found


def annealed(first: float, last: float) -> Callable[[float], float]:
    """A schedule from 1 to ``last / first``, by equal steps."""
    return lambda done: 1 + done * (last / first - 1)


def drawn(count: int, seed: int, bound: float) -> Float[Tensor, " of_head"]:
    """Logits of gates that are uniform in (0, 1), kept within ±bound."""
    share = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return share.logit(eps=1 / (1 + math.exp(bound)))


def pulled(weight: float, bound: float) -> Callable[[Intervention], Tensor] | None:
    """−λ · mean clip(g, ±bound), over the heads of one mask."""
    if weight == 0:
        return None
    return lambda mask: -weight * torch.cat(tuple(learnable(mask))).clamp(-bound, bound).mean()


def logits_of(mask: Intervention) -> Tensor:
    """Logits of a mask's gates, head by head."""
    return torch.cat([logits.detach().flatten() for logits in learnable(mask)])
