"""Non-linear alignment maps: how much more accuracy an expressive map finds, and why that alone proves little.

>>> found = interp.nonlinear_das(model, pairs, interp.grid("resid_post", position=["END"]), blocks=10)    # doctest: +SKIP
>>> found.verdict                                                                                        # doctest: +SKIP

1. φ is a reversible network of coupling blocks; the variable owns some of φ's coordinates, half of them by default.
2. These are swapped in φ's coordinates and mapped back: h' = φ⁻¹(select(φ(h), φ(s))).
3. φ is trained by −log P(y*), the network frozen.
4. The same search in a network of random weights is not optional here: given enough blocks it succeeds there as well. An
   accuracy is evidence as far as it is above that one, on words that φ was not trained on.

Sutter, Minder, Hofmann and Pimentel, "The Non-Linear Representation Dilemma: Is Causal Abstraction Enough for Mechanistic
Interpretability?", arXiv 2507.08802.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Unpack

import torch
from torch import nn

from interp.engine.alignment import Aligned, Learner, Part, Shape
from interp.engine.alignment.options import Options, search_with
from interp.engine.recipe import others
from interp.interventions import RevNet, Select
from interp.methods.registry import Method
from interp.models import Model

METHODS = (
    Method(
        id="nonlinear_das",
        name="non-linear alignment maps",
        paper="Sutter et al. 2025, The Non-Linear Representation Dilemma: "
        "Is Causal Abstraction Enough for Mechanistic Interpretability?, arXiv 2507.08802",
        mediator="coordinates of a reversible map of a site",
        search="learned map",
        cost="as DAS, and three passes through the map for every pair and step",
        function="interp.nonlinear_das",
    ),
)


def nonlinear_das(
    model: Model,
    train: Any,
    where: Any,
    *,
    rank: int | float | Sequence[int | float] = 0.5,
    blocks: int = 10,
    hidden: int | None = None,
    **options: Unpack[Options],
) -> Aligned:
    """Search for coordinates of a non-linear map that carry one or several variables.

    Args:
        model, train, where: as for :func:`interp.das`, and so are all further options, but the learning rate is 1e-3 unless it
            is given.
        rank: coordinates of each variable, by number or as a share of the width.
        blocks: of the map.
        hidden: width of its networks; by default that of the site.

    Returns:
        As :func:`interp.das`.

    Raises:
        ShapeMismatchError: a site of odd width. And as :func:`interp.das`.
    """
    said = others(locals())
    options = {"lr": 1e-3, **options}

    def make(shape: Shape) -> list[Part]:
        phi = RevNet(shape.width, blocks, hidden, seed=shape.seed)
        index = torch.arange(shape.width) // shape.rank
        return [Part(phi, Select(index == number)) for number in range(shape.variables)]

    learner = Learner(name="nonlinear_das", make=make, freeze=_frozen)
    facts = {"blocks": blocks, "hidden": hidden}
    return search_with("nonlinear_das", model, train, where, learner, rank, facts, said, options)


def _frozen(part: Part) -> Part:
    assert isinstance(part.featurizer, nn.Module)
    phi: Any = copy.deepcopy(part.featurizer).requires_grad_(False)
    return Part(phi, part.edit)
