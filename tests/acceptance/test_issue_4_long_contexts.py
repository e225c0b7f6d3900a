"""Issue 4, long contexts: 8,192 tokens, 20 positions of interest, in every layer of a model of four layers."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from memory import taken
from transformers import LlamaConfig, LlamaForCausalLM

from interp import Activation, Pair, Pairs, Prompt, grid, load, patch
from interp.interventions import attention_knockout
from interp.models import Model

TOKENS, POSITIONS = 8192, 20
SWEEPS = ("resid_pre", "z", "mlp_post", "attn_out", "knockout")


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2 * TOKENS}
    sizes = {"hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 688, "vocab_size": 1024}
    return load(LlamaForCausalLM(LlamaConfig(**heads, **sizes, bos_token_id=0, eos_token_id=0)).eval())


@pytest.fixture(scope="module")
def clean() -> torch.Tensor:
    return torch.randint(3, 1000, (TOKENS,), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def places() -> list[int]:
    return torch.linspace(0, TOKENS - 1, POSITIONS).long().tolist()


@pytest.fixture(scope="module")
def plain(model: Model, clean: torch.Tensor) -> dict[str, int]:
    """Bytes of tensors at the peak of a forward as users call it, and of the leanest: no cache, one row of logits."""
    called = {"as called": {}, "leanest": {"use_cache": False, "logits_to_keep": 1}}
    return {name: taken(lambda options=options: model.module(clean[None], **options)) for name, options in called.items()}


@pytest.mark.done_when(4, "long contexts (8k tokens, 20 positions of interest): peak memory ≤ 2× a plain forward")
@pytest.mark.parametrize("what", SWEEPS)
def test_peak_memory(
    what: str, model: Model, clean: torch.Tensor, places: list[int], plain: dict[str, int], figures: dict[str, Any]
) -> None:
    corrupted = clean.scatter(0, torch.tensor(places), (clean[places] + 1) % 1000)
    pairs = Pairs((Pair(Prompt(tuple(clean.tolist())), Prompt(tuple(corrupted.tolist())), (5,), (6,)),))
    if what == "knockout":  # the last token's edges to each place, in every layer: 80 cells
        where: Any = [attention_knockout(-1, at, layers=layer) for layer in range(4) for at in places[:-1]]
    else:
        where = grid(what, layer=..., position=places)
    began, found = time.monotonic(), []
    peak = taken(lambda: found.append(patch(model, pairs, where, source=None if what == "knockout" else Activation())))
    figures["MiB"] = {"sweep": _mib(peak)} | {f"forward, {name}": _mib(size) for name, size in plain.items()}
    figures["times a forward"] = {name: round(peak / size, 2) for name, size in plain.items()}
    figures["seconds"] = round(time.monotonic() - began)
    figures["noise floor"] = found[0].attrs["noise_floor"]
    assert found[0].attrs["strategy"] == "wavefront"
    assert peak <= 2 * plain["as called"]
    assert peak < 4 * TOKENS**2 * 4, "not even the scores of one layer"


def _mib(size: int) -> float:
    return round(size / 2**20, 1)
