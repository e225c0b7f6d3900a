"""The induction network of formulas: patching finds exactly the two heads that do anything, and says why.

Truth, from the construction (arXiv 2402.14735, ``interp.models.zoo.handmade``): L0H1 copies each position's parent's token,
L1H0 looks up what followed the last token's earlier occurrence, and the logits are the empirical distribution of what followed.
L0H0 and L1H1 have zero output. A prompt in which the query occurs once therefore has logit 1 on what followed and 0 elsewhere,
up to exp(−40).
"""

from __future__ import annotations

import numpy as np
import pytest

from interp import effects
from interp.engine import patch
from interp.interventions import Change, Intervention, zero
from interp.models import Model, load
from interp.models.zoo import INDUCTION_HEADS, induction_construction
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import grid

LENGTH, TOKENS = 12, 5
A, B, C, D, E = range(5)


@pytest.fixture(scope="module")
def model() -> Model:
    return load(induction_construction(n_tokens=TOKENS, length=LENGTH), name="induction")


def what_followed_differs() -> Pairs:
    """… A x … A, with x = B in the clean and x = C in the corrupted prompt; A stands at another place in each example."""
    items = []
    for at in (0, 3, 7):
        filler = [D, E] * LENGTH
        clean = [*filler[: LENGTH - 1], A]
        clean[at] = A
        corrupted = list(clean)
        clean[at + 1], corrupted[at + 1] = B, C
        roles = {"first": (at, at + 1), "followed": (at + 1, at + 2), "query": (LENGTH - 1, LENGTH)}
        items.append(Pair(Prompt(tuple(clean), roles), Prompt(tuple(corrupted), roles), (B,), (C,)))
    return Pairs(tuple(items), "induction")


def what_preceded_differs() -> Pairs:
    """A B … C D … query: A in the clean prompt, C in the corrupted one. Only the query differs."""
    clean = [E, A, B, E, E, C, D, E, E, E, E, A]
    corrupted = [*clean[:-1], C]
    return Pairs((Pair(Prompt(tuple(clean)), Prompt(tuple(corrupted)), (B,), (D,)),), "query")


def whose_parent_differs() -> Pairs:
    """A B … C D … A: in the corrupted prompt A and C have changed places, so what followed A is D."""
    clean = [E, A, B, E, E, C, D, E, E, E, E, A]
    corrupted = [E, C, B, E, E, A, D, E, E, E, E, A]
    return Pairs((Pair(Prompt(tuple(clean)), Prompt(tuple(corrupted)), (B,), (D,)),), "parent")


ALL = {"followed": what_followed_differs, "query": what_preceded_differs, "parent": whose_parent_differs}


@pytest.mark.parametrize("name", ALL)
def test_the_network_does_it(model: Model, name: str) -> None:
    """Logit difference 1 − 0 on the clean prompt, 0 − 1 on the corrupted one, exactly what the formula says."""
    ds = patch(model, ALL[name](), grid("z", layer=..., head=...), ["logit_diff", "top1"])
    np.testing.assert_allclose(ds["clean"].sel(metric="logit_diff"), 1.0, atol=1e-5)
    np.testing.assert_allclose(ds["corrupt"].sel(metric="logit_diff"), -1.0, atol=1e-5)
    assert ds["clean"].sel(metric="top1").values.all()


@pytest.mark.parametrize("strategy", ["serial", "batched"])
@pytest.mark.parametrize("patching", ["denoising", "noising"])
@pytest.mark.parametrize("name", ALL)
def test_the_idle_heads_have_no_effect_at_all(model: Model, name: str, patching: str, strategy: str) -> None:
    """Their W_O is zero, so nothing that is written into them reaches anything: exactly 0, not nearly."""
    ds = patch(model, ALL[name](), grid("z", layer=..., head=...), patching=patching, strategy=strategy, skip_inert=False)
    effect = abs(effects.effect(ds))[0].max("example")
    for layer in range(2):
        for head in range(2):
            if (layer, head) not in INDUCTION_HEADS:
                assert float(effect[layer, head]) == 0.0


@pytest.mark.parametrize("strategy", ["serial", "batched"])
@pytest.mark.parametrize("patching", ["denoising", "noising"])
def test_exactly_the_two_heads_matter_for_whose_parent_differs(model: Model, patching: str, strategy: str) -> None:
    """Each of them alone restores (or destroys) everything: they are in series."""
    ds = patch(model, whose_parent_differs(), grid("z", layer=..., head=...), patching=patching, strategy=strategy)
    share = (effects.recovery if patching == "denoising" else effects.damage)(ds)[0]
    found = {
        (layer, head) for layer in range(2) for head in range(2) if float(abs(effects.effect(ds)[0, layer, head]).max()) > 1e-6
    }
    assert found == set(INDUCTION_HEADS)
    assert float(share[1, 0]) == pytest.approx(1.0, abs=1e-5)
    # layer 0's copy of the parents' tokens tells layer 1 where to look; what stands there is the same in both prompts
    assert float(share[0, 1]) == pytest.approx(1.0, abs=1e-5)


def test_where_only_the_later_head_can_matter(model: Model) -> None:
    """What followed, or the query, differs: L0H1 copies parents, and these tokens are nobody's parent that is looked for."""
    for pairs in (what_preceded_differs(), what_followed_differs()):
        recovery = effects.recovery(patch(model, pairs, grid("z", layer=..., head=...)))[0]
        assert float(recovery[1, 0]) == pytest.approx(1.0, abs=1e-5)
        assert float(abs(recovery[0, 1])) < 1e-5


def test_the_circuit_by_its_parts(model: Model) -> None:
    """Parent differs: what L0H1 copies matters, not where from; then where L1H0 looks, by its keys, not what it finds."""
    pairs = whose_parent_differs()
    parts = {
        name: float(effects.recovery(patch(model, pairs, Intervention.of(*sites)))[0, 0])
        for name, sites in {
            "copied values": ["L0H1.v"],
            "copying pattern": ["L0H1.pattern"],
            "copying queries and keys": ["L0H1.q", "L0H1.k"],
            "looking keys": ["L1H0.k"],
            "looking queries": ["L1H0.q"],
            "looking pattern": ["L1H0.pattern"],
            "looked-up values": ["L1H0.v"],
        }.items()
    }
    expected = {
        "copied values": 1,
        "copying pattern": 0,
        "copying queries and keys": 0,
        "looking keys": 1,
        "looking queries": 0,
        "looking pattern": 1,
        "looked-up values": 0,
    }
    assert parts == pytest.approx(expected, abs=1e-5)


def test_the_query_enters_by_the_queries_and_what_followed_by_the_values(model: Model) -> None:
    asked = {c: effects.recovery(patch(model, what_preceded_differs(), Intervention.of(f"L1H0.{c}")))[0, 0] for c in "qkv"}
    assert {c: float(r) for c, r in asked.items()} == pytest.approx({"q": 1, "k": 0, "v": 0}, abs=1e-5)
    told = {c: effects.recovery(patch(model, what_followed_differs(), Intervention.of(f"L1H0.{c}")))[0, 0] for c in "qkv"}
    assert {c: float(r) for c, r in told.items()} == pytest.approx({"q": 0, "k": 0, "v": 1}, abs=1e-5)


@pytest.mark.parametrize("strategy", ["serial", "batched"])
def test_the_residual_map_follows_the_information(model: Model, strategy: str) -> None:
    """What followed stands at its own position until layer 1's head moves it to the last: 1 there, 0 everywhere else."""
    pairs = what_followed_differs()
    where = {name: grid(name, layer=..., position=["first", "followed", "query"]) for name in ("resid_pre", "resid_post")}
    tree = patch(model, pairs, where, strategy=strategy)
    pre, post = (effects.recovery(tree[name].to_dataset())[0].values for name in ("resid_pre", "resid_post"))
    np.testing.assert_allclose(pre, [[0, 1, 0], [0, 1, 0]], atol=1e-5)
    np.testing.assert_allclose(post, [[0, 1, 0], [0, 0, 1]], atol=1e-5)


def test_the_residual_map_over_every_position(model: Model) -> None:
    """The whole map of the query's pair: the last position alone, in every layer, and everything before it zero by rule."""
    ds = patch(model, what_preceded_differs(), grid("resid_pre", layer=..., position=...))
    recovery = effects.recovery(ds)[0].values
    np.testing.assert_allclose(recovery[:, -1], 1.0, atol=1e-5)
    assert not recovery[:, :-1].any()
    assert ds["by_rule"].values[:, :-1].all()


def test_without_either_head_the_network_knows_nothing(model: Model) -> None:
    """Without L1H0 no logit at all; without L0H1 nothing matches, so that the lookup is uniform over the eligible positions."""
    pairs = what_followed_differs()
    parts = [Intervention((Change(f"L{layer}H{head}.z", source=zero()),)) for layer, head in INDUCTION_HEADS]
    ds = patch(model, pairs, parts, patching="noising")
    without_copy, without_look = ds["value"].values[0]
    assert np.array_equal(without_look, np.zeros(3))
    eligible = LENGTH - 2  # positions with a parent, the last one left out; one of them holds the answer, none the wrong one
    np.testing.assert_allclose(without_copy, 1 / eligible, atol=1e-5)
