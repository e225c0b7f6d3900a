"""A run made again from what is kept beside it, and how far its numbers are from those that were kept.

    >>> again = interp.rerun(store.run("ioi-heads"))                                         # doctest: +SKIP
    >>> again                                                                                # doctest: +SKIP
    the same within rounding: logit_diff at most 1.9e-06 apart, 0.0012 allowed
      torch 2.9.1 → 2.13.0
    >>> again.result, again.within                                                           # doctest: +SKIP

A run that was made with ``store=`` keeps its recipe (:mod:`interp.engine.recipe`): the call, the model's origin, the prompts,
the arguments with every tensor in them. The model is loaded as it was and its weights are compared by their digest, so are
the prompts; then the same call is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
import xarray as xr

from interp import axes
from interp import effects as fx
from interp.engine import attribute, patch, patch_circuits, patch_edges
from interp.engine.alignment.options import Options
from interp.engine.recipe import ASIDE, Recipe
from interp.errors import StoreError
from interp.methods.ablation.ablation import ablate
from interp.methods.abstraction.binary_masking import binary_masking
from interp.methods.abstraction.boundless import boundless_das
from interp.methods.abstraction.das import das
from interp.methods.abstraction.nonlinear import nonlinear_das
from interp.methods.circuits.acdc import acdc
from interp.methods.circuits.diffmask import diffmask
from interp.methods.circuits.edge_attribution import attribute_edges
from interp.methods.circuits.head_gating import gate_heads
from interp.methods.circuits.head_gating.contrastive import contrastive_gates
from interp.methods.circuits.interactions import interactions
from interp.methods.circuits.learned_masks import edge_pruning, subnetwork_probing
from interp.methods.localise.atp_star import atp_star
from interp.methods.localise.attention_knockout import knockout
from interp.methods.localise.integrated_gradients import integrated_gradients
from interp.methods.localise.path_patching import path_patch
from interp.models import Model

Result = xr.Dataset | xr.DataTree


def _numbers_of(search: Callable[..., Any]) -> Callable[..., Any]:
    """A search for alignments as what it measured."""

    @wraps(search)
    def again(*given: Any, **options: Any) -> xr.Dataset:
        found: xr.Dataset = search(*given, **options).effects
        return found

    return again


SEARCHES = {search.__name__: _numbers_of(search) for search in (binary_masking, boundless_das, das, nonlinear_das)}
CALLS: Mapping[str, Callable[..., Any]] = {
    "patch": patch,
    "attribute": attribute,
    "patch_edges": patch_edges,
    "patch_circuits": patch_circuits,
    "attribute_edges": attribute_edges,
    "acdc": acdc,
    "edge_pruning": edge_pruning,
    "subnetwork_probing": subnetwork_probing,
    "interactions": interactions,
    "gate_heads": gate_heads,
    "contrastive_gates": contrastive_gates,
    "diffmask": diffmask,
    "ablate": ablate,
    "path_patch": path_patch,
    "knockout": knockout,
    "integrated_gradients": integrated_gradients,
    "atp_star": atp_star,
    **SEARCHES,
}
_FACTS = ("device", "device_name", "dtype", "float32_precision", "strategy", "attention", "engine_semantics", "git_revision")
"""What is compared of two results' attrs, beside versions and spec."""
_TF32 = 8 * 2.0**-10
_ROUNDING = {"float64": 1e-10, "float32": 1e-4, "float16": 8 * 2.0**-10, "bfloat16": 8 * 2.0**-7}
"""By how much numbers may be off, relative to 1 + the largest of them."""
_NUMBERS = ("value", "clean", "corrupt", "given")


class Kept(Protocol):
    """What is asked of a run (:class:`interp.store.Run`)."""

    @property
    def id(self) -> str: ...
    def load(self) -> Result: ...
    def beside(self) -> Mapping[str, bytes]: ...


class Deviation(NamedTuple):
    """How far numbers of one metric are from those that were kept; of a training, those of one variable."""

    metric: str
    largest: float
    allowed: float

    @property
    def ratio(self) -> float:
        return self.largest / self.allowed


@dataclass(frozen=True, eq=False, repr=False)
class Rerun:
    """A run made again."""

    result: Result
    worst: Deviation
    """Of the metric that is furthest off, for what is allowed of it."""
    differs: tuple[str, ...]
    """What else is not as it was: versions, the device, …"""

    @property
    def within(self) -> bool:
        """Whether all numbers are as they were, but for rounding."""
        return self.worst.ratio <= 1

    def __repr__(self) -> str:
        metric, largest, allowed = self.worst
        verdict = "the same within rounding" if self.within else "NOT the same"
        head = f"{verdict}: {metric} at most {largest:.2g} apart, {allowed:.2g} allowed"
        return "\n".join([head, *(f"  {line}" for line in self.differs)])


def rerun(
    run: Kept,
    *,
    model: Model | None = None,
    device: str | torch.device | None = None,
    kinds: Iterable[type] = (),
    progress: bool | None = None,
    **unwritten: Any,
) -> Rerun:
    """Make a run again and compare.

    Args:
        run: from a store, such as ``store.run("ioi-heads")``, made by a sweep that was called with ``store=``.
        model: in place of the one that would be loaded; needed where a live module was used. It has the same weights.
        device: where to run; by default where the run was made.
        kinds: classes of your own that the call was made with: metrics, featurizers, edits. They say by ``options()``, or as
            dataclasses, how they are made again.
        progress: show a bar; by default after the first second.
        **unwritten: arguments that no file holds, such as ``metric`` where it was a function.

    Returns:
        The new result with its largest deviation. Of float64 1e-10 × (1 + the largest number) is allowed, of float32 1e-4 ×,
        of other dtypes and of TF32 eight times their precision ×, and never less than thrice the noise floor of the run.

    Raises:
        StoreError: the run has no recipe, or it is damaged; its model or a part of the call cannot be had again, or is another.
        LoadError: the model's files are not there. And what the call itself raises.
    """
    files = _beside(run)
    if model is not None and not isinstance(model, Model):
        raise StoreError(f"model is of type {type(model).__name__}; expected a model, such as interp.load(…) gives")
    if not isinstance(kinds, Iterable):
        raise StoreError(f"kinds is {kinds!r} of type {type(kinds).__name__}; expected classes, such as kinds=(MyMetric,)")
    before = run.load()
    try:
        recipe = Recipe.of(files)
        if recipe.call not in CALLS:
            raise StoreError(f"it was made by {recipe.call!r}; this version of interp makes {', '.join(CALLS)} again")
        taken = set(signature(CALLS[recipe.call]).parameters) - set(ASIDE)
        taken |= set(Options.__annotations__) if recipe.call in SEARCHES else set()
        if strange := sorted({*recipe.arguments, *recipe.unwritten} - {*taken, "pairs"}):
            raise StoreError(f"its recipe has the argument {strange[0]!r}, which interp.{recipe.call} is not called with here")
        if model is None:
            model = recipe.load(device, progress=progress)
        elif device is not None:
            raise StoreError(f"model and device={str(device)!r} are both given; a model is run where it is")
        recipe.check(model)
        pairs, arguments = recipe.made(model, kinds=kinds, **unwritten)
    except StoreError as error:
        raise StoreError(f"run {run.id}: {error}") from error
    result = CALLS[recipe.call](model, pairs, **arguments, progress=progress)
    return compared(before, result)


def _beside(run: Any) -> Mapping[str, bytes]:
    if not hasattr(run, "beside"):
        raise StoreError(
            f"run is of type {type(run).__name__}; expected a run of a store, such as interp.Store('runs').run('name'): a "
            "result alone does not hold what it was made of"
        )
    return cast("Kept", run).beside()


def compared(before: Result, after: Result) -> Rerun:
    """A result beside the one that it should be."""
    old, new = fx.families(before), fx.families(after)
    names = [", ".join(filter(None, of)) or "none" for of in (old, new)]
    differs = [] if old.keys() == new.keys() else [f"families {' → '.join(names)}"]
    found = [Deviation("value", math.inf, 1.0)] if differs else []
    for name in old.keys() & new.keys():
        changed = _changed(old[name], new[name])
        found += [Deviation("value", math.inf, 1.0)] if changed else _deviations(old[name], new[name])
        differs += [*changed, *_facts(old[name].attrs, new[name].attrs)]
    return Rerun(after, max(found, key=lambda one: one.ratio), tuple(dict.fromkeys(differs)))


def _changed(old: xr.Dataset, new: xr.Dataset) -> list[str]:
    """What keeps two results from being compared number by number."""
    found = [f"sizes {dict(old.sizes)} → {dict(new.sizes)}"] if old.sizes != new.sizes else []
    known = [dim for dim in old.sizes if dim in old.indexes and dim in new.indexes]
    found += [f"what is along {dim}" for dim in known if not found and not old.indexes[dim].equals(new.indexes[dim])]
    return found + [name for name in (_NUMBERS if fx.is_effects(old) else _variables(old)) if (name in old) != (name in new)]


def _variables(ds: xr.Dataset) -> list[str]:
    """Those that hold numbers which rounding may move."""
    return [str(name) for name, array in ds.data_vars.items() if array.dtype.kind == "f"]


def _deviations(old: xr.Dataset, new: xr.Dataset) -> list[Deviation]:
    if not fx.is_effects(old):  # of a training: its variables
        each = {name: [of[name].values.ravel() for of in (old, new)] for name in _variables(old)}
        return [Deviation(name, _apart(*both), _allowed(old, new, name, both[0])) for name, both in each.items()]
    found = []
    for metric in map(str, old[axes.METRIC].values):
        pairs = [(of.sel(metric=metric).values for of in (old[name], new[name])) for name in _NUMBERS if name in old]
        both = [np.concatenate([side.ravel() for side in sides]) for sides in zip(*pairs, strict=True)]
        found.append(Deviation(metric, _apart(*both), _allowed(old, new, metric, both[0])))
    return found


def _apart(old: np.ndarray[Any, Any], new: np.ndarray[Any, Any]) -> float:
    """The largest distance; none between what is no number in both, or infinite in both."""
    same = (old == new) | (np.isnan(old) & np.isnan(new))
    gaps = np.abs(np.subtract(new, old, where=~same, out=np.zeros_like(old)))
    return float(np.where(np.isnan(gaps), np.inf, gaps).max(initial=0.0))


def _allowed(old: xr.Dataset, new: xr.Dataset, metric: str, numbers: np.ndarray[Any, Any]) -> float:
    """How far the numbers of a metric, or of a variable, may be from what they were."""
    finite = np.abs(numbers[np.isfinite(numbers)])
    relative = max(_rounding(of.attrs) for of in (old, new))
    floor = max(of.attrs.get("noise_floor", {}).get(metric, 0.0) for of in (old, new))
    return max(relative * (1 + float(finite.max(initial=0.0))), 3 * floor)


def _rounding(attrs: Mapping[str, Any]) -> float:
    own = _ROUNDING.get(attrs["dtype"], _ROUNDING["bfloat16"])
    return max(own, _TF32) if "tf32" in str(attrs.get("float32_precision")) else own


def _facts(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What two results' attrs say otherwise."""
    versions = [(name, one, (new.get("versions") or {}).get(name)) for name, one in (old.get("versions") or {}).items()]
    facts = [(name, old[name], new.get(name)) for name in _FACTS if name in old]
    specs = [dict(of.get("spec") or {}) for of in (old, new)]
    other = [key for key in specs[0] | specs[1] if specs[0].get(key) != specs[1].get(key)]
    found = [f"{name} {one} → {other}" for name, one, other in (*versions, *facts) if one != other]
    return found + ([f"spec: {', '.join(other)}"] if other else [])
