"""RAVEL's scores in worlds whose variables are where formulas put them (card 9 of causal abstraction)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

import interp
from interp import tasks
from interp.effects.alignment import disentangled
from interp.errors import InputError, UnknownNameError
from interp.interventions import Change, Identity, Subspace
from interp.tasks.causal_model import CausalModel, CausalTask, Integer

MANY = 6


class World(nn.Module):
    """h = A[a] + B[b] in a turned basis, the spans of A and B at an angle; what is asked for is read by its own rows."""

    def __init__(self, angle: float, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        turn = torch.linalg.qr(torch.randn(2 * MANY, 2 * MANY, generator=generator).double()).Q.float()
        first = torch.eye(MANY, 2 * MANY)
        second = math.cos(angle) * first + math.sin(angle) * first.roll(MANY, dims=1)
        self.rows = nn.Parameter(torch.cat([first, second]) @ turn)
        self.h = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        a, b, asked = x.long().unbind(-1)
        h = self.h(self.rows[a] + self.rows[MANY + b])
        found = h @ self.rows.mT
        there = torch.arange(2 * MANY) // MANY == asked[:, None]
        return found.masked_fill(~there, -1e4)


def task() -> CausalTask:
    value = Integer(0, MANY - 1)
    kinds: dict[str, Any] = {"a": value, "b": value, "asked": Integer(0, 1), "A": value, "B": value}
    model = CausalModel(
        kinds | {"O": Integer(0, 2 * MANY - 1)},
        {"A": lambda a: a, "B": lambda b: b, "O": lambda asked, A, B: np.where(asked == 0, A, MANY + B)},
        output="O",
    )

    def sample(n: int, draw: np.random.Generator) -> Mapping[str, Any]:
        return {"a": draw.integers(MANY, size=n), "b": draw.integers(MANY, size=n), "asked": draw.integers(2, size=n)}

    def source(base: Mapping[str, Any], draw: np.random.Generator) -> Mapping[str, Any]:
        move = draw.integers(1, MANY, size=(2, len(base["a"])))
        return {"a": (base["a"] + move[0]) % MANY, "b": (base["b"] + move[1]) % MANY, "asked": base["asked"]}

    def render(row: Mapping[str, Any]) -> interp.Prompt:
        return interp.Prompt(inputs={"x": torch.tensor([row["a"], row["b"], row["asked"]]).float()})

    return CausalTask("world", {"world": model}, {"train": sample}, render, int, {"world": ("A",)}, source=source)


def scored(angle: float, featurizer: Any, variable: str, seed: int) -> xr.Dataset:
    world = World(angle, seed % 1000)
    model = interp.load(world, example={"x": torch.zeros(3, 3)})
    rows = task().counterfactuals(200, (variable,), seed=seed % 1000)
    own = featurizer(world.rows.detach()) if featurizer is not None else Identity()
    found = interp.interchange(model, rows, Change("h:output", featurizer=own)).isel(hypothesis=0, cell=0)
    return disentangled(found)


def span(which: int) -> Any:
    return lambda rows: Subspace(torch.linalg.qr(rows[which * MANY : (which + 1) * MANY].mT).Q)


def test_where_variables_are_orthogonal_each_has_all_it_needs(seed: int) -> None:
    for which, variable in enumerate("AB"):
        found = scored(math.pi / 2, span(which), variable, seed)
        assert [float(found[name]) for name in ("cause", "isolate", "disentangle")] == [1.0, 1.0, 1.0]
        assert 0.9 < float(found["cause_low"]) < 1.0
        assert float(found["cause_high"]) == pytest.approx(1.0)


def test_to_do_nothing_and_to_swap_everything_have_a_half(seed: int) -> None:
    """The two that prove nothing: cause 0 and isolate 1, and the reverse."""
    found = scored(math.pi / 2, None, "A", seed)
    assert [float(found[name]) for name in ("cause", "isolate", "disentangle")] == [1.0, 0.0, 0.5]
    assert [float(found[f"no_op_{name}"]) for name in ("cause", "isolate")] == [0.0, 1.0]
    assert found.attrs["rows"] == {"cause": 100, "isolate": 100}
    other = scored(math.pi / 2, span(1), "A", seed)  # the other variable's span
    assert [float(other[name]) for name in ("cause", "isolate")] == [0.0, 0.0]


def test_the_more_two_variables_share_the_less_one_is_isolated(seed: int) -> None:
    """B's own value is left with sin² α, the source's a is read for it with cos α: at 0.905 they are even."""
    angles = [math.pi / 2, 1.1, 0.95, 0.7, 0.5]
    found = [scored(angle, span(0), "A", seed) for angle in angles]
    isolate = [float(one["isolate"]) for one in found]
    assert isolate[0] == 1.0
    assert isolate == sorted(isolate, reverse=True)
    assert isolate[-1] < 0.3
    assert all(float(one["disentangle"]) == pytest.approx(float(one["cause"] + one["isolate"]) / 2) for one in found)


def test_a_search_finds_what_isolates_where_rows_ask_for_both(seed: int) -> None:
    """Trained on rows that ask for the other attribute too (multi-task DAS), A's span is found and no more than that."""
    model = interp.load(World(math.pi / 2, 1), example={"x": torch.zeros(3, 3)})
    words: dict[str, Any] = {"rank": MANY, "seeds": 1, "steps": 200, "batch": 64, "lr": 3e-2, "progress": False}
    train, test = (task().counterfactuals(n, seed=seed % 1000 + i) for i, n in enumerate((400, 200)))
    found = interp.das(model, train, "h:output", test=test, controls=("no_op",), **words)
    scores = disentangled(found.effects)
    assert float(scores["cause"].squeeze()) >= 0.95
    assert float(scores["isolate"].squeeze()) >= 0.95
    assert [float(scores[f"no_op_{name}"]) for name in ("cause", "isolate")] == [0.0, 1.0]


def test_results_that_say_too_little_are_refused() -> None:
    bare = xr.Dataset({"iia": ("example", [1.0, 0.0])})
    with pytest.raises(UnknownNameError, match="flip"):
        disentangled(bare)
    both = {"moved": ("example", [True, True])}
    with pytest.raises(InputError, match="the label of its base"):
        disentangled(bare.assign_coords(flip=("example", [True, True]), **both))
    with pytest.raises(InputError, match="choose one hypothesis"):
        disentangled(bare.assign(flip=(("hypothesis", "example"), [[True, False]]), **both))


def test_attributes_of_cities_are_asked_for_alike(seed: int) -> None:
    """Half of the rows ask for what is swapped; of a source everything is another than of its base."""
    made = tasks.attributes()
    for name in ("country", "continent", "language"):
        rows = made.counterfactuals(120, (name,), seed=seed % 1000)
        assert ((rows.base["asked"] == name) == rows.flip).all()
        assert rows.flip.mean() == 0.5
        assert rows.moved.all()
        whole = rows.with_label("source").label
        assert (whole != rows.base_label).all()
        for pair in rows.take(slice(0, 6)).pairs():
            assert pair.clean.roles["city"][0] == pair.corrupted.roles["city"][0]
    train, test = (set(made.counterfactuals(300, seed=0, part=part).base["city"]) for part in ("train", "test"))
    assert not train & test
