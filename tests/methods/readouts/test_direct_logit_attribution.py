"""Direct logit attribution: contributions sum to the logit difference, finer ones to coarser ones, and removing a part takes
away what it contributed.

Expected numbers: the raw module on one unpadded prompt at a time (its unembedding's output, before a soft cap), formulas on its
weights, and patches with everything else held. Tolerance: 1e-5 × (1 + max |logit difference|) in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch
import xarray as xr
from torch import Tensor
from transformers import CohereConfig, GraniteConfig

from interp.doctor import architectures
from interp.engine import patch
from interp.errors import AnswerError, HeadOutOfRangeError, InputError, PositionError, UnknownNameError, UnknownSiteError
from interp.interventions import Activation, Change, Constant, Intervention, attention_knockout
from interp.methods.readouts.direct_logit_attribution import BY, dla
from interp.models import Model, load
from interp.models.decoding import Decoder
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import Site

SUMMED = (
    *("gpt2", "gpt-neo", "gpt-j", "gpt-neox", "opt", "bloom", "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3-moe"),
    *("gemma", "gemma2", "gemma3", "phi", "phi3", "olmo2", "falcon", "falcon-new", "stablelm", "smollm3", "deepseek-v3"),
    *("mamba", "gpt-oss", "jamba", "qwen3-next", "llava", "qwen2-vl"),
)
"""Architectures with a stack of blocks, an unembedding, and norms before what they feed or behind it."""
UNITS_ELSEWHERE = {"mixtral", "gpt-oss", "mamba", "granite"}
NO_PATTERN = {"mamba", "qwen3-next", "granite"}
SMALL: dict[str, Any] = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 56,
    "vocab_size": tiny.VOCAB,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
A, B = 3, 5


@cache
def model(kind: str) -> Model:
    if kind == "cohere":  # parallel, logits scaled behind the unembedding
        return load(tiny.random_model(CohereConfig(logit_scale=0.25, **SMALL), 0), name=kind)
    if kind == "granite":  # what is added to the stream is scaled, and so are logits
        scaled = {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 4.0}
        return load(tiny.random_model(GraniteConfig(**SMALL, **scaled), 0), name=kind)
    return architectures.loaded(kind)


def prompts(seed: int) -> list[list[int]]:
    """Three prompts of unequal length."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 90, (n,), generator=generator).tolist() for n in (6, 4, 7)]


@torch.no_grad()
def unembedded(model: Model, ids: list[int], position: int = -1) -> Tensor:
    """What the model's logits are before a soft cap, from its raw forward."""
    module: Any = model.module
    seen: list[Tensor] = []
    capped = model.stack is not None and model.stack.softcap is not None
    handle = module.get_output_embeddings().register_forward_hook(lambda m, args, out: seen.append(out))
    logits = module(input_ids=torch.tensor([ids]), use_cache=False).logits
    handle.remove()
    return (seen[0] if capped else logits)[0, position].double()


def pairs_of(seed: int) -> Pairs:
    """Pairs of unequal length with one answer each."""
    pairs = sweeps.random_pairs(seed, [6, 5, 6])
    return replace(pairs, items=tuple(replace(pair, answers=pair.answers[:1], wrong=pair.wrong[:1]) for pair in pairs))


def within(got: Any, expected: Any, scale: Any) -> None:
    limit = 1e-5 * (1 + float(np.abs(np.asarray(scale)).max()))
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=0, atol=limit)


def everything(found: xr.Dataset) -> Any:
    """The sum of all that was divided, recomputed from the variables."""
    total = found["contribution"].sum([dim for dim in found["contribution"].dims if dim != "example"])
    return total + (found["other"].sum("other_term") if "other" in found else 0)


@pytest.mark.parametrize("architecture", [*SUMMED, "cohere", "granite"])
def test_contributions_sum_to_the_logit_difference(architecture: str, seed: int) -> None:
    tested, texts = model(architecture), prompts(seed)
    own = torch.stack([unembedded(tested, ids) for ids in texts])
    for wrong, expected in ((B, own[:, A] - own[:, B]), (None, own[:, A] - own.mean(-1))):
        for by in BY:
            if (by == "neuron" and architecture in UNITS_ELSEWHERE) or (
                by == "source" and architecture in (*NO_PATTERN, "granite")
            ):
                with pytest.raises(UnknownSiteError, match="cannot be divided so"):
                    dla(tested, texts, A, wrong, by=by)
                continue
            found = dla(tested, texts, A, wrong, by=by)
            for got in (found["total"], everything(found), found["logit_diff"]):
                within(got, expected, own.abs().max())
            assert not bool(found["contribution"].isnull().all())


def test_a_residual_that_is_scaled_on_the_way_is_not_divided(seed: int) -> None:
    """Granite halves what attention and MLP give: nothing is known to be what they add, and each layer is left whole."""
    found = dla(model("granite"), prompts(seed), A, B)
    assert [str(term) for term in found["term"].values] == ["embed", "L0.rest", "L1.rest", "bias"]


# finer parts are coarser ones, and formulas


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2", "falcon", "deepseek-v3", "gpt-oss", "bloom"])
def test_finer_parts_sum_to_coarser_ones(architecture: str, seed: int) -> None:
    """Σ heads + b_O = attention, Σ units + b_out = MLP, Σ sources = head, attention + MLP = layer."""
    tested, texts = model(architecture), prompts(seed)
    by = {name: dla(tested, texts, A, B, by=name) for name in BY if name != "neuron" or architecture != "gpt-oss"}
    size = by["head"]["logit_diff"]
    whole, heads, source = by["component"]["contribution"], by["head"]["contribution"], by["source"]["contribution"]
    for layer in range(3):
        of_heads = heads.where((heads["term_layer"] == layer) & heads["term_kind"].isin(["head", "bias"]), drop=True)
        within(of_heads.sum("term"), whole.sel(term=f"a{layer}"), size)
        parts = whole.where(whole["term_layer"] == layer, drop=True)
        within(parts.sum("term"), by["layer"]["contribution"].sel(term=f"L{layer}"), size)
        for head in range(4):
            within(source.sel(term=f"L{layer}H{head}").sum("source_position"), heads.sel(term=f"L{layer}H{head}"), size)
        if "neuron" in by and f"m{layer}" in by["neuron"]["term"]:
            other = by["neuron"]["other"]
            bias = other.where(other["other_term"] == f"L{layer}.mlp_bias", drop=True).sum("other_term")
            within(by["neuron"]["contribution"].sel(term=f"m{layer}").sum("unit") + bias, whole.sel(term=f"m{layer}"), size)


@torch.no_grad()
def test_a_head_and_its_bias_by_hand(seed: int) -> None:
    """GPT-2, by the formula: s · ⟨γ ⊙ (W_U[a] − W_U[b]), W_O z⟩, centred; b_O, and the last norm's bias, likewise."""
    tested, ids = model("gpt2"), prompts(seed)[0]
    module: Any = tested.module
    seen: dict[str, Tensor] = {}
    attention, last = module.transformer.h[1].attn.c_proj, module.transformer.ln_f
    handles = [
        part.register_forward_pre_hook(lambda m, args, name=name: seen.update({name: args[0][0, -1].double()}))
        for name, part in (("z", attention), ("x", last))
    ]
    module(input_ids=torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    u = (module.lm_head.weight[A] - module.lm_head.weight[B]).double()
    s = 1 / (seen["x"].var(unbiased=False) + last.eps).sqrt()
    direction = last.weight.double() * u
    direction = s * (direction - direction.mean())
    weight = attention.weight.double()  # inputs as rows
    found = dla(tested, [ids], A, B)["contribution"].isel(example=0)
    for head in range(4):
        rows = slice(8 * head, 8 * head + 8)
        within(found.sel(term=f"L1H{head}"), float(seen["z"][rows] @ weight[rows] @ direction), 1)
    within(found.sel(term="L1.attn_bias"), float(attention.bias.double() @ direction), 1)
    within(found.sel(term="bias"), float(last.bias.double() @ u), 1)
    within(found.sel(term="embed"), float(module.transformer.wte.weight[ids[-1]].double() @ direction), 1)
    within(found.sel(term="pos_embed"), float(module.transformer.wpe.weight[len(ids) - 1].double() @ direction), 1)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_with_everything_else_held_removing_a_head_takes_away_its_contribution(kind: str, seed: int) -> None:
    """Gemma-2 norms what attention gives: a head's part is what it adds at that norm's held scale. Sweeps decide."""
    maker: Callable[..., Any] = {"llama": tiny.llama, "gpt2": tiny.gpt2, "gemma2": tiny.gemma2}[kind]
    tested = load(tiny.gemma2(seed, final_logit_softcapping=None) if kind == "gemma2" else maker(seed))
    pairs = pairs_of(seed)
    contribution = dla(tested, pairs)["contribution"]
    gone = [Change(f"L{layer}H{head}.z", -1, source=Constant(0.0)) for layer in range(3) for head in range(4)]
    every = [site for site in tested.sites() if site.name.endswith("_scale")]
    for change in gone:
        layer = change.site.layer or 0
        later = [Site("attn_out", layer=i) for i in range(layer + 1, 3)] + [Site("mlp_out", layer=i) for i in range(layer, 3)]
        found = patch(tested, pairs, change, patching="noising", hold=[*every, *later])
        effect = (found["value"] - found["clean"]).isel(metric=0).squeeze(drop=True)
        within(effect, -contribution.sel(term=f"L{layer}H{change.site.head}"), found["clean"])


def test_swapping_the_tokens_flips_every_sign_exactly(seed: int) -> None:
    for architecture in ("gpt2", "gemma2", "mixtral"):
        for by in ("head", "source"):
            one, other = (dla(model(architecture), prompts(seed), *words, by=by) for words in ((A, B), (B, A)))
            for name in ("contribution", "total", "logit_diff"):
                np.testing.assert_array_equal(one[name].values, -other[name].values)


def test_a_frozen_scale_decodes_sums_and_an_own_one_does_not(seed: int) -> None:
    """Embedding and all that is added decode to the logits; each by its own norm, they miss by far."""
    tested = model("llama")
    assert tested.stack is not None
    decoder, columns = Decoder.of(tested), torch.arange(7)
    sites = [Site("resid_pre", layer=0), *(Site(n, layer=i) for i in range(3) for n in ("attn_out", "mlp_out"))]
    end = Site("resid_post", layer=2)
    with torch.no_grad(), tested.prepared():
        found = tested.backend.run(tested.example, [*sites, end, Site("logits")], {})
        parts = torch.stack([found[site][:, -1] for site in sites], dim=1)
        decoded = decoder.decode(parts, decoder.scale(found[end][:, -1]), columns).sum(1)
        logits = found[Site("logits")][:, -1, :7].double()
        within(decoded, logits, logits)
        own = sum(tested.stack.logits(part[:, None])[:, 0, :7].double() for part in parts.unbind(1))
    assert float((own - logits).abs().max()) > 1


# prompts, positions, and what is in force


def test_heads_by_layer_and_head(seed: int) -> None:
    tested, texts = model("llama"), prompts(seed)
    found = dla(tested, texts, A, B)
    assert found.by_head.dims == ("example", "layer", "head")
    assert found.by_head.shape == (3, tested.sizes["layer"], tested.sizes["head"])
    heads = found.contribution.sel(term=found.term_kind == "head")
    for term in heads.term.values.tolist():
        layer, head = map(int, term[1:].split("H"))
        np.testing.assert_array_equal(found.by_head.sel(layer=layer, head=head), found.contribution.sel(term=term))
    assert float(found.by_head.sum()) == pytest.approx(float(heads.sum()), rel=1e-5)
    some = dla(tested, texts, A, B, layers=[2, 1])
    assert some.by_head.layer.values.tolist() == [1, 2]
    np.testing.assert_array_equal(some.by_head, found.by_head.sel(layer=[1, 2]))
    sources = dla(tested, texts, A, B, by="source")
    assert sources.by_head.dims == ("example", "layer", "head", "source_position")
    within(sources.by_head.sel(layer=2, head=3), sources.contribution.sel(term="L2H3"), found["logit_diff"])
    assert all("by_head" not in dla(tested, texts, A, B, by=by) for by in ("layer", "component", "neuron"))


def test_prompts_of_unequal_length_are_those_one_by_one(seed: int) -> None:
    for architecture in ("gpt2", "llama", "opt"):
        tested, texts = model(architecture), prompts(seed)
        for by in ("head", "source"):
            together = dla(tested, texts, A, B, by=by)
            for i, ids in enumerate(texts):
                alone = dla(tested, [ids], A, B, by=by)["contribution"].isel(example=0).values
                got = together["contribution"].isel(example=i).values
                if by == "source":
                    assert np.isnan(got[:, len(ids) :]).all()
                    got = got[:, : len(ids)]
                within(got, alone, together["logit_diff"])


def test_other_positions(seed: int) -> None:
    tested, ids = model("gpt2"), prompts(seed)[2]
    roles = {"middle": (2, 3), "span": (1, 4)}
    for position, index in ((2, 2), (-3, len(ids) - 3), ("middle", 2), ("span[-1]", 3)):
        found = dla(tested, Prompt(ids, roles), A, B, position=position, by="source")
        expected = unembedded(tested, ids, index)
        within(found["total"], [float(expected[A] - expected[B])], expected)
        behind = found["contribution"].isel(source_position=slice(index + 1, None))
        assert (behind.values == 0).all(), "a causal model attends to nothing behind the position"
    with pytest.raises(PositionError, match=r"names 3 tokens in example 0.*'span\[-1\]'"):
        dla(tested, Prompt(ids, roles), A, B, position="span")


def test_pairs_bring_their_answers(seed: int) -> None:
    tested, texts = model("llama"), prompts(seed)
    pairs = Pairs(tuple(Pair(ids, ids[::-1], A + i, B + i) for i, ids in enumerate(texts)))
    found = dla(tested, pairs)
    one_by_one = [dla(tested, [ids], A + i, B + i)["contribution"].isel(example=0) for i, ids in enumerate(texts)]
    within(found["contribution"], np.stack(one_by_one), found["logit_diff"])
    assert found["answer"].values.tolist() == ["3", "4", "5"]
    assert (found.attrs["wrong"], found.attrs["position"], found.attrs["given"]) == ("one token", "-1", None)
    assert "template" not in found.coords
    named = dla(tested, Pairs(tuple(replace(pair, template=f"t{i}") for i, pair in enumerate(pairs))))
    assert named["template"].values.tolist() == ["t0", "t1", "t2"]
    assert "wrong" not in dla(tested, pairs, A)
    assert dla(tested, pairs, A).attrs["wrong"] == "the mean over the vocabulary"


def test_layers_that_are_not_asked_for_stay_whole(seed: int) -> None:
    found = dla(model("gpt2"), prompts(seed), A, B, layers=[1])
    terms = [str(term) for term in found["term"].values]
    assert [term for term in terms if term.startswith(("L", "a"))] == [
        "a0",
        "L1H0",
        "L1H1",
        "L1H2",
        "L1H3",
        "L1.attn_bias",
        "a2",
    ]
    units = dla(model("gpt2"), prompts(seed), A, B, by="neuron", layers=2)
    assert units["contribution"].dims == ("example", "term", "unit")
    assert [str(term) for term in units["term"].values] == ["m2"]


@pytest.mark.parametrize(
    ("given", "rest"),
    [
        (Intervention.of("L1H2.z", source=Constant(0.0)), []),
        (Intervention.of("L1.mlp_out@-1", source=Constant(0.1)), []),
        (Intervention.of("L1.resid_post@-1", source=Constant(0.1)), ["L1.rest"]),
        (Intervention.of("ln_final_scale", source=Constant(2.0)), []),
        (Intervention.of("embed@-1", source=Constant(0.1)), []),
        (attention_knockout(-1, 1, layers=[1, 2]), []),
        (Intervention.of("L1.attn_out@-1"), ["a1"]),  # heads no longer add up to it
    ],
    ids=repr,
)
def test_on_a_changed_base(given: Intervention, rest: list[str], seed: int) -> None:
    """The logit difference under an intervention is that of a sweep; what is changed shows in the terms."""
    tested, pairs = sweeps.model("llama"), pairs_of(seed)
    expected = patch(tested, pairs, given, patching="noising", strategy="serial")["value"].isel(metric=0)
    found = dla(tested, pairs, given=given)
    within(found["logit_diff"], expected.squeeze(drop=True), expected)
    within(everything(found), expected.squeeze(drop=True), expected)
    terms = [str(term) for term in found["term"].values]
    assert [term for term in terms if "rest" in term or term.startswith("a")] == rest
    assert found.attrs["given"] == repr(given)
    if repr(given).startswith("Intervention(L1H2.z"):
        assert (found["contribution"].sel(term="L1H2").values == 0).all()


# refusals


@pytest.mark.parametrize(
    ("architecture", "why"),
    [
        ("bert", "norms the stream itself after every sum .*so that its last stream is no sum of what its parts add"),
        ("modernbert", "its unembedding does not take what its last norm gives"),
        ("t5", "its blocks attend to another stream"),
    ],
)
def test_a_model_whose_logits_are_no_sum_is_refused(architecture: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        dla(model(architecture), [[1, 2, 3]], A, B)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "why"),
    [
        (([[1, 2, 3]],), {}, AnswerError, "prompt 0 has no answer; one is attributed: pass answer="),
        (([[1, 2, 3]], [A, B]), {}, AnswerError, "answer holds 2 tokens for 1 prompts"),
        ((Pair([1, 2], [2, 1], (3, 4), 5),), {}, AnswerError, "prompt 0 has 2 tokens to be answer: 3, 4"),
        ((Pairs((Pair([1], [2], 3), Pair([1], [2], 3, 4))),), {}, AnswerError, "some pairs have a wrong answer"),
        (([[1, 2, 3]], A, A), {}, AnswerError, "both right and wrong"),
        (([[1, 2, 3]], 10_000), {}, AnswerError, "10000"),
        (([[1, 2, 3]], A), {"by": "heads"}, UnknownNameError, "did you mean 'head'"),
        (([[1, 2, 3]], A), {"layers": [7]}, HeadOutOfRangeError, "layer 7 does not exist; .* has 3 layers, 0 to 2"),
        (([[1, 2, 3]], A), {"layers": []}, HeadOutOfRangeError, "layers is empty"),
        (([[1, 2, 3]], A), {"position": 5}, PositionError, "position 5 is past the end of example 0"),
        (([[1, 2, 3]], A), {"given": Intervention.of("L1.z")}, InputError, "takes its values from the source prompt"),
        (
            ([[1, 2, 3]], A),
            {"given": Intervention.of("logits", source=Constant(0.0))},
            InputError,
            "no part of what is",
        ),
        (([[1, 2, 3]], A), {"given": Intervention.of("L9.z", source=Activation("base"))}, HeadOutOfRangeError, "layer 9"),
    ],
)
def test_mistakes(arguments: Any, options: dict[str, Any], error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        sweeps.unchecked(dla)(model("llama"), *arguments, **options)


def test_nothing_of_the_model_is_left_changed(seed: int) -> None:
    tested = model("gpt2")
    before = tested.digest
    dla(tested, prompts(seed), A, B, by="source", given=Intervention.of("L1.pattern", source=Constant(0.1)))
    assert tested.digest == before
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in tested.module.modules())


@pytest.fixture(scope="module")
def real(smollm2: Path) -> Model:
    return load(smollm2)


def test_a_real_model(real: Model) -> None:
    """SmolLM2: 1e-5 relative, over heads, units and source tokens; the mover heads are named by patching too."""
    texts = ["The capital of France is", "The Eiffel Tower stands in the middle of the city of"]
    own = torch.stack([unembedded(real, real.tokenizer(text)["input_ids"]) for text in texts])  # type: ignore[misc]
    a, b = (real.tokenizer(word)["input_ids"][0] for word in (" Paris", " Rome"))  # type: ignore[misc]
    for by in BY:
        found = dla(real, texts, " Paris", " Rome", by=by)
        within(everything(found), own[:, a] - own[:, b], own[:, a] - own[:, b])
        assert found["answer"].values.tolist() == [" Paris", " Paris"]
    assert float(found["source_token"].isel(example=0, source_position=3) == " France") == 1
