"""Interventions of ours as a config of pyvene's, with its own objects in it, and the locations that its calls take.

>>> config = to_config(das, model)                                                       # doctest: +SKIP
>>> peer = pyvene.IntervenableModel(config, copy.deepcopy(model.module))                 # doctest: +SKIP
>>> peer(base, [source], unit_locations(das, model, model.encode(prompts)))              # doctest: +SKIP
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from interp.errors import InteropError
from interp.interop.pyvene.calls import Calls
from interp.interop.pyvene.changes import Read, Target, targeted
from interp.interop.pyvene.components import input_of, name_of
from interp.interop.pyvene.kinds import written_out
from interp.interop.pyvene.reading import Imported
from interp.interventions import (
    Activation,
    Add,
    BoundlessMask,
    Change,
    Constant,
    Identity,
    Intervention,
    Joint,
    Mask,
    Replace,
    Rotation,
    Scale,
    Select,
    Subspace,
)
from interp.models import Model, Tokens


def to_config(what: Imported | Intervention | Change, model: Model) -> Any:
    """An ``IntervenableConfig`` that says the same, its interventions made and filled with what was learned.

    Positions, heads and sources are no part of such a config: :func:`unit_locations` gives the first two, and pyvene takes the
    prompts of the sources with every call. What :func:`from_config` read keeps its fields, also those that mean nothing here.

    Raises:
        InteropError: what pyvene cannot say, with the reason: another edit, a source that is no run's own value, a site that
            it has no name for.
    """
    import pyvene

    representations = []
    for one, said in _parts(what):
        fields = _representation(pyvene, model, one) | _kept(said)
        if "subspace_partition" in said:
            fields["intervention"].subspace_partition = written_out(said["subspace_partition"])
        representations.append(pyvene.RepresentationConfig(**fields))
    return pyvene.IntervenableConfig(representations, mode="parallel")


def unit_locations(
    what: Imported | Intervention | Change, model: Model, base: Tokens, source: Tokens | None = None
) -> dict[str, Any]:
    """The ``unit_locations`` of a call of pyvene's, with every example's own.

    Args:
        base: the encoded prompts that the model runs on, ``model.encode(prompts)``.
        source: those that values come from; by default at the same places.
    """
    parts = [one for one, _ in _parts(what)]
    return {"sources->base": tuple([_located(one, model, tokens) for one in parts] for tokens in (source or base, base))}


def _parts(what: Imported | Intervention | Change) -> list[tuple[Change | Read, Mapping[str, Any]]]:
    if isinstance(what, Imported):
        return list(zip(what.made, what.said, strict=True))
    if not isinstance(what, Intervention | Change):
        raise InteropError(f"what is {type(what).__name__}; expected an intervention, a change, or what from_config gave")
    return [(one, {}) for one in (what.changes if isinstance(what, Intervention) else (what,))]


def _kept(said: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in said.items() if name not in ("source_representation", "hidden_source_representation")
    }


def _representation(pyvene: Any, model: Model, one: Change | Read) -> dict[str, Any]:
    """The fields of one representation."""
    target, by_head = _target(model, one)
    component, layer = name_of(model, target.site, by_head=by_head)
    units = len(target.heads or (0,)) if by_head else target.tokens
    width = target.width if by_head else target.width * target.tokens
    own = pyvene.CollectIntervention(embed_dim=width) if isinstance(one, Read) else _made(pyvene, model, one, target, width)
    if isinstance(one, Read) and one.columns is not None:
        if one.columns != tuple(range(len(one.columns))):
            raise InteropError(f"{one!r}: pyvene collects the first features alone, or subspaces that are given with a call")
        own.set_interchange_dim(len(one.columns))
    unit = "pos" if not by_head else "h" if target.positions.is_all else "h.pos"
    fields = {"layer": layer, "component": component, "unit": unit, "max_number_of_units": units, "intervention": own}
    rank = getattr(getattr(own, "rotate_layer", None), "weight", torch.empty(0, 0)).shape[1]
    return fields | ({"low_rank_dimension": rank} if type(own).__name__.startswith("LowRank") else {})


def _target(model: Model, one: Change | Read) -> tuple[Target, bool]:
    """Where it acts, and whether pyvene keeps heads apart there."""
    heads: Sequence[int] | None = one.heads if isinstance(one, Read) and one.by_head else None
    joint = one.featurizer if isinstance(one, Change) and isinstance(one.featurizer, Joint) else None
    if joint is not None and joint.heads is not None and joint.heads != tuple(range(joint.of or 0)):
        heads = joint.heads
    by_head = heads is not None or one.site.head is not None
    if joint is not None and joint.heads is not None and "b h t d" in joint.pattern:
        by_head, heads = True, joint.heads
    return targeted(model, one.site, one.positions, by_head=by_head, heads=heads, units=getattr(joint, "tokens", 1)), by_head


# ---------------------------------------------------------------------------------------- from our words to its classes


def _made(pyvene: Any, model: Model, change: Change, target: Target, width: int) -> Any:
    """The intervention that does there what a change does here."""
    edit, inner = change.edit, change.featurizer.inner if isinstance(change.featurizer, Joint) else change.featurizer
    if isinstance(edit, Calls):
        return edit.intervention
    basis = None
    if isinstance(inner, Rotation | Subspace):
        basis = inner.basis.detach()
        if not change.keep_error and basis.shape[0] != basis.shape[1]:
            raise InteropError(f"{change!r} drops what its basis does not hold (keep_error=False); pyvene always keeps it")
    elif inner is not None and not isinstance(inner, Identity):
        raise InteropError(f"{change!r}: pyvene has no class for the featurizer {inner!r}")
    if type(edit) is Replace and basis is None and _enters(model, change):
        return pyvene.SkipIntervention(embed_dim=width)
    if edit.reads_source:
        _refuse_source(change)
    for kind, rule in _RULES.items():
        if type(edit) is kind:
            found = rule(pyvene, change, basis, width)
            if found is not None:
                return found
    raise InteropError(f"{change!r}: pyvene has no class for the edit {edit!r}{' in a rotation' if basis is not None else ''}")


def _enters(model: Model, change: Change) -> bool:
    """Whether the values are what goes into the module whose output they replace."""
    source = change.source
    moved = isinstance(source, Activation) and source.site is not None and source.pool == "none" and source.layer is None
    return moved and source.site_for(change.site).tensor == input_of(model, change.site)  # type: ignore[union-attr]


def _refuse_source(change: Change) -> None:
    source = change.source
    if isinstance(source, Constant):
        return
    plain = isinstance(source, Activation) and source.pool == "none" and source.site is None and source.layer is None
    if not plain or not isinstance(source, Activation) or source.model is not None:
        raise InteropError(
            f"{change!r}: pyvene takes values from a run of the same model at the same site, or a constant vector"
        )


def _replaced(pyvene: Any, change: Change, basis: Tensor | None, width: int) -> Any:
    source = change.source
    if basis is not None:
        return _rotated(pyvene, basis) if isinstance(source, Activation) else None
    if isinstance(source, Constant) and not isinstance(source.value, Tensor) and source.value == 0:
        return pyvene.ZeroIntervention(embed_dim=width)
    return pyvene.VanillaIntervention(embed_dim=width, source_representation=_constant(change))


def _added(pyvene: Any, change: Change, basis: Tensor | None, width: int) -> Any:
    assert isinstance(change.edit, Add)
    kind = {1.0: "AdditionIntervention", -1.0: "SubtractionIntervention"}.get(float(change.edit.scale))
    if basis is not None or kind is None:
        return None
    return getattr(pyvene, kind)(embed_dim=width, source_representation=_constant(change))


def _scaled(pyvene: Any, change: Change, basis: Tensor | None, width: int) -> Any:
    assert isinstance(change.edit, Scale)
    return pyvene.ZeroIntervention(embed_dim=width) if basis is None and change.edit.factor == 0 else None


def _selected(pyvene: Any, change: Change, basis: Tensor | None, width: int) -> Any:
    """Only the first coordinates: others are chosen with each call of pyvene's, as subspaces."""
    edit = change.edit
    assert isinstance(edit, Select)
    chosen = edit.chosen.flatten()
    first = edit.chosen.ndim == 1 and bool(chosen[: edit.count].all()) and edit.count > 0
    if not first or (basis is not None and (basis.shape[0] != basis.shape[1] or not edit.reads_source)):
        raise InteropError(
            f"{change!r}: an intervention of pyvene's has the first coordinates of a site or of a full rotation; others are "
            "the subspaces of a call"
        )
    if basis is not None:
        found = _rotated(pyvene, basis) if isinstance(change.source, Activation) else None
    elif edit.reads_source:
        found = pyvene.VanillaIntervention(embed_dim=width, source_representation=_constant(change))
    else:
        found = pyvene.ZeroIntervention(embed_dim=width)
    if found is not None:
        found.set_interchange_dim(edit.count)
    return found


def _bounded(pyvene: Any, change: Change, basis: Tensor | None, width: int) -> Any:
    edit = change.edit
    assert isinstance(edit, BoundlessMask)
    if edit.form != "two-sided" or basis is None or basis.shape[0] != basis.shape[1] or isinstance(change.source, Constant):
        return None
    found = _turned(pyvene.BoundlessRotatedSpaceIntervention(embed_dim=len(basis)), basis)
    found.set_intervention_boundaries(float(edit.fraction.detach()))
    found.set_temperature(torch.tensor(edit.temperature))
    return found


def _masked(pyvene: Any, change: Change, basis: Tensor | None, width: int) -> Any:
    edit = change.edit
    assert isinstance(edit, Mask)
    if edit.logits.ndim != 1 or isinstance(change.source, Constant) or (basis is not None and basis.shape[0] != basis.shape[1]):
        return None
    name, tensor = ("SigmoidMaskIntervention", "mask") if basis is None else ("SigmoidMaskRotatedSpaceIntervention", "masks")
    found = getattr(pyvene, name)(embed_dim=len(edit.logits))
    if basis is not None:
        _turned(found, basis)
    setattr(found, tensor, nn.Parameter(edit.logits.detach().clone()))
    found.set_temperature(torch.tensor(edit.temperature))
    return found


_RULES: Mapping[type, Callable[[Any, Change, Tensor | None, int], Any]] = {
    Replace: _replaced,
    Add: _added,
    Scale: _scaled,
    Select: _selected,
    BoundlessMask: _bounded,
    Mask: _masked,
}


def _constant(change: Change) -> Tensor | None:
    """A source of an intervention's own."""
    if not isinstance(change.source, Constant):
        return None
    value = change.source.value
    if not isinstance(value, Tensor) or value.ndim == 0:
        raise InteropError(
            f"{change!r}: pyvene takes a constant vector as long as the site, not one number; only zero has a class"
        )
    return value.detach().reshape(-1).clone()


def _rotated(pyvene: Any, basis: Tensor) -> Any:
    width, rank = basis.shape
    if width == rank:
        return _turned(pyvene.RotatedSpaceIntervention(embed_dim=width), basis)
    return _turned(pyvene.LowRankRotatedSpaceIntervention(embed_dim=width, low_rank_dimension=rank), basis)


def _turned(found: Any, basis: Tensor) -> Any:
    found.rotate_layer.to(basis.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that the matrix is orthonormalised, which it is already
        found.rotate_layer.weight = basis.cpu().clone()
    return found


# ---------------------------------------------------------------------------------------- where, call by call


def _located(one: Change | Read, model: Model, tokens: Tokens) -> list[Any]:
    """Every example's tokens, with heads before them where pyvene keeps heads apart."""
    target, by_head = _target(model, one)
    columns = tokens.columns(target.positions).tolist()
    if any(column < 0 for row in columns for column in row):
        raise InteropError(f"{one!r} names more tokens in some examples than in others; pyvene wants as many in each")
    if not by_head:
        return columns
    heads = list(target.heads) if target.heads else [target.site.head]
    each = [heads] * len(columns)
    return each if target.positions.is_all else [each, columns]
