"""Ablation, against the formulas of a linear read-out and against plain torch hooks.

Tolerance: 1e-5 × (1 + max |logit|) in float32; these models' logits are below 10.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import sweeps
import torch
from torch import Tensor, nn

from interp import effects
from interp.engine import patch
from interp.engine.prepared import prepare
from interp.errors import AnswerError, InputError, ShapeMismatchError, UnknownNameError, UnknownSiteError
from interp.interventions import Activation, Change, ConstantVector, Intervention, Scale, resample
from interp.methods.ablation import ablate, ablation, optimal_constants
from interp.metrics.protocol import Readout, Reads
from interp.models import Model, load
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import grid

ATOL = 1e-5 * 11


@dataclass(frozen=True, slots=True)
class Squared:
    """Squared difference from the model as it is, at its one output."""

    name: str = "squared"
    reads: Reads = Reads(reference=True)
    unit: str = ""

    def __call__(self, readout: Readout) -> Tensor:
        assert readout.reference is not None
        return (readout.logits - readout.reference).square().flatten(2).sum(-1)


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear read-out of four units, in float64, and 32 inputs."""

    model: Model
    prompts: list[Prompt]
    w: Tensor
    mean: Tensor
    variance: Tensor

    @classmethod
    def draw(cls, seed: int) -> Linear:
        generator = torch.Generator().manual_seed(seed)
        net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)).double()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        inputs = torch.randn(32, 3, generator=generator).double() + 0.5
        h = net[0](inputs).detach()
        model = load(net, example={"input": inputs[:3]}, name="linear")
        prompts = [Prompt(inputs={"input": row}) for row in inputs]
        return cls(model, prompts, net[1].weight[0].detach(), h.mean(0), h.var(0, correction=0))


def mean_of(ds: Any) -> np.ndarray[Any, Any]:
    return ds["value"].mean("example").values.squeeze()


def close(found: Any, expected: Any, atol: float = ATOL) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


# a linear read-out with squared loss


def test_zero_mean_and_optimal_of_a_linear_read_out(seed: int) -> None:
    """w²(σ² + μ²), w²σ² and w²σ² of each unit; the optimum is where training begins, so that it stays there."""
    net, where = Linear.draw(seed), grid("0:output", unit=...)
    zero = mean_of(ablate(net.model, net.prompts, where, "zero", Squared()))
    close(zero, net.w**2 * (net.variance + net.mean**2), 1e-10 * (1 + zero.max()))
    mean = mean_of(ablate(net.model, net.prompts, where, "mean", Squared()))
    close(mean, net.w**2 * net.variance, 1e-10 * (1 + mean.max()))
    found = ablate(net.model, net.prompts, where, "optimal", Squared(), loss=Squared(), steps=5)
    close(mean_of(found), mean, 1e-10 * (1 + mean.max()))


def test_the_optimum_is_found_from_elsewhere(seed: int) -> None:
    """Of the loss (w·(c − h) − 3)² the optimum is c = μ + 3/w, where the loss is w²σ²; at the mean it is w²σ² + 9."""
    net = Linear.draw(seed)
    unit = int(net.w.abs().argmax())

    @dataclass(frozen=True, slots=True)
    class Shifted(Squared):
        """Squared difference from the output plus 3."""

        def __call__(self, readout: Readout) -> Tensor:
            assert readout.reference is not None
            return (readout.logits - readout.reference - 3.0).square().flatten(2).sum(-1)

    where = grid("0:output", unit=[unit])
    found = optimal_constants(net.model, net.prompts, where, loss=Shifted(), steps=1000, lr=0.5)
    w, h = float(net.w[unit]), float(net.variance[unit])
    assert found.mean[0] == pytest.approx(w**2 * h + 9, rel=1e-6)
    assert found.optimal[0] == pytest.approx(w**2 * h, rel=1e-3)


def test_resampling_of_a_linear_read_out(seed: int) -> None:
    """2w²σ² n / (n − 1), because the partner is another example: the mean over seeds, within 4 standard errors."""
    net, where = Linear.draw(seed), grid("0:output", unit=...)
    draws = np.stack([mean_of(ablate(net.model, net.prompts, where, "resample", Squared(), seed=s)) for s in range(40)])
    expected = (2 * net.w**2 * net.variance * 32 / 31).numpy()
    assert (np.abs(draws.mean(0) - expected) <= 4 * draws.std(0) / np.sqrt(40) + 1e-12).all()
    assert draws.std(0).min() > 0


# networks


@pytest.fixture
def pairs(seed: int) -> Pairs:
    return sweeps.random_pairs(seed, [6, 4, 5, 7], early=True)


def third(logits: Tensor) -> Tensor:
    return logits[..., 3]


def test_the_mean_over_the_tokens_that_a_cell_changes(pairs: Pairs) -> None:
    """Role by role, prompts of different length: by hooks, block 1's output."""
    model, module = sweeps.model("gpt2"), sweeps.model("gpt2").module
    states = [sweeps.record(module, "transformer.h.1", pair.clean.text)[0] for pair in pairs]
    found = ablate(model, pairs, grid("resid_post", layer=[1], position=["subject", "end"]), "mean", third)
    for k, role in enumerate(("subject", "end")):
        spans = [slice(*pair.clean.roles[role]) for pair in pairs]
        mean = torch.cat([h[span] for h, span in zip(states, spans, strict=True)]).mean(0)
        for i, (pair, span) in enumerate(zip(pairs, spans, strict=True)):

            def change(h: Tensor, span: slice = span, mean: Tensor = mean) -> Tensor:
                h = h.clone()
                h[0, span] = mean
                return h

            expected = sweeps.rerun(module, "transformer.h.1", pair.clean.text, change)[3]
            close(found["value"].values[0, 0, k, i], float(expected))
    assert found.attrs["ablation"] == {"kind": "mean", "reference": "base", "over": ["example", "span"], "by": None}
    assert found.attrs["patching"] == "noising"


def test_zero_and_resample_are_patches(pairs: Pairs) -> None:
    model, where = sweeps.model("gpt2"), grid("z", layer=..., head=..., position=["end"])
    zero = ablate(model, pairs, where, "zero")
    same = patch(model, pairs, where, edit=Scale(0.0), patching="noising")
    close(zero["value"], same["value"])
    drawn = ablate(model, pairs, where, "resample", seed=2)
    close(drawn["value"], patch(model, pairs, where, source=resample(2, "base"), patching="noising")["value"])
    other = ablate(model, pairs, where, "resample", seed=2, reference="counterfactual")
    close(other["value"], patch(model, pairs, where, source=resample(2), patching="noising")["value"])
    assert other.attrs["ablation"] == {"kind": "resample", "reference": "counterfactual", "seed": 2}


@pytest.mark.parametrize("loss", ["kl", "metric"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_optimum_is_never_worse_on_the_prompts_it_was_trained_on(kind: str, loss: Any, pairs: Pairs) -> None:
    model, where = sweeps.model(kind), grid("z", layer=..., head=..., position=["end"])
    metric = "kl" if loss == "kl" else "logit_diff"
    sign = 1 if loss == "kl" else -1
    zero, mean, best = (
        sign * mean_of(ablate(model, pairs, where, of, metric, loss=loss, steps=20)) for of in ("zero", "mean", "optimal")
    )
    assert (best <= np.minimum(zero, mean) + ATOL).all()
    assert best.mean() < np.minimum(zero, mean).mean() - 1e-3, "training gains something"


def test_the_loss_of_the_constants_is_that_of_a_hook_that_writes_them(pairs: Pairs) -> None:
    model, module = sweeps.model("gpt2"), sweeps.model("gpt2").module
    where = grid("resid_post", layer=[0, 2], position=["subject"])
    found = optimal_constants(model, pairs, where, steps=10)
    for cell, layer in enumerate((0, 2)):
        edit = found.interventions[cell].changes[0].edit
        assert isinstance(edit, ConstantVector)
        losses = []
        for pair in pairs:
            span, path = slice(*pair.clean.roles["subject"]), f"transformer.h.{layer}"

            def change(h: Tensor, span: slice = span, edit: ConstantVector = edit) -> Tensor:
                h = h.clone()
                h[0, span] = edit.value.detach()
                return h

            with torch.no_grad():
                clean = module(torch.tensor([pair.clean.text])).logits[0, -1].log_softmax(-1)
            left = sweeps.rerun(module, path, pair.clean.text, change).log_softmax(-1)
            losses.append(float((clean.exp() * (clean - left)).sum()))
        close(found.optimal[cell], np.mean(losses))
    result = ablate(model, pairs, where, "optimal", "kl", steps=10)
    close(mean_of(result), found.optimal)
    said = result.attrs["ablation"]
    assert said["in_sample"] is True
    assert (said["steps"], said["loss"]) == (10, "kl")
    assert said["loss_optimal"] <= min(said["loss_zero"], said["loss_mean"])
    assert result.attrs["spec"]["ablation"]["kind"] == "optimal"


def test_heads_ablated_together_and_on_a_changed_base(pairs: Pairs) -> None:
    model = sweeps.model("gpt2")
    both = [Intervention.of("L1H0.z@end", "L2H3.z@end"), Intervention.of("L1H0.z@end")]
    given = Intervention.of(Change("L0.resid_post", "end", edit=Scale(0.5)))
    for kind in ("zero", "mean", "optimal"):
        found = ablate(model, pairs, both, kind, "kl", given=given, steps=10)
        assert found.sizes["cell"] == 2
        assert found.attrs["given"] == repr(given)
    constants = optimal_constants(model, pairs, both, given=given, steps=10)
    assert [len(one.changes) for one in constants.interventions] == [2, 1]
    assert (constants.optimal <= np.minimum(constants.zero, constants.mean)).all()


def test_with_parts_held(pairs: Pairs) -> None:
    """What is ablated is what :func:`patch` would change with the same parts held; with the rest held nothing comes through."""
    model, heads = sweeps.model("gpt2"), grid("z", layer=[0, 1], head=..., position=["end"])
    parts = ("pattern", "L2.mlp_out")
    found = ablate(model, pairs, heads, "zero", "kl", hold=parts)
    same = patch(model, pairs, heads, "kl", edit=Scale(0.0), patching="noising", hold=parts)
    np.testing.assert_allclose(found["value"], same["value"], atol=ATOL)
    assert found.attrs["hold"] == same.attrs["hold"] == ["pattern", "L2.mlp_out"]
    assert float(abs(found["value"] - ablate(model, pairs, heads, "zero", "kl")["value"]).max()) > 1e-4
    blocked = ablate(model, pairs, "L0H1.z", "optimal", "kl", hold="L2.resid_post", steps=5)
    assert float(abs(effects.effect(blocked)).max()) <= ATOL


def test_several_grids_are_a_tree_and_absent_sites_stay_absent(pairs: Pairs) -> None:
    found = ablate(
        sweeps.model("gpt2"),
        pairs,
        {"heads": grid("z", layer=[1], head=..., position=["end"]), "mlps": grid("mlp_out", layer=..., position=["end"])},
        "optimal",
        steps=5,
    )
    assert found["heads"]["value"].dims == ("metric", "layer", "head", "position", "example")
    assert found["mlps"].attrs["ablation"]["kind"] == "optimal"
    assert effects.effect(found["mlps"].to_dataset()).notnull().all()


def test_plain_prompts(pairs: Pairs) -> None:
    """Without a contrast the divergence from the model as it is is measured, which is what pairs give for it."""
    model, where = sweeps.model("gpt2"), grid("z", layer=..., head=...)
    alone = ablate(model, [pair.clean.text for pair in pairs], where, "zero")
    assert alone.metric.values.tolist() == ["kl"]
    close(alone["value"], ablate(model, pairs, where, "zero", "kl")["value"])
    close(ablate(model, pairs[0].clean, where, "mean")["value"].values[..., 0] >= 0, True)


# what is refused


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"kind": "men"}, UnknownNameError, "did you mean 'mean'"),
        ({"prompts": "clen"}, UnknownNameError, "unknown prompts 'clen'"),
        ({"reference": "other"}, UnknownNameError, "unknown reference 'other'"),
        ({"kind": "zero", "by": "template"}, ValueError, "are for kind='mean', but kind='zero'"),
        ({"kind": "zero", "reference": "counterfactual"}, ValueError, "is for kind='mean' and 'resample'"),
        ({"kind": "optimal", "prompts": "corrupted"}, ValueError, "loss='kl' compares with the clean prompts' run"),
        ({"kind": "optimal", "where": grid("L1.pattern", position="end")}, UnknownSiteError, "another length in every prompt"),
        ({"pairs": [(1, 2)], "where": grid("L1.z"), "metric": "logprob"}, AnswerError, "needs the 'answers'"),
        ({"pairs": [(1, 2, 3)], "reference": "counterfactual"}, InputError, "prompts without one"),
        ({"pairs": []}, InputError, "prompts is empty"),
        ({"where": ["L1.z", Change("L2.z")]}, ValueError, "expected a grid"),
        ({"unequal": "first"}, UnknownNameError, "unknown unequal 'first'"),
        ({"unequal": "mean"}, ValueError, "unequal='mean' is for kind='resample', but kind='mean'"),
        ({"kind": "optimal", "metric": "logit_dif"}, UnknownNameError, "did you mean 'logit_diff'"),
        (
            {"kind": "optimal", "pairs": [(1, 2, 3)], "where": grid("L1.z"), "metric": "prob"},
            AnswerError,
            "needs the 'answers'",
        ),
        (
            {"pairs": [(1, 2, 3), (1, 2, 3, 4)], "kind": "resample", "where": grid("L1.z")},
            ShapeMismatchError,
            "so change tokens that all prompts have: position=-1, or a role",
        ),
        ({"pairs": [(1, 2, 3)], "kind": "resample"}, InputError, "the values of other prompts, and this is one alone"),
    ],
)
def test_refusals(options: dict[str, Any], error: type[Exception], words: str, pairs: Pairs) -> None:
    asked: dict[str, Any] = {"pairs": pairs, "where": grid("z", layer=..., head=..., position=["end"])} | options
    with pytest.raises(error, match=words):
        sweeps.unchecked(ablate)(sweeps.model("gpt2"), **asked)


def test_the_mean_of_the_pairs_other_prompts(seed: int) -> None:
    """reference="counterfactual": the mean over the corrupted prompts' own tokens at the role, by hooks."""
    model, module = sweeps.model("gpt2"), sweeps.model("gpt2").module
    pairs = sweeps.random_pairs(seed, [6, 5, 7], longer=[1, 2, -1])
    found = ablate(model, pairs, grid("L1.resid_post", position="subject"), "mean", third, reference="counterfactual")
    spans = [(p.corrupted.text, slice(*p.corrupted.roles["subject"])) for p in pairs]
    mean = torch.cat([sweeps.record(module, "transformer.h.1", text)[0, span] for text, span in spans]).mean(0)
    for i, pair in enumerate(pairs):

        def change(h: Tensor, span: slice = slice(*pair.clean.roles["subject"])) -> Tensor:
            h = h.clone()
            h[0, span] = mean
            return h

        close(found["value"].values[0, i], float(sweeps.rerun(module, "transformer.h.1", pair.clean.text, change)[3]))
    assert isinstance(pairs[0], Pair)


def test_resampled_spans_of_unequal_length_follow_the_rule() -> None:
    """What ablate says of unequal= is what patch does with a source that says it."""
    model = sweeps.model("gpt2")
    prompts = [Prompt((1, 2, 3, 4), {"it": (1, 2)}), Prompt((5, 6, 7, 8, 9), {"it": (1, 4)})]
    where = grid("z", layer=..., position="it")
    found = {}
    for rule in ("last", "mean"):
        found[rule] = ablate(model, prompts, where, "resample", unequal=rule)
        same = patch(
            model, prompts, where, "kl", patching="noising", source=Activation("base", pool="resample", seed=0, unequal=rule)
        )
        np.testing.assert_array_equal(found[rule]["value"], same["value"])
    assert not np.allclose(found["last"]["value"], found["mean"]["value"])
    with pytest.raises(ShapeMismatchError, match="unequal='last'"):
        ablate(model, prompts, where, "resample", unequal="refuse")


def test_optimal_constants_are_prepared_for_once(monkeypatch: pytest.MonkeyPatch, pairs: Pairs) -> None:
    """Besides what training and its losses prepare."""
    prepared = []
    monkeypatch.setattr(ablation, "prepare", lambda *a: prepared.append(a[3]) or prepare(*a))
    ablate(sweeps.model("gpt2"), pairs, grid("L1.z", position="end"), "optimal", "logit_diff", steps=1)
    assert [metrics[0].name for metrics in prepared] == ["−kl", "logit_diff"]
