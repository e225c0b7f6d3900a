"""Boundless distributed alignment search: the rotation and how many of its coordinates are swapped, learned together.

>>> found = interp.boundless_das(model, pairs, interp.grid("resid_post", position=["END"]))             # doctest: +SKIP
>>> found.effects["boundary"]                                                                          # doctest: +SKIP

1. Coordinates of a rotation are swapped by a soft mask, whole before a boundary β and not at all behind it:

   one-sided   m_i = σ((β − i)/T)
   two-sided   m_i = σ(i/T) · σ((β − i)/T), as published; its coordinate 0 is never more than half swapped

2. −log P(y*) + λ · θ is minimised over rotation and θ = β / coordinates; T falls, in equal steps, so that the mask sharpens.
3. What is judged is hard: the first ⌈β⌉ coordinates, as a subspace.

Wu, Geiger, Icard, Potts and Goodman, "Interpretability at Scale: Identifying Causal Mechanisms in Alpaca", arXiv 2305.08809.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from interp.engine.alignment import Aligned, Learner, Part, Shape
from interp.engine.alignment.options import Options, search_with
from interp.engine.recipe import others
from interp.interventions import BoundlessMask, Columns, Intervention, Rotation, Subspace
from interp.methods.registry import Method
from interp.models import Model

METHODS = (
    Method(
        id="boundless_das",
        name="Boundless DAS",
        paper="Wu et al. 2023, Interpretability at Scale: Identifying Causal Mechanisms in Alpaca, arXiv 2305.08809",
        mediator="a subspace of a site, its rank learned",
        search="learned rotation and boundary",
        cost="as DAS",
        function="interp.boundless_das",
    ),
)
TEMPERATURES = {"one-sided": (1.0, 0.1), "two-sided": (50.0, 0.1)}


def boundless_das(
    model: Model,
    train: Any,
    where: Any,
    *,
    most: int | float | Sequence[int | float] = 1.0,
    form: Literal["one-sided", "two-sided"] = "one-sided",
    temperature: tuple[float, float] | None = None,
    start: float = 0.5,
    strength: float = 1.0,
    faster: float = 10.0,
    **options: Unpack[Options],
) -> Aligned:
    """Search for subspaces whose rank is learned too.

    Args:
        model, train, where: as for :func:`interp.das`, and so are all further options.
        most: coordinates of the rotation, a number or a share of the width; one or several.
        form: see above.
        temperature: T at the beginning and at the end, in coordinates; by default 1 to 0.1, and 50 to 0.1 of two sides.
        start: the first θ.
        strength: λ.
        faster: learning rate of θ, in those of the rotation.

    Returns:
        As :func:`interp.das`; along ``rank`` are the values of ``most``, and ``boundary`` holds the rank that was found.

    Raises:
        Exception: as :func:`interp.das`.
    """
    said, [first, last] = others(locals()), TEMPERATURES[form] if temperature is None else temperature

    def make(shape: Shape) -> list[Part]:
        whole = Rotation(shape.width, shape.columns, seed=shape.seed)
        bases = Columns.shared(whole, shape.variables)
        return [Part(basis, BoundlessMask(shape.rank, form=form, temperature=first, start=start)) for basis in bases]

    def penalty(one: Intervention) -> Tensor:
        return strength * torch.stack([mask.boundary / mask.width for mask in _masks(one)]).sum()

    def anneal(many: Sequence[Intervention], step: int, steps: int) -> None:
        for one in many:
            for mask in _masks(one):
                mask.temperature = first + (last - first) * step / max(1, steps - 1)

    learner = Learner(
        name="boundless_das",
        make=make,
        freeze=_hard,
        penalty=penalty,
        before_step=anneal,
        learned={"boundary": lambda one: float(sum(mask.rank for mask in _masks(one)))},
        scale=lambda parameter: faster if parameter.ndim == 0 else 1.0,
    )
    facts = {"form": form, "temperature": [first, last], "start": start, "strength": strength, "faster": faster}
    return search_with("boundless_das", model, train, where, learner, most, facts, said, options)


def _masks(one: Intervention) -> list[BoundlessMask]:
    return [change.edit for change in one.changes if isinstance(change.edit, BoundlessMask)]


def _hard(part: Part) -> Part:
    assert isinstance(part.featurizer, Rotation | Columns)
    assert isinstance(part.edit, BoundlessMask)
    return Part(Subspace(part.featurizer.basis.detach()[:, : part.edit.rank].clone()))
