"""Desiderata-based masking: which of a site's own features, or of a given basis', carry a variable.

>>> found = interp.binary_masking(model, pairs, interp.grid("mlp_post", position=["END"]))             # doctest: +SKIP
>>> found.effects["selected"]                                                                         # doctest: +SKIP

1. Every feature has a mask m = σ(θ/T); f' = (1 − m)·f_base + m·f_source.
2. −log P(y*) + λ·‖m‖₁ is minimised over θ, T falling, so that masks become 0 or 1. Pairs whose y* is the base's own answer ask
   that nothing else is changed, and stand among the others.
3. What is judged is hard: features with θ > 0.

De Cao, Schlichtkrull, Aziz and Titov, "How do Decisions Emerge across Layers in Neural Models? Interpretation with
Differentiable Masking", arXiv 2004.14992; Davies, Nadeau, Prakash, Shaham and Bau, "Discovering Variable Binding Circuitry with
Desiderata", arXiv 2307.03637.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from interp.engine.alignment import Aligned, Learner, Part, Shape
from interp.engine.alignment.options import Options, search_with
from interp.engine.recipe import others
from interp.errors import InputError
from interp.interventions import Featurizer, Identity, Intervention, Mask
from interp.methods.registry import Method
from interp.models import Model

METHODS = (
    Method(
        id="binary_masking",
        name="desiderata-based masking",
        paper="De Cao et al. 2020, How do Decisions Emerge across Layers in Neural Models?, arXiv 2004.14992; "
        "Davies et al. 2023, Discovering Variable Binding Circuitry with Desiderata, arXiv 2307.03637",
        mediator="features of a site",
        search="learned mask",
        cost="as DAS",
        function="interp.binary_masking",
    ),
)


def binary_masking(
    model: Model,
    train: Any,
    where: Any,
    *,
    basis: Featurizer | None = None,
    features: int | None = None,
    strength: float = 1e-4,
    temperature: tuple[float, float] = (1.0, 0.01),
    start: float = 0.0,
    **options: Unpack[Options],
) -> Aligned:
    """Search for the features that carry a variable.

    Args:
        model, train, where: as for :func:`interp.das`, and so are all further options, but the learning rate is 1e-2 unless it
            is given; a seed alone changes nothing, so there is one.
        basis: in whose coordinates features are chosen, with the error of what it does not encode left in place; by default
            the site's own.
        features: how many the basis has; by default as many as the site.
        strength: λ.
        temperature: T at the beginning and at the end.
        start: the first θ.

    Returns:
        As :func:`interp.das`; ``selected`` says how many features were.

    Raises:
        InputError: several variables, whose masks nothing would keep apart. And as :func:`interp.das`.
    """
    said, (first, last) = others(locals()), temperature
    options = {"lr": 1e-2, "seeds": 1, **options}

    def make(shape: Shape) -> list[Part]:
        if shape.variables > 1:
            raise InputError(f"{shape.variables} variables: masks over the same features overlap; ask for one at a time")
        edit = Mask((features or shape.width,), temperature=first, start=start)
        return [Part(Identity() if basis is None else basis, edit)]

    def anneal(many: Sequence[Intervention], step: int, steps: int) -> None:
        for one in many:
            _mask(one).temperature = first * (last / first) ** (step / max(1, steps - 1))

    learner = Learner(
        name="binary_masking",
        make=make,
        freeze=lambda part: Part(part.featurizer, _of(part.edit).hard()),
        penalty=lambda one: strength * _mask(one).value.sum(),
        before_step=anneal,
        learned={"selected": lambda one: float((_mask(one).logits > 0).sum())},
    )
    facts = {
        "basis": None if basis is None else basis.spec(),
        "strength": strength,
        "temperature": list(temperature),
        "start": start,
    }
    return search_with("binary_masking", model, train, where, learner, 1.0, facts, said, options)


def _mask(one: Intervention) -> Mask:
    return _of(one.changes[0].edit)


def _of(edit: Any) -> Mask:
    assert isinstance(edit, Mask)
    return edit
