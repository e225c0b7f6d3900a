"""Axis names, once and for all: every array of the workbench uses these and no others.

>>> from interp import axes
>>> axes.check(("layer", "position", "example"))
('layer', 'position', 'example')
"""

from __future__ import annotations

from collections.abc import Iterable

from interp.errors import UnknownNameError

EXAMPLE = "example"
LAYER = "layer"
WINDOW = "window"
"""How many adjacent layers, where that is swept."""
HEAD = "head"
EXPERT = "expert"
POSITION = "position"
UNIT = "unit"
FEATURE = "feature"
SOURCE_POSITION = "source_position"
VOCAB = "vocab"
CELL = "cell"
METRIC = "metric"
CALL = "call"
HALF = "half"
SEED = "seed"
CHECKPOINT = "checkpoint"
MODEL = "model"
RANK = "rank"
"""Coordinates of a subspace, where that is swept."""
STEP = "step"
"""Steps of a training."""

#: Axes along which the model itself is another one: runs without any intervention differ along them too.
MODELS = (MODEL, SEED, CHECKPOINT)

#: Axes along which a sweep may run, in the order in which they are laid out.
SWEPT = (*MODELS, CALL, HALF, LAYER, WINDOW, HEAD, EXPERT, POSITION, SOURCE_POSITION, UNIT, CELL)

#: Axes of a site of which one number or all of them can be meant.
INDEXED = (HEAD, EXPERT, UNIT)

#: Every axis of a result.
ALL = (METRIC, *SWEPT, RANK, FEATURE, VOCAB, STEP, EXAMPLE)

#: Axes of an activation that no sweep indexes: the width of the stream and of a head.
WIDTHS = ("d_model", "d_head")


def check(names: Iterable[str]) -> tuple[str, ...]:
    """Return ``names`` as a tuple, or raise ``UnknownNameError`` with near matches."""
    names = tuple(names)
    for name in names:
        if name not in ALL and name not in WIDTHS:
            raise UnknownNameError("axis", name, (*ALL, *WIDTHS))
    return names
