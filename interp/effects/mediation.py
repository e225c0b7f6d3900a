"""Total, direct and indirect effects of mediators, from a sweep in each direction.

With u the response, x the clean prompt, x′ the other one, and M what mediates::

    TE   = u(x′) − u(x)               NIE  = u(x; M ← x′) − u(x)
    NDE  = u(x′; M ← x) − u(x)        rNIE = u(x′) − u(x′; M ← x)

on the scale of differences; on that of ratios each difference a − b is a / b − 1. So TE = NDE + rNIE, and of ratios
1 + TE = (1 + NDE)(1 + rNIE), for every example and any model (Pearl 2001; Vig et al., arXiv 2004.12265).
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import xarray as xr

from interp import axes as names
from interp.effects.origin import STAMP
from interp.effects.schema import DENOISING, NOISING, EffectsError, validate
from interp.errors import UnknownNameError

Scale = Literal["difference", "ratio"]
Aggregate = Literal["mean", "median", "log"]


def mediation(result: xr.DataTree, scale: Scale = "difference", aggregate: Aggregate | None = "mean") -> xr.Dataset:
    """The four effects of every mediator.

    Args:
        result: with two sweeps of the same: ``"indirect"``, the clean prompt with mediators from the other one (noising), and
            ``"direct"``, the other prompt with mediators from the clean one (denoising).
        scale: ``"ratio"`` needs responses above 0, such as ``"odds"``.
        aggregate: over examples: ``"mean"``, ``"median"``, or ``"log"``, the mean of log(1 + ·), which is of ratios; None
            leaves every example's.

    Returns:
        Variables ``total`` (without the axes of the mediators), ``direct``, ``indirect`` and ``reverse_indirect``.

    Raises:
        EffectsError: no two sweeps of the same places and prompts in these directions; a ratio of what is not above 0.
        UnknownNameError: another word.
    """
    for word, given, known in (("scale", scale, get_args(Scale)), ("aggregate", aggregate, (*get_args(Aggregate), None))):
        if given not in known:
            raise UnknownNameError(word, given, [one for one in known if one])
    if scale == "difference" and aggregate == "log":
        raise EffectsError("aggregate='log' is the mean of log(1 + ·), which is of ratios: scale='ratio'")
    indirect, direct = _sweeps(result)
    clean, other = (indirect[name].astype("float64") for name in ("clean", "corrupt"))
    mediated, held = (one["value"].astype("float64") for one in (indirect, direct))
    compare = _difference if scale == "difference" else _ratio
    each = {
        "total": compare(other, clean),
        "direct": compare(held, clean),
        "indirect": compare(mediated, clean),
        "reverse_indirect": compare(other, held),
    }
    found = xr.Dataset({name: _over_examples(value, aggregate) for name, value in each.items()})
    kept = {key: value for key, value in indirect.attrs.items() if key not in (STAMP, "patching", "spec", "noise_floor")}
    return found.assign_attrs(kept | {"scale": scale, "aggregate": aggregate or "none", "n": indirect.sizes[names.EXAMPLE]})


def _sweeps(result: xr.DataTree) -> tuple[xr.Dataset, xr.Dataset]:
    """Both sweeps, which are of the same."""
    if not isinstance(result, xr.DataTree) or not {"indirect", "direct"} <= set(result.children):
        got = ", ".join(result.children) if isinstance(result, xr.DataTree) else type(result).__name__
        raise EffectsError(
            f"mediation needs the sweeps 'indirect' and 'direct', as interp.mediate(…) gives them; got {got or 'nothing'}; of "
            "several families choose one, as in result['heads']"
        )
    found = []
    for name, patching in (("indirect", NOISING), ("direct", DENOISING)):
        one = validate(result[name].to_dataset())
        if one.attrs["patching"] != patching:
            raise EffectsError(f"{name!r} is a sweep in the direction {one.attrs['patching']!r}; expected {patching!r}")
        found.append(one)
    indirect, direct = found
    if indirect["value"].sizes != direct["value"].sizes or any(
        not np.allclose(indirect[name], direct[name], rtol=1e-3, atol=1e-5, equal_nan=True) for name in ("clean", "corrupt")
    ):
        raise EffectsError("'indirect' and 'direct' are not of the same places, prompts and metrics: their baselines differ")
    return indirect, direct


def _difference(a: xr.DataArray, b: xr.DataArray) -> xr.DataArray:
    return a - b


def _ratio(a: xr.DataArray, b: xr.DataArray) -> xr.DataArray:
    if any(bool((one <= 0).any()) for one in (a, b)):
        raise EffectsError(
            "a ratio needs a response above 0 in every run, such as metric='odds' or 'prob'; take scale='difference'"
        )
    return a / b - 1


def _over_examples(value: xr.DataArray, aggregate: Aggregate | None) -> xr.DataArray:
    if aggregate is None:
        return value
    if aggregate == "median":
        return value.median(names.EXAMPLE, skipna=False)
    logged = xr.apply_ufunc(np.log1p, value) if aggregate == "log" else value
    return logged.mean(names.EXAMPLE, skipna=False)
