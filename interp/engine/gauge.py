"""What in a result depends on how the function is written down: zero at a head's output, where values have a bias.

>>> attribute(model, [Intervention.of("L9H6.z", source=zero())])                          # doctest: +SKIP
{'gauge': 'zero ablation of z depends on b_V: …'}

Rows of a pattern sum to 1, so a head adds W_O b_V whatever it attends to, and its value bias may as well stand in the output
bias: the function is the same (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"). Zero is then another
point of ``v``, ``z`` and ``result``, and so is a multiple; of a pattern whose rows no longer sum to 1 less of b_V is left.
Where a sink takes a share of every row that differs from row to row, b_V cannot be moved, and nothing is flagged.
Another run's value, or a mean, moves along and has the same effect.
:mod:`interp.doctor` tests both on any model.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from interp.interventions import Add, Change, Constant, Intervention
from interp.models import Model
from interp.models.layouts import BesideSink, Flat, Heads
from interp.sites import Site

_AT = {f"{prefix}{name}": prefix for prefix in ("", "cross_") for name in ("pattern", "v", "z", "result")}


def flag(model: Model, interventions: Iterable[Intervention]) -> str:
    """Which of some interventions depend on where value biases stand, in one line; empty if none does."""
    found: dict[str, None] = {}
    known: dict[Site, bool] = {}
    for intervention in interventions:
        for change in intervention.changes:
            what, site = _ablation(change), change.site.tensor
            if what and site not in known:
                known[site] = _biased(model, site)
            if what and known[site]:
                found[f"{what} of {site.name}"] = None
    if not found:
        return ""
    return (
        f"{' and '.join(found)} depends on b_V: the value biases of {model.name} may as well stand in b_O, and zero is then "
        "another point; mean ablation and patching do not depend on it"
    )


def attribute(model: Model, interventions: Iterable[Intervention]) -> dict[str, str]:
    """The same as an attribute of a result, ``gauge``, where there is something to say."""
    said = flag(model, interventions)
    return {"gauge": said} if said else {}


def _ablation(change: Change) -> str:
    """What a change does that takes zero for a special point; empty for replacing by activations and for adding."""
    if change.site.path is not None or change.site.name not in _AT or isinstance(change.edit, Add):
        return ""
    if not change.edit.reads_source:
        return "scaling"
    if not isinstance(change.source, Constant):
        return ""
    value = change.source.value
    zero = not bool(value.any()) if isinstance(value, Tensor) else value == 0
    return "zero ablation" if zero else "a constant in place"


def _biased(model: Model, site: Site) -> bool:
    """Whether a layer's values have a bias; where that cannot be told, they may."""
    v, pattern = (Site(f"{_AT[site.name]}{name}", layer=site.layer, stream=site.stream) for name in ("v", "pattern"))
    if model.has(pattern) and isinstance(model.taps(pattern).layout, BesideSink):
        return False  # rows sum to less than 1, each to its own share: b_V has one place
    if not model.has(v):
        return True
    tap = model.taps(v)
    bias = getattr(model.module.get_submodule(tap.path), "bias", None)
    layout = tap.layout.layout if isinstance(tap.layout, Flat) else tap.layout
    if not isinstance(bias, Tensor):
        return False
    return bool(layout.read(bias[None, None], None).any()) if isinstance(layout, Heads) else True
