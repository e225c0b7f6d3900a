"""Integrated gradients: completeness along both paths, exactness for linear networks, and the surface.

Completeness (Sundararajan et al., arXiv 1703.01365, proposition 1): along a straight line the attributions of what moves sum to
the difference of its ends. Tolerances are 1e-10 relative to the largest value in float64 where nothing else is said.
"""

from __future__ import annotations

from typing import Any

import nets_localise_attribution as nets
import numpy as np
import pytest
import sweeps
import tiny
import torch
from torch import Tensor

import interp
from interp import effects
from interp.engine import attribute, patch
from interp.errors import InputError, UnequalLengthsError, UnknownNameError
from interp.interventions import Activation, Add, Change, Constant, Interpolate, Intervention, Noise, Scale
from interp.methods.localise.integrated_gradients import integrated_gradients, nodes
from interp.models import load
from interp.sites import Site, grid
from interp.store import Store

KINDS = ("gpt2", "llama", "neox", "gemma2")


def moved(ds: Any) -> np.ndarray[Any, Any]:
    return effects.effect(ds.to_dataset() if hasattr(ds, "to_dataset") else ds).values


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("patching", ["denoising", "noising"])
def test_embeddings_add_up_to_the_difference_of_the_prompts(kind: str, patching: Any, seed: int) -> None:
    """Every token's embedding is on the path, and nothing else moves: Σ over positions = M(source) − M(base).

    On the path an RMSNorm of 32 random numbers may come near 0, so the steps grow until what is left is 1e-3 of the largest.
    """
    model, pairs = sweeps.model(kind, torch.float64), sweeps.random_pairs(seed, [5, 5], early=True)
    where, metric = grid("embed", position=...), ["logprob"]  # smooth; the best of two answers is not
    for steps in (60, 240, 960):
        found = integrated_gradients(model, pairs, where, metric, steps=steps, patching=patching)
        ends = (found["clean"] - found["corrupt"]).values * (1 if patching == "denoising" else -1)
        error = abs(moved(found).sum(1) - ends).max()
        if error <= 1e-3 * (1 + abs(ends).max()):
            break
    else:
        pytest.fail(f"{error} is left of {ends} after {steps} steps")
    assert error < 0.05 * abs(moved(attribute(model, pairs, where, metric, patching=patching)).sum(1) - ends).max()


@pytest.mark.parametrize("kind", KINDS)
def test_cells_of_one_tensor_add_up_to_their_joint_effect(kind: str, seed: int) -> None:
    """Along activations Σ over the cells of a tensor = the exact effect of making all of them."""
    model, pairs = sweeps.model(kind, torch.float64), sweeps.random_pairs(seed, [5, 5, 5], early=True)
    where = {
        "z": grid("z", layer=[0, 1], head=...),
        "stream": grid("resid_post", layer=[0, 2], position=...),
        "units": grid("mlp_post", layer=[1], unit=...),
    }
    whole = {"z": grid("z", layer=[0, 1]), "stream": grid("resid_post", layer=[0, 2]), "units": grid("mlp_post", layer=[1])}
    exact = patch(model, pairs, whole, "logprob", patching="noising")
    found = integrated_gradients(model, pairs, where, "logprob", along="activations", steps=120, patching="noising")
    for name in where:
        expected = moved(exact[name])
        np.testing.assert_allclose(moved(found[name]).sum(2), expected, atol=1e-2 * (1 + abs(expected).max()), err_msg=name)
    stream, ends = moved(found["stream"]).sum(2)[0], (found["stream"]["corrupt"] - found["stream"]["clean"]).values
    np.testing.assert_allclose(stream, np.repeat(ends, 2, 0), atol=1e-2 * (1 + abs(ends).max()), err_msg="a full cut")


@pytest.mark.parametrize(("quadrature", "order"), [("right", 1), ("midpoint", 2)])
def test_the_error_falls_with_the_steps_as_the_quadrature_says(quadrature: Any, order: int, seed: int) -> None:
    """The error of the right rule is of order 1/m, that of the midpoint rule of order 1/m²; Gauss's is below both at 40."""
    model, pairs = sweeps.model("gpt2", torch.float64), sweeps.random_pairs(seed, [5, 5, 5], early=True)
    where = grid("embed", position=...)

    def error(steps: int, rule: Any) -> Any:
        found = integrated_gradients(model, pairs, where, "logprob", steps=steps, quadrature=rule)
        return (moved(found).sum(1) - (found["clean"] - found["corrupt"]).values)[0]

    few, many, gauss = error(40, quadrature), error(80, quadrature), error(40, "gauss")
    clear = abs(few) > 1e-7  # by chance the leading term of one example may be next to nothing
    np.testing.assert_allclose((few / many)[clear], 2.0**order, rtol=0.3)
    assert abs(gauss).max() < abs(many).max()


def test_quadratures() -> None:
    """m points of Gauss and Legendre integrate every polynomial of degree below 2m: ∫ α^k = 1 / (k + 1)."""
    for steps in (1, 2, 5):
        at, weight = nodes("gauss", steps)
        for degree in range(2 * steps):
            assert (weight * at**degree).sum() == pytest.approx(1 / (degree + 1), rel=1e-12)
        assert (weight * at ** (2 * steps)).sum() != pytest.approx(1 / (2 * steps + 1), rel=1e-6)
    assert nodes("right", 4).at.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert nodes("midpoint", 2).at.tolist() == [0.25, 0.75]
    assert all(nodes(rule, 7).weight.sum() == pytest.approx(1) for rule in ("gauss", "midpoint", "right"))


@pytest.mark.parametrize("along", ["embeddings", "activations"])
@pytest.mark.parametrize("quadrature", ["gauss", "midpoint", "right"])
def test_one_step_is_exact_for_a_linear_network(along: Any, quadrature: Any, seed: int) -> None:
    """The gradient is the same everywhere, so every point of any path gives the exact effect; so does AtP (card 4, test 1)."""
    model, pairs = nets.linear(seed), sweeps.random_pairs(seed, [5, 5, 5], early=True)
    where = {name: grid(name, head=...) for name in ("z", "v", "result")} | {"mlp": grid("mlp_out", position=...)}
    where |= {"embed": grid("embed", position=...), "stream": grid("resid_mid", position=...)}
    where |= {"unit": grid("mlp_post", unit=[0, 7])}
    exact = patch(model, pairs, where, third)
    found = integrated_gradients(model, pairs, where, third, along=along, steps=1, quadrature=quadrature)
    slopes = attribute(model, pairs, where, third)
    for name in where:
        expected, most = moved(exact[name]), 1 + abs(exact[name]["value"].values).max()
        np.testing.assert_allclose(moved(found[name]), expected, rtol=0, atol=1e-10 * most, err_msg=name)
        np.testing.assert_allclose(moved(slopes[name]), expected, rtol=0, atol=1e-10 * most, err_msg=name)
        assert abs(expected).max() > 1e-3


def third(logits: Tensor) -> Tensor:
    """Linear in the logits."""
    return logits[..., 3] - 2 * logits[..., 5]


def test_effects_over_a_full_cut_of_a_linear_network_sum_to_one(seed: int) -> None:
    """Embeddings, layer-0 attention and layer-0 MLP are all that the stream behind layer 0 is made of (card 1, test 3)."""
    model, pairs = nets.linear(seed), sweeps.random_pairs(seed, [5, 5, 5], early=True)
    where = {"embed": grid("embed"), "attention": grid("attn_out", layer=[0]), "mlp": grid("mlp_out", layer=[0])}
    for along in ("embeddings", "activations"):
        hold = ("L0.attn_out", "L0.mlp_out")  # each part reaches the stream behind layer 0 by itself alone
        found = integrated_gradients(model, pairs, where, third, steps=1, hold=hold, along=along)
        total = (found["embed"]["clean"] - found["embed"]["corrupt"]).values[0]
        parts = [moved(found[name]).reshape(len(pairs)) / total for name in where]
        np.testing.assert_allclose(sum(parts), 1.0, atol=1e-9)
        assert all(abs(part).max() > 1e-3 for part in parts)


def test_slopes_along_embeddings_are_those_of_the_runs_between(seed: int) -> None:
    """One point in the middle: gradients of the raw network between the two prompts, by plain torch, times a' − a.

    As EAP-IG's "inputs": the step is that of the two runs, the gradient that of the embeddings in between.
    """
    module = tiny.gpt2(seed).double()
    model, pairs = load(module), sweeps.random_pairs(seed, [5, 5], early=True)
    found = integrated_gradients(model, pairs, grid("attn_out", position=...), "logprob", steps=1)
    net: Any = module
    for i, pair in enumerate(pairs):
        if len(pair.answers) > 1:
            continue
        clean, corrupted = (torch.tensor([list(p.text)]) for p in (pair.clean, pair.corrupted))
        held = {"clean": record(net, clean), "corrupted": record(net, corrupted)}
        between = (0.5 * (net.transformer.wte(clean) + net.transformer.wte(corrupted))).detach().requires_grad_()
        outs: list[Tensor] = []
        value = net_with(net, outs, inputs_embeds=between)[0, -1].log_softmax(-1)[pair.answers[0]]
        for layer, gradient in enumerate(torch.autograd.grad(value, outs)):
            expected = (gradient[0] * (held["clean"][layer] - held["corrupted"][layer])[0]).sum(-1)
            np.testing.assert_allclose(moved(found)[0, layer, :, i], expected.numpy(), atol=1e-5)


def net_with(net: Any, outs: list[Tensor], **inputs: Tensor) -> Tensor:
    """Logits, and what every attention adds."""
    hooks = [layer.attn.register_forward_hook(lambda m, a, out: outs.append(out[0])) for layer in net.transformer.h]
    logits: Tensor = net(**inputs).logits
    for hook in hooks:
        hook.remove()
    return logits


@torch.no_grad()
def record(net: Any, ids: Tensor) -> list[Tensor]:
    outs: list[Tensor] = []
    net_with(net, outs, input_ids=ids)
    return outs


def test_cells_of_several_tensors_and_those_that_overlap_go_alone(seed: int) -> None:
    """Each alone, such a cell is its own full cut: its estimate is its exact effect."""
    model, pairs = sweeps.model("gpt2", torch.float64), sweeps.random_pairs(seed, [5, 5], early=True)
    several = [Intervention.of("L0.z", "L1.mlp_out"), Intervention.of("L1.z"), Intervention.of("L1H0.z", source=Constant(0.3))]
    several += [Intervention.of("L2.mlp_out", edit=Scale(0.5)), Intervention.of("L2.mlp_out@-1", edit=Interpolate(0.5))]
    windows = grid("z", window=2)
    for where in (several, windows):
        exact = moved(patch(model, pairs, where, "logprob"))
        found = moved(integrated_gradients(model, pairs, where, "logprob", along="activations", steps=40))
        np.testing.assert_allclose(found, exact, atol=1e-4 * (1 + abs(exact).max()))


def test_what_is_given_and_held_is_in_force_along_the_path(seed: int) -> None:
    model, pairs = sweeps.model("gpt2", torch.float64), sweeps.random_pairs(seed, [5, 5], early=True)
    given, hold = Intervention.of("L1.mlp_out", edit=Scale(0.5)), ("pattern", "ln_scale")
    where = grid("resid_post", layer=[0], position=...)
    exact = moved(patch(model, pairs, grid("resid_post", layer=[0]), "logprob", given=given, hold=hold))
    found = integrated_gradients(model, pairs, where, "logprob", along="activations", steps=40, given=given, hold=hold)
    np.testing.assert_allclose(moved(found).sum(2), exact, atol=1e-4 * (1 + abs(exact).max()))
    inputs = integrated_gradients(model, pairs, grid("embed", position=...), "logprob", steps=40, given=given, hold=hold)
    ends = moved(patch(model, pairs, grid("embed"), "logprob", given=given, hold=hold))
    np.testing.assert_allclose(moved(inputs).sum(1), ends.reshape(1, -1), atol=1e-4 * (1 + abs(ends).max()))
    assert (
        inputs.attrs["hold"] == ["pattern", *[repr(s) for s in model.sites() if s.name.endswith("_scale")]]
        or inputs.attrs["hold"]
    )


@pytest.mark.parametrize("along", ["embeddings", "activations"])
def test_batches_rules_and_padding(along: Any, seed: int) -> None:
    """Examples apart give the numbers of all together; what is known by rule is the base to the bit."""
    model, pairs = sweeps.model("llama", torch.float32), sweeps.random_pairs(seed, [5, 6, 4])
    where = {"z": grid("z", head=...), "stream": grid("resid_post", position=[0, -1])}
    options = {"along": along, "steps": 3}
    every = integrated_gradients(model, pairs, where, **options)
    some = integrated_gradients(model, pairs, where, rows=1, **options)
    assert (every["z"].attrs["passes"], some["z"].attrs["passes"]) == (1, 3)
    for name in where:
        np.testing.assert_allclose(some[name]["value"], every[name]["value"], atol=1e-4)
        rule = every[name]["by_rule"].values
        assert (moved(every[name])[0][rule] == 0).all()
    assert every["stream"]["by_rule"].any()


def test_a_run_is_kept_and_made_again(seed: int, tmp_path: Any) -> None:
    model = interp.load("zoo/induction-2l")
    prompts = [(interp.Prompt((5, 9, 7, 5, w)), interp.Prompt((5, 9, 8, 5, 9))) for w in (7, 9)]
    pairs = interp.Pairs(tuple(interp.Pair(clean, corrupted, (9,), (8,)) for clean, corrupted in prompts))
    first = integrated_gradients(model, pairs, grid("z", head=...), store=tmp_path, name="ig", steps=3)
    assert first.attrs["method"] == "integrated_gradients"
    assert {key: first.attrs[key] for key in ("estimate", "along", "steps", "quadrature")} == {
        "estimate": "integrated gradients", "along": "embeddings", "steps": 3, "quadrature": "gauss",
    }  # fmt: skip
    assert integrated_gradients(model, pairs, grid("z", head=...), store=tmp_path, steps=3).identical(first)
    integrated_gradients(model, pairs, grid("z", head=...), store=tmp_path, steps=4)
    assert len(list(Store(tmp_path))) == 2, "another number of steps is another run"
    assert interp.rerun(Store(tmp_path).run("ig")).worst.largest == 0
    assert effects.validate(first) is first
    assert interp.top(first, 3)["cell"].str.startswith("L").all()
    assert interp.views.heatmap(first).data


def test_mistakes_are_named(seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [5, 5])
    where = grid("z", head=...)
    with pytest.raises(UnknownNameError, match=r"unknown along 'inputs'.*embeddings, activations"):
        sweeps.unchecked(integrated_gradients)(model, pairs, where, along="inputs")
    with pytest.raises(UnknownNameError, match=r"unknown quadrature 'simpson'.*gauss, midpoint, left, right, trapezoid"):
        sweeps.unchecked(integrated_gradients)(model, pairs, where, quadrature="simpson")
    with pytest.raises(ValueError, match="steps=0; expected at how many points gradients are taken, a whole number from 1 on"):
        integrated_gradients(model, pairs, where, steps=0)
    with pytest.raises(ValueError, match=r"steps=2\.5; expected at how many points"):
        sweeps.unchecked(integrated_gradients)(model, pairs, where, steps=2.5)
    with pytest.raises(InputError, match="goes from one prompt of a pair to the other, but these are no pairs"):
        integrated_gradients(model, [(1, 2, 3)], where, "logprob", source=Activation("base"), edit=Scale(0.5))
    with pytest.raises(UnequalLengthsError, match="embed"):
        integrated_gradients(model, sweeps.random_pairs(seed, [5, 5], longer=[1, 0]), grid("z", head=..., position="end"))
    with pytest.raises(InputError, match=r"^_Bare has no token embeddings, so along='embeddings' has no path to go"):
        integrated_gradients(load(_Bare().double()), pairs, grid(Site.parse("out:output"), position=[-1]))


class _Bare(torch.nn.Module):
    """Tokens enter by a table that is no embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = torch.nn.Parameter(torch.randn(97, 8)), torch.nn.Linear(8, 97)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.out(self.table[input_ids])


@pytest.mark.parametrize("patching", ["denoising", "noising"])
def test_embeddings_that_are_corrupted_add_up_too(patching: Any, seed: int) -> None:
    """Noise on a token in place of another prompt: the path goes from the noisy embedding to the clean one, or back."""
    model, pairs = sweeps.model("gpt2", torch.float64), sweeps.random_pairs(seed, [5, 5], early=True)
    corruption = Change("embed", "subject", Noise(1.0), Add())
    for where in (grid("embed", position=...), grid("resid_pre", layer=[0], position=...)):
        options = {"patching": patching, "corruption": corruption, "steps": 60}
        found = integrated_gradients(model, [pair.clean for pair in pairs], where, third, **options)
        ends = (found["clean"] - found["corrupt"]).values * (1 if patching == "denoising" else -1)
        assert abs(ends).min() > 1e-3
        np.testing.assert_allclose(moved(found).sum(-2).reshape(ends.shape), ends, atol=1e-4 * (1 + abs(ends).max()))
        assert "embed" in found.attrs["corruption"]
