"""Causal head gating: which heads a behaviour needs, which are in its way, and which it could do without.

>>> gates = interp.gate_heads(model, pairs)                                                      # doctest: +SKIP
>>> gates.role.sel(seed=0, layer=9), gates.always.sel(kind="facilitating").sum()                 # doctest: +SKIP
>>> interp.views.gates(gates)                                                                    # doctest: +SKIP
>>> tested = interp.ordered_ablation(model, held_out, gates, most=20)                            # doctest: +SKIP

1. Every head's output is multiplied by a gate G = σ(g) before W_O, at all tokens; MLPs and biases are left as they are. No
   counterfactual is needed: what a shut gate lets through is zero.
2. A mask's loss is −mean log P(answer) − λ · mean clip(g, ±4), with a mean over the mask's own heads: λ > 0 pulls gates open,
   λ < 0 shut.
3. Stage A: λ = 0, from gates that are uniform in (0, 1). Stages B+ and B−: the gates of stage A, the *same* for both, trained
   on with +λ to G⁺ and with −λ to G⁻.
4. A head is facilitating where both are open, interfering where both are shut, irrelevant where it follows λ
   (:mod:`interp.effects.gating`), in one seed, in any or always.
5. Ordered ablation, on other examples: heads in the order of a score, from G⁺ on; each in turn is opened and shut, and stays
   shut (:func:`interp.ordered_ablation`).

Seeds are masks of their own, with their own loss, clipping and Adam; they and the two stages B are trained as rows of one pass
and come out as if each had been trained alone. They differ in where stage A begins and see the same examples in the same order.

Where this differs from the paper and its code: the pull is a mean over a mask's own heads (the paper writes a sum, its code a
mean over heads and seeds, so that the pull depends on how many seeds there are). Learning rates fall in equal steps, of which
the paper gives the ends. And gates enter both stages within the clip, where λ has a hold on them: outside its gradient is 0,
and a head without any effect that began there or was driven there would have one role or another by chance.

Roles are of gates that may stand anywhere between 0 and 1, and a head is irrelevant while another says the same: ordered
ablation tells what they are worth when gates are shut for good.

Nam, Conklin, Yang, Griffiths, Cohen and Leslie, "Causal Head Gating: A Framework for Interpreting Roles of Attention Heads in
Transformers" (2025), arXiv 2505.13737.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp import axes
from interp.effects.gating import taxonomy
from interp.engine.asked import alone, asked_pairs
from interp.engine.background import Given, Hold
from interp.engine.families import check_words
from interp.engine.heads import Heads, annealed, drawn, logits_of, pulled, seeds_of
from interp.engine.learned import Asked
from interp.engine.precision import Precision
from interp.engine.recipe import others
from interp.engine.stored import Into, StoreLike
from interp.errors import require_whole
from interp.methods.registry import Method
from interp.metrics import resolve
from interp.models import Model
from interp.sites import Site
from interp.training import Trained, fit

_PAPER = (
    "Nam et al. 2025, Causal Head Gating: A Framework for Interpreting Roles of Attention Heads in Transformers, "
    "arXiv 2505.13737"
)
METHODS = (
    Method(
        id="causal_head_gating",
        name="causal head gating",
        paper=_PAPER,
        mediator="heads, all of them together",
        search="learned mask",
        cost="for every seed three stages of 500 updates, each a forward and a backward pass of a batch",
        function="interp.gate_heads",
    ),
    Method(
        id="contrastive_head_gating",
        name="contrastive causal head gating",
        paper=_PAPER,
        mediator="heads, all of them together",
        search="learned mask",
        cost="for every seed 500 updates, each two forward passes and a backward pass of a batch of two tasks",
        function="interp.contrastive_gates",
    ),
)
STAGE = "stage"
STAGES = ("A", "B+", "B-")
STEP = "step"


def gate_heads(
    model: Model,
    pairs: Any,
    where: str | Site = "z",
    *,
    seeds: int | Sequence[int] = 10,
    weight: float = 0.1,
    bound: float = 4.0,
    cut: float = 0.5,
    updates: int = 500,
    batch: int = 64,
    lr: tuple[tuple[float, float], tuple[float, float]] = ((0.1, 0.01), (0.5, 0.1)),
    clip: float | None = 1.0,
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
    """Train gates on every head, from several starts, pulled open and pulled shut.

    Args:
        model: from :func:`interp.load`.
        pairs: as for :func:`interp.patch`, with answers; of them the clean prompts are run, and none needs a counterfactual.
            Answers of several tokens are sequences with a loss on their tokens: :func:`interp.methods.circuits.head_gating
            .targets` makes such pairs of whole sequences and of which of their tokens count.
        where: ``"z"`` for the heads of the main stream, ``"cross_z"`` for cross-attention, ``"encoder:z"`` for an encoder's.
        seeds: how many starts, or their numbers; a start depends on its own number alone.
        weight: λ of stage B+, and −λ of stage B−.
        bound: logits beyond ± this are not pulled.
        cut: gates above it count as open.
        updates: steps in each stage.
        batch: pairs in a step.
        lr: learning rates at the beginning and the end, of stage A and of stages B.
        clip: largest norm of a mask's gradient; None for any.
        order: seed of the order in which pairs are drawn.
        given: interventions in force; as for :func:`interp.patch`.
        hold, rows, precision, progress: likewise.
        store, name, tags: as for :func:`interp.patch`; a run is kept whole, once it is done.

    Returns:
        ``gate`` by (seed, stage, layer, head), NaN where a layer has no such head; ``nll``, the mean of −log P of a step's
        examples, by (seed, stage, step); and what :func:`interp.effects.gating.taxonomy` says of G⁺ and G⁻: ``role``,
        ``score``, ``always``, ``any`` and ``share``. ``attrs["selected_on"]`` says which examples these were
        (:func:`interp.effects.mark_in_sample`), ``gauge`` that zero depends on value biases, where it does.

    Raises:
        UnknownSiteError: ``where`` is not what heads put out, or the model has no heads.
        AnswerError: pairs without answers.
        ValueError: numbers that make no sense.
    """
    said, into, each = others(locals()), Into.of(store, name, tags), seeds_of(seeds)
    check_words("noising", precision=precision)
    require_whole("updates", updates, "steps in each stage")
    require_whole("batch", batch, "pairs in a step")
    if not weight > 0 or not bound > 0:
        raise ValueError(f"weight={weight}, bound={bound}; expected both more than 0: B+ is pulled by +weight, B- by −weight")
    encoded, [metric] = alone(model, asked_pairs(model, pairs)[0]), resolve("logprob")
    heads = Heads.of(model, where)
    facts = {
        "site": str(where),
        "seeds": each,
        "weight": weight,
        "bound": bound,
        "cut": cut,
        "updates": updates,
        "batch": batch,
        "order": order,
        "lr": [list(ends) for ends in lr],
        "clip": clip,
    }
    words: dict[str, Any] = {"given": given, "hold": hold, "precision": precision}
    asked = Asked.of("gate_heads", model, encoded, (metric,), facts, **words)

    def stage(starts: Sequence[Tensor], ends: tuple[float, float], pulls: Sequence[float]) -> tuple[list[Tensor], Trained]:
        masks = [heads.gates(start.clamp(-bound, bound)) for start in starts]
        trained = fit(
            model, encoded, masks, metric, patching="noising", steps=updates, batch=batch, lr=ends[0], schedule=annealed(*ends),
            penalty=[pulled(pull, bound) for pull in pulls], clip=clip, seed=order, rows=rows, progress=progress, **words,
        )  # fmt: skip
        return [logits_of(mask) for mask in masks], trained

    def make() -> tuple[xr.Dataset, Any]:
        free, first = stage([drawn(len(heads), seed, bound) for seed in each], lr[0], [0.0] * len(each))
        both, second = stage(free + free, lr[1], [weight] * len(each) + [-weight] * len(each))
        logits = torch.stack([*free, *both]).unflatten(0, (len(STAGES), len(each))).transpose(0, 1)
        nll = np.concatenate([first.loss.values, second.loss.values]).reshape(len(STAGES), len(each), updates).swapaxes(0, 1)
        coords = {axes.SEED: each, STAGE: list(STAGES), STEP: np.arange(updates), **heads.coords}
        gate = xr.DataArray(heads.laid(logits.sigmoid()), dims=(axes.SEED, STAGE, axes.LAYER, axes.HEAD))
        found = xr.Dataset({"gate": gate, "nll": ((axes.SEED, STAGE, STEP), nll)}, coords)
        [up, down] = (found["gate"].sel({STAGE: which}, drop=True) for which in STAGES[1:])
        return found.merge(taxonomy(up, down, cut)), second.loss.attrs

    return asked.result(make, into, said)
