"""Several tokens or heads as one vector: the sentence by hand, and every strategy alike. Expected numbers: formulas, serial."""

from __future__ import annotations

import pytest
import torch
from deviations import paired
from transformers import PreTrainedModel

from interp.engine import attribute, patch
from interp.errors import HeadOutOfRangeError, OrderError, PositionError, ShapeMismatchError
from interp.interventions import Change, Intervention, Joint, Mask, Rotation, from_safetensors, learnable, to_safetensors
from interp.models import Model, load
from interp.prompts import Pairs

WIDTH, HEADS, VOCAB = 32, 4, 97


def logit(logits: torch.Tensor) -> torch.Tensor:
    return logits[..., 5]


@pytest.fixture
def model(tiny_gpt2: PreTrainedModel) -> Model:
    return load(tiny_gpt2)


@pytest.fixture
def pairs(seed: int) -> Pairs:
    """Pairs that share their first two tokens."""
    base, source = torch.randint(1, VOCAB, (2, 3, 6), generator=torch.Generator().manual_seed(seed))
    source[:, :2] = base[:, :2]
    return paired(base, source)


def test_it_is_one_vector_of_the_tokens(seed: int) -> None:
    """h' = h + (s − h) Q Qᵀ, over both tokens' features together."""
    draw = torch.Generator().manual_seed(seed)
    h, s = torch.randn(2, 6, 4, generator=draw)  # three rows of two tokens
    rotation = Rotation(8, 3, seed=1)
    change = Change("L0.resid_pre", (0, 1), featurizer=Joint("(b t) d -> b (t d)", tokens=2, inner=rotation))
    both, theirs = h.reshape(3, 8), s.reshape(3, 8)
    expected = both + (theirs - both) @ rotation.basis @ rotation.basis.mT
    torch.testing.assert_close(change(h, s), expected.reshape(6, 4), rtol=0, atol=1e-6)


def test_heads_that_are_not_taken_keep_their_value(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    h, s = torch.randn(2, 5, HEADS, 3, generator=draw)
    change = Change("L0.z", featurizer=Joint("(b t) h d -> (b t) (h d)", heads=(3, 1), of=HEADS))
    new = change(h, s)
    torch.testing.assert_close(new[:, [1, 3]], s[:, [1, 3]], rtol=0, atol=1e-6)
    assert torch.equal(new[:, [0, 2]], h[:, [0, 2]])


@pytest.mark.parametrize("given", [False, True])
def test_every_strategy_gives_the_same(given: bool, model: Model, pairs: Pairs) -> None:
    """Also where a row begins between tokens that are given as one: what changes the later one moves the earlier."""
    across = Joint("(b t) d -> b (t d)", tokens=2, inner=Rotation(2 * WIDTH, 7, seed=2))
    joint = Intervention.of(Change("L1.resid_pre", (1, 4), featurizer=across))
    late, after = Intervention.of("L0.resid_pre@3"), Intervention.of("L2.mlp_out@-1")
    cells = [late, after] if given else [joint, joint & late, joint & after]
    found = {
        strategy: patch(model, pairs, cells, logit, given=joint if given else None, strategy=strategy).value
        for strategy in ("serial", "batched", "wavefront")
    }
    allowed = 1e-5 * (1 + float(abs(found["serial"]).max()))
    for strategy in ("batched", "wavefront"):
        assert float(abs(found[strategy] - found["serial"]).max()) <= allowed, strategy
    assert float(abs(found["serial"].isel(cell=0) - found["serial"].isel(cell=1)).max()) > 1e-3


def test_its_estimate_by_gradients_is_of_the_same_change(seed: int, model: Model, pairs: Pairs) -> None:
    """At a linear end: what is added to the last block's output at the read token reaches the logits through a norm only."""
    across = Joint("(b t) d -> b (t d)", tokens=2, inner=Rotation(2 * WIDTH, 3, seed=seed % 1000))
    own = [Intervention.of(Change("L2.resid_post", (2, 5), featurizer=across)) for _ in range(2)]
    found = attribute(model, pairs, own, logit).value
    alone = attribute(model, pairs, own[0], logit).value
    torch.testing.assert_close(torch.tensor(found.isel(cell=1).values), torch.tensor(alone.isel(cell=0).values))


def test_what_does_not_fit_is_refused(model: Model, pairs: Pairs) -> None:
    across = Joint("(b t) d -> b (t d)", tokens=2)
    with pytest.raises(PositionError, match="changes 2 tokens as one, but its positions name 3 in example 0"):
        patch(model, pairs, Change("L1.resid_pre", (1, 2, 4), featurizer=across), logit)
    with pytest.raises(ShapeMismatchError, match="takes 2 tokens together, but was given 3 rows"):
        across.encode(torch.zeros(3, 4))
    with pytest.raises(ShapeMismatchError, match=r"does not fit values of shape \(4, 2, 3\)"):
        across.encode(torch.zeros(4, 2, 3))
    with pytest.raises(HeadOutOfRangeError, match="heads=\\(0, 4\\) of=4"):
        Joint("(b t) h d -> b (t h d)", heads=(0, 4), of=HEADS)
    with pytest.raises(ValueError, match="tokens=0"):
        Joint("(b t) d -> b (t d)", tokens=0)
    twice = Intervention.of(Change("L1.resid_pre", (1, 4), featurizer=across), Change("L1.resid_pre", 4))
    with pytest.raises(OrderError, match="do not commute"):
        patch(model, pairs, twice, logit)


def test_what_it_learned_is_found_and_saved(seed: int) -> None:
    across = Joint("(b t) d -> b (t d)", tokens=2, inner=Rotation(8, 3, seed=seed))
    one = Intervention.of(Change("L0.resid_pre", (0, 1), edit=Mask(3), featurizer=across))
    assert len(learnable(one)) == 2
    again = from_safetensors(to_safetensors(one))
    assert again.spec() == one.spec()
    assert len(learnable(again)) == 2
