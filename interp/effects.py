"""Effects: what a sweep returns, and the quantities derived from it.

    >>> import numpy as np
    >>> from interp import effects
    >>> value = np.array([[[0.0, 1.0], [2.0, 3.0]]])                     # [metric, layer, example]
    >>> ds = effects.assemble(
    ...     value, clean=np.array([[2.0, 3.0]]), corrupt=np.array([[0.0, 1.0]]), axes={"layer": [0, 1]}, metrics=["logit_diff"],
    ...     attrs={"patching": "denoising", "noise_floor": {"logit_diff": 0.0}, "engine_semantics": 1, "spec": {"demo": 1}})
    >>> effects.recovery(ds).values
    array([[0., 1.]])

One ``xarray.Dataset`` is one rectangular family. Its variables hold raw numbers, an example at a time; recovery, damage and
effect are functions of them, so that nothing is lost by having chosen one of them early.

=============  =========================  ================================================================================
variable       dims                       meaning
=============  =========================  ================================================================================
``value``      metric, *axes, example     the metric with the intervention in force; NaN = not yet computed
``clean``      metric, example            the metric of the clean run
``corrupt``    metric, example            the metric of the corrupted run
``given``      metric, example            the metric of the base with what was in force before any cell; only with given=
``by_rule``    *axes, example             True where value is known to equal the base without a forward pass
``absent``     *axes                      True where the site does not exist (optional; its values are NaN)
=============  =========================  ================================================================================

``axes`` is any subset of ``interp.axes.SWEPT``, in that order. Where results of several models are stacked
(:func:`interp.over`), ``clean``, ``corrupt`` and ``given`` have the axes of the models too (``interp.axes.MODELS``), behind
metric. Coordinates: names of metrics and roles are text, layers,
heads, units and raw positions are integers; ``template``, ``clean_prompt``, ``corrupted_prompt`` run along example,
``clean_token`` and ``corrupted_token`` along position and example. A ``cell`` axis carries plain coordinates (layer, head,
position …) along itself. ``attrs`` is JSON: the keys of :data:`PROVENANCE` and anything else. Of prompts without a
counterfactual ``clean`` and ``corrupt`` are the same and the attribute ``paired`` is False: nothing is normalised.

Several families are an ``xarray.DataTree`` of such datasets.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike

from interp import axes as names
from interp import stats
from interp.errors import ShapeMismatchError, UnknownNameError, UserError

DENOISING, NOISING = "denoising", "noising"
PATCHING = (DENOISING, NOISING)
"""Denoising: the base is the corrupted run and the source the clean one. Noising: the other way round."""

PROVENANCE = (
    *("model", "model_digest", "task", "pairs_digest", "seed", "patching", "site", "source", "edit", "strategy", "dtype"),
    *("noise_floor", "versions", "engine_semantics", "spec", "made_at", "wall_seconds"),
)
"""What every result says about itself; None where it is not known."""

QUANTITIES = ("recovery", "damage", "effect", "value")

_ON_EXAMPLE = ("template", "clean_prompt", "corrupted_prompt")
_ON_TOKEN = ("clean_token", "corrupted_token")
_FLOATS = (np.dtype("float32"), np.dtype("float64"))

FEWEST_CLUSTERS = 4
"""With fewer templates than this an interval over templates says nearly nothing (t = 4.3 at three), so examples are taken."""


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
    return validate(ds)


_REQUIRED = ("patching", "noise_floor", "engine_semantics", "spec")


def validate(ds: Any) -> xr.Dataset:
    """``ds`` itself where it is laid out as a result, else an error that says what is not."""
    if isinstance(ds, xr.DataTree):
        families = [node.path.strip("/") for node in ds.leaves]
        raise EffectsError(
            f"this result holds several families ({', '.join(families)}); choose one: result[{families[0]!r}].to_dataset()"
        )
    if not isinstance(ds, xr.Dataset):
        raise EffectsError(f"a result of interp.patch is an xarray Dataset; got {type(ds).__name__}")
    lacking = [v for v in ("value", "clean", "corrupt", "by_rule") if v not in ds.data_vars]
    if lacking:
        raise EffectsError(
            f"a result of interp.patch has the variables value, clean, corrupt and by_rule; missing: {', '.join(lacking)}; "
            "attention, lens and dla have views of their own: interp.views.attention(…)"
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


def _require(given: Any) -> None:
    """Raise if it is no result at all."""
    if not isinstance(given, xr.Dataset):
        validate(given)


def _check_rule(ds: xr.Dataset) -> None:
    """Cells by rule equal the base exactly; sites that do not exist have no value."""
    if ds["by_rule"].any():
        off = int((ds["by_rule"] & (ds["value"] != base(ds)) & base(ds).notnull()).sum())
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
    _require(ds)
    if "given" in ds:
        return ds["given"]
    return ds["corrupt" if ds.attrs["patching"] == DENOISING else "clean"]


def paired(ds: xr.Dataset) -> bool:
    """Whether the prompts have counterfactuals, so that recovery and damage are defined."""
    _require(ds)
    return bool(ds.attrs.get("paired", True))


def effect(ds: xr.Dataset) -> xr.DataArray:
    """``value − base``, of every example."""
    before = base(ds)
    return _named(ds["value"] - before, ds, "effect")


def value_of(ds: xr.Dataset, quantity: str) -> xr.DataArray:
    """A quantity by its name, over all examples: ratios of means for recovery and damage, means for effect and value.

    Raises:
        UnknownNameError: no such quantity.
    """
    if quantity not in QUANTITIES:
        raise UnknownNameError("quantity", quantity, QUANTITIES)
    if quantity in ("recovery", "damage"):
        return _normalised(ds, quantity, "ratio", None)
    found = effect(ds) if quantity == "effect" else ds["value"]
    return _named(found.mean(names.EXAMPLE, skipna=False), ds, quantity)


def recovery(ds: xr.Dataset, aggregate: str | None = "ratio", *, floor: float | None = None) -> xr.DataArray:
    """How much of the behaviour is back: (value − corrupt) / (clean − corrupt); 0 = corrupted, 1 = clean.

    Args:
        ds: a result.
        aggregate: ``"ratio"`` divides the mean over examples by the mean over examples; ``"examples"`` is the mean of the
            examples' own ratios, over those that are defined, whose number is the coordinate ``defined``; None leaves
            every example's ratio.
        floor: an |clean − corrupt| no larger than this makes the quotient NaN. By default the run's noise floor, and at
            least the rounding of the two baselines.
    """
    return _normalised(ds, "recovery", aggregate, floor)


def damage(ds: xr.Dataset, aggregate: str | None = "ratio", *, floor: float | None = None) -> xr.DataArray:
    """How much of the behaviour is lost: (clean − value) / (clean − corrupt); 0 = clean, 1 = corrupted. See `recovery`."""
    return _normalised(ds, "damage", aggregate, floor)


def _normalised(ds: xr.Dataset, quantity: str, aggregate: str | None, floor: float | None) -> xr.DataArray:
    numerator, denominator = _fraction(ds, quantity)
    least = noise_floor(ds, rounding=True) if floor is None else floor
    if aggregate == "ratio":
        below = denominator.mean(names.EXAMPLE)
        ratio = numerator.mean(names.EXAMPLE, skipna=False) / below.where(abs(below) > least)
    elif aggregate in ("examples", None):
        defined = abs(denominator) > least
        ratio = numerator / denominator.where(defined)
        if aggregate == "examples":
            count = defined.sum(dim=names.EXAMPLE)
            total = ratio.where(defined, 0.0).sum(names.EXAMPLE, skipna=False)
            ratio = (total / count.where(count > 0)).assign_coords(defined=count)
    else:
        raise UnknownNameError("aggregate", aggregate, ("ratio", "examples"))
    return _named(ratio.transpose(*(d for d in ds["value"].dims if d in ratio.dims)), ds, quantity)


def _fraction(ds: xr.Dataset, quantity: str) -> tuple[xr.DataArray, xr.DataArray]:
    """Numerator and denominator of a normalised quantity, in float64."""
    if not paired(ds):
        raise EffectsError(
            f"{quantity} compares with a counterfactual, and these prompts have none; take the effect: interp.effect(effects), "
            "quantity='effect'"
        )
    value, clean, corrupt = (ds[v].astype("float64") for v in ("value", "clean", "corrupt"))
    return (value - corrupt if quantity == "recovery" else clean - value), clean - corrupt


def noise_floor(ds: xr.Dataset, *, rounding: bool = False) -> xr.DataArray:
    """The run's noise floor of each metric, in the metric's units: the effect of a self-patch.

    With ``rounding``, at least four units in the last place of the baselines.
    """
    floors = [float(ds.attrs["noise_floor"][m] or 0.0) for m in np.atleast_1d(ds[names.METRIC].values)]
    floor = xr.zeros_like(ds[names.METRIC], dtype=float) + np.reshape(floors, ds[names.METRIC].shape)
    if not rounding:
        return floor
    size = (abs(ds["clean"]) + abs(ds["corrupt"])).mean(names.EXAMPLE).astype("float64")
    return np.maximum(floor, 4 * np.finfo(ds["clean"].dtype).eps * size)


def summary(
    ds: xr.Dataset,
    quantity: str = "recovery",
    *,
    level: float = 0.95,
    clusters: str | None = "template",
    method: str = "bootstrap",
    resamples: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    """Mean and interval of every cell.

    Recovery and damage are ratios of means whose numerator and denominator are resampled together; a metric whose
    denominator's interval covers 0 is undefined, NaN. Where examples carry at least :data:`FEWEST_CLUSTERS` templates, whole
    templates are resampled; with fewer, examples are, and the interval then holds for these templates only. The attribute
    ``resampled`` says which ("template" or "example"), ``templates`` how many there were. Intervals are of one cell at a
    time: they are not adjusted for looking at many.

    Args:
        ds: a result.
        quantity: recovery, damage, effect or value.
        level: of the intervals.
        clusters: the coordinate along example that names the clusters; None resamples examples.
        method: bootstrap, or Student's t to first order (much faster on maps of 10⁵ cells).
        resamples: bootstrap draws, the same for every cell.
        seed: of the draws.

    Returns:
        ``mean``, ``low``, ``high``, ``n`` (examples that are there) and ``n_effective`` (units taken as independent), each
        ``[metric, *axes]``.
    """
    if quantity not in QUANTITIES:
        raise UnknownNameError("quantity", quantity, QUANTITIES)
    if method not in ("bootstrap", "t"):
        raise UnknownNameError("method", method, ("bootstrap", "t"))
    _require(ds)
    ds = ds if names.METRIC in ds.dims else ds.expand_dims(names.METRIC)
    labels = np.asarray(ds[clusters].values).astype(str) if clusters is not None and clusters in ds.coords else None
    found = 0 if labels is None else len(set(labels.tolist()))
    if found < FEWEST_CLUSTERS:
        labels = None
    dims = (names.METRIC, *swept_axes(ds))
    shape = tuple(ds.sizes[d] for d in dims)
    columns = {name: np.full(shape, np.nan) for name in ("mean", "low", "high")}
    floors = noise_floor(ds, rounding=True)
    units = ds.sizes[names.EXAMPLE]
    for i in range(shape[0]):  # a metric at a time bounds the memory
        one = ds.isel({names.METRIC: i})
        if quantity in ("recovery", "damage"):
            numerator, denominator = _fraction(one, quantity)
            floor = floors.isel({names.METRIC: i})
        else:
            numerator = one["value"] if quantity == "value" else effect(one)
            denominator = xr.ones_like(one["clean"], dtype=float)
            floor = xr.zeros_like(one["clean"].isel({names.EXAMPLE: 0}), dtype=float)
        over = numerator.transpose(*dims[1:], names.EXAMPLE).values
        under, least = _beside(denominator, (*dims[1:], names.EXAMPLE)), _beside(floor, dims[1:])
        if method == "bootstrap":
            found_interval = stats.bootstrap_ratio(
                over, under, labels, level=level, resamples=resamples, seed=seed, floor=least
            )
        else:
            found_interval = stats.t_interval(over, under, labels, level=level, floor=least)
        columns["mean"][i], columns["low"][i], columns["high"][i] = found_interval[:3]
        units = found_interval.n
    out = xr.Dataset({name: (dims, array) for name, array in columns.items()})
    out["n"] = ds["value"].notnull().sum(names.EXAMPLE).transpose(*dims)
    out["n_effective"] = (dims, np.full(shape, units)) if labels is not None else out["n"]
    resampled = {"resampled": "example" if labels is None else clusters, "templates": found, "level": level, "method": method}
    return out.assign_coords({k: v for k, v in ds.coords.items() if names.EXAMPLE not in v.dims}).assign_attrs(
        ds.attrs | {"quantity": quantity} | resampled
    )


def _beside(array: xr.DataArray, dims: Sequence[str]) -> np.ndarray[Any, Any]:
    """Values that broadcast to ``[*dims]``: length 1 along dims that ``array`` lacks, but for those before its own."""
    first = next((i for i, dim in enumerate(dims) if dim in array.dims), len(dims))
    return (
        array.transpose(*dims, missing_dims="ignore")
        .expand_dims({dim: 1 for dim in dims[first:] if dim not in array.dims})
        .transpose(*dims[first:])
        .values
    )


def at(ds: xr.Dataset, **coords: Any) -> xr.Dataset:
    """The cells at some coordinates, ``at(effects, layer=3, position=-1)``: ``sel``, which knows what a position is.

    Where a grid sweeps roles and indices together, its positions are text, and ``effects.sel(position="-1")`` has to say so.

    Raises:
        UnknownNameError: an axis or a value that is not there, with those that are.
    """
    chosen: dict[str, Any] = {}
    for axis, value in coords.items():
        if axis not in ds.indexes:
            raise UnknownNameError("axis", axis, map(str, ds.indexes))
        known = ds.indexes[axis].tolist()
        wanted = [str(one) if isinstance(known[0], str) else one for one in (value if isinstance(value, list) else [value])]
        if missing := [one for one in wanted if one not in known]:
            raise UnknownNameError(axis, missing[0], map(str, known), "of this result")
        chosen[axis] = wanted if isinstance(value, list) else wanted[0]
    return ds.sel(chosen)


def top(ds: xr.Dataset, k: int = 10, metric: str | None = None, *, level: float = 0.95) -> pd.DataFrame:
    """The ``k`` cells of largest |effect|, strongest first, as a table.

    Columns: ``cell`` (``L9H6``, or the intervention or edge that it is), the swept axes, ``effect`` with ``low`` and ``high``,
    the normalised quantity that fits the run (``recovery`` when denoising, ``damage`` when noising; NaN where it is undefined,
    left out of prompts without a counterfactual) and ``n``. The strongest of many are partly strong by luck: their intervals
    are not adjusted for the choice.
    """
    chosen = choose_metric(ds, metric)
    table = summary(chosen, "effect", level=level).isel({names.METRIC: 0})
    normalised = ["recovery" if ds.attrs["patching"] == DENOISING else "damage"] if paired(ds) else []
    for quantity in normalised:
        table[quantity] = summary(chosen, quantity, level=level)["mean"].isel({names.METRIC: 0})
    axes = swept_axes(ds)
    flat = table.stack(place=axes, create_index=False) if axes else table.expand_dims("place")
    columns = [a for a in names.ALL if a in flat.coords and a not in (names.CELL, names.METRIC)]
    data = {c: np.broadcast_to(flat[c].values, flat.sizes["place"]) for c in columns}
    data |= {c: flat[c].values for c in ("mean", "low", "high", *normalised, "n")}
    frame = pd.DataFrame(data).rename(columns={"mean": "effect"}).dropna(subset=["effect"])
    told = [name for name in _TOLD if name in flat.coords] or [names.CELL] * (names.CELL in axes and not columns)
    said = np.broadcast_to(flat[told[0]].values, flat.sizes["place"])[frame.index] if told else [""] * len(frame)
    at = [cell_name(row) for row in frame[columns].to_dict("records")] if columns or not told else [""] * len(frame)
    frame.insert(0, "cell", [" ".join(filter(None, (str(one), where))) for one, where in zip(said, at, strict=True)])
    order = frame["effect"].abs().sort_values(ascending=False, kind="stable").index[:k]
    return frame.loc[order].reset_index(drop=True)


_TOLD = ("edge", "intervention")
"""Coordinates that say what a cell of a list is."""


def choose_metric(ds: xr.Dataset, metric: str | None = None) -> xr.Dataset:
    """The dataset with one metric, its dim gone: the one named, or the first."""
    validate(ds)
    if names.METRIC not in ds.dims:
        only = str(ds[names.METRIC].values)
        if metric not in (None, only):
            raise UnknownNameError("metric", metric, [only])
        return ds
    known = [str(m) for m in ds[names.METRIC].values]
    if metric is None:
        metric = known[0]
    if metric not in known:
        raise UnknownNameError("metric", metric, known)
    return ds.isel({names.METRIC: known.index(metric)})


def cell_name(coords: Mapping[Any, Any]) -> str:
    """A cell in the field's shorthand: ``L9H6``, ``L3@5``, ``L3H2@S2``, ``L3[120]``; further axes as ``seed=1``.

    >>> cell_name({"layer": 9, "head": 6}), cell_name({"layer": 3, "position": "S2"})
    ('L9H6', 'L3@S2')
    """
    written = {
        names.LAYER: "L{}",
        names.HEAD: "H{}",
        names.EXPERT: "E{}",
        names.UNIT: "[{}]",
        names.POSITION: "@{}",
        names.CALL: "#{}",
    }
    short = "".join(form.format(coords[axis]) for axis, form in written.items() if axis in coords)
    rest = [f"{axis}={value}" for axis, value in coords.items() if axis not in written]
    return " ".join([short, *rest] if short else rest) or "all"


def _named(array: xr.DataArray, ds: xr.Dataset, quantity: str) -> xr.DataArray:
    named = array.rename(quantity)
    named.attrs = dict(ds.attrs) | {"quantity": quantity}
    return named


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
