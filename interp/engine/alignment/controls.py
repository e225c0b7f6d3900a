"""The controls that an accuracy is shown beside: the same search where there is nothing to be found, or less.

==================  ===================================================================================  ==========
control             what is measured                                                                     trains
==================  ===================================================================================  ==========
chance              the most frequent label, or a draw among each pair's own                             no
no_op               the base as it is, with the label of the interchange                                 no
random_subspace     subspaces of the same rank, drawn uniformly                                          no
full_vector         the whole value at the place, with the label of all variables there swapped          no
read_part           of each subspace what is read at the place, where one linear map reads it            no
held_out            what was found, on pairs of other words                                              no
random_network      the same search in the architecture with fresh weights                               yes
shuffled_weights    the same search in the network with the entries of every weight permuted             yes
shuffled_labels     the same search with labels drawn anew among each pair's own                         yes
false_hypothesis    the same search with the labels of a variable that the task has no need of           yes
==================  ===================================================================================  ==========

Whoever compares maxima compares them over the same sweep: each of these has the places, ranks and seeds of the claim.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from interp import axes
from interp.effects.alignment import CONTROLS as NAMES
from interp.engine.alignment.pathways import read_parts, readers
from interp.engine.alignment.search import DRAWS, Search, Training, judge, random_subspaces, whole_vectors
from interp.engine.asked import encoded_pairs
from interp.errors import InputError, UnknownNameError
from interp.metrics import MetricLike
from interp.models import Encoded, Model
from interp.prompts import Pairs
from interp.training.networks import reinitialised, shuffled

CONTROLS = tuple(NAMES)
RETRAINED = ("random_network", "shuffled_weights", "shuffled_labels", "false_hypothesis")
"""Those that cost another training."""
_GIVEN = {"held_out": "held_out=", "false_hypothesis": "false="}
"""Those that need pairs of their own, and the argument that gives them."""

DRAW, NETWORK = "draw", "network"
"""Axes of controls with random subspaces, and with several networks."""

Again = Callable[..., Search]
"""The same search of another model, or on other pairs: model, training and test pairs, and ``variables=`` where others."""


@dataclass(frozen=True, kw_only=True)
class Controls:
    """Which controls, and what they need.

    Args:
        names: of :data:`CONTROLS`.
        draws: random subspaces of each rank.
        networks: how many random networks, or shuffled ones.
        held_out: pairs of other words.
        false: training and test pairs whose labels are those of a variable that the task has no need of.
        full: the test pairs with the label of all variables at a place swapped, in their order; of a single source that
            carries everything the test pairs themselves with the source's own answer. None takes the test pairs' own labels.
    """

    names: tuple[str, ...] = CONTROLS
    draws: int = DRAWS
    networks: int = 1
    held_out: Any = None
    false: tuple[Any, Any] | None = None
    full: Any = None
    named: bool = False
    """Whether they were asked for by their names: one that cannot be had is then refused, and else left out."""

    @classmethod
    def asked(cls, controls: bool | str | Iterable[str], **given: Any) -> Controls:
        """What a call's arguments mean.

        Args:
            controls: True for all that can be had with what is given, False for none, ``"free"`` for those that train nothing,
                or their names.

        Raises:
            UnknownNameError: a control that is none.
            InputError: one is named that needs pairs which are not given.
        """
        possible = tuple(name for name in CONTROLS if name not in _GIVEN or given.get(_GIVEN[name][:-1]) is not None)
        if controls is True or controls == "free":
            names = possible if controls is True else tuple(name for name in possible if name not in RETRAINED)
            return cls(names=names, **given)
        names = () if controls is False else (controls,) if isinstance(controls, str) else tuple(controls)
        for name in names:
            if name not in CONTROLS:
                raise UnknownNameError("control", name, (*CONTROLS, "free"))
            if name not in possible:
                raise InputError(f"control {name!r} needs pairs of its own: give {_GIVEN[name]}…")
        return cls(names=names, named=True, **given)


def measured(
    controls: Controls,
    search: Search,
    again: Again,
    model: Model,
    train: Encoded,
    test: Encoded,
    *,
    variables: Sequence[str],
    training: Training,
    metric: MetricLike,
    say: Callable[[str], None] = lambda name: None,
) -> dict[str, xr.DataArray]:
    """Every control, as a variable of the result; those along places have the axes of the search.

    Args:
        again: repeats the search.
        say: is told which control comes next.
    """
    words: dict[str, Any] = {"metric": metric, "training": training}
    names = tuple(search.laid.axes)

    def along(found: np.ndarray[Any, Any], *rest: str) -> xr.DataArray:
        return xr.DataArray(found, dims=(*names, *rest))

    def retrained(one: Search) -> xr.DataArray:
        return along(one.spread(one.iia.mean(-1)), axes.RANK, axes.SEED)

    def networks(kind: Callable[[Model, int], Model]) -> xr.DataArray:
        each = [retrained(again(kind(model, seed), train.pairs, test.pairs)) for seed in range(controls.networks)]
        return xr.concat(each, NETWORK)

    def read_alone() -> xr.DataArray | None:
        parts = read_parts(search, readers(model, search.laid))
        known = [one for one in parts if one is not None]
        if not known:
            return None
        found = np.full(len(parts), np.nan)
        found[[one is not None for one in parts]] = judge(model, test, known, **words)[0].mean(-1)
        return along(search.spread(found), axes.RANK, axes.SEED)

    def falsely(own: Any, tested: Any) -> Search:
        """One variable, from the source."""
        return again(model, own, tested, variables=encoded_pairs(model, own).pairs.sources)

    make: dict[str, Callable[[], xr.DataArray | None]] = {
        "chance": lambda: xr.DataArray(chance(test.pairs)),
        "no_op": lambda: xr.DataArray(search.base, dims=(axes.EXAMPLE,)),
        "random_subspace": lambda: along(
            search.laid.spread(random_subspaces(model, test, search, draws=controls.draws, variables=variables, **words)),
            *(axes.RANK, DRAW),
        ),
        "full_vector": lambda: along(
            search.laid.spread(whole_vectors(model, test if controls.full is None else controls.full, search.laid, **words)),
            axes.EXAMPLE,
        ),
        "read_part": read_alone,
        "held_out": lambda: along(
            search.spread(judge(model, encoded_pairs(model, controls.held_out), search.interventions, **words)[0].mean(-1)),
            *(axes.RANK, axes.SEED),
        ),
        "random_network": lambda: networks(reinitialised),
        "shuffled_weights": lambda: networks(shuffled),
        "shuffled_labels": lambda: retrained(again(model, relabelled(train.pairs, 0), relabelled(test.pairs, 1))),
        "false_hypothesis": lambda: retrained(falsely(*(controls.false or ()))),
    }
    found = {}
    for name in controls.names:
        say(name)
        one = make[name]()
        if one is not None:
            found[name] = one
        elif controls.named:
            raise InputError(
                f"control {name!r}: of no place it is known that one linear map reads it; expected the units of an MLP "
                "(mlp_post), a head's z, or the input of a linear map by its path"
            )
    return found


def chance(pairs: Pairs) -> float:
    """What is right without looking: the most frequent label, or a draw among each pair's own answers, whichever is more."""
    labels = Counter(pair.answers for pair in pairs)
    drawn = [len(pair.answers) / (len(pair.answers) + len(pair.wrong)) for pair in pairs if pair.wrong]
    return max(max(labels.values()) / len(pairs), float(np.mean(drawn)) if drawn else 0.0)


def relabelled(pairs: Pairs, seed: int) -> Pairs:
    """The same prompts with labels drawn anew among each pair's own answers, right and wrong.

    Raises:
        InputError: a pair names no wrong answer, so that there is nothing to draw among.
    """
    draw = np.random.default_rng(seed)
    items = []
    for number, pair in enumerate(pairs):
        if not pair.wrong:
            raise InputError(f"pair {number} has no wrong answers, so its label cannot be drawn anew among several")
        every = (*pair.answers, *pair.wrong)
        label = every[int(draw.integers(len(every)))]
        items.append(replace(pair, answers=(label,), wrong=tuple(one for one in every if one != label)))
    return replace(pairs, items=tuple(items), made_by={**pairs.made_by, "labels": {"drawn": seed}})
