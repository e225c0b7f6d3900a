"""Token Lens: groups that are a partition sum to attention, everything to the logits, and a head's contribution is its formula.

Expected numbers: formulas on the raw module's weights and activations, taken by torch hooks from one unpadded prompt at a time;
the identities of the method's card in float64 to 1e-10 × (1 + max |reference|), in float32 to 1e-4 × (1 + max |logit|). Gemma-2
is float32 throughout: transformers' eager attention, which its soft cap needs, makes NaN of padded rows in float64. Norms and
eager attention of Llama are float32 in any model, as transformers computes them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch
from torch import Tensor

from interp.doctor import architectures
from interp.errors import (
    AnswerError,
    AnswerWarning,
    HeadOutOfRangeError,
    InputError,
    PositionError,
    UnknownNameError,
    UnknownSiteError,
)
from interp.interventions import attention_knockout
from interp.methods.localise.token_lens import token_lens
from interp.methods.readouts.direct_logit_attribution import dla
from interp.models import Model, load
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import Positions

KINDS = ("gpt2", "llama", "neox", "gemma2")
"""Biases and LayerNorm; grouped queries; parallel blocks; norms behind attention and a soft cap."""
GROUPS = {"subject": "subject", "first and last": [Positions(role="begin"), Positions(role="end")]}
TOKENS = [3, 5, 8]


@cache
def double(kind: str) -> Model:
    return sweeps.model(kind) if kind == "gemma2" else load(sweeps.MAKERS[kind](0).double(), name=kind)


def close(kind: str, norms: bool = False) -> float:
    """Tolerance of what does not, or does, depend on what norms give."""
    return 1e-4 if kind == "gemma2" else 1e-6 if norms and kind == "llama" else 1e-10


def prompts(seed: int) -> list[Prompt]:
    """Of unequal length, so that some are padded; a first, a last and one or two in between have roles."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for n, span in ((7, (2, 4)), (5, (1, 2)), (8, (4, 6))):
        ids = torch.randint(1, tiny.VOCAB, (n,), generator=generator).tolist()
        found.append(Prompt(ids, {"subject": span, "begin": (0, 1), "end": (n - 1, n)}))
    return found


def within(got: Any, expected: Any, atol: float = 1e-10) -> None:
    expected = np.asarray(expected)
    np.testing.assert_allclose(np.asarray(got), expected, rtol=0, atol=atol * (1 + float(np.abs(expected).max())))


@pytest.mark.parametrize("by", ["layer", "head"])
@pytest.mark.parametrize("kind", KINDS)
def test_groups_that_are_a_partition_sum_to_attention_with_its_bias_once(kind: str, by: Any, seed: int) -> None:
    """Card 7, test 1."""
    found = token_lens(double(kind), prompts(seed), GROUPS, TOKENS, by=by)
    heads = ("head",) if by == "head" else ()
    assert found.by_group.dims == ("example", "layer", *heads, "group", "token")
    assert found.group.values.tolist() == ["subject", "first and last", "rest"]
    within(found.by_group.sum([*heads, "group"]) + found.bias, found.logit.sel(site="attn_out"), close(kind))
    assert bool((abs(found.bias) > 1e-3).any()) == (kind in ("gpt2", "neox"))  # Gemma-2's norm behind attention has no bias
    assert float(abs(found.by_group).max()) > 0.1


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_everything_sums_to_the_logits(kind: str, centred: bool, seed: int) -> None:
    """Card 7, test 2: embedding + Σ (attention + MLP) at the frozen norm = the raw module's logits before its soft cap."""
    model, texts = double(kind), prompts(seed)
    found = token_lens(model, texts, GROUPS, TOKENS, centred=centred)
    module: Any = model.module
    seen: list[Tensor] = []
    handle = module.get_output_embeddings().register_forward_hook(lambda m, args, out: seen.append(out))
    with torch.no_grad():
        for prompt in texts:
            module(torch.tensor([prompt.text]), use_cache=False)
    handle.remove()
    logits = torch.stack([one[0, -1] for one in seen])
    expected = (logits - logits.mean(-1, keepdim=True) if centred else logits)[:, TOKENS]
    within(found.embed + found.logit.sum(["layer", "site"]) + found.constant, expected, close(kind, norms=True))
    within(found.final, expected, close(kind, norms=True))


@pytest.mark.parametrize("kind", KINDS)
def test_float32_holds_the_identities_to_1e_4(kind: str, seed: int) -> None:
    found = token_lens(sweeps.model(kind), prompts(seed), GROUPS, TOKENS)
    within(found.by_group.sum("group") + found.bias, found.logit.sel(site="attn_out"), 1e-4)
    within(found.embed + found.logit.sum(["layer", "site"]) + found.constant, found.final, 1e-4)
    assert found.by_group.dtype == np.float32


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_a_group_of_one_token_is_what_attribution_by_source_says(kind: str, seed: int) -> None:
    """Differences of two tokens' logits, by head and by token attended to."""
    model, text = double(kind), prompts(seed)[0]
    n = len(text.text)
    lens = token_lens(model, text, range(n), [3, 5], by="head").isel(example=0)
    assert lens.group.values.tolist() == [*map(str, range(n)), "rest"]
    source = dla(model, text, 3, 5, by="source").by_head.isel(example=0)
    within((lens.by_group.sel(token="3") - lens.by_group.sel(token="5")).isel(group=slice(n)), source, close(kind))
    assert float(abs(lens.by_group.sel(group="rest")).max()) == 0


@torch.no_grad()
def test_a_contribution_by_the_formula(seed: int) -> None:
    """Grouped queries: W_U (γ ⊙ Σ_{t in T} A_t v_t W_O) / rms, v repeated for the heads that share it."""
    text = prompts(seed)[2]
    module: Any = tiny.llama(0)
    layer = module.model.layers[1].self_attn
    seen: dict[str, Tensor] = {}
    handles = [
        layer.v_proj.register_forward_hook(lambda m, args, out: seen.update(v=out[0])),
        module.model.norm.register_forward_pre_hook(lambda m, args: seen.update(x=args[0][0, -1])),
    ]
    module.set_attn_implementation("eager")
    patterns = module(torch.tensor([text.text]), output_attentions=True).attentions[1][0]
    for handle in handles:
        handle.remove()
    v = seen["v"].unflatten(-1, (2, 8)).repeat_interleave(2, 1)
    start, stop = text.roles["subject"]
    z = torch.einsum("ht,thd->hd", patterns[:, -1, start:stop], v[start:stop]).flatten()
    rms = (seen["x"].square().mean() + module.model.norm.variance_epsilon).sqrt()
    expected = module.lm_head.weight[TOKENS] @ (module.model.norm.weight * (layer.o_proj.weight @ z)) / rms
    found = token_lens(sweeps.model("llama"), text, ["subject"], TOKENS)
    within(found.by_group.sel(layer=1, group="subject").isel(example=0), expected, 1e-5)
    within(found.scale, [float(rms)], 1e-5)


def test_a_group_of_nothing_contributes_exactly_nothing(seed: int) -> None:
    """Card 7, test 3, and tokens behind the position, which attention does not see."""
    for kind in KINDS:
        found = token_lens(double(kind), prompts(seed), {"none": (), "later": "end"}, TOKENS, position="begin", by="head")
        assert float(abs(found.by_group.sel(group="none")).max()) == 0
        assert float(abs(found.by_group.sel(group="later")).max()) == 0
        assert float(abs(found.by_group.sel(group="rest")).max()) > 1e-3


def test_a_head_that_suppresses_what_it_attends_to_is_negative_for_exactly_that_token(seed: int) -> None:
    """Card 7, test 5: one head writes −W_U[t] of the tokens t that it attends to, here evenly to all four.

    Embeddings and unembeddings are the same orthonormal rows, queries are 0 and values the identity. The norm before attention
    multiplies every token, of length 1, by √width, so that the logit of an attended token is −√width / (4 σ).
    """
    width, vocab, ids = 32, 24, [3, 7, 11, 2]
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "attention_bias": False}
    raw = sweeps.zoo(
        seed, vocab_size=vocab, hidden_size=width, norm="rmsnorm", norm_eps=0.0, positions="none", **sizes
    ).double()
    rows = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))[0]
    one = torch.eye(width, dtype=torch.float64)
    made = {"embed_tokens": rows[:vocab], "lm_head": rows[:vocab], "v_proj": one, "o_proj": -one, "norm": torch.ones(width)}
    with torch.no_grad():
        for name, weight in raw.named_parameters():
            weight.copy_(next((value for part, value in made.items() if f"{part}.weight" in name), torch.zeros_like(weight)))
    found = token_lens(load(raw), [ids], {"attended": 1, "others": [0, 2]}, list(range(vocab)), by="head")
    lens = found.by_group.isel(example=0, layer=0, head=0)
    attended, others = (lens.sel(group=group).values for group in ("attended", "others"))
    size = width**0.5 / 4 / float(found.scale[0])
    within(attended, [-size if token == 7 else 0.0 for token in range(vocab)])
    within(others, [-size if token in (3, 11) else 0.0 for token in range(vocab)])


def test_tokens_are_answers_words_and_ids(seed: int) -> None:
    """Prompts of unequal number of answers: the second answer of one is none of another."""
    texts = prompts(seed)
    pairs = Pairs(tuple(Pair(text, text, answers, (9,)) for text, answers in zip(texts, ((3, 4), (5,), (6, 7)), strict=True)))
    found = token_lens(double("llama"), pairs, "subject")
    assert found.token.values.tolist() == ["answer 1", "answer 2", "wrong"]
    assert found.token_id.values.tolist() == [[3, 4, 9], [5, -1, 9], [6, 7, 9]]
    missing = found.by_group.isnull().any(["layer", "group"])
    assert missing.values.tolist() == [[False, False, False], [False, True, False], [False, False, False]]
    each = token_lens(double("llama"), texts, "subject", {"own": [3, 5, 6], "one": 9})
    for name, own in (("own", "answer 1"), ("one", "wrong")):
        within(each.by_group.sel(token=name), found.by_group.sel(token=own))
    with pytest.raises(AnswerError, match=r"tokens=None, but these prompts have no answers; give tokens="):
        token_lens(double("llama"), texts, "subject")
    with pytest.raises(AnswerError, match=r"tokens\['own'\] holds 2 tokens for 3 prompts"):
        token_lens(double("llama"), texts, "subject", {"own": [3, 5]})
    with pytest.raises(AnswerError, match="tokens names '3' twice"):
        token_lens(double("llama"), texts, "subject", [3, 3])


def test_words_of_several_tokens_are_read_by_their_first(loaded_smollm2: Model) -> None:
    prompt = Prompt("Three cities in France are Paris,", {"subject": "France"})
    with pytest.warns(AnswerWarning, match=r"tokens: ' Villeurbanne' is 4 tokens, ' V' .* 'ne' .*; the first of them is read"):
        found = token_lens(loaded_smollm2, prompt, tokens=[" Lyon", " Villeurbanne"])
    assert found.token.values.tolist() == [" Lyon", " Villeurbanne"]
    within(found.by_group.sum("group"), found.logit.sel(site="attn_out"), 1e-4)


def test_it_is_of_the_run_with_what_is_given(seed: int) -> None:
    """A knockout of the subject leaves its group nothing, in its layer alone."""
    model, texts = sweeps.model("llama"), prompts(seed)
    given = attention_knockout("end", "subject", layers=1)
    found = token_lens(model, texts, ["subject"], TOKENS, given=given)
    subject = abs(found.by_group.sel(group="subject")).max(["example", "token"]).values
    assert subject[1] == 0
    assert min(subject[0], subject[2]) > 1e-4
    within(found.by_group.sum("group") + found.bias, found.logit.sel(site="attn_out"), 1e-4)
    assert found.attrs["given"] == repr(given)


def test_some_layers_alone_are_divided(seed: int) -> None:
    found = token_lens(double("llama"), prompts(seed), ["subject"], TOKENS, layers=[2, 0])
    assert found.by_group.isnull().all(["example", "group", "token"]).values.tolist() == [False, True, False]
    assert not bool(found.logit.isnull().any())
    with pytest.raises(HeadOutOfRangeError, match="layer 3 does not exist"):
        token_lens(double("llama"), prompts(seed), ["subject"], TOKENS, layers=3)


def test_without_the_rest_there_are_the_groups_alone(seed: int) -> None:
    some = token_lens(double("llama"), prompts(seed), None, TOKENS, rest=False)
    assert some.group.values.tolist() == ["subject", "begin", "end"]
    every = token_lens(double("llama"), prompts(seed), None, TOKENS)
    within(some.by_group, every.by_group.isel(group=slice(3)))


def test_what_is_refused(seed: int) -> None:
    model, texts = double("llama"), prompts(seed)
    with pytest.raises(PositionError, match=r"groups 'subject' and '2' share token 2 of example 0, whose contribution would"):
        token_lens(model, texts, ["subject", 2], TOKENS)
    with pytest.raises(PositionError, match="groups=None, but these prompts name no roles; give groups="):
        token_lens(model, [[1, 2, 3]], None, TOKENS)
    with pytest.raises(UnknownNameError, match="unknown role 'subjet'; did you mean 'subject'"):
        token_lens(model, texts, "subjet", TOKENS)
    with pytest.raises(PositionError, match="groups names 'rest', which are the tokens of no group"):
        token_lens(model, texts, {"rest": 0}, TOKENS)
    with pytest.raises(UnknownNameError, match="unknown by 'source'"):
        sweeps.unchecked(token_lens)(model, texts, "subject", TOKENS, by="source")
    with pytest.raises(UnknownSiteError, match="attention of mamba cannot be divided by what it attends to: "):
        token_lens(architectures.loaded("mamba"), [[1, 2, 3, 4]], {"first": 0}, TOKENS)


def test_layers_without_attention_have_no_groups(seed: int) -> None:
    """Jamba: attention in some layers, a state-space mixer in the others; everything still sums to the logits."""
    found = token_lens(architectures.loaded("jamba"), [[1, 2, 3, 4, 5]], {"first": 0}, TOKENS)
    known = found.by_group.notnull().all(["example", "group", "token"])
    there = found.logit.sel(site="attn_out").notnull().all(["example", "token"])
    np.testing.assert_array_equal(known, there)
    assert 0 < int(known.sum()) < known.size
    assert "mixer_out" in found.site.values
    within(found.embed + found.logit.sum(["layer", "site"]) + found.constant, found.final, 1e-4)


@pytest.mark.parametrize("layers", [..., 1.5, "all"])
def test_layers_that_are_none(layers: Any) -> None:
    with pytest.raises(HeadOutOfRangeError, match="expected None for all layers, a number, or several"):
        sweeps.unchecked(token_lens)(sweeps.model("gpt2"), [[3, 4, 5]], [0], [7], layers=layers)


def test_an_encoder_decoder_is_told_what_to_do_instead() -> None:
    model, prompts = architectures.loaded("t5"), [Prompt([5, 6, 7], target=[0])]
    with pytest.raises(
        InputError, match=r"its blocks attend to another stream\. Its logits cannot .* interp\.patch and interp\.knockout"
    ):
        token_lens(model, prompts, [0], [7])
