"""Weights exchanged for a while: inside, everything is that of a model with those weights; behind, nothing ever happened.

Expected numbers: a copy of the module whose weights are changed in place, and loaded anew.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

from interp.doctor import architectures
from interp.engine import patch
from interp.errors import HeadOutOfRangeError, ShapeMismatchError, UnknownNameError, UnknownSiteError, WeightsError
from interp.models import Model, load
from interp.models.reweighted import reweighted
from interp.models.weights import full_ov, ov, projection, qk
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import Site, grid

Changes = Mapping[str, Callable[[Tensor], Tensor]]


def pairs(seed: int) -> Pairs:
    draw = torch.Generator().manual_seed(seed + 1)
    found = []
    for _ in range(2):
        clean, corrupted = torch.randint(1, tiny.VOCAB, (2, 5), generator=draw)
        corrupted[:2] = clean[:2]
        found.append(Pair(Prompt(tuple(clean.tolist())), Prompt(tuple(corrupted.tolist())), (3,), (4,)))
    return Pairs(tuple(found), "random tokens")


def changed(network: nn.Module, changes: Changes) -> nn.Module:
    """A copy with the weights changed in place."""
    other = copy.deepcopy(network)
    with torch.no_grad():
        for name, change in changes.items():
            parameter = other.get_parameter(name)
            parameter.copy_(change(parameter.clone()))
    return other


class Snapshot:
    """Everything about the parameters of a module that an exchange must leave alone."""

    def __init__(self, module: nn.Module) -> None:
        self.found = {n: (p, p._version, p.requires_grad, p.grad, p.detach().clone()) for n, p in self.named(module)}
        self.order = [name for name, _ in module.named_parameters()]

    @staticmethod
    def named(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
        yield from module.named_parameters(remove_duplicate=False)

    def check(self, module: nn.Module) -> None:
        now = dict(self.named(module))
        assert now.keys() == self.found.keys()
        assert [name for name, _ in module.named_parameters()] == self.order
        for name, (parameter, version, requires_grad, grad, numbers) in self.found.items():
            assert now[name] is parameter, name
            assert (parameter._version, parameter.requires_grad) == (version, requires_grad), name
            assert parameter.grad is grad, name
            assert torch.equal(parameter, numbers), name


GPT2: Changes = {
    "transformer.h.1.attn.c_attn.weight": lambda w: 1.5 * w.flip(0),
    "transformer.h.2.mlp.c_fc.bias": torch.zeros_like,
    "transformer.ln_f.weight": lambda w: w + 0.5,
    "transformer.h.1.ln_1.weight": lambda w: -w,
    "transformer.wte.weight": lambda w: w.flip(1),
}
LLAMA: Changes = {
    "model.layers.0.self_attn.k_proj.weight": lambda w: w.flip(0),
    "model.layers.1.mlp.down_proj.weight": lambda w: w * 2,
    "model.norm.weight": lambda w: w - 0.3,
    "lm_head.weight": lambda w: w.flip(0),
}


@pytest.mark.parametrize("strategy", ["serial", "batched", "wavefront"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_sweep_inside_is_that_of_the_changed_model(family: str, strategy: Any, seed: int) -> None:
    """The stack, the probe, the sites and what is found at load hold no weights: with a sweep before, inside and behind."""
    network, changes = getattr(tiny, family)(seed), {"gpt2": GPT2, "llama": LLAMA}[family]
    model, sites = load(network), grid("resid_pre", layer=..., position=...)
    run: Callable[[Model], Any] = lambda m: patch(m, pairs(seed), sites, strategy=strategy)  # noqa: E731
    before = run(model)
    expected = run(load(changed(network, changes)))
    with reweighted(model, changes) as inside:
        assert inside is model
        found = run(model)
    assert float(np.abs(expected.value - before.value).max()) > 1e-2, "the changes show"
    for name in ("value", "clean", "corrupt"):
        np.testing.assert_array_equal(found[name].values, expected[name].values)
    np.testing.assert_array_equal(run(model).value.values, before.value.values)


def test_every_way_of_running_sees_the_weights(seed: int) -> None:
    """Logits, the stack's own final norm and unembedding, heads, weight readings, generation."""
    network = tiny.gpt2(seed)
    model, other = load(network), load(changed(network, GPT2))
    tokens = [[5, 6, 7, 8]]
    readings: list[Callable[[Model], Any]] = [
        lambda m: m.module(**m.inputs(m.encode(tokens))).logits,
        lambda m: m.stack.logits(torch.ones(1, 2, tiny.WIDTH)),
        lambda m: m.stack.logits(torch.ones(1, 2, tiny.WIDTH), torch.tensor([[1, 2]])),
        lambda m: patch(m, pairs(seed), grid("z", layer=..., head=...)).value.values,
        lambda m: ov(m).matrix(),
        lambda m: qk(m, scaled=True).matrix(),
        lambda m: full_ov(m, "L1H0").matrix(),
        lambda m: m.module.generate(torch.tensor(tokens), max_new_tokens=4, do_sample=False, pad_token_id=0),
    ]
    with torch.no_grad():
        before, expected = [read(model) for read in readings], [read(other) for read in readings]
        with reweighted(model, GPT2):
            inside = [read(model) for read in readings]
        behind = [read(model) for read in readings]
    for one, other_one, first, last in zip(inside, expected, before, behind, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other_one))
        np.testing.assert_array_equal(np.asarray(first), np.asarray(last))
    assert not torch.equal(inside[0], before[0])


def test_behind_it_nothing_ever_happened(seed: int) -> None:
    network = tiny.gpt2(seed)
    network(torch.tensor([[1, 2, 3]])).logits.sum().backward()
    network.transformer.h[0].requires_grad_(False)
    model, snapshot = load(network), Snapshot(network)
    with reweighted(model, GPT2):
        for name, parameter in network.named_parameters():
            assert (parameter is not snapshot.found[name][0]) == (name in GPT2)
            assert parameter.requires_grad == snapshot.found[name][2]
        with torch.no_grad():
            network.transformer.wte.weight.zero_()  # writing in place inside reaches the ones inside alone
    snapshot.check(network)


def test_behind_an_error_and_behind_a_block_in_a_block(seed: int) -> None:
    network = tiny.llama(seed)
    model, snapshot = load(network), Snapshot(network)
    name = "model.norm.weight"
    with reweighted(model, {name: lambda w: w + 1}):
        outer = network.get_parameter(name)
        with reweighted(model, {name: lambda w: w + 1, "lm_head.weight": torch.zeros_like}):
            torch.testing.assert_close(network.get_parameter(name), snapshot.found[name][-1] + 2, check_stride=False)
        assert network.get_parameter(name) is outer
        assert network.lm_head.weight is snapshot.found["lm_head.weight"][0]
    snapshot.check(network)
    with pytest.raises(ZeroDivisionError), reweighted(model, {name: lambda w: w + 1}):
        1 / 0
    snapshot.check(network)


def test_functions_get_a_copy_and_tensors_are_copied(seed: int) -> None:
    network = tiny.llama(seed)
    model, snapshot = load(network), Snapshot(network)
    mine = torch.zeros(tiny.WIDTH)
    with reweighted(model, {"model.norm.weight": mine, "lm_head.weight": lambda w: w.mul_(0)}):
        assert not network.lm_head.weight.any()
        with torch.no_grad():
            network.model.norm.weight.add_(1)
    assert not mine.any()
    snapshot.check(network)


def test_a_weight_that_stays_is_still_an_object_of_its_own(seed: int) -> None:
    network = tiny.llama(seed)
    model, snapshot = load(network), Snapshot(network)
    with reweighted(model, {"model.norm.weight": lambda w: w}), torch.no_grad():
        network.model.norm.weight.zero_()
    snapshot.check(network)


def test_tied_weights_stay_tied(seed: int) -> None:
    network = tiny.gpt2(seed)
    assert network.lm_head.weight is network.transformer.wte.weight
    model, snapshot = load(network), Snapshot(network)
    for name in ("lm_head.weight", "transformer.wte.weight", "*w?e.weight", "*.weight"):
        with reweighted(model, {name: lambda w: 2 * w}):
            assert network.lm_head.weight is network.transformer.wte.weight
            torch.testing.assert_close(network.lm_head.weight, 2 * snapshot.found["lm_head.weight"][-1], check_stride=False)
        snapshot.check(network)
    with (
        pytest.raises(WeightsError, match="tied weights are one parameter"),
        reweighted(model, {"lm_head.weight": torch.zeros_like, "transformer.wte.weight": torch.zeros_like}),
    ):
        pass
    snapshot.check(network)


def test_patterns(seed: int) -> None:
    network = tiny.llama(seed)
    model, snapshot = load(network), Snapshot(network)
    changes = {"model.layers.*.mlp.*.weight": torch.zeros_like, "model.layers.[01].input_layernorm.weight": lambda w: -w}
    with reweighted(model, changes):
        moved = {name for name, p in network.named_parameters() if p is not snapshot.found[name][0]}
    parts = ("gate_proj", "up_proj", "down_proj")
    expected = {f"model.layers.{i}.mlp.{part}.weight" for i in range(tiny.LAYERS) for part in parts}
    assert moved == expected | {f"model.layers.{i}.input_layernorm.weight" for i in (0, 1)}
    snapshot.check(network)


def test_the_digest_is_that_of_the_weights(seed: int) -> None:
    network = tiny.llama(seed)
    model = load(network)
    outside, found = model.digest, []
    for factor in (2.0, 3.0, 4.0):
        change: Changes = {"model.norm.weight": lambda w, factor=factor: factor * w}
        expected = load(changed(network, change)).digest
        with reweighted(model, change):
            found.append(model.digest)
        assert found[-1] == expected
    assert len({outside, *found}) == 4
    assert model.digest == outside
    with reweighted(model, {"model.norm.weight": lambda w: w}):
        assert model.digest == outside


def test_the_digest_of_files_is_kept(smollm2: Any) -> None:
    model = load(smollm2, check=False)
    outside = model.digest
    with reweighted(model, {"model.norm.weight": lambda w: 2 * w}):
        assert model.digest != outside
    assert model.digest == outside


@pytest.mark.parametrize("architecture", ["gpt2", "gpt-neox", "llama", "falcon-new", "phi3", "gpt-j"])
def test_matrices_of_heads(architecture: str) -> None:
    """However heads lie in the parameters: what is put at a head is read there, and all other heads stay."""
    model = architectures.loaded(architecture)
    snapshot = Snapshot(model.module)
    for which, name in (("Q", "q"), ("K", "k"), ("V", "v")):
        before = projection(model, Site(name, layer=1)).weight
        new = torch.arange(before[1].numel(), dtype=torch.float32).reshape(before[1].shape)
        with reweighted(model, {f"L1H1.W_{which}": new}):
            found = projection(model, Site(name, layer=1)).weight
        torch.testing.assert_close(found[1], new)
        for head in (0, *range(2, len(before))):
            assert torch.equal(found[head], before[head])
        with reweighted(model, {f"L1.W_{which}": lambda w: w.flip(0)}):
            assert torch.equal(projection(model, Site(name, layer=1)).weight, before.flip(0))
    plain = ov(model, 1, fold_norm=False)
    with reweighted(model, {"L1H2.W_O": lambda w: 3 * w, "L1H0.W_V": torch.zeros_like, "L1H1.W_O": torch.zeros_like}):
        inside = ov(model, 1, fold_norm=False)
    torch.testing.assert_close(inside[2].right, 3 * plain[2].right)
    assert not inside[1].right.any()
    assert not inside[0].left.any()
    assert torch.equal(inside[3].right, plain[3].right)
    snapshot.check(model.module)


def test_a_recurrent_layer_uses_what_it_is_given(seed: int) -> None:
    """It keeps its weights in a list of its own besides."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.GRU(4, 3, batch_first=True))
    model = load(network, example={"input": torch.randn(3, 5, 4)})
    x = torch.randn(2, 5, 4)
    before = network(x)[0]
    other = changed(network, {"0.weight_ih_l0": lambda w: 2 * w})
    with reweighted(model, {"0.weight_ih_l0": lambda w: 2 * w}):
        torch.testing.assert_close(network(x)[0], other(x)[0])
    torch.testing.assert_close(network(x)[0], before)
    assert not torch.allclose(other(x)[0], before)


def test_mistakes_are_told_before_anything_is_touched(seed: int) -> None:
    network = tiny.llama(seed)
    model, snapshot = load(network), Snapshot(network)

    def told(error: type[Exception], words: str, changes: Any) -> None:
        with pytest.raises(error, match=words), reweighted(model, changes):
            raise AssertionError("never")
        snapshot.check(network)

    good = {"model.norm.weight": lambda w: 2 * w}
    told(UnknownNameError, r"did you mean 'model\.norm\.weight'", {**good, "model.norm.wieght": torch.zeros(1)})
    unknown = r"unknown pattern of parameters 'model\.layer\.\*\.weight'"
    told(UnknownNameError, unknown, {**good, "model.layer.*.weight": torch.zeros(1)})
    told(UnknownNameError, r"did you mean 'L1H3\.W_", {**good, "L1H3.W_X": torch.zeros(1)})
    wrong = r"lm_head\.weight has shape \(97, 32\), torch\.float32 on cpu; the weight to put there has shape \(32, 97\), torch"
    told(ShapeMismatchError, wrong, {**good, "lm_head.weight": lambda w: w.T})
    told(ShapeMismatchError, r"torch\.float64 on cpu", {"lm_head.weight": lambda w: w.double()})
    told(WeightsError, "makes float '0.0'; a tensor is expected", {**good, "lm_head.weight": 0.0})
    told(WeightsError, "the function that was given makes NoneType", {**good, "lm_head.weight": lambda w: None})
    told(HeadOutOfRangeError, "head 4 .* does not exist", {"L0H4.W_Q": torch.zeros(1)})
    told(HeadOutOfRangeError, "has 2 key/value heads", {"L0H3.W_K": torch.zeros(1)})
    told(UnknownSiteError, "unknown stream", {"vision:L0H0.W_Q": torch.zeros(1)})
    told(ShapeMismatchError, r"L0H0\.W_Q has shape \(32, 8\)", {"L0H0.W_Q": torch.zeros(8, 32)})
    told(WeightsError, "one part of it", {"L0H0.W_Q": torch.zeros(32, 8), "L0.W_Q": lambda w: w})
    told(WeightsError, "name one parameter", {"L0H0.W_Q": torch.zeros(32, 8), "*.q_proj.weight": lambda w: w})
    told(ZeroDivisionError, "by zero", {**good, "lm_head.weight": lambda w: w / (1 // 0)})
