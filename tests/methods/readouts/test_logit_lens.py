"""The logit lens against transformers' own hidden states, its last norm and its head, by the formulas of the card.

Tolerance: 1e-5 × (1 + largest number), one prompt at a time and unpadded.
"""

from __future__ import annotations

from typing import Any

import memory
import numpy as np
import pytest
import sweeps
import tiny
import torch
from torch import Tensor, nn

from interp.engine.single.cache import cache
from interp.errors import AnswerError, HeadOutOfRangeError, InputError, PositionError, ShapeMismatchError, UnknownSiteError
from interp.interventions import Change, Constant, Intervention, Scale
from interp.methods.readouts import logit_lens
from interp.methods.readouts.logit_lens import lens
from interp.models import load
from interp.prompts import Pair, Pairs, Prompt

IDS = [(5, 9, 31, 7, 9, 2), (11, 3, 8), (60, 44, 44, 1, 90)]
HEADS = {
    "gpt2": lambda m, h: m.lm_head(m.transformer.ln_f(h)),
    "llama": lambda m, h: m.lm_head(m.model.norm(h)),
    "gemma2": lambda m, h: 16.0 * torch.tanh(m.lm_head(m.model.norm(h)) / 16.0),  # soft-capped
    "neox": lambda m, h: m.get_output_embeddings()(m.gpt_neox.final_layer_norm(h)),
}


def streams(module: Any, ids: tuple[int, ...]) -> tuple[list[Tensor], Tensor]:
    """What enters every block, what leaves the last one, and the logits."""
    seen: list[Tensor] = []
    norm = next(m for name, m in module.named_modules() if name.endswith(("ln_f", "model.norm", "final_layer_norm")))
    handle = norm.register_forward_pre_hook(lambda m, args: seen.append(args[0][0]))
    with torch.no_grad():
        out = module(torch.tensor([ids]), output_hidden_states=True)
    handle.remove()
    return [*(h[0] for h in out.hidden_states[:-1]), seen[0]], out.logits[0]


def expected(logits: Tensor, final: Tensor, answer: int) -> dict[str, Tensor]:
    """In float64, by the definitions."""
    logp, of_final = logits.double().log_softmax(-1), final.double().log_softmax(-1)
    best = of_final.argmax(-1, keepdim=True)
    return {
        "logit": logits.sort(-1, descending=True).values,
        "prob": logp.sort(-1, descending=True).values.exp(),
        "entropy": -(logp.exp() * logp).sum(-1),
        "kl": (of_final.exp() * (of_final - logp)).sum(-1),
        "final_rank": (logits > logits.gather(-1, best)).sum(-1) + 1,
        "answer_logit": logits[:, answer],
        "answer_prob": logp[:, answer].exp(),
        "answer_rank": (logits > logits[:, [answer]]).sum(-1) + 1,
    }


@pytest.mark.parametrize("kind", sorted(HEADS))
@pytest.mark.parametrize("small", [False, True])
def test_every_layer_by_the_models_own_norm_and_head(kind: str, small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = sweeps.model(kind)
    if small:
        monkeypatch.setattr(logit_lens, "_LOGITS", 3 * tiny.VOCAB)  # three positions at once, a layer each
    ds = lens(model, IDS, top=4, answer=[17, 3, 60])
    assert ds.logit.shape == (3, tiny.LAYERS + 1, 6, 4)
    assert ds.layer.values.tolist() == [-1, 0, 1, 2]
    assert ds.depth.values.tolist() == ["embed", "L0", "L1", "L2"]
    assert ds["rank"].values.tolist() == [1, 2, 3, 4]
    for e, (ids, answer) in enumerate(zip(IDS, (17, 3, 60), strict=True)):
        hidden, final = streams(model.module, ids)
        for layer, h in enumerate(hidden):
            with torch.no_grad():
                logits = HEADS[kind](model.module, h)
            one = ds.isel(example=e, layer=layer)
            for name, want in expected(logits, final, answer).items():
                found = one[name].values[: len(ids)]
                want = want[:, :4] if want.ndim == 2 else want
                np.testing.assert_allclose(found, want, rtol=0, atol=1e-5 * (1 + float(want.abs().max())), err_msg=name)
                assert np.isnan(one[name].values[len(ids) :]).all()
            assert one.token_id.values[: len(ids)].tolist() == logits.topk(4).indices.tolist()
            assert (one.token_id.values[len(ids) :] == -1).all()
            assert (one.token.values[len(ids) :] == "").all()
        last = ds.isel(example=e, layer=-1)
        np.testing.assert_allclose(
            last.logit[: len(ids)], final.topk(4).values, rtol=0, atol=1e-5 * (1 + float(final.abs().max()))
        )
        assert (last.kl[: len(ids)] < 1e-6).all()
        assert (last.final_rank[: len(ids)] == 1).all()


def test_the_last_layer_is_the_logits_to_the_bit() -> None:
    model = sweeps.model("llama")
    with torch.no_grad():
        logits = model.module(torch.tensor([IDS[0]])).logits[0]
    ds = lens(model, [IDS[0]], top=tiny.VOCAB)
    back = np.zeros((len(IDS[0]), tiny.VOCAB), np.float32)
    np.put_along_axis(back, ds.token_id.values[0, -1], ds.logit.values[0, -1], -1)
    np.testing.assert_allclose(back, logits, rtol=0, atol=4e-6)  # a product of another shape sums in another order
    assert np.abs(back - logits.numpy()).max() < 1e-6 * float(logits.abs().max()) * 4


def test_translators_come_before_the_norm(seed: int) -> None:
    model, ids = sweeps.model("gpt2"), IDS[0]
    identity = {layer: (torch.eye(tiny.WIDTH), torch.zeros(tiny.WIDTH)) for layer in (-1, 0, 1, 2)}
    plain = lens(model, [ids])
    same = lens(model, [ids], translators=identity)
    for name in ("logit", "prob", "kl", "entropy"):
        np.testing.assert_allclose(same[name], plain[name], rtol=0, atol=1e-5 * (1 + float(abs(plain[name]).max())))
    draw = torch.Generator().manual_seed(seed)
    a, b = torch.randn(tiny.WIDTH, tiny.WIDTH, generator=draw), torch.randn(tiny.WIDTH, generator=draw)
    tuned = lens(model, [ids], translators={0: (a.numpy(), b.numpy())})
    hidden, final = streams(model.module, ids)
    with torch.no_grad():
        logits = HEADS["gpt2"](model.module, hidden[1] @ a.T + b)
    want = expected(logits, final, 0)
    for name in ("entropy", "kl", "final_rank"):
        np.testing.assert_allclose(tuned[name].sel(layer=0)[0], want[name], rtol=0, atol=1e-4 * (1 + float(want[name].max())))
    np.testing.assert_array_equal(tuned.logit.sel(layer=1), plain.logit.sel(layer=1))
    assert tuned.attrs["translators"] == [0]
    with pytest.raises(ShapeMismatchError, match=r"layer 1 has shapes \(2, 2\) and \(2,\); the stream of .* needs \(32, 32\)"):
        lens(model, [ids], translators={1: (torch.eye(2), torch.zeros(2))})
    with pytest.raises(InputError, match="name layer 9; the layers that are decoded are -1, 0, 1, 2"):
        lens(model, [ids], translators={9: identity[0]})


def test_other_parts_of_the_stream() -> None:
    model = sweeps.model("gpt2")
    ds = lens(model, IDS, sites="attn_out", top=2)
    assert ds.layer.values.tolist() == [0, 1, 2]
    parts = cache(model, IDS, "attn_out").attn_out.values
    with torch.no_grad():
        logits = HEADS["gpt2"](model.module, torch.from_numpy(parts[0]))
    np.testing.assert_allclose(ds.logit[0], logits.topk(2).values, rtol=0, atol=1e-4)
    whole = lens(model, IDS, sites="resid_mid")
    assert whole.attrs["site"] == "resid_mid"
    assert {key: whole["kl"].attrs[key] for key in ("model", "site")} == {"model": whole.attrs["model"], "site": "resid_mid"}


def test_some_positions_alone() -> None:
    model = sweeps.model("gpt2")
    every, last, two = lens(model, IDS), lens(model, IDS, position=-1), lens(model, IDS, position=[0, -2])
    assert last.position.values.tolist() == [-1]
    assert last.input_token.values.flatten().tolist() == ["2", "8", "90"]
    assert two.input_token.values.tolist() == [["5", "9"], ["11", "3"], ["60", "1"]]
    for e, ids in enumerate(IDS):
        np.testing.assert_allclose(last.prob[e, :, 0], every.prob[e, :, len(ids) - 1], atol=1e-6)
        np.testing.assert_allclose(two.kl[e, :, 1], every.kl[e, :, len(ids) - 2], atol=1e-5)
    role = lens(model, [Prompt(IDS[0], {"S": (1, 3)})], position="S")
    assert role.position.values.tolist() == ["S[0]", "S[1]"]
    np.testing.assert_allclose(role.prob[0], every.prob[0, :, 1:3], atol=1e-6)
    with pytest.raises(PositionError, match="past the end of example 1"):
        lens(model, IDS, position=4)
    several = lens(model, [Prompt(IDS[0], {"S": (1, 3)})], position=["S[1]", "last"])
    assert several.position.values.tolist() == ["S[1]", "-1"]
    np.testing.assert_allclose(several.prob[0], every.prob[0, :, [2, len(IDS[0]) - 1]], atol=1e-6)
    with pytest.raises(PositionError, match=r"position=2\.5: give an index, a role such as 'subject', a list"):
        lens(model, IDS, position=2.5)


@pytest.mark.parametrize(("layers", "kept"), [(1, [1]), ([2, -1], [-1, 2]), (range(2), [0, 1])])
def test_some_layers_alone(layers: Any, kept: list[int]) -> None:
    model = sweeps.model("gpt2")
    every, some = lens(model, IDS), lens(model, IDS, layers=layers)
    assert some.layer.values.tolist() == kept
    for name in ("prob", "kl", "entropy"):
        np.testing.assert_allclose(some[name], every[name].sel(layer=kept), atol=1e-5)
    parts = lens(model, IDS, sites="attn_out", layers=1)
    np.testing.assert_allclose(parts.prob, lens(model, IDS, sites="attn_out").prob.sel(layer=[1]), atol=1e-6)
    with pytest.raises(HeadOutOfRangeError, match=r"layer 3 of 'resid_post' is not decoded: gpt2-0 has -1 to 2, −1 being what"):
        lens(model, IDS, layers=[0, 3])
    with pytest.raises(HeadOutOfRangeError, match=r"layer -1 of 'attn_out' is not decoded: gpt2-0 has 0 to 2$"):
        lens(model, IDS, sites="attn_out", layers=-1)


def test_on_a_changed_model() -> None:
    model = sweeps.model("gpt2")
    plain = lens(model, IDS)
    ds = lens(model, IDS, given=Change("L1.resid_post", -1, edit=Scale(0.0)))
    np.testing.assert_array_equal(ds.kl[:, 0, 0] >= 0, True)
    np.testing.assert_allclose(ds.prob.sel(layer=0), plain.prob.sel(layer=0), atol=1e-6)
    with torch.no_grad():
        nothing = HEADS["gpt2"](model.module, torch.zeros(1, tiny.WIDTH))[0]
    np.testing.assert_allclose(ds.logit.sel(layer=1)[1, 2], nothing.topk(5).values, atol=1e-5)
    assert abs(ds.logit.sel(layer=2)[1, 2] - plain.logit.sel(layer=2)[1, 2]).max() > 1e-2
    with pytest.raises(InputError, match="acts behind the last block"):
        lens(model, IDS, given=Intervention.of("logits@-1", source=Constant(0.0)))


def test_pairs_bring_their_answers() -> None:
    model = sweeps.model("gpt2")
    pairs = Pairs((Pair(IDS[0], IDS[0][::-1], (17, 20), 4), Pair(IDS[1], IDS[1][::-1], 3, 4)))
    ds = lens(model, pairs, side="corrupted")
    assert ds.answer.values.tolist() == ["17", "3"]
    one = lens(model, [IDS[0][::-1]], answer=17)
    np.testing.assert_allclose(ds.answer_logit[0], one.answer_logit[0], atol=1e-5)
    np.testing.assert_allclose(ds.answer_prob[0], one.answer_prob[0], atol=1e-6)
    assert lens(model, pairs, answer=[5, 6]).answer.values.tolist() == ["5", "6"]
    assert "answer_rank" not in lens(model, IDS)


def test_logits_of_all_layers_are_never_kept() -> None:
    config = type(tiny.llama(0).config)(**tiny._rotary("LlamaForCausalLM", {"num_hidden_layers": 8, "vocab_size": 20_000}))
    model = load(tiny.random_model(config, 0), name="wide")
    ids = torch.randint(1, 90, (1, 200))
    before = logit_lens._LOGITS
    try:
        logit_lens._LOGITS = 50 * 20_000  # fifty positions of one layer: 4 MB
        lens(model, ids)
        assert memory.taken(lambda: lens(model, ids)) < 6 * 50 * 20_000 * 4  # of all layers and positions: 36 times it
    finally:
        logit_lens._LOGITS = before


def test_mistakes_are_told() -> None:
    model = sweeps.model("gpt2")
    with pytest.raises(UnknownSiteError, match="its axes are example, position, head, d_head"):
        lens(model, IDS, sites="z")
    for sites in ("L1.resid_post", "embed", "transformer.h.0:output"):
        with pytest.raises(UnknownSiteError, match="unknown component to decode"):
            lens(model, IDS, sites=sites)
    with pytest.raises(ValueError, match="top=0; expected how many tokens"):
        lens(model, IDS, top=0)
    with pytest.raises(AnswerError, match="answer holds 2 tokens for 3 prompts"):
        lens(model, IDS, answer=[1, 2])
    with pytest.raises(AnswerError, match="token id 5000"):
        lens(model, IDS, answer=5000)
    assert lens(model, IDS, top=10_000).sizes["rank"] == tiny.VOCAB
    net = load(nn.Sequential(nn.Linear(4, 3)), example={"input": torch.randn(3, 4)}, name="net")
    with pytest.raises(InputError, match="lens decodes by what net does after its last block, which is unknown: "):
        lens(net, [Prompt(inputs={"input": torch.randn(4)})])


@pytest.mark.real
def test_words_of_a_real_model(smollm2: Any) -> None:
    model = load(smollm2)
    ds = lens(model, ["The capital of France is the city of", "One, two, three,"], answer=[" Paris", " four"])
    last = ds.isel(layer=-1)
    assert last.token[0, 7, 0].item() == " Paris"
    assert last.answer_rank[0, 7].item() == 1
    assert ds.answer_rank.isel(layer=0)[0, 7].item() > 100
    assert ds.input_token.values[0, :3].tolist() == ["The", " capital", " of"]


def test_an_answer_may_be_a_number_of_numpy_or_a_tensor() -> None:
    model = sweeps.model("gpt2")
    plain = lens(model, IDS, top=2, answer=[17, 3, 60])
    for given in (torch.tensor([17, 3, 60]), np.array([17, 3, 60]), [np.int64(17), torch.tensor(3), 60]):
        assert lens(model, IDS, top=2, answer=given).equals(plain)
    assert lens(model, IDS, top=2, answer=torch.tensor(17)).equals(lens(model, IDS, top=2, answer=17))
