"""Is what an intervention writes something that the model ever has there? How far it is from natural activations.

    >>> heads = interp.grid("z", layer=..., head=..., position="END")                                     # doctest: +SKIP
    >>> zeroed = interp.off_distribution(model, pairs, heads, source=interp.Constant(0.0))                # doctest: +SKIP
    >>> zeroed["flagged"].sum(), zeroed["norm_ratio"].mean("example")                                     # doctest: +SKIP
    >>> interp.views.heatmap(zeroed["distance"].mean("example"))                                          # doctest: +SKIP
    >>> interp.views.heatmap((zeroed["distance"] / zeroed["threshold"]).mean("example"))                  # doctest: +SKIP

What is far from all natural activations may do what no natural prompt does: Zhang and Nanda, "Towards Best Practices of
Activation Patching in Language Models" (arXiv 2309.16042), on Gaussian noise.

1. h' is what would be written at a changed site, from the base run and the runs that its source reads: no pass a cell.
2. Natural activations are those of the same site and tokens on both prompts of all pairs, or on other prompts; of the model as
   it is, without what is given.
3. ``norm_ratio``: ‖h'‖ by the mean natural norm, a mean over the changed tokens.
4. ``distance``: Mahalanobis, with the covariance of :class:`interp.stats.Normal` (Ledoit and Wolf), a mean over the changed
   tokens. The pairs are split in two at random, and each half is judged by the distribution of the other. Every token of the
   change has a distribution of its own where all prompts have as many, else all tokens share one.
5. ``threshold``: a quantile of the distances that natural activations have themselves, found in the same way. ``beyond`` says
   in which examples h' is farther away, ``flagged`` where it is in more than half of them.
6. ``scale_ratio``: what the last norm divides by where metrics read, with the change by without it, from a pass a cell.

With n natural prompts the quantile is near their largest distance unless n is several times 1 / (1 − quantile), 100 by default.
With fewer prompts than features distances are coarser, for shrinkage then counts most directions alike. Halves with fewer than
:data:`interp.engine.natural.FEWEST` prompts are refused. A pool over all pairs, such as a mean, has both halves in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from interp import axes
from interp.engine import gauge, provenance
from interp.engine.asked import together
from interp.engine.background import Given, given_changes, in_force
from interp.engine.behind import FINAL
from interp.engine.cells import Cell
from interp.engine.families import Family, Where, asked, check_words
from interp.engine.filling import fill, force
from interp.engine.layout import LOGITS
from interp.engine.measure import sources
from interp.engine.natural import BASE, Natural, halves_of, own, written
from interp.engine.precision import Precision, float32
from interp.engine.prepared import Options, Patching, Prepared, start
from interp.engine.runs import Runs
from interp.engine.swept import joined
from interp.errors import UnknownSiteError
from interp.interventions import Activation, EditLike, Featurizer, Source
from interp.methods.registry import Method
from interp.models import Model
from interp.sites import Site

METHOD = Method(
    id="off_distribution",
    name="off-distribution diagnostics",
    paper="Zhang & Nanda 2023, Towards Best Practices of Activation Patching in Language Models, arXiv 2309.16042; "
    "Ledoit & Wolf 2004, A well-conditioned estimator for large-dimensional covariance matrices, "
    "https://doi.org/10.1016/S0047-259X(03)00096-4",
    mediator="whatever an intervention writes: streams, heads, MLPs, units, by position",
    search="reading",
    cost="two forward passes, and for every cell whose norm's scale is asked for what of one comes after it",
    function="interp.off_distribution",
)
CHANGE = "change"
"""The axis of the changes of one intervention."""
_QUANTITIES = {
    "norm_ratio": "norm over natural norm",
    "distance": "distance from natural activations",
    "scale_ratio": "last norm's scale over the base's",
}
"""What they are called in figures."""

_Numbers = NDArray[np.float64]


def off_distribution(
    model: Model,
    pairs: Any,
    where: Where,
    *,
    patching: Patching = "denoising",
    source: Source | None = None,
    edit: EditLike | None = None,
    featurizer: Featurizer | None = None,
    keep_error: bool = True,
    corruption: Given = None,
    given: Given = None,
    natural: Any = None,
    quantile: float = 0.99,
    scales: bool = True,
    rows: int | None = None,
    precision: Precision = "full",
) -> xr.Dataset | xr.DataTree:
    """Compare what interventions write with what the model has there by itself.

    Args:
        model, pairs, where, patching, source, edit, featurizer, keep_error, corruption, given: as for :func:`interp.patch`.
        natural: prompts or pairs whose activations are natural; by default both prompts of every pair, or with a ``corruption``
            the clean ones. Roles that the interventions name must be theirs too.
        quantile: of natural distances, beyond which a value is no longer natural.
        scales: run every cell to measure ``scale_ratio``.
        rows: most rows in one forward pass; by default what a memory budget allows.
        precision: as for :func:`interp.patch`.

    Returns:
        ``norm_ratio``, ``distance`` and ``beyond`` by the axes of ``where`` and example, ``scale_ratio`` likewise (NaN where
        there is none; the attribute ``scale_note`` says why), and ``threshold`` and ``flagged`` by the axes. Of
        several changes in one cell the one farthest beyond its threshold counts, each as the base is without the others,
        unless they are of one tensor; ``distance_of_change``, ``threshold_of_change``, ``norm_ratio_of_change`` and
        ``changed``, the sites, are then of each. A ``DataTree`` of such results where ``where`` is a mapping.

    Raises:
        InputError: too few natural prompts.
        ValueError: a quantile that is none.
        UnknownSiteError: logits, or attention scores or patterns, which have no features of their own. And what
            :func:`interp.patch` raises.
    """
    check_words(patching, precision=precision)
    if not 0 < quantile < 1:
        raise ValueError(f"quantile={quantile}; expected a share between 0 and 1, such as 0.99")
    options = Options(
        *(patching, "auto", given_changes(model, given), None, rows),
        precision=precision,
        corruption=together(corruption, "corruption"),
    )
    change = {"source": source, "edit": edit, "featurizer": featurizer, "keep_error": keep_error}
    prepared, families = asked(model, pairs, where, "kl", change, options)  # of metrics, only where they read is used
    _refuse(prepared)
    with torch.no_grad(), float32(precision), prepared.session():
        told = start(prepared)
        whole = Natural(prepared, natural, quantile)
        numbers = [number for family in prepared.families for number in family[:-1]]
        cells = [prepared.cells[number] for number in numbers]
        for place in own(*cells):
            prepared.runs.want(BASE, place.tensor, place.columns)
            whole.want(place.change)
        note = _unread(prepared)
        scales = scales and not note
        if scales:
            prepared.runs.want(BASE, FINAL, _read(prepared))
        cells = fill(cells, prepared.runs, told)
        judged = [_judged(prepared.runs, cell, whole) for cell in cells]
        ratio = _scale_ratio(prepared, numbers) if scales else None
    facts = provenance.attributes(prepared.subject, patching, ()) | whole.attrs | {"quantile": quantile}
    facts |= {"scale_note": note} if note else {}
    found, first = [], 0
    for family in families.values():
        part = slice(first, first + len(family.interventions))
        scale = np.full((len(family.interventions), len(prepared.encoded)), np.nan) if ratio is None else ratio[part]
        found.append(_labelled(prepared, family, judged[part], scale, facts, patching))
        first = part.stop
    return joined(found, families, {}, tree=isinstance(where, Mapping))


class _Judged(NamedTuple):
    """What one change writes, beside what is natural there."""

    site: Site
    norm_ratio: Float[_Numbers, " example"]
    distance: Float[_Numbers, " example"]
    threshold: float

    @property
    def excess(self) -> float:
        """How far beyond its threshold it is."""
        there = self.distance[np.isfinite(self.distance)]
        return float(there.mean() / self.threshold) if len(there) else 0.0


def _refuse(prepared: Prepared) -> None:
    """Sites without activations that have a distribution."""
    cells = [prepared.cells[number] for family in prepared.families for number in family[:-1]]
    for place in own(*cells):
        if place.change.square or place.change.site.name == LOGITS.name:
            why = (
                "attention scores and patterns are numbers by token, not features that have a distribution"
                if place.change.square
                else "logits are what the model says, and nothing after them could be disturbed"
            )
            raise UnknownSiteError("site of activations", repr(place.change.site), ["L3.z", "L3.resid_post"], why=why)


def _judged(runs: Runs, cell: Cell, natural: Natural) -> list[_Judged]:
    """What every change of a cell writes, beside what is natural there."""
    halves, found = halves_of(len(runs.base)), []
    for place, new in written(runs, cell):
        known = natural.at(place)
        found.append(_Judged(place.change.site, known.norm_ratio(new), known.distance(new, halves), known.threshold))
    return found


def _unread(prepared: Prepared) -> str:
    """Why there is no scale of a last norm where metrics read; empty if there is."""
    model, base = prepared.model, prepared.runs.base
    if not model.has(FINAL):
        return f"{model.name} has no {FINAL!r}, the scale of a last norm"
    if model.places(base, FINAL).width != model.places(base, LOGITS).width:
        return f"at which positions of {FINAL!r} the logits of {model.name} are read is not known"
    return ""


def _read(prepared: Prepared) -> Int[Tensor, "example 1"]:
    """Where metrics read, among the columns of the last norm."""
    places = prepared.model.places(prepared.runs.base, FINAL)
    return places.columns(prepared.reader.positions, what="metric position")[:, :1]


def _scale_ratio(prepared: Prepared, numbers: Sequence[int]) -> Float[_Numbers, "cell example"]:
    """The last norm's scale with a change by without it; 1 where a change cannot matter."""
    runs, at = prepared.runs, _read(prepared)
    everyone = torch.arange(len(at), device=at.device)

    def scale(of: Activation) -> Tensor:
        return runs.read(of, FINAL, at).at(everyone, at).reshape(-1).double()

    changed = [Activation("base", given=prepared.interventions[number]) for number in numbers]
    for source in changed:
        runs.want(source, FINAL, at)
    force(changed, runs)
    ratio = torch.stack([scale(source) for source in changed]) / scale(BASE)
    return ratio.masked_fill(prepared.by_rule[numbers], 1.0).cpu().numpy()


def _labelled(
    prepared: Prepared,
    family: Family,
    judged: Sequence[Sequence[_Judged]],
    scale: Float[_Numbers, "cell example"],
    facts: Mapping[str, Any],
    patching: Patching,
) -> xr.Dataset:
    """One family's numbers with their names."""
    swept, options = tuple(family.axes), prepared.options
    worst = [max(cell, key=lambda one: one.excess) for cell in judged]
    distance = np.stack([one.distance for one in worst])
    threshold = np.array([one.threshold for one in worst])
    beyond = distance > threshold[:, None]
    found: dict[str, tuple[tuple[str, ...], NDArray[Any]]] = {
        "norm_ratio": ((axes.EXAMPLE,), np.stack([one.norm_ratio for one in worst])),
        "distance": ((axes.EXAMPLE,), distance),
        "scale_ratio": ((axes.EXAMPLE,), scale),
        "beyond": ((axes.EXAMPLE,), beyond),
        "threshold": ((), threshold),
        "flagged": ((), beyond.mean(-1) > 0.5),
    }
    most = max(map(len, judged))
    if most > 1:
        nothing = np.full(len(prepared.encoded), np.nan)
        gap = _Judged(Site("embed"), nothing, nothing, np.nan)
        every = [[*cell, *[gap] * (most - len(cell))] for cell in judged]
        of_change = {
            "norm_ratio_of_change": ((CHANGE, axes.EXAMPLE), [[one.norm_ratio for one in cell] for cell in every]),
            "distance_of_change": ((CHANGE, axes.EXAMPLE), [[one.distance for one in cell] for cell in every]),
            "threshold_of_change": ((CHANGE,), [[one.threshold for one in cell] for cell in every]),
            "changed": ((CHANGE,), [["" if one is gap else repr(one.site) for one in cell] for cell in every]),
        }
        found |= {name: (dims, np.array(values)) for name, (dims, values) in of_change.items()}
    dtype = np.float64 if prepared.model.dtype == torch.float64 else np.float32
    made = {}
    for name, (dims, values) in found.items():
        filler = {"b": False, "U": ""}.get(values.dtype.kind, np.nan)
        full = np.full((family.exists.size, *values.shape[1:]), filler, values.dtype)
        full[family.exists.ravel()] = values
        full = full.reshape([*(len(along) for along in family.axes.values()), *values.shape[1:]])
        made[name] = ((*swept, *dims), full.astype(dtype) if full.dtype.kind == "f" else full)
    known = {name: (axes.EXAMPLE, values) for name, values in provenance.example_coordinates(prepared.encoded).items()}
    beside = [one for one in (options.corruption, options.given) if one is not None]
    attrs = {
        **facts,
        **family.attrs,
        **in_force(prepared.model, options.given, None, options.corruption),
        **gauge.attribute(prepared.model, [*family.interventions, *beside]),
        "method": "off_distribution",
        "source": sources(family.interventions, patching),
    }
    coords = {axis: list(along) for axis, along in family.axes.items()} | known | _coords(family)
    result = xr.Dataset(made, coords=coords, attrs=attrs)
    of = {key: attrs.get(key) for key in ("model", "task", "given")}
    return result.assign({name: result[name].assign_attrs({"quantity": q} | of) for name, q in _QUANTITIES.items()})


def _coords(family: Family) -> dict[str, Any]:
    """Those of a family, with the axes of what is known by position."""
    by_token = (axes.POSITION, axes.EXAMPLE)
    return {name: values if isinstance(values, tuple) else (by_token, values) for name, values in family.coords.items()}
