"""One question asked of many models: checkpoints, seeds, or any models, as an axis of the result.

>>> table = interp.models.zoo.checkpoints("induction-forming")                          # doctest: +SKIP
>>> heads = interp.grid("z", layer=..., head=...)                                       # doctest: +SKIP
>>> effects = interp.over(table, lambda model: interp.patch(model, pairs, heads))       # doctest: +SKIP
>>> effects.value.dims                                                                  # doctest: +SKIP
('metric', 'seed', 'checkpoint', 'layer', 'head', 'example')
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr
from torch import Tensor, nn
from tqdm.auto import tqdm

from interp import axes as names
from interp import models as house
from interp.effects.stacked import label_text
from interp.engine.provenance import ENGINE_SEMANTICS
from interp.engine.stacking import Labels, OverError, Result, stack
from interp.errors import UnknownNameError
from interp.models import Model

Models: TypeAlias = Sequence[Any] | Mapping[Any, Any] | pd.DataFrame

_LARGE, _OFTEN = 64 * 2**20, 5.0
"""Models of so many bytes are released at once, smaller ones together after so many seconds: looking for what can be released
takes longer than running a small model."""

_COLUMNS = {"model": names.MODEL, "seed": names.SEED, "step": names.CHECKPOINT, "checkpoint": names.CHECKPOINT}


def over(
    models: Models,
    call: Callable[[Model], Any],
    *,
    axis: str | Sequence[str] | None = None,
    load: Callable[[Any], Any] | None = None,
    progress: bool | None = None,
) -> xr.Dataset | xr.DataArray | xr.DataTree:
    """Call a function with each model and stack what it gives along a new axis.

    One model is loaded at a time and let go before the next one (those that are given as objects stay, of course).

    Args:
        models: names, folders or models; a mapping from labels to them; or a table with a column ``name`` and columns ``seed``
            and ``step``, such as :func:`interp.models.zoo.checkpoints` gives.
        call: any function of a model. It gives a Dataset, DataArray or DataTree of xarray, a number, or a mapping of names to
            numbers and DataArrays. Pairs may be encoded in it, with each model's own tokenizer.
        axis: ``"model"``, ``"seed"`` or ``"checkpoint"``, or two of them where labels are tuples. By default ``"model"``, of a
            table what its columns say. Seeds and checkpoints are labelled by integers.
        load: how a model is had from an item; by default :func:`interp.load`. With it, items of a sequence are labels:
            ``over([0, 1000], call, axis="checkpoint", load=lambda step: interp.load("pythia", revision=f"step{step}"))``.
        progress: show a bar; by default after the first second.

    Returns:
        The results as one. The new axes are the outermost (behind ``metric`` in effects), in the order of
        ``interp.axes.SWEPT``; ``attrs`` that are the same in all results stay, others are mappings by label, see
        :func:`interp.engine.stacked_attrs.merged`; of some of the models, :func:`interp.effects.attrs_of`. Effects stay
        effects: ``clean``, ``corrupt`` and ``given`` have the new axes too, and a site that a model does not have is
        ``absent`` there.

    Raises:
        OverError: labels that are missing, repeated or of the wrong kind, or results that cannot be stacked.
        ShapeMismatchError: results that differ along a dim whose values do not say what belongs together.
        Any error of ``call`` or of loading, with a note that names the model.
    """
    if not callable(call):
        raise OverError(f"call is {call!r} of type {type(call).__name__}; expected a function of a model")
    items, named = _labelled(models, axis, load)
    order = [named.index(a) for a in names.SWEPT if a in named]
    axes = tuple(named[i] for i in order)
    found: dict[Labels, Result] = {}
    facts: dict[Labels, dict[str, Any]] = {}
    bar = {"disable": progress is False, "delay": 0 if progress else 1, "leave": False}
    swept = time.monotonic()
    for number, (labels, item) in enumerate(tqdm(items.items(), unit="model", **bar), 1):
        place = tuple(labels[i] for i in order)
        try:
            with _no_bar_of_weights():
                model = _model(item, load)
            found[place] = _result(call(model), call)
            facts[place] = {"model": model.name, "model_digest": model.digest}
            size = 0 if item is model else sum(p.nbytes for p in model.module.parameters())
        except Exception as error:
            error.add_note(f"in model {label_text(axes, place)}, {number} of {len(items)} given to over")
            raise
        del model
        if size >= _LARGE or time.monotonic() - swept > _OFTEN:
            gc.collect()
            swept = time.monotonic()
    return stack({place: _with_facts(one, facts[place]) for place, one in found.items()}, axes)


def _labelled(models: Any, axis: Any, load: Any) -> tuple[dict[Labels, Any], tuple[str, ...]]:
    """What is to be loaded by its labels, and the axes that the labels are on."""
    named = (axis,) if isinstance(axis, str) else None if axis is None else tuple(axis)
    for one in named or ():
        if one not in names.MODELS:
            raise UnknownNameError("axis of models", one, names.MODELS)
    if isinstance(models, pd.DataFrame):
        pairs, named = _of_table(models, named)
    elif isinstance(models, str | os.PathLike | Model | nn.Module) or not isinstance(models, Sequence | Mapping):
        raise OverError(f"models is {models!r} of type {type(models).__name__}; expected several: a list, a mapping or a table")
    else:
        named = named or (names.MODEL,)
        keys = list(models) if isinstance(models, Mapping) or load is not None else [_label(item) for item in models]
        things = list(models.values()) if isinstance(models, Mapping) else list(models)
        pairs = [(key if isinstance(key, tuple) else (key,), item) for key, item in zip(keys, things, strict=True)]
    if not pairs:
        raise OverError("models is empty; give at least one")
    for labels, _ in pairs:
        _check(labels, named)
    items = dict(pairs)
    if len(items) < len(pairs):
        labels = next(labels for labels in items if sum(labels == other for other, _ in pairs) > 1)
        raise OverError(f"two models are called {label_text(named, labels)!r}; give a mapping from labels to models")
    return items, named


def _of_table(table: pd.DataFrame, named: tuple[str, ...] | None) -> tuple[list[tuple[Labels, Any]], tuple[str, ...]]:
    columns = {_COLUMNS[c]: c for c in table.columns if c in _COLUMNS}
    named = named or tuple(columns)
    what = next((c for c in ("name", "path") if c in table.columns), None)
    if what is None or not named or not set(named) <= set(columns):
        raise OverError(
            f"a table of models has a column 'name' and one or several of {', '.join(_COLUMNS)}; got {', '.join(table.columns)}"
        )
    labels = zip(*(table[columns[a]].tolist() for a in named), strict=True)
    return list(zip(labels, table[what].tolist(), strict=True)), named


def _label(item: Any) -> str:
    if isinstance(item, Model):
        return item.name
    if isinstance(item, nn.Module):
        return type(item).__name__
    if isinstance(item, str | os.PathLike):
        text = os.fspath(item).rstrip(os.sep)
        return os.path.basename(text) if os.path.isabs(text) or not isinstance(item, str) else text
    raise OverError(f"models holds {item!r} of type {type(item).__name__}; expected a name, a folder or a model, or give load=")


def _check(labels: Labels, named: Sequence[str]) -> None:
    if len(labels) != len(named):
        raise OverError(
            f"label {labels!r} has {len(labels)} parts for the axes {', '.join(named)}; give tuples of {len(named)}"
        )
    for axis, value in zip(named, labels, strict=True):
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if axis != names.MODEL and not whole:
            raise OverError(
                f"{axis} {value!r} is no integer; give a mapping such as {{1000: …}}, or load= with a list of integers"
            )
        if axis == names.MODEL and not (isinstance(value, str) or whole):
            raise OverError(f"label {value!r} of a model is of type {type(value).__name__}; expected text or an integer")


def _model(item: Any, load: Callable[[Any], Any] | None) -> Model:
    found = load(item) if load is not None else item
    if isinstance(found, Model):
        return found
    if load is not None and not isinstance(found, nn.Module):
        raise OverError(f"load gives {type(found).__name__} for {item!r}; expected a model of interp.load, or a torch module")
    return house.load(found, progress=False)


def _result(given: Any, call: Callable[..., Any]) -> Result:
    """What a call gives, with names."""
    if isinstance(given, xr.Dataset | xr.DataArray | xr.DataTree):
        return given
    if isinstance(given, Mapping):
        return xr.Dataset({str(name): one if isinstance(one, xr.DataArray) else _number(one) for name, one in given.items()})
    name = getattr(call, "__name__", "value")
    return xr.DataArray(_number(given), name=name if name.isidentifier() else "value")


def _number(given: Any) -> Any:
    value = given.item() if isinstance(given, Tensor | np.ndarray) and given.ndim == 0 else given
    if isinstance(value, bool | int | float | np.number | np.bool_):
        return value
    shape = tuple(given.shape) if isinstance(given, Tensor | np.ndarray) else None
    what = f"{type(given).__name__}" + (f" of shape {shape}, whose axes have no names" if shape else "")
    raise OverError(
        f"the call gives {what}; expected a Dataset, DataArray or DataTree, a number, or a mapping of names to numbers and "
        "DataArrays: xr.DataArray(values, dims=('layer', 'head'))"
    )


def _with_facts(one: Result, facts: Mapping[str, Any]) -> Result:
    """With the model's name and digest, and what a store needs: of a call of one's own nothing is known that names a run."""
    if isinstance(one, xr.DataTree):
        return one
    known = {"spec": None, "engine_semantics": ENGINE_SEMANTICS}
    return one.assign_attrs({key: value for key, value in {**facts, **known}.items() if key not in one.attrs})


@contextmanager
def _no_bar_of_weights() -> Iterator[None]:
    """Without transformers' own bar for the weights of each model; over has one for all of them."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
