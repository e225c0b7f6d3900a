"""How rows of the wave are read: as little of the vocabulary as the metrics declare, with the numbers that all logits give.

Expected numbers come from whole forward passes (``strategy="serial"``), whose logits are the model's own, and in one test from
the raw module by formula. Tolerance: 1e-5 × (1 + max |logit|) in float32, 1e-10 × in float64.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CohereConfig, GraniteConfig, PhiConfig, PretrainedConfig

from interp import kernels
from interp.engine import explain, patch
from interp.engine.readout import Reader
from interp.errors import KernelError, MetricError
from interp.interventions import Change, Gate, Intervention, Rotation, Scale, Subspace
from interp.metrics import KL, LogProb, Readout, Reads, resolve
from interp.models import Model, load
from interp.prompts import Pair, Pairs
from interp.sites import Positions, grid
from interp.training import fit

FUSED = ["logprob", "prob", "prob_diff", "kl"]
STREAM = grid("resid_pre", layer=..., position=["subject", "end"])
SIZES = {
    "vocab_size": tiny.VOCAB,
    "hidden_size": tiny.WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": tiny.HEADS,
    "intermediate_size": tiny.MLP,
    "max_position_embeddings": tiny.LENGTH,
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0),
}


def peak(logits: Tensor) -> Tensor:
    return logits.abs().amax(-1)


def made(config: PretrainedConfig, seed: int, dtype: torch.dtype = torch.float32) -> Model:
    return load(tiny.random_model(config, seed).to(dtype))


@pytest.fixture
def pairs(seed: int) -> Pairs:
    return sweeps.random_pairs(seed, [7, 9, 8, 6, 7])


def way(model: Model, pairs: Pairs, metrics: Any) -> str:
    return Reader.of(model, model.encode(pairs), resolve(metrics)).way


def agree(model: Model, pairs: Pairs, metrics: Sequence[Any] = FUSED, where: Any = STREAM, **options: Any) -> None:
    """The wave against whole passes; both baselines too."""
    wave, serial = (
        patch(model, pairs, where, [*metrics], strategy=strategy, **options) for strategy in ("wavefront", "serial")
    )
    top = float(patch(model, pairs, STREAM, peak, strategy="serial")["value"].max())
    close = (1e-10 if model.dtype == torch.float64 else 1e-5) * (1 + top)
    for name in ("value", "clean", "corrupt"):
        assert float(abs(wave[name] - serial[name]).max()) <= close, name
    assert float(abs(wave["value"] - wave["clean"]).max()) > 100 * close, "the patches do something"


# what is read


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (["logit_diff", "accuracy"], "columns"),
        (["logprob"], "fused"),
        (["kl"], "fused"),
        (["logit_diff", *FUSED], "fused"),
        (["rank"], "whole"),
        (["kl", "top1"], "whole"),
        ([peak], "whole"),
    ],
)
def test_no_more_is_read_than_is_declared(metrics: list[Any], expected: str, pairs: Pairs) -> None:
    assert way(sweeps.model("gpt2"), pairs, metrics) == expected


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(kind, torch.float32) for kind in sweeps.MAKERS] + [(kind, torch.float64) for kind in ("gpt2", "llama", "zoo")],
    ids=str,
)
def test_numbers_are_those_of_whole_logits(kind: str, dtype: torch.dtype, pairs: Pairs) -> None:
    model = sweeps.model(kind, dtype)
    assert way(model, pairs, FUSED) == "fused"
    agree(model, pairs)
    agree(model, pairs, ["kl"], grid("z", layer=..., head=...), patching="noising")


def test_an_unembedding_with_a_bias(pairs: Pairs, seed: int) -> None:
    model = made(PhiConfig(**SIZES), seed)
    assert model.module.lm_head.bias.abs().max() > 0.1
    assert way(model, pairs, FUSED) == "fused"
    agree(model, pairs)


def test_by_formula_from_the_raw_module(pairs: Pairs) -> None:
    """What leaves the last block replaced by the other prompt's: its last logits, then log-softmax and the formula of KL."""
    model = sweeps.model("gemma2")
    found = patch(model, pairs, grid("resid_post", layer=2, position="end"), FUSED, patching="noising")
    for i, pair in enumerate(pairs):
        with torch.no_grad():
            clean, row = (model.module(torch.tensor([list(side.text)])).logits[0, -1] for side in (pair.clean, pair.corrupted))
        clean, row = clean.log_softmax(-1), row.log_softmax(-1)
        right, wrong = row[list(pair.answers)].exp().sum(), row[list(pair.wrong)].exp().sum()
        expected = [right.log(), right, right - wrong, (clean.exp() * (clean - row)).sum()]
        np.testing.assert_allclose(found["value"].values[:, ..., i].flatten(), torch.stack(expected).numpy(), atol=1e-4)


def test_several_read_positions(pairs: Pairs) -> None:
    """Numbers of every read position are had; the last is what the usual metrics look at."""
    at = Positions.parse([-3, -1])
    metrics = [replace(metric, reads=replace(metric.reads, positions=at)) for metric in (KL(), LogProb())]
    agree(sweeps.model("gpt2"), pairs, metrics)
    agree(sweeps.model("gpt2"), pairs, [replace(KL(), reads=replace(KL().reads, positions=Positions.parse(-2)))])


@dataclass(frozen=True)
class Everywhere:
    """Summed over the read positions: the mean over answers, normalised; the clean run's beside it."""

    kind: str
    name: str = "everywhere"

    @property
    def reads(self) -> Reads:
        return Reads(self.kind, Positions.parse([-3, -1]), "answers", logsumexp=self.kind == "logits", kl=True, reference=True)

    def __call__(self, readout: Readout) -> Tensor:
        assert readout.reference is not None
        if readout.columns is None:  # all logits: pick the same columns
            ids = torch.cat([readout.answers, readout.wrong], -1)
            ids = torch.where(ids < 0, ids.amax(-1, keepdim=True), ids)
            own = readout.logits.gather(-1, ids[None, :, None].expand(*readout.logits.shape[:3], -1))
            theirs = readout.reference.gather(-1, ids[:, None].expand(*readout.reference.shape[:2], -1))
            total = readout.logits.logsumexp(-1)
        else:
            own, theirs, total = readout.logits, readout.reference, readout.logsumexp
        if self.kind == "logprobs":
            assert total.abs().max() <= 1e-5, "log-probabilities are normalised"
        return (own.mean(-1) - total - theirs.mean(-1)).sum(-1) + readout.normaliser + readout.divergence


@pytest.mark.parametrize("kind", ["logits", "logprobs"])
def test_a_users_metric_of_few_columns(kind: str, pairs: Pairs) -> None:
    metric = Everywhere(kind)
    for name in ("gpt2", "gemma2"):
        assert way(sweeps.model(name), pairs, metric) == "fused"
        agree(sweeps.model(name), pairs, [metric])
        agree(
            sweeps.model(name),
            pairs,
            [metric, replace(LogProb(), reads=replace(LogProb().reads, positions=metric.reads.positions))],
        )


def test_what_is_not_declared_is_not_there(pairs: Pairs) -> None:
    """A sum over the few columns that happen to be there would be a wrong number."""

    class Sly:
        name = "sly"

        def __init__(self, what: str, reference: bool) -> None:
            self.what, self.reads = what, Reads(columns="answers", reference=reference)

        def __call__(self, readout: Readout) -> Tensor:
            return getattr(readout, self.what)

    model = sweeps.model("gpt2")
    for what, declared in (("normaliser", "logsumexp=True"), ("divergence", "kl=True")):
        expected = rf"readout\.{what} is of the whole vocabulary, but only 3 columns were read; declare .*{declared}"
        with pytest.raises(MetricError, match=expected):
            patch(model, pairs, STREAM, Sly(what, reference=True), strategy="wavefront")
    with pytest.raises(MetricError, match=r"needs the clean run, which was not read; declare Reads\(kl=True\)"):
        patch(model, pairs, STREAM, Sly("divergence", reference=False))


def test_divergence_needs_no_answers(pairs: Pairs) -> None:
    bare = Pairs(tuple(Pair(pair.clean, pair.corrupted) for pair in pairs), "toy", {})
    for kind in ("gpt2", "llama"):
        agree(sweeps.model(kind), pairs, ["kl"])
        one, other = (patch(sweeps.model(kind), given, STREAM, "kl") for given in (bare, pairs))
        np.testing.assert_allclose(one["value"], other["value"], atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_in_float32(dtype: torch.dtype, pairs: Pairs, seed: int) -> None:
    """To the spread that rounding of 8 (11) bits allows: whole passes round their logits, the kernel does not."""
    model = load(tiny.llama(seed).to(dtype))
    assert way(model, pairs, FUSED) == "fused"
    wave, serial = (patch(model, pairs, STREAM, FUSED, strategy=strategy) for strategy in ("wavefront", "serial"))
    assert wave["value"].dtype == np.float32
    top = float(patch(model, pairs, STREAM, peak, strategy="serial")["clean"].max())
    assert float(abs(wave["value"] - serial["value"]).max()) <= 4 * torch.finfo(dtype).eps * (1 + top)


# what is kept


class Largest(TorchDispatchMode):
    """The most numbers in a tensor that is made inside, views aside."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.is_floating_point():
            self.numbers = max(self.numbers, made.untyped_storage().nbytes() // made.element_size())
        return made


@pytest.mark.parametrize(("metric", "kept"), [("logprob", False), ("kl", False), ("rank", True)])
def test_logits_of_rows_are_kept_only_where_they_are_read(metric: str, kept: bool, seed: int) -> None:
    """200 rows of 6000 tokens are 1.2 million logits; the kernel has 512 columns of them at a time."""
    vocab, rows = 6000, 200
    model, pairs = load(sweeps.zoo(seed, vocab_size=vocab)), sweeps.random_pairs(seed, [7, 9, 8, 6, 7])
    encoded = model.encode(pairs)
    reader = Reader.of(model, encoded, resolve(metric))
    assert model.stack is not None
    hidden = torch.randn(rows, 1, model.sizes["d_model"])
    examples, reference = torch.arange(rows) % 5, torch.randn(5, 1, vocab)
    weights = vocab * model.sizes["d_model"]
    assert rows * vocab > 4 * weights, "the unembedding itself may be touched"
    with torch.no_grad(), Largest() as largest:
        reader.read(hidden, examples, reference)
    assert (largest.numbers >= rows * vocab) == kept
    if not kept:
        assert largest.numbers <= max(weights, rows * 512)


def test_the_budget_knows_what_is_kept(seed: int) -> None:
    """More rows fit where logits are not kept, down to what the kernel holds; columns alone take next to nothing."""
    from interp.engine.budget import Budget

    model = load(sweeps.zoo(seed, vocab_size=6000))
    encoded = model.encode(sweeps.random_pairs(seed, [7, 9]))
    bytes_of = {
        metric: Budget(model, Reader.of(model, encoded, resolve(metric)), 9).row for metric in ("logit_diff", "kl", "rank")
    }
    assert bytes_of["logit_diff"] < bytes_of["kl"] < bytes_of["rank"]
    assert bytes_of["rank"] - bytes_of["logit_diff"] >= 4 * 6000
    assert bytes_of["kl"] - bytes_of["logit_diff"] == 4 * 6 * 512


# where it cannot be had


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (CohereConfig(**SIZES, logit_scale=0.25), "a ramp of logits deviates"),
        (GraniteConfig(**SIZES, logits_scaling=4.0), "a ramp of logits deviates"),
        (GraniteConfig(**SIZES, logits_scaling=1.0), ""),
    ],
    ids=["cohere", "granite", "granite-unscaled"],
)
def test_logits_that_are_scaled_are_read_whole(config: PretrainedConfig, reason: str, pairs: Pairs, seed: int) -> None:
    model = made(config, seed)
    assert model.stack is not None
    assert reason in model.stack.unfused
    assert bool(reason) == bool(model.stack.unfused)
    assert way(model, pairs, FUSED) == ("whole" if reason else "fused")
    agree(model, pairs, [*FUSED, "logit_diff"])
    plan = explain(model, pairs, STREAM, FUSED)
    assert plan.kernels == ({} if reason else {"fused_readout": "torch"})
    assert ("by way of all 97 logits: its logits are more than a linear map" in str(plan)) == bool(reason)


def test_a_cap_that_the_config_does_not_tell_is_found(pairs: Pairs, seed: int) -> None:
    """However small the logits of random prompts are: the ramp is not."""
    module = tiny.gemma2(seed, final_logit_softcapping=1e4)
    assert load(module).stack.unfused == ""
    forward = module.forward

    @functools.wraps(forward)
    def capped(*args: Any, **kwargs: Any) -> Any:
        found = forward(*args, **kwargs)
        found.logits = 100.0 * (found.logits / 100.0).tanh()
        return found

    module.forward = capped
    assert "a ramp of logits deviates" in load(module).stack.unfused


@contextmanager
def hooked(module: torch.nn.Module) -> Iterator[None]:
    handle = module.register_forward_hook(lambda m, a, o: o * 1.5 if isinstance(o, Tensor) else None)
    try:
        yield
    finally:
        handle.remove()


def test_a_users_hook_on_the_unembedding_is_in_force(pairs: Pairs, seed: int) -> None:
    """It may look at positions that the wave does not compute, so rows run whole passes."""
    module = tiny.gpt2(seed)
    model = load(module)
    for metrics in (FUSED, ["logit_diff"]):
        alone = patch(model, pairs, STREAM, metrics)
        with hooked(module.lm_head):
            found, serial = (patch(model, pairs, STREAM, metrics, strategy=strategy) for strategy in ("auto", "serial"))
            assert float(abs(found["value"] - serial["value"]).max()) <= 1e-4
            assert float(abs(found["value"] - alone["value"]).max()) > 1e-3
            assert "a hook of yours on lm_head" in str(explain(model, pairs, STREAM, metrics))
        assert way(model, pairs, metrics) != "whole"


# gradients


@pytest.mark.parametrize(("kind", "metric"), [*(("gpt2", metric) for metric in FUSED), ("gemma2", "logprob"), ("gemma2", "kl")])
def test_training_is_what_it_is_with_whole_logits(
    kind: str, metric: str, pairs: Pairs, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Losses and what was learned in three steps: in float64, or in float32 where the cap of logits bites."""
    dtype, close = (torch.float64, 1e-8) if kind == "gpt2" else (torch.float32, 1e-2)
    model = sweeps.model(kind, dtype)
    losses, moved = [], []
    for refused in ("", "whole logits were asked for"):
        monkeypatch.setattr(model.stack, "unfused", refused)
        assert way(model, pairs, metric) == ("whole" if refused else "fused")
        rotation, gate = Rotation(tiny.WIDTH, 3, seed=1).to(dtype), Gate((tiny.HEADS, 1)).to(dtype)
        before = rotation.weight.detach().clone()
        many = [
            Intervention.of(Change("L1.resid_post", "end", featurizer=rotation)),
            Intervention.of(Change("L2.z", "end", edit=gate)),
        ]
        trained = fit(model, pairs, many, metric, epochs=3, batch=5, lr=0.5, optimizer=torch.optim.SGD)
        losses.append(trained.loss.values)
        moved.append((rotation.weight.detach() - before, gate.logits.detach()))
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-10 if dtype == torch.float64 else 2e-5)
    for fused, whole in zip(*moved, strict=True):
        assert float(whole.abs().max()) > (1e-10 if kind == "gpt2" else 1e-4), "it learned"
        assert float((fused - whole).abs().max()) <= close * float(whole.abs().max())


# what is said of it


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Names of the kernels that are called inside."""
    called: set[str] = set()

    def watch(name: str) -> None:
        kernel = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, lambda *a, **k: called.add(name) or kernel(*a, **k))

    with monkeypatch.context() as patched:
        monkeypatch = patched
        for name in kernels.KERNELS:
            watch(name)
        yield called


@pytest.mark.parametrize("strategy", ["wavefront", "batched", "serial"])
@pytest.mark.parametrize("metric", ["logit_diff", "kl", "rank"])
@pytest.mark.parametrize("change", ["plain", "subspace", "gate", "subspace, scaled", "given gate"])
def test_the_kernels_that_are_named_are_those_that_run(
    change: str, metric: str, strategy: Any, pairs: Pairs, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    model = sweeps.model("gpt2")
    gate = Change("L1.z", edit=Gate((tiny.HEADS, 1)))
    subspace = Subspace(Rotation(tiny.WIDTH, 2, seed=seed).basis.detach())
    where, options = {
        "plain": (STREAM, {}),
        "subspace": (STREAM, {"featurizer": subspace}),
        "subspace, scaled": (STREAM, {"featurizer": subspace, "edit": Scale(0.5)}),
        "gate": (Intervention.of(gate), {}),
        "given gate": (STREAM, {"given": Intervention.of(gate)}),
    }[change]
    expected = {"subspace": {"subspace_interchange"}, "gate": {"head_gates"}, "given gate": {"head_gates"}}.get(change, set())
    expected |= {"subspace_interchange"} if change == "subspace, scaled" else set()  # the row of the noise floor replaces
    expected |= {"fused_readout"} if strategy == "wavefront" and metric != "rank" else set()
    plan = explain(model, pairs, where, metric, strategy=strategy, **options)
    with watched(monkeypatch) as called:
        found = patch(model, pairs, where, metric, strategy=strategy, **options)
    assert called == expected
    assert found.attrs["kernels"] == plan.kernels == dict.fromkeys(plan.kernels, "torch")
    assert set(plan.kernels) == expected
    listed = ", ".join(f"{name} (torch)" for name in plan.kernels) or "none"
    assert f"kernels: {listed}" in str(plan)


def test_what_explain_says_of_the_readout(pairs: Pairs) -> None:
    model = sweeps.model("gpt2")

    def said(metrics: Any, **options: Any) -> str:
        return explain(model, pairs, STREAM, metrics, **options).readout

    assert said("logit_diff") == "3 columns of the vocabulary at -1"
    few = "3 columns of the vocabulary at -1"
    assert said("logprob") == f"{few}, the log-sum-exp of all, without keeping logits"
    assert said(FUSED) == f"{few}, the log-sum-exp of all, the divergence from the clean run, without keeping logits"
    assert said(["kl", "rank", "top1"]) == "all 97 columns of the vocabulary at -1, read by rank, top1"
    assert said("kl", strategy="batched") == "all 97 columns of the vocabulary at -1, from whole forward passes"


def test_operations_are_counted_though_logits_are_not_kept(pairs: Pairs) -> None:
    """KL takes the products of all columns, as rank does."""
    model = sweeps.model("gpt2")
    few, fused, whole = (explain(model, pairs, STREAM, metric).flops for metric in ("logit_diff", "kl", "rank"))
    assert few < fused == whole


def test_triton_that_cannot_run_is_refused_and_nothing_else_runs(
    pairs: Pairs, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Loading proves the kernel's meaning with its reference, so it does not need a GPU; a sweep that would use it does."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("INTERP_KERNELS", "triton")
    model = load(tiny.gpt2(seed))
    assert model.stack is not None
    assert model.stack.unfused == ""
    for metric in ("kl", "logit_diff"):
        for run in (explain, patch):
            with pytest.raises(KernelError, match="kernel 'fused_readout' was asked for in Triton on device 'cpu'"):
                run(model, pairs, STREAM, metric)
    assert patch(model, pairs, STREAM, "rank")["value"].notnull().all()
