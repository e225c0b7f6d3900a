"""Means over the prompts that have the same token at the same position."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import sweeps
import torch

from interp.engine import patch, run
from interp.errors import ShapeMismatchError
from interp.interventions import Activation, Change
from interp.prompts import Pair, Pairs

PROMPTS = [(1, a, 5, b) for a, b in itertools.product((2, 3, 4), (6, 7))]


def pairs(prompts: list[tuple[int, ...]]) -> Pairs:
    return Pairs(tuple(Pair(one, other, 3, 4) for one, other in zip(prompts, prompts[1:] + prompts[:1], strict=True)))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("position", [1, 2, 3])
def test_it_is_the_conditional_mean(kind: str, position: int) -> None:
    """Expected: means over the activations of the prompts with that token there, captured and written as constants."""
    model, asked = sweeps.model(kind, torch.float64), pairs(PROMPTS)
    source = Activation("base", pool="mean", by="token")
    found = patch(model, asked, Change("L0.resid_post", position, source), patching="noising")["value"].values[0, 0]
    h = run(model, asked, capture="L0.resid_post", logits="none", patching="noising")["L0.resid_post"][:, position]
    for n, prompt in enumerate(PROMPTS):
        alike = [m for m, other in enumerate(PROMPTS) if other[position] == prompt[position]]
        value = h[alike].mean(0)
        expected = patch(model, asked[n : n + 1], Change("L0.resid_post", position, value), patching="noising")
        np.testing.assert_allclose(found[n], expected["value"].values[0, 0, 0], rtol=0, atol=1e-7)


def test_prompts_of_other_length_and_other_prompts() -> None:
    """Positions are counted from each prompt's first token, whatever is padded; a list of prompts gives the means as well."""
    model = sweeps.model("llama", torch.float64)
    asked, longer = pairs([(1, 2, 5), (1, 2, 6, 7, 8)]), [(1, 2, 9, 9), (1, 2, 9), (1, 3, 5)]
    of_base = patch(model, asked, Change("L0.mlp_out", 1, Activation("base", pool="mean", by="token")), patching="noising")
    of_list = patch(model, asked, Change("L0.mlp_out", 1, Activation(longer, pool="mean", by="token")), patching="noising")
    h = run(model, [list(p) for p in longer], capture="L0.mlp_out", logits="none")["L0.mlp_out"]
    expected = patch(model, asked, Change("L0.mlp_out", 1, h[:2, 1].mean(0)), patching="noising")
    np.testing.assert_allclose(of_list["value"], expected["value"], rtol=0, atol=1e-7)
    own = patch(model, asked, Change("L0.mlp_out", 1, Activation("base")), patching="noising")
    np.testing.assert_allclose(of_base["value"].values.ravel(), own["value"].values.ravel(), rtol=0, atol=1e-7)  # causal
    with pytest.raises(ShapeMismatchError, match=r"no prompt of the source has the token of example 1 at position 2"):
        patch(model, asked, Change("L0.mlp_out", 2, Activation([(1, 2, 5)], pool="mean", by="token")), patching="noising")


def test_what_a_mean_by_token_does_not_go_with() -> None:
    with pytest.raises(ValueError, match=r"by='token' is a mean over the prompts that have the same token"):
        Activation("base", pool="mean", by="token", over=("example", "position"))
    with pytest.raises(ValueError, match=r"and no positions, got over=\('example',\), positions=-1"):
        Activation("base", pool="mean", by="token", positions=-1)
    with pytest.raises(ValueError, match=r"over=.* and by='token' are for pool='mean'"):
        Activation("base", by="token")
