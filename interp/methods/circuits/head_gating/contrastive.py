"""Contrastive head gating: gates that forget one task and retain another, trained on matched tuples of both.

>>> gates = interp.contrastive_gates(model, instructions, demonstrations)                    # doctest: +SKIP
>>> judged(model, {"forget": held_out_instructions, "retain": held_out_demonstrations}, gates)   # doctest: +SKIP

1. A tuple is the same content twice, (x_F, y_F) in the format to forget and (x_R, y_R) in the one to retain.
2. With f = log P(y_F | x_F) and r = log P(y_R | x_R) in nats, a mask's loss is the mean over tuples of

   ``"difference"``  clip(f − r, ±margin), as the paper has it;
   ``"margin"``      −r + max(f − r*, −margin), as a later trainer has it, r* being r without a gradient;

   less λ · mean clip(g, ±4). In both the forget gradient stops where f is ``margin`` below r.
3. Soft gates and gates cut at 0.5 are judged on held-out tuples of both tasks, and of others.

The sign of λ is ambiguous in the paper, whose text has λ > 0 (gates are open unless the contrast shuts them) and whose appendix
has −0.1: it is ``weight``. Its sum over heads is a mean here, as in :func:`interp.gate_heads`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Literal, get_args

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp import axes
from interp.effects import mark_in_sample, stamped
from interp.engine import provenance
from interp.engine.asked import alone, asked_pairs
from interp.engine.background import Given, Hold
from interp.engine.families import check_words
from interp.engine.heads import Heads, Held, annealed, drawn, logits_of, pulled, seeds_of
from interp.engine.learned import Asked
from interp.engine.precision import Precision
from interp.engine.recipe import others
from interp.engine.stored import Into, StoreLike
from interp.engine.sweep import patch
from interp.errors import InputError, ShapeMismatchError, UnknownNameError, require_whole
from interp.interventions import Arranged
from interp.metrics import resolve
from interp.models import Encoded, Model
from interp.prompts import Pairs
from interp.sites import Site
from interp.training import fit

Form = Literal["difference", "margin"]
GATED = ("plain", "soft", "hard")
"""The model as it is, with the gates as they were learned, and with gates cut at 0 or 1."""


def contrastive_gates(
    model: Model,
    forget: Any,
    retain: Any,
    where: str | Site = "z",
    *,
    form: Form = "margin",
    seeds: int | Sequence[int] = 10,
    weight: float = 0.1,
    margin: float = 5.0,
    bound: float = 4.0,
    updates: int = 500,
    batch: int = 64,
    lr: tuple[float, float] = (0.1, 0.01),
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
    """Train gates on every head that forget a task and retain another.

    Args:
        forget, retain: pairs with answers, equally many; the i-th of both are one tuple, the same content in two formats.
        form: which of the two published losses, see above.
        weight: λ, of either sign.
        margin: how far below r the forget term stops, in nats.
        batch: tuples in a step.
        others: as for :func:`interp.gate_heads`.

    Returns:
        ``gate`` by (seed, layer, head), ``objective`` and ``penalty``, −λ · mean clip(g, ±bound), by (seed, step).

    Raises:
        ShapeMismatchError: more pairs of one task than of the other.
        UnknownNameError: an unknown form. And what :func:`interp.gate_heads` raises.
    """
    said, into, each = others(locals()), Into.of(store, name, tags), seeds_of(seeds)
    del said["forget"]  # these are the pairs of the recipe
    check_words("noising", precision=precision)
    if form not in get_args(Form):
        raise UnknownNameError("form", form, get_args(Form))
    require_whole("updates", updates, "steps")
    require_whole("batch", batch, "tuples in a step")
    if not margin > 0 or not bound > 0:
        raise ValueError(f"margin={margin}, bound={bound}; expected both more than 0")
    sides = [asked_pairs(model, side)[0] for side in (forget, retain)]
    encoded, [metric], heads = _tuples(model, *sides), resolve("logprob"), Heads.of(model, where)
    facts = {
        "site": str(where),
        "form": form,
        "seeds": each,
        "weight": weight,
        "margin": margin,
        "bound": bound,
        "updates": updates,
        "batch": batch,
        "order": order,
        "lr": list(lr),
        "clip": clip,
    }
    words: dict[str, Any] = {"given": given, "hold": hold, "precision": precision}
    asked = Asked.of("contrastive_gates", model, encoded, (metric,), facts, **words)

    def make() -> tuple[xr.Dataset, Any]:
        masks = [heads.gates(drawn(len(heads), seed, bound)) for seed in each]
        trained = fit(
            model, encoded, masks, metric, patching="noising", steps=updates, batch=2 * batch, tuples=2, lr=lr[0],
            schedule=annealed(*lr), objective=_OBJECTIVES[form](margin), penalty=pulled(weight, bound), clip=clip, seed=order,
            rows=rows, progress=progress, **words,
        )  # fmt: skip
        gate = heads.laid(torch.stack([logits_of(mask) for mask in masks]).sigmoid())
        along = (axes.SEED, "step")
        found: dict[str, Any] = {"gate": ((axes.SEED, axes.LAYER, axes.HEAD), gate)}
        found |= {"objective": (along, trained.loss.values), "penalty": (along, trained.penalty.values)}
        return xr.Dataset(found, {axes.SEED: each, "step": np.arange(updates), **heads.coords}), trained.loss.attrs

    return asked.result(make, into, said | {"retain": sides[1].pairs}, sides[0])


def judged(
    model: Model,
    tasks: Mapping[str, Any],
    gates: xr.Dataset,
    *,
    cut: float = 0.5,
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
) -> xr.Dataset:
    """What a model with gates can do: of tasks that were contrasted, on held-out tuples, and of others.

    Args:
        tasks: pairs with answers, by name.
        gates: anything with ``gate`` by (seed, layer, head).
        cut: gates above it are open, the others shut, where they are ``"hard"``.

    Returns:
        ``accuracy``, the share of examples whose whole answer greedy decoding would say, and ``logprob``, its mean in nats, by
        (task, gated, seed); ``gated`` is ``"plain"``, ``"soft"`` or ``"hard"``. Coordinates by task: ``n``, how many examples,
        and ``in_sample``, whether any of them trained the gates.

    Raises:
        InputError: no tasks, or ``gates`` is something else.
    """
    by_head = {axes.SEED, axes.LAYER, axes.HEAD}
    if not isinstance(gates, xr.Dataset) or "gate" not in gates or set(gates["gate"].dims) != by_head:
        raise InputError(
            f"gates is a {type(gates).__name__}; expected what interp.contrastive_gates(…) returns, or any dataset with gate "
            "by (seed, layer, head)"
        )
    if not tasks:
        raise InputError("tasks is empty; give pairs by name, such as {'forget': …, 'retain': …}")
    heads = Heads.of(model, gates.attrs.get("site", "z"))
    held, soft = Held(heads), heads.flat(gates["gate"].transpose(axes.SEED, axes.LAYER, axes.HEAD).values)
    cells = [held.scaled(of) for mask in soft for of in (torch.ones_like(mask), mask, (mask > cut).to(mask))]
    laid = Arranged(cells, {axes.CELL: range(len(cells))}, site=f"gates of {heads.sites[0].name}")
    found, counts, seen = [], [], []
    for pairs in tasks.values():
        encoded = alone(model, asked_pairs(model, pairs)[0])
        sweep = patch(
            model, encoded, laid, ["top1", "logprob"], patching="noising", rows=rows, precision=precision, progress=progress
        )
        assert isinstance(sweep, xr.Dataset)
        marked = mark_in_sample(sweep, selected_on=gates) if gates.attrs.get("selected_on") else sweep
        found.append(sweep["value"].mean(axes.EXAMPLE).values.reshape(2, -1, len(GATED)).transpose(0, 2, 1))
        counts.append(len(encoded))
        seen.append(bool(marked.attrs.get("in_sample", False)))
    by = ("task", "gated", axes.SEED)
    accuracy, logprob = np.stack(found, 1)
    return stamped(
        xr.Dataset(
            {"accuracy": (by, accuracy), "logprob": (by, logprob)},
            {"task": list(tasks), "gated": list(GATED), axes.SEED: gates[axes.SEED].values}
            | {"n": ("task", counts), "in_sample": ("task", seen)},
            {"method": "judged gates", "model": model.name, "cut": cut, "engine_semantics": provenance.ENGINE_SEMANTICS},
        )
    )


def _tuples(model: Model, forget: Encoded, retain: Encoded) -> Encoded:
    """The clean prompts of both tasks in turn, a tuple after another."""
    if len(forget) != len(retain):
        raise ShapeMismatchError(
            f"forget has {len(forget)} pairs and retain {len(retain)}; the i-th of both are one tuple, the same content in two "
            "formats"
        )
    if forget.asked != retain.asked:
        raise InputError(
            f"forget was encoded with bos={forget.asked!r} and retain with bos={retain.asked!r}; encode both alike"
        )
    made = [{"task": side.pairs.task, "pairs": len(side), **side.pairs.made_by} for side in (forget, retain)]
    both = tuple(chain.from_iterable(zip(forget.pairs, retain.pairs, strict=True)))
    tuples = Pairs(both, f"{forget.pairs.task} against {retain.pairs.task}", {"parts": made})
    return alone(model, model.encode(tuples, bos=forget.asked))


def _difference(margin: float) -> Callable[[Float[Tensor, " example"]], Float[Tensor, ""]]:
    def loss(values: Float[Tensor, " example"]) -> Float[Tensor, ""]:
        forget, retain = values.unflatten(0, (-1, 2)).unbind(-1)
        return (forget - retain).clamp(-margin, margin).mean()

    return loss


def _margin(margin: float) -> Callable[[Float[Tensor, " example"]], Float[Tensor, ""]]:
    def loss(values: Float[Tensor, " example"]) -> Float[Tensor, ""]:
        forget, retain = values.unflatten(0, (-1, 2)).unbind(-1)
        return (-retain + (forget - retain.detach()).clamp(min=-margin)).mean()

    return loss


_OBJECTIVES = {"difference": _difference, "margin": _margin}
