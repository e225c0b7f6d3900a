"""Scales of norms as sites: what they hold, what writing them does, where they are not, and in every strategy the same.

Expected numbers: the norm's formula on what a plain torch hook sees go into the module; a norm replaced by hand; one
intervention a pass. Tolerance: 1e-5 × (1 + the largest number).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch
from torch import Tensor, nn

from interp.doctor import architectures
from interp.engine import attribute, patch, pieces
from interp.errors import UnknownSiteError
from interp.interventions import Activation, Add, Change, Constant, Intervention, Noise, Scale
from interp.models import Model, load
from interp.models.decoding import form_of
from interp.models.norms import Norm, bias_of
from interp.sites import Site, grid

NORMS: dict[str, dict[str, str]] = {
    "gpt2": {
        "ln1_scale": "transformer.h.{}.ln_1",
        "ln2_scale": "transformer.h.{}.ln_2",
        "ln_final_scale": "transformer.ln_f",
    },
    "llama": {
        "ln1_scale": "model.layers.{}.input_layernorm",
        "ln2_scale": "model.layers.{}.post_attention_layernorm",
        "ln_final_scale": "model.norm",
    },
    "gemma2": {
        "ln1_scale": "model.layers.{}.input_layernorm",
        "ln1_post_scale": "model.layers.{}.post_attention_layernorm",
        "ln2_scale": "model.layers.{}.pre_feedforward_layernorm",
        "ln2_post_scale": "model.layers.{}.post_feedforward_layernorm",
    },
    "olmo2": {
        "ln1_post_scale": "model.layers.{}.post_attention_layernorm",
        "ln2_post_scale": "model.layers.{}.post_feedforward_layernorm",
    },
    "gpt-neox": {
        "ln1_scale": "gpt_neox.layers.{}.input_layernorm",
        "ln2_scale": "gpt_neox.layers.{}.post_attention_layernorm",
    },
    "falcon-new": {"ln1_scale": "transformer.h.{}.ln_attn", "ln2_scale": "transformer.h.{}.ln_mlp"},
    "opt": {
        "ln1_scale": "model.decoder.layers.{}.self_attn_layer_norm",
        "ln2_scale": "model.decoder.layers.{}.final_layer_norm",
        "ln_final_scale": "model.decoder.final_layer_norm",
    },
    "t5": {
        "encoder:ln1_scale": "encoder.block.{}.layer.0.layer_norm",
        "ln2_scale": "decoder.block.{}.layer.2.layer_norm",
        "ln_final_scale": "decoder.final_layer_norm",
    },
}
"""Which module of the source of transformers each norm is."""


@cache
def model(architecture: str) -> Model:
    return architectures.loaded(architecture)


def formula(norm: Any, x: Tensor) -> Tensor:
    """σ as the source of each class has it."""
    centred = x - x.mean(-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else x
    eps = next(getattr(norm, name) for name in ("eps", "variance_epsilon") if hasattr(norm, name))
    return (centred.pow(2).mean(-1) + eps).sqrt()


def run(model: Model, reads: list[Site], writes: dict[Site, Callable[[Tensor], Tensor]] | None = None) -> dict[Site, Tensor]:
    with torch.no_grad(), model.prepared(reads):
        return model.backend.run(model.example, reads=reads, writes=writes or {})


def close(got: Tensor, expected: Tensor, limit: float = 1e-5) -> None:
    assert got.shape == expected.shape
    assert float((got - expected).abs().max()) <= limit * (1 + float(expected.abs().max()))


@pytest.mark.parametrize("architecture", NORMS)
def test_a_scale_is_what_the_norm_divides_by(architecture: str) -> None:
    tested = model(architecture)
    for word, path in NORMS[architecture].items():
        site = Site.parse(word)
        for layer in range(3) if site.component.per_layer else [None]:
            here = site.at(layer=layer)
            norm, seen = tested.module.get_submodule(path.format(layer)), []
            handle = norm.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0].detach().clone()))
            found = run(tested, [here])[here]
            handle.remove()
            x = seen[0].reshape(*found.shape, -1)
            close(found, formula(norm, x), 1e-6)


@pytest.mark.parametrize("architecture", NORMS)
def test_with_another_scale_the_norm_divides_by_that(architecture: str) -> None:
    """Against the module's own output, its part behind the quotient multiplied by hand, on a pass without our hooks."""
    tested = model(architecture)
    for word, path in NORMS[architecture].items():
        site = Site.parse(word)
        here = site.at(layer=1) if site.component.per_layer else site
        norm: Any = tested.module.get_submodule(path.format(1))
        factor = 0.3 + torch.rand(run(tested, [here])[here].shape, generator=torch.Generator().manual_seed(0))

        def by_hand(module: nn.Module, args: Any, out: Tensor, norm: Any = norm, factor: Tensor = factor) -> Tensor:
            bias = norm.bias if isinstance(getattr(norm, "bias", None), Tensor) else 0
            return ((out - bias).reshape(*factor.shape, -1) / factor[..., None]).reshape(out.shape) + bias

        logits = Site("logits")
        base = run(tested, [logits])[logits]
        handle = norm.register_forward_hook(by_hand)
        expected = run(tested, [logits])[logits]
        handle.remove()
        found = run(tested, [logits], {here: lambda h, factor=factor: h * factor})[logits]
        assert float((expected - base).abs().max()) > 1e-2, "nothing to see"
        close(found, expected)
        assert torch.equal(run(tested, [logits], {here: lambda h: h.clone()})[logits], base), "its own value changes nothing"


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "falcon"])
def test_with_its_scale_held_a_norm_is_affine(architecture: str, seed: int) -> None:
    """Logits of a mixture of two streams, before a soft cap, are the mixture of their logits; with its own scale not."""
    tested = model(architecture)
    end, scale = Site("resid_post", layer=2), Site("ln_final_scale")
    head: Any = tested.module.get_output_embeddings()  # type: ignore[attr-defined]
    path = next(name for name, part in tested.module.named_modules() if part is head)
    out = Site("output", path=path)
    h = run(tested, [end])[end]
    one, other = h + torch.randn(h.shape, generator=torch.Generator().manual_seed(seed)), 3 * h
    held = {scale: lambda s: torch.full_like(s, 2.0)}

    def logits(stream: Tensor, more: Any) -> Tensor:
        return run(tested, [out], {end: lambda h: stream, **more})[out]

    close(logits(0.25 * one + 0.75 * other, held), 0.25 * logits(one, held) + 0.75 * logits(other, held))
    free = logits(0.25 * one + 0.75 * other, {}) - (0.25 * logits(one, {}) + 0.75 * logits(other, {}))
    assert float(free.abs().max()) > 1e-2


def test_what_a_norm_gives_is_written_after_its_scale() -> None:
    """Both are seen in one tensor; what attention adds, written, is what enters the stream, whatever its norm divides by."""
    tested = model("gemma2")
    added, scale, after = Site("attn_out", layer=1), Site("ln1_post_scale", layer=1), Site("resid_mid", layer=1)
    found = run(tested, [added, after, Site("resid_pre", layer=1)])
    new = {added: lambda h: torch.ones_like(h), scale: lambda s: 2 * s}
    close(run(tested, [after], new)[after], found[Site("resid_pre", layer=1)] + 1)


# which norm is which, and which there is none


@pytest.mark.parametrize(
    ("architecture", "site", "why"),
    [
        ("bert", "L0.ln1_scale", "attention.self takes is not what a norm of"),
        ("bert", "L0.ln2_scale", "takes the stream itself, which .*attention.output.LayerNorm gives"),
        ("bert", "ln_final_scale", "no norm takes what leaves the last block"),
        ("falcon", "L1.ln2_scale", "attention and MLP read one norm, transformer.h..*input_layernorm: it is ln1_scale"),
        ("olmo2", "L1.ln1_scale", "is not what a norm of model.layers"),
        ("llama", "L1.ln1_post_scale", "no norm stands between attn_out and the stream"),
        ("mamba", "L1.ln2_scale", "has no module that is known to be the MLP"),
    ],
)
def test_a_norm_that_is_not_there_says_why(architecture: str, site: str, why: str) -> None:
    tested = model(architecture)
    assert not tested.has(Site.parse(site))
    with pytest.raises(UnknownSiteError, match=why):
        tested.check(Site.parse(site))


class MeanNorm(nn.Module):
    """Divides by the mean of the absolute values: no norm of a known form."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x / (x.abs().mean(-1, keepdim=True) + self.eps)


def test_a_norm_of_another_form_is_left_out() -> None:
    network: Any = tiny.llama(0)
    network.model.layers[1].input_layernorm = MeanNorm(network.config.hidden_size)
    tested = load(network)
    assert not tested.has(Site("ln1_scale", layer=1))
    assert tested.has(Site("ln1_scale", layer=0))
    with pytest.raises(UnknownSiteError, match=r"input_layernorm: it is not gain · x / σ \+ bias; the nearest form is off by"):
        tested.check(Site("ln1_scale", layer=1))


class OnePlus(nn.Module):
    """A LayerNorm whose gain is 1 + its weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias, self.small = nn.Parameter(torch.randn(width)), nn.Parameter(torch.randn(width)), 1e-3

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, x.shape[-1:], 1 + self.weight, self.bias, self.small)


@pytest.mark.parametrize(
    ("norm", "form"),
    [
        (nn.LayerNorm(16), Norm(True, 1e-5, 1.0)),
        (nn.LayerNorm(16, eps=1e-3, elementwise_affine=False), Norm(True, 1e-3, None)),
        (nn.RMSNorm(16, eps=1e-2), Norm(False, 1e-2, 1.0)),
        (nn.RMSNorm(16), Norm(False, torch.finfo(torch.float32).eps, 1.0)),
        (OnePlus(16), Norm(True, 1e-3, 0.0)),
    ],
    ids=["LayerNorm", "without a gain", "RMSNorm", "no epsilon", "1 + weight"],
)
def test_the_form_is_the_one_that_reproduces_the_output(norm: Any, form: Norm, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(1 + torch.randn(16, generator=generator))
        x = 0.1 * torch.randn(2, 5, 16, generator=generator) + 0.05
        found = Norm.of(norm, x, norm(x))
        assert found == form
        close(form.apply(norm, x), norm(x), 1e-6)
        direction = torch.randn(2, 5, 16, generator=generator)
        back = (form.back(norm, direction) * x).sum(-1) / form.scale(x)
        close(back, (direction * (norm(x) - bias_of(norm))).sum(-1), 1e-6)


# in sweeps


def same(tested: Model, pairs: Any, where: Any, **options: Any) -> Any:
    serial = patch(tested, pairs, where, strategy="serial", **options)
    atol = 2e-5 * (1 + float(abs(serial["clean"]).max()))
    for strategy in ("batched", "auto"):
        found = patch(tested, pairs, where, strategy=strategy, **options)
        np.testing.assert_allclose(found["value"], serial["value"], rtol=0, atol=atol, err_msg=strategy)
    return serial


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "neox", "neox-sequential", "mistral", "bloom"])
def test_strategies_give_the_same_numbers(kind: str, seed: int) -> None:
    tested, pairs = sweeps.model(kind), sweeps.random_pairs(seed, [6, 5, 7])
    for name in ("ln1_scale", "ln1_post_scale", "ln2_scale", "ln2_post_scale", "ln_final_scale"):
        if name in tested.anatomy.absent:
            continue
        swept = {"layer": ...} if Site(name).component.per_layer else {}
        found = same(tested, pairs, grid(name, position=[1, -1], **swept), metric=["logit_diff", "kl"])
        assert float(abs(found["value"].sel(metric="logit_diff") - found["corrupt"].sel(metric="logit_diff")).max()) > 1e-3
        for change in (
            {"source": Constant(2.0)},
            {"source": Activation("base", pool="mean")},
            {"source": Noise(0.1), "edit": Add()},
            {"edit": Scale(0.5)},
            {"given": Intervention.of("L1.ln1_scale@-1", source=Constant(0.7))},
        ):
            same(tested, pairs, grid(name, position=-1, **swept), **change)


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "bloom"])
def test_the_wave_meets_the_last_norm_where_it_reads(kind: str, seed: int) -> None:
    """Prompts of unequal length, rows that leave others, positions that are read and that are not, and norms that are held."""
    tested, pairs, of = sweeps.model(kind), sweeps.random_pairs(seed, [6, 5, 7]), Intervention.of
    final = of("ln_final_scale@-1")
    several = [of("L1.resid_post@-1") & final, final, of("L2.z@-2") & of("ln_final_scale"), of("L1.resid_post@-1")]
    asked: list[dict[str, Any]] = [
        {"where": several, "metric": ["kl", "logprob"]},
        {"where": several, "rows": 2},
        {"where": grid("resid_post", layer=..., position=-1), "given": of("ln_final_scale@-1", source=Constant(2.0))},
        {"where": grid("z", layer=..., head=[0, 3], position=-1), "hold": "ln_scale"},
        {"where": grid("ln_final_scale", position="subject[-1]")},
    ]
    for options in asked:
        found = patch(tested, pairs, strategy="wavefront", **options)
        slow = patch(tested, pairs, strategy="serial", **options)
        atol = 2e-5 * (1 + float(abs(slow["clean"]).max()))
        np.testing.assert_allclose(found["value"], slow["value"], rtol=0, atol=atol, err_msg=str(options))


def test_long_prompts_in_pieces(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Read in pieces of two positions, the source's scales are those of one pass."""
    tested, pairs = sweeps.model("llama"), sweeps.random_pairs(seed, [9, 9])
    where = grid("ln2_scale", layer=..., position=...)
    whole = patch(tested, pairs, where, strategy="serial")
    monkeypatch.setitem(pieces.SIZE, "cpu", 2)
    found = patch(tested, pairs, where, source=Activation())
    np.testing.assert_allclose(found["value"], whole["value"], rtol=0, atol=2e-5 * (1 + float(abs(whole["clean"]).max())))


@pytest.mark.parametrize("name", ["ln1_scale", "ln2_scale", "ln_final_scale"])
def test_attribution_is_the_slope_of_a_patch(name: str, seed: int) -> None:
    """A step of 1e-3 in float64: the estimate misses its effect by the square of the step."""
    tested, pairs = sweeps.model("gpt2", torch.float64), sweeps.random_pairs(seed, [6, 5])
    where = grid(name, position=-1, **({"layer": ...} if Site(name).component.per_layer else {}))
    step: dict[str, Any] = {"edit": Add(1e-3), "source": Constant(1.0)}
    exact, slope = patch(tested, pairs, where, strategy="serial", **step), attribute(tested, pairs, where, **step)
    moved, estimate = (found["value"] - found["corrupt"] for found in (exact, slope))
    assert float(abs(moved).max()) > 1e-4
    np.testing.assert_allclose(estimate, moved, rtol=0, atol=1e-2 * float(abs(moved).max()))


def test_names_of_transformer_lens() -> None:
    names = ("blocks.3.ln1.hook_scale", "blocks.0.ln2_post.hook_scale", "ln_final.hook_scale")
    assert [repr(Site.parse(name)) for name in names] == ["L3.ln1_scale", "L0.ln2_post_scale", "ln_final_scale"]


def test_the_form_of_a_site() -> None:
    form, norm = form_of(model("gemma2"), Site("ln_final_scale"))
    assert (form.centred, form.unit) == (False, 0.0)
    assert norm is model("gemma2").module.get_submodule("model.norm")
    assert Change("L1.ln1_scale").site.axes == ("example", "position")
