"""Causal head gating: the card's ground truths, on nets made by hand and on random models of every architecture."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import anything
import nets_gates
import nets_gating
import numpy as np
import pytest
import sweeps
import tiny
import torch
import xarray as xr

import interp
from interp.effects.gating import FACILITATING, INCONSISTENT, INTERFERING, IRRELEVANT, ROLES, taxonomy
from interp.engine.heads import Heads, Held, annealed, drawn, logits_of, pulled, seeds_of
from interp.errors import AnswerError, InputError, ShapeMismatchError, UnknownNameError, UnknownSiteError
from interp.interventions import Constant
from interp.methods.circuits.head_gating.targets import targets
from interp.models import Model, load
from interp.models.zoo import BACKUP, PRIMARY, backup_construction, backup_prompts
from interp.models.zoo import INTERFERING as AGAINST
from interp.prompts import Pair, Pairs, Prompt
from interp.training import fit

KINDS = ("gpt2", "llama", "neox", "gemma2", "mistral", "qwen3", "bloom")
SHORT: dict[str, Any] = {"seeds": 2, "updates": 3, "batch": 3, "progress": False}
OPEN, SHUT = 1 / (1 + np.exp(-4.0)), 1 / (1 + np.exp(4.0))
"""0.982 and 0.018: where λ lets go of a gate, at logits of ±4."""


def double(kind: str) -> Model:
    return sweeps.model(kind, torch.float32 if kind in ("gemma2", "bloom") else torch.float64)


def logprobs(model: Model, pairs: Pairs, interventions: Any) -> np.ndarray[Any, Any]:
    found = interp.patch(model, pairs, interventions, "logprob", patching="noising", progress=False)
    return found["value"].values[0]


# ------------------------------------------------------------------------------------------------- 1: open and shut gates


@pytest.mark.parametrize("kind", KINDS)
def test_card_8_1_all_gates_open_is_the_model_and_all_shut_leaves_the_biases_alone(kind: str, seed: int) -> None:
    """With z = 0 attention says W_O 0 + b_O, and a norm behind it what it makes of that; to the bit."""
    model, pairs = double(kind), sweeps.random_pairs(seed, [6, 4, 7])
    heads, prompts = Heads.of(model), [pair.clean for pair in pairs]
    held = Held(heads)
    plain = interp.run(model, prompts, logits="all").logits
    opened = interp.run(model, prompts, held.scaled(torch.ones(len(heads))), logits="all").logits
    np.testing.assert_array_equal(opened, plain)
    shut = interp.cache(model, prompts[0], "attn_out", given=held.scaled(torch.zeros(len(heads))))["attn_out"]
    modules = dict(model.module.named_modules())
    for layer in range(model.sizes["layer"]):
        path = {"gpt2": f"transformer.h.{layer}.attn.c_proj", "neox": f"gpt_neox.layers.{layer}.attention.dense"}.get(kind)
        path = path or {"bloom": f"transformer.h.{layer}.self_attention.dense"}.get(kind)
        bias = modules[path].bias.detach().numpy() if path else 0.0
        np.testing.assert_array_equal(shut.sel(layer=layer).values, np.broadcast_to(bias, shut.sel(layer=layer).shape))


# ------------------------------------------------------------------------------------------------------ 2: heads of no effect


@cache
def mute() -> tuple[Model, xr.Dataset]:
    """A random model in which L1H2 writes nothing, and its gates."""
    module = tiny.gpt2(3).double()
    width = tiny.WIDTH // tiny.HEADS
    with torch.no_grad():
        module.transformer.h[1].attn.c_proj.weight[2 * width : 3 * width] = 0.0
    model = load(module, name="mute")
    return model, interp.gate_heads(model, sweeps.random_pairs(5, [5, 6, 5]), seeds=6, updates=60, progress=False)


def test_card_8_2_a_head_that_writes_nothing_follows_the_pull() -> None:
    """The card: G⁺ ≥ σ(4) = 0.982, G⁻ ≤ 0.018, so irrelevance is at least 0.982² = 0.964."""
    _, gates = mute()
    own = gates.sel(layer=1, head=2)
    assert (own.gate.sel(stage="B+") >= OPEN).all()
    assert (own.gate.sel(stage="B-") <= SHUT).all()
    assert (own.score.sel(kind=IRRELEVANT) >= OPEN**2).all()
    assert (own.role == IRRELEVANT).all()
    assert own.always.sel(kind=IRRELEVANT)


def test_card_8_2_its_gate_stays_where_it_began_without_a_pull() -> None:
    """Its gradient in stage A is exactly 0."""
    model, gates = mute()
    starts = np.array([drawn(len(Heads.of(model)), seed, 4.0).sigmoid()[tiny.HEADS + 2] for seed in gates.seed.values.tolist()])
    np.testing.assert_allclose(gates.gate.sel(stage="A", layer=1, head=2), starts, rtol=1e-12)


def test_card_8_2_the_pull_is_a_mean_over_a_mask_s_own_heads(seed: int) -> None:
    """Its gradient is −λ / heads within the clip and 0 outside, whatever number of masks there is."""
    heads = Heads.of(sweeps.model("gpt2", torch.float64))
    logits = 12 * torch.rand(len(heads), generator=torch.Generator().manual_seed(seed)).double() - 6
    mask, penalty = heads.gates(logits), pulled(0.1, 4.0)
    assert penalty is not None
    penalty(mask).backward()
    slopes = torch.cat([change.edit.logits.grad.flatten() for change in mask.changes])
    np.testing.assert_allclose(slopes, np.where(logits.abs() <= 4, -0.1 / len(heads), 0.0), rtol=1e-12)
    assert pulled(0.0, 4.0) is None


# ------------------------------------------------------------------------------------------------- 3 and 4: planted heads


@cache
def backup() -> xr.Dataset:
    net = backup_construction(interference=1.0, alert=60.0)
    prompts = backup_prompts(net).tolist()
    pairs = Pairs(tuple(Pair(Prompt(ids), Prompt(ids), ids[1]) for ids in prompts), "backup")
    return interp.gate_heads(load(net, name="backup"), pairs, updates=200, progress=False)


def test_card_8_3_planted_heads_have_their_roles_in_all_of_ten_seeds() -> None:
    """The primary head is worth 1 of the subject's logit, 0.7 nats, against 0.1 · 8 / 4 = 0.2 that the pull is worth from end
    to end; the head beside the backup takes 1 away; the backup says nothing while the primary speaks; the fourth is zero.
    """
    gates = backup()
    expected = {PRIMARY: FACILITATING, AGAINST: INTERFERING, BACKUP: IRRELEVANT, (0, 1): IRRELEVANT}
    for (layer, head), role in expected.items():
        own = gates.sel(layer=layer, head=head)
        assert (own.role == role).all(), (layer, head, own.role.values)
        assert own.always.sel(kind=role)
        assert own.share.sel(kind=role) == 1
    at = {"layer": PRIMARY[0], "head": PRIMARY[1]}
    assert (gates.gate.sel(stage="B-", **at) > 0.5).all()
    assert (gates.gate.sel(stage="B+", layer=AGAINST[0], head=AGAINST[1]) < 0.5).all()


def test_card_8_4_of_two_redundant_heads_each_is_needed_in_some_seeds_and_neither_always() -> None:
    """Either does what both do, min(1, open gates); which of them stays open depends on the start."""
    model, pairs = nets_gates.gates("or")
    gates = interp.gate_heads(model, pairs, seeds=12, updates=150, progress=False)
    shut = gates.gate.sel(stage="B-", layer=0)
    assert (shut.sum("head") > 0.8).all(), "what both say stays near 1, within what the pull is worth"
    count = {which: int(gates[which].sel(kind=FACILITATING).sum()) for which in ("any", "always")}
    assert count["any"] == 2
    assert count["always"] < 2


# ------------------------------------------------------------------------------------------- 5 and 6: seeds and order of heads


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox"])
def test_card_8_5_seeds_trained_together_are_as_if_alone(kind: str, seed: int) -> None:
    """Adam's state and the clipped norm are each mask's own. Adam divides by small gradients, which enlarges rounding."""
    model, pairs = double(kind), sweeps.random_pairs(seed, [6, 5, 7, 6])
    settings: dict[str, Any] = {"updates": 6, "batch": 2, "clip": 0.02, "progress": False}
    together = interp.gate_heads(model, pairs, seeds=[4, 7, 1], **settings)
    tolerance = 1e-9 if kind == "gpt2" else 1e-4
    for one in (4, 7, 1):
        alone = interp.gate_heads(model, pairs, seeds=[one], **settings)
        for name in ("gate", "nll"):
            np.testing.assert_allclose(together[name].sel(seed=[one]), alone[name], atol=tolerance, rtol=0)


def test_card_8_6_permuting_heads_permutes_the_answer(seed: int) -> None:
    order, width = [2, 0, 3, 1], tiny.WIDTH // tiny.HEADS
    first, second = tiny.gpt2(7).double(), tiny.gpt2(7).double()
    units = torch.cat([torch.arange(head * width, (head + 1) * width) for head in order])
    with torch.no_grad():
        for block in second.transformer.h:
            columns = torch.cat([part * tiny.WIDTH + units for part in range(3)])
            block.attn.c_attn.weight.copy_(block.attn.c_attn.weight[:, columns])
            block.attn.c_attn.bias.copy_(block.attn.c_attn.bias[columns])
            block.attn.c_proj.weight.copy_(block.attn.c_proj.weight[units])
    pairs, found = sweeps.random_pairs(seed, [5, 6]), []
    start = drawn(3 * tiny.HEADS, 0, 4.0).reshape(3, tiny.HEADS)
    for module, begin in ((first, start), (second, start[:, order])):
        heads = Heads.of(load(module, name="permuted"))
        mask = heads.gates(begin.flatten())
        fit(heads.model, pairs, mask, patching="noising", steps=6, batch=2, lr=0.1, penalty=pulled(0.1, 4.0), progress=False)
        found.append(logits_of(mask).reshape(3, tiny.HEADS))
    np.testing.assert_allclose(found[1], found[0][:, order], atol=1e-8)


# --------------------------------------------------------------------------------------------------------- 7: gradients


@pytest.mark.parametrize("kind", ["gpt2", "neox"])
def test_card_8_7_the_slope_in_a_gate_is_minus_the_first_order_effect_of_zeroing(kind: str, seed: int) -> None:
    """∂m/∂G_h at G = 1 is ⟨z_h, ∂m/∂z_h⟩, and attribution patching with zeros estimates −⟨z_h, ∂m/∂z_h⟩. By central differences
    of 1e-5, whose error is of the order of 1e-10.
    """
    model, pairs = double(kind), sweeps.random_pairs(seed, [6, 5])
    heads, step = Heads.of(model), 1e-5
    held, ones = Held(heads), torch.ones(len(heads), dtype=torch.float64)
    moved = [held.scaled(ones - sign * step * torch.eye(len(heads)).double()[i]) for sign in (1, -1) for i in range(len(heads))]
    # a gate is a share: more than 1 is no gate, so the other side is by Scale
    down = logprobs(model, pairs, moved[: len(heads)])
    cells = [(layer, head) for layer in range(len(heads.sites)) for head in range(heads.counts[layer])]
    up = logprobs(model, pairs, [interp.Change(f"L{layer}H{head}.z", edit=interp.Scale(1 + step)) for layer, head in cells])
    slope = (up - down) / (2 * step)
    where = interp.grid("z", layer=..., head=...)
    estimate = interp.attribute(model, pairs, where, "logprob", patching="noising", source=Constant(0.0), progress=False)
    effect = interp.effect(estimate).isel(metric=0).stack(cell=("layer", "head")).transpose("cell", "example").values
    np.testing.assert_allclose(slope, -effect, atol=1e-7 * (1 + np.abs(effect).max()))


# ------------------------------------------------------------------------------------------------ stages, and what they are of


def test_both_pulls_begin_with_the_same_gates(seed: int) -> None:
    """The first batch of both is the same, so its loss under the gates of stage A is."""
    gates = interp.gate_heads(double("gpt2"), sweeps.random_pairs(seed, [6, 5, 7, 6]), **SHORT)
    np.testing.assert_allclose(gates.nll.sel(stage="B+", step=0), gates.nll.sel(stage="B-", step=0), rtol=1e-12)
    assert not np.allclose(gates.gate.sel(stage="B+"), gates.gate.sel(stage="B-"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_loss_is_that_of_the_scaled_model(kind: str, seed: int) -> None:
    """Prompts of different length, so that some are padded on the left; all of them are in the first batch."""
    model, pairs = double(kind), sweeps.random_pairs(seed, [6, 4, 7])
    gates = interp.gate_heads(model, pairs, **SHORT)
    heads = Heads.of(model)
    assert gates.gate.shape == (2, 3, model.sizes["layer"], model.sizes["head"])
    expected = [-logprobs(model, pairs, Held(heads).scaled(drawn(len(heads), s, 4.0).sigmoid())).mean() for s in (0, 1)]
    np.testing.assert_allclose(gates.nll.sel(stage="A", step=0), expected, rtol=1e-9 if kind == "gpt2" else 1e-4)


@pytest.mark.parametrize(("architecture", "where"), [("t5", "z"), ("t5", "cross_z"), ("t5", "encoder:z"), ("vit", "z")])
def test_encoders_and_pictures(architecture: str, where: str, seed: int) -> None:
    model = anything.model(architecture)
    pairs = anything.pairs(model, seed)
    answered = Pairs(tuple(Pair(pair.clean, pair.corrupted, 3) for pair in pairs), "any")
    gates, heads = interp.gate_heads(model, answered, where, **SHORT), Heads.of(model, where)
    assert gates.attrs["site"] == where
    assert gates.gate.shape == (2, 3, *heads.there.shape)
    expected = [-logprobs(model, answered, Held(heads).scaled(drawn(len(heads), s, 4.0).sigmoid())).mean() for s in (0, 1)]
    np.testing.assert_allclose(gates.nll.sel(stage="A", step=0), expected, rtol=1e-4)
    assert (gates.gate.sel(stage="B+") != gates.gate.sel(stage="B-")).all()


def test_no_counterfactual_is_needed_and_one_that_is_there_is_not_run(seed: int) -> None:
    model, pairs = double("gpt2"), sweeps.random_pairs(seed, [6, 5, 7, 6])
    bare = Pairs(tuple(Pair(pair.clean, pair.clean, pair.answers) for pair in pairs), "bare")
    first, second = (interp.gate_heads(model, some, **SHORT) for some in (pairs, bare))
    np.testing.assert_array_equal(first.gate, second.gate)


def test_sequences_with_a_mask_of_targets(seed: int) -> None:
    """The sum over tokens that count of −log P is that over the pairs which are made of them."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, tiny.VOCAB, (2, 7), generator=draw).tolist()
    masks = [[False, True, False, False, True, True, False], [False, False, True, True, True, False, True]]
    model = double("gpt2")
    encoded = model.encode(targets(ids, masks), bos=False)
    assert [pair.template for pair in encoded.pairs] == ["0", "0", "1", "1"]
    gates = interp.gate_heads(model, encoded, **(SHORT | {"batch": 4}))
    held = Held(heads := Heads.of(model)).scaled(drawn(len(heads), 0, 4.0).sigmoid())
    total = 0.0
    for row, mask in zip(ids, masks, strict=True):
        logits = interp.run(model, Prompt(row), held, logits="all", bos=False).logits
        words = torch.as_tensor(np.asarray(logits)).reshape(len(row), -1).log_softmax(-1)
        total -= sum(float(words[i - 1, row[i]]) for i in range(len(row)) if mask[i])
    assert float(gates.nll.sel(seed=0, stage="A", step=0)) * 4 == pytest.approx(total, rel=1e-9)
    with pytest.raises(InputError, match="the mask of sequence 0 counts its first token, which nothing stands before"):
        targets([[1, 2]], [[True, False]])
    with pytest.raises(InputError, match="the mask of sequence 0 counts no token"):
        targets([[1, 2]], [[False, False]])
    with pytest.raises(ShapeMismatchError, match="sequence 0 has 2 tokens and its mask 1 entries"):
        targets([[1, 2]], [[True]])
    with pytest.raises(ShapeMismatchError, match="1 sequences and 0 masks"):
        targets([[1, 2]], [])


def test_starts_are_uniform_and_within_the_clip() -> None:
    """A share of 2 · 0.018 of them is moved to the ends, of 4000 within 4 standard errors."""
    shares = drawn(4000, 1, 4.0).sigmoid().numpy()
    assert shares.min() >= SHUT - 1e-12
    assert shares.max() <= OPEN + 1e-12
    moved = np.mean((shares <= SHUT + 1e-12) | (shares >= OPEN - 1e-12))
    assert abs(moved - 2 * SHUT) < 4 * np.sqrt(2 * SHUT / 4000)
    assert abs(shares.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 4000)
    assert [annealed(0.5, 0.1)(done) for done in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.6, 0.2])


def test_given_changes_are_in_force(seed: int) -> None:
    """With every head zeroed by what is given, all gates are without effect."""
    model, pairs = double("gpt2"), sweeps.random_pairs(seed, [6, 5, 7])
    zeroed = [interp.Change(f"L{layer}.z", edit=interp.Scale(0.0)) for layer in range(model.sizes["layer"])]
    gates = interp.gate_heads(model, pairs, seeds=2, updates=60, given=zeroed, progress=False)
    assert gates.always.sel(kind=IRRELEVANT).all()


# ------------------------------------------------------------------------------------------------------------ taxonomy


def test_taxonomy_is_the_card_s_table() -> None:
    dims = ("seed", "head")
    up = xr.DataArray([[0.9, 0.1, 0.9, 0.1, np.nan], [0.9, 0.1, 0.9, 0.9, np.nan]], {"seed": [0, 1], "head": range(5)}, dims)
    down = xr.DataArray([[0.8, 0.2, 0.2, 0.8, np.nan], [0.8, 0.2, 0.8, 0.2, np.nan]], {"seed": [0, 1], "head": range(5)}, dims)
    found = taxonomy(up, down)
    assert found.role.sel(seed=0).values.tolist() == [*ROLES, ""]
    assert found.role.sel(seed=1).values.tolist() == [FACILITATING, INTERFERING, FACILITATING, IRRELEVANT, ""]
    first = found.score.sel(seed=0)
    for kind, head, score in ((FACILITATING, 0, 0.8), (INTERFERING, 1, 0.9), (IRRELEVANT, 2, 0.72), (INCONSISTENT, 3, 0.72)):
        assert float(first.sel(kind=kind, head=head)) == pytest.approx(score)
    assert found.always.sel(kind=FACILITATING).values.tolist() == [True, False, False, False, False]
    assert found["any"].sel(kind=FACILITATING).values.tolist() == [True, False, True, False, False]
    assert found.share.sel(kind=IRRELEVANT).values[:4].tolist() == [0.0, 0.0, 0.5, 0.5]
    assert np.isnan(found.share.sel(head=4)).all()
    with pytest.raises(ValueError, match=r"cut=1\.0; expected a gate, between 0 and 1"):
        taxonomy(up, down, 1.0)


# --------------------------------------------------------------------------------------------------- ordered ablation


def test_ordered_ablation_has_the_signs_that_the_paper_predicts() -> None:
    gates = backup()
    net = backup_construction(interference=1.0, alert=60.0)
    pairs = [Pair(Prompt(ids), Prompt(ids), ids[1]) for ids in backup_prompts(net).tolist()]
    model = load(net, name="backup")
    found = interp.ordered_ablation(model, pairs, gates, progress=False)
    mean = found.own.mean("example")
    assert float(mean.sel(score=FACILITATING)) < -0.05, "the backup takes over what is 0.75 of it"
    assert float(mean.sel(score=INTERFERING)) > 0.5
    assert (found.role.sel(score=FACILITATING, rank=0) == FACILITATING).all()
    assert (found.role.sel(score=INTERFERING, rank=0) == INTERFERING).all()
    first = found.change.sel(rank=0).mean(("seed", "example"))
    assert float(first.sel(score=FACILITATING)) < 0 < float(first.sel(score=INTERFERING))
    assert abs(float(first.sel(score=IRRELEVANT))) < 1e-4
    assert found.attrs["in_sample"]


def test_ordered_ablation_is_what_rows_one_by_one_give(seed: int) -> None:
    """Each head in turn at 1 and at 0, those before it at 0, all others at G⁺."""
    model, pairs, held_out = double("llama"), sweeps.random_pairs(seed, [6, 5]), sweeps.random_pairs(seed + 1, [5, 7])
    gates = interp.gate_heads(model, pairs, **SHORT)
    found = interp.ordered_ablation(model, held_out, gates, most=4, seeds=1, progress=False)
    assert found.sizes == {"seed": 1, "score": 3, "rank": 4, "state": 2, "example": 2}
    assert not found.attrs["in_sample"]
    heads = Heads.of(model)
    held, start = Held(heads), gates.gate.sel(seed=1, stage="B+").values
    for kind in found.score.values:
        own = found.sel(seed=1, score=kind)
        score = gates.score.sel(seed=1, kind=kind).values
        ranked = [score[layer, head] for layer, head in zip(own["layer"].values, own["head"].values, strict=True)]
        assert ranked == sorted(score.ravel(), reverse=True)[:4]
        now = start.copy()
        for rank in range(4):
            for state, factor in (("open", 1.0), ("shut", 0.0)):
                now[own["layer"].values[rank], own["head"].values[rank]] = factor
                expected = logprobs(model, held_out, held.scaled(heads.flat(now)))[0]
                np.testing.assert_allclose(own.logprob.sel(rank=rank, state=state), expected, atol=1e-5)
    np.testing.assert_allclose(found.change, found.logprob.sel(state="shut") - found.logprob.sel(state="open"))
    np.testing.assert_allclose(found.plain, logprobs(model, held_out, held.scaled(torch.ones(len(heads))))[0], atol=1e-5)


def test_ordered_ablation_refuses_what_is_no_gating_or_of_another_model(seed: int) -> None:
    gates = interp.gate_heads(double("gpt2"), sweeps.random_pairs(seed, [6, 5]), **SHORT)
    pairs = sweeps.random_pairs(seed, [6])
    with pytest.raises(InputError, match=r"gates is a DataArray; expected what interp\.gate_heads\(…\) returns"):
        sweeps.unchecked(interp.ordered_ablation)(double("gpt2"), pairs, gates.gate)
    with pytest.raises(UnknownNameError, match="seed"):
        interp.ordered_ablation(double("gpt2"), pairs, gates, seeds=5)
    with pytest.raises(InputError, match=r"gates are of 3 layers of 4 heads of gpt2-0; speakers has 1 of 2"):
        interp.ordered_ablation(nets_gating.speakers([1.0, 1.0]), pairs, gates)


# ---------------------------------------------------------------------------------------------------------- the surface


def test_a_run_is_kept_found_again_and_made_again(tmp_path: Path) -> None:
    model = load("zoo/induction-2l")
    pairs = [Pair(ids, ids, ids[1]) for ids in ([5, 6, 7, 5], [8, 5, 6, 8])]

    def asked(**more: Any) -> xr.Dataset:
        return interp.gate_heads(model, pairs, store=tmp_path, **(SHORT | more))

    first = asked(name="gates", tags=["heads"])
    assert first.attrs["spec"]["gate_heads"]["seeds"] == [0, 1]
    assert first.attrs["method"] == "gate_heads"
    xr.testing.assert_identical(asked(), first)
    assert len(interp.Store(tmp_path).runs()) == 1
    asked(weight=0.2)
    assert len(interp.Store(tmp_path).runs()) == 2
    again = interp.rerun(interp.Store(tmp_path).run("gates"))
    assert again.within
    xr.testing.assert_allclose(again.result.gate, first.gate)


def test_what_is_refused(seed: int) -> None:
    model, pairs = double("gpt2"), sweeps.random_pairs(seed, [6, 5])
    ask: Any = sweeps.unchecked(interp.gate_heads)
    with pytest.raises(UnknownSiteError, match="it is not what all heads put out, every layer's"):
        ask(model, pairs, "L1.z")
    with pytest.raises(UnknownSiteError, match="it is not what all heads put out, every layer's"):
        ask(model, pairs, "mlp_out")
    with pytest.raises(AnswerError, match="'logprob' needs the 'answers' tokens"):
        ask(model, ["some"] if model.tokenizer else [Prompt((1, 2, 3))])
    with pytest.raises(ValueError, match=r"weight=-0\.1, bound=4\.0; expected both more than 0"):
        ask(model, pairs, weight=-0.1)
    with pytest.raises(ValueError, match=r"seeds=\[1, 1\]; expected how many there are, at least 1, or different numbers"):
        ask(model, pairs, seeds=[1, 1])
    assert seeds_of(3) == [0, 1, 2]
