"""Roles of gated heads: what two gates say of each, one pulled open and one pulled shut.

    >>> pulled_open, pulled_shut = (xr.DataArray([g], dims=("seed", "head")) for g in ([0.9, 0.1, 0.9], [0.8, 0.2, 0.2]))
    >>> taxonomy(pulled_open, pulled_shut)["role"].values.tolist()
    [['facilitating', 'interfering', 'irrelevant']]

=============  ==========  ==========  ============  ====================
role           G⁺          G⁻          score         removing the head
=============  ==========  ==========  ============  ====================
facilitating   open        open        G⁻            hurts
interfering    shut        shut        1 − G⁺        helps
irrelevant     open        shut        G⁺ (1 − G⁻)   changes nothing
inconsistent   shut        open        (1 − G⁺) G⁻   –
=============  ==========  ==========  ============  ====================
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from interp import axes

FACILITATING, INTERFERING, IRRELEVANT, INCONSISTENT = "facilitating", "interfering", "irrelevant", "inconsistent"
ROLES = (FACILITATING, INTERFERING, IRRELEVANT, INCONSISTENT)
KIND = "kind"
"""The axis of roles, where each of them has a number of its own."""


def taxonomy(pulled_open: xr.DataArray, pulled_shut: xr.DataArray, cut: float = 0.5) -> xr.Dataset:
    """Roles and scores of heads, and what of them holds over seeds.

    Args:
        pulled_open: G⁺, along ``seed`` and any further axes.
        pulled_shut: G⁻, likewise.
        cut: a gate above it is open.

    Returns:
        ``role``, empty where there is no head; ``score`` by (kind, …); and by (kind, … without seed) ``always`` and ``any``,
        whether a head has the role in all seeds or in at least one, and ``share``, in how many of them.
    """
    if not 0 < cut < 1:
        raise ValueError(f"cut={cut}; expected a gate, between 0 and 1")
    high, low = pulled_open > cut, pulled_shut > cut
    there = pulled_open.notnull() & pulled_shut.notnull()
    plays = [high & low, ~high & ~low, high & ~low, ~high & low]
    each = xr.concat([(one & there).assign_coords({KIND: role}) for role, one in zip(ROLES, plays, strict=True)], KIND)
    scores = [pulled_shut, 1 - pulled_open, pulled_open * (1 - pulled_shut), (1 - pulled_open) * pulled_shut]
    role = xr.full_like(pulled_open, "", dtype="U12")
    for name, one in zip(ROLES, plays, strict=True):
        role = role.where(~(one & there), name)
    share = each.mean(axes.SEED).where(there.all(axes.SEED))
    found = {
        "role": role,
        "score": xr.concat([one.assign_coords({KIND: name}) for name, one in zip(ROLES, scores, strict=True)], KIND),
        "always": each.all(axes.SEED),
        "any": each.any(axes.SEED),
        "share": share,
    }
    return xr.Dataset({name: one.drop_attrs() for name, one in found.items()}, attrs={"cut": cut})


def is_gating(result: object) -> bool:
    """Whether a result is one of head gating with roles."""
    known = isinstance(result, xr.Dataset) and {"gate", "role", "share"} <= set(result.data_vars)
    return known and isinstance(result, xr.Dataset) and {axes.LAYER, axes.HEAD, KIND} == set(result["share"].dims)


def counts(result: xr.Dataset) -> np.ndarray:
    """``[kind, layer, head]``: in how many seeds a head has each role; NaN where there is none."""
    share = result["share"].transpose(KIND, axes.LAYER, axes.HEAD)
    return np.asarray(share.sel({KIND: list(ROLES)}).values * result.sizes[axes.SEED])
