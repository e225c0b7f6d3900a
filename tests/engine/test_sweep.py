"""Sweeps: books kept right, memory, order, provenance, and every wrong use answered in words."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch
import xarray as xr
from torch import Tensor, nn
from transformers import PreTrainedModel

from interp import effects
from interp.engine import edits, patch, strategies
from interp.errors import (
    AnswerError,
    CompiledModelError,
    HeadOutOfRangeError,
    OrderError,
    PositionError,
    ShapeMismatchError,
    SiteNotFiredError,
    UnequalLengthsError,
    UnknownNameError,
    UnknownSiteError,
)
from interp.interventions import (
    Activation,
    Add,
    Change,
    Constant,
    Interpolate,
    Intervention,
    Noise,
    Replace,
    Scale,
    mean,
    resample,
    zero,
)
from interp.interventions.edit import Apply
from interp.metrics import FromLogits, LogitDiff, Reads
from interp.models import load
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import Positions, Site, grid


def peak(logits: Tensor) -> Tensor:
    return logits.abs().amax(-1)


def last_logits(module: nn.Module, ids: tuple[int, ...]) -> Tensor:
    with torch.no_grad():
        return module(torch.tensor([ids])).logits[0, -1]


@pytest.fixture
def pairs(seed: int) -> Pairs:
    return sweeps.random_pairs(seed, [6, 6, 6])


@pytest.fixture
def ragged(seed: int) -> Pairs:
    """The two prompts of a pair differ in length."""
    return sweeps.random_pairs(seed, [6, 5], longer=[1, -1])


# the books


@pytest.mark.parametrize("patching", ["denoising", "noising"])
def test_baselines_are_the_two_runs_whichever_is_patched(patching: Any, pairs: Pairs) -> None:
    """``clean`` and ``corrupt`` name prompts, not roles in the sweep: against the raw module, prompt by prompt."""
    model = sweeps.model("gpt2")
    ds = patch(model, pairs, grid("z", layer=1, head=...), ["logit_diff", "logprob"], patching=patching)
    for i, pair in enumerate(pairs):
        for side, prompt in (("clean", pair.clean), ("corrupt", pair.corrupted)):
            logits = last_logits(model.module, prompt.text)
            right, wrong = list(pair.answers), list(pair.wrong)
            expected = [logits[right].max() - logits[wrong].max(), logits.log_softmax(-1)[right].exp().sum().log()]
            np.testing.assert_allclose(ds[side].values[:, i], expected, atol=1e-4)
    assert ds.attrs["patching"] == patching
    base = ds["corrupt" if patching == "denoising" else "clean"]
    assert effects.base(ds).equals(base)


def test_swapping_the_pairs_is_the_other_patching(pairs: Pairs) -> None:
    """Denoising x′ with x is noising of the swapped pair; answers swap with the prompts, so logit differences change sign."""
    model = sweeps.model("gpt2")
    where = grid("resid_post", layer=..., position=...)
    one = patch(model, pairs, where)
    other = patch(model, pairs.swap(), where, patching="noising")
    np.testing.assert_allclose(one["value"], -other["value"], atol=2e-5)
    np.testing.assert_array_equal(one["clean"], -other["corrupt"])
    np.testing.assert_allclose(effects.recovery(one), effects.damage(other), atol=1e-4)
    assert bool((one["by_rule"] == other["by_rule"]).all())


def test_what_a_result_says_of_itself(pairs: Pairs) -> None:
    model = sweeps.model("llama")
    ds = patch(model, pairs, grid("z", layer=..., head=[0, 2], position="end"), ["logit_diff", "kl"], patching="noising")
    assert ds["value"].dims == ("metric", "layer", "head", "example")
    assert ds["head"].values.tolist() == [0, 2]
    assert ds["template"].values.tolist() == ["t0", "t1", "t0"]
    assert ds["clean_prompt"].values[0] == " ".join(map(str, pairs[0].clean.text))
    assert [ds[name].values.tolist() for name in ("answer", "wrong")] == [
        [" | ".join(map(str, one)) for one in of] for of in zip(*((pair.answers, pair.wrong) for pair in pairs), strict=True)
    ]
    known = {"model": "llama-0", "task": "toy", "seed": pairs.made_by["seed"], "dtype": "float32", "patching": "noising"}
    known |= {"model_digest": model.digest, "pairs_digest": pairs.digest, "site": "z", "positions": "end", "bos": False}
    assert {key: ds.attrs[key] for key in known} == known
    assert ds.attrs["rows"] == 3 * 6 + 3 - ds.attrs["rows_by_rule"]
    json.dumps(ds.attrs, allow_nan=False)
    assert ds.attrs["units"] == {"logit_diff": "logits", "kl": "nats"}


def test_tokens_travel_with_raw_positions(pairs: Pairs) -> None:
    ds = patch(sweeps.model("gpt2"), pairs, grid("resid_pre", layer=0, position=...))
    for i, pair in enumerate(pairs):
        assert ds["clean_token"].values[:, i].tolist() == [str(t) for t in pair.clean.text]
        assert ds["corrupted_token"].values[:, i].tolist() == [str(t) for t in pair.corrupted.text]
    roles = patch(sweeps.model("gpt2"), pairs, grid("resid_pre", layer=0, position=["subject", "end"]))
    assert "clean_token" not in roles.coords
    assert roles["position"].values.tolist() == ["subject", "end"]


def test_several_families_are_a_tree(pairs: Pairs) -> None:
    model = sweeps.model("gpt2")
    families = {"stream": grid("resid_pre", layer=..., position=...), "heads": grid("z", layer=..., head=...)}
    tree = patch(model, pairs, families, ["logit_diff", "kl"])
    assert isinstance(tree, xr.DataTree)
    assert set(tree.children) == {"stream", "heads"}
    for name, where in families.items():
        alone = patch(model, pairs, where, ["logit_diff", "kl"])["value"]
        np.testing.assert_allclose(tree[name].to_dataset()["value"], alone, atol=2e-5)  # rows of other passes


def test_interventions_are_cells(pairs: Pairs) -> None:
    model = sweeps.model("gpt2")
    parts = [Intervention.of("L1H2.z@end"), Intervention.of("L0.mlp_out"), Intervention.of("L1H2.z@end", "L0.mlp_out")]
    ds = patch(model, pairs, parts)
    assert ds["value"].dims == ("metric", "cell", "example")
    assert ds["cell"].values.tolist() == [0, 1, 2]
    assert ds["intervention"].values[0] == "L1H2.z@end ← Activation(source)"
    assert ds["intervention"].values[2].count("Activation") == 2
    assert patch(model, pairs, parts[0])["value"].sizes["cell"] == 1
    alone = patch(model, pairs, grid("L1H2.z", position="end"))
    np.testing.assert_allclose(ds["value"].isel(cell=0), alone["value"], atol=2e-5)  # rows of another batch


def test_encoded_pairs_serve_as_well(pairs: Pairs) -> None:
    model = sweeps.model("gpt2")
    where = grid("z", layer=..., head=...)
    assert patch(model, model.encode(pairs), where)["value"].equals(patch(model, pairs, where)["value"])


def test_the_model_is_left_as_it_was(seed: int, pairs: Pairs) -> None:
    module = tiny.llama(seed).train()
    module.lm_head.weight.requires_grad_(False)
    model = load(module)
    weights = [p.clone() for p in module.parameters()]
    patch(model, pairs, {"a": grid("pattern", layer=..., head=...), "b": grid("resid_mid", layer=...)}, strategy="serial")
    assert all(torch.equal(a, b) for a, b in zip(weights, module.parameters(), strict=True))
    assert all(p.grad is None for p in module.parameters())
    assert not module.lm_head.weight.requires_grad
    assert module.training
    assert module.config._attn_implementation == "sdpa"
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_the_users_precision_is_restored(pairs: Pairs) -> None:
    torch.set_float32_matmul_precision("medium")
    seen = []
    try:
        patch(
            sweeps.model("gpt2"),
            pairs,
            grid("L1.z"),
            lambda x: seen.append(torch.get_float32_matmul_precision()) or x.amax(-1),
        )
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(seen) == {"highest"}


def test_no_gradient_is_kept_and_the_callers_is_untouched(pairs: Pairs) -> None:
    patch(sweeps.model("gpt2"), pairs, grid("L1.z"))
    assert torch.is_grad_enabled()


# the self-patch


@pytest.mark.parametrize("strategy", ["serial", "batched"])
def test_the_self_patch_is_a_row_that_really_ran(strategy: Any, pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row an example more than the cells; its writes hold the base's own values; its effect is the noise floor."""
    model = sweeps.model("llama")
    ran: list[tuple[int, list[Site]]] = []
    run = type(model.backend).run

    def spy(self: Any, inputs: Any, reads: Any, writes: Any) -> Any:
        ran.append((len(inputs["input_ids"]), list(writes)))
        return run(self, inputs, reads, writes)

    monkeypatch.setattr(type(model.backend), "run", spy)
    ds = patch(model, pairs, grid("resid_post", layer=1, position=[0]), ["logit_diff", "prob"], strategy=strategy)
    assert ds["by_rule"].all(), "the only cell is before the first difference: nothing else is left to run"
    assert ds.attrs["rows"] == len(pairs)
    assert [n for n, writes in ran if writes] == [len(pairs)]
    assert ran[-1][1] == [Site("resid_post", layer=1)]
    floor = ds.attrs["noise_floor"]
    assert set(floor) == {"logit_diff", "prob"}
    top = patch(model, pairs, grid("L0.z"), peak)["clean"].max()
    assert all(0 <= f <= 1e-5 * (1 + float(top)) for f in floor.values())


def test_a_write_that_goes_wrong_would_show_in_the_noise_floor(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The floor is measured, not assumed: an engine that writes at the wrong column has a large one."""
    model = sweeps.model("llama")
    at = edits._Group.__call__

    def shifted(self: Any, seen: Tensor) -> None:
        row, column, *rest = self.at
        at(replace(self, at=(row, (column - 1) % seen.shape[1], *rest)), seen)

    monkeypatch.setattr(edits._Group, "__call__", shifted)
    for strategy in ("batched", "wavefront"):
        with pytest.warns(RuntimeWarning, match="which is more than rounding"):
            ds = patch(model, pairs, grid("resid_post", layer=1, position=[-2]), strategy=strategy)
        assert ds.attrs["noise_floor"]["logit_diff"] > 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_model_that_is_not_deterministic_is_told(dtype: torch.dtype, pairs: Pairs) -> None:
    """No hook of a user's: the module's own forward gives other numbers each time, as a router with jitter does."""
    module = sweeps.MAKERS["llama"](0).to(dtype)
    forward, calls = module.forward, itertools.count(2)

    @functools.wraps(forward)
    def jittered(*args: Any, **kwargs: Any) -> Any:
        found = forward(*args, **kwargs)
        found.logits = found.logits * next(calls)
        return found

    module.forward = jittered
    with pytest.warns(RuntimeWarning, match=r"moves metric 'logit_diff' by .* is the model deterministic"):
        patch(load(module, check=False), pairs, grid("resid_post", layer=1, position=[-1]))


# memory


@pytest.mark.parametrize("fits", [1, 2, 3, 5])
def test_out_of_memory_halves_the_batch_and_loses_nothing(fits: int, pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    model = sweeps.model("gpt2")
    where = grid("z", layer=..., head=...)
    expected = patch(model, pairs, where, ["logit_diff", "kl"], rows=8)
    measure, sizes, refused = strategies.Whole.measure, [], 0

    def limited(self: strategies.Whole, part: slice) -> Tensor:
        nonlocal refused
        if part.stop - part.start > fits:
            refused += 1
            raise torch.OutOfMemoryError("injected")
        sizes.append(part.stop - part.start)
        return measure(self, part)

    monkeypatch.setattr(strategies.Whole, "measure", limited)
    found = patch(model, pairs, where, ["logit_diff", "kl"], rows=8, strategy="batched")
    np.testing.assert_allclose(found["value"], expected["value"], atol=2e-5)
    assert sum(sizes) == expected.attrs["rows"], "every row ran once"
    assert 1 <= refused <= 3, "8, 4, 2, 1: it does not start over for each pass"
    assert (found.attrs["out_of_memory"], expected.attrs["out_of_memory"]) == (refused, 0)
    assert max(sizes) == min(fits, {1: 1, 2: 2, 3: 2, 5: 4}[fits])


def test_out_of_memory_with_one_row_is_raised(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: strategies.Whole, part: slice) -> Tensor:
        raise torch.OutOfMemoryError("injected")

    def hooks() -> list[Any]:  # transformers leaves its recorders on a model that was once asked for hidden states
        return [hook for m in model.module.modules() for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]

    model = sweeps.model("gpt2")
    before = hooks()
    monkeypatch.setattr(strategies.Whole, "measure", never)
    with pytest.raises(torch.OutOfMemoryError, match="injected"):
        patch(model, pairs, grid("L1.z"), strategy="batched")
    assert hooks() == before


def test_the_memory_budget_sets_the_rows(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = sweeps.model("gpt2"), []
    measure = strategies.Whole.measure

    def spy(self: strategies.Whole, part: slice) -> Tensor:
        sizes.append(part.stop - part.start)
        return measure(self, part)

    monkeypatch.setattr(strategies.Whole, "measure", spy)
    monkeypatch.setenv("INTERP_MEMORY_BYTES", "1")
    patch(model, pairs, grid("L1.z"), strategy="batched")
    assert set(sizes) == {1}
    with pytest.raises(ValueError, match="rows=0; a pass has at least one row"):
        patch(model, pairs, grid("L1.z"), rows=0)


# order


def test_changes_that_do_not_commute_need_an_order(pairs: Pairs) -> None:
    model = sweeps.model("gpt2")
    a, b = Intervention.of(Change("L1.resid_post", -1)), Intervention.of(Change("L1.resid_post", "end", zero()))
    words = "change the same coordinate and do not commute; state the order with first.then(second)"
    with pytest.raises(OrderError, match=re.escape(words)):
        patch(model, pairs, a & b)
    for strategy in ("serial", "batched"):
        ds = patch(model, pairs, [a, b, a.then(b), b.then(a)], strategy=strategy)["value"]
        np.testing.assert_allclose(ds.isel(cell=2), ds.isel(cell=1), atol=1e-5)
        np.testing.assert_allclose(ds.isel(cell=3), ds.isel(cell=0), atol=1e-5)
        assert float(abs(ds.isel(cell=0) - ds.isel(cell=1)).max()) > 1e-2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Change("L1H0.z", -1), Change("L1H1.z", -1)),  # another head
        (Change("L1.resid_post", 0), Change("L1.resid_post", -1)),  # another token
        (Change("L1.resid_post", -1), Change("L1.resid_pre", -1)),  # another tensor
        (Change("L1.resid_post", -1, edit=Add()), Change("L1.resid_post", -1, Constant(1.0), Add())),
        (Change("L1.resid_post", -1, edit=Scale(0.5)), Change("L1.resid_post", edit=Scale(3.0))),
    ],
)
def test_changes_that_do_not_meet_or_commute_need_none(first: Change, second: Change, pairs: Pairs) -> None:
    model = sweeps.model("gpt2")
    one, other = (Intervention((c,)) for c in (first, second))
    ways = [one & other, other & one, one.then(other), other.then(one)]
    for strategy in ("serial", "batched"):
        ds = patch(model, pairs, ways, strategy=strategy)["value"]
        for i in (1, 2, 3):
            np.testing.assert_allclose(ds.isel(cell=i), ds.isel(cell=0), atol=2e-5)


def test_twice_the_same_change_is_made_twice(pairs: Pairs) -> None:
    """h + s + s is h + 2 s; (h · ½) · ½ is h · ¼: also when all index arrays of the two are alike."""
    model = sweeps.model("gpt2")
    adds = Intervention.of("L1.resid_post@end", "L1.resid_post@end", edit=Add())
    scales = Intervention.of("L1.resid_post@end", edit=Scale(0.5)) & Intervention.of("L1.resid_post", edit=Scale(0.5))
    expected = [
        Intervention.of("L1.resid_post@end", edit=Add(2.0)),
        Intervention.of("L1.resid_post@end", edit=Scale(0.5)).then(Intervention.of("L1.resid_post", edit=Scale(0.5))),
    ]
    for strategy in ("serial", "batched"):
        ds = patch(model, pairs, [adds, expected[0], scales, expected[1]], strategy=strategy)["value"]
        np.testing.assert_allclose(ds.isel(cell=0), ds.isel(cell=1), atol=2e-5)
        np.testing.assert_allclose(ds.isel(cell=2), ds.isel(cell=3), atol=2e-5)
    whole = patch(model, pairs, Intervention.of("L1.resid_post", edit=Scale(0.5)))["value"]
    assert float(abs(ds.isel(cell=2) - whole.isel(cell=0)).max()) > 1e-3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Change("L1.resid_post", edit=Add()), Change("L1.resid_post", edit=Scale(0.5))),
        (Change("L1.resid_post", edit=Interpolate(0.5)), Change("L1.resid_post", edit=Interpolate(0.5))),
        (Change("L1.z"), Change("L1H0.z", "end", zero())),
        (Change("L1.resid_post", edit=Apply(lambda h, s: h)), Change("L1.resid_post", edit=Apply(lambda h, s: s))),
    ],
)
def test_other_changes_that_meet_are_refused(one: Change, other: Change, pairs: Pairs) -> None:
    with pytest.raises(OrderError):
        patch(sweeps.model("gpt2"), pairs, Intervention((one, other)))


def test_an_intervention_without_changes(pairs: Pairs) -> None:
    with pytest.raises(OrderError, match="an intervention without changes"):
        patch(sweeps.model("gpt2"), pairs, Intervention(()))


def test_a_role_and_a_path_at_one_module_are_one_coordinate(pairs: Pairs) -> None:
    """Their hooks are one event, in which no order of two sites can be stated."""
    a, b = Intervention.of("L1.resid_post", edit=Add()), Intervention.of("transformer.h.1:output", edit=Scale(0.5))
    for both in (a & b, a.then(b)):
        with pytest.raises(OrderError, match=r"L1.resid_post and transformer.h.1:output are seen in the same tensor"):
            patch(sweeps.model("gpt2"), pairs, both)


# the rule


def test_cells_without_effect_are_zero_by_rule(seed: int) -> None:
    """Every position before the first difference, in every layer, in each example: counted by hand."""
    pairs = sweeps.random_pairs(seed, [6, 6, 6])
    ds = patch(sweeps.model("llama"), pairs, grid("resid_post", layer=..., position=...))
    for i, pair in enumerate(pairs):
        first = next(p for p, (a, b) in enumerate(zip(pair.clean.text, pair.corrupted.text, strict=True)) if a != b)
        assert ds["by_rule"].values[:, :, i].tolist() == [[p < first for p in range(6)]] * 3
    assert float(abs(effects.effect(ds)).where(ds["by_rule"]).max()) == 0.0


@pytest.mark.parametrize(
    "options",
    [
        {"source": zero()},
        {"source": mean()},
        {"source": resample()},
        {"source": Noise(1.0)},
        {"source": Activation(layer=0)},
        {"source": Activation("clean")},
        {"edit": Add()},
        {"edit": Scale(0.5)},
        {"edit": Apply(lambda h, s: s)},
    ],
    ids=["zero", "mean", "resample", "noise", "layer", "clean", "add", "scale", "apply"],
)
def test_the_rule_is_for_the_counterfactual_run_alone(options: dict[str, Any], pairs: Pairs) -> None:
    ds = patch(sweeps.model("llama"), pairs, grid("resid_post", layer=[1], position=[0, 1]), **options)
    assert not ds["by_rule"].any()


def test_the_rule_looks_at_where_the_source_stands(seed: int) -> None:
    """A role that sits elsewhere in the two prompts carries another value although all its tokens are equal."""
    clean, corrupted = (1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 5, 9)
    pair = Pair(Prompt(clean, {"x": (2, 3)}), Prompt(corrupted, {"x": (1, 2)}), (5,), (6,))
    ds = patch(sweeps.model("llama"), Pairs((pair,)), grid("resid_post", layer=[1], position=["x"]))
    assert not ds["by_rule"].any()
    assert float(abs(effects.effect(ds)).max()) > 1e-3


def test_a_model_that_was_not_probed_runs_everything(seed: int, pairs: Pairs) -> None:
    ds = patch(load(tiny.gpt2(seed), check=False), pairs, grid("resid_post", layer=[1], position=...))
    assert not ds["by_rule"].any()


def test_one_change_with_effect_is_enough(pairs: Pairs) -> None:
    """An intervention is inert only if each of its changes is."""
    model = sweeps.model("gpt2")
    ds = patch(model, pairs, [Intervention.of("L1.resid_post@0"), Intervention.of("L1.resid_post@0", "L0.z@end")])
    assert ds["by_rule"].values[0].all()
    assert not ds["by_rule"].values[1].any()


# specs


def test_a_function_makes_the_run_anonymous(pairs: Pairs) -> None:
    model, where = sweeps.model("gpt2"), grid("z", layer=[1], head=...)
    assert patch(model, pairs, where).attrs["spec"] is not None
    assert patch(model, pairs, where, edit=Apply(lambda h, s: h)).attrs["spec"] is None
    assert patch(model, pairs, where, lambda x: x.amax(-1)).attrs["spec"] is None
    assert patch(model, pairs, where, ["kl", lambda x: x.amax(-1)]).attrs["spec"] is None
    assert patch(model, pairs, Intervention.of("L1.z", edit=Apply(lambda h, s: h))).attrs["spec"] is None


def test_the_spec_is_json_and_tells_runs_apart_but_not_how_they_ran(pairs: Pairs, seed: int) -> None:
    model, where = sweeps.model("gpt2"), grid("z", layer=[1], head=[0])
    at = LogitDiff(reads=replace(LogitDiff().reads, positions=Positions(indices=(-2,))))
    runs: list[Callable[[], xr.Dataset]] = [
        lambda: patch(model, pairs, where),
        lambda: patch(model, pairs, where, patching="noising"),
        lambda: patch(model, pairs, where, "kl"),
        lambda: patch(model, pairs, where, ["logit_diff", "kl"]),
        lambda: patch(model, pairs, where, at),
        lambda: patch(model, pairs, where, source=zero()),
        lambda: patch(model, pairs, where, edit=Add()),
        lambda: patch(model, pairs[:2], where),
        lambda: patch(sweeps.model("gpt2", seed=1), pairs, where),
        lambda: patch(model, pairs, grid("z", layer=[1], head=[1])),
        lambda: patch(model, pairs, grid("z", layer=[1], head=[0], position=-1)),
        lambda: patch(model, pairs, Intervention.of("L1H0.z")),
        lambda: patch(model, pairs, where, source=Activation(model=sweeps.model("gpt2", seed=1))),
        lambda: patch(model, pairs, where, source=Activation(model=sweeps.model("gpt2", seed=2))),
    ]
    specs = [json.dumps(run().attrs["spec"], sort_keys=True) for run in runs]
    assert len(set(specs)) == len(specs)
    again = [patch(model, pairs, where, rows=1), patch(model, pairs, where, strategy="serial", skip_inert=False)]
    assert all(json.dumps(ds.attrs["spec"], sort_keys=True) == specs[0] for ds in again)


# metrics


def test_metrics_at_other_positions(seed: int) -> None:
    """A role's last token, in prompts of different lengths, against the raw module."""
    model = sweeps.model("llama")
    pairs = sweeps.random_pairs(seed, [6, 4, 7])
    for positions in ("subject[-1]", "subject[0]", "end", -2, 0):
        metric = LogitDiff(reads=replace(LogitDiff().reads, positions=Positions.parse(positions)))
        ds = patch(model, pairs, grid("z", layer=1, head=0), metric)
        for i, pair in enumerate(pairs):
            start, stop = pair.clean.roles["subject"]
            n = len(pair.clean.text)
            at = {"end": n - 1, "subject[-1]": stop - 1, "subject[0]": start, -2: n - 2, 0: 0}[positions]
            with torch.no_grad():
                logits = model.module(torch.tensor([pair.clean.text])).logits[0, at]
            expected = float(logits[list(pair.answers)].max() - logits[list(pair.wrong)].max())
            assert float(ds["clean"][0, i]) == pytest.approx(expected, abs=1e-4), (positions, i)


def test_a_metric_at_spans_of_different_width_is_refused() -> None:
    """Padding of the shorter span must never be read as a position."""
    pairs = [Pair(Prompt((1, 2, 3, 4), {"x": (1, 2 + i)}), Prompt((1, 5, 3, 4), {"x": (1, 2 + i)}), (5,), (6,)) for i in (1, 0)]
    metric = LogitDiff(reads=replace(LogitDiff().reads, positions=Positions.parse("x")))
    with pytest.raises(PositionError, match=r"a metric reads x, which spans different numbers of tokens .*such as 'x\[-1\]'"):
        patch(sweeps.model("gpt2"), Pairs(tuple(pairs)), grid("L1.z"), metric)


def test_metrics_of_one_sweep_read_the_same_positions(pairs: Pairs) -> None:
    other = LogitDiff(name="early", reads=replace(LogitDiff().reads, positions=Positions(indices=(0,))))
    with pytest.raises(ValueError, match="the metrics of one sweep read the same positions, got logit_diff at -1, early at 0"):
        patch(sweeps.model("gpt2"), pairs, grid("L1.z"), ["logit_diff", other])


@pytest.mark.parametrize("kind", ["hidden", "generated"])
def test_metrics_that_read_something_else_are_refused(kind: Any, pairs: Pairs) -> None:
    with pytest.raises(ValueError, match=f"metric 'm' reads '{kind}'; a sweep reads"):
        patch(sweeps.model("gpt2"), pairs, grid("L1.z"), FromLogits(lambda x: x.amax(-1), "m", Reads(kind=kind)))


def test_a_metric_that_asks_for_logprobs_gets_them_or_is_refused(pairs: Pairs) -> None:
    """Total probability is 1; of raw logits the sum of exponentials is not."""
    metric = FromLogits(lambda x: x.exp().sum(-1), "total", Reads(kind="logprobs"))
    try:
        ds = patch(sweeps.model("gpt2"), pairs, grid("L1.z"), metric)
    except ValueError:
        return
    np.testing.assert_allclose(ds["clean"], 1.0, atol=1e-5)


# wrong use, in words


GPT2, LLAMA, ZOO = "gpt2", "llama", "zoo"


@pytest.mark.parametrize(
    ("kind", "where", "error", "words"),
    [
        (GPT2, lambda: grid("z", layer=..., head=[4]), HeadOutOfRangeError, "head 4 of 'z' does not exist"),
        (GPT2, lambda: grid("z", layer=[3], head=...), HeadOutOfRangeError, "layer 3 of 'z' does not exist"),
        (GPT2, lambda: grid("L3.z", head=...), HeadOutOfRangeError, "layer 3 of L3.z does not exist: gpt2-0 has 3 layers"),
        (GPT2, lambda: Intervention.of("L0H4.z"), HeadOutOfRangeError, "head 4 of L0H4.z does not exist: gpt2-0 has 4 heads"),
        (LLAMA, lambda: grid("k", layer=..., head=[2]), HeadOutOfRangeError, "head 2 of 'k' does not exist"),
        (LLAMA, lambda: Intervention.of("L0H2.v"), HeadOutOfRangeError, "llama-0 has 2 key/value heads there, 0 to 1"),
        (GPT2, lambda: grid("mlp_post", layer=0, unit=[56]), HeadOutOfRangeError, "unit 56"),
        (ZOO, lambda: grid("mlp_out", layer=...), UnknownSiteError, "model.layers.2 has no MLP"),
        (ZOO, lambda: Intervention.of("m1"), UnknownSiteError, "has no MLP"),
        (GPT2, lambda: grid("mlp_up", layer=...), UnknownSiteError, "its MLPs are not gated"),
        (LLAMA, lambda: grid("pos_embed"), UnknownSiteError, "no position embedding is added to the stream"),
        (GPT2, lambda: grid("transformer.h.0.mpl:output"), UnknownSiteError, "did you mean 'transformer.h.0.mlp'"),
        (
            GPT2,
            lambda: grid("resid_pre", layer=0, position=6),
            PositionError,
            "6 is past the end of example 0, which has 6 tokens",
        ),
        (GPT2, lambda: grid("resid_pre", layer=0, position=[6]), PositionError, "6 is past the end of example 0"),
        (GPT2, lambda: grid("resid_pre", layer=0, position=[0, -7]), PositionError, "-7 is past the end of example 0"),
        (GPT2, lambda: grid("resid_pre", layer=0, position="S1"), UnknownNameError, "unknown role 'S1'"),
        (GPT2, lambda: grid("resid_pre", layer=0, position=["sbject"]), UnknownNameError, "did you mean 'subject'"),
        (GPT2, lambda: Intervention.of("L0.z", source=Activation(layer=9)), HeadOutOfRangeError, "layer 9 of L9.z"),
        (ZOO, lambda: Intervention.of("L0.resid_pre", source=Activation(site="mlp_out")), UnknownSiteError, "has no MLP"),
        (LLAMA, lambda: Intervention.of("L0.q", source=Activation(site="k")), ShapeMismatchError, "L0.q"),
        (LLAMA, lambda: Intervention.of("L0H0.z", source=Constant(torch.zeros(5))), ShapeMismatchError, "5"),
        (LLAMA, lambda: Intervention.of("L0H0.z", source=Constant(torch.zeros(4, 8))), ShapeMismatchError, "4, 8"),
        (LLAMA, lambda: Intervention.of("L0.resid_pre", source=Activation(site="L0.mlp_post")), ShapeMismatchError, "56"),
        (LLAMA, lambda: Intervention.of("L0.resid_pre", source=Activation(site="L0.mlp_post[3]")), ShapeMismatchError, "L0"),
        (LLAMA, lambda: Intervention.of("L0.z", source=Activation(site="L1H2.z")), ShapeMismatchError, "L0"),
        (LLAMA, lambda: Intervention.of("L0.pattern", source=Noise(1.0)), ShapeMismatchError, "would not be a probability"),
        (
            LLAMA,
            lambda: Intervention.of("L0.z@end", source=Activation(positions=[0, 1])),
            ShapeMismatchError,
            "the target has 1 tokens, the source 2",
        ),
        (LLAMA, lambda: Intervention.of("L0.z", source=mean(by="colour")), ValueError, "by='colour'"),
    ],
)
def test_wrong_places_and_values(kind: str, where: Callable[[], Any], error: type[Exception], words: str, pairs: Pairs) -> None:
    for strategy in ("serial", "batched"):
        with pytest.raises(error, match=re.escape(words)):
            patch(sweeps.model(kind), pairs, where(), strategy=strategy)


@pytest.mark.parametrize(
    "where", [grid("resid_pre", layer=..., position=...), grid("resid_pre", layer=0, position=[0, 1])], ids=repr
)
def test_unequal_lengths_show_both_prompts(where: Any, ragged: Pairs) -> None:
    model = sweeps.model("gpt2")
    with pytest.raises(UnequalLengthsError) as error:
        patch(model, ragged, where)
    text = str(error.value)
    assert f"{where!r} matches positions by raw index, but the prompts of 2 of 2 pairs differ in length" in text
    assert "use a role instead, such as position=['subject', 'end']" in text
    for i, token in enumerate(ragged[0].clean.text):
        assert re.search(rf"^ +{i}  '{token}'", text, flags=re.MULTILINE)


def test_unequal_lengths_at_all_positions_together(ragged: Pairs) -> None:
    with pytest.raises(UnequalLengthsError, match=re.escape("L1H0.z@all matches positions by raw index")):
        patch(sweeps.model("gpt2"), ragged, grid("z", layer=1, head=0))


def test_examples_of_different_lengths_cannot_be_swept_by_every_raw_position(seed: int) -> None:
    with pytest.raises(PositionError, match="sweeps every raw position, but the prompts have different lengths"):
        patch(sweeps.model("gpt2"), sweeps.random_pairs(seed, [5, 6]), grid("resid_pre", layer=0, position=...))


@pytest.mark.parametrize(
    "options",
    [
        {"where": grid("z", layer=1, head=0), "source": zero()},
        {"where": grid("z", layer=1, head=0), "edit": Scale()},
        {"where": grid("z", layer=1, head=0), "source": mean(over=("example", "position"))},
        {"where": grid("z", layer=1, head=0), "source": Activation("base")},
        {"where": grid("z", layer=1, head=0), "source": Noise(1.0)},
        {"where": grid("resid_post", layer=1, position=["end", -1, -2])},
    ],
    ids=repr,
)
def test_unequal_lengths_do_not_matter_where_nothing_is_matched(options: dict[str, Any], ragged: Pairs) -> None:
    for strategy in ("serial", "batched"):
        ds = patch(sweeps.model("gpt2"), ragged, strategy=strategy, **options)
        assert float(abs(effects.effect(ds)).max()) >= 0


@pytest.mark.parametrize("name", ["pattern", "scores"])
def test_attention_of_prompts_of_different_length_is_refused(name: str, ragged: Pairs) -> None:
    """Its last axis is a raw position whatever the row: a pattern of six tokens does not fit five."""
    with pytest.raises(UnequalLengthsError):
        patch(sweeps.model("gpt2"), ragged, grid(name, layer=1, head=0, position="end"))


def test_attention_resampled_between_prompts_of_different_length_is_refused(seed: int) -> None:
    pairs = sweeps.random_pairs(seed, [6, 4])
    with pytest.raises(UnequalLengthsError):
        patch(sweeps.model("gpt2"), pairs, grid("pattern", layer=1, head=0, position=-1), source=resample())


def test_missing_answers(pairs: Pairs) -> None:
    without = Pairs(tuple(replace(p, wrong=() if i == 1 else p.wrong) for i, p in enumerate(pairs)))
    words = "metric 'logit_diff' needs the 'wrong' tokens of every pair, but 1 of 3 pairs have none (examples 1)"
    with pytest.raises(AnswerError, match=re.escape(words)):
        patch(sweeps.model("gpt2"), without, grid("L1.z"))
    assert patch(sweeps.model("gpt2"), without, grid("L1.z"), ["prob", "kl"])["value"].notnull().all()
    nothing = Pairs(tuple(replace(p, answers=(), wrong=()) for p in pairs))
    with pytest.raises(AnswerError, match=re.escape("needs the 'answers' tokens of every pair, but 3 of 3")):
        patch(sweeps.model("gpt2"), nothing, grid("L1.z"))
    assert patch(sweeps.model("gpt2"), nothing, grid("L1.z"), "kl")["value"].notnull().all()


@pytest.mark.parametrize("where", ["prompt", "answer"])
def test_tokens_that_the_model_does_not_have(where: str, pairs: Pairs) -> None:
    first = pairs[0]
    bad = replace(first, clean=Prompt((1, 2, 3, 4, 5, 97))) if where == "prompt" else replace(first, answers=(97,))
    with pytest.raises(ValueError, match="token id 97, but gpt2-0 has 97 tokens, 0 to 96"):
        patch(sweeps.model("gpt2"), Pairs((bad,)), grid("resid_pre", layer=0, position=-1))


def test_misspelt_words(pairs: Pairs) -> None:
    model, where = sweeps.model("gpt2"), grid("L1.z")
    with pytest.raises(UnknownNameError, match="unknown metric 'logitdiff'; did you mean 'logit_diff'"):
        patch(model, pairs, where, "logitdiff")
    with pytest.raises(UnknownNameError, match="unknown patching 'denoise'; did you mean 'denoising'"):
        sweeps.unchecked(patch)(model, pairs, where, patching="denoise")
    with pytest.raises(UnknownNameError, match="unknown strategy 'batch'; did you mean 'batched'"):
        sweeps.unchecked(patch)(model, pairs, where, strategy="batch")


def test_a_source_beside_interventions_is_refused(pairs: Pairs) -> None:
    with pytest.raises(ValueError, match="interventions say their own source, edit and featurizer"):
        patch(sweeps.model("gpt2"), pairs, Intervention.of("L1.z"), source=zero())


def test_the_argument_that_is_wrong_is_named(pairs: Pairs) -> None:
    model, where = sweeps.model("gpt2"), grid("L1.z")
    with pytest.raises(ValueError, match=r"where holds 'L1.z' of type str; expected a grid such as .* or interventions such"):
        sweeps.unchecked(patch)(model, pairs, ["L1.z", Change("L2.z")])
    with pytest.raises(ValueError, match=r"given holds 'L1.z' of type str; expected interventions such as interp.Change"):
        sweeps.unchecked(patch)(model, pairs, where, given="L1.z")


def test_nothing_to_do(pairs: Pairs) -> None:
    with pytest.raises(ValueError, match="where is an empty list; give at least one intervention"):
        patch(sweeps.model("gpt2"), pairs, [])
    with pytest.raises(PositionError, match="no prompt was given"):
        patch(sweeps.model("gpt2"), Pairs(()), grid("L1.z"))


def test_a_compiled_model(tiny_gpt2: PreTrainedModel, pairs: Pairs) -> None:
    model = load(tiny_gpt2)
    tiny_gpt2.compile(backend="eager")
    with pytest.raises(CompiledModelError, match="the model is compiled"):
        patch(model, pairs, grid("L1.z"))


# the output layer, and modules by path


@pytest.mark.parametrize("strategy", ["serial", "batched"])
def test_the_logits_are_a_site_like_any_other(strategy: Any, pairs: Pairs) -> None:
    model = sweeps.model("gpt2")
    ds = patch(
        model, pairs, [Intervention.of("logits@end"), Intervention.of("logits")], ["logit_diff", "kl"], strategy=strategy
    )
    np.testing.assert_allclose(effects.recovery(ds).sel(metric="logit_diff"), 1.0, atol=1e-5)
    np.testing.assert_allclose(ds["value"].sel(metric="kl"), 0.0, atol=1e-6)
    early = patch(model, pairs, Intervention.of("logits@0", edit=Scale(0.0)), strategy=strategy)
    assert float(abs(effects.effect(early)).max()) <= 1e-5


@pytest.mark.parametrize("strategy", ["serial", "batched"])
def test_modules_by_path_are_swept(strategy: Any, pairs: Pairs) -> None:
    model = sweeps.model("gpt2")
    role = patch(model, pairs, grid("mlp_out", layer=1, position=...), strategy=strategy)
    path = patch(model, pairs, grid("transformer.h.1.mlp:output", position=...), strategy=strategy)
    np.testing.assert_allclose(role["value"], path["value"], atol=2e-5)
    units = patch(model, pairs, grid("transformer.h.1.mlp:output", unit=[0, 5]), strategy=strategy)
    for i, unit in enumerate((0, 5)):
        change = Change(
            "L1.mlp_out", edit=Apply(lambda h, s, u=unit: torch.cat([h[..., :u], s[..., u : u + 1], h[..., u + 1 :]], -1))
        )
        expected = patch(model, pairs, Intervention((change,)), strategy=strategy)
        np.testing.assert_allclose(units["value"].isel(unit=i), expected["value"].isel(cell=0), atol=2e-5)
    noisy = patch(model, pairs, grid("transformer.h.1.mlp:output"), source=Noise(1.0), strategy=strategy)
    same = patch(model, pairs, grid("L1.mlp_out"), source=Noise(1.0), strategy=strategy)
    np.testing.assert_allclose(noisy["value"], same["value"], atol=2e-5)


class Words(nn.Module):
    """A network with no transformer in it: embedding, ReLU layer, unembedding, each token alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hidden, self.out = nn.Embedding(97, 8), nn.Linear(8, 6), nn.Linear(6, 97)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.out(self.hidden(self.embed(input_ids)).relu())


@pytest.mark.parametrize("strategy", ["serial", "batched"])
def test_any_module_is_swept(strategy: Any, pairs: Pairs, seed: int) -> None:
    """The last token's hidden units restored one by one, by hand."""
    torch.manual_seed(seed)
    model = load(Words())
    ds = patch(model, pairs, grid("hidden:output", unit=list(range(6)), position=-1), strategy=strategy)
    assert not ds["by_rule"].any(), "such a module is not proved to be causal"
    net: Words = model.module.requires_grad_(False)  # type: ignore[assignment]
    for i, pair in enumerate(pairs):
        clean, corrupted = (net.hidden(net.embed.weight[p.text[-1]]) for p in (pair.clean, pair.corrupted))
        for unit in range(6):
            mixed = torch.where(torch.arange(6) == unit, clean, corrupted)
            logits = net.out(mixed.relu())
            expected = logits[list(pair.answers)].max() - logits[list(pair.wrong)].max()
            assert float(ds["value"][0, unit, i]) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("strategy", ["serial", "batched"])
def test_a_unit_beyond_a_modules_width(strategy: Any, pairs: Pairs) -> None:
    with pytest.raises(HeadOutOfRangeError, match="unit"):
        patch(load(Words()), pairs, grid("hidden:output", unit=[6]), strategy=strategy)


# edits of a user's own


@dataclass
class Doubled:
    """A plain dataclass: equal by value, so Python gives it no hash."""

    factor: float = 2.0
    kind, commutes, reads_source = "doubled", False, True

    def __call__(self, h: Tensor, s: Tensor) -> Tensor:
        return h + self.factor * s

    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind, "factor": self.factor}


def test_an_edit_of_the_users_own(pairs: Pairs) -> None:
    model, where = sweeps.model("gpt2"), grid("resid_post", layer=..., position=[-1])
    expected = patch(model, pairs, where, edit=Add(2.0), strategy="serial")["value"]
    for strategy in ("serial", "batched"):
        np.testing.assert_allclose(patch(model, pairs, where, edit=Doubled(), strategy=strategy)["value"], expected, atol=2e-5)


class Turned(Replace):
    """Not the parent's edit: what is written is another vector."""

    def __call__(self, h: Tensor, s: Tensor) -> Tensor:
        return s.roll(1, -1)


def test_a_subclass_of_replace_is_not_known_to_have_no_effect(pairs: Pairs) -> None:
    ds = patch(sweeps.model("gpt2"), pairs, grid("resid_post", layer=[1], position=[0]), edit=Turned())
    assert not ds["by_rule"].any()
    assert float(abs(effects.effect(ds)).max()) > 1e-3


def test_a_metric_that_is_no_number_is_named(pairs: Pairs) -> None:
    """On a baseline nothing can be compared; in a row it is counted and said, and the rest is kept."""

    def broken(logits: Tensor) -> Tensor:
        return logits[..., 0] * float("nan")

    with pytest.raises(ValueError, match="metric 'broken' is nan on the clean prompt of example 0"):
        patch(sweeps.model("gpt2"), pairs, grid("L1.z"), ["logit_diff", broken])
    infinite = Intervention.of("L1.resid_post", edit=Scale(3e38))  # float32 ends at 3.4e38
    with pytest.warns(RuntimeWarning, match="3 of 6 rows are not a number, the first .*Scale.* in example 0"):
        ds = patch(sweeps.model("gpt2"), pairs, [Intervention.of("L1.z"), infinite])
    assert ds.attrs["rows_not_a_number"] == 3
    assert ds["value"].isel(cell=0).notnull().all()
    assert ds["value"].isel(cell=1).isnull().all()


def test_a_model_that_is_not_a_number_itself(seed: int) -> None:
    """Said, never returned."""
    model = load(tiny.llama(seed).double())
    with torch.no_grad():
        model.module.get_parameter("model.norm.weight")[0] = torch.nan
    with pytest.raises(ValueError, match="is nan on the clean prompt of example"):
        patch(model, sweeps.random_pairs(seed, [4, 5]), grid("z", layer=1, head=0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_are_measured_in_float32(dtype: torch.dtype, pairs: Pairs, seed: int) -> None:
    """Serial and batched are not claimed equal; here they agree to the spread that rounding of 8 (11) bits allows."""
    model = load(tiny.llama(seed).to(dtype))
    for source in (None, mean(), Noise(1.0), Constant(torch.randn(8))):
        ways = [
            patch(model, pairs, grid("z", layer=[1], head=...), ["logit_diff", peak], source=source, strategy=s)
            for s in ("serial", "batched")
        ]
        assert ways[0]["value"].dtype == np.float32
        top = float(ways[0]["clean"].sel(metric="peak").max())
        assert float(abs(ways[0]["value"] - ways[1]["value"]).max()) <= 4 * torch.finfo(dtype).eps * (1 + top)


# sites that do not fire, and hooks of a user's own, in a sweep


class Shared(nn.Module):
    """One module called twice, one never: neither can be patched by its path without saying which call."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.twice, self.never, self.out = nn.Embedding(97, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 97)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.out(self.twice(self.twice(self.embed(input_ids))))


@pytest.mark.parametrize(("path", "fired"), [("twice", 2), ("never", 0)])
@pytest.mark.parametrize("source", [None, zero()], ids=["read", "written"])
def test_a_site_that_fires_another_number_of_times_gives_no_number(path: str, fired: int, source: Any, pairs: Pairs) -> None:
    model = load(Shared())
    with pytest.raises(SiteNotFiredError, match=f"{path}:output .* fired {fired} times in one forward pass, expected 1"):
        patch(model, pairs, grid(f"{path}:output", position=-1), source=source)
    assert not any(m._forward_hooks for m in model.module.modules())


def test_the_users_hooks_are_in_force_in_every_run(seed: int, pairs: Pairs) -> None:
    """A user's steering hook is part of the model that is swept: baselines, sources and rows alike."""
    module = tiny.gpt2(seed)
    model = load(module)
    calls = []
    handle = module.transformer.h[0].register_forward_hook(lambda m, a, o: calls.append(1) or o + 0.5)
    ds = patch(model, pairs, grid("resid_post", layer=[2], position=[-1]), ["logit_diff"])
    for i, pair in enumerate(pairs):
        logits = last_logits(module, pair.clean.text)
        expected = float(logits[list(pair.answers)].max() - logits[list(pair.wrong)].max())
        assert float(ds["clean"][0, i]) == pytest.approx(expected, abs=1e-4)
        assert float(ds["value"][0, 0, 0, i]) == pytest.approx(expected, abs=1e-4)
    assert handle.id in module.transformer.h[0]._forward_hooks
    assert calls
