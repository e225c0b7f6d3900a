"""The loss with and without a token that begins texts: whether prompts of a model should begin with it.

    >>> loss_with_and_without_bos(model)                                                      # doctest: +SKIP
    Loss(bos='<s>', tokens=121, with_bos=2.71, without_bos=3.18, adds=True)

Both are of the same tokens, all but the first of a text, which nothing foretells where no BOS is in front of it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from interp.models import Model
from interp.sites import Site

TEXT = (
    "The river rises in the hills north of the town and runs for about sixty miles before it reaches the sea. For most of the "
    "year it is shallow enough to cross on foot, but after heavy rain the water can rise by two metres in a single night. In "
    "the spring of 1903 the old wooden bridge was carried away, and for nearly three years people had to take a small boat to "
    "get to the market. The new bridge, built of stone, was opened in the summer of 1906 and is still in use today."
)
"""A few sentences of plain English, written for this purpose."""


@dataclass(frozen=True)
class Loss:
    """Mean negative log-probability of the tokens of a short text, in nats a token."""

    bos: str
    """The token that stands in front."""
    tokens: int
    """How many tokens the mean is of."""
    with_bos: float
    without_bos: float
    adds: bool
    """Whether the tokenizer puts it there by itself."""

    def spec(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        verb = (
            "which the tokenizer adds by itself" if self.adds else "which the tokenizer does not add by itself; bos=True does"
        )
        return (
            f"{self.with_bos:.2f} nats a token with BOS {self.bos!r} in front, {self.without_bos:.2f} without "
            f"({self.tokens} tokens of English), {verb}"
        )


def loss_with_and_without_bos(model: Model) -> Loss | str:
    """The two losses, or why there are none."""
    tokenizer, logits = model.tokenizer, Site("logits")
    if tokenizer is None:
        return f"none: {model.reading.lacking}"
    if tokenizer.bos_token_id is None:
        return "none: the tokenizer has no BOS"
    if not model.causal or model.reading.main != "input_ids" or not model.has(logits):
        return "none: it is no causal language model"
    plain = list(tokenizer(TEXT, add_special_tokens=False)["input_ids"])
    if getattr(tokenizer, "unk_token_id", None) in plain:
        return "none: the tokenizer does not know the words of an English text"
    bos = tokenizer.bos_token_id
    adds = list(tokenizer(TEXT)["input_ids"])[:1] == [bos]
    with_bos, without = (_loss(model, ids, len(plain) - 1) for ids in ([bos, *plain], plain))
    return Loss(str(tokenizer.decode([bos])), len(plain) - 1, with_bos, without, adds)


def _loss(model: Model, ids: list[int], last: int) -> float:
    """Mean loss of the last tokens of a text."""
    logits = Site("logits")
    tokens = model.encode([ids])
    with torch.no_grad(), model.prepared():
        found: Tensor = model.backend.run(model.inputs(tokens), reads={logits: None}, writes={})[logits]
    said = torch.tensor(ids[-last:], device=found.device)
    return float(torch.nn.functional.cross_entropy(found[0, -last - 1 : -1].double(), said))
