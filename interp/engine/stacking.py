"""Results of several models as one, along axes of their own.

    >>> import xarray as xr
    >>> one, two = (xr.DataArray([0.1, x], dims="layer", coords={"layer": [0, 1]}) for x in (0.2, 0.9))
    >>> stack({(0,): one, (400,): two}, ("checkpoint",)).values
    array([[0.1, 0.2],
           [0.1, 0.9]])

Nothing is matched by rank: results are lined up by the values of their coordinates, and a value that only some models have
(layer 13 of the deeper one) becomes NaN in the others, ``absent`` in effects. Dims without coordinates, metrics and cells,
which are numbered rather than named, must agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import xarray as xr

from interp import axes as names
from interp import effects as fx
from interp.effects.stacked import label_text
from interp.engine.stacked_attrs import merged
from interp.errors import ShapeMismatchError, UserError

Result = xr.Dataset | xr.DataArray | xr.DataTree
Labels = tuple[Any, ...]
"""One value for every new axis."""


class OverError(UserError, ValueError):
    """Models, or what was found in them, that cannot be stacked."""


def stack(found: Mapping[Labels, Result], axes: Sequence[str]) -> Result:
    """All results as one, with the new axes in front (in effects behind ``metric``).

    Args:
        found: a result for every combination of values of the new axes.
        axes: names of the new axes, in the order of ``interp.axes.SWEPT``.

    Raises:
        OverError: combinations are lacking, or results are of different kinds or hold different variables.
        ShapeMismatchError: dims that cannot be lined up have different sizes or values.
    """
    _require_product(found, axes)
    kinds = {labels: type(one) for labels, one in found.items()}
    first = next(iter(kinds))
    for labels, kind in kinds.items():
        if kind is not kinds[first]:
            raise OverError(
                f"the call gives {kinds[first].__name__} for {label_text(axes, first)}, but {kind.__name__} for "
                f"{label_text(axes, labels)}"
            )
    if kinds[first] is xr.DataTree:
        return _trees({k: t for k, t in found.items() if isinstance(t, xr.DataTree)}, axes)
    if kinds[first] is xr.DataArray:
        arrays = {k: a for k, a in found.items() if isinstance(a, xr.DataArray)}
        name = arrays[first].name
        sets = {k: a.rename("value").to_dataset().assign_attrs(a.attrs) for k, a in arrays.items()}
        together = _datasets(sets, axes)
        return together["value"].rename(name).assign_attrs(together.attrs)
    return _datasets({k: d for k, d in found.items() if isinstance(d, xr.Dataset)}, axes)


def _require_product(found: Mapping[Labels, Any], axes: Sequence[str]) -> None:
    values = [list(dict.fromkeys(labels[i] for labels in found)) for i in range(len(axes))]
    lacking = [labels for labels in product(*values) if labels not in found]
    if lacking:
        listed = "; ".join(label_text(axes, labels) for labels in lacking[:3])
        raise OverError(
            f"the models do not fill {' × '.join(axes)}: {len(lacking)} are lacking, such as {listed}; leave out what the "
            "others lack too, or stack along one axis with labels of your own"
        )


def _trees(found: Mapping[Labels, xr.DataTree], axes: Sequence[str]) -> xr.DataTree:
    groups = {labels: [node.path for node in tree.subtree] for labels, tree in found.items()}
    first = next(iter(groups))
    for labels, paths in groups.items():
        if sorted(paths) != sorted(groups[first]):
            raise OverError(
                f"{label_text(axes, labels)} has the families {', '.join(paths)}, {label_text(axes, first)} has "
                f"{', '.join(groups[first])}; they cannot be stacked"
            )

    def node(path: str) -> xr.Dataset:
        sets = {labels: _node(tree, path) for labels, tree in found.items()}
        if any(one.variables for one in sets.values()):
            return _datasets(sets, axes)
        return xr.Dataset(attrs=merged({k: one.attrs for k, one in sets.items()}, axes) if sets[first].attrs else {})

    return xr.DataTree.from_dict({path: node(path) for path in groups[first]}, name=found[first].name)


def _node(tree: xr.DataTree, path: str) -> xr.Dataset:
    return next(node for node in tree.subtree if node.path == path).to_dataset(inherit=False)


def _datasets(found: Mapping[Labels, xr.Dataset], axes: Sequence[str]) -> xr.Dataset:
    first = next(iter(found))
    for labels, one in found.items():
        if taken := [axis for axis in axes if axis in one.variables or axis in one.dims]:
            raise OverError(
                f"the call's result already has {taken[0]!r}, so models cannot be stacked along it; rename it, or give axis="
            )
        different = (set(one.data_vars) ^ set(found[first].data_vars)) - {"absent"}
        if different:
            raise OverError(
                f"{label_text(axes, labels)} and {label_text(axes, first)} differ in the variables "
                f"{', '.join(sorted(map(str, different)))}"
            )
    effects = fx.is_effects(found[first]) and "patching" in found[first].attrs
    together = _joined(_aligned(found, axes, effects), axes)
    together.attrs = merged({labels: one.attrs for labels, one in found.items()}, axes)
    if effects:
        together = together.map(lambda v: v.transpose(names.METRIC, *names.SWEPT, ..., names.EXAMPLE, missing_dims="ignore"))
        together = fx.validate(together)
    return together if any(map(fx.derived, found.values())) else fx.stamped(together)


def _joined(found: Mapping[Labels, xr.Dataset], axes: Sequence[str]) -> xr.Dataset:
    """Aligned results, joined along one axis after the other, the last one first."""
    if not axes:
        return next(iter(found.values()))
    parts: dict[Any, dict[Labels, xr.Dataset]] = {}
    for labels, one in found.items():
        parts.setdefault(labels[0], {})[labels[1:]] = one
    values = np.empty(len(parts), object)
    values[:] = list(parts)
    coordinate = xr.Variable((axes[0],), values if any(isinstance(v, str) for v in parts) else np.array(list(parts)))
    joined = xr.concat(
        [_joined(rest, axes[1:]) for rest in parts.values()],
        dim=axes[0],
        data_vars="all",
        coords="different",  # what all models share, such as prompts, stays as it is
        compat="equals",
        join="exact",
        combine_attrs="drop",
    )
    return joined.assign_coords({axes[0]: coordinate})


def _aligned(found: Mapping[Labels, xr.Dataset], axes: Sequence[str], effects: bool) -> dict[Labels, xr.Dataset]:
    """Results with the same coordinates everywhere; what a model lacks is NaN, and absent in effects."""
    dims = dict.fromkeys(str(dim) for one in found.values() for dim in one.dims)
    wanted = {dim: values for dim in dims if (values := _union(found, axes, dim)) is not None}
    if effects and (wanted or any("absent" in one for one in found.values())):
        found = {labels: _with_absent(one) for labels, one in found.items()}
    if not wanted:
        return dict(found)
    return {labels: _spread(one, wanted) for labels, one in found.items()}


def _union(found: Mapping[Labels, xr.Dataset], axes: Sequence[str], dim: str) -> list[Any] | None:
    """All values of a coordinate over the models; None where every model has the same ones."""
    named = {labels: dim in one.coords for labels, one in found.items()}
    seen = {labels: one[dim].values.ravel().tolist() if named[labels] else one.sizes.get(dim) for labels, one in found.items()}
    first = next(iter(seen))
    odd = next((labels for labels in seen if seen[labels] != seen[first]), None)
    if odd is None:
        return None
    if not all(named.values()) or dim in (names.METRIC, names.CELL, names.EXAMPLE):
        sizes = (f"{found[labels].sizes.get(dim, 0)} in {label_text(axes, labels)}" for labels in (first, odd))
        why = "which are numbered, not named" if dim in (names.CELL, names.EXAMPLE) else "which must agree"
        raise ShapeMismatchError(f"results differ along {dim!r}, {why}: {', '.join(sizes)}")
    values = list(dict.fromkeys(value for one in found.values() if dim in one.coords for value in one[dim].values.tolist()))
    return sorted(values) if all(isinstance(value, int | float) for value in values) else values


def _with_absent(one: xr.Dataset) -> xr.Dataset:
    if "absent" in one:
        return one
    cells = one["by_rule"].isel({names.EXAMPLE: 0}, drop=True)
    return one.assign(absent=xr.zeros_like(cells, dtype=bool))


def _spread(one: xr.Dataset, wanted: Mapping[str, Sequence[Any]]) -> xr.Dataset:
    """A result laid out over more values of its coordinates; whole numbers become floating-point ones, to hold NaN."""
    reached = [name for name, v in one.variables.items() if set(wanted) & set(v.dims) and name not in wanted]
    whole = [name for name in reached if one[name].dtype.kind in "iu"]
    one = one.assign({name: one[name].astype(float) for name in whole if name in one.data_vars}).assign_coords(
        {name: one[name].astype(float) for name in whole if name in one.coords}
    )
    fills: dict[Any, Any] = {"b": False, "O": "", "U": "", "T": ""}
    fill = {name: fills.get(one[name].dtype.kind, np.nan) for name in reached} | ({"absent": True} if "absent" in one else {})
    return one.reindex({dim: values for dim, values in wanted.items() if dim in one.dims}, fill_value=fill)
