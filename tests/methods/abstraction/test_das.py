"""DAS on hierarchical equality, whose weights are formulas (card 6 of causal abstraction, beds 1 and 2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp import tasks
from interp.engine.alignment.controls import chance, relabelled
from interp.engine.alignment.options import plain_rank
from interp.errors import InputError, ShapeMismatchError, UnknownNameError
from interp.interventions import Change, Columns, Intervention, Rotation, Subspace
from interp.models import Model
from interp.models.zoo.handmade import HierarchicalEquality, hierarchical_equality
from interp.prompts import Pairs
from interp.store import Store

TASK = tasks.hierarchical_equality()
QUICK: dict[str, Any] = {"steps": 250, "batch": 128, "lr": 2e-2, "progress": False}


def loaded(net: HierarchicalEquality) -> Model:
    return interp.load(net, example={"x": net.rows(4, 0).inputs[:3]})


def rotated(seed: int) -> tuple[HierarchicalEquality, Model]:
    net = hierarchical_equality(4).rotated(seed)
    return net, loaded(net)


def sides(variables: Any, seed: int) -> tuple[Any, Any]:
    return (TASK.counterfactuals(n, variables, seed=seed + i) for i, n in enumerate((600, 300)))  # type: ignore[return-value]


def test_the_known_neurons_have_accuracy_one_and_no_others() -> None:
    """Bed 1: units 0 to 7 carry WX, 8 to 15 YZ. A wrong causal model, in which they carry the other, has the accuracy of rows
    whose label the two agree on."""
    model, eye = loaded(hierarchical_equality(4)), torch.eye(16)
    rows = TASK.counterfactuals(400, ("WX",), seed=5)
    change = Change("act1:output", featurizer=Subspace(eye[:, :8]))
    right = interp.patch(model, rows.pairs(), change, metric="accuracy")["value"].values
    assert right.min() == 1.0
    wrong = rows.relabelled(variables=("YZ",))
    found = interp.patch(model, wrong.pairs(), change, metric="accuracy")["value"].values
    assert float(found.mean()) == pytest.approx(float((wrong.label == rows.label).mean()), abs=1e-6)
    other = Change("act1:output", featurizer=Subspace(eye[:, 8:]))
    assert interp.patch(model, wrong.pairs(), other, metric="accuracy")["value"].values.min() == 1.0


@pytest.mark.parametrize("rank", [2, 8])
def test_a_rotated_variable_is_found_and_nothing_else_is_moved(rank: int, seed: int) -> None:
    """What is read downstream of WX is kept whole, what is read of YZ is left alone: both to .01 (bed 2, point 3)."""
    net, model = rotated(seed % 1000)
    train, test = sides(("WX",), seed % 10_000)
    found = interp.das(model, train, "hidden:output", test=test, rank=rank, seeds=2, controls=False, **QUICK | {"steps": 400})
    assert float(found.effects["iia"].sel(found.effects.attrs["chosen"]).mean()) >= 0.99
    basis = found.best.changes[0].featurizer
    assert isinstance(basis, Subspace)
    turn = net.hidden.weight.detach().double()  # type: ignore[union-attr]
    p, q = (turn @ u / u.norm() for u in net.planted())
    projection = basis.basis.double() @ basis.basis.double().mT
    assert float((projection @ p - p).norm()) <= 0.05
    assert float((projection @ q).norm()) <= 0.05
    assert float((basis.basis.mT @ basis.basis - torch.eye(rank)).abs().max()) <= 1e-6


def test_of_rank_one_starts_validation_chooses_one_that_found_it() -> None:
    """Rank 1 has bad local optima (card 6): starts are trained together, and the chosen one is among the best."""
    _, model = rotated(0)
    train, test = sides(("WX",), 11)
    found = interp.das(model, train, "hidden:output", test=test, rank=1, seeds=6, controls=False, **QUICK)
    by_seed = found.effects["iia"].mean("example").values.ravel()
    at = found.effects.attrs["chosen"]["seed"]
    assert by_seed[at] >= 0.99
    assert found.at(seed=at) is found.best
    assert found.effects["validation"].values.ravel()[at] == found.effects["validation"].max()


def test_two_variables_share_a_rotation_and_each_pair_swaps_its_own() -> None:
    _, model = rotated(1)
    train, test = sides(("WX", "YZ"), 21)
    found = interp.das(model, train, "hidden:output", test=test, rank=2, seeds=2, controls="free", **QUICK)
    each = found.effects["iia"].sel(found.effects.attrs["chosen"]).groupby("swapped").mean()
    assert sorted(each["swapped"].values) == ["WX", "WX+YZ", "YZ"]
    assert float(each.min()) >= 0.98
    bases = torch.cat([change.featurizer.basis for change in found.best.changes], dim=1)  # type: ignore[union-attr]
    assert float((bases.mT @ bases - torch.eye(4)).abs().max()) <= 1e-6


def test_every_control_is_beside_it_and_the_verdict_says_what_they_are() -> None:
    _, model = rotated(2)
    train, test = sides(("WX",), 31)
    false = (TASK.falsely(600, seed=33), TASK.falsely(300, seed=34))
    held = TASK.counterfactuals(200, ("WX",), seed=35, part="test")
    words = {"seeds": 1, "networks": 2, "draws": 5, "false": false, "held_out": held, **QUICK, "steps": 150}
    found = interp.das(model, train, "hidden:output", test=test, rank=[2, 4], **words)
    ds = found.effects
    assert ds["random_subspace"].dims == ("rank", "draw")
    assert ds["random_network"].sizes == {"network": 2, "rank": 2, "seed": 1}
    assert float(ds["no_op"].mean()) == pytest.approx(0.5)  # half of the rows flip, and the base is always right
    assert float(ds["chance"]) == pytest.approx(chance(test.pairs()))
    assert float(ds["full_vector"].min()) == 1.0  # the whole vector gives the source's own answer
    assert float(ds["held_out"].max()) >= 0.98
    for name in ("random_network", "shuffled_weights", "shuffled_labels", "random_subspace", "false_hypothesis"):
        assert float(ds[name].max()) < 0.8, name
    assert found.verdict.endswith("above all of them")
    assert found.verdict in repr(found)


def test_a_search_of_labels_by_lot_does_not_beat_its_controls() -> None:
    """Nothing is to be found, and the verdict says so."""
    _, model = rotated(3)
    train, test = sides(("WX",), 41)
    blind, asked = relabelled(train.pairs(), 1), relabelled(test.pairs(), 2)
    found = interp.das(model, blind, "hidden:output", test=asked, rank=2, seeds=2, controls="free", **QUICK)
    assert "NOT above" in found.verdict


def test_trained_together_is_trained_alone() -> None:
    """Every rank and seed has an optimiser and a loss of its own."""
    _, model = rotated(4)
    train, test = sides(("WX",), 51)
    words = {"test": test, "controls": False, **QUICK, "steps": 30}
    both = interp.das(model, train, "hidden:output", rank=[1, 3], seeds=[0, 5], **words)
    alone = interp.das(model, train, "hidden:output", rank=3, seeds=[5], **words)
    one, other = both.effects["loss"].sel(rank=3, seed=5).values, alone.effects["loss"].values.ravel()
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_search_is_kept_with_what_it_found(tmp_path: Path) -> None:
    _, model = rotated(5)
    train, test = sides(("WX",), 61)
    words = {"test": test, "rank": 2, "seeds": 2, "controls": "free", **QUICK, "steps": 20}
    found = interp.das(model, train, "hidden:output", store=tmp_path, name="wx", **words)
    again = interp.das(model, train, "hidden:output", store=tmp_path, **words)
    assert again.effects.identical(found.effects)
    pairs = test.pairs()
    one, other = (interp.patch(model, pairs, each.best, metric="logprob")["value"].values for each in (found, again))
    np.testing.assert_allclose(one, other, atol=1e-5)  # the same basis, laid out otherwise in memory
    basis = again.best.changes[0].featurizer
    assert isinstance(basis, Subspace)
    assert float((basis.basis.mT @ basis.basis - torch.eye(2)).abs().max()) <= 1e-6
    assert Store(tmp_path).run("wx").status == "complete"
    other_steps = interp.das(model, train, "hidden:output", store=tmp_path, **words | {"steps": 21})
    assert not other_steps.effects.identical(found.effects)


@pytest.mark.parametrize("search", ["das", "boundless_das"])
def test_a_search_is_made_again(search: str, tmp_path: Path) -> None:
    """From its recipe, which holds rows of a causal model as pairs; the network, a live one, is passed."""
    _, model = rotated(8)
    train, test = sides(("WX",), 91)
    words: dict[str, Any] = {"test": test, "seeds": 1, "controls": "free", "draws": 2, **QUICK, "steps": 15}
    getattr(interp, search)(model, train, "hidden:output", store=tmp_path, name="it", **words)
    again = interp.rerun(Store(tmp_path).run("it"), model=model, progress=False)
    assert again.within, again
    assert "random_subspace" in again.result


def test_what_cannot_be_searched_for_is_refused() -> None:
    _, model = rotated(6)
    train, test = sides(("WX",), 71)
    words: dict[str, Any] = {"test": test, "controls": False, **QUICK}
    with pytest.raises(ShapeMismatchError, match=r"rank=17 at .*16 features; expected 1 to 16"):
        interp.das(model, train, "hidden:output", rank=17, **words)
    with pytest.raises(InputError, match="no place to look for an alignment"):
        interp.das(model, train, Change("hidden:output", featurizer=Rotation(16, 2)), **words)
    with pytest.raises(InputError, match=r"needs pairs of its own: give false="):
        interp.das(model, train, "hidden:output", **words | {"controls": ["false_hypothesis"]})
    with pytest.raises(UnknownNameError, match="control 'random_subspaces'"):
        interp.das(model, train, "hidden:output", **words | {"controls": ["random_subspaces"]})
    with pytest.raises(InputError, match=r"validation=1\.0"):
        interp.das(model, train, "hidden:output", **words | {"validation": 1.0})
    with pytest.raises(InputError, match="leave nothing to search for"):
        interp.das(model, train, "hidden:output", seeds=0, **words)
    with pytest.raises(InputError, match="no wrong answers"):
        relabelled(Pairs(tuple(interp.Pair(p.clean, p.corrupted, p.answers) for p in train.pairs())), 0)
    found = interp.das(model, train, "hidden:output", rank=[1, 2], seeds=2, **words | {"steps": 2})
    with pytest.raises(InputError, match=r"rank, seed not given: say which, as in at\(rank="):
        found.at()


def test_parts_of_a_rotation_written_one_after_the_other_are_written_at_once(seed: int) -> None:
    """Orthogonal columns: in either order, and as one; h + (s − h)RRᵀ by hand."""
    draw = torch.Generator().manual_seed(seed)
    h, s, t = (torch.randn(7, 12, generator=draw) for _ in range(3))
    whole = Rotation(12, 5, seed=seed % 1000)
    one, two = Columns(whole, 0, 2), Columns(whole, 2, 5)
    basis = whole.basis.detach()
    expected = h + (s - h) @ basis[:, :2] @ basis[:, :2].mT + (t - h) @ basis[:, 2:] @ basis[:, 2:].mT
    first = two.interchange(one.interchange(h, s), t)
    second = one.interchange(two.interchange(h, t), s)
    torch.testing.assert_close(first, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(second, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(one.decode(one.encode(h)), h @ basis[:, :2] @ basis[:, :2].mT, atol=1e-5, rtol=0)
    assert {id(p) for p in one.parameters()} == {id(p) for p in two.parameters()}
    with pytest.raises(ShapeMismatchError, match="columns 2 to 6"):
        Columns(whole, 2, 6)
    with pytest.raises(ShapeMismatchError, match=r"edit=Select"):
        Columns(interp.interventions.RevNet(12), 0, 2)
    shared = Intervention.of(Change("L0.resid_post", featurizer=one), Change("L1.resid_post", featurizer=two))
    again = interp.interventions.from_safetensors(interp.interventions.to_safetensors(shared))
    left, right = (change.featurizer for change in again.changes)
    assert left.whole is right.whole
    torch.testing.assert_close(left.basis, one.basis, atol=0, rtol=0)


def test_a_figure_of_a_search_shows_what_was_chosen_beside_its_controls() -> None:
    """Further axes are fixed where validation chose; draws of controls are their seeds."""
    _, model = rotated(7)
    train, test = sides(("WX",), 81)
    where = interp.interventions.Arranged([Change("hidden:output"), Change("act1:output")], {"layer": [0, 1]})
    words = {"test": test, "rank": [1, 2], "seeds": 2, "controls": "free", "draws": 3, **QUICK, "steps": 60}
    found = interp.das(model, train, where, **words)
    figure = interp.views.iia(found.effects)
    assert {"iia", "chance", "no-op", "random subspace", "full vector"} <= {trace.name for trace in figure.data}
    assert f"rank={found.effects.attrs['chosen']['rank']}" in figure.layout.title.text
    assert "loss" not in {trace.name for trace in figure.data}


def test_ranks_of_numpy_are_ranks() -> None:
    """A sweep over ``np.arange(1, 5)`` is written into the recipe as JSON has it."""
    found = [plain_rank(one) for one in (np.int64(2), np.float32(0.5), 3)]
    assert found == [2, 0.5, 3]
    assert [type(one) for one in found] == [int, float, int]
    for wrong in ("two", True, None):
        with pytest.raises(InputError, match="expected how many coordinates"):
            plain_rank(wrong)
