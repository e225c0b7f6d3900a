"""The base run, kept: what rows of the wave begin from and attend to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.engine.budget import memory
from interp.engine.prompts import Columns, Kept
from interp.models import Model, Tokens
from interp.models.keys_values import KeysValues
from interp.models.stack import Arguments
from interp.sites import Site

SHARE = 8
"""Arguments of blocks, for several first columns, may take one part in so many of a sweep's memory."""


@dataclass(frozen=True, eq=False)
class Shard:
    """The base run of some examples."""

    model: Model
    examples: Int[Tensor, " example"]
    """Their numbers, ascending."""
    tokens: Tokens
    found: dict[Site, Kept]
    """Tensors of the base run at the sites that were asked for."""
    before: Sequence[KeysValues] | None
    """Every layer's keys and values; None for a model that takes no cache."""
    _arguments: dict[range, Arguments] = field(default_factory=dict, repr=False)

    def has(self, examples: Int[Tensor, " row"]) -> Bool[Tensor, " row"]:
        """Which examples are among those of the shard."""
        return torch.isin(examples, self.examples)

    def index(self, examples: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
        """Where examples are in the shard's tensors."""
        return torch.searchsorted(self.examples, examples.contiguous())

    def base(self, site: Site, columns: range) -> Float[Tensor, "example column ..."]:
        """The base run's tensor at some consecutive columns."""
        return self.found[site].between(columns)

    def arguments(self, columns: range) -> Arguments:
        """What blocks are called with for some columns, for every example of the shard.

        Those that were asked for last are kept, as far as they take a small part of the memory that a sweep may take.
        """
        newest = next(reversed(self._arguments), columns)
        if newest != columns:
            self._arguments[newest].taken.clear()  # a selection of rows serves one pass
        found = self._arguments.pop(columns, None)
        if found is None:
            assert self.model.stack is not None
            for piece in [kept for kept in self._arguments if kept.stop < self.tokens.width]:
                self._arguments.pop(piece)  # its mask is large, and made again in less time than the piece is run
            found = self.model.stack.arguments(self.tokens, columns, self.before)
            room = memory(self.model) // SHARE - found.bytes
            while len(self._arguments) > 1 and sum(kept.bytes for kept in self._arguments.values()) > room:
                self._arguments.pop(next(iter(self._arguments)))
        self._arguments[columns] = found
        return found


def bytes_an_example(model: Model, sites: Mapping[Site, Columns], width: int) -> int:
    """What a shard keeps of one example of so many positions, roughly: some columns of sites, all keys and values."""
    sizes = model.sizes
    keys = 2 * sizes.get("layer", 1) * sizes.get("kv_head", 1) * sizes.get("d_head", 64)
    return bytes_of(model, sites, width) + model.dtype.itemsize * width * keys


def bytes_of(model: Model, sites: Mapping[Site, Columns], width: int) -> int:
    """What some columns of sites take of one example of so many positions, roughly."""
    sizes = model.sizes
    d_model = sizes.get("d_model", 1024)
    wide = {"mlp_post": sizes.get("unit", 4 * d_model), "z": sizes.get("head", 1) * sizes.get("d_head", 64)}
    return model.dtype.itemsize * sum(
        wide.get(site.name, d_model) * (width if at is None else len(at)) for site, at in sites.items()
    )


def cat_keys_values(parts: Sequence[Sequence[KeysValues]]) -> list[KeysValues]:
    """Keys and values of several batches, one after the other."""
    return [
        KeysValues(torch.cat([layer.keys for layer in layers]), torch.cat([layer.values for layer in layers]))
        for layers in zip(*parts, strict=True)
    ]
