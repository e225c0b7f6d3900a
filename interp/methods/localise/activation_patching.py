"""Activation patching under several choices: how the map depends on direction, corruption, metric and window.

    >>> pairs = interp.tasks.ioi(64, seed=0, tokenizer=model.tokenizer)                                  # doctest: +SKIP
    >>> found = interp.compare_choices(model, pairs, subject="S2", corruptions=("str", "noise"))         # doctest: +SKIP
    >>> found                                                             # which heads each choice flags # doctest: +SKIP
    >>> found.agreement()                                                                                # doctest: +SKIP
    >>> interp.views.maps(found.maps())                                                                  # doctest: +SKIP

Zhang & Nanda, "Towards Best Practices of Activation Patching in Language Models: Metrics and Methods" (arXiv 2309.16042).

1. Corrupt: ``"str"``, symmetric token replacement, is the pair's own other prompt; ``"noise"`` adds Gaussian noise of 3σ to the
   embeddings of a role's tokens, one draw that all cells share, where σ is the deviation of all entries of these embeddings.
   ``"zero"``, ``"mean"`` and ``"resample"`` corrupt only the component that is patched, so they are noising alone.
2. Patch every cell, denoising and noising; families that have no heads in windows of layers [l − ⌊w/2⌋, l + ⌈w/2⌉) too.
3. Read all metrics from the same logits, and normalise: recovery where denoising, damage where noising. Of ``kl``, which is
   D(clean ‖ run), recovery is (D(clean ‖ corrupted) − D(clean ‖ patched)) / D(clean ‖ corrupted).
4. Flag the cells that are 2 standard deviations or more from the mean of their family, on both sides.

One sweep a direction and corruption holds all families, windows and metrics. Damage by zero, mean and resampling is in units of
the pairs' own clean − corrupted, so that it stands beside that by ``"str"``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd
import xarray as xr

from interp import axes, effects
from interp.effects.flagging import flagged, overlap
from interp.engine import patch
from interp.engine.asked import asked_pairs, one_or_more
from interp.engine.background import Given, Hold
from interp.engine.embeddings import embedding_std
from interp.engine.families import gridded
from interp.engine.precision import Precision
from interp.engine.prepared import Patching
from interp.engine.stored import StoreLike
from interp.errors import HeadOutOfRangeError, InputError, UnknownNameError
from interp.interventions import Activation, Add, Change, Noise, zero
from interp.interventions.source import SPAN
from interp.methods.registry import Method
from interp.metrics import MetricLike
from interp.models import Model
from interp.sites import Grid, Positions, PositionsLike, grid

METHOD = Method(
    id="activation_patching_choices",
    name="activation patching, its choices compared",
    paper="Zhang & Nanda 2023, Towards Best Practices of Activation Patching in Language Models, arXiv 2309.16042",
    mediator="streams, heads, MLPs, by position and by window of layers",
    search="exhaustive",
    cost="for every direction and corruption two forward passes, and for every cell what of one comes after it",
    function="interp.compare_choices",
)
CORRUPTIONS = ("str", "noise", "zero", "mean", "resample")
_COMPONENT = ("zero", "mean", "resample")


class Choice(NamedTuple):
    """One way to make a map, but for its metric."""

    family: str
    patching: str
    corruption: str
    window: int

    def __str__(self) -> str:
        wide = f", {self.window} layers" if self.window > 1 else ""
        return f"{self.family} · {self.patching} · {self.corruption}{wide}"


@dataclass(frozen=True, eq=False, repr=False)
class Choices:
    """Maps of the same cells under several choices. Printed, it is the table of what each flags."""

    effects: Mapping[Choice, xr.Dataset]
    """By choice, with all metrics: what :func:`interp.recovery`, :func:`interp.top` and the views take."""
    deviations: float
    """From this many standard deviations on a cell is flagged."""

    @property
    def metrics(self) -> list[str]:
        """Their names, in the order in which they were asked for."""
        return [str(one) for one in next(iter(self.effects.values()))[axes.METRIC].values]

    def map(self, choice: Choice, metric: str | None = None) -> xr.DataArray:
        """Recovery, or damage where noising, of every cell: ratios of means over examples."""
        if choice not in self.effects:
            raise UnknownNameError("choice", str(choice), map(str, self.effects))
        ds = effects.choose_metric(self.effects[choice], metric)
        return effects.value_of(ds, "recovery" if choice.patching == "denoising" else "damage")

    def maps(
        self,
        family: str | None = None,
        metrics: Iterable[str] | None = None,
        windows: Iterable[int] | None = None,
    ) -> dict[str, xr.DataArray]:
        """Maps of one family by what tells them apart, as :func:`interp.views.maps` draws them.

        Args:
            family: by default the first.
            metrics: by default all.
            windows: by default all.
        """
        family = next(iter(self.effects)).family if family is None else family
        wanted, wide = list(self.metrics if metrics is None else metrics), None if windows is None else set(windows)
        found = {
            f"{str(one).removeprefix(f'{family} · ')} · {metric}": self.map(one, metric)
            for one in self.effects
            if one.family == family and (wide is None or one.window in wide)
            for metric in wanted
        }
        if not found:
            raise UnknownNameError("family", family, dict.fromkeys(one.family for one in self.effects))
        return found

    def table(self) -> pd.DataFrame:
        """A row a choice and metric: the baselines, the peak, and the cells that are flagged above and below the mean."""
        rows = []
        for choice, metric, cells in self._each():
            ds = effects.choose_metric(self.effects[choice], metric)
            own = choice._asdict() | {"metric": metric}
            own |= {side: float(ds[side].mean()) for side in ("clean", "corrupt")}
            flags = flagged(cells, self.deviations)
            own |= dict(zip(("peak_cell", "peak"), _peak(cells), strict=True))
            own |= {word: _names(cells, flags == sign) for word, sign in (("above", 1), ("below", -1))}
            rows.append(own | {"flagged": len(own["above"]) + len(own["below"])})
        return pd.DataFrame(rows)

    def agreement(self) -> pd.DataFrame:
        """A row a pair of choices and metrics of a family and window: rank correlation, and the overlap of what they flag."""
        every, rows = list(self._each()), []
        for n, (one, metric, cells) in enumerate(every):
            for other, second, theirs in every[n + 1 :]:
                if (one.family, one.window) == (other.family, other.window):
                    found = overlap(cells, theirs, self.deviations)
                    sides = {"first": _short(one, metric), "second": _short(other, second)}
                    told = {"rank_correlation": found.spearman, "both": found.both, "either": found.either}
                    rows.append({"family": one.family, "window": one.window} | sides | told | {"overlap": found.share})
        return pd.DataFrame(rows)

    def windows(self) -> pd.DataFrame:
        """A row a window and metric: its peak, what the single layers in it come to there, and the peak of such sums.

        ``ratio`` is the peak of windows over the peak of summed single layers; above 1, layers do
        together what none does alone.
        Only where windows of one layer were run too.
        """
        rows = []
        for choice, metric, cells in self._each():
            alone = choice._replace(window=1)
            if choice.window == 1 or alone not in self.effects:
                continue
            summed = _summed(self.map(alone, metric), choice.window)
            (cell, peak), (at, most) = _peak(cells), _peak(summed)
            there = float(summed.values.ravel()[_argmax(cells)]) if cell else float("nan")
            own = {"peak_cell": cell, "peak": peak, "summed_there": there, "summed_cell": at, "summed_peak": most}
            rows.append(choice._asdict() | {"metric": metric} | own | {"ratio": peak / most if most else float("nan")})
        return pd.DataFrame(rows)

    def _each(self) -> Iterator[tuple[Choice, str, xr.DataArray]]:
        for choice in self.effects:
            for metric in self.metrics:
                yield choice, metric, self.map(choice, metric)

    def __repr__(self) -> str:
        table, lines = self.table(), []
        for (family, window), rows in table.groupby(["family", "window"], sort=False):
            wide = f", windows of {window} layers" if window > 1 else ""
            n = next(ds.sizes[axes.EXAMPLE] for choice, ds in self.effects.items() if choice.family == family)
            lines.append(f"{family}{wide}, {n} examples; flagged from {self.deviations:g} SD on, + above and − below the mean")
            for row in rows.itertuples():
                told = [f"+{name}" for name in row.above] + [f"−{name}" for name in row.below]
                shown = " ".join(told[:8]) + (f" … ({len(told)})" if len(told) > 8 else "")
                how = f"{row.patching:9} {row.corruption:8} {row.metric:10}"
                lines.append(f"  {how} peak {row.peak:+6.2f} {row.peak_cell:10} {shown or 'none flagged'}")
        return "\n".join(lines)


def compare_choices(
    model: Model,
    pairs: Any,
    where: Grid | str | Mapping[str, Grid | str] | None = None,
    metric: MetricLike | Sequence[MetricLike] = ("logit_diff", "prob", "logprob", "kl"),
    *,
    patching: Patching | Sequence[Patching] = ("denoising", "noising"),
    corruptions: str | Sequence[str] = ("str", "noise"),
    subject: PositionsLike = "subject",
    noise: float = 3.0,
    windows: int | Sequence[int] = (1,),
    deviations: float = 2.0,
    seed: int = 0,
    given: Given = None,
    hold: Hold = (),
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
    store: StoreLike | None = None,
    name: str | None = None,
    tags: Iterable[str] = (),
) -> Choices:
    """Patch the same cells under every combination of choices.

    Args:
        model: a language model.
        pairs: with answers, and wrong ones where a metric asks for them.
        where: a grid or a site, or several by name; by default ``{"heads": interp.grid("z", layer=..., head=...)}``.
        metric: one or several, all read from the same passes.
        patching: one direction or both.
        corruptions: some of ``"str"``, ``"noise"``, ``"zero"``, ``"mean"`` (over examples and the tokens that a cell changes)
            and ``"resample"`` (another example's clean run, of as many tokens); the last three noising alone.
        subject: the tokens of the clean prompts that ``"noise"`` changes: a role, such as ``"S2"``.
        noise: in units of σ, the deviation of all entries of these tokens' embeddings.
        windows: of families that have layers and no heads, widths in layers; a head's family is run by single heads.
        deviations: from how many standard deviations on a cell is flagged.
        seed: of the noise and of resampling.
        given, hold, rows, precision, progress: as for :func:`interp.patch`.
        store: where the sweeps are kept, one for every direction and corruption.
        name, tags: of these runs in the store; the name is followed by direction and corruption.

    Raises:
        UnknownNameError: a corruption that is none of those above.
        InputError: no choice is left, as of zero ablation with denoising alone.
        PositionError: prompts without tokens of the subject. And what :func:`interp.patch` raises.
    """
    corruptions = tuple(one_or_more(corruptions))
    windows = (windows,) if isinstance(windows, int) else tuple(windows)
    for word in corruptions:
        if word not in CORRUPTIONS:
            raise UnknownNameError("corruption", word, CORRUPTIONS)
    directions = tuple(one_or_more(patching))
    for word in directions:
        if word not in get_args(Patching):
            raise UnknownNameError("patching", word, get_args(Patching))
    chosen = [(way, how) for how in corruptions for way in directions if how not in _COMPONENT or way == "noising"]
    if not chosen or not windows:
        raise InputError(
            f"patching={directions}, corruptions={corruptions} and windows={windows} leave nothing to run; "
            "'zero', 'mean' and 'resample' are noising, and windows hold widths such as 1"
        )
    if min(windows) < 1:
        raise HeadOutOfRangeError(f"windows={windows}: give numbers of adjacent layers, 1 at least")
    encoded, _ = asked_pairs(model, pairs)
    laid = _families(model, where, windows)
    std = noise * embedding_std(model, encoded, subject) if "noise" in corruptions else None
    found: dict[tuple[str, str], dict[str, xr.Dataset]] = {}
    for way, how in chosen:
        options: dict[str, Any] = {"given": given, "hold": hold, "rows": rows, "precision": precision, "progress": progress}
        options |= {"store": store, "tags": tags, "name": None if name is None else f"{name}, {way}, {how}"}
        if how == "noise":
            options["corruption"] = Change("embed", Positions.parse(subject), Noise(float(std or 0.0), seed), Add())
        elif how != "str":
            options["source"] = _SOURCES[how](seed)
        grids = {_called(key): one for key, one in laid.items()}
        found[way, how] = effects.families(patch(model, encoded, grids, metric, patching=way, **options))
    told = {"noise": {"std": std, "sigmas": noise, "seed": seed, "subject": str(Positions.parse(subject))}}
    every = {
        Choice(family, way, how, window): ds.assign_attrs(
            {"method": "compare_choices", "corrupted_by": how, "window": window} | (told if how == "noise" else {})
        )
        for family, window in laid
        for (way, how), own in found.items()
        for ds in (own[_called((family, window))],)
    }
    return Choices(every, deviations)


_SOURCES: Mapping[str, Any] = {
    "zero": lambda seed: zero(),
    "mean": lambda seed: Activation("base", pool="mean", over=(axes.EXAMPLE, SPAN)),
    "resample": lambda seed: Activation("base", pool="resample", seed=seed),
}


def _called(key: tuple[str, int]) -> str:
    """The name of a family and window in one sweep."""
    family, window = key
    return family if window == 1 else f"{family}, {window} layers"


def _families(model: Model, where: Any, windows: Sequence[int]) -> dict[tuple[str, int], Grid]:
    """Grids by family and window."""
    if where is None:
        where = {"heads": grid("z", layer=..., head=...)}
    named = where if isinstance(where, Mapping) else {_named(where): where}
    grids = gridded(model, named)
    found = {}
    for family, one in grids.items():
        if not isinstance(one, Grid):
            raise InputError(f"where[{family!r}] is a {type(one).__name__}; choices are compared on grids and sites")
        slides = axes.LAYER in one.axes and axes.HEAD not in one.axes
        for window in windows if slides else (1,):
            found[family, window] = replace(one, window=window)
    if not found:
        raise InputError("where is an empty mapping; name at least one grid")
    return found


def _named(where: Any) -> str:
    return str(where.site) if isinstance(where, Grid) else str(where)


def _short(choice: Choice, metric: str) -> str:
    return f"{choice.patching} · {choice.corruption} · {metric}"


def _argmax(cells: xr.DataArray) -> int:
    """The flat index of the strongest cell; of equal ones the first."""
    return int(np.nanargmax(np.abs(cells.values)))


def _peak(cells: xr.DataArray) -> tuple[str, float]:
    """The strongest cell with its number; nothing where none has one."""
    if not np.isfinite(cells.values).any():
        return "", float("nan")
    flat = _argmax(cells)
    return _name(cells, flat), float(cells.values.ravel()[flat])


def _name(cells: xr.DataArray, flat: int) -> str:
    at = np.unravel_index(flat, cells.shape)
    return effects.cell_name({dim: cells[dim].values[i] for dim, i in zip(cells.dims, at, strict=True)})


def _names(cells: xr.DataArray, chosen: xr.DataArray) -> list[str]:
    """Cells that are chosen, the strongest first."""
    numbers = np.flatnonzero(chosen.transpose(*cells.dims).values)
    order = np.argsort(-np.abs(cells.values.ravel()[numbers]), kind="stable")
    return [_name(cells, flat) for flat in numbers[order].tolist()]


def _summed(single: xr.DataArray, window: int) -> xr.DataArray:
    """Single layers summed over windows, as wide at the ends as windows are there."""
    layers = single[axes.LAYER].values
    parts = [
        single.sel({axes.LAYER: [o for o in layers if at - window // 2 <= o < at + (window + 1) // 2]}).sum(axes.LAYER)
        for at in layers
    ]
    return xr.concat(parts, single[axes.LAYER]).transpose(*single.dims)
