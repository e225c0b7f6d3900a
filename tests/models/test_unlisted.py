"""Architectures beyond the doctor's table: what structure finds of them, and what is said where it finds nothing.

Built tiny from their configurations with the weights that transformers draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers

from interp.engine import patch
from interp.errors import SiteNotFiredError, UnknownSiteError
from interp.models import Model, load
from interp.prompts import Pair
from interp.sites import Site, grid

TEXT: dict[str, Any] = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
WIDE = {**TEXT, "intermediate_size": 56}
GROUPED = {**WIDE, "num_key_value_heads": 2}


def made(model: str, config: str, seed: int, **options: Any) -> Model:
    torch.manual_seed(seed)
    return load(getattr(transformers, model)(getattr(transformers, config)(**options)).eval(), name=model)


def test_a_model_that_may_end_in_several_ways(seed: int) -> None:
    """GLM-4's and Llama-3's configurations hold a list of end tokens."""
    model = made("Glm4ForCausalLM", "Glm4Config", seed, **GROUPED, head_dim=8, pad_token_id=0, eos_token_id=[1, 2])
    assert model.stack is not None
    assert model.has(Site("pattern", layer=2))
    assert not torch.isin(model.example["input_ids"], torch.tensor([0, 1, 2])).any()


def test_a_block_that_is_called_again_and_again_is_named(seed: int) -> None:
    """ALBERT's layers share their weights: one module plays all of them."""
    model = made("AlbertForMaskedLM", "AlbertConfig", seed, **WIDE, embedding_size=16)
    block = "albert.encoder.albert_layer_groups.0.albert_layers.0"
    assert model.sites() == (Site("logits"),)
    with pytest.raises(UnknownSiteError, match=f"because its block {block} is called 3 times in one pass"):
        patch(model, PAIR, grid("z", layer=...))
    with pytest.raises(SiteNotFiredError, match="fired 3 times"):
        patch(model, PAIR, grid(f"{block}:output"))
    ends = patch(model, PAIR, grid("albert.embeddings:output", position=...))
    assert float(abs(ends["value"][:, 2] - ends["clean"]).max()) < 1e-6, "the pair differs in this token alone"
    assert float(abs(ends["value"][:, 1] - ends["corrupt"]).max()) < 1e-6


PAIR = [Pair((1, 2, 3, 4), (1, 2, 9, 4), 5, 6)]


def test_attention_to_places_of_its_own_making(seed: int) -> None:
    """SegFormer attends to a picture made smaller: its keys are not at the stream's positions."""
    options = {"hidden_sizes": [8, 16, 16, 32], "depths": [1] * 4, "num_attention_heads": [1, 2, 2, 4], "num_labels": 4}
    model = made("SegformerForSemanticSegmentation", "SegformerConfig", seed, **options, decoder_hidden_size=16)
    assert model.has(Site("q", layer=1))
    assert model.has(Site("z", layer=1))
    with pytest.raises(UnknownSiteError, match=r"attends to 1 places of its own making, not to the stream's 16"):
        model.check(Site("pattern", layer=1))


def test_sound(seed: int) -> None:
    """wav2vec 2.0 takes a waveform, of which convolutions make frames."""
    frames = {"conv_dim": [8, 8], "conv_stride": [5, 2], "conv_kernel": [10, 3], "num_conv_pos_embeddings": 16}
    model = made(
        "Wav2Vec2ForCTC", "Wav2Vec2Config", seed, **{**WIDE, "vocab_size": 32}, **frames, num_conv_pos_embedding_groups=2
    )
    assert model.example["input_values"].shape == (3, 70), "6 frames: ((6 - 1) · 2 + 3 - 1) · 5 + 10 samples"
    assert model.has(Site("pattern", layer=2))
    assert model.anatomy.main.positions == 6


@pytest.mark.parametrize("kind", ["jamba", "qwen3-next", "falcon-h1"])
def test_hybrids_run_block_by_block_from_the_first_position(kind: str, seed: int) -> None:
    """What state spaces hand on is no keys and values, so that rows begin at the first column, in the layer of their change."""
    model = hybrid(kind, seed)
    assert model.stack is not None
    assert not model.stack.resumes
    where = grid("resid_post", layer=..., position=[0, 2])
    fast, slow = (patch(model, PAIR, where, strategy=way) for way in ("wavefront", "serial"))
    assert float(abs(fast["value"] - slow["value"]).max()) <= 1e-5 * (1 + float(abs(slow["value"]).max()))
    assert float(abs(slow["value"] - slow["corrupt"]).max()) > 1e-3


def hybrid(kind: str, seed: int) -> Model:
    if kind == "falcon-h1":
        state = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 8}
        return made("FalconH1ForCausalLM", "FalconH1Config", seed, **GROUPED, head_dim=8, **state)
    from interp.doctor.architectures import loaded

    return loaded(kind, seed)


def test_layers_of_a_hybrid_have_what_they_have() -> None:
    from interp.doctor.architectures import loaded

    model = loaded("jamba")
    assert layers(model, "mixer_out") == layers(model, "mlp_post") == [0, 2]
    assert layers(model, "z") == layers(model, "routing") == [1]
    assert layers(model, "resid_mid") == [0, 1, 2]


def layers(model: Model, name: str) -> Sequence[int | None]:
    return [site.layer for site in model.sites() if site.name == name]
