"""Masks over edges, or over the nodes that they leave, learned by gradient: many as rows of one pass, on a frozen model.

>>> masks = Masks(graph, "edges", seeds=range(5), start=0.0)                               # doctest: +SKIP
>>> learned = learn(mixed, masks, order, objective, sign=1.0)                              # doctest: +SKIP
>>> learned.loss.shape                                                                    # mask, step   # doctest: +SKIP
torch.Size([5, 300])

A mask z ∈ [0, 1] keeps an edge to that part: its reader sees z·a + (1 − z)·ã. Masks are hard concrete, drawn anew in every
step, each from its own generator, with its own optimiser; so learning several together gives what learning one by one gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.circuits import Graph
from interp.engine.graph.mixed import Mixed
from interp.errors import TrainingError
from interp.interventions.masks import HardConcrete
from interp.models.hooks import frozen

Over = Literal["edges", "nodes"]


class Masks:
    """Hard concrete masks of one graph, 1 where something is kept.

    Args:
        over: ``"edges"``, an entry each; or ``"nodes"``, an entry for each writer but the embedding, which stands for all edges
            out of it.
        seeds: of the draws, a mask each.
        start: the first logits.
    """

    def __init__(self, graph: Graph, over: Over, seeds: Sequence[int], start: float, device: torch.device) -> None:
        self.sender, self.roots = torch.tensor(graph.sender, device=device), len(graph.roots)
        self.over, entries = over, len(graph) if over == "edges" else len(graph.senders) - self.roots
        self.each = [HardConcrete(entries, start=start, keep=True).to(device) for _ in seeds]
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def draw(self) -> None:
        """The noise of the next step."""
        for mask, generator in zip(self.each, self.generators, strict=True):
            mask.resample(generator)

    @property
    def logits(self) -> Float[Tensor, "mask entry"]:
        return torch.stack([mask.logits.detach() for mask in self.each])

    def of_edges(self, entries: Float[Tensor, "mask entry"]) -> Float[Tensor, "mask edge"]:
        """Numbers of entries as numbers of edges; edges out of the embedding, which no node mask has, get a 1."""
        if self.over == "edges":
            return entries
        always = torch.ones(len(entries), self.roots, dtype=entries.dtype, device=entries.device)
        return torch.cat([always, entries], dim=1)[:, self.sender]


class Objective(Protocol):
    """What is added to the loss of masks, and how it changes from step to step."""

    def penalty(self, number: int, mask: HardConcrete, done: float) -> Float[Tensor, ""]:
        """Of one mask, by the share of the steps that is done."""
        ...

    def stepped(self) -> None:
        """A step has been taken: the gradients that penalties left in the objective's own parameters are there."""
        ...


class Learned(NamedTuple):
    """What happened while masks were learned."""

    loss: Float[Tensor, "mask step"]
    """Without the penalty."""
    penalty: Float[Tensor, "mask step"]
    sparsity: Float[Tensor, "mask step"]
    """Which part of the entries was expected to be closed, 1 − E[L0]/n."""


@dataclass(frozen=True)
class Steps:
    """How masks are learned.

    Args:
        order: examples of every step.
        sign: 1 where the metric is a loss, −1 where it is to be high.
    """

    order: Sequence[Int[Tensor, " example"]]
    sign: float
    lr: float
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam


def learn(mixed: Mixed, masks: Masks, objective: Objective, how: Steps, progress: Callable[[int], None]) -> Learned:
    """Take the steps.

    Raises:
        TrainingError: the metric has no gradient, or a loss is no number.
    """
    optimizers = [how.optimizer(mask.parameters(), lr=how.lr) for mask in masks.each]
    found: list[Tensor] = []
    with torch.enable_grad(), frozen(mixed.model.module):
        for step, examples in enumerate(how.order):
            masks.draw()
            losses = _losses(mixed, masks, examples.sort().values.to(mixed.model.device), how.sign)
            told = []
            for number, (mask, optimizer) in enumerate(zip(masks.each, optimizers, strict=True)):
                extra = objective.penalty(number, mask, step / len(how.order))
                if extra.requires_grad:
                    extra.backward()
                told.append(torch.stack([losses[number], extra.detach().to(losses), _closed(mask).to(losses)]))
                optimizer.step()
                optimizer.zero_grad()
            objective.stepped()
            found.append(torch.stack(told))
            progress(1)
    for mask in masks.each:
        mask.settle()
    return Learned(*torch.stack(found, dim=-1).unbind(1))


def _losses(mixed: Mixed, masks: Masks, examples: Int[Tensor, " example"], sign: float) -> Float[Tensor, " mask"]:
    """The loss of every mask; its gradient is added to the mask's, as many of them at a time as fit."""
    most, losses = max(1, mixed.budget.backward_rows() // len(examples)), []
    for some in torch.arange(len(masks.each)).split(most):
        each = [masks.each[i] for i in some.tolist()]
        kept = masks.of_edges(torch.stack([mask.value for mask in each]))
        loss = sign * mixed.losses(kept, examples)
        if not loss.requires_grad:
            name = mixed.runs.reader.metrics[0].name
            raise TrainingError(f"metric {name!r} counts or compares, so it has no gradient")
        if not bool(loss.isfinite().all()):
            raise TrainingError(f"the loss is {loss.detach().tolist()}; lower lr, or begin with more edges open")
        loss.sum().backward()
        losses.append(loss.detach())
    return torch.cat(losses)


def _closed(mask: HardConcrete) -> Float[Tensor, ""]:
    return 1 - mask.expected_l0.detach() / mask.logits.numel()


class Pull:
    """A constant pull on the size, λ·E[L0]/n, as subnetwork probing has it.

    Args:
        strengths: λ of each mask.
    """

    def __init__(self, strengths: Sequence[float]) -> None:
        self.strengths = strengths

    def penalty(self, number: int, mask: HardConcrete, done: float) -> Float[Tensor, ""]:
        return self.strengths[number] * mask.expected_l0 / mask.logits.numel()

    def stepped(self) -> None:
        pass


class Lagrangian:
    """A size that is asked for: λ₁·(s − t) + λ₂·(s − t)² of the sparsity s, the multipliers by gradient ascent.

    s is what is expected, 1 − E[L0]/n, where Edge Pruning's code has 1 − mean z of the draw: that has no gradient at entries
    that were drawn as 0 or 1, which of those that begin open are nearly all.

    Args:
        targets: of each mask, t at the end.
        ramp: in which share of the steps t rises from 0 to there, evenly.
        lr: of the multipliers, which begin with 0.
    """

    def __init__(self, targets: Sequence[float], ramp: float, lr: float, device: torch.device) -> None:
        self.targets, self.ramp = targets, ramp
        self.multipliers = nn.Parameter(torch.zeros(len(targets), 2, device=device))
        self.optimizers = torch.optim.Adam([self.multipliers], lr=lr, maximize=True)

    def target(self, number: int, done: float) -> float:
        return self.targets[number] * min(1.0, done / self.ramp)

    def penalty(self, number: int, mask: HardConcrete, done: float) -> Float[Tensor, ""]:
        return self.of(number, 1 - mask.expected_l0 / mask.logits.numel(), self.target(number, done))

    def of(self, number: int, sparsity: Float[Tensor, ""], target: float) -> Float[Tensor, ""]:
        """The same, of a sparsity that is given."""
        off = sparsity - target
        first, second = self.multipliers[number]
        return first * off + second * off**2

    def stepped(self) -> None:
        self.optimizers.step()
        self.optimizers.zero_grad()
