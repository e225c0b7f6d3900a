"""Does an explanation in words say what a neuron does: when it is active, and what it causes?

>>> found = interp.score_explanations(model, prompts, [(3, 17), (5, 40)], inside, position="target")     # doctest: +SKIP
>>> found.overall.sel(average="micro")                                                                # doctest: +SKIP
>>> cities = {"city": [(3, 17), (5, 40)]}                                                             # doctest: +SKIP
>>> effect = interp.interchange_neurons(model, pairs, cities, position="target")                      # doctest: +SKIP
>>> interp.effects.alignment.verdict(effect)                                                          # doctest: +SKIP

An explanation E of a neuron says of every string whether it is one that the neuron is active on.

1. Observation: a neuron is active on a string where the largest of its values at the target tokens is above a threshold. E is
   the classifier and activity the truth: where E says yes and the neuron is silent the error is of the first kind, a false
   positive; where the neuron is active and E says no it is of the second, a false negative.
2. Precision, recall and F1 of every neuron; over all neurons of the counts together (micro), and the mean of each (macro).
3. Intervention: neurons whose explanations name a concept take their values from a source in which the concept has another
   value. Does the network then answer as the source's value asks? Beside it: as many random neurons of the same layers, all
   neurons of these layers, the source's token in place of the base's, and nothing at all.

The outputs of smooth activation functions are above 0 a little where a neuron says nothing, so that a threshold of 0 counts
much as activity; a quantile does not. Explanations that were selected by a score look better by it than they are.

Huang, Geiger, D'Oosterlinck, Wu and Potts, "Rigorously Assessing Natural Language Explanations of Neurons", arXiv 2309.10312.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from interp import axes, effects
from interp.engine.asked import encoded_pairs
from interp.engine.precision import Precision
from interp.engine.single.cache import cache
from interp.engine.sweep import patch
from interp.errors import HeadOutOfRangeError, InputError, ShapeMismatchError, require_whole
from interp.interventions import Change, Intervention, Select
from interp.methods.registry import Method
from interp.models import Model
from interp.sites import Positions, Site
from interp.tasks import Counterfactuals

_PAPER = "Huang et al. 2023, Rigorously Assessing Natural Language Explanations of Neurons, arXiv 2309.10312"
METHODS = (
    Method(
        id="neuron_explanations",
        name="explanations of neurons, by observation",
        paper=_PAPER,
        mediator="units at target tokens",
        search="reading",
        cost="a forward pass of every string, for all neurons together",
        function="interp.score_explanations",
    ),
    Method(
        id="explained_neurons",
        name="explanations of neurons, by intervention",
        paper=_PAPER,
        mediator="sets of units at target tokens",
        search="none: neurons are given",
        cost="two forward passes, and for every set and each of its controls what of one comes after its first layer",
        function="interp.interchange_neurons",
    ),
)

Neuron = tuple[int | str, int]
"""A layer and a unit of its ``mlp_post``, or a site and one of its numbers."""
CELLS = ("true_positive", "false_positive", "false_negative", "true_negative")
MEASURES = ("precision", "recall", "f1")
SET = "neuron_set"
_BATCH = 64


class Rates(NamedTuple):
    """Each undefined (NaN) where nothing is counted that it is a share of."""

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]


def rates(confusion: ArrayLike) -> Rates:
    """Precision, recall and F1 of counts ``[…, cell]`` in the order of :data:`CELLS`.

    >>> [round(float(one), 3) for one in rates([3618, 2040, 3852, 82])]
    [0.639, 0.484, 0.551]
    """
    counts = np.asarray(confusion, float)
    if counts.ndim < 1 or counts.shape[-1] != len(CELLS):
        raise ShapeMismatchError(f"confusion has shape {counts.shape}; expected […, {len(CELLS)}]: {', '.join(CELLS)}")
    hit, first, second = counts[..., 0], counts[..., 1], counts[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        return Rates(hit / (hit + first), hit / (hit + second), 2 * hit / (2 * hit + first + second))


def score_explanations(
    model: Model,
    prompts: Sequence[Any],
    neurons: Sequence[Neuron],
    inside: ArrayLike,
    *,
    position: Any = None,
    threshold: float | Sequence[float] = 0.0,
    quantile: float | None = None,
    batch: int = _BATCH,
) -> xr.Dataset:
    """Explanations as classifiers of the strings that neurons are active on.

    Args:
        model: from :func:`interp.load`.
        prompts: the strings, with the target as a role where it is not all of them.
        neurons: layers and units, ``(3, 17)``; of what is no MLP of a layer site and number, ``("act1:output", 4)``.
        inside: ``[neuron, prompt]``, whether a neuron's explanation says that the string is one of its; NaN where a string was
            not judged for it. One row serves all neurons.
        position: of the target, a role or indices; by default the whole string.
        threshold: above which a neuron is active, one for all or one each.
        quantile: in place of it, that of each neuron's own activations on the strings that were judged.
        batch: strings of a pass.

    Returns:
        ``activation [neuron, example]``, the largest at the target; ``active`` and ``inside`` likewise, NaN where not judged;
        ``confusion [neuron, cell]``; ``precision``, ``recall``, ``f1 [neuron]``, undefined where nothing is counted;
        ``overall [average, measure]``, ``micro`` of the counts of all neurons, ``macro`` the mean of those that are defined.

    Raises:
        ShapeMismatchError: ``inside`` or ``threshold`` is of other neurons or prompts.
        HeadOutOfRangeError: no such unit.
        InputError: no neurons or prompts, a quantile out of range, or a string without any target token.
    """
    where = _neurons(neurons)
    if not where or not len(prompts):
        raise InputError(f"{len(where)} neurons, {len(prompts)} prompts; expected one of each at least")
    require_whole("batch", batch, "how many strings a pass has")
    said = np.array(np.broadcast_to(_judged(inside, len(where), len(prompts)), (len(where), len(prompts))))
    acts = np.concatenate([_largest(model, prompts[i : i + batch], where, position) for i in range(0, len(prompts), batch)], -1)
    judged = np.isfinite(said)
    if quantile is not None:
        if not 0 <= quantile < 1:
            raise InputError(f"quantile={quantile}; expected a number from 0 to below 1")
        least = np.array(
            [np.quantile(own[there], quantile) if there.any() else np.nan for own, there in zip(acts, judged, strict=True)]
        )
    else:
        least = np.asarray(threshold, float)
        if least.shape not in ((), (len(where),)):
            raise ShapeMismatchError(
                f"threshold has shape {least.shape}; expected one number, or one for each of {len(where)} neurons"
            )
        least = np.broadcast_to(least, (len(where),))
    active = np.where(judged, acts > least[:, None], np.nan)
    yes, on = said == 1, active == 1
    cells = (yes & on, yes & ~on, ~yes & on, ~yes & ~on)
    confusion = np.stack([(one & judged).sum(-1) for one in cells], -1)
    each, micro = rates(confusion), rates(confusion.sum(0))
    macro = [float(one[np.isfinite(one)].mean()) if np.isfinite(one).any() else np.nan for one in each]
    data: dict[str, Any] = {
        "activation": (("neuron", axes.EXAMPLE), acts),
        "active": (("neuron", axes.EXAMPLE), active),
        "inside": (("neuron", axes.EXAMPLE), said),
        "confusion": (("neuron", "cell"), confusion),
        "threshold": ("neuron", least),
        "overall": (("average", "measure"), [[float(one) for one in micro], macro]),
    }
    data |= {name: ("neuron", one) for name, one in zip(MEASURES, each, strict=True)}
    coords = {"neuron": [_name(*one) for one in where], "cell": [*CELLS], "average": ["micro", "macro"], "measure": [*MEASURES]}
    attrs: dict[str, Any] = {
        "method": "neuron_explanations",
        "model": model.name,
        "digest": model.digest,
        "position": str(position),
    }
    attrs |= {} if quantile is None else {"quantile": quantile}
    return effects.stamped(xr.Dataset(data, coords, attrs))


def interchange_neurons(
    model: Model,
    rows: Any,
    sets: Mapping[str, Sequence[Neuron]],
    *,
    position: Any = None,
    draws: int = 20,
    seed: int = 0,
    precision: Precision = "full",
    progress: bool | None = None,
) -> xr.Dataset:
    """Interchange intervention accuracy of sets of neurons, beside its controls.

    Args:
        model: from :func:`interp.load`.
        rows: pairs whose answers are what the source's value of the concept asks for, or rows of a causal model.
        sets: neurons by the name of what their explanations say, as in :func:`score_explanations`. A set of each layer makes a
            sweep over layers.
        position: where the concept is, in base and source; by default everywhere.
        draws: sets of random neurons, as many of every layer.
        seed: of these.
        precision, progress: as for :func:`interp.patch`.

    Returns:
        ``iia [neuron_set, example]``, 1 where the network chooses y*; ``random_neurons [neuron_set, seed, example]``;
        ``full_vector [neuron_set, example]``, all neurons of the set's layers; ``token_embedding [example]``, the source's
        embedding at the position, where the model has one; ``no_op [example]``; ``neurons [neuron_set]``, how many.

    Raises:
        HeadOutOfRangeError: no such unit.
        InputError: no sets, or an empty one.
    """
    require_whole("draws", draws, "how many sets of random neurons are drawn")
    if not sets or not all(len(one) for one in sets.values()):
        raise InputError(f"sets are {dict(sets)!r}; expected neurons by name, one at least of each")
    encoded = encoded_pairs(model, rows.pairs() if isinstance(rows, Counterfactuals) else rows)
    at = Positions.parse(position)
    generator = np.random.default_rng(seed)
    cells: list[Intervention] = []
    for one in sets.values():
        by = _by_site(_neurons(one))
        widths = {site: _width(model, encoded.pairs[0].corrupted, site) for site in by}
        for site, units in by.items():
            _require(site, units, widths[site])
        cells.append(_together({site: (units, widths[site]) for site, units in by.items()}, at))
        for _ in range(draws):
            some = {
                s: (generator.choice(widths[s], len({*units}), replace=False).tolist(), widths[s]) for s, units in by.items()
            }
            cells.append(_together(some, at))
        cells.append(_together({site: (range(widths[site]), widths[site]) for site in by}, at))
    embedded = model.has(Site.parse("embed"))
    if embedded:
        cells.append(Intervention((Change("embed", at),)))
    found = patch(model, encoded, cells, "accuracy", skip_inert=False, precision=precision, progress=progress)
    assert isinstance(found, xr.Dataset)
    value = found["value"].isel({axes.METRIC: 0}).transpose(axes.CELL, axes.EXAMPLE).values
    by_set = value[: len(sets) * (draws + 2)].reshape(len(sets), draws + 2, -1)
    data: dict[str, Any] = {
        "iia": ((SET, axes.EXAMPLE), by_set[:, 0]),
        "random_neurons": ((SET, axes.SEED, axes.EXAMPLE), by_set[:, 1:-1]),
        "full_vector": ((SET, axes.EXAMPLE), by_set[:, -1]),
        "no_op": ((axes.EXAMPLE,), found["corrupt"].isel({axes.METRIC: 0}).values),
        "neurons": ((SET,), [len({*_neurons(one)}) for one in sets.values()]),
    }
    data |= {"token_embedding": ((axes.EXAMPLE,), value[-1])} if embedded else {}
    controls = ["no_op", "random_neurons", "full_vector", *(["token_embedding"] if embedded else [])]
    result = xr.Dataset(data, {SET: [*sets], axes.SEED: np.arange(draws)})
    result = result.assign_coords({name: found[name] for name in ("template",) if name in found.coords})
    attrs = {**found.attrs, "method": "explained_neurons", "controls": controls, "spec": None, "position": repr(at)}
    return effects.stamped(result.assign_attrs(attrs))


# ---------------------------------------------------------------------------------------- neurons


def _neurons(given: Any) -> list[tuple[str, int]]:
    """Sites and units."""
    found = []
    for one in given:
        if not isinstance(one, tuple | list) or len(one) != 2:
            raise InputError(f"neuron {one!r}; expected a layer and a unit, such as (3, 17), or a site and a number")
        site, unit = one
        found.append((site if isinstance(site, str) else f"L{int(site)}.mlp_post", int(unit)))
    return found


def _name(site: str, unit: int) -> str:
    return f"{site}[{unit}]"


def _by_site(neurons: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for site, unit in neurons:
        found.setdefault(site, []).append(unit)
    return found


def _require(site: str, units: Sequence[int], width: int) -> None:
    for unit in units:
        if not 0 <= unit < width:
            raise HeadOutOfRangeError(f"unit {unit} of {site}, which has {width}")


def _width(model: Model, prompt: Any, site: str) -> int:
    return int(next(iter(cache(model, [prompt], site).data_vars.values())).shape[-1])


def _together(units: Mapping[str, tuple[Sequence[int], int]], at: Positions) -> Intervention:
    """The units of every site at once."""
    changes = []
    for site, (some, width) in units.items():
        chosen = torch.zeros(width, dtype=torch.bool)
        chosen[list(some)] = True
        changes.append(Change(site, at, edit=Select(chosen)))
    return Intervention(tuple(changes))


def _judged(inside: ArrayLike, neurons: int, prompts: int) -> NDArray[np.float64]:
    found = np.asarray(inside, float)
    if found.shape not in ((prompts,), (neurons, prompts)):
        raise ShapeMismatchError(
            f"inside has shape {found.shape}; expected [neuron, prompt] ({neurons}, {prompts}), or [prompt]"
        )
    if not (np.isnan(found) | (found == 0) | (found == 1)).all():
        raise InputError(
            "inside holds other numbers than 0, 1 and NaN: whether an explanation says that a string is one of its"
        )
    return found


def _largest(model: Model, prompts: Sequence[Any], neurons: Sequence[tuple[str, int]], position: Any) -> NDArray[np.float64]:
    """``[neuron, prompt]``: the largest value at the target's tokens, of all neurons from one pass."""
    by = _by_site(neurons)
    kept = cache(model, list(prompts), list(by), position=position)
    found: dict[tuple[str, int], NDArray[np.float64]] = {}
    for site, units in by.items():
        array = _array(kept, site)
        values = array.transpose(axes.EXAMPLE, ...).values
        _require(site, units, values.shape[-1])
        rows = values[..., units].reshape(len(prompts), -1, len(units))
        if np.isnan(rows).all(1).any():
            row = int(np.isnan(rows).all(1).any(-1).argmax())
            raise InputError(f"prompt {row} has no token at position={position!r}: {prompts[row]!r}")
        most = np.nanmax(rows, axis=1)
        found |= {(site, unit): most[:, i] for i, unit in enumerate(units)}
    return np.stack([found[one] for one in neurons]).astype(np.float64)


def _array(kept: xr.Dataset, site: str) -> xr.DataArray:
    """One site of what was kept."""
    if site in kept:
        return kept[site]
    own = Site.parse(site)
    array = kept[own.name]
    return array.sel({axes.LAYER: own.layer}) if axes.LAYER in array.dims else array
