"""What a model proves of its fused attention: rows computed beside it are those of its eager attention, read and written.

    >>> refused(model)                                                                      # doctest: +SKIP
    'its attention is eager'

Run on random inputs as they are, and with the first tokens of one example masked as padding is: under eager attention, which
forms whole scores and patterns, and as the model runs, with some rows computed beside (:mod:`interp.models.inside`). Every site
must give the same rows, and writing scores and patterns the same logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.models.hooks import Hooks
from interp.models.probe import tolerance
from interp.models.queries import AtQueries
from interp.models.taps import Reads
from interp.sites import Site

if TYPE_CHECKING:
    from interp.models.model import Model

_FAILS = (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError, AssertionError)
"""What attention that is called in an unforeseen way raises."""
_PADDED = 2
_LOGITS = Site("logits")


def refused(model: Model) -> str:
    """Why rows of attention cannot be computed beside it; empty if they can."""
    sites = [site for site in model.sites() if site.name.endswith(("scores", "pattern"))]
    if not sites:
        return "it has no scores or patterns"
    if model.anatomy.repeated:
        return "one pass calls its attention several times"
    try:
        with torch.no_grad():
            return next(filter(None, (_differs(model, sites, inputs) for inputs in _inputs(model))), "")
    except _FAILS as error:
        return f"its attention is called in an unforeseen way ({type(error).__name__}: {f'{error} '.splitlines()[0][:200]})"


def _inputs(model: Model) -> list[Mapping[str, Tensor]]:
    """The example, and, of a model that reads nothing but tokens, the same with the first ones of its first prompt masked."""
    mask = model.example.get("attention_mask")
    if mask is None or mask.shape[-1] <= 2 * _PADDED or any(tensor.shape != mask.shape for tensor in model.example.values()):
        return [model.example]
    padded = mask.clone()
    padded[0, :_PADDED] = 0
    return [model.example, {**model.example, "attention_mask": padded}]


def _differs(model: Model, sites: list[Site], inputs: Mapping[str, Tensor]) -> str:
    """What is different beside fused attention, in words; empty if nothing is."""
    with model.prepared(sites):
        eager = _run(model, inputs, sites).found
        # A middle query and the last one: both are real in every example.
        at = {site: torch.tensor([n // 2, n - 1][-n:]) for site in sites for n in (eager[site].shape[2],)}
        writes = {site: AtQueries(at[site], _slanted) for site in sites}
        moved = _run(model, inputs, [_LOGITS], writes).found[_LOGITS]
    with model.prepared():
        rows = _run(model, inputs, at)
        written = _run(model, inputs, [_LOGITS], writes).found[_LOGITS]
    if rows.beside != {*sites}:
        return "its attention is eager"
    for site in sites:
        pattern, expected = (
            eager[s].index_select(2, at[site].to(eager[s].device))
            for s in (site.at(name=site.name.replace("scores", "pattern")), site)
        )
        deviation = _deviation(rows.found[site].where(pattern > 0, 0), expected.where(pattern > 0, 0))
        if not deviation <= tolerance(model):
            return f"{site!r} computed beside its attention is not that of its eager attention (deviation {deviation:.1e})"
    deviation = _deviation(written[1:], moved[1:])  # what stands at padding of the first is anything
    return (
        "" if deviation <= tolerance(model) else f"writing rows beside its attention moves logits otherwise ({deviation:.1e})"
    )


def _run(model: Model, inputs: Mapping[str, Tensor], reads: Reads, writes: Mapping[Site, AtQueries] | None = None) -> Hooks:
    taps = {site: model.anatomy.tap(site) for site in (*reads, *(writes or {}))}
    with Hooks(model.module, taps, reads, writes) as hooks:
        model.module(**inputs)
    return hooks


def _slanted(rows: Tensor) -> Tensor:
    """The less of what is attended to, the earlier it is; what is masked stays."""
    slant = torch.linspace(0.5, 1.0, rows.shape[-1], device=rows.device, dtype=rows.dtype)
    return torch.where(rows > torch.finfo(rows.dtype).min / 2, slant * rows, rows)


def _deviation(got: Tensor, expected: Tensor) -> float:
    """The most that two tensors differ, relative to the largest number."""
    return float((got.float() - expected.float()).abs().max()) / max(1e-6, float(expected.float().abs().max()))
