"""Equality of entities, and of equalities: tasks of small networks, whose input is one vector.

Prompts hold ``inputs={"x": …}``, the entities one after the other; answers are the outputs' numbers, 0 for False and 1 for
True. Hierarchical equality as in Geiger et al., arXiv 2303.02536; and-or as in Sutter et al., arXiv 2507.08802.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from interp.prompts import Prompt
from interp.tasks.causal_model import Boolean, CausalModel, CausalTask, Mechanism, Vector
from interp.tasks.causal_model.kinds import Array, Kind
from interp.tasks.causal_model.rows import Sampler

_BIT = Boolean()


def hierarchical_equality(m: int = 4) -> CausalTask:
    """(w = x) = (y = z) of entities of ``m`` entries −1 and 1, as :func:`interp.models.zoo.handmade.hierarchical_equality`.

    Variables ``WX`` and ``YZ`` say which pair is equal. The false hypothesis is that the network holds who the first entity is.
    """
    return _hierarchical("hierarchical equality", Vector(m), lambda n, draw: draw.integers(2, size=(n, m)) * 2.0 - 1)


def equality_of_vectors(width: int = 4) -> CausalTask:
    """The same of vectors uniform in [−½, ½], which a network has to be trained for."""
    return _hierarchical("equality of vectors", Vector(width), lambda n, draw: draw.uniform(-0.5, 0.5, size=(n, width)))


def _hierarchical(name: str, entity: Kind, drawn: Any) -> CausalTask:
    kinds: dict[str, Kind] = dict.fromkeys("wxyz", entity)
    model = CausalModel(
        {**kinds, "WX": _BIT, "YZ": _BIT, "O": _BIT},
        {
            "WX": lambda w, x: (w == x).all(-1),
            "YZ": lambda y, z: (y == z).all(-1),
            "O": lambda WX, YZ: WX == YZ,
        },
        output="O",
        name="equality",
    )
    first = CausalModel(
        {**kinds, "W": entity, "O": _BIT},
        {"W": lambda w: w, "O": lambda W, x, y, z: (x == W).all(-1) == (y == z).all(-1)},
        output="O",
        name="first entity",
    )
    sample = _pairs(("w", "x"), ("y", "z"), drawn=drawn)
    return CausalTask(
        name,
        {"equality": model},
        {"train": sample, "test": sample},
        _joined("w", "x", "y", "z"),
        int,
        variables={"equality": ("WX", "YZ")},
        false=(first, "W"),
        false_source=lambda base, draw: _met(base, sample(len(base["w"]), draw), draw),
    )


def _met(base: Mapping[str, Array], other: Mapping[str, Array], draw: np.random.Generator) -> Mapping[str, Array]:
    """Sources whose first entity is the base's second in half of the rows.

    By chance alone two are hardly ever equal: the label would be that of unequal entities, whatever the source.
    """
    meet = draw.integers(2, size=len(base["w"])).astype(bool)[:, None]
    equal = (other["w"] == other["x"]).all(-1, keepdims=True)
    return {
        **other,
        "w": np.where(meet, base["x"], other["w"]),
        "x": np.where(meet & equal, base["x"], other["x"]),
    }


def and_or(width: int = 4) -> CausalTask:
    """The equalities a, b, c of three pairs, b and (a or c), by two algorithms: ``P, Q`` = a∧b, b∧c, or ``b, D`` = b, a∨c."""
    entity = Vector(width)
    kinds: dict[str, Kind] = dict.fromkeys(("u1", "v1", "u2", "v2", "u3", "v3"), entity)
    equal = {name: _equal(f"u{i}", f"v{i}") for i, name in enumerate("abc", start=1)}
    bits: dict[str, Kind] = dict.fromkeys("abc", _BIT)
    ands = CausalModel(
        {**kinds, **bits, "P": _BIT, "Q": _BIT, "O": _BIT},
        {**equal, "P": lambda a, b: a & b, "Q": lambda b, c: b & c, "O": lambda P, Q: P | Q},
        output="O",
        name="and-or-and",
    )
    ors = CausalModel(
        {**kinds, **bits, "D": _BIT, "O": _BIT},
        {**equal, "D": lambda a, c: a | c, "O": lambda b, D: b & D},
        output="O",
        name="and-or",
    )
    sample = _pairs(("u1", "v1"), ("u2", "v2"), ("u3", "v3"), drawn=lambda n, draw: draw.uniform(-0.5, 0.5, size=(n, width)))
    return CausalTask(
        "and-or",
        {"and-or-and": ands, "and-or": ors},
        {"train": sample, "test": sample},
        _joined("u1", "v1", "u2", "v2", "u3", "v3"),
        int,
        variables={"and-or-and": ("P", "Q"), "and-or": ("b", "D")},
    )


def _equal(one: str, other: str) -> Any:
    return Mechanism(lambda a, b: (a == b).all(-1), (one, other))


def _pairs(*pairs: tuple[str, str], drawn: Any) -> Sampler:
    """Entities in pairs, each equal in half of the rows and really different in the others."""

    def sample(n: int, draw: np.random.Generator) -> Mapping[str, Array]:
        found: dict[str, Array] = {}
        for one, other in pairs:
            first, second = drawn(n, draw), drawn(n, draw)
            while (again := (first == second).all(-1)).any():
                second[again] = drawn(int(again.sum()), draw)
            equal = draw.integers(2, size=n).astype(bool)
            found[one], found[other] = first, np.where(equal[:, None], first, second)
        return found

    return sample


def _joined(*names: str) -> Any:
    def render(row: Mapping[str, Any]) -> Prompt:
        return Prompt(inputs={"x": np.concatenate([row[name] for name in names]).astype(np.float32)})

    return render
