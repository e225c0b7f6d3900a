"""The head with a backup: its numbers are written in its docstring, and every way of asking gives them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from interp import Change, Intervention, Pair, Site, effects, grid, patch
from interp.engine import Edge, attribute, edited, gradients, patch_edges, run
from interp.interventions import Constant, Scale
from interp.models import load
from interp.models.zoo import BACKUP, INTERFERING, PRIMARY, backup_construction, backup_prompts
from interp.prompts import Pairs

STRENGTH = 0.75
FIRST, SECOND = (Change(f"L{layer}H{head}.z", edit=Scale(0.0)) for layer, head in (PRIMARY, BACKUP))


def question() -> tuple[Any, Pairs]:
    net = backup_construction(strength=STRENGTH).double()
    prompts = backup_prompts(net).tolist()
    pairs = [Pair(one, other, one[1], other[1]) for one, other in zip(prompts, prompts[1:] + prompts[:1], strict=True)]
    return load(net, name="backup"), Pairs(tuple(pairs), "backup")


def test_the_net_says_what_it_says() -> None:
    net = backup_construction(n_tokens=4, strength=STRENGTH).double()
    expected = torch.cat([torch.eye(4), torch.zeros(4, 2)], dim=-1).double()
    with torch.no_grad():
        torch.testing.assert_close(net(backup_prompts(net)).logits[:, -1], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("scale", "spoken"), [(1.0, 1.0), (0.05, 0.05), (0.02, 0.02 + STRENGTH), (0.0, STRENGTH)])
def test_an_alert_backup_and_a_head_that_interferes(scale: float, spoken: float) -> None:
    """With alert = 40 the backup is silent from a primary of 1/40 = 0.025 on; the third head takes 0.5 whatever they do."""
    net = backup_construction(strength=STRENGTH, interference=0.5, alert=40.0, beta=400.0).double()
    prompts = backup_prompts(net).tolist()
    changes = [Change(f"L{layer}H{head}.z", edit=Scale(by)) for (layer, head), by in ((PRIMARY, scale), (INTERFERING, 1.0))]
    model = load(net, name="backup")
    for ids in prompts:
        logits = np.asarray(run(model, [ids], Intervention(tuple(changes))).logits).reshape(-1, 5)[-1]
        assert logits[ids[1]] == pytest.approx(spoken - 0.5, abs=1e-9)
        assert np.abs(np.delete(logits, ids[1])).max() < 1e-9


@pytest.mark.parametrize("strategy", ["serial", "batched", "wavefront"])
def test_given_gives_the_exact_values(strategy: Any) -> None:
    """Expected: the docstring's table, of the answer's logit against another's."""
    model, pairs = question()

    def effect(change: Any, **options: Any) -> float:
        found = effects.effect(patch(model, pairs, change, patching="noising", strategy=strategy, **options))
        assert float(found.std()) < 1e-12
        return float(found.mean())

    assert effect(FIRST) == pytest.approx(STRENGTH - 1, abs=1e-9)
    assert effect(SECOND) == pytest.approx(0, abs=1e-9)
    assert effect(Intervention((FIRST, SECOND))) == pytest.approx(-1, abs=1e-9)
    assert effect(SECOND, given=FIRST) == pytest.approx(-STRENGTH, abs=1e-9)
    assert effect(FIRST, given=SECOND) == pytest.approx(-1, abs=1e-9)
    assert effect(FIRST, hold="pattern") == pytest.approx(-1, abs=1e-9)
    assert effect(FIRST, hold="L1.z") == pytest.approx(-1, abs=1e-9)
    assert effect(SECOND, given=FIRST, hold="pattern") == pytest.approx(-STRENGTH, abs=1e-9)


def test_every_way_of_saying_given() -> None:
    """Expected: the logit of the subject by run, by raw calls of an edited model, and by slopes, which are exact in z here."""
    model, pairs = question()
    prompts = [pair.clean for pair in pairs]
    subjects = torch.arange(len(prompts))
    ran = run(model, prompts, [None, FIRST, SECOND, Intervention((FIRST, SECOND))])
    said = ran.final[:, subjects, subjects].mean(-1)
    torch.testing.assert_close(said, torch.tensor([1.0, STRENGTH, 1.0, 0.0]).double(), rtol=0, atol=1e-9)
    ids = backup_prompts(model.module)
    with torch.no_grad(), edited(model, FIRST), edited(model, SECOND):
        assert float(model.module(ids).logits.abs().max()) < 1e-9
    slope = effects.effect(attribute(model, pairs, SECOND, patching="noising", given=FIRST))
    np.testing.assert_allclose(slope, -STRENGTH, atol=1e-9)


def test_edges_give_the_exact_values() -> None:
    """Expected, of the answer's logit above the other prompt's, from what the docstring says each head does.

    Zeroed, L0H0 says nothing (−1), and without its mark, which is all that L1H0's query reads of it, the backup wakes
    (+ strength). With L0H0 zeroed already the backup speaks, and silencing it costs strength; what the other prompt's L0H0
    brings back is a wrong answer (−1) and the mark (− strength). Of a backup that sleeps or is silenced nothing is lost.
    """
    model, pairs = question()
    said, mark, backup = Edge.of("L0H0.z", "logits"), Edge.of("L0H0.z", "L1H0.q"), Edge.of("L1H0.z", "logits")

    def effect(edge: Edge, **options: Any) -> float:
        found = effects.effect(patch_edges(model, pairs, edges=edge, **options))
        assert float(found.std()) < 1e-12
        return float(found.mean())

    def near(value: float) -> Any:
        return pytest.approx(value, abs=1e-9)

    zero, silent = Constant(0.0), Change("L1.resid_pre", source=Constant(0.0))
    assert [effect(edge, source=zero) for edge in (said, mark, backup)] == [near(-1), near(STRENGTH), near(0)]
    assert [effect(edge, source=zero, given=FIRST) for edge in (said, mark, backup)] == [near(0), near(0), near(-STRENGTH)]
    assert [effect(edge, given=FIRST) for edge in (said, mark, backup)] == [near(-1), near(-STRENGTH), near(-STRENGTH)]
    assert [effect(edge, source=zero, given=SECOND) for edge in (said, mark, backup)] == [near(-1), near(0), near(0)]
    assert [effect(edge, source=zero, hold="pattern") for edge in (said, mark, backup)] == [near(-1), near(0), near(0)]
    assert [effect(edge, given=silent) for edge in (said, mark)] == [near(0), near(0)]


def test_gradients_with_something_given() -> None:
    """Expected: the backup's z counts with its strength where it speaks, and moves nothing through what is held."""
    model, pairs = question()
    encoded, rows = model.encode(pairs), torch.arange(len(pairs))
    subjects = backup_prompts(model.module)[:, 1]
    spoken = gradients(model, encoded, ["L0.z", "L1.z"], given=FIRST)
    torch.testing.assert_close(spoken.value, torch.full((len(pairs),), STRENGTH).double(), rtol=0, atol=1e-9)
    own = spoken.gradient[Site("z", layer=1)][rows, -1, 0, subjects]
    torch.testing.assert_close(own, torch.full_like(own, STRENGTH), rtol=0, atol=1e-9)
    assert float(spoken.activation[Site("z", layer=0)].abs().max()) == 0
    both = gradients(model, encoded, ["L0.z"], given=FIRST, hold=("L1.resid_post",))
    assert float(both.gradient[Site("z", layer=0)].abs().max()) == 0


def test_with_everything_held_effects_add_up() -> None:
    """Expected: single effects are what each head says, and their sum is the effect of all of them."""
    model, pairs = question()
    single = patch(model, pairs, grid("z", layer=..., head=...), patching="noising", edit=Scale(0.0), hold="z")
    every = Intervention(tuple(Change(f"L{layer}.z", edit=Scale(0.0)) for layer in range(2)))
    together = patch(model, pairs, every, patching="noising", hold="z")
    alone = effects.effect(single).sum(["layer", "head"]).squeeze()
    np.testing.assert_allclose(alone, effects.effect(together).squeeze(), atol=1e-12)
    np.testing.assert_allclose(effects.effect(single)[0, :, :, 0], [[-1, 0], [0, 0]], atol=1e-9)
