"""Left-padded batches give the numbers of one prompt at a time, and attention patterns are transformers' own.

Expected numbers: transformers itself on one unpadded prompt, with no mask, position ids or hook of ours. Prompts of different
lengths are run together by us, so what gets lost on the way shows in the shorter ones: tried on four seeds, a mask or a window
left out costs more than one logit here, and position ids left out cost GPT-2 seven (rotary models do not mind a shift).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from transformers import PreTrainedModel

from interp.engine import patch
from interp.models import load
from interp.models.encoding import Tokens
from interp.models.model import Model
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import Site, grid

LENGTHS = (3, 11, 6, 9)
WINDOW = 4
"""Of the windowed model: three of the prompts are longer."""
LOGITS = Site("logits")


@pytest.fixture(params=["gpt2", "llama", "mistral"])
def network(request: pytest.FixtureRequest, seed: int) -> PreTrainedModel:
    return tiny.mistral(seed, window=WINDOW) if request.param == "mistral" else getattr(tiny, request.param)(seed)


@pytest.fixture
def prompts(seed: int) -> list[list[int]]:
    """Token 0, which also pads, is among them: only the mask tells padding."""
    draw = torch.Generator().manual_seed(seed + 1)
    return [[0, *torch.randint(tiny.VOCAB, (n - 1,), generator=draw).tolist()] for n in LENGTHS]


@torch.no_grad()
def alone(network: PreTrainedModel, prompt: list[int], **options: bool) -> Any:
    """transformers' output on one unpadded prompt, the batch axis kept."""
    return network(input_ids=torch.tensor([prompt]), **options)


@torch.no_grad()
def together(model: Model, tokens: Tokens, sites: list[Site]) -> dict[Site, Tensor]:
    with model.prepared(sites):
        return model.backend.run(model.inputs(tokens), reads=sites, writes={})


@pytest.mark.parametrize("patterns", [False, True], ids=["logits", "patterns"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_padded_batch(
    implementation: str, patterns: bool, network: PreTrainedModel, prompts: list[list[int]], assert_close: Callable[..., None]
) -> None:
    """Logits of every real token, also where reading patterns forces eager attention on a model that runs another."""
    network.set_attn_implementation(implementation)
    model = load(network)
    expected = [alone(network, prompt).logits[0] for prompt in prompts]
    read = [Site("pattern", layer=layer) for layer in range(tiny.LAYERS)] if patterns else []
    logits = together(model, model.encode(prompts), [LOGITS, *read])[LOGITS]
    assert network.config._attn_implementation == implementation
    for row, one in zip(logits, expected, strict=True):
        assert_close(row[-len(one) :], one, float(one.abs().max()))


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_patterns(
    implementation: str, network: PreTrainedModel, prompts: list[list[int]], assert_close: Callable[..., None]
) -> None:
    """Patterns of a padded batch are the ``output_attentions`` of each prompt alone, with nothing on padding."""
    network.set_attn_implementation("eager")  # the only one that gives them out
    expected = [alone(network, prompt, output_attentions=True).attentions for prompt in prompts]
    network.set_attn_implementation(implementation)
    model = load(network)
    sites = [Site("pattern", layer=layer) for layer in range(tiny.LAYERS)]
    found = together(model, model.encode(prompts), sites)
    for layer, site in enumerate(sites):
        for row, attentions in zip(found[site], expected, strict=True):
            n = attentions[layer].shape[-1]
            assert_close(row[:, -n:, -n:], attentions[layer][0], 1.0)
            assert float(row[:, -n:, :-n].abs().sum()) == 0.0


def test_the_window_is_kept(prompts: list[list[int]], seed: int) -> None:
    """A query sees itself and the WINDOW − 1 positions before it: by definition of Mistral's sliding window."""
    model = load(tiny.mistral(seed, window=WINDOW))
    site = Site("pattern", layer=1)
    pattern = together(model, model.encode(prompts), [site])[site][LENGTHS.index(max(LENGTHS))]
    query, key = torch.meshgrid(*map(torch.arange, pattern.shape[-2:]), indexing="ij")
    seen = (key <= query) & (query - key < WINDOW)
    assert float(pattern[:, ~seen].abs().max()) == 0.0
    assert float(pattern[:, seen].min()) > 0.0


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_patch_in_a_padded_batch(
    implementation: str, network: PreTrainedModel, prompts: list[list[int]], seed: int, assert_close: Callable[..., None]
) -> None:
    """A sweep over prompts of different lengths equals a hook on one unpadded prompt, by torch and transformers alone."""
    network.set_attn_implementation(implementation)
    draw = torch.Generator().manual_seed(seed + 2)
    clean = [torch.randint(tiny.VOCAB, (len(prompt),), generator=draw).tolist() for prompt in prompts]
    items = [Pair(Prompt(tuple(c)), Prompt(tuple(p)), (1,), (2,)) for c, p in zip(clean, prompts, strict=True)]
    positions = (-3, -1, 2)
    ours = patch(load(network), Pairs(tuple(items)), grid("resid_post", layer=..., position=positions)).value.isel(metric=0)
    expected, largest = torch.empty(ours.shape), 0.0
    for example, (source, base) in enumerate(zip(clean, prompts, strict=True)):
        outputs = block_outputs(network, source)
        for layer in range(tiny.LAYERS):
            for i, position in enumerate(positions):
                value = outputs[layer][position]
                logits = hooked(network, base, layer, position, value)
                largest = max(largest, float(logits.abs().max()))
                expected[layer, i, example] = logits[-1, 1] - logits[-1, 2]
    assert_close(ours.values, expected, largest)


def blocks(network: PreTrainedModel) -> Any:
    return network.transformer.h if network.config.model_type == "gpt2" else network.model.layers


def block_outputs(network: PreTrainedModel, prompt: list[int]) -> list[Tensor]:
    """The stream that leaves each block, ``[position, d_model]``."""
    kept: list[Tensor] = []
    handles = [block.register_forward_hook(lambda block, args, output: kept.append(output[0])) for block in blocks(network)]
    alone(network, prompt)
    for handle in handles:
        handle.remove()
    return kept


def hooked(network: PreTrainedModel, prompt: list[int], layer: int, position: int, value: Tensor) -> Tensor:
    """Logits ``[position, vocab]`` of a run in which one block's output is replaced at one position."""

    def replace(block: Any, args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[:, position] = value
        return output

    handle = blocks(network)[layer].register_forward_hook(replace)
    logits: Tensor = alone(network, prompt).logits[0]
    handle.remove()
    return logits
