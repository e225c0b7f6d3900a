"""The gauge laws: what interventions mean must not depend on how a function is written down.

>>> [name for name, _, _ in GAUGES]
['fold_gains', 'fold_value_bias', 'permute_heads', 'rotate']

The weights of a copy are rewritten such that the function is the same (:mod:`interp.doctor.gauges`). Another run's value at a
site, and the mean over examples, must then have the effect that they had. Zero is no such value: the output of a head is zero
at another point once the value bias is part of b_O, and the law of that rewrite says that it is so. Results and plans name it
(:mod:`interp.engine.gauge`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from interp import axes
from interp.doctor.gauges import Rewritten, fold_gains, fold_value_biases, reverse_heads, twin
from interp.doctor.patient import LOGITS, Patient, Runs
from interp.doctor.rotation import rotate
from interp.doctor.verdict import Case, Refused, Verdict, deviation, judged
from interp.models import Model
from interp.models.taps import Write
from interp.sites import Site

_BEFORE: WeakKeyDictionary[Runs, list[Tensor]] = WeakKeyDictionary()
"""What the interventions give on the model as it is, which every rewrite is compared with."""

_COPIES = 2 * 10**9
"""Parameters of a model of which a rewritten copy is still made."""


class _Intervention(NamedTuple):
    kind: str
    """``"patch"``, ``"mean"`` or ``"zero"``."""
    site: Site


def _law(name: str, rewrite: Callable[[Model], Rewritten], besides: str) -> Callable[[Patient], Verdict]:
    """The law of one rewrite.

    Args:
        besides: what may be the matter where the rewrite changes the function.
    """

    def check(patient: Patient) -> Verdict:
        if not patient.runs_here:
            raise Refused("its weights are not in this process")
        count = sum(parameter.numel() for parameter in patient.model.module.parameters())
        if count > _COPIES:
            raise Refused(f"a copy of its {count / 1e9:.0f} billion weights would have to be made")
        patient.streams  # noqa: B018 - refused without
        if patient.model.dtype in (torch.float16, torch.bfloat16):  # other weights round otherwise, far more than this asks for
            patient = Patient(twin(patient.model))
        return _compared(patient, name, rewrite(patient.model), besides)

    return check


def _compared(patient: Patient, name: str, rewritten: Rewritten, besides: str) -> Verdict:
    tolerance = 10 * patient.tolerance  # other weights round otherwise, layer after layer
    cases: list[Case] = []
    for before in patient.streams.values():
        after = before.on(rewritten.model)
        for end in before.ends:
            change = deviation(after.found[end], _turned(rewritten, end, before.found[end]))
            if change > tolerance:
                raise Refused(f"this changes its function ({end!r} by {change:.0e}), so that {besides}")
        cases += _effects(before, after, rewritten)
    moved = [case for case in cases if case.what.startswith("zero") and _site_of(case) in rewritten.moves_zero]
    kept = [case for case in cases if case not in moved]
    if moved and max(case.deviation for case in moved) <= tolerance:
        return Verdict(name, "failed", "zero ablation of z did not change, so that its flag says nothing", 0.0, tolerance)
    verdict = judged(name, kept, tolerance, rewritten.left)
    if verdict.status == "failed":
        return verdict
    flagged = f"; zero ablation of z changes by up to {max(case.deviation for case in moved):.0e}" if moved else ""
    return Verdict(name, "passed", f"{rewritten.what}: {verdict.what}{flagged}", verdict.deviation, tolerance, rewritten.left)


def _effects(before: Runs, after: Runs, rewritten: Rewritten) -> Iterator[Case]:
    asked = list(_interventions(before))
    now = [_Intervention(kind, rewritten.site(site, _heads(before, site))) for kind, site in asked]
    if before not in _BEFORE:
        _BEFORE[before] = before.together([{each.site.tensor: _write(before, each)} for each in asked])
    found = after.together([{each.site.tensor: _write(after, each)} for each in now])
    for i, (kind, site) in enumerate(asked):
        apart = [
            deviation(got[i], _turned(rewritten, end, expected[i]))
            for end, got, expected in zip(before.ends, found, _BEFORE[before], strict=True)
        ]
        yield Case(f"{kind} of {site!r}", max(apart))


def _interventions(runs: Runs) -> Iterator[_Intervention]:
    """At the first and the last layer: every site as a whole, and heads alone."""
    layers = {None, 0, runs.layers[-1]}
    for site in runs.sites:
        if site == LOGITS or site.layer not in layers or site.name.endswith("scores"):
            continue
        kinds = ("patch", "mean", "zero") if site.name in ("z", "cross_z") else ("patch", "mean")
        yield from (_Intervention(kind, site) for kind in kinds)
        if axes.HEAD in site.axes:
            heads = range(_heads(runs, site)) if site.name in ("z", "cross_z") else (0,)
            yield from (_Intervention(kind, site.at(head=head)) for head in heads for kind in kinds)


def _write(runs: Runs, intervention: _Intervention) -> Write:
    site = intervention.site
    value = _value(runs, intervention)
    if site.head is None:
        return lambda h: value.to(h).expand_as(h)
    return partial(_head_written, site.axes.index(axes.HEAD), site.head, value)


def _head_written(axis: int, head: int, value: Tensor, h: Tensor) -> Tensor:
    h = h.clone()
    h.select(axis, head).copy_(value.expand_as(h).select(axis, head))
    return h


def _value(runs: Runs, intervention: _Intervention) -> Tensor:
    own = runs.found[intervention.site.tensor]
    if intervention.kind == "patch":
        return runs.others[intervention.site.tensor]
    return own.mean(0, keepdim=True) if intervention.kind == "mean" else torch.zeros_like(own)


def _heads(runs: Runs, site: Site) -> int:
    return runs.found[site.tensor].shape[site.axes.index(axes.HEAD)] if axes.HEAD in site.axes else 0


def _turned(rewritten: Rewritten, end: Site, tensor: Tensor) -> Tensor:
    """What the original gives at the end of a stream, in the basis of the rewritten model."""
    rotation = rewritten.turned.get(end.stream) if end != LOGITS else None
    return tensor if rotation is None else (tensor.double() @ rotation).to(tensor)


def _site_of(case: Case) -> str:
    return case.what.rpartition(".")[2]


GAUGES: Sequence[tuple[str, str, Callable[[Patient], Verdict]]] = (
    (
        "fold_gains",
        "norm gains folded into the maps that read them: patching and mean ablation do not change",
        _law("fold_gains", fold_gains, "something else reads a norm"),
    ),
    (
        "fold_value_bias",
        "b_V folded into b_O: patching and mean ablation do not change, zero ablation of z does",
        _law("fold_value_bias", fold_value_biases, "the values are used otherwise too"),
    ),
    (
        "permute_heads",
        "heads in another order: patching and mean ablation of a head have their effect at its new place",
        _law("permute_heads", reverse_heads, "heads differ in more than their weights, as by position biases"),
    ),
    (
        "rotate",
        "the residual stream in another basis, where norms let it: patching and mean ablation do not change",
        _law("rotate", rotate, "something else writes to the stream or reads it"),
    ),
)
