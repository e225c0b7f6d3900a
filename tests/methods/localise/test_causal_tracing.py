"""Causal tracing: the ground truths of card 2, and the same numbers as written out by hand.

Random models give an answer little probability; logit_diff is traced where an identity holds for any metric.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sweeps
import torch

from interp import effects
from interp.doctor import architectures
from interp.engine import patch, run
from interp.engine.embeddings import embedding_std
from interp.errors import InputError, PositionError, UnknownNameError, UnknownSiteError
from interp.interventions import Activation, Add, Change, Intervention, Noise
from interp.methods.localise.causal_tracing import ROLES, trace
from interp.models import Model, load
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import grid
from interp.store import Store

KINDS = ["gpt2", "llama", "neox", "gemma2"]


def prompts(seed: int, spans: list[tuple[int, int, int]]) -> Pairs:
    """Random prompts; of each its length, the first token of its subject, and the one behind."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for length, first, behind in spans:
        ids = tuple(torch.randint(4, 90, (length,), generator=generator).tolist())
        prompt = Prompt(ids, {"subject": (first, behind)})
        found.append(Pair(prompt, prompt, 5, 6))
    return Pairs(tuple(found), "facts")


def traced(model: Model, pairs: Pairs, **options: Any) -> dict[str, Any]:
    options = {"draws": 3, "window": 2, "metric": ["logit_diff", "prob"], "tokens": "each"} | options
    return effects.families(trace(model, pairs, **options))


@pytest.mark.parametrize("kind", KINDS)
def test_restoring_everything_that_matters_is_clean(kind: str) -> None:
    """Card 2.1: the last token behind the last block. Card 2.3: before the subject nothing is restored, exactly."""
    model, pairs = sweeps.model(kind), prompts(91, [(7, 2, 4), (7, 3, 6)])
    found = traced(model, pairs)["resid_post"]
    last = found.isel(layer=-1, position=-1)
    np.testing.assert_allclose(last["value"], found["clean"], rtol=0, atol=1e-5 * 20)
    before = found["value"].isel(position=[0, 1])
    np.testing.assert_array_equal(before, effects.base(found).broadcast_like(before).transpose(*before.dims))
    assert float(abs(found["clean"] - found["corrupt"]).sel(metric="logit_diff").min()) > 1e-4


def test_the_embedding_of_the_subject_carries_all_of_it() -> None:
    """Card 2.2: restored at the embedding the answer is clean; restored behind the first block it is not, for later tokens have
    read the noise there already."""
    model, pairs = sweeps.model("gpt2", torch.float64), prompts(92, [(7, 2, 5)])
    std = 3 * embedding_std(model, pairs)
    options: Any = {"corruption": Change("embed", "subject", Noise(std), Add())}
    at_embedding = patch(model, pairs, Change("embed", "subject"), **options)
    np.testing.assert_allclose(effects.recovery(at_embedding), 1.0, rtol=0, atol=1e-9)
    behind = patch(model, pairs, Change("L0.resid_post", "subject"), **options)
    assert float(abs(effects.recovery(behind) - 1).max()) > 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_cells_are_as_by_hand(kind: str) -> None:
    """Expected: every draw of every prompt run by itself, values captured from the clean prompt (card 2.6)."""
    model, pairs = sweeps.model(kind), prompts(93, [(6, 1, 3)])
    found = traced(model, pairs, draws=2, severed=("mlp_out", "attn_out"))
    std, layers = 3 * embedding_std(model, pairs), model.sizes["layer"]
    clean = {name: run(model, pairs, capture=name, patching="noising") for name in ("resid_post", "mlp_out")}
    own = Activation("base")

    def by_hand(intervention: Intervention) -> float:
        # the second draw is that of the second of two equal prompts
        two = Pairs((pairs[0], pairs[0]), "facts")
        noise = Change("embed", "subject", Noise(std), Add())
        result = patch(model, two, intervention, given=noise, patching="noising", strategy="serial")
        return float(result["value"].mean())

    def states(name: str, at: int, numbers: range) -> tuple[Change, ...]:
        return tuple(Change(f"L{n}.{name}", at, clean[name][f"L{n}.{name}"][0, at]) for n in numbers)

    for layer, position in ((0, 2), (1, 5), (layers - 1, 1)):
        cell = {"metric": "logit_diff", "layer": layer, "position": position}
        one = Intervention(states("resid_post", position, range(layer, layer + 1)))
        assert found["resid_post"]["value"].sel(cell).item() == pytest.approx(by_hand(one), abs=2e-4)
        window = Intervention(states("mlp_out", position, range(max(0, layer - 1), min(layers, layer + 1))))
        assert found["mlp_out"]["value"].sel(cell).item() == pytest.approx(by_hand(window), abs=2e-4)
        for part in ("mlp_out", "attn_out"):
            pins = tuple(Change(f"L{n}.{part}", position, own) for n in range(layer + 1, layers))
            severed = by_hand(Intervention((*one.changes, *pins)))
            assert found[f"resid_post, {part} severed"]["value"].sel(cell).item() == pytest.approx(severed, abs=2e-4)


def test_severed_at_the_end_is_not_severed() -> None:
    """Card 2.4: behind the last block there is nothing to sever."""
    model, pairs = sweeps.model("llama"), prompts(94, [(6, 1, 3)])
    found = traced(model, pairs, severed=("mlp_out", "attn_out"))
    plain = found["resid_post"]["value"].isel(layer=-1)
    for part in ("mlp_out", "attn_out"):
        np.testing.assert_allclose(found[f"resid_post, {part} severed"]["value"].isel(layer=-1), plain, rtol=0, atol=1e-5)


def test_without_noise_everything_is_clean() -> None:
    """Card 2.6: k = 0."""
    model, pairs = sweeps.model("gpt2"), prompts(95, [(6, 1, 3)])
    for found in traced(model, pairs, noise=0.0).values():
        clean = found["clean"].broadcast_like(found["value"]).transpose(*found["value"].dims)
        np.testing.assert_allclose(found["value"], clean, rtol=0, atol=1e-4)


def test_attention_and_mlps_of_the_last_token_are_all_of_its_stream() -> None:
    """Card 2.7: all of them restored at a last token outside of the subject give the clean answer; inside, noise stays."""
    model = sweeps.model("gpt2", torch.float64)
    parts = [f"L{n}.{part}@-1" for n in range(model.sizes["layer"]) for part in ("attn_out", "mlp_out")]
    for span, whole in (((1, 3), True), ((4, 6), False)):
        pairs = prompts(96, [(6, *span)])
        noise = Change("embed", "subject", Noise(3 * embedding_std(model, pairs)), Add())
        found = patch(model, pairs, Intervention.of(*parts), corruption=noise)
        assert bool(abs(effects.recovery(found) - 1).max() < 1e-9) is whole


def test_where_the_subject_is_read_by_one_mlp() -> None:
    """Card 2.5: MLP 1 at the subject's last token is all that reads it, and a head of layer 2 takes its output to the end.

    A net by hand: severing MLPs behind (t, 0) leaves nothing, severing attention of that token leaves all; behind (t, 1) the
    block's output holds the MLP already.
    """
    from nets_tracing import one_reader

    model, pairs = one_reader()
    found = effects.families(
        trace(model, pairs, "subject", "logit_diff", noise=0.3, draws=2, severed=("mlp_out", "attn_out"), tokens="each")
    )
    subject = 1

    def share(family: str, layer: int) -> float:
        return effects.recovery(found[family]).sel(layer=layer, position=subject).item()

    assert share("resid_post", 0) == pytest.approx(1.0, abs=1e-7)
    assert share("resid_post, mlp_out severed", 0) == pytest.approx(0.0, abs=1e-7)
    assert share("resid_post, attn_out severed", 0) == pytest.approx(1.0, abs=1e-7)
    assert share("resid_post, mlp_out severed", 1) == pytest.approx(1.0, abs=1e-7)


def test_tokens_by_role() -> None:
    """Prompts of different length: expected are the same prompts one by one, their tokens put together by hand."""
    model = sweeps.model("llama")
    spans = [(8, 1, 4), (9, 2, 6), (8, 0, 4)]
    pairs = prompts(97, spans)
    found = traced(model, pairs, tokens="roles", draws=2, noise=2.0)["mlp_out"]
    assert found["position"].values.tolist() == list(ROLES)
    assert found.attrs["left_out"] == 0
    assert found.attrs["noise"]["sigmas"] == 2.0
    for number, (length, first, behind) in enumerate(spans):
        tokens = {
            "subject first": [first],
            "subject middle": list(range(first + 1, behind - 1)),
            "subject last": [behind - 1],
            "after": [behind],
            "further": list(range(behind + 1, length - 1)),
            "last": [length - 1],
        }
        place = [n for n, one in enumerate(spans) if one[0] == length].index(number)
        same = [pairs[n] for n, one in enumerate(spans) if one[0] == length for _ in range(2)]
        noise = Change("embed", "subject", Noise(2 * embedding_std(model, pairs)), Add())
        alone = patch(model, Pairs(tuple(same), "facts"), grid("mlp_out", position=..., window=2), "prob", corruption=noise)
        values = alone["value"].values[0, :, :, 2 * place : 2 * place + 2].mean(-1)
        for role, at in tokens.items():
            expected = values[:, at].mean(1)
            np.testing.assert_allclose(
                found["value"].sel(metric="prob", position=role).isel(example=number), expected, rtol=0, atol=1e-6
            )


def test_roles_that_not_every_prompt_has() -> None:
    model, pairs = sweeps.model("gpt2"), prompts(98, [(6, 1, 2), (7, 1, 4), (5, 1, 4)])
    found = traced(model, pairs, tokens="roles")["resid_post"]
    assert found["position"].values.tolist() == ["subject first", "subject last", "after", "last"]
    chosen = traced(model, pairs, tokens="roles", roles=["subject middle", "further"])["resid_post"]
    assert chosen["position"].values.tolist() == ["subject middle", "further"]
    assert chosen.sizes["example"] == 1
    assert chosen.attrs["left_out"] == 2


def test_answers_of_several_tokens_are_no_tokens_of_the_prompt() -> None:
    """Expected: prompts of one length with answers of one and of two tokens have the same cells; the first token says alike."""
    model, pairs = sweeps.model("llama"), prompts(89, [(6, 1, 3), (6, 1, 3), (7, 2, 4)])
    longer = Pairs(
        tuple(Pair(p.clean, p.clean, answers=[(5, 7)] if n == 0 else 5, wrong=6) for n, p in enumerate(pairs)), "facts"
    )
    short, long = (traced(model, some, tokens="roles", metric="rank")["mlp_out"] for some in (pairs, longer))
    np.testing.assert_array_equal(short["value"], long["value"])


def test_sweeps_are_kept(tmp_path: object) -> None:
    model, pairs, store = sweeps.model("gpt2"), prompts(99, [(6, 1, 3), (7, 2, 4)]), Store(str(tmp_path))
    first = traced(model, pairs, tokens="roles", store=store, name="facts")
    again = traced(model, pairs, tokens="roles", store=store, name="facts")
    assert sorted(store.runs()["name"]) == ["facts, 6 tokens", "facts, 7 tokens"]
    np.testing.assert_array_equal(first["mlp_out"]["value"], again["mlp_out"]["value"])


def test_words_that_are_none() -> None:
    model, pairs = sweeps.model("gpt2"), prompts(90, [(6, 1, 3), (7, 2, 4)])
    with pytest.raises(PositionError, match=r"tokens='each' needs prompts of one length, got \[6, 7\] tokens; tokens='roles'"):
        trace(model, pairs, tokens="each")
    with pytest.raises(PositionError, match=r"roles=\('further',\): no prompt has a token of each"):
        trace(model, prompts(90, [(6, 1, 6)]), roles=["further"])
    for words in ({"tokens": "all"}, {"roles": ["subject"]}, {"severed": ("mlp",)}):
        with pytest.raises(UnknownNameError):
            sweeps.unchecked(trace)(model, pairs, **words)
    with pytest.raises(ValueError, match="draws=0; expected how often noise is drawn, a whole number from 1 on"):
        trace(model, pairs, draws=0)
    with pytest.raises(ValueError, match=r"draws=1\.5; expected how often"):
        sweeps.unchecked(trace)(model, pairs, draws=1.5)
    with pytest.raises(UnknownNameError, match=r"unknown role 'IO' \(known: subject; subject= says which tokens are noised"):
        trace(model, pairs, "IO")
    with pytest.raises(UnknownSiteError, match=r"unknown site 'mixer_out': .* has none that could be severed"):
        trace(model, pairs, severed="mixer_out")
    with pytest.raises(InputError, match=r"kinds and severed are empty; name what is restored"):
        trace(model, pairs, kinds=())


def test_one_word_is_as_a_list_of_it() -> None:
    model, pairs = sweeps.model("gpt2"), prompts(91, [(6, 1, 3)])
    options: dict[str, Any] = {"draws": 1, "tokens": "roles"}
    one = traced(model, pairs, kinds="resid_post", severed="mlp_out", roles="subject last", **options)
    many = traced(model, pairs, kinds=("resid_post",), severed=("mlp_out",), roles=("subject last",), **options)
    assert list(one) == list(many) == ["resid_post", "resid_post, mlp_out severed"]
    for family in many:
        np.testing.assert_array_equal(one[family]["value"], many[family]["value"])
        assert one[family]["position"].values.tolist() == ["subject last"]


def test_mixers_are_severed() -> None:
    """Expected: patching by hand, with the mixers behind the state left as they are on the noised prompt."""
    model, drawn = load(architectures.build("mamba"), name="mamba"), prompts(92, [(6, 1, 3)])
    found = traced(model, drawn, draws=1, kinds=("mixer_out",), severed="mixer_out", metric="logit_diff", window=1)
    noise = Change("embed", "subject", Noise(3 * embedding_std(model, drawn), 0), Add())
    state, behind = Change("L0.resid_post", 2), [Change(f"L{layer}.mixer_out", 2, Activation("base")) for layer in (1, 2)]
    alone = patch(model, drawn, [Intervention((state,)), Intervention((state, *behind))], "logit_diff", corruption=noise)
    plain, expected = alone["value"].values.ravel()
    got = found["resid_post, mixer_out severed"]["value"].sel(layer=0, position=2).item()
    assert got == pytest.approx(expected, abs=1e-4)
    assert abs(expected - plain) > 1e-3


@pytest.mark.parametrize("severed", [(), ("mlp_out",)])
def test_the_subject_of_an_encoder_is_noised_and_restored_there(severed: Any) -> None:
    """Expected: patching of the encoder's states under the same noise; behind the last block nothing is severed."""
    model = load(architectures.build("t5"), name="t5")
    drawn = prompts(97, [(6, 1, 3), (6, 2, 4)])
    pairs = Pairs(
        tuple(Pair(replace(one.clean, target=(0, 7, 9)), replace(one.clean, target=(0, 7, 9)), 5, 6) for one in drawn)
    )
    found = traced(model, pairs, draws=1, stream="encoder", kinds=("resid_post",), severed=severed, metric="logit_diff")
    noise = Noise(3 * embedding_std(model, pairs, stream="encoder"), 0)
    options: Any = {"corruption": Change("encoder:embed", "subject", noise, Add())}
    expected = patch(model, pairs, grid("encoder:resid_post", layer=..., position=...), **options)
    np.testing.assert_allclose(found["resid_post"]["value"], expected["value"], rtol=0, atol=1e-4)
    assert float(abs(found["resid_post"]["clean"] - found["resid_post"]["corrupt"]).min()) > 1e-3
    if severed:
        last = found["resid_post, mlp_out severed"].isel(layer=-1)
        np.testing.assert_allclose(last["value"], expected["value"].isel(layer=-1), rtol=0, atol=1e-4)
    by_role = traced(model, pairs, draws=1, stream="encoder", kinds=("resid_post",), metric="logit_diff", tokens="roles")
    first = expected["value"].values[..., [1, 2], [0, 1]]
    got = by_role["resid_post"]["value"].sel(position="subject first")
    np.testing.assert_allclose(got, first, rtol=0, atol=1e-4)
