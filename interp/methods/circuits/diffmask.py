"""DiffMask+: the few heads whose interchange with a counterfactual moves the model's preference, found by learned masks.

>>> found = interp.diffmask(model, pairs, count=10, lr=0.05)                                 # doctest: +SKIP
>>> found.selected.sum("seed"), found.expected.sel(seed=0)                                   # doctest: +SKIP

1. A mask m on every head, hard concrete with T = 0.2 stretched to (−0.2, 1), replaces the head's output at the last token,
   (1 − m) a + m ã, by what it is in the counterfactual prompt; all heads at once.
2. Loss: the divergence of the edited run from the clean one, and the mean of P(answer | clean run) / P(wrong | edited run), and
   λ (E[L0] − K). Masks descend, λ ascends within [0, 200], both by Adam: at most K heads are replaced, and those that move
   the preference most while little else changes.
3. Heads are ranked by the expected mask E[m].

By default the divergence is KL of the next-token distributions. ``divergence="bernoulli"`` is what the published code has, the
mean over the vocabulary of KL between coins of odds exp(logit): it takes each token for an independent yes or no, and is tiny.

Noise is drawn once a step for each mask, where the code draws it for every example: the gradient has the same mean and more
spread. The stretch is the published one. As it ends at exactly 1, m = 1 has probability 0, and appears where the logistic
function rounds to 1: in 3.5 % of float32 draws and 0.066 % of float64 draws at the first logits. ``stretch=(-0.2, 1.2)``
reaches it.

Chintam, Beloch, Zuidema, Hanna and van der Wal, "Identifying and Adapting Transformer-Components Responsible for Gender Bias in
an English Language Model" (2023), arXiv 2310.12611.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.nn.functional import softplus

from interp import axes
from interp.engine.asked import contrasted, encoded_pairs
from interp.engine.background import Given, Hold
from interp.engine.families import check_words
from interp.engine.heads import Heads, seeds_of
from interp.engine.learned import Asked
from interp.engine.precision import Precision
from interp.engine.recipe import others
from interp.engine.stored import Into, StoreLike
from interp.errors import InputError, MetricError, UnknownNameError, require_whole
from interp.interventions import HardConcrete, Intervention
from interp.methods.registry import Method
from interp.metrics import Readout, Reads
from interp.models import Encoded, Model
from interp.prompts import Pair, Pairs
from interp.sites import PositionsLike, Site
from interp.training import fit

METHOD = Method(
    id="diffmask_plus",
    name="DiffMask+",
    paper="Chintam et al. 2023, Identifying and Adapting Transformer-Components Responsible for Gender Bias in an English "
    "Language Model, arXiv 2310.12611",
    mediator="heads at the last token, all of them together",
    search="learned mask",
    cost="two forward passes, and for every seed 200 epochs of a forward and a backward pass",
    function="interp.diffmask",
)
Divergence = Literal["categorical", "bernoulli"]
MOST = 200.0
"""The largest λ."""


def diffmask(
    model: Model,
    pairs: Pairs | Sequence[Pair] | Encoded,
    where: str | Site = "z",
    *,
    count: int = 10,
    position: PositionsLike = -1,
    divergence: Divergence = "categorical",
    seeds: int | Sequence[int] = (9,),
    temperature: float = 0.2,
    stretch: tuple[float, float] = (-0.2, 1.0),
    epochs: int = 200,
    batch: int = 32,
    lr: float = 1e-3,
    lr_multiplier: float = 1e-3,
    multiplier: float = 1.0,
    order: int = 0,
    given: Given = None,
    hold: Hold = (),
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
    store: StoreLike | None = None,
    name: str | None = None,
    tags: Iterable[str] = (),
) -> xr.Dataset:
    """Find the heads whose interchange with the counterfactual raises the wrong answer, by masks trained together.

    Args:
        pairs: with a counterfactual, an answer and a wrong one each: the pronoun that the stereotype has, and the other.
        where: as for :func:`interp.gate_heads`.
        count: K, how many heads are aimed at, and selected.
        position: at which tokens heads are replaced; the last one in the paper.
        divergence: see above.
        seeds: masks that differ by their noise; they are trained together, each as if alone.
        temperature, stretch: of the hard concrete distribution.
        epochs: passes over the pairs; the paper keeps 15 % of them for validation, which is left to the caller.
        lr, lr_multiplier: learning rates of the masks and of λ.
        multiplier: the first λ.
        others: as for :func:`interp.gate_heads`.

    Returns:
        ``expected``, E[m], ``logits`` and ``selected``, the ``count`` highest by E[m], by (seed, layer, head); ``loss`` without
        the constraint, ``l0``, E[L0] before each step, and ``multiplier`` by (seed, step).

    Raises:
        InputError: pairs without a counterfactual.
        AnswerError: pairs without an answer or a wrong one.
        UnknownNameError: an unknown divergence.
        UnknownSiteError: ``where`` is not what heads put out.
        ValueError: numbers that make no sense.
    """
    said, into, each = others(locals()), Into.of(store, name, tags), seeds_of(seeds)
    check_words("noising", precision=precision)
    if divergence not in get_args(Divergence):
        raise UnknownNameError("divergence", divergence, get_args(Divergence))
    encoded, heads = encoded_pairs(model, pairs), Heads.of(model, where)
    require_whole("count", count, "how many heads are aimed at")
    if count > len(heads):
        raise ValueError(f"count={count}; expected at most {len(heads)}, the heads that there are")
    if not contrasted(encoded):
        raise InputError(
            "these pairs have no counterfactual, from which heads' outputs would be taken; give Pair(clean, corrupted, …)"
        )
    metric = Preference(divergence)
    facts = {
        "site": str(where),
        "seeds": each,
        "count": count,
        "position": repr(position),
        "divergence": divergence,
        "temperature": temperature,
        "stretch": list(stretch),
        "epochs": epochs,
        "batch": batch,
        "lr": lr,
        "lr_multiplier": lr_multiplier,
        "first_multiplier": multiplier,
        "order": order,
    }
    words: dict[str, Any] = {"given": given, "hold": hold, "precision": precision}
    asked = Asked.of("diffmask", model, encoded, (metric,), facts, **words)

    def mask(layer: int, heads_there: int) -> HardConcrete:
        return HardConcrete((heads_there, 1), temperature=temperature, stretch=stretch).to(model.device, heads.dtype)

    def make() -> tuple[xr.Dataset, Any]:
        masks = [heads.edited(mask, position) for _ in each]
        constraints = [Constraint(count, multiplier, lr_multiplier) for _ in each]
        draws = [torch.Generator().manual_seed(seed) for seed in each]

        def redraw(step: int, steps: int) -> None:
            for own, draw in zip(masks, draws, strict=True):
                for part in concrete(own):
                    part.resample(draw)

        trained = fit(
            model, encoded, masks, metric, patching="noising", epochs=epochs, batch=batch, lr=lr, penalty=constraints,
            before_step=redraw, seed=order, rows=rows, progress=progress, **words,
        )  # fmt: skip
        for own in masks:
            for part in concrete(own):
                part.settle()
        logits, expected = (
            torch.stack([torch.cat([getattr(part, of).detach().flatten() for part in concrete(own)]) for own in masks])
            for of in ("logits", "expectation")
        )
        chosen = torch.zeros_like(expected).scatter(-1, expected.topk(count).indices, 1.0)
        selected = heads.laid(chosen)
        by, along = (axes.SEED, axes.LAYER, axes.HEAD), (axes.SEED, "step")
        found = {
            "expected": (by, heads.laid(expected)),
            "logits": (by, heads.laid(logits)),
            "selected": (by, selected == 1),
            "loss": (along, trained.loss.values),
            "l0": (along, np.array([one.expected for one in constraints])),
            "multiplier": (along, np.array([one.multipliers for one in constraints])),
        }
        steps = {
            "step": trained.loss["step"].values if "step" in trained.loss.coords else np.arange(trained.loss.sizes["step"])
        }
        return xr.Dataset(found, {axes.SEED: each, **steps, **heads.coords}), trained.loss.attrs

    return asked.result(make, into, said)


def concrete(intervention: Intervention) -> list[HardConcrete]:
    """Its masks, layer by layer."""
    return [change.edit for change in intervention.changes if isinstance(change.edit, HardConcrete)]


@dataclass(eq=False)
class Constraint:
    """λ (E[L0] − K), of which λ makes a step of its own up the slope whenever it is asked for."""

    count: int
    multiplier: float
    lr: float
    expected: list[float] = field(default_factory=list)
    multipliers: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rate = torch.nn.Parameter(torch.tensor(self.multiplier, dtype=torch.float64))
        self.ascent = torch.optim.Adam([self.rate], lr=self.lr, maximize=True)

    def __call__(self, mask: Intervention) -> Tensor:
        size = torch.stack([part.expected_l0 for part in concrete(mask)]).sum()
        rate = float(self.rate.detach())
        self.expected.append(float(size.detach()))
        self.multipliers.append(rate)
        self.rate.grad = (size.detach() - self.count).to(self.rate)
        self.ascent.step()
        with torch.no_grad():
            self.rate.clamp_(0.0, MOST)
        return rate * (size - self.count)


_READS = Reads(columns="all", reference=True, needs=("answers", "wrong"))


@dataclass(frozen=True, slots=True)
class Preference:
    """Minus the loss: −D(clean ‖ row) − P(answer | clean run) / P(wrong | row)."""

    divergence: Divergence = "categorical"
    name: str = "preference"
    reads: Reads = _READS
    unit: str = ""

    def __call__(self, readout: Readout) -> Tensor:
        if readout.reference is None:
            raise MetricError("the preference compares with the clean run, which was not read")
        clean = readout.reference[None, :, -1]
        spared = readout.divergence if self.divergence == "categorical" else coins(clean, readout.final)
        right = _at(clean, readout.answers).logsumexp(-1) - clean.logsumexp(-1)
        wrong = readout.at(readout.wrong).logsumexp(-1) - readout.normaliser
        return -spared - (right - wrong).exp()


def coins(clean: Tensor, edited: Tensor) -> Tensor:
    """Mean over the last axis of KL between coins of odds exp(logit): p (a − b) + ln(1 + eᵇ) − ln(1 + eᵃ), p = σ(a)."""
    return (clean.sigmoid() * (clean - edited) + softplus(edited) - softplus(clean)).mean(-1)


def _at(logits: Tensor, ids: Tensor) -> Tensor:
    """Logits of chosen tokens, −∞ where there is none."""
    return logits.gather(-1, ids.clamp(min=0)[None]).masked_fill(ids < 0, -torch.inf)
