"""Interchange intervention training: a network is trained until a causal model abstracts it, at places that one chooses.

>>> net = interp.load(MLP((16, 32, 32, 2), seed=0), example={"x": torch.zeros(3, 16)})           # doctest: +SKIP
>>> half = {"WX": Change("act2:output", featurizer=Subspace(eye[:, :16])), "YZ": …}              # doctest: +SKIP
>>> trained = interp.interchange_training(net, draw, half, test=rows, others=True, steps=5000)   # doctest: +SKIP
>>> trained.model, trained.effects.iia.mean("example")                                           # doctest: +SKIP

1. L = α·CE(N(b), y_b) + β·CE(N(b; V ← s), y*) over rows that swap one variable + γ·CE(N(b; V, W, … ← s, t, …), y*) over rows
   that swap several, each from a source of its own; y* is what the causal model says.
2. Gradients flow through the run on the base and through those on the sources, unless these are stopped.
3. A variable's place is a site, positions and coordinates there, in whatever basis: a fixed rotation makes a network whose
   distributed alignment is known; a basis that learns is trained beside the network.
4. Strict: + δ·CE(N(b; other ← s), y_b), where what has no variable is taken from another row.
5. On rows held out: how often the network says y*, for every swapped set, and how often what has no variable changes nothing.

Geiger, Wu, Lu, Rozner, Kreiss, Icard, Goodman and Potts, "Inducing Causal Structure for Interpretable Neural Networks",
arXiv 2112.00826; the strict term as in Gupta, Arcuschin, Kwa and Garriga-Alonso, "InterpBench", arXiv 2407.14494.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.nn.functional import cross_entropy

from interp import effects
from interp.engine.precision import Precision, float32
from interp.errors import InputError, require_whole
from interp.interventions import Change, Columns, Intervention, Rotation, Subspace, learnable, once
from interp.methods.registry import Method
from interp.models import Model
from interp.tasks import Counterfactuals
from interp.training.interchanges import Interchanges, Swap, as_place, changed, checked, plain, swaps_of
from interp.training.networks import copied_as, descend

METHODS = (
    Method(
        id="interchange_training",
        name="interchange intervention training",
        paper="Geiger et al. 2021, Inducing Causal Structure for Interpretable Neural Networks, arXiv 2112.00826; "
        "Gupta et al. 2024, InterpBench: Semi-Synthetic Transformers for Evaluating Mechanistic Interpretability Techniques, "
        "arXiv 2407.14494",
        mediator="any sites, subspaces of them; the network's weights are trained",
        search="training of the network",
        cost="two to four forward passes and their backward passes for every row of a step",
        function="interp.interchange_training",
    ),
)

Draw = Callable[[int, torch.Generator], Interchanges]
"""Rows of a step, drawn with a generator."""
_EVERY = 50
"""Steps between two looks at the validation rows."""
_ROWS = 2048
"""Rows of a pass without gradients."""
_TERMS = ("base", "interchange", "several", "strict")


@dataclass(frozen=True, eq=False)
class InterchangeTrained:
    """A network that was trained so, and how true it is."""

    model: Model
    effects: xr.Dataset
    """``iia [swapped_set, example]``, 1 where the network says y*, undefined in the rows of other sets; ``no_op`` likewise of
    the base as it is; ``task_accuracy [example]``; of what has no variable ``siia [site, example]``, 1 where taking it from
    another row leaves the right output of the base, and ``leak [site, example]``, 1 where taking it from the source of the
    first variable that the row swaps makes the network say y*, to be compared with ``no_op``; ``loss [term, step]``."""
    places: Mapping[str, Change]
    """Where the variables are, with what was learned of their bases."""

    @property
    def intervention(self) -> Intervention:
        """All variables at once."""
        return Intervention(tuple(self.places.values()))


def interchange_training(
    model: Model,
    train: Interchanges | Counterfactuals | Draw,
    places: Mapping[str, Change | str],
    *,
    test: Interchanges | Counterfactuals,
    validation: Interchanges | Counterfactuals | None = None,
    others: bool | Sequence[Change | str] = (),
    alpha: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    strict: float = 1.0,
    stop_source: bool = False,
    steps: int = 5000,
    batch: int = 256,
    lr: float = 1e-3,
    until: float = 0.999,
    seed: int = 0,
    name: str | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
) -> InterchangeTrained:
    """Train a copy of a network until each variable is where it should be.

    Args:
        model: stays as it is. It is trained in evaluation mode: batches and dropout would make source and base disagree.
        train: rows with their labels, or a function that draws them for every step (:class:`interp.training.Interchanges`).
        places: of every variable a site, positions and a basis; variables at one site have coordinates of their own
            (``Subspace``, ``Columns``). What is a ``Rotation`` is trained with the network, as a copy.
        test: rows of which the numbers are returned.
        validation: rows on which it is judged when to stop; None never stops before ``steps``.
        others: what is to have no effect: changes or sites; True for all coordinates at the places' sites that have no
            variable, where the bases are fixed.
        alpha, beta, gamma, strict: weights of the terms: of the base, of one variable, of several, of what has none.
        stop_source: no gradient flows into the runs of the sources.
        steps, lr: of Adam.
        batch: rows in one step; a function draws as many as it likes.
        until: stop where the accuracy of the task and that of every swapped set are so high on the validation rows.
        seed: of the order of the rows, or of the generator that is given to the function.
        name: of the trained model.
        precision: as for :func:`interp.patch`.

    Returns:
        The network and what was measured. Outputs are judged among all outputs, of a language model among all tokens.

    Raises:
        InputError: what is no place, or rows that swap a variable without one.
        UnknownNameError: a variable that the rows or the places lack.
        ShapeMismatchError: base and source have other positions.
        TrainingError: see :func:`interp.training.train`.
    """
    _numbers(alpha, beta, gamma, strict, until)
    require_whole("batch", batch, "how many rows a step sees")
    require_whole("steps", steps, "how many steps are taken")
    shown = _rows(model, test)
    where = checked(model, places, shown.variables)
    rest = _others(model, where, others)
    trained = copied_as(model, name or f"{model.name}, trained on interchanges (seed {seed})")
    where = copy.deepcopy(where)  # together, so that what shares a basis goes on sharing it
    learned = learnable(Intervention(tuple(where.values())))
    weights, terms = (alpha, beta, gamma, strict), list[Tensor]()
    stream = _stream(trained, train, batch, seed, shown.variables)

    def loss(step: int) -> Tensor:
        found = _losses(trained, next(stream), where, rest, weights, stop_source)
        terms.append(found.detach())
        return (found * found.new_tensor(weights)).sum()

    judged = None if validation is None else _rows(trained, validation)
    with float32(precision):
        for step, _ in enumerate(descend(trained, loss, steps, lr, further=learned, progress=progress), start=1):
            if judged is not None and step % _EVERY == 0 and _least(trained, judged, where) >= until:
                break
        dataset = _measured(trained, shown, where, rest)
    facts = {"alpha": alpha, "beta": beta, "gamma": gamma, "strict": strict, "stop_source": int(stop_source), "lr": lr}
    facts |= {"steps": len(terms), "batch": batch, "seed": seed, "until": until}
    dataset["loss"] = (("term", "step"), torch.stack(terms, dim=-1).cpu().numpy())
    dataset = dataset.assign_coords(term=list(_TERMS)).assign_attrs(
        method="interchange_training",
        model=trained.name,
        digest=trained.digest,
        trained_from=model.name,
        trained_from_digest=model.digest,
        places={name: repr(change) for name, change in where.items()},
        **facts,
    )
    return InterchangeTrained(trained, effects.stamped(dataset), where)


def _numbers(alpha: float, beta: float, gamma: float, strict: float, until: float) -> None:
    for name, value in {"alpha": alpha, "beta": beta, "gamma": gamma, "strict": strict}.items():
        if not 0 <= value < float("inf"):
            raise InputError(f"{name}={value!r}; expected the weight of a term, 0 or more")
    if not 0 < until <= 1:
        raise InputError(f"until={until!r}; expected an accuracy, more than 0 and at most 1")


def _rows(model: Model, given: Any) -> Interchanges:
    if isinstance(given, Counterfactuals):
        return Interchanges.of(model, given)
    if isinstance(given, Interchanges):
        return given.to(model.device)
    raise InputError(
        f"rows are of type {type(given).__name__}; expected Interchanges, or rows of a causal model such as "
        "task.counterfactuals(1024, seed=0)"
    )


def _stream(model: Model, train: Any, batch: int, seed: int, variables: tuple[str, ...]) -> Iterator[Interchanges]:
    """Rows of one step after the other, without end."""
    generator = torch.Generator().manual_seed(seed)
    if callable(train) and not isinstance(train, Interchanges | Counterfactuals):
        step = 0
        while True:
            yield _fitting(_rows(model, train(step, generator)), variables)
            step += 1
    rows = _fitting(_rows(model, train), variables)
    while True:
        for examples in torch.randperm(len(rows), generator=generator).split(batch):
            yield rows.take(examples.sort().values.to(model.device))


def _fitting(rows: Interchanges, variables: tuple[str, ...]) -> Interchanges:
    if rows.variables != variables:
        raise InputError(f"training rows have the variables {rows.variables}, those that are tested on {variables}")
    return rows


def _losses(
    model: Model,
    rows: Interchanges,
    places: Mapping[str, Change],
    others: Sequence[Change],
    weights: Sequence[float],
    stopped: bool,
) -> Tensor:
    """The four terms, ``[term]``; those without weight or rows are 0."""
    terms = [torch.zeros((), device=model.device) for _ in _TERMS]
    on_base, on_one, on_several, on_others = (bool(weight) for weight in weights)
    own: list[Any] = []
    if on_base or (on_others and others):
        said, own = plain(model, rows.base, others)
        terms[0] = cross_entropy(said, rows.base_label)
    several = rows.swap.sum(-1)
    with once(Intervention(tuple(places.values()))):
        wanted = ((several == 1) & on_one) | ((several > 1) & on_several)
        if bool(wanted.any()):
            part = rows.take(wanted.nonzero().flatten())
            swaps = swaps_of(model, part, places, stopped=stopped)
            said, many = changed(model, part.base, swaps), several[wanted] > 1
            for number, chosen in ((1, ~many), (2, many)):
                if bool(chosen.any()):
                    terms[number] = cross_entropy(said[chosen], part.label[chosen])
    if on_others and others:
        every = torch.arange(len(rows), device=rows.label.device)
        lost = [
            cross_entropy(changed(model, rows.base, [Swap(change, every, held.take(every.roll(1)))]), rows.base_label)
            for change, held in zip(others, own, strict=True)
        ]
        terms[3] = torch.stack(lost).mean()
    return torch.stack(terms)


def _others(model: Model, places: Mapping[str, Change], given: Any) -> list[Change]:
    """What is to have no effect."""
    if given is not True:
        return [as_place(model, one) for one in (given or ())]
    together: dict[tuple[Any, Any], list[Change]] = {}
    for change in places.values():
        together.setdefault((change.site, change.positions), []).append(change)
    found = []
    for (site, positions), changes in together.items():
        bases = [_fixed(change) for change in changes]
        basis = torch.cat([one for one in bases if one is not None], dim=-1).double()
        width, rank = basis.shape
        if rank < width:
            left = torch.linalg.svd(basis, full_matrices=True).U[:, rank:]
            found.append(Change(site, positions, featurizer=Subspace(left.to(model.dtype))))
    return found


def _fixed(change: Change) -> Tensor:
    basis = change.featurizer
    if isinstance(basis, Subspace) or (isinstance(basis, Columns) and not isinstance(basis.whole, Rotation)):
        found: Tensor = basis.basis.detach()
        return found
    raise InputError(
        f"others=True: which coordinates of {change.site!r} have no variable cannot be said of {basis!r}; expected a Subspace, "
        "or Columns of one, or give others= themselves"
    )


# measuring


def _said(model: Model, rows: Interchanges, say: Callable[[Interchanges], Tensor]) -> Tensor:
    """The output that the network says, of all rows, in passes of so many."""
    parts = torch.arange(len(rows), device=rows.label.device).split(_ROWS)
    with torch.no_grad(), model.prepared():
        return torch.cat([say(rows.take(part)).argmax(-1) for part in parts])


def _base(model: Model, rows: Interchanges) -> Tensor:
    return _said(model, rows, lambda part: plain(model, part.base)[0])


def _swapped(model: Model, rows: Interchanges, places: Mapping[str, Change]) -> Tensor:
    return _said(model, rows, lambda part: changed(model, part.base, swaps_of(model, part, places)))


def _least(model: Model, rows: Interchanges, places: Mapping[str, Change]) -> float:
    """The accuracy of the task or of the swapped set that has the lowest."""
    right = (_swapped(model, rows, places) == rows.label).double()
    names = rows.swapped
    sets = [right[[own == name for own in names]].mean() for name in dict.fromkeys(names)]
    return min(float(one) for one in (*sets, (_base(model, rows) == rows.base_label).double().mean()))


def _measured(model: Model, rows: Interchanges, places: Mapping[str, Change], others: Sequence[Change]) -> xr.Dataset:
    names = rows.swapped
    sets = list(dict.fromkeys(names))
    there = np.array([[own == name for own in names] for name in sets])
    base = _base(model, rows)

    def right(said: Tensor, label: Tensor) -> np.ndarray[Any, Any]:
        found: np.ndarray[Any, Any] = (said == label).double().cpu().numpy()
        return found

    def by_set(said: Tensor) -> tuple[tuple[str, str], np.ndarray[Any, Any]]:
        return ("swapped_set", "example"), np.where(there, right(said, rows.label), np.nan)

    variables: dict[str, Any] = {
        "iia": by_set(_swapped(model, rows, places)),
        "no_op": by_set(base),
        "task_accuracy": ("example", right(base, rows.base_label)),
        "flip": ("example", (rows.label != rows.base_label).cpu().numpy()),
    }
    siia, leak = [], []
    for change in others:

        def strict(part: Interchanges, change: Change = change) -> Tensor:
            _, [held] = plain(model, part.base, [change])
            every = torch.arange(len(part), device=part.label.device)
            return changed(model, part.base, [Swap(change, every, held.take(every.roll(1)))])

        siia.append(right(_said(model, rows, strict), rows.base_label))
        first = torch.nn.functional.one_hot(rows.swap.long().argmax(-1), len(places)).bool() & rows.swap
        alone = Interchanges(rows.base, rows.sources, first, rows.label, rows.base_label)
        leak.append(right(_swapped(model, alone, dict.fromkeys(places, change)), rows.label))
    if others:
        variables |= {"siia": (("site", "example"), np.stack(siia)), "leak": (("site", "example"), np.stack(leak))}
    coordinates: dict[str, Any] = {"swapped_set": sets, "example": np.arange(len(rows))}
    coordinates |= {"site": [repr(change) for change in others]} if others else {}
    return xr.Dataset(variables, coordinates)
