"""Distributed alignment search: the subspace of a site that carries a causal variable.

>>> found = interp.das(model, pairs, interp.grid("resid_post", position=["END"]), rank=[1, 2, 4, 8], seeds=3)  # doctest: +SKIP
>>> found.verdict                                                                                             # doctest: +SKIP
>>> interp.views.iia(found.effects)                                                                           # doctest: +SKIP

1. The base runs with h' = h + R Rᵀ(s − h) at the site, s the source's value there and R orthonormal columns.
2. R is trained by −log P of y*, what the causal model says when the variable has the source's value.
3. Several variables own disjoint columns of one R, each with a source of its own.
4. From several starts and at several ranks, all trained as rows of the same passes; validation pairs choose.

What the pairs hold: ``corrupted`` is the base, ``clean`` the source, ``answers`` y*, ``wrong`` what else could be said; with
several variables each has a further prompt of its name (:attr:`interp.Pair.sources`), which is the base itself where a pair
does not swap it. :class:`interp.tasks.Counterfactuals` makes such pairs of a causal model.

Rows that ask for something else, and so keep the base's answer, demand of the subspace that it holds the variable and nothing
more (multi-task DAS): ``tasks.attributes().counterfactuals(n, ["country"], seed=0)`` has as many of these as of the others, and
:func:`interp.effects.alignment.disentangled` scores both.

A basis is identified only as far as the network reads the site: what it does not read may be in R or not. So compare solutions
by what they do, or by the projections of what is read, not by principal angles between them.

Geiger, Wu, Potts, Icard and Goodman, "Finding Alignments Between Interpretable Causal Variables and Distributed Neural
Representations", arXiv 2303.02536. Orthonormality is kept by a QR decomposition in every step, where the paper's code takes a
parametrization by Householder reflections.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from interp.engine.alignment import Aligned, Learner, Part, Shape
from interp.engine.alignment.options import Options, search_with
from interp.engine.precision import Precision
from interp.engine.recipe import others
from interp.engine.stored import StoreLike
from interp.interventions import Columns, Rotation, Subspace
from interp.methods.registry import Method
from interp.metrics import MetricLike
from interp.models import Model

METHODS = (
    Method(
        id="das",
        name="distributed alignment search",
        paper="Geiger et al. 2023, Finding Alignments Between Interpretable Causal Variables and "
        "Distributed Neural Representations, arXiv 2303.02536",
        mediator="a subspace of a site",
        search="learned rotation",
        cost="a forward and backward pass of what follows the site, for every pair of a step, place, rank and seed",
        function="interp.das",
    ),
    Method(
        id="multi_task_das",
        name="multi-task distributed alignment search",
        paper="Huang et al. 2024, RAVEL: Evaluating Interpretability Methods on Disentangling Language Model Representations, "
        "arXiv 2402.17700",
        mediator="a subspace of a site",
        search="learned rotation",
        cost="that of distributed alignment search",
        function="interp.das",
    ),
)


def das(
    model: Model,
    train: Any,
    where: Any,
    *,
    test: Any = None,
    rank: int | float | Sequence[int | float] = (1, 2, 4, 8),
    seeds: int | Sequence[int] = 3,
    variables: Sequence[str] = (),
    parametrization: str = "qr",
    steps: int = 300,
    batch: int = 64,
    lr: float = 5e-3,
    warmup: float = 0.1,
    fall: bool = True,
    objective: MetricLike = "logprob",
    metric: MetricLike = "accuracy",
    validation: float = 0.2,
    order: int = 0,
    controls: bool | str | Iterable[str] = True,
    draws: int = 20,
    networks: int = 1,
    held_out: Any = None,
    false: tuple[Any, Any] | None = None,
    full: Any = None,
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
    store: StoreLike | None = None,
    name: str | None = None,
    tags: Iterable[str] = (),
) -> Aligned:
    """Search for the subspaces that carry one or several variables.

    Args:
        model: from :func:`interp.load`.
        train: pairs as above, or rows of a causal model (:class:`interp.tasks.Counterfactuals`); without ``test`` pairs are
            split, by template or entity where they name these.
        where: a grid, a site, or changes that say no more than site and positions.
        test: pairs that are tested on, best with other words than those that are trained on.
        rank: coordinates of each variable, one or several; a float is the share of the width that all variables have together.
        seeds: starts of every rank, or how many.
        variables: which of the pairs' further prompts have variables, in order; by default all of them.
        parametrization: of :class:`interp.interventions.Rotation`.
        steps, batch, lr: of training; Adam.
        warmup: share of the steps in which the learning rate rises.
        fall: whether it falls to 0 behind that.
        objective: what is raised in training.
        metric: what is judged: ``"accuracy"`` asks for y* above the other answers, ``"top1"`` above the whole vocabulary.
        validation: share of the training pairs that choose between places, ranks and seeds.
        order: seed of the order of the pairs.
        controls: True for all that can be had, ``"free"`` for those that train nothing, False, or names
            (:mod:`interp.engine.alignment.controls`).
        draws: random subspaces of each rank.
        networks: how many networks of random and of shuffled weights.
        held_out: pairs of other words, on which what was found is judged too.
        false: training and test pairs with the labels of a variable that the task has no need of, such as
            ``(task.falsely(1024, seed=0), task.falsely(512, seed=1, part="test"))``.
        full: the test pairs with the source's own label, for the ceiling; of rows of a causal model they are made.
        rows, precision, progress: as for :func:`interp.patch`.
        store, name, tags: as for :func:`interp.patch`; a search is kept whole, once it is done.

    Returns:
        Numbers, verdict and interventions of every place, rank and seed (:class:`interp.engine.alignment.Aligned`).

    Raises:
        InputError: a place that is none, controls without what they need, or one set of pairs that cannot be split.
        ShapeMismatchError: a rank beyond the width.
        ValueError: numbers that make no sense, and what :func:`interp.training.fit` raises.
    """
    said = others(locals())
    options = {name: value for name, value in locals().items() if name in Options.__annotations__}

    def make(shape: Shape) -> list[Part]:
        whole = Rotation(shape.width, shape.columns, seed=shape.seed, parametrization=parametrization)
        return [Part(basis) for basis in Columns.shared(whole, shape.variables)]

    learner = Learner(name="das", make=make, freeze=orthonormal)
    return search_with("das", model, train, where, learner, rank, {"parametrization": parametrization}, said, options)


def orthonormal(part: Part) -> Part:
    """The columns as they are now."""
    assert isinstance(part.featurizer, Rotation | Columns)
    return Part(Subspace(part.featurizer.basis.detach().clone()), part.edit)
