"""Training of interventions, against a loop that knows nothing of the engine.

The reference is in tests/support/training_by_hand.py. In float64 losses and parameters agree to 1e-8 after ten
steps, also by Adam, which divides by small gradients and so enlarges rounding. Families whose norms or softmax transformers
computes in float32 whatever the model's precision run in that, by plain gradient descent: 1e-5, and for losses 5e-5, which is
1e-5 × (1 + max |logit|) at most.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sweeps
import torch
import xarray as xr
from torch import Tensor, nn
from training_by_hand import (
    MAKERS,
    Case,
    Reference,
    das,
    das_in_a_head,
    gates,
    leaf,
    mask_in_a_rotation,
    mask_of_heads,
    of_head,
)

from interp import effects, training
from interp.engine import patch, wavefront
from interp.errors import TrainingError, UnknownNameError
from interp.interventions import Change, Constant, Gate, HardConcrete, Intervention, Scale, learnable
from interp.models import load
from interp.store import Store
from interp.training import fit

CLOSE = {"atol": 1e-8, "rtol": 0.0}
LENGTHS = [6, 5, 7, 6]
IN_TWOS = [[0, 1], [2, 3]] * 5
"""Four pairs, batches of two, five epochs."""


def double(kind: str) -> Any:
    return sweeps.model(kind, torch.float64)


def agree(trained: training.Trained, cases: Sequence[Case], losses: Sequence[Tensor]) -> None:
    """Losses, and the parameters that were trained in place."""
    found, expected = trained.loss.values, torch.stack(list(losses)).numpy()
    assert found.dtype == expected.dtype
    single = found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=5e-5 if single else 1e-8, rtol=0)
    for case in cases:
        for parameter, copy in zip(case.found(), case.parameters, strict=True):
            torch.testing.assert_close(parameter, copy.detach(), atol=1e-5 if single else 1e-8, rtol=0)


# whole passes


@pytest.mark.parametrize(
    ("kind", "dtype", "patching", "metric"),
    [
        ("gpt2", torch.float64, "denoising", "logprob"),
        ("neox", torch.float64, "noising", "logit_diff"),
        ("llama", torch.float32, "noising", "logprob"),
        ("mistral", torch.float32, "denoising", "kl"),
        ("gemma2", torch.float32, "denoising", "logit_diff"),
        ("bloom", torch.float32, "noising", "logprob"),
    ],
)
def test_training_is_that_of_whole_passes(kind: str, dtype: torch.dtype, patching: Any, metric: str, seed: int) -> None:
    """Six interventions together, on prompts of three lengths, against each alone by hand."""
    model, pairs = sweeps.model(kind, dtype), sweeps.random_pairs(seed, LENGTHS)
    cases = [make(model, seed) for make in MAKERS]
    reference = Reference(kind, model.module, pairs, patching)
    adam = dtype == torch.float64
    shared: dict[str, Any] = {"lr": 0.03, "optimizer": torch.optim.Adam} if adam else {"lr": 3e-3, "optimizer": torch.optim.SGD}
    expected = [reference.train(case, IN_TWOS, metric, **shared)[0] for case in cases]
    options = {"patching": patching, "epochs": 5, "batch": 2, "shuffle": False} | shared
    trained = fit(model, pairs, [case.intervention for case in cases], metric, **options)
    agree(trained, cases, expected)
    assert trained.loss.dims == trained.penalty.dims == ("cell", "step")
    assert not trained.penalty.values.any()
    whole = torch.stack(expected)
    assert (whole[:, :2].mean() - whole[:, -2:].mean()).item() > 1e-4, "it learns"
    assert trained.best == int(whole[:, -1].argmin())


# what a run has of its own


def sparse(parameters: Sequence[Tensor], strength: float) -> Tensor:
    return strength * torch.cat([p.flatten() for p in parameters]).clamp(-4, 4).square().mean()


@pytest.mark.parametrize("what", ["lr", "penalty", "clip", "schedule", "optimizer", "all"])
def test_options_of_a_run(what: str, seed: int) -> None:
    """Three interventions with a rate, a penalty and a norm of their own, the last without a penalty."""
    model, pairs = double("gpt2"), sweeps.random_pairs(seed, LENGTHS)
    cases = [das(model, seed), gates(model, seed), mask_of_heads(model, seed)]
    chosen = {"lr", "penalty", "clip", "schedule", "optimizer"} if what == "all" else {what}
    rates = [0.01, 0.2, 0.05] if "lr" in chosen else [0.03] * 3
    strengths = [0.5, -3.0, None]
    shared: dict[str, Any] = {}
    if "clip" in chosen:
        shared["clip"] = 0.02
    if "clip" in chosen or "optimizer" in chosen:  # Adam hardly sees the size of a gradient
        shared["optimizer"] = partial(torch.optim.SGD, momentum=0.9)
    if "schedule" in chosen:
        shared["schedule"] = lambda done: (1 - done) ** 2
    penalties: list[Any] = [None] * 3
    if "penalty" in chosen:
        penalties = [None if s is None else partial(lambda s, i: sparse(learnable(i), s), s) for s in strengths]
    reference = Reference("gpt2", model.module, pairs)
    expected = []
    for case, rate, strength in zip(cases, rates, strengths, strict=True):
        penalty = partial(sparse, case.parameters, strength) if "penalty" in chosen and strength is not None else None
        expected.append(reference.train(case, IN_TWOS, lr=rate, penalty=penalty, **shared))
    trained = fit(
        model,
        pairs,
        [case.intervention for case in cases],
        epochs=5,
        batch=2,
        lr=rates if "lr" in chosen else rates[0],
        penalty=penalties if "penalty" in chosen else None,
        shuffle=False,
        **shared,
    )
    agree(trained, cases, [losses for losses, _ in expected])
    np.testing.assert_allclose(trained.penalty.values, torch.stack([extra for _, extra in expected]).numpy(), **CLOSE)


def test_what_is_annealed_and_drawn_before_a_step(seed: int) -> None:
    """A falling temperature and hard concrete's noise, both set before a step, seen by that step."""
    model, pairs = double("gpt2"), sweeps.random_pairs(seed, LENGTHS)
    annealed = mask_in_a_rotation(model, seed)
    mask = annealed.intervention.changes[0].edit
    drawn = HardConcrete((model.sizes["head"], 1), start=0.3, keep=True).to(model.dtype)
    copy = leaf(drawn.logits)

    def kept(h: Tensor, s: Tensor) -> Tensor:
        z = (-0.1 + 1.2 * torch.sigmoid((drawn.noise + copy) / drawn.temperature)).clamp(0, 1)
        return z * h + (1 - z) * s

    hard = Case(Intervention.of("L1.z", edit=drawn), [copy], [(1, "z", None, kept)])
    steps: list[tuple[int, int]] = []

    def before_step(step: int, count: int) -> None:
        mask.temperature = 0.7 * 0.5**step
        drawn.resample(torch.Generator().manual_seed(seed + step))
        steps.append((step, count))

    reference = Reference("gpt2", model.module, pairs)
    expected = [reference.train(case, IN_TWOS, lr=0.05, before_step=before_step)[0] for case in (annealed, hard)]
    steps.clear()
    options = {"epochs": 5, "batch": 2, "lr": 0.05, "shuffle": False, "before_step": before_step}
    trained = fit(model, pairs, [annealed.intervention, hard.intervention], **options)
    agree(trained, [annealed, hard], expected)
    assert steps == [(step, 10) for step in range(10)]


@pytest.mark.parametrize("given", ["before", "after", "beside"])
def test_given_interventions_stay_in_force(given: str, seed: int) -> None:
    """A head knocked out on the base, in an earlier layer, in a later one, and at a site that is itself changed."""
    model, pairs = double("neox"), sweeps.random_pairs(seed, LENGTHS)
    layer = {"before": 0, "after": 2, "beside": 1}[given]
    cases = [das(model, seed), das_in_a_head(model, seed)]
    reference = Reference("neox", model.module, pairs, given=[(layer, "z", None, partial(of_head, 2, lambda h, s: 0 * h))])
    expected = [reference.train(case, IN_TWOS, lr=0.03)[0] for case in cases]
    plain = Reference("neox", model.module, pairs).loss(das(model, seed), 0, "logprob")
    assert abs(plain - reference.loss(das(model, seed), 0, "logprob")).item() > 1e-4, "it matters"
    options = {"epochs": 5, "batch": 2, "lr": 0.03, "shuffle": False}
    out = Intervention.of(f"L{layer}H2.z", edit=Scale(0.0))
    agree(fit(model, pairs, [case.intervention for case in cases], given=out, **options), cases, expected)


@pytest.mark.parametrize("rows", [None, 1])
def test_interventions_that_begin_alike(rows: int | None, seed: int) -> None:
    """A frozen change before each learned one, the same object in all: their rows run together until they part."""
    model, pairs = double("gpt2"), sweeps.random_pairs(seed, LENGTHS)
    out = Change("L0H1.z", edit=Scale(0.0))
    cases = [make(model, seed) for make in (das, das_in_a_head, mask_of_heads)]
    for case in cases:
        case.intervention = Intervention((out, *case.intervention.changes))
        case.writes = [(0, "z", None, partial(of_head, 1, lambda h, s: 0 * h)), *case.writes]
    reference = Reference("gpt2", model.module, pairs)
    expected = [reference.train(case, IN_TWOS, lr=0.03)[0] for case in cases]
    where = [case.intervention for case in cases]
    agree(fit(model, pairs, where, epochs=5, batch=2, lr=0.03, shuffle=False, rows=rows), cases, expected)


# how the work is cut


def trained_so(seed: int, together: bool = True, **options: Any) -> tuple[np.ndarray, list[Tensor]]:
    """Losses and parameters of all kinds of interventions after ten steps."""
    model, pairs = double("gpt2"), sweeps.random_pairs(seed, LENGTHS)
    cases = [make(model, seed) for make in MAKERS]
    options = {"epochs": 5, "batch": 2, "lr": 0.03, "clip": 0.5, "seed": seed} | options
    groups = [[c.intervention for c in cases]] if together else [[c.intervention] for c in cases]
    losses = np.concatenate([fit(model, pairs, group, **options).loss.values for group in groups])
    return losses, [tensor for case in cases for tensor in case.found()]


def same(one: tuple[np.ndarray, list[Tensor]], other: tuple[np.ndarray, list[Tensor]]) -> None:
    np.testing.assert_allclose(one[0], other[0], **CLOSE)
    for a, b in zip(one[1], other[1], strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


@pytest.mark.parametrize("how", ["one by one", "one row", "three rows", "little memory"])
def test_how_the_work_is_cut_does_not_matter(how: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = counted(monkeypatch)
    whole, alone = trained_so(seed), len(passes)
    if how == "little memory":
        monkeypatch.setenv("INTERP_MEMORY_BYTES", "30000")
    rows = {"one row": 1, "three rows": 3}.get(how)
    same(whole, trained_so(seed, together=how != "one by one", rows=rows))
    assert len(passes) > 2 * alone, "it was cut"


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every pass from now on."""
    passes: list[int] = []
    run = wavefront.readout

    def readout(reader: Any, shard: Any, hidden: Tensor, *rest: Any) -> Tensor:
        passes.append(len(hidden))
        return run(reader, shard, hidden, *rest)

    monkeypatch.setattr(wavefront, "readout", readout)
    return passes


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_out_of_memory_in_the_middle(where: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, in the fourth pass: neither a row is lost nor a gradient counted twice."""
    whole = trained_so(seed)
    owner, name = (wavefront, "readout") if where == "forward" else (torch.autograd, "grad")
    run, calls = getattr(owner, name), []

    def fails_once(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise torch.OutOfMemoryError("injected")
        return run(*args, **kwargs)

    monkeypatch.setattr(owner, name, fails_once)
    same(whole, trained_so(seed))
    assert len(calls) > 4


def test_losses_are_found_in_a_store_by_how_they_came_about(seed: int, tmp_path: Path) -> None:
    model, pairs = double("gpt2"), sweeps.random_pairs(seed, LENGTHS)
    loss = fit(model, pairs, das(model, seed).intervention, epochs=1).loss
    run = Store(tmp_path).save(loss, name="loss")
    assert Store(tmp_path).runs(method="fit")["id"].tolist() == [run.id]
    assert run.load().identical(loss)


def test_a_pass_that_did_not_fit_is_said(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs, run, calls = double("gpt2"), sweeps.random_pairs(seed, LENGTHS), wavefront.readout, []

    def fails_twice(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) in (1, 4):
            raise torch.OutOfMemoryError("injected")
        return run(*args, **kwargs)

    monkeypatch.setattr(wavefront, "readout", fails_twice)
    halved = [fit(model, pairs, das(model, seed).intervention, epochs=2, batch=2).loss.attrs["out_of_memory"] for _ in range(2)]
    assert halved == [2, 0]


def test_what_is_measured_on_pairs_that_were_trained_on_is_in_sample(seed: int) -> None:
    model, pairs = double("gpt2"), sweeps.random_pairs(seed, LENGTHS)
    trained = fit(model, pairs[:2], das(model, seed).intervention)
    for part, in_sample, count in ((pairs[:2], True, 2), (pairs[1:], True, 1), (pairs[2:], False, 0)):
        found = patch(model, part, list(trained.interventions))
        assert isinstance(found, xr.Dataset)
        marked = effects.mark_in_sample(found, trained.loss).attrs
        assert (marked["in_sample"], marked["in_sample_examples"]) == (in_sample, count)


def test_the_order_follows_the_seed(seed: int) -> None:
    """At rate 0 and one example a step, losses tell which example came when."""
    model, pairs = double("gpt2"), sweeps.random_pairs(seed, [6, 5, 7, 6, 5, 6])

    def order(**options: Any) -> np.ndarray:
        found = fit(model, pairs, das(model, seed).intervention, epochs=4, batch=1, lr=0.0, **options).loss.values[0]
        return found.reshape(4, 6).round(9)

    one = order(seed=seed)
    assert np.array_equal(one, order(seed=seed))
    assert not np.array_equal(one, order(seed=seed + 1))
    assert len(np.unique(one)) == 6
    assert all(set(epoch) == set(one[0]) for epoch in one)
    assert len({tuple(epoch) for epoch in one}) > 1, "anew in every epoch"
    straight = order(shuffle=False)
    assert all(np.array_equal(epoch, straight[0]) for epoch in straight)
    reference = Reference("gpt2", model.module, pairs)
    by_hand = [reference.loss(das(model, seed), example, "logprob").item() for example in range(6)]
    np.testing.assert_allclose(straight[0], by_hand, **CLOSE)


def test_the_last_step_of_an_epoch_may_be_short(seed: int) -> None:
    model, pairs = double("gpt2"), sweeps.random_pairs(seed, [6, 5, 7, 6, 5])
    case = das(model, seed)
    expected, _ = Reference("gpt2", model.module, pairs).train(case, [[0, 1, 2], [3, 4]] * 5, lr=0.03)
    agree(fit(model, pairs, case.intervention, epochs=5, batch=3, lr=0.03, shuffle=False), [case], [expected])


def test_numbers_and_arrays_where_tensors_and_lists_are_meant(seed: int) -> None:
    """A penalty that is a number, rates in an array, and a caller who has gradients switched off."""
    model, pairs = double("gpt2"), sweeps.random_pairs(seed, LENGTHS)
    found = []
    for rates in ([0.01, 0.2], np.array([0.01, 0.2])):
        where = [make(model, seed).intervention for make in (das, gates)]
        with torch.no_grad():
            found.append(
                sweeps.unchecked(fit)(
                    model, pairs, where, epochs=5, batch=2, lr=rates, penalty=[lambda i: 0.25, None], seed=seed
                )
            )
    np.testing.assert_allclose(found[0].loss.values, found[1].loss.values, **CLOSE)
    assert found[0].penalty.values.tolist() == [[0.25] * 10, [0.0] * 10]


# what is refused


def refused(where: Any, words: str, error: type[Exception] = TrainingError, **options: Any) -> None:
    model = options.pop("model", double("gpt2"))
    with pytest.raises(error, match=re.escape(words)):
        sweeps.unchecked(fit)(model, sweeps.random_pairs(0, LENGTHS), where, **options)


@pytest.mark.parametrize("rows", [None, 3])
def test_whole_passes_train_as_the_wave_does(rows: int | None) -> None:
    """A model whose blocks cannot be resumed: the same losses, step by step, two interventions together."""
    losses = []
    for check in (True, False):
        model = load(sweeps.MAKERS["gpt2"](0).to(torch.float64), check=check)
        many = [das(model, 0).intervention, gates(model, 1).intervention]
        trained = fit(model, sweeps.random_pairs(5, LENGTHS), many, epochs=3, batch=2, rows=rows, lr=0.05)
        assert (model.stack is not None) == check
        losses.append(trained.loss)
    np.testing.assert_allclose(losses[0].values, losses[1].values, rtol=1e-8)
    assert float(abs(losses[0][:, -1] - losses[0][:, 0]).min()) > 1e-4, "something was learned"


def test_what_cannot_be_trained() -> None:
    model = double("gpt2")
    one, other = das(model, 0).intervention, das(model, 1).intervention
    refused([one, other, one], "interventions 0 and 2 share a learned part")
    tied = Intervention.of("L0.resid_post", featurizer=one.changes[0].featurizer)
    refused([one, tied], "interventions 0 and 1 share a learned part")
    refused([one, Intervention.of("L0.z")], "has nothing to learn")
    refused(Intervention.of("L0.z", edit=Gate((4, 1)).requires_grad_(False)), "has nothing to learn")
    refused(one, "what is given shares a learned part with what is trained", given=tied)
    for metric in ("accuracy", "top1"):
        refused(one, f"metric '{metric}' counts or compares, so it has no gradient", metric=metric)


def test_numbers_that_make_no_sense() -> None:
    one, other = (das(double("gpt2"), seed).intervention for seed in (0, 1))
    refused(one, "epochs=0", ValueError, epochs=0)
    refused(one, "batch=0", ValueError, batch=0)
    refused(one, "rows=0", ValueError, rows=0)
    refused([one, other], "lr has 3 entries for 2 interventions", ValueError, lr=[0.1, 0.1, 0.1])
    refused([one, other], "penalty has 1 entries for 2 interventions", ValueError, penalty=[None])
    refused([], "empty list", ValueError)
    refused(one, "clip=-1.0", ValueError, clip=-1.0)
    refused(one, "metric names logprob, kl; one is raised", ValueError, metric=["logprob", "kl"])
    refused(one, "unknown patching 'nosing'; did you mean 'noising'", UnknownNameError, patching="nosing")


# what is left behind


@pytest.fixture
def used() -> Iterator[Any]:
    """A model in training mode, half its parameters frozen, with gradients and hooks of transformers' own; left as it was.

    transformers leaves hooks that collect hidden states on a model that was once asked for them; they refuse nothing.
    """
    module = sweeps.MAKERS["gpt2"](0).double().train()
    for number, parameter in enumerate(module.parameters()):
        parameter.grad = torch.full_like(parameter, 7.0)
        parameter.requires_grad_(number % 2 == 0)
    module(torch.tensor([[1, 2]]), output_hidden_states=True)
    assert any(inner._forward_hooks for inner in module.modules())
    model = load(module)
    before = inventory(module)
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    yield model
    assert inventory(module) == before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in module.state_dict().items())
    assert all(bool((parameter.grad == 7).all()) for parameter in module.parameters())


def inventory(module: nn.Module) -> list[Any]:
    """Modes, gradients' switches, hooks and replaced forwards."""
    own = [
        (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), "forward" in vars(m))
        for m in module.modules()
    ]
    return [*own, *(p.requires_grad for p in module.parameters()), module.config._attn_implementation]


def test_the_model_is_left_as_it_was(used: Any, seed: int) -> None:
    cases = [das(used, seed), gates(used, seed)]

    def frozen(step: int, steps: int) -> None:
        assert not any(
            parameter.requires_grad or module.training for module in used.module.modules() for parameter in module.parameters()
        )

    fit(used, sweeps.random_pairs(seed, LENGTHS), [case.intervention for case in cases], batch=2, before_step=frozen)
    for parameter in (p for case in cases for p in learnable(case.intervention)):
        assert parameter.grad is None
        assert parameter.requires_grad
        assert parameter.is_leaf


@pytest.mark.parametrize("where", ["before a step", "forward", "backward", "penalty", "metric without gradient"])
def test_the_model_is_left_as_it_was_after_an_error(where: str, used: Any, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("injected")

    options: dict[str, Any] = {"before_step": fails} if where == "before a step" else {}
    options |= {"penalty": fails} if where == "penalty" else {}
    if where == "metric without gradient":
        options["metric"] = "accuracy"
    if where in ("forward", "backward"):
        owner, name = (wavefront, "readout") if where == "forward" else (torch.autograd, "grad")
        monkeypatch.setattr(owner, name, fails)
    with pytest.raises(
        TrainingError if "metric" in options else RuntimeError, match="no gradient" if "metric" in options else "injected"
    ):
        fit(used, sweeps.random_pairs(seed, LENGTHS), gates(used, seed).intervention, **options)


@pytest.mark.parametrize("left_by", ["its user", "a step that was broken off"])
def test_training_again_begins_anew(left_by: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient that was left on a parameter is not part of the next step."""
    model, pairs = double("gpt2"), sweeps.random_pairs(seed, LENGTHS)
    case = das(model, seed)
    (parameter,) = learnable(case.intervention)
    if left_by == "its user":
        parameter.grad = torch.full_like(parameter, 1e3)
    else:
        with monkeypatch.context() as patch:
            patch.setattr(torch.autograd, "grad", failing_from(2))
            with pytest.raises(RuntimeError, match="injected"):
                fit(model, pairs, case.intervention, rows=1)
        assert parameter.grad is None
    expected, _ = Reference("gpt2", model.module, pairs).train(case, IN_TWOS, lr=0.03)
    agree(fit(model, pairs, case.intervention, epochs=5, batch=2, lr=0.03, shuffle=False), [case], [expected])


def failing_from(call: int) -> Callable[..., Any]:
    """autograd's ``grad``, until then."""
    run, calls = torch.autograd.grad, []

    def grad(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) >= call:
            raise RuntimeError("injected")
        return run(*args, **kwargs)

    return grad


def test_sources_other_than_the_other_prompt(seed: int) -> None:
    """A gate that lets zeros through where it is shut is a gate without a source."""
    model, pairs = double("gpt2"), sweeps.random_pairs(seed, LENGTHS)
    plain = gates(model, seed)
    mixing = [Gate((model.sizes["head"], 1), seed=seed + layer, source=True).to(model.dtype) for layer in range(3)]
    where = Intervention(tuple(Change(f"L{layer}.z", edit=gate, source=Constant(0.0)) for layer, gate in enumerate(mixing)))
    losses = [fit(model, pairs, i, epochs=5, batch=2, lr=0.1).loss.values for i in (plain.intervention, where)]
    np.testing.assert_allclose(*losses, **CLOSE)
