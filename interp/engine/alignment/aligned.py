"""What a search for alignments returns: numbers with their controls and a verdict, and the interventions themselves.

>>> found = interp.das(model, train, interp.grid("resid_post", position=["END"]), rank=[1, 2, 4])     # doctest: +SKIP
>>> found.verdict                                                                                 # doctest: +SKIP
'IIA 0.97 [0.95, 0.98] at layer 5, rank 2 (chosen on validation pairs); largest of controls: …'
>>> interp.patch(model, other_pairs, found.best, metric="accuracy")                               # doctest: +SKIP
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from interp import axes, effects
from interp.effects.alignment import chosen, verdict
from interp.engine import provenance, recipe
from interp.engine.alignment import places
from interp.engine.alignment.controls import Controls, measured
from interp.engine.alignment.learner import Learner
from interp.engine.alignment.search import Search, Training, align
from interp.engine.asked import encoded_pairs
from interp.engine.provenance import Subject
from interp.engine.stored import Into, loaded
from interp.errors import InputError, StoreError
from interp.interventions import Intervention, from_safetensors, to_safetensors
from interp.metrics import MetricLike
from interp.metrics import resolve as resolve_metrics
from interp.models import Encoded, Model
from interp.prompts import Pairs
from interp.tasks import Counterfactuals

FILE = "alignments.safetensors"
"""Beside the numbers in a store."""


@dataclass(frozen=True, eq=False, repr=False)
class Aligned:
    """Alignments of every place, rank and seed."""

    effects: xr.Dataset
    """``iia`` of the test pairs, 0 or 1, by (axes of the places, rank, seed, example); ``validation`` by (…, rank, seed);
    ``loss`` by (…, rank, seed, step); the controls; ``attrs["chosen"]`` and ``attrs["verdict"]``."""
    interventions: tuple[Intervention | None, ...]
    """Hard, ready for :func:`interp.patch`; one a place, rank and seed, seeds running fastest; None where there is no place."""

    @property
    def verdict(self) -> str:
        """The claim, the largest of its controls, and whether it beats them (:func:`interp.effects.alignment.verdict`)."""
        return str(self.effects.attrs["verdict"])

    @property
    def best(self) -> Intervention:
        """The one that validation chose."""
        return self.at(**chosen(self.effects))

    def at(self, **coords: Any) -> Intervention:
        """The intervention of one place, rank and seed; an axis with a single value may be left out.

        Raises:
            InputError: an axis with several values is left out, or there is no place.
            KeyError: no such coordinate.
        """
        validation = self.effects["validation"]
        left = [str(dim) for dim in validation.dims if dim not in coords and validation.sizes[dim] > 1]
        if left:
            raise InputError(f"{', '.join(left)} not given: say which, as in at({left[0]}={validation[left[0]].values[0]!r})")
        numbers = validation.copy(data=np.arange(validation.size).reshape(validation.shape))
        found = self.interventions[int(numbers.sel(coords).values.ravel()[0])]
        if found is None:
            raise InputError(f"there is no place at {coords}")
        return found

    def __repr__(self) -> str:
        sizes = ", ".join(f"{dim}={size}" for dim, size in self.effects["validation"].sizes.items())
        return f"Aligned({self.effects.attrs['method']}, {sizes})\n  {self.verdict}"


def search_for(
    call: str,
    model: Model,
    train: Any,
    test: Any,
    where: Any,
    learner: Learner,
    *,
    ranks: Sequence[int | float],
    seeds: int | Sequence[int],
    variables: Sequence[str],
    training: Training,
    controls: Controls,
    metric: MetricLike,
    facts: Mapping[str, Any],
    said: Mapping[str, Any],
    into: Into | None,
) -> Aligned:
    """A whole search with its controls: found in the store, or made and kept there.

    Args:
        call: the function that was called.
        train, test: pairs; without ``test`` the pairs are split, by template or entity where they name these.
        facts: what it was called with, JSON: all that the numbers depend on beside the model, the pairs and the metric.
        said: the arguments of the call, for the recipe.
    """
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not seeds or not ranks:
        raise InputError(f"ranks={list(ranks)} and seeds={list(seeds)} leave nothing to search for")
    train, test, controls, along = _of_rows(train, test, controls)
    given, shown = _sides(model, train, test)
    variables = tuple(variables) or given.pairs.sources
    metrics = resolve_metrics(metric)
    subject = Subject(model, given)
    facts = {
        **facts,
        "ranks": list(ranks),
        "seeds": list(seeds),
        "variables": list(variables),
        "tested_on": shown.pairs.digest,
        "controls": list(controls.names),
        "control_pairs": {
            "held_out": _digest(controls.held_out),
            "false": [_digest(one) for one in controls.false or ()],
            "full": _digest(controls.full),
            "draws": controls.draws,
            "networks": controls.networks,
        },
        "training": {
            name: getattr(training, name)
            for name in ("steps", "batch", "lr", "warmup", "fall", "order", "validation", "precision")
        }
        | {"objective": resolve_metrics(training.objective)[0].name},
    }
    searching = partial(
        align, where=where, learner=learner, ranks=ranks, seeds=seeds, variables=variables, training=training, metric=metric
    )

    def made() -> Aligned:
        began, bar = time.perf_counter(), _bar(training.progress, 1 + len(controls.names))
        with bar as shown_bar:
            shown_bar.set_description_str(call)
            search = searching(model, given, shown)
            words: dict[str, Any] = {"variables": variables, "training": training, "metric": metric}

            def say(name: str) -> None:
                shown_bar.update()
                shown_bar.set_description_str(f"{call}: {name.replace('_', ' ')}")

            extra = measured(controls, search, searching, model, given, shown, say=say, **words)
        dataset = _dataset(search, extra, attrs, seeds).assign_coords(along)
        known = {"wall_seconds": time.perf_counter() - began, "made_at": datetime.now(UTC).isoformat(timespec="seconds")}
        dataset = dataset.assign_attrs(known)
        dataset = dataset.assign_attrs(chosen=chosen(dataset), verdict=verdict(dataset))
        return Aligned(effects.stamped(dataset), _spread(search))

    spec_of_where = {key: dict(family.spec) for key, family in places.asked(model, given, where).items()}
    attrs = {
        **provenance.attributes(subject, "denoising", metrics),
        "method": call,
        **facts,
        "spec": provenance.spec(subject, "denoising", metrics, {call: {**facts, "where": spec_of_where}}),
    }
    if into is None:
        return made()
    pairs = {"test": shown.pairs, "held_out": controls.held_out, "false": controls.false, "full": controls.full}
    told = {name: value for name, value in said.items() if name != "train"}
    told |= {name: value for name, value in pairs.items() if value is not None}  # rows of a causal model as their pairs
    written = partial(recipe.recorded, call, model, given, **told)
    bare = xr.Dataset(attrs=attrs)
    there = loaded(into, bare, written)
    if isinstance(there, xr.Dataset):
        kept = into.store.like(bare)
        files = {} if kept is None else kept.beside()
        if FILE not in files:
            raise StoreError(f"the run has no {FILE} beside it: what was trained is lost; delete the run to make it anew")
        return Aligned(there, tuple(from_safetensors(files[FILE])))
    found = made()
    run = into.store.save(
        found.effects,
        name=into.name,
        tags=into.tags,
        beside={**written(), FILE: to_safetensors(list(found.interventions))},
    )
    return Aligned(run.load(), found.interventions)


def _bar(progress: bool | None, total: int) -> Any:
    return tqdm(total=total, unit="search", disable=progress is False, delay=0 if progress else 1, leave=False)


def _of_rows(train: Any, test: Any, controls: Controls) -> tuple[Any, Any, Controls, dict[str, Any]]:
    """Pairs of a causal model's rows, with the controls that these can tell, and what they know of each test example."""
    full, false = controls.full, controls.false
    along: dict[str, Any] = {}
    if isinstance(test, Counterfactuals):
        if full is None and "full_vector" in controls.names:
            full = test.with_label("source").pairs()
        along = {"flip": (axes.EXAMPLE, test.flip), "moved": (axes.EXAMPLE, test.moved)}
        along["swapped"] = (axes.EXAMPLE, test.swapped)
        test = test.pairs()
    if isinstance(train, Counterfactuals):
        train = train.pairs()
    if false is not None:
        own, tested = (one.pairs() if isinstance(one, Counterfactuals) else one for one in false)
        false = (own, tested)
    held_out = controls.held_out
    held_out = held_out.pairs() if isinstance(held_out, Counterfactuals) else held_out
    return train, test, replace(controls, full=full, false=false, held_out=held_out), along


def _sides(model: Model, train: Any, test: Any) -> tuple[Encoded, Encoded]:
    """Training and test pairs; one set of pairs is split."""
    if test is None:
        whole = train.pairs if isinstance(train, Encoded) else train
        if not isinstance(whole, Pairs):
            raise InputError("test is not given, and train is no interp.Pairs that could be split; give both")
        train, test = whole.split()
    return encoded_pairs(model, train), encoded_pairs(model, test)


def _digest(pairs: Any) -> str | None:
    if pairs is None:
        return None
    found: str = pairs.pairs.digest if isinstance(pairs, Encoded) else pairs.digest
    return found


def _dataset(search: Search, extra: Mapping[str, xr.DataArray], attrs: Mapping[str, Any], seeds: Sequence[int]) -> xr.Dataset:
    """Everything along its axes."""
    names = (*search.laid.axes, axes.RANK, axes.SEED)
    variables: dict[str, xr.DataArray] = {
        "iia": xr.DataArray(search.spread(search.iia), dims=(*names, axes.EXAMPLE)),
        "validation": xr.DataArray(search.spread(search.validation), dims=names),
        "loss": xr.DataArray(search.spread(search.loss), dims=(*names, axes.STEP)),
    }
    variables |= {name: xr.DataArray(search.spread(found), dims=names) for name, found in search.learned.items()}
    coords: dict[str, Any] = {name: list(values) for name, values in search.laid.axes.items()} | {axes.RANK: list(search.ranks)}
    coords |= {name: search.result[name] for name in ("template", "answer", "wrong") if name in search.result.coords}
    return xr.Dataset({**variables, **extra}, {**coords, axes.SEED: list(seeds)}, {**attrs, "controls": list(extra)})


def _spread(search: Search) -> tuple[Intervention | None, ...]:
    each = len(search.ranks) * len(search.seeds)
    real = iter(search.interventions)
    return tuple(next(real) if there else None for there in search.laid.exists for _ in range(each))
