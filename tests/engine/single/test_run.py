"""One run of some prompts: outputs and activations against torch hooks, and what a result says of itself."""

from __future__ import annotations

from functools import partial
from inspect import signature
from typing import Any

import pytest
import sweeps
import torch
from torch import Tensor

from interp import Change, Intervention, Pair, Site, patch
from interp.engine import run
from interp.errors import HeadOutOfRangeError, InputError, PositionError, SiteNotFiredError, UnknownNameError, UnknownSiteError
from interp.interventions import Activation, Add, Constant, Context, Noise, Scale
from interp.models import Model, load
from interp.prompts import Prompt
from interp.tasks import ioi

KINDS = ("gpt2", "llama", "neox", "gemma2")


def prompts(seed: int, *lengths: int) -> list[tuple[int, ...]]:
    found = [pair.clean.text for pair in sweeps.random_pairs(seed, lengths)]
    assert all(isinstance(text, tuple) for text in found)
    return found  # type: ignore[return-value]


def alone(model: Any, ids: tuple[int, ...]) -> Tensor:
    """Logits of one prompt by the raw module."""
    with torch.no_grad():
        return model.module(torch.tensor([list(ids)])).logits[0]


def near(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * (1 + float(other.abs().max())))


@pytest.mark.parametrize("kind", KINDS)
def test_as_it_is(kind: str, seed: int) -> None:
    """Expected: the raw module's logits, one prompt at a time; NaN behind the end of shorter prompts."""
    model, texts = sweeps.model(kind), prompts(seed, 5, 8, 6)
    ran = run(model, texts)
    assert ran.logits is not None
    assert ran.logits.shape[:2] == (3, 8)
    for row, ids in zip(ran.logits, texts, strict=True):
        near(row[: len(ids)], alone(model, ids))
        assert bool(row[len(ids) :].isnan().all())
    near(ran.final, torch.stack([alone(model, ids)[-1] for ids in texts]))
    last = run(model, texts, logits="last")
    near(last.final, ran.final)
    assert last.logits is not None
    assert last.logits.shape[1] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_function_is_a_torch_hook(kind: str, seed: int) -> None:
    """Expected: the same function in a forward hook on the module, one prompt at a time."""
    model, texts = sweeps.model(kind), prompts(seed, 5, 8)
    path = model.taps(Site.parse("L1.mlp_out")).path
    ran = run(model, texts, Change("L1.mlp_out", edit=lambda h, ctx: h.flip(1).tanh() + 1), capture="L2.resid_pre")
    for i, ids in enumerate(texts):
        expected = sweeps.rerun(model.module, path, ids, lambda h: h.flip(1).tanh() + 1)
        near(ran.final[i], expected)
    assert not torch.allclose(ran.final[0], alone(model, texts[0])[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_activations_are_those_of_the_edited_run(kind: str, seed: int) -> None:
    """Expected: what the raw network gives, recorded by a hook; the pattern of a prompt alone; what was written."""
    model, texts = sweeps.model(kind), prompts(seed, 5, 7)
    path = model.taps(Site.parse("L1.mlp_out")).path
    ran = run(model, texts, [None, Change("L1.mlp_out", source=Constant(0.5))], capture=["L1.mlp_out", "L1H1.z", "pattern"])
    for i, ids in enumerate(texts):
        near(ran["L1.mlp_out"][0, i, : len(ids)], sweeps.record(model.module, path, ids)[0])
        one = run(model, [ids], capture="L1.pattern")["L1.pattern"]
        near(ran["L1.pattern"][0, i, :, : len(ids), : len(ids)], one[0])
    assert bool(ran["L1.mlp_out"][0, 0, 5:].isnan().all())
    assert bool((ran["L1.mlp_out"][1, 0, :5] == 0.5).all())
    assert torch.equal(ran["L1H1.z"].nan_to_num(), ran["L1.z"][..., 1, :].nan_to_num())
    assert {repr(site) for site in ran.activations} >= {"L0.pattern", "L1.pattern", "L2.pattern"}


def test_rows_of_any_number_give_the_same(seed: int) -> None:
    """Expected: one row a pass gives what all together give, also where given= and hold= are in force."""
    model, texts = sweeps.model("llama"), prompts(seed, 6, 8, 5)
    changes = [None, Change("L0.resid_post", -1, edit=Scale(2.0)), Intervention.of("L1H0.z", "L1H2.z", edit=Scale(0.0))]
    options: dict[str, Any] = {"given": Change("L0.mlp_out", edit=Scale(0.5)), "hold": "pattern", "capture": "L2.resid_post"}
    one, other = (run(model, texts, changes, rows=rows, **options) for rows in (1, None))
    near(one.final, other.final)
    near(one["L2.resid_post"].nan_to_num(), other["L2.resid_post"].nan_to_num())
    assert one.attrs["hold"] == ["pattern"]


def test_pairs_and_other_prompts(seed: int) -> None:
    """Expected: the metric that a sweep gives; another prompt's run, whose last value is put in."""
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 6])
    change = Change("L1.resid_pre", "end")
    found = patch(model, pairs, change, "logit_diff").value[0, 0]
    final = run(model, pairs, change).final
    for i, pair in enumerate(pairs):
        answers, wrong = (max(float(final[i, int(a)]) for a in side) for side in (pair.answers, pair.wrong))
        assert abs(answers - wrong - float(found[i])) < 1e-5 * (1 + abs(answers))
    text = prompts(seed + 1, 9)[0]
    other = Change("L3.resid_post" if model.sizes["layer"] > 3 else "L2.resid_post", -1, source=Activation(text, positions=-1))
    near(run(model, pairs, other).final, alone(model, text)[-1].expand(2, -1))


def test_what_is_given_comes_first(seed: int) -> None:
    """Expected: both as one ordered intervention; what the base is means the changed one."""
    model, texts = sweeps.model("gpt2"), prompts(seed, 6, 7)
    given, own = Change("L0.mlp_out", edit=Scale(0.0)), Change("L0.mlp_out", source=Constant(1.0), edit=Add())
    one = run(model, texts, own, given=given)
    both = run(model, texts, Intervention((given,)).then(Intervention((own,))))
    near(one.final, both.final)
    back = run(model, texts, Change("L1.mlp_out", source=Activation("base")), given=given)
    near(back.final, run(model, texts, given=given).final)
    assert not torch.allclose(back.final, run(model, texts).final)


def test_any_module_and_its_path(seed: int) -> None:
    """A network without streams: sites by path, outputs as they are."""
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    model = load(net, example={"input": torch.randn(3, 4)}, name="net")
    x = torch.randn(2, 4)
    asked = [Prompt(inputs={"input": row}) for row in x]
    ran = run(model, asked, Change("1:output", edit=lambda h, ctx: 2 * h), capture="0:output")
    with torch.no_grad():
        near(ran.final, net[2](2 * net[1](net[0](x))))
        near(ran["0:output"].reshape(2, 6), net[0](x))


def test_a_site_that_is_not_met_raises(seed: int) -> None:
    class Idle(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

        def forward(self, input: Tensor) -> Tensor:
            return self.used(input)

    model = load(Idle(), example={"input": torch.randn(3, 4)}, name="idle")
    prompt = Prompt(inputs={"input": torch.randn(4)})
    with pytest.raises((SiteNotFiredError, PositionError), match="idle"):
        run(model, prompt, Change("idle:output", edit=lambda h, ctx: 0 * h))


def test_a_model_runs_as_the_library_does(seed: int) -> None:
    ours, models = signature(run).parameters, signature(Model.run).parameters
    assert [*ours][1:] == [*models][1:]
    assert all(ours[name].default == models[name].default for name in [*ours][1:])
    model, ids = sweeps.model("gpt2"), [[3, 1, 4, 1, 5]]
    options: dict[str, Any] = {
        "capture": "L1.z",
        "logits": "last",
        "given": Change("L0H1.z", edit=Scale(0.0)),
        "hold": "pattern",
    }
    one, other = (call(ids, Change("L1H2.z", edit=Scale(2.0)), **options) for call in (model.run, partial(run, model)))
    assert torch.equal(one.logits, other.logits)
    assert torch.equal(one["L1.z"], other["L1.z"])


def test_tables_and_words(seed: int) -> None:
    model = load("zoo/language-4l")
    first, second = (pair.clean.text for pair in ioi(2, seed=0, tokenizer=model.tokenizer))
    ran = run(model, [first, second], [None, Change("L2.z", edit=Scale(0.0))], capture="L2.z")
    table = ran.next(3)
    assert list(table.columns) == ["cell", "intervention", "prompt", "rank", "token", "prob"]
    assert len(table) == 2 * 2 * 3
    best = ran.final.softmax(-1).amax(-1)
    assert table[table["rank"] == 0].prob.tolist() == pytest.approx(best.flatten().tolist())
    assert f"{str(second)[-20:]}' →" in repr(ran)
    assert "L2.z Scale(factor=0.0): " in repr(ran)
    assert list(run(model, first).next(1).columns) == ["rank", "token", "prob"]


def test_which_prompts_of_pairs_were_run(seed: int) -> None:
    """Expected: the raw module on the corrupted prompts, and with noising on the clean ones, and words that say so."""
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 6, 6])
    for patching, side in (("denoising", "corrupted"), ("noising", "clean")):
        ran = run(model, pairs, [None, Change("L1.z")], patching=patching)  # type: ignore[arg-type]
        assert repr(ran).startswith(f"Run(2 interventions × {side} prompts of 3 pairs on ")
        assert ran.attrs["side"] == side
        near(ran.final[0], torch.stack([alone(model, getattr(pair, side).text)[-1] for pair in pairs]))
    assert repr(run(model, pairs[:1])).startswith("Run(corrupted prompt of 1 pair on ")
    assert repr(run(model, prompts(seed, 6, 6))).startswith("Run(2 prompts on ")


def test_what_is_given_is_not_the_model_as_it_is(seed: int) -> None:
    model, texts = sweeps.model("gpt2"), prompts(seed, 5)
    zero = Change("L0.z", edit=Scale(0.0))
    ran = run(model, texts, [None, Change("L2.z", edit=Scale(0.0))], given=zero)
    assert set(ran.next(1).intervention) == {"what is given", "L2.z Scale(factor=0.0)"}
    near(ran.final[0], run(model, texts, zero).final)


def test_noise_is_drawn_once_a_position(seed: int) -> None:
    model, texts = sweeps.model("gpt2"), prompts(seed, 6, 6)
    change = Change("L0.resid_pre", source=Noise(0.3, seed=5), edit=Add())
    near(run(model, texts, change).final, run(model, texts, change, rows=1).final)


def test_mistakes(seed: int) -> None:
    model, texts = sweeps.model("gpt2"), prompts(seed, 6)
    with pytest.raises(InputError, match="but these are no pairs"):
        run(model, texts, Change("L1.z"))
    with pytest.raises(HeadOutOfRangeError, match=r"layer 9 of L9\.z does not exist"):
        run(model, texts, capture="L9.z")
    with pytest.raises(UnknownSiteError, match=r"not named in capture="):
        run(model, texts, capture="L1.z").activation("L2.z")
    with pytest.raises(PositionError, match="no logits were kept"):
        run(model, texts, logits="none", capture="L1.z").next()
    with pytest.raises(UnknownNameError, match="known: all, last, none"):
        sweeps.unchecked(run)(model, texts, logits="first")
    with pytest.raises(ValueError, match="None is the model as it is"):
        run(model, texts, [])
    with pytest.raises(PositionError, match="past the end of example 0"):
        run(model, texts, Change("L1.z", 9, edit=Scale(0.0)))


def test_context_of_plain_prompts(seed: int) -> None:
    """Expected: every token of every prompt, counted from its first real one."""
    model, texts = sweeps.model("llama"), prompts(seed, 5, 7)
    seen: dict[int, list[int]] = {}

    def spy(h: Tensor, ctx: Context) -> Tensor:
        seen.update(zip(ctx.rows.tolist(), ctx.tokens.tolist(), strict=True))
        return h

    run(model, texts, Change("L1.resid_post", edit=spy))
    assert seen == {i: list(ids) for i, ids in enumerate(texts)}
    assert isinstance(Pair(texts[0], texts[0]).clean.text, tuple)
