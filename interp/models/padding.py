"""How prompts of unequal length can be run together: what a model's numbers do when a prompt is padded is tried, not assumed.

    >>> padded(model).sides                                                                  # doctest: +SKIP
    {'input_ids': True}

Position ids that count real tokens are given where the model's own are the same for a prompt without padding. Left padding is
preferred, because the last token is then in the same column of every row; a model that numbers columns is padded on the right;
where neither leaves the numbers as they are, prompts of unequal length are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from interp.models.deviation import rounding
from interp.models.encoding import mask_of, position_ids_of
from interp.models.examples import embedding
from interp.models.model import Model
from interp.models.reading import Reading
from interp.sites import Site

_MORE = 2
"""Columns of padding that are tried."""


def padded(model: Model) -> Reading:
    """How a model reads prompts, with the side on which each argument of token ids can be padded."""
    reading = model.reading
    if not model.example or not reading.arguments:
        return reading
    trial = _Trial(model)
    numbered = reading.numbered and trial.counts()
    ways = {name: trial.side(name, numbered) for name in reading.arguments}
    if numbered and None in ways.values():
        without = {name: trial.side(name, False) for name in reading.arguments}
        if None not in without.values():
            numbered, ways = False, without
    return replace(reading, numbered=numbered, sides=ways)


class _Trial:
    """Forward passes of the model's example, padded in several ways."""

    def __init__(self, model: Model) -> None:
        self.model, self.reading = model, model.reading
        self.plain = {name: tensor for name, tensor in model.example.items() if not name.endswith("position_ids")}
        for name in self.reading.arguments:
            self.plain.setdefault(mask_of(name), torch.ones_like(self.plain[name]))
            self.plain[name] = self._ended(self.plain[name])
        self.expected = self._logits(self.plain)

    def counts(self) -> bool:
        """Whether position ids that count tokens are the model's own."""
        return self.same(self._logits(self.numbered(self.plain)), self.expected)

    def side(self, argument: str, numbered: bool) -> bool | None:
        """Whether padding on the left leaves what the model says, else on the right (False), else neither (None)."""
        for left in (True, False):
            inputs = self._padded(argument, left)
            found = self._logits(self.numbered(inputs) if numbered else inputs)
            if self.model.anatomy.main.reads == argument and found.shape[1] > self.expected.shape[1]:
                found = found[:, _MORE:] if left else found[:, :-_MORE]
            if self.same(found, self.expected):
                return left
        return None

    def same(self, found: Tensor, expected: Tensor) -> bool:
        if found.shape != expected.shape:
            return False
        return float((found - expected).abs().max()) <= rounding(self.model.dtype) * max(1e-6, float(expected.abs().max()))

    def numbered(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same with position ids that count real tokens."""
        name = self.reading.main or ""
        return {**inputs, position_ids_of(name): (inputs[mask_of(name)].cumsum(-1) - 1).clamp(min=0)}

    def _ended(self, ids: Tensor) -> Tensor:
        """Prompts that end as the model's own do: CLIP reads a text where its last token is."""
        config = getattr(self.model.module, "config", None)
        end = getattr(getattr(config, "text_config", config), "eos_token_id", None)
        table = embedding(self.model.module)
        if not isinstance(end, int) or (table is not None and end >= table.weight.shape[0]):
            return ids
        return torch.cat([ids[:, :-1], torch.full_like(ids[:, -1:], end)], dim=-1)

    def _padded(self, argument: str, left: bool) -> dict[str, Tensor]:
        """One argument of token ids padded, and with it all that has a column for every token."""
        shape = self.plain[argument].shape
        pad = (_MORE, 0) if left else (0, _MORE)
        return {
            name: torch.nn.functional.pad(tensor, pad, value=self.reading.pad if name == argument else 0)
            if name in (argument, mask_of(argument)) or (tensor.shape == shape and name.endswith("type_ids"))
            else tensor
            for name, tensor in self.plain.items()
        }

    def _logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        logits, device = Site("logits"), self.model.device
        given = self.model.accepted({name: tensor.to(device) for name, tensor in inputs.items()})
        with torch.no_grad(), self.model.prepared():
            return self.model.backend.run(given, reads=[logits], writes={})[logits].float()
