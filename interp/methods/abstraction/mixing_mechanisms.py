"""Mixing mechanisms: does a network find what is bound to a key by its place, by the key itself, or by a pointer to it?

>>> rows = interp.tasks.binding(8, apart=True).counterfactuals(512, seed=0, balance="natural")          # doctest: +SKIP
>>> found = interp.mixing_mechanisms(model, rows)                                                     # doctest: +SKIP
>>> interp.views.curve(found, "outcome", x="layer")                                                   # doctest: +SKIP
>>> fitted = interp.fit_mixture(found.sel(layer=[18]))                                                # doctest: +SKIP

1. The source has the keys and the bound words of the base, each in another order. With the whole vector at the last token taken
   from it, the positional mechanism says what the base has bound at the source's place p, the lexical one what it has bound to
   the source's key, in group k, and the reflexive one the source's own answer, which the base has in group i.
2. Place by place: which of them the network follows, or whether it stays with the base's answer, or says another.
3. How the three mix is fitted by :func:`interp.fit_mixture`.

Gur-Arieh, Geva and Geiger, "Mixing Mechanisms", arXiv 2510.06182.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp import axes, effects
from interp.effects import curves
from interp.engine.options import OPTION, option_logprobs
from interp.engine.precision import Precision
from interp.errors import InputError
from interp.methods.registry import Method
from interp.models import Model
from interp.sites import grid
from interp.tasks import Counterfactuals

METHODS = (
    Method(
        id="mixing_mechanisms",
        name="positional, lexical and reflexive binding",
        paper="Gur-Arieh et al. 2025, Mixing Mechanisms: How Language Models Retrieve Bound Entities In-Context, "
        "arXiv 2510.06182",
        mediator="streams at the last token",
        search="exhaustive",
        cost="a forward pass of base and source, and what follows the place for every place and row",
        function="interp.mixing_mechanisms",
    ),
)

MECHANISMS = ("positional", "lexical", "reflexive")
OUTCOMES = (*MECHANISMS, "base", "other")
"""Whom the network follows: a mechanism, the base's own answer, or none of these."""


def mixing_mechanisms(
    model: Model,
    rows: Counterfactuals,
    where: Any = None,
    *,
    level: float = 0.95,
    precision: Precision = "full",
    progress: bool | None = None,
) -> xr.Dataset:
    """What the network says when the last token's whole vector is another prompt's.

    Args:
        model: from :func:`interp.load`. Rows that it does not answer say little: see :func:`interp.answered`.
        rows: of a task with the rivals ``positional``, ``lexical`` and ``reflexive``, such as :func:`interp.tasks.binding`:
            with ``apart=True`` the three differ on every row, without it cells of the fit are more varied.
        where: a grid or changes; by default the stream behind every block at the last token.
        level: of the intervals of shares.
        precision, progress: as for :func:`interp.patch`.

    Returns:
        By place (``layer``) and example: ``probability [layer, example, group]`` of every group's word among all groups', and
        ``base_probability [example, group]`` without intervention; ``inside [layer, example]``, the probability of all groups'
        words together; ``prediction [mechanism, example]``, the group that each of :data:`OUTCOMES` says, −1 of ``other``;
        ``outcome [mechanism, layer, example]``, 1 for whose group's word is the likeliest of all groups', undefined in rows in
        which predictions are not all different; ``share``, ``low``, ``high [mechanism, layer]``, with Wilson's interval.

    Raises:
        InputError: rows of another task, or whose prompts have no last token in common; see also :func:`interp.patch`.
    """
    candidates, predicted = _candidates(rows)
    pairs = rows.pairs()
    found = option_logprobs(
        model,
        pairs,
        grid("resid_post", layer=..., position=[-1]) if where is None else where,
        precision=precision,
        progress=progress,
    )
    options = [(*pair.answers, *pair.wrong) for pair in pairs]
    order = np.array([[own.index(one) for one in row] for own, row in zip(options, candidates, strict=True)])
    swept = [str(dim) for dim in found["value"].dims if dim not in (OPTION, axes.EXAMPLE, axes.POSITION)]
    value = found["value"].isel({axes.POSITION: 0}, drop=True) if _one_position(found) else found["value"]
    swept += [] if _one_position(found) or axes.POSITION not in value.dims else [axes.POSITION]
    value = value.transpose(*swept, axes.EXAMPLE, OPTION)
    logs, base = (_ordered(one, order) for one in (value, found["corrupt"].transpose(axes.EXAMPLE, OPTION)))
    probability, inside = _normalised(logs)
    dims = (*swept, axes.EXAMPLE, "group")
    said = probability.argmax(-1)
    names = {name: predicted[name] for name in (*MECHANISMS, "base")}
    apart = np.array([len({*column}) for column in zip(*names.values(), strict=True)]) == len(names)
    hits = np.stack([said == own for own in names.values()])
    hits = np.concatenate([hits, ~hits.any(0, keepdims=True)]).astype("float32")
    hits[..., ~apart] = np.nan
    data: dict[str, Any] = {
        "probability": (dims, probability),
        "base_probability": ((axes.EXAMPLE, "group"), _normalised(base)[0]),
        "inside": (dims[:-1], inside),
        "prediction": (("mechanism", axes.EXAMPLE), np.stack([*names.values(), np.full(len(apart), -1)])),
        "outcome": (("mechanism", *dims[:-1]), hits),
    }
    if apart.any():
        share = curves.proportion(hits[..., apart], level=level)
        data |= {name: (("mechanism", *swept), np.asarray(getattr(share, of))) for name, of in _SHARE.items()}
    coords: dict[Any, Any] = {name: found[name] for name in found.coords if set(found[name].dims) <= {*swept, axes.EXAMPLE}}
    coords |= {"mechanism": [*OUTCOMES], "group": np.arange(order.shape[1])}
    result = xr.Dataset(data, coords)
    result["inside"].attrs = {"units": "probability"}
    return effects.stamped(result.assign_attrs({**found.attrs, "method": "mixing_mechanisms", "spec": None, "level": level}))


_SHARE = {"share": "mean", "low": "low", "high": "high"}


def _one_position(found: xr.Dataset) -> bool:
    return bool(found["value"].sizes.get(axes.POSITION) == 1)


def _ordered(logs: xr.DataArray, order: NDArray[np.intp]) -> NDArray[np.float64]:
    """Options as groups, ``[…, example, group]``."""
    values = logs.values.astype(np.float64)
    return np.take_along_axis(values, np.broadcast_to(order, (*values.shape[:-1], order.shape[1])), -1)


def _normalised(logs: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probabilities among the groups, and of all groups together."""
    top = logs.max(-1, keepdims=True)
    weights = np.exp(logs - top)
    total = weights.sum(-1, keepdims=True)
    return weights / total, (total * np.exp(top))[..., 0]


def _candidates(rows: Any) -> tuple[list[list[Any]], dict[str, NDArray[np.intp]]]:
    """The words of a row's groups in their order, and the number of the group that each mechanism says."""
    task = getattr(rows, "task", None)
    lacking = [name for name in MECHANISMS if task is None or name not in task.models]
    if not isinstance(rows, Counterfactuals) or lacking or task is None or task.choices is None:
        raise InputError(
            f"rows are {rows!r}; expected rows of a task with the rivals {', '.join(MECHANISMS)}, such as "
            "interp.tasks.binding(8).counterfactuals(512, seed=0)"
        )
    if len(rows.variables) != 1:
        raise InputError(f"rows swap {', '.join(rows.variables)}; expected one variable, whose source is another prompt")
    labels = {name: rows.relabelled(name, task.variables[name]).label.tolist() for name in MECHANISMS}
    labels["base"] = rows.base_label.tolist()
    columns = list(rows.base)
    bases = [dict(zip(columns, row, strict=True)) for row in zip(*(rows.base[name].tolist() for name in columns), strict=True)]
    groups = [list(task.choices(base, base, None)) for base in bases]
    said = {name: np.array([own.index(one) for own, one in zip(groups, of, strict=True)]) for name, of in labels.items()}
    words = [[task.answer(one) for one in own] for own in groups]
    for row, own in enumerate(words):
        if len({*own}) < len(own):
            raise InputError(f"groups of row {row} are answered by {own}; expected a word of its own for each")
    return words, said
