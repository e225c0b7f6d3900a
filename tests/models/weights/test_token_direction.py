"""The direction of a token, against the logits that the model itself gives for the streams that leave its last block."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp.doctor import architectures
from interp.engine.single.cache import cache
from interp.errors import WeightsError
from interp.interventions import Add, Change, Constant, ProjectOut
from interp.models import load
from interp.models.weights import token_direction

IDS = [[5, 9, 31, 7, 9, 2], [11, 3, 8, 60, 44, 1]]
A, B = 3, 5


@pytest.mark.parametrize("architecture", ["gpt2", "gpt-neox", "llama", "gemma", "phi"])
@pytest.mark.parametrize("edit", [None, Add(2.0), ProjectOut()], ids=["plain", "added", "projected out"])
def test_along_it_the_difference_of_two_logits_grows(architecture: str, edit: Add | ProjectOut | None) -> None:
    model = architectures.loaded(architecture)
    direction = token_direction(model, A, B)
    last = model.sizes["layer"] - 1
    given = None if edit is None else Change(f"L{last}.resid_post", source=Constant(direction), edit=edit)
    ds = cache(model, IDS, [f"L{last}.resid_post", "ln_final_scale", "logits"], given=given)
    along = ds.resid_post.isel(layer=0).values @ direction.numpy() / ds.ln_final_scale.values
    own = ds.logits.values[..., A] - ds.logits.values[..., B]
    constant = own - along
    np.testing.assert_allclose(constant, constant.flat[0], atol=1e-5 * (1 + abs(own).max()))  # biases alone
    if edit == ProjectOut():
        np.testing.assert_allclose(along, 0, atol=1e-5)
    if architecture in ("llama", "gemma"):
        np.testing.assert_allclose(constant, 0, atol=1e-5 * (1 + abs(own).max()))


def test_one_token_alone_centred_and_of_length_one() -> None:
    model = architectures.loaded("llama")
    one, other = token_direction(model, A), token_direction(model, B)
    torch.testing.assert_close(one - other, token_direction(model, A, B))
    torch.testing.assert_close(
        one - torch.stack([token_direction(model, i) for i in range(model.anatomy.outputs)]).mean(0),
        token_direction(model, A, centred=True),
    )
    assert token_direction(model, A, B, unit=True).norm().item() == pytest.approx(1)
    weight = model.module.get_output_embeddings().weight.detach()
    torch.testing.assert_close(token_direction(model, A, B, fold_norm=False), weight[A] - weight[B])


def test_words_and_what_is_no_token() -> None:
    model = load("zoo/language-4l")
    ids = [model.tokenizer.encode(word, add_special_tokens=False)[0] for word in (" Daniel", " Aaron")]
    torch.testing.assert_close(token_direction(model, " Daniel", " Aaron"), token_direction(model, *ids))
    with pytest.raises(WeightsError, match=r"' Daniel Aaron' is 2 tokens .*; give one token"):
        token_direction(model, " Daniel Aaron")
    with pytest.raises(WeightsError, match="no direction: they are one token, id"):
        token_direction(model, " Daniel", ids[0])
    with pytest.raises(WeightsError, match=r"token ids \[10000\] are not in the vocabulary"):
        token_direction(model, 10_000)
