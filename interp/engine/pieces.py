"""Long prompts in pieces: positions that are run one stretch after another, each attending to the keys and values before it.

>>> pieces(range(100, 8192), 2048)
(range(100, 2048), range(2048, 4096), range(4096, 6144), range(6144, 8192))

Nothing then is as wide as the prompt is long: a mask, or scores, has the columns of one piece against those up to its end. In a
causal model no position sees a later one, so the numbers are those of the whole prompt, up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Protocol

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.engine.joins import resumes
from interp.interventions import Activation, Change
from interp.interventions.featurizer import Identity
from interp.models import Model


class Placed(Protocol):
    """What is asked of a change here (:class:`interp.engine.cells.Place`)."""

    @property
    def change(self) -> Change: ...
    @property
    def columns(self) -> Int[Tensor, "example span"]: ...
    @property
    def attended(self) -> Bool[Tensor, "example source_position"] | None: ...


SIZE = {"cpu": 512, "cuda": 4096}
"""Positions of a piece, by the kind of device."""


def pieces(columns: range, size: int) -> tuple[range, ...]:
    """Columns in pieces that end at multiples of ``size``; a last one that would be short belongs to the one before it."""
    edges = [edge for edge in range(0, columns.stop, size) if columns.start < edge <= columns.stop - size // 2]
    bounds = [columns.start, *edges, columns.stop]
    return tuple(range(a, b) for a, b in pairwise(bounds))


def size(model: Model) -> int:
    """Positions of a piece on a model's device."""
    return SIZE.get(model.device.type, SIZE["cuda"])


def is_long(model: Model, columns: int) -> bool:
    """Whether so many positions are run in pieces, where they can be."""
    return columns > 2 * size(model)


def divided(model: Model, columns: range, places: Iterable[Placed] = ()) -> tuple[range, ...]:
    """The pieces in which some columns are run; one of all of them where they are few, or cannot be run apart.

    Args:
        places: what is changed at them.
    """
    cut = is_long(model, len(columns)) and resumes(model) and not torch.is_grad_enabled()
    return pieces(columns, size(model)) if cut and all(map(_is_apart, places)) else (columns,)


def _is_apart(place: Placed) -> bool:
    """Whether a change of some columns leaves those before them as they are, and needs none behind them.

    Scores and patterns could be given anything, so that a token attends to later ones; scaled or taken from a run they do not.
    """
    change = place.change
    if change.together:
        return False
    if place.attended is None:
        return True
    if not isinstance(change.featurizer, Identity):
        return False
    own = change.edit.kind in ("replace", "interpolate", "add") and isinstance(change.source, Activation)
    return own or change.edit.kind in ("scale", "cut") or _is_before(place)


def _is_before(place: Placed) -> bool:
    """Whether no token that is changed as attended to comes after one that attends to it."""
    assert place.attended is not None
    index = torch.arange(place.attended.shape[1], device=place.attended.device)
    last = torch.where(place.attended, index, -1).amax(-1)
    first = torch.where(place.columns >= 0, place.columns, place.attended.shape[1]).amin(-1)
    return bool((last <= first).all())
