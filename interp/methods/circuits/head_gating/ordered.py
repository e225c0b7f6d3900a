"""Ordered ablation: heads are opened and shut in the order of a score, which tells whether the scores are right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp import axes
from interp.effects import mark_in_sample, stamped
from interp.effects.gating import FACILITATING, INTERFERING, IRRELEVANT, KIND, is_gating
from interp.engine.asked import alone, asked_pairs
from interp.engine.background import Given, Hold
from interp.engine.heads import Heads, Held
from interp.engine.precision import Precision
from interp.engine.stored import StoreLike
from interp.engine.sweep import patch
from interp.errors import InputError, UnknownNameError, require_whole
from interp.interventions import Arranged, Intervention
from interp.models import Model

SCORES = (FACILITATING, INTERFERING, IRRELEVANT)
RANK, STATE = "rank", "state"
OPEN, SHUT = "open", "shut"
_KEPT = ("model", "model_digest", "revision", "task", "pairs_digest", "dtype", "device", "versions", "wall_seconds", "strategy")


def ordered_ablation(
    model: Model,
    pairs: Any,
    gates: xr.Dataset,
    *,
    most: int | None = None,
    seeds: int | Sequence[int] | None = None,
    given: Given = None,
    hold: Hold = (),
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
    store: StoreLike | None = None,
    name: str | None = None,
    tags: Iterable[str] = (),
) -> xr.Dataset:
    """Open and shut heads one after another, those of the highest score first.

    All begins with the soft gates G⁺. The gate of each head in turn is set to 1 and to 0, and stays 0 for those behind it; Δ is
    the log-probability with it shut less that with it open. It is expected to be negative of facilitating heads, about 0 of
    irrelevant ones, and positive of interfering heads until they run out.

    Args:
        model: whose heads were gated.
        pairs: examples that were held out, with answers; as for :func:`interp.gate_heads`.
        gates: what :func:`interp.gate_heads` returned.
        most: how many heads in the order of each score; by default all of them.
        seeds: of which masks; by default all of them.
        given, hold, rows, precision, progress, store, name, tags: as for :func:`interp.patch`, which runs it all as one sweep.

    Returns:
        ``logprob`` by (seed, score, rank, state, example); ``change``, Δ by (seed, score, rank, example); ``own``, by (score,
        example) the mean of Δ over those heads, in all seeds, that have the role of which they have the score, NaN where there
        are none; ``gated`` by (seed, example) under G⁺, and ``plain`` by example. Coordinates ``layer``, ``head`` and ``role``
        by (seed, score, rank). ``attrs["in_sample"]`` says whether any of the examples trained the gates.

    Raises:
        InputError: ``gates`` is something else, or of a model with other heads.
        UnknownNameError: a seed that was not trained.
    """
    if not is_gating(gates):
        raise InputError(f"gates is a {type(gates).__name__}; expected what interp.gate_heads(…) returns")
    heads = Heads.of(model, gates.attrs.get("site", "z"))
    if gates["gate"].shape[-2:] != heads.there.shape or gates[axes.LAYER].values.tolist() != heads.layers:
        raise InputError(
            f"gates are of {gates.sizes[axes.LAYER]} layers of {gates.sizes[axes.HEAD]} heads of {gates.attrs.get('model')}; "
            f"{model.name} has {len(heads.layers)} of {heads.there.shape[1]}"
        )
    encoded, chosen = alone(model, asked_pairs(model, pairs)[0]), _seeds(gates, seeds)
    count = len(heads) if most is None else most
    require_whole("most", count, "how many heads in the order of each score")
    count = min(count, len(heads))
    held, orders = Held(heads), {}
    cells: list[Intervention] = []
    for seed in chosen:
        up = heads.flat(gates["gate"].sel({axes.SEED: seed, "stage": "B+"}).transpose(axes.LAYER, axes.HEAD).values)
        cells.append(held.scaled(up))
        for kind in SCORES:
            score = gates["score"].sel({axes.SEED: seed, KIND: kind}).transpose(axes.LAYER, axes.HEAD).values
            orders[seed, kind] = heads.flat(score).argsort(descending=True, stable=True)[:count]
            cells += [held.scaled(factors) for factors in _in_turn(up, orders[seed, kind])]
    laid = Arranged(cells, {axes.CELL: range(len(cells))}, site=f"gates of {heads.sites[0].name}, in order")
    sweep = patch(
        model, encoded, laid, "logprob", patching="noising", given=given, hold=hold, rows=rows, precision=precision,
        progress=progress, store=store, name=name, tags=tags,
    )  # fmt: skip
    value = sweep["value"].isel({axes.METRIC: 0}).transpose(axes.CELL, axes.EXAMPLE).values
    value = value.reshape(len(chosen), 1 + len(SCORES) * count * 2, -1)
    base = sweep["given"] if "given" in sweep else sweep["clean"]
    logprob = value[:, 1:].reshape(len(chosen), len(SCORES), count, 2, -1)
    order = torch.stack([orders[seed, kind] for seed in chosen for kind in SCORES]).reshape(len(chosen), len(SCORES), count)
    [layer, head] = (np.broadcast_to(of, heads.there.shape)[heads.there][order] for of in _numbers(heads))
    roles = gates["role"].sel({axes.SEED: chosen}).transpose(axes.SEED, axes.LAYER, axes.HEAD).values
    role = np.stack([own[heads.there][order[i].numpy()] for i, own in enumerate(roles)])
    by = (axes.SEED, "score", RANK)
    change = logprob[..., 1, :] - logprob[..., 0, :]
    along = {name: (axes.EXAMPLE, one.values) for name, one in sweep.coords.items() if one.dims == (axes.EXAMPLE,)}
    found = xr.Dataset(
        {
            "logprob": ((*by, STATE, axes.EXAMPLE), logprob),
            "change": ((*by, axes.EXAMPLE), change),
            "own": (("score", axes.EXAMPLE), _own(change, role)),
            "gated": ((axes.SEED, axes.EXAMPLE), value[:, 0]),
            "plain": (axes.EXAMPLE, base.isel({axes.METRIC: 0}).values),
        },
        {axes.SEED: chosen, "score": list(SCORES), RANK: np.arange(count), STATE: [OPEN, SHUT], **along}
        | {axes.LAYER: (by, layer), axes.HEAD: (by, head), "role": (by, role)},
        {key: sweep.attrs.get(key) for key in _KEPT} | {"method": "ordered_ablation", "gates": gates.attrs.get("spec")},
    )
    return stamped(mark_in_sample(found, selected_on=gates) if gates.attrs.get("selected_on") else found)


def _in_turn(start: Tensor, order: Tensor) -> Iterator[Tensor]:
    """Gates with each head of an order opened, then shut for good."""
    gates = start.clone()
    for head in order.tolist():
        for factor in (1.0, 0.0):
            gates[head] = factor
            yield gates.clone()


def _numbers(heads: Heads) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return np.array(heads.layers)[:, None], np.arange(heads.there.shape[1])[None]


def _own(change: np.ndarray[Any, Any], role: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """``[score, example]``: means over the heads whose role it is."""
    found = np.full((len(SCORES), change.shape[-1]), np.nan)
    for i, kind in enumerate(SCORES):
        of_kind = role[:, i] == kind
        if of_kind.any():
            found[i] = change[:, i][of_kind].mean(0)
    return found


def _seeds(gates: xr.Dataset, seeds: int | Sequence[int] | None) -> list[int]:
    known = gates[axes.SEED].values.tolist()
    asked = known if seeds is None else [seeds] if isinstance(seeds, int) else list(seeds)
    for seed in asked:
        if seed not in known:
            raise UnknownNameError("seed", str(seed), map(str, known))
    return asked
