"""Sweeps and sites equal TransformerLens' on the same weights.

Expected numbers: ``transformer_lens.patching`` and ``run_with_cache`` of TransformerLens 4.3, on a TransformerBridge of a copy
of the network, raw and in compatibility mode.

Compatibility mode rewrites weights and keeps what the network computes. It changes what a site *holds* only by one affine map,
the same in every run, which every later layer undoes; so a patch, which moves a value from one run to another, has the same
effect at every site, and the sweeps must agree:

- Weights that write to the stream are centred where the norms are LayerNorms: the stream and all that is added to it lose
  their mean over features, which LayerNorm subtracts anyway. RMSNorms do not, so Llama's stream stays as it is.
- Norm gains and biases move into the weights that read the stream: q, k and the MLP's units stay what they are.
- Value biases, with the norm bias seen through W_V, move into the output bias: v loses a constant, and so does z, because a
  row of the attention pattern sums to 1; ``result`` loses the constant's image under W_O.
- The unembedding is centred: logits lose their mean over the vocabulary, which no difference of logits sees.

What differs by definition is therefore an intervention that writes a value of no run. Zero at z in compatibility mode is that
constant in the network as it is, which ``test_zero_ablation`` shows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import tiny
import torch
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from interp.engine import patch
from interp.interventions import Change, Constant, Intervention, zero
from interp.models import load
from interp.models.encoding import Encoded
from interp.prompts import Pairs
from interp.sites import COMPONENTS, Site, grid

STREAM = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
HEADS = ("z", "q", "k", "v", "pattern", "result")
NAMED = {
    "resid_pre": "get_act_patch_resid_pre",
    "resid_mid": "get_act_patch_resid_mid",
    "attn_out": "get_act_patch_attn_out",
    "mlp_out": "get_act_patch_mlp_out",
    "z": "get_act_patch_attn_head_out_by_pos",
    "q": "get_act_patch_attn_head_q_by_pos",
    "k": "get_act_patch_attn_head_k_by_pos",
    "v": "get_act_patch_attn_head_v_by_pos",
    "pattern": "get_act_patch_attn_head_pattern_by_pos",
}
"""Their sweep of a site over layers, positions and heads; resid_post and result have none of their own."""
NOT_THERE = {"gpt2": {"mlp_up": "its MLP is not gated"}, "llama": {"pos_embed": "its positions are rotations of q and k"}}
"""Components that a network does not have, for us as for them. Every other one they expose under the name that we give it."""


def bridge_of(network: PreTrainedModel, *, compatible: bool) -> Any:
    """A TransformerBridge of a copy, since it rewires the module, and of a new tokenizer, since it changes that too."""
    from transformer_lens.model_bridge import TransformerBridge

    words = Tokenizer(models.WordLevel({f"<{i}>": i for i in range(tiny.VOCAB)}, unk_token="<0>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<0>", pad_token="<0>", eos_token="<0>")
    bridge = TransformerBridge.boot_transformers("tiny", hf_model=copy.deepcopy(network), tokenizer=tokenizer).eval()
    if compatible:
        bridge.enable_compatibility_mode()
    bridge.set_use_attn_result(True)  # else hook_result never fires
    return bridge


def sweep(site: str) -> Any:
    """Their function that sweeps a site over layers and positions, and heads where it has them."""
    from transformer_lens import patching

    if site in NAMED:
        return getattr(patching, NAMED[site])
    by_head = site in HEADS
    return partial(
        patching.generic_activation_patch,
        activation_name=site,
        patch_setter=patching.layer_pos_head_vector_patch_setter if by_head else patching.layer_pos_patch_setter,
        index_axis_names=("layer", "pos", "head") if by_head else ("layer", "pos"),
    )


@torch.no_grad()
def theirs(function: Any, bridge: Any, encoded: Encoded, *, noising: bool = False) -> Any:
    """The result of one of their sweeps, an example at a time: the logit difference at the last position."""
    source, base = (encoded.corrupted, encoded.clean) if noising else (encoded.clean, encoded.corrupted)

    def logit_diff(logits: Tensor) -> Tensor:
        last = logits[:, -1]
        return (last.gather(-1, encoded.answers) - last.gather(-1, encoded.wrong))[:, 0]

    _, cache = bridge.run_with_cache(source.ids)
    return function(bridge, base.ids, cache, logit_diff, reduce="none", baseline=True)


@pytest.fixture(params=[False, True], ids=["raw", "compatible"])
def compatible(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.mark.parametrize("sites", [STREAM, HEADS], ids=["stream", "heads"])
def test_sweep_over_positions(
    sites: tuple[str, ...], compatible: bool, network: PreTrainedModel, pairs: Pairs,
    largest_logit: Callable[..., float], assert_close: Callable[..., None],
) -> None:  # fmt: skip
    """Layer × position, by head where there are heads."""
    model, bridge = load(network), bridge_of(network, compatible=compatible)
    encoded, scale = model.encode(pairs), largest_logit(network, pairs)
    for site in sites:
        result = theirs(sweep(site), bridge, encoded)
        heads = {"head": ...} if site in HEADS else {}
        ours = patch(model, encoded, grid(site, layer=..., position=..., **heads))
        renamed = {"pos": "position", "dest_pos": "position", "head_index": "head"}
        value = ours.value.isel(metric=0).transpose(*(renamed.get(axis, axis) for axis in result.axis_names), "example")
        assert_close(value.values, result.values, scale, what=site)
        assert_close(ours.corrupt.values[0], result.baseline, scale, what="base")
        assert bool(ours.by_rule.any()), site  # cells that we did not run, and they did
        assert float(result.effect().abs().max()) > 0.1, site  # there was something to see


def test_sweep_over_heads_at_all_positions(
    compatible: bool, network: PreTrainedModel, pairs: Pairs,
    largest_logit: Callable[..., float], assert_close: Callable[..., None],
) -> None:  # fmt: skip
    from transformer_lens import patching

    model = load(network)
    encoded = model.encode(pairs)
    every = patching.get_act_patch_attn_head_all_pos_every
    result = theirs(every, bridge_of(network, compatible=compatible), encoded)
    names = {"out": "z", "q": "q", "k": "k", "v": "v", "pattern": "pattern"}
    assert result.patch_type_names == list(names)
    scale = largest_logit(network, pairs)
    for site, values in zip(names.values(), result.values, strict=True):
        ours = patch(model, encoded, grid(site, layer=..., head=...)).value.isel(metric=0)
        assert_close(ours.values, values[:, : ours.sizes["head"]], scale, what=site)  # theirs pads key/value heads with zeros


def test_noising(
    network: PreTrainedModel, pairs: Pairs, largest_logit: Callable[..., float], assert_close: Callable[..., None]
) -> None:
    """Base clean, source corrupted: their functions with the prompts exchanged."""
    model = load(network)
    encoded = model.encode(pairs)
    result = theirs(sweep("resid_mid"), bridge_of(network, compatible=False), encoded, noising=True)
    ours = patch(model, encoded, grid("resid_mid", layer=..., position=...), patching="noising")
    assert_close(ours.value.values[0], result.values, largest_logit(network, pairs))


@pytest.mark.parametrize("site", ["z", "v"])
def test_zero_ablation(
    site: str, compatible: bool, network: PreTrainedModel, pairs: Pairs,
    largest_logit: Callable[..., float], assert_close: Callable[..., None],
) -> None:  # fmt: skip
    """Zero is a value of no run: in compatibility mode it stands for the constant that v and z have lost."""
    from transformer_lens import patching

    def to_zero(h: Tensor, index: list[int], clean: Tensor) -> Tensor:
        h[:, :, index[1]] = 0
        return h

    knock_out = partial(
        patching.generic_activation_patch, activation_name=site, patch_setter=to_zero, index_axis_names=("layer", "head")
    )
    model = load(network)
    encoded = model.encode(pairs)
    result = theirs(knock_out, bridge_of(network, compatible=compatible), encoded)
    lost = value_constants(network)[:, :: tiny.HEADS // result.values.shape[1]]
    scale = largest_logit(network, pairs)
    if compatible:
        places = [Site(site, layer=layer, head=head) for layer in range(lost.shape[0]) for head in range(lost.shape[1])]
        cells = [Intervention((Change(at, source=Constant(lost[at.layer, at.head])),)) for at in places]
        ours = patch(model, encoded, cells).value.values.reshape(result.values.shape)
    else:
        ours = patch(model, encoded, grid(site, layer=..., head=...), source=zero()).value.values[0]
    assert_close(ours, result.values, scale)


def test_names_and_values_of_sites(
    family: str, network: PreTrainedModel, pairs: Pairs, assert_close: Callable[..., None]
) -> None:
    """The hook whose name is a component's alias holds what we read there, shape and value, in every layer."""
    model = load(network)
    encoded = model.encode(pairs)
    _, cache = bridge_of(network, compatible=False).run_with_cache(encoded.clean.ids)
    found = read(model, encoded)
    for name, component in COMPONENTS.items():
        for site in (Site(name, layer=layer) for layer in (range(tiny.LAYERS) if component.per_layer else [None])):
            assert Site.parse(site.lens) == site
            if name in {*NOT_THERE[family], *tiny.RARE} or name.endswith("_post_scale"):
                assert site.lens not in cache
                assert name in model.anatomy.absent
                continue
            ours, expected = found[site], cache[site.lens]
            expected = expected.squeeze(-1) if name.endswith("_scale") else expected  # theirs has an axis of one in the end
            if name == "scores":  # what the mask hides is −∞ for them, the lowest number of the dtype for transformers
                hidden = torch.ones(ours.shape[-2:], dtype=torch.bool).triu(1)
                assert bool((ours[..., hidden] < -1e30).all())
                assert bool((expected[..., hidden] < -1e30).all())
                ours, expected = ours.masked_fill(hidden, 0), expected.masked_fill(hidden, 0)
            assert_close(ours, expected, float(expected.abs().max()), what=site)


def test_values_of_sites_in_compatibility_mode(
    family: str, network: PreTrainedModel, pairs: Pairs, assert_close: Callable[..., None]
) -> None:
    """Each site holds the affine image of ours that the head of this file states."""
    model = load(network)
    encoded = model.encode(pairs)
    _, cache = bridge_of(network, compatible=True).run_with_cache(encoded.clean.ids)
    lost = value_constants(network)
    for site, ours in read(model, encoded).items():
        if site.name == "scores":
            continue  # seen through the pattern; the hidden ones differ by definition
        if site.name in ("z", "v", "result"):
            constant = lost[site.layer]
            if site.name == "v":
                constant = constant[:: tiny.HEADS // ours.shape[2]]
            if site.name == "result":
                constant = torch.einsum("hd,hdm->hm", constant, output_weights(network, site.layer))
            ours = ours - constant
        centred = family == "gpt2" and "d_model" in site.component.axes
        if centred or site.name == "logits":
            ours = ours - ours.mean(-1, keepdim=True)
        expected = cache[site.lens].squeeze(-1) if site.name.endswith("_scale") else cache[site.lens]
        assert_close(ours, expected, float(ours.abs().max()), what=site)


@torch.no_grad()
def read(model: Any, encoded: Encoded) -> dict[Site, Tensor]:
    """Every site of the clean prompts."""
    with model.prepared(model.sites()):
        return model.backend.run(model.inputs(encoded.clean), reads=model.sites(), writes={})


@torch.no_grad()
def value_constants(network: PreTrainedModel) -> Tensor:
    """``[layer, head, d_head]``: b_V and the norm's bias seen through W_V. Llama has neither."""
    if network.config.model_type == "llama":
        return torch.zeros(tiny.LAYERS, tiny.HEADS, tiny.WIDTH // tiny.HEADS)
    found = []
    for block in network.transformer.h:
        weight, bias = block.attn.c_attn.weight[:, -tiny.WIDTH :], block.attn.c_attn.bias[-tiny.WIDTH :]
        found.append((block.ln_1.bias @ weight + bias).unflatten(0, (tiny.HEADS, -1)))
    return torch.stack(found)


def output_weights(network: PreTrainedModel, layer: int | None) -> Tensor:
    """W_O of a layer, ``[head, d_head, d_model]``."""
    assert layer is not None
    if network.config.model_type == "llama":
        weight = network.model.layers[layer].self_attn.o_proj.weight.mT
    else:
        weight = network.transformer.h[layer].attn.c_proj.weight
    return weight.detach().unflatten(0, (tiny.HEADS, -1))
