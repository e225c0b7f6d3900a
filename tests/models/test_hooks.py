"""Hooks: the user's stay, ours go, nothing unpatched is returned, gradients flow, and the model is as it was."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode
from transformers import PreTrainedModel

from interp.doctor import architectures
from interp.errors import CompiledModelError, ShapeMismatchError, SiteNotFiredError, UnknownSiteError
from interp.models import Model, load
from interp.models.hooks import Hooks, eager_attention, evaluating
from interp.models.layouts import Heads
from interp.models.taps import Tap
from interp.models.zoo import ZooConfig
from interp.sites import Site

IDS = torch.tensor([[1, 5, 9, 2, 7], [3, 3, 8, 1, 4]])
INPUTS = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "position_ids": torch.arange(5).expand(2, 5)}
MODELS: dict[str, Callable[[int], PreTrainedModel]] = {"gpt2": tiny.gpt2, "llama": tiny.llama, "mistral": tiny.mistral}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, seed: int) -> Model:
    return load(MODELS[request.param](seed), check=False)


def hooks_of(module: nn.Module) -> list[tuple[str, tuple[int, ...], tuple[int, ...], int]]:
    """Every hook that is registered anywhere, by its id."""
    return [
        (name, tuple(m._forward_hooks), tuple(m._forward_pre_hooks), len(m._backward_hooks))
        for name, m in module.named_modules()
    ]


def run(
    model: Model, reads: Sequence[Site] = (), writes: dict[Site, Callable[[Tensor], Tensor]] | None = None
) -> dict[Site, Tensor]:
    return model.backend.run(INPUTS, reads=list(reads), writes=writes or {})


def logits(model: Model) -> Tensor:
    return model.module(**INPUTS).logits


# what is read


@torch.no_grad()
def test_a_read_keeps_the_positions_that_it_is_asked_for(model: Model) -> None:
    """Along each site's own axis of positions: patterns have theirs behind the heads."""
    sites = [s for s in model.sites() if "position" in s.axes]
    with eager_attention(model.module):
        whole = run(model, sites)
        some = model.backend.run(INPUTS, reads={s: torch.tensor([1, 4]) for s in sites}, writes={})
    for site in sites:
        axis = site.axes.index("position")
        assert torch.equal(some[site], torch.stack([whole[site].select(axis, i) for i in (1, 4)], axis)), site
        assert some[site].untyped_storage().data_ptr() != whole[site].untyped_storage().data_ptr()


@torch.no_grad()
def test_reading_changes_nothing_to_the_bit(model: Model) -> None:
    """Under the model's own attention all sites but scores and pattern, under eager all of them."""
    quiet = [s for s in model.sites() if s.name not in ("scores", "pattern")]
    assert torch.equal(run(model, quiet)[Site("logits")], logits(model))
    with eager_attention(model.module):
        assert torch.equal(run(model, model.sites())[Site("logits")], logits(model))


@torch.no_grad()
def test_writing_what_is_read_changes_nothing_to_the_bit(model: Model) -> None:
    with eager_attention(model.module):
        plain = logits(model)
        for site in model.sites():
            found = run(model, [Site("logits")], {site: lambda h: h.clone()})[Site("logits")]
            assert torch.equal(found, plain), site


@torch.no_grad()
def test_reads_are_against_transformers_own_outputs(model: Model) -> None:
    """Hidden states and attentions as ``output_hidden_states`` and ``output_attentions`` return them."""
    with eager_attention(model.module):
        theirs = model.module(**INPUTS, output_hidden_states=True, output_attentions=True)
        found = run(model, model.sites())
    n = model.sizes["layer"]
    for layer in range(n):
        assert torch.equal(found[Site("resid_pre", layer=layer)], theirs.hidden_states[layer])
        assert torch.equal(found[Site("pattern", layer=layer)], theirs.attentions[layer])
    assert torch.equal(found[Site("logits")], theirs.logits)
    assert not torch.equal(found[Site("resid_post", layer=n - 1)], theirs.hidden_states[n]), "theirs is after the last norm"


@torch.no_grad()
def test_kept_values_are_not_overwritten_by_the_in_place_write(model: Model) -> None:
    """resid_mid is written into the residual itself; what was read before must not follow."""
    mid, pre, attn = (Site(n, layer=1) for n in ("resid_mid", "resid_pre", "attn_out"))
    before = run(model, [mid, pre, attn])
    found = run(model, [mid, pre, attn, Site("resid_post", layer=0)], {mid: lambda h: torch.zeros_like(h)})
    assert not found[mid].any(), "reads come after writes"
    for site in (pre, attn):
        assert torch.equal(found[site], before[site])
    later = run(model, [mid])
    assert torch.equal(later[mid], before[mid])


# the user's own hooks, and ours


def test_user_hooks_survive_fire_and_are_seen(model: Model) -> None:
    calls: list[str] = []
    block = model.module.get_submodule(f"{model.anatomy.blocks}.1")
    block.register_forward_hook(lambda m, a, o: calls.append("post"))
    block.register_forward_pre_hook(lambda m, a: calls.append("pre"))
    before = hooks_of(model.module)
    run(model, [Site("resid_post", layer=1)], {Site("resid_pre", layer=1): lambda h: 2 * h})
    assert calls == ["pre", "post"]
    assert hooks_of(model.module) == before


@torch.no_grad()
def test_a_user_hook_that_edits_runs_before_ours(model: Model) -> None:
    block = model.module.get_submodule(f"{model.anatomy.blocks}.1")
    handle = block.register_forward_hook(lambda m, a, o: 0 * o if isinstance(o, Tensor) else (0 * o[0], *o[1:]))
    assert not run(model, [Site("resid_post", layer=1)])[Site("resid_post", layer=1)].any()
    handle.remove()
    assert run(model, [Site("resid_post", layer=1)])[Site("resid_post", layer=1)].any()


class BrokenError(Exception):
    pass


@pytest.mark.parametrize("event", ["read", "write"])
def test_our_hooks_go_when_the_forward_raises(model: Model, event: str) -> None:
    def breaks(*_: Any) -> Any:
        raise BrokenError

    before = hooks_of(model.module)
    sites = [s for s in model.sites() if s.layer in (None, 0, 1)]
    if event == "write":
        with pytest.raises(BrokenError), eager_attention(model.module):
            run(model, sites, {Site("z", layer=1): breaks})
    else:
        handle = model.module.get_submodule(f"{model.anatomy.blocks}.2").register_forward_pre_hook(breaks)
        with pytest.raises(BrokenError), eager_attention(model.module):
            run(model, sites)
        handle.remove()
    assert hooks_of(model.module) == before
    assert _get_current_function_mode() is None
    plain = logits(model)
    assert torch.equal(plain, run(model, [Site("logits")])[Site("logits")])


def test_our_hooks_go_when_attaching_raises(model: Model) -> None:
    taps = {
        Site("resid_pre", layer=0): Tap(f"{model.anatomy.blocks}.0", "input"),
        Site("logits"): Tap("no.such.module", "output"),
    }
    before = hooks_of(model.module)
    with pytest.raises(AttributeError), Hooks(model.module, taps, list(taps)):
        pass
    assert hooks_of(model.module) == before


# the model is as it was


def state_of(module: nn.Module) -> tuple[object, ...]:
    configs = [m.config._attn_implementation for m in module.modules() if hasattr(m, "config")]
    modes = [m.training for m in module.modules()]
    return configs, modes, [p.requires_grad for p in module.parameters()], [p.dtype for p in module.parameters()]


@pytest.mark.parametrize("breaks", [False, True])
def test_mode_attention_and_requires_grad_are_restored(model: Model, breaks: bool) -> None:
    module = model.module
    module.train()
    module.get_submodule(f"{model.anatomy.blocks}.1").eval()
    next(module.parameters()).requires_grad_(False)
    before = state_of(module)
    try:
        with model.prepared([Site("pattern", layer=0)]):
            assert not any(m.training for m in module.modules())
            assert module.config._attn_implementation == "eager"
            if breaks:
                raise BrokenError
    except BrokenError:
        pass
    assert state_of(module) == before
    with model.prepared([Site("z", layer=0)]):
        assert module.config._attn_implementation == before[0][0], "eager only where attention itself is read"
    with evaluating(module), eager_attention(module), eager_attention(module):
        pass
    assert state_of(module) == before


@torch.no_grad()
def test_dropout_is_off_inside(seed: int) -> None:
    module = tiny.gpt2(seed)
    for m in module.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.5
    model = load(module.train(), check=False)
    with model.prepared():
        assert torch.equal(logits(model), logits(model))
    assert not torch.equal(logits(model), logits(model)), "and on again outside"


# sites that do not fire as they should


class Sometimes(nn.Module):
    """``twice`` is called twice a pass, ``never`` not at all, ``once`` once."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.once, self.twice, self.never = (nn.Linear(4, 4) for _ in range(3))
        self.out = nn.Linear(4, 11)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.out(self.twice(self.twice(self.once(self.embed(input_ids)))))


@pytest.fixture
def sometimes() -> Model:
    torch.manual_seed(0)
    return load(Sometimes())


ONLY_IDS = {"input_ids": IDS}


@pytest.mark.parametrize(("path", "fired"), [("never", 0), ("twice", 2)])
@pytest.mark.parametrize("how", ["read", "write"])
def test_a_site_that_fires_another_number_of_times_raises(sometimes: Model, path: str, fired: int, how: str) -> None:
    site = Site("output", path=path)
    reads, writes = ([site], {}) if how == "read" else ([Site("logits")], {site: lambda h: 0 * h})
    words = f"{path}:output (module '{path}', output) fired {fired} times in one forward pass, expected 1"
    before = hooks_of(sometimes.module)
    with pytest.raises(SiteNotFiredError, match=re.escape(words)):
        sometimes.backend.run(ONLY_IDS, reads=reads, writes=writes)
    assert hooks_of(sometimes.module) == before


def test_attention_that_never_calls_a_softmax_is_not_silently_skipped(tiny_gpt2: PreTrainedModel) -> None:
    """Under sdpa there is no softmax to see: the write must not be lost."""
    model = load(tiny_gpt2, check=False)
    assert tiny_gpt2.config._attn_implementation == "sdpa"
    with pytest.raises(SiteNotFiredError, match=re.escape("L1.pattern (module 'transformer.h.1.attn', pattern) fired 0 times")):
        run(model, [Site("logits")], {Site("pattern", layer=1): lambda h: 0 * h})


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda h: h[:, :1], "(2, 1, 4, 8)"),
        (lambda h: h.sum(), "()"),
        (lambda h: h.flatten(-2), "(2, 5, 32)"),
        (lambda h: None, "NoneType"),
    ],
)
def test_a_write_of_another_shape_is_named(tiny_gpt2: PreTrainedModel, change: Callable[[Tensor], Tensor], got: str) -> None:
    model = load(tiny_gpt2, check=False)
    words = f"the write of L1.z returned {got} for a tensor of shape (2, 5, 4, 8)"
    with pytest.raises(ShapeMismatchError, match=re.escape(words)):
        run(model, [Site("logits")], {Site("z", layer=1): change})


# modules by their path


@torch.no_grad()
def test_modules_by_path_are_read_and_written(sometimes: Model) -> None:
    module = sometimes.module
    site, into = Site("output", path="once"), Site("input", path="once")
    found = sometimes.backend.run(ONLY_IDS, reads=[site, into, Site("logits")], writes={})
    assert torch.equal(found[into], module.embed(IDS))
    assert torch.equal(found[site], module.once(module.embed(IDS)))
    assert torch.equal(found[Site("logits")], module(IDS))
    new = torch.randn(2, 5, 4)
    found = sometimes.backend.run(ONLY_IDS, reads=[site, Site("logits")], writes={site: lambda h: new})
    assert torch.equal(found[site], new)
    assert torch.equal(found[Site("logits")], module.out(module.twice(module.twice(new))))
    found = sometimes.backend.run(ONLY_IDS, reads=[site, into], writes={into: lambda h: new})
    assert torch.equal(found[site], module.once(new))


@torch.no_grad()
def test_a_path_and_a_role_are_one_tensor(model: Model) -> None:
    role = Site("resid_post", layer=1)
    path = Site("output", path=f"{model.anatomy.blocks}.1")
    found = run(model, [role, path])
    assert torch.equal(found[role], found[path])
    new = torch.randn_like(found[role])
    one, other = (run(model, [Site("logits")], {s: lambda h: new})[Site("logits")] for s in (role, path))
    assert torch.equal(one, other)


def test_a_path_that_is_not_there(sometimes: Model) -> None:
    with pytest.raises(UnknownSiteError, match="unknown module path 'onec'; did you mean 'once'"):
        sometimes.check(Site("output", path="onec"))


# gradients


@pytest.fixture(params=["gpt2", "zoo"])
def double(request: pytest.FixtureRequest, seed: int) -> Model:
    """Models that really compute in float64; transformers' RMSNorm of Llama computes in float32 whatever the weights are."""
    if request.param == "gpt2":
        return load(tiny.gpt2(seed).double(), check=False)
    sizes = {"vocab_size": tiny.VOCAB, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 8}
    config = ZooConfig(**sizes, num_key_value_heads=2, intermediate_size=40, norm="rmsnorm", positions="rotary")
    return load(tiny.random_model(config, seed).double(), check=False)


def test_gradients_flow_through_every_write_and_read(double: Model, seed: int) -> None:
    """d Σ values·w / dε with ε·d added at a site, by autograd and by central differences of step 1e-5 (error of order 1e-9).

    The values are the logits for every site, and every other site for an offset at the embedding.
    """
    generator = torch.Generator().manual_seed(seed)

    def like(tensor: Tensor) -> Tensor:
        draw = torch.randn(tensor.shape, dtype=torch.float64, generator=generator)
        return draw * (tensor.detach().abs() < 1e6)  # masked scores stay masked

    with eager_attention(double.module):
        plain = run(double, double.sites())
        sites = [s for s in double.sites() if s.layer in (None, 1) and s.name not in ("logits", "embed", "pos_embed")]
        logits_, embed = Site("logits"), Site("embed")
        for site, seen in [(s, logits_) for s in (*sites, embed)] + [(embed, s) for s in sites]:
            direction, weight = like(plain[site]), like(plain[seen])

            def value(eps: Tensor, site: Site = site, seen: Site = seen, d: Tensor = direction, w: Tensor = weight) -> Tensor:
                return (run(double, [seen], {site: lambda h: h + eps * d})[seen].clamp(min=-1e6) * w).sum()

            eps = torch.zeros((), dtype=torch.float64, requires_grad=True)
            (exact,) = torch.autograd.grad(value(eps), eps)
            with torch.no_grad():
                step = torch.tensor(1e-5, dtype=torch.float64)
                numeric = (value(step) - value(-step)) / 2e-5
            assert exact.item() == pytest.approx(numeric.item(), rel=1e-5, abs=1e-5), (site, seen)
            assert numeric.abs() > 1e-6, f"{site!r} moves {seen!r}, so the check can fail"


def test_the_in_place_write_has_the_gradient_of_a_forward_written_out(seed: int) -> None:
    """resid_mid of GPT-2's block 1 scaled by g, the network written out by hand: gradients of g and of an embedding."""
    module = tiny.gpt2(seed).double()
    model = load(module, check=False)
    mid = Site("resid_mid", layer=1)
    gate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    found = run(model, [Site("logits")], {mid: lambda h: gate * h})[Site("logits")]
    ours = torch.autograd.grad(found.square().sum(), [gate, module.transformer.wpe.weight])

    body = module.transformer
    h = body.wte(IDS) + body.wpe(INPUTS["position_ids"])
    for i, block in enumerate(body.h):
        h = h + block.attn(block.ln_1(h))[0]
        h = gate * h if i == 1 else h
        h = h + block.mlp(block.ln_2(h))
    by_hand = module.lm_head(body.ln_f(h))
    torch.testing.assert_close(found, by_hand, rtol=1e-12, atol=1e-12)
    theirs = torch.autograd.grad(by_hand.square().sum(), [gate, body.wpe.weight])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


# compiled models

EAGER = {"backend": "eager"}


def test_compiled_models_are_refused(tiny_gpt2: PreTrainedModel) -> None:
    words = re.escape("is compiled (torch.compile): hooks added after the first call are silently ignored")
    with pytest.raises(CompiledModelError, match=rf"the model {words}; pass the original, model._orig_mod"):
        load(torch.compile(tiny_gpt2, **EAGER))
    tiny_gpt2.compile(**EAGER)
    with pytest.raises(CompiledModelError, match=rf"the model {words}; load it again without"):
        load(tiny_gpt2)


def test_a_model_with_a_compiled_part_is_refused(seed: int) -> None:
    inside = tiny.gpt2(seed)
    inside.transformer.h[1].mlp.compile(**EAGER)
    with pytest.raises(CompiledModelError, match=re.escape("its module 'transformer.h.1.mlp' is compiled")):
        load(inside)
    replaced = tiny.gpt2(seed)
    replaced.transformer.h[1] = torch.compile(replaced.transformer.h[1], **EAGER)
    with pytest.raises(CompiledModelError, match=re.escape("its module 'transformer.h.1' is compiled")):
        load(replaced)
    forward = tiny.gpt2(seed)
    forward.forward = torch.compile(forward.forward, **EAGER)
    with pytest.raises(CompiledModelError, match="the model is compiled"):
        load(forward)


def test_a_model_compiled_after_it_was_loaded_is_refused(tiny_gpt2: PreTrainedModel) -> None:
    model = load(tiny_gpt2)
    tiny_gpt2.compile(**EAGER)
    with pytest.raises(CompiledModelError), model.prepared():
        pass


# layouts


def test_fused_heads_change_only_their_slice() -> None:
    fused = torch.arange(24.0).reshape(1, 2, 12)
    layout = Heads(2, start=4, stop=8)
    assert layout.read(fused, None)[0, 1].tolist() == [[16.0, 17.0], [18.0, 19.0]]
    put = layout.put(fused, torch.zeros(1, 2, 2, 2), None)
    assert put[0, 1].tolist() == [12.0, 13.0, 14.0, 15.0, 0, 0, 0, 0, 20.0, 21.0, 22.0, 23.0]
    assert fused[0, 1, 4] == 16, "what was seen is not touched"


# hooks of transformers' own


@torch.no_grad()
def test_a_write_is_in_what_transformers_notes_of_an_output() -> None:
    """LLaVA's projector reads the vision tower's hidden states, which hooks note that were there before ours."""
    model = architectures.loaded("llava")
    feature, unread, end = (Site.parse(name) for name in ("vision:L1.resid_post", "vision:L2.resid_pre", "logits"))
    base = model.backend.run(model.example, [end], {})[end]  # the first pass puts those hooks there
    block = model.module.get_submodule(model.taps(feature).path)
    mine = block.register_forward_hook(lambda m, args, output: None)
    before = hooks_of(model.module)
    moved = model.backend.run(model.example, [end], {feature: lambda h: 2 * h})[end]
    assert hooks_of(model.module) == before, "in their order"
    mine.remove()
    assert not torch.allclose(moved, base)
    assert torch.equal(model.backend.run(model.example, [end], {unread: lambda h: 2 * h})[end], base)
    states = model.module.model.vision_tower(model.example["pixel_values"], output_hidden_states=True).hidden_states
    twice = model.backend.run(model.example, [feature], {feature: lambda h: 2 * h})[feature]
    torch.testing.assert_close(twice, 2 * states[-2])
