"""How a result is laid out: the dataset that a sweep fills, and what makes it one (the table of :mod:`interp.effects`)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeGuard

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from interp import axes as names
from interp.effects.origin import stamped
from interp.errors import ShapeMismatchError, UnknownNameError, UserError

DENOISING, NOISING = "denoising", "noising"
PATCHING = (DENOISING, NOISING)
"""Denoising: the base is the corrupted run and the source the clean one. Noising: the other way round."""

PROVENANCE = (
    *("model", "model_digest", "task", "pairs_digest", "seed", "patching", "site", "source", "edit", "strategy", "dtype"),
    *("noise_floor", "versions", "engine_semantics", "spec", "made_at", "wall_seconds"),
)
"""What every result says about itself; None where it is not known."""

_VARIABLES = ("value", "clean", "corrupt", "by_rule")
_REQUIRED = ("patching", "noise_floor", "engine_semantics", "spec")
_ON_EXAMPLE = ("template", "clean_prompt", "corrupted_prompt", "answer", "wrong")
_ON_TOKEN = ("clean_token", "corrupted_token")
_FLOATS = (np.dtype("float32"), np.dtype("float64"))


class EffectsError(UserError, ValueError):
    """A dataset that is not laid out as a result."""


def assemble(
    value: ArrayLike,
    clean: ArrayLike,
    corrupt: ArrayLike,
    *,
    axes: Mapping[str, Sequence[Any]],
    metrics: Sequence[str],
    given: ArrayLike | None = None,
    by_rule: ArrayLike | None = None,
    absent: ArrayLike | None = None,
    coords: Mapping[str, Any] | None = None,
    attrs: Mapping[str, Any],
) -> xr.Dataset:
    """A checked result.

    Args:
        value: ``[metric, *axes, example]``, float32 or float64.
        clean: ``[metric, example]``, of the same dtype.
        corrupt: like ``clean``.
        given: like ``clean``: the base with what was in force on it before any cell; left out where nothing was.
        axes: the swept axes in the order of ``interp.axes.SWEPT``, each with its values.
        metrics: names of the metrics.
        by_rule: ``[*axes, example]`` bool; none where left out.
        absent: ``[*axes]`` bool; left out where every site exists.
        coords: further coordinates: the known ones (``template``, ``clean_token`` …) as plain values, any other as
            ``(dims, values)``.
        attrs: provenance, JSON; ``patching``, ``noise_floor`` of every metric, ``engine_semantics`` and ``spec`` are required
            (``spec`` None: a run without identity), the rest of :data:`PROVENANCE` is set to None where it is left out.

    Returns:
        The result, stamped with the digest of its numbers (:mod:`interp.effects.origin`).

    Raises:
        ShapeMismatchError: arrays that do not fit each other; every one is listed with its shape.
        UnknownNameError: an axis that is none.
        EffectsError: anything else that is not laid out as above.
    """
    names.check(axes)
    value, clean, corrupt = np.asarray(value), np.asarray(clean), np.asarray(corrupt)
    swept = tuple(axes)
    examples = value.shape[-1] if value.ndim else 0
    by_rule = np.zeros(value.shape[1:], bool) if by_rule is None else np.asarray(by_rule)
    cells = tuple(len(v) for v in axes.values())
    parties = {
        "value": (value, (len(metrics), *cells, examples)),
        "clean": (clean, (len(metrics), examples)),
        "corrupt": (corrupt, (len(metrics), examples)),
        "by_rule": (by_rule, (*cells, examples)),
    }
    if given is not None:
        parties["given"] = (np.asarray(given), (len(metrics), examples))
    if absent is not None:
        parties["absent"] = (np.asarray(absent), cells)
    if any(array.shape != wanted for array, wanted in parties.values()):
        listed = ", ".join(f"{n} {a.shape} (expected {w})" for n, (a, w) in parties.items())
        layout = ", ".join([f"metric={len(metrics)}", *(f"{a}={len(v)}" for a, v in axes.items()), f"example={examples}"])
        raise ShapeMismatchError(f"arrays do not fit the axes {layout}: {listed}")
    dims = {
        "value": (names.METRIC, *swept, names.EXAMPLE),
        "clean": (names.METRIC, names.EXAMPLE),
        "corrupt": (names.METRIC, names.EXAMPLE),
        "given": (names.METRIC, names.EXAMPLE),
        "by_rule": (*swept, names.EXAMPLE),
        "absent": swept,
    }
    labels: dict[str, Any] = {names.METRIC: (names.METRIC, list(metrics))} | {a: (a, list(v)) for a, v in axes.items()}
    for name, values in (coords or {}).items():
        if name in _ON_EXAMPLE and not isinstance(values, tuple | xr.DataArray):
            values = (names.EXAMPLE, values)
        elif name in _ON_TOKEN and not isinstance(values, tuple | xr.DataArray):
            values = ((names.POSITION, names.EXAMPLE), values)
        labels[name] = values
    made = {"made_at": datetime.now(UTC).isoformat(timespec="seconds")}
    ds = xr.Dataset(
        {name: (dims[name], array) for name, (array, _) in parties.items()},
        coords={name: _coordinate(name, values) for name, values in labels.items()},
        attrs=_json(dict.fromkeys(PROVENANCE) | made | dict(attrs), missing=set(_REQUIRED) - set(attrs)),
    )
    return stamped(validate(ds))


def validate(ds: Any) -> xr.Dataset:
    """``ds`` itself where it is laid out as a result, else an error that says what is not."""
    if isinstance(ds, xr.DataTree) and ds.is_leaf:
        raise EffectsError(f"this is the node {ds.name!r} of a DataTree; give its dataset: result[{ds.name!r}].to_dataset()")
    if isinstance(ds, xr.DataTree):
        families = [node.path.strip("/") for node in ds.leaves]
        raise EffectsError(
            f"this result holds several families ({', '.join(families)}); choose one: result[{families[0]!r}].to_dataset()"
        )
    if not isinstance(ds, xr.Dataset):
        raise EffectsError(f"a result of interp.patch is an xarray Dataset; got {type(ds).__name__}{unread(ds)}")
    lacking = [v for v in _VARIABLES if v not in ds.data_vars]
    if lacking:
        raise EffectsError(
            f"a result of interp.patch has the variables value, clean, corrupt and by_rule; missing: {', '.join(lacking)}; "
            "any variable of another result can be drawn by interp.views.heatmap(result, variable) and interp.views.curve"
        )
    swept = swept_axes(ds)
    one = (names.METRIC,) if names.METRIC in ds["value"].dims else ()
    models = tuple(a for a in names.MODELS if a in ds["clean"].dims)
    expected = {
        "value": (*one, *(a for a in names.SWEPT if a in swept), names.EXAMPLE),
        "clean": (*one, *models, names.EXAMPLE),
        "corrupt": (*one, *models, names.EXAMPLE),
        "given": (*one, *models, names.EXAMPLE),
        "by_rule": (*(a for a in names.SWEPT if a in swept), names.EXAMPLE),
        "absent": tuple(a for a in names.SWEPT if a in swept),
    }
    _require_examples(ds)
    for name, dims in expected.items():
        if name in ds and ds[name].dims != dims:
            raise EffectsError(f"{name} has the dims {ds[name].dims}, expected {dims}")
    kinds = {v: ds[v].dtype for v in ("value", "clean", "corrupt", "given") if v in ds}
    if len(set(kinds.values())) != 1 or kinds["value"] not in _FLOATS:
        listed = ", ".join(f"{v} {d}" for v, d in kinds.items())
        raise EffectsError(f"value, clean and corrupt are all float32 or all float64, got {listed}")
    flags = [v for v in ("by_rule", "absent") if v in ds and ds[v].dtype != bool]
    if flags:
        raise EffectsError(f"{flags[0]} is {ds[flags[0]].dtype}, expected bool")
    for axis in (names.METRIC, *swept):
        values = ds[axis].values.ravel().tolist() if axis in ds.coords else []
        if not values:
            raise EffectsError(f"axis {axis!r} has no coordinate")
        if len(set(values)) != len(values):
            raise EffectsError(f"coordinate {axis!r} repeats values: {values}")
    _json(ds.attrs, missing=set(_REQUIRED) - set(ds.attrs))
    if ds.attrs["patching"] not in PATCHING:
        raise EffectsError(f"attrs['patching'] is 'denoising' or 'noising', got {ds.attrs['patching']!r}")
    floors = ds.attrs["noise_floor"]
    if not isinstance(floors, Mapping) or not set(ds[names.METRIC].values.ravel().tolist()) <= set(floors):
        raise EffectsError(f"attrs['noise_floor'] gives a number for every metric, got {floors!r}")
    _check_rule(ds)
    return ds


def is_effects(result: object) -> TypeGuard[xr.Dataset]:
    """Whether it is what a sweep returns, by its variables; :func:`validate` looks closer."""
    return isinstance(result, xr.Dataset) and set(_VARIABLES) <= set(result.data_vars)


def families(result: xr.Dataset | xr.DataTree | xr.DataArray) -> dict[str, xr.Dataset]:
    """The datasets of a result by name; ``""`` is that of a result that is no tree. An array alone is a dataset of one."""
    if isinstance(result, xr.DataArray):
        return {"": result.to_dataset(name=result.name or "value", promote_attrs=True)}
    if isinstance(result, xr.Dataset):
        return {"": result}
    return {node.path.strip("/"): node.to_dataset() for node in result.subtree if node.has_data}


def require(given: Any) -> None:
    """Raise if it is no result, or one without examples."""
    if not isinstance(given, xr.Dataset):
        validate(given)
    if is_effects(given):
        _require_examples(given)


def require_values(given: Any) -> None:
    """The same, also of a result that has no values as a sweep has them."""
    if isinstance(given, xr.Dataset) and "value" not in given:
        validate(given)
    require(given)


def _require_examples(ds: xr.Dataset) -> None:
    if names.EXAMPLE not in ds["value"].dims:
        raise EffectsError(
            "this result has no axis 'example', from which intervals and ratios of means are taken: choose examples by "
            f"isel({names.EXAMPLE}=[0]), which keeps it, and take means last: interp.recovery(result), interp.summary(result)"
        )


def unread(given: Any) -> str:
    """How an error about something that is no result goes on where it names a run: the run is to be loaded; "" of any other.

    >>> unread("a1b2c3d4e5f6"), unread("runs/a1b2c3d4e5f6")
    ("; load the run first: Store(…).load('a1b2c3d4e5f6')", "; load the run first: Store('runs').load('a1b2c3d4e5f6')")
    """
    several = list(given.values()) if isinstance(given, Mapping) else given
    one = several[0] if isinstance(several, list | tuple) and several else several
    if isinstance(one, str | os.PathLike) and str(one):
        folder, run = os.path.split(os.fspath(one).rstrip("/"))
        return f"; load the run first: Store({repr(folder) if folder else '…'}).load({run!r})"
    return "; load the run first: run.load()" if hasattr(one, "load") and not hasattr(one, "dims") else ""


def _check_rule(ds: xr.Dataset) -> None:
    """Cells by rule equal the base exactly, once they have a value; sites that do not exist have none."""
    if ds["by_rule"].any():
        known = ds["by_rule"] & ds["value"].notnull() & base(ds).notnull()
        off = int((known & (ds["value"] != base(ds))).sum())
        if off:
            raise EffectsError(f"{off} values are marked by_rule but differ from the base; by rule means equal to it")
    if "absent" in ds and ds["value"].where(ds["absent"]).notnull().any():
        raise EffectsError("a site that is absent has values; they must be NaN")


def swept_axes(ds: xr.Dataset) -> tuple[str, ...]:
    """The axes along which the sweep ran."""
    found = tuple(str(d) for d in ds["value"].dims if d not in (names.METRIC, names.EXAMPLE))
    for axis in found:
        if axis not in names.SWEPT:
            raise UnknownNameError("swept axis", axis, names.SWEPT)
    return found


def base(ds: xr.Dataset) -> xr.DataArray:
    """The run that was intervened on: corrupted when denoising, clean when noising, with what was given in force."""
    require_values(ds)
    if "given" in ds:
        return ds["given"]
    return ds["corrupt" if ds.attrs["patching"] == DENOISING else "clean"]


def paired(ds: xr.Dataset) -> bool:
    """Whether the prompts have counterfactuals, so that recovery and damage are defined."""
    require_values(ds)
    return bool(ds.attrs.get("paired", True))


def _coordinate(name: str, values: Any) -> xr.Variable:
    """A coordinate as the schema wants it: text as objects (fixed-width numpy text loses trailing NULs), integers as int64."""
    if isinstance(values, xr.DataArray | xr.Variable):
        dims, data = values.dims, values.values
    elif isinstance(values, tuple) and len(values) == 2:
        dims, data = values
    else:
        raise EffectsError(f"coordinate {name!r} is given as (dims, values), got {type(values).__name__}")
    array = data if isinstance(data, np.ndarray) else np.array(data, object)
    if array.dtype.kind in "OUT" and any(isinstance(x, str) for x in array.ravel()):
        return xr.Variable(dims, _objects(array, (str(x) for x in array.ravel())))
    array = np.asarray(data)
    if name in (*names.SWEPT,) and array.dtype.kind not in "iu" and array.size:
        raise EffectsError(f"coordinate {name!r} holds integers or names, got {array.dtype}")
    return xr.Variable(dims, array.astype("int64") if array.dtype.kind in "iu" else array)


def _objects(like: np.ndarray, items: Iterable[object]) -> np.ndarray:
    out = np.empty(like.size, object)
    out[:] = list(items)
    return out.reshape(like.shape)


def _json(attrs: Mapping[Any, Any], missing: set[str]) -> dict[str, Any]:
    """``attrs`` as they come back from JSON: lists for tuples, text keys, plain numbers for numpy's."""
    if missing:
        raise EffectsError(f"attrs lack {', '.join(sorted(missing))}")
    if "coordinates" in attrs:
        raise EffectsError("attrs['coordinates'] is a name that xarray keeps for itself when it writes; choose another")

    def plain(x: object) -> object:
        if isinstance(x, np.generic):
            return x.item()
        raise TypeError(f"{x!r} of type {type(x).__name__}")

    try:
        found: dict[str, Any] = json.loads(json.dumps(attrs, allow_nan=False, default=plain))
    except (TypeError, ValueError) as error:
        raise EffectsError(f"attrs must be JSON (numbers finite, None for unknown): {error}") from error
    return found
