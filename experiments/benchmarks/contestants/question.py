"""What every contestant is asked: a denoising sweep of one site over layers and positions, or layers and heads.

The base is the corrupted prompt, values come from the clean one, and the metric is read after the last token. An answer is a
tensor ``[layer, position or head, example]``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from contestants.networks import Shape

Ids = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Question:
    """A sweep over every combination of ``layers`` and ``where``."""

    shape: Shape
    site: str
    """``"resid_pre"``, patched at one position, or ``"z"``, one head patched at all positions."""
    layers: tuple[int, ...]
    where: tuple[int, ...]
    """Positions of ``resid_pre``, heads of ``z``."""
    base: Ids
    source: Ids
    answers: tuple[int, ...]
    wrong: tuple[int, ...]
    metric: str = "logit_diff"
    """Or ``"kl"``: D(source run ‖ patched run) of the next token, in nats."""

    @property
    def cells(self) -> int:
        return len(self.layers) * len(self.where)

    @property
    def axis(self) -> str:
        return "position" if self.site == "resid_pre" else "head"

    @property
    def tokens(self) -> int:
        """Of one prompt; all have the same number."""
        return len(self.base[0])

    def ids(self, side: str) -> Tensor:
        """``[example, position]`` of ``"base"`` or ``"source"``."""
        return torch.tensor(getattr(self, side), device=self.shape.device)

    def differ(self, example: int) -> tuple[int, ...]:
        """The positions at which base and source differ."""
        return tuple(i for i, (b, s) in enumerate(zip(self.base[example], self.source[example], strict=True)) if b != s)

    def differ_from(self, example: int) -> int:
        """The first of them."""
        return self.differ(example)[0]

    def sample(self) -> Question:
        """A few cells of the sweep: the first and the last layer, and about four places between the first and the last."""
        step = max(1, (len(self.where) - 1) // 3)
        layers = tuple(dict.fromkeys((self.layers[0], self.layers[-1])))
        return replace(self, layers=layers, where=self.where[(len(self.where) - 1) % step :: step])

    def measure(self, last: Tensor, clean: Tensor) -> Tensor:
        """The metric ``[example]`` from logits ``[example, vocab]`` after the last token, and the source run's."""
        last, clean = last.float(), clean.float()
        if self.metric == "kl":
            log_clean = clean.log_softmax(-1)
            return (log_clean.exp() * (log_clean - last.log_softmax(-1))).sum(-1)
        rows = torch.arange(len(last), device=last.device)
        return last[rows, list(self.answers)] - last[rows, list(self.wrong)]

    @property
    def read_columns(self) -> int:
        """Columns of the unembedding that the metric reads."""
        return self.shape.vocab if self.metric == "kl" else 2


def random_question(
    shape: Shape, site: str, *, pairs: int, tokens: int, differ: tuple[int, ...] | None, where: tuple[int, ...] | None = None,
    layers: tuple[int, ...] | None = None, metric: str = "logit_diff", seed: int = 1,
) -> Question:  # fmt: skip
    """Random prompts that differ at the positions ``differ``, everywhere if None, with random answers.

    Token 0 never occurs: it is the padding token here, and a library may mask it.
    """
    draw = torch.Generator().manual_seed(seed)
    clean = torch.randint(1, shape.vocab, (pairs, tokens), generator=draw)
    other = 1 + (clean + torch.randint(0, shape.vocab - 2, (pairs, tokens), generator=draw)) % (shape.vocab - 1)
    changed = torch.ones(tokens, dtype=torch.bool) if differ is None else torch.isin(torch.arange(tokens), torch.tensor(differ))
    answers = torch.stack([torch.randperm(shape.vocab - 1, generator=draw)[:2] + 1 for _ in range(pairs)])
    everywhere = range(tokens) if site == "resid_pre" else range(shape.heads)
    return Question(
        shape,
        site,
        layers=tuple(range(shape.layers)) if layers is None else layers,
        where=tuple(everywhere) if where is None else where,
        base=tuple(map(tuple, torch.where(changed, other, clean).tolist())),
        source=tuple(map(tuple, clean.tolist())),
        answers=tuple(answers[:, 0].tolist()),
        wrong=tuple(answers[:, 1].tolist()),
        metric=metric,
    )
