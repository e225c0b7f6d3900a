"""GPT-NeoX, Gemma-2, Qwen3 and BLOOM: every site against the family's own formula, written down here from the papers and the
configuration and fed from raw torch hooks; writes against the same edit made by a raw hook.

float32, 1e-5 × (1 + largest number).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, silu

from interp import effects
from interp.engine import patch
from interp.errors import ProbeError, SiteNotFiredError, UnknownSiteError
from interp.models import Model, load
from interp.models.layouts import Heads
from interp.models.probe import probe
from interp.models.taps import Tap
from interp.prompts import Prompt
from interp.sites import COMPONENTS, Site, grid

FAMILIES = ("neox", "neox-sequential", "gemma2", "qwen3", "bloom")
BLOCKS = {"neox": "gpt_neox.layers", "gemma2": "model.layers", "qwen3": "model.layers", "bloom": "transformer.h"}
WINDOW = 4


@pytest.fixture(params=FAMILIES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(kind: str, seed: int) -> Model:
    return load(sweeps.MAKERS[kind](seed), name=kind)


def ids_of(seed: int, n: int = 9, examples: int = 2) -> Tensor:
    return torch.randint(tiny.VOCAB, (examples, n), generator=torch.Generator().manual_seed(seed))


def close(got: Tensor, expected: Tensor, what: object = "") -> None:
    assert got.shape == expected.shape, what
    assert float((got - expected).abs().max()) <= 1e-5 * (1 + float(expected.abs().max())), what


def read(model: Model, ids: Tensor, sites: Any, writes: Any = None) -> dict[Site, Tensor]:
    mask = torch.ones_like(ids)
    inputs = model.accepted({"input_ids": ids, "attention_mask": mask, "position_ids": mask.cumsum(-1) - 1})
    writes = writes or {}
    with torch.no_grad(), model.prepared([*sites, *writes]):
        return model.backend.run(inputs, reads=sites, writes=writes)


# what every site is, by formula


class Raw:
    """One pass of the raw module with eager attention, and what every submodule gave, by path."""

    def __init__(self, module: Any, ids: Tensor) -> None:
        self.module, self.config, self.ids = module, module.config, ids
        self.seen: dict[str, Tensor] = {}
        implementation = module.config._attn_implementation
        module.config._attn_implementation = "eager"
        handles = [m.register_forward_hook(self._keep(name), with_kwargs=True) for name, m in module.named_modules()]
        with torch.no_grad():
            self.output = module(ids, output_attentions=True, output_hidden_states=True, use_cache=False)
        for handle in handles:
            handle.remove()
        module.config._attn_implementation = implementation

    def _keep(self, name: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            given = output[0] if isinstance(output, tuple) else output
            if isinstance(given, Tensor):
                self.seen[name] = given.clone()

        return keep

    def __getitem__(self, path: str) -> Tensor:
        return self.seen[path]

    def linear(self, path: str, x: Tensor) -> Tensor:
        module = self.module.get_submodule(path)
        return x @ module.weight.T + (0 if module.bias is None else module.bias)


def rotated(x: Tensor, config: Any, width: int) -> Tensor:
    """Rotary embedding of the first ``width`` numbers of ``[example head position d]``, in two halves (Su et al. 2021)."""
    half = width // 2
    angle = torch.arange(x.shape[-2])[:, None] * config.rope_parameters["rope_theta"] ** (-torch.arange(half) / half)
    a, b, rest = x[..., :half], x[..., half:width], x[..., width:]
    return torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin(), rest), -1)


def rms(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return gain * x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def split(fused: Tensor, heads: int) -> list[Tensor]:
    """q, k, v of GPT-NeoX and BLOOM, one number at a time: head h holds q, k and v of width d from 3·h·d on."""
    d = fused.shape[-1] // (3 * heads)
    starts = [[3 * h * d + part * d for h in range(heads)] for part in range(3)]
    return [torch.stack([fused[..., s : s + d] for s in of], -2) for of in starts]


def attention(raw: Raw, kind: str, path: str, layer: int) -> dict[str, Tensor]:
    """Heads' q, k, v ``[example position head d]`` and the scores that their formula gives."""
    config, heads = raw.config, tiny.HEADS
    if kind in ("gemma2", "qwen3"):
        inner = f"{path}.self_attn"
        q, k, v = (raw[f"{inner}.{p}_proj"].reshape(*raw.ids.shape, -1, 12) for p in "qkv")
    else:
        inner = f"{path}.{'self_attention' if kind == 'bloom' else 'attention'}"
        q, k, v = split(raw[f"{inner}.query_key_value"], heads)
    found = {"q": q, "k": k, "v": v}
    q, k = q.transpose(1, 2), k.transpose(1, 2).repeat_interleave(heads // k.shape[2], 1)
    if kind == "qwen3":
        norms = raw.module.get_submodule(inner)
        q, k = rms(q, norms.q_norm.weight, config.rms_norm_eps), rms(k, norms.k_norm.weight, config.rms_norm_eps)
    if kind != "bloom":
        width = q.shape[-1] // 2 if kind.startswith("neox") else q.shape[-1]
        q, k = rotated(q, config, width), rotated(k, config, width)
    scores = q @ k.mT / (20 if kind == "gemma2" else q.shape[-1]) ** 0.5
    n = raw.ids.shape[1]
    if kind == "gemma2":
        scores = 3 * torch.tanh(scores / 3)
    if kind == "bloom":  # Press et al. 2022: slopes 2^(-8h/H), here as a bias that grows with the key's position
        slopes = 2.0 ** (-8 * torch.arange(1, heads + 1) / heads)
        scores = scores + slopes[:, None, None] * torch.arange(n)
    distance = torch.arange(n)[:, None] - torch.arange(n)
    hidden = (distance < 0) | ((distance >= WINDOW) if kind == "gemma2" and layer % 2 == 0 else (distance < 0))
    found["scores"] = scores.masked_fill(hidden, -torch.inf)
    found["pattern"] = found["scores"].softmax(-1)
    values = v.transpose(1, 2).repeat_interleave(heads // v.shape[2], 1)
    found["z"] = (found["pattern"] @ values).transpose(1, 2)
    return found


def block(raw: Raw, kind: str, layer: int) -> dict[str, Tensor]:
    """Every site of a block, from the stream that enters it."""
    path = f"{BLOCKS[kind.removesuffix('-sequential')]}.{layer}"
    here: Any = raw.module.get_submodule(path)
    found = attention(raw, kind, path, layer)
    w_o = {"neox": "attention.dense", "bloom": "self_attention.dense"}.get(kind.removesuffix("-sequential"), "self_attn.o_proj")
    weight, d = here.get_submodule(w_o).weight, found["z"].shape[-1]
    found["result"] = torch.stack([found["z"][:, :, h] @ weight[:, h * d : (h + 1) * d].T for h in range(tiny.HEADS)], 2)
    added = raw.linear(f"{path}.{w_o}", found["z"].flatten(-2))
    pre = found["resid_pre"] = raw.output.hidden_states[layer]
    eps = getattr(raw.config, "rms_norm_eps", 1e-5)

    def norm(name: str, x: Tensor) -> Tensor:
        module = getattr(here, name)
        if kind in ("gemma2", "qwen3"):
            return rms(x, module.weight + (kind == "gemma2"), eps)
        return layer_norm(x, x.shape[-1:], module.weight, module.bias, 1e-5)

    found["attn_out"] = norm("post_attention_layernorm", added) if kind == "gemma2" else added
    mid = pre + found["attn_out"]
    if kind != "neox":
        found["resid_mid"] = mid
    entering = norm(
        "pre_feedforward_layernorm" if kind == "gemma2" else "post_attention_layernorm", pre if kind == "neox" else mid
    )
    if kind in ("gemma2", "qwen3"):
        found["mlp_pre"] = raw.linear(f"{path}.mlp.gate_proj", entering)
        found["mlp_up"] = raw.linear(f"{path}.mlp.up_proj", entering)
        act = gelu(found["mlp_pre"], approximate="tanh") if kind == "gemma2" else silu(found["mlp_pre"])
        found["mlp_post"] = act * found["mlp_up"]
        out = raw.linear(f"{path}.mlp.down_proj", found["mlp_post"])
    else:
        found["mlp_pre"] = raw.linear(f"{path}.mlp.dense_h_to_4h", entering)
        found["mlp_post"] = gelu(found["mlp_pre"], approximate="tanh" if kind == "bloom" else "none")
        out = raw.linear(f"{path}.mlp.dense_4h_to_h", found["mlp_post"])
    found["mlp_out"] = norm("post_feedforward_layernorm", out) if kind == "gemma2" else out
    found["resid_post"] = mid + found["mlp_out"]
    return found


@torch.no_grad()
def test_every_site_is_what_its_formula_says(model: Model, kind: str, seed: int) -> None:
    ids = ids_of(seed)
    raw = Raw(model.module, ids)
    embedding = model.module.get_input_embeddings().weight  # type: ignore[operator]
    expected = {Site("embed"): embedding[ids] * (tiny.WIDTH**0.5 if kind == "gemma2" else 1.0)}
    expected[Site("logits")] = raw.output.logits
    for layer in range(tiny.LAYERS):
        expected |= {Site(name, layer=layer): value for name, value in block(raw, kind, layer).items()}
    sites = [site for site in model.sites() if not site.name.endswith("_scale")]  # these are in test_norm_scales
    assert set(expected) == set(sites), "nothing left out, nothing made up"
    found = read(model, ids, sites)
    for site in sites:
        if site.name == "scores":  # a masked score is any very negative number
            seen = expected[site.at(name="pattern")] > 0
            close(found[site].where(seen, 0), expected[site].where(seen, 0), site)
            assert float(found[site].where(~seen, -torch.inf).max()) < -1e30
        else:
            close(found[site], expected[site], site)
        if site.name == "pattern":
            close(found[site], raw.output.attentions[site.layer], f"{site!r}, transformers' own")
    last = model.sizes["layer"] - 1
    for layer in range(last):
        close(found[Site("resid_post", layer=layer)], raw.output.hidden_states[layer + 1], "transformers' own")


@torch.no_grad()
def test_the_tiny_models_make_their_peculiarities_felt(seed: int) -> None:
    """Else the formulas above would hold without them: the soft cap, the norm of the queries, the windows."""
    ids = ids_of(seed)
    gemma2, qwen3 = tiny.gemma2(seed), tiny.qwen3(seed)
    pattern = Raw(gemma2, ids).output.attentions
    assert float(pattern[0][..., 8, :5].max()) == 0.0, "a window in layer 0"
    assert float(pattern[1][..., 8, :5].min()) > 0.0, "none in layer 1"
    for module, attribute, plain in ((gemma2, "attn_logit_softcapping", None), (qwen3, "q_norm", nn.Identity())):
        before = module(ids).logits
        for layer in module.model.layers:
            setattr(layer.self_attn, attribute, plain)
        assert float((module(ids).logits - before).abs().max()) > 1e-2, attribute


# what is missing, and why


def test_what_a_family_lacks_it_says(model: Model, kind: str) -> None:
    gated, parallel = kind in ("gemma2", "qwen3"), kind == "neox"
    norms = {"ln1_post_scale", "ln2_post_scale"}  # in test_norm_scales
    assert set(model.anatomy.absent) - tiny.RARE - norms == {"pos_embed"} | (set() if gated else {"mlp_up"}) | (
        {"resid_mid"} if parallel else set()
    )
    if parallel:
        with pytest.raises(UnknownSiteError, match="both read the block's input"):
            model.check(Site("resid_mid", layer=0))


def test_parallel_is_what_the_blocks_compute_by_not_what_the_config_says_later(seed: int) -> None:
    """GPT-NeoX' blocks keep the flag that they were built with; its norm is called post_attention_layernorm either way."""
    module: Any = tiny.neox(seed, parallel=True)
    module.config.use_parallel_residual = False
    assert "resid_mid" in load(module).anatomy.absent
    module.gpt_neox.layers[0].use_parallel_residual = False
    mixed = load(module)
    assert [s.layer for s in mixed.sites() if s.name == "resid_mid"] == [0]
    with pytest.raises(UnknownSiteError, match=r"only the layers \[0\]"):
        mixed.check(Site("resid_mid", layer=1))


def test_the_modules_of_a_block_by_layer(seed: int) -> None:
    neox, bloom = (load(make(seed), check=False).anatomy for make in (tiny.neox, tiny.bloom))
    assert neox.attention[1] == "gpt_neox.layers.1.attention"
    assert (neox.mlp[1], neox.w_out[1]) == ("gpt_neox.layers.1.mlp", "gpt_neox.layers.1.mlp.dense_4h_to_h")
    assert (bloom.attention[2], bloom.w_o[2]) == ("transformer.h.2.self_attention", "transformer.h.2.self_attention.dense")


def test_a_residual_taken_after_the_norm_is_not_what_attention_adds(seed: int) -> None:
    model = load(tiny.bloom(seed, apply_residual_connection_post_layernorm=True))
    with pytest.raises(UnknownSiteError, match=r"the stream before \+ it = the stream after; the nearest is off by"):
        model.check(Site("attn_out", layer=0))


def test_output_maps_that_are_never_called_are_refused(seed: int) -> None:
    """BLOOM's sliced W_O multiplies by parts of the weight, beside the module."""
    with pytest.raises(SiteNotFiredError, match=r"(self_attention\.dense|mlp\.dense_4h_to_h)'.*fired 0 times"):
        load(tiny.bloom(seed, pretraining_tp=2, slow_but_exact=True))


# mistaken layouts are refused by the probe


def shifted(name: str, layout: Any) -> Callable[[Model], None]:
    def change(model: Model) -> None:
        for layer in range(tiny.LAYERS):
            path = model.anatomy.taps[Site(name, layer=layer)].path
            model.anatomy.taps[Site(name, layer=layer)] = Tap(path, "output", layout)  # type: ignore[index]

    return change


def moved(name: str, path: str, side: Any = "output", in_place: bool = False) -> Callable[[Model], None]:
    def change(model: Model) -> None:
        for layer in range(tiny.LAYERS):
            where = f"{model.anatomy.blocks}.{layer}.{path}"
            model.anatomy.taps[Site(name, layer=layer)] = Tap(where, side, in_place=in_place)  # type: ignore[index]

    return change


WIDE = tiny.WIDTH


def one_by_one(part: int) -> Heads:
    """Part 0, 1 or 2 (query, key, value) of heads that lie one after another."""
    width = WIDE // 4
    return Heads(4, 4, part * width, (part + 1) * width)


MISTAKES = [
    ("neox", (shifted("q", one_by_one(1)), shifted("k", one_by_one(0))), "L2.q of one head and position"),
    ("bloom", (shifted("q", one_by_one(1)), shifted("k", one_by_one(0))), "L2.q of one head and position"),
    ("neox", (shifted("v", one_by_one(1)), shifted("k", one_by_one(2))), "L0.pattern × v = z"),
    ("neox", tuple(shifted(n, Heads(4, 1, i * WIDE, (i + 1) * WIDE)) for i, n in enumerate("qkv")), "L0.pattern × v = z"),
    ("neox", tuple(shifted(n, Heads(4, 1, i * WIDE, (i + 1) * WIDE)) for i, n in enumerate("qk")), "another run's L2.q, L2.k"),
    ("gemma2", (moved("attn_out", "self_attn"),), r"Σ L0.result|L0.resid_pre \+ attn_out = resid_mid"),
    ("gemma2", (moved("mlp_out", "mlp"),), r"L0.resid_mid \+ mlp_out = resid_post"),
    ("gemma2", (moved("resid_mid", "post_attention_layernorm", "input", True),), r"L0.resid_pre \+ attn_out = resid_mid"),
    ("bloom", (moved("attn_out", "self_attention"),), r"L0.resid_pre \+ attn_out = resid_mid"),
    ("bloom", (moved("mlp_out", "mlp"),), r"L0.resid_mid \+ mlp_out = resid_post"),
    ("neox", (moved("resid_mid", "post_attention_layernorm", "input", True),), r"L0.resid_pre \+ attn_out = resid_mid"),
    ("neox", (moved("mlp_out", "attention.dense"),), r"L0.resid_pre \+ attn_out \+ mlp_out = resid_post"),
    ("qwen3", (moved("mlp_pre", "mlp.up_proj"), moved("mlp_up", "mlp.up_proj")), "L2.mlp_pre, L2.mlp_up gives its L2.mlp_post"),
]


@pytest.mark.parametrize(("kind", "changes", "words"), MISTAKES, ids=[f"{k}-{i}" for i, (k, _, _) in enumerate(MISTAKES)])
def test_a_mistaken_layout_is_refused(kind: str, changes: Any, words: str, seed: int) -> None:
    model = load(sweeps.MAKERS[kind](seed), name=kind, check=False)
    probe(model)
    for change in changes:
        change(model)
    with pytest.raises(ProbeError, match=words):
        probe(model)


def test_heads_in_another_order_are_refused(kind: str, seed: int) -> None:
    """Queries of heads 0 and 1 exchanged: q, k and v together would still give z."""

    class Exchanged:
        def __init__(self, layout: Any) -> None:
            self.layout = layout

        def read(self, seen: Tensor, call: Any) -> Tensor:
            return self.layout.read(seen, call)[:, :, [1, 0, 2, 3]]

        def put(self, seen: Tensor, new: Tensor, call: Any) -> Tensor:
            return self.layout.put(seen, new[:, :, [1, 0, 2, 3]], call)

    model = load(sweeps.MAKERS[kind](seed), name=kind, check=False)
    tap = model.anatomy.taps[Site("q", layer=2)]
    model.anatomy.taps[Site("q", layer=2)] = Tap(tap.path, tap.event, Exchanged(tap.layout))  # type: ignore[index]
    with pytest.raises(ProbeError, match=r"L2\.q of one head and position moves its own L2\.scores"):
        probe(model)


# writes


def test_writing_what_was_read_changes_nothing(model: Model, seed: int) -> None:
    ids = ids_of(seed)
    found = read(model, ids, model.sites())
    for site in model.sites():
        written = read(model, ids, [Site("logits")], {site: lambda h, own=found[site]: own.clone()})
        close(written[Site("logits")], found[Site("logits")], site)


def test_writing_one_head_moves_that_head_alone(model: Model, seed: int) -> None:
    """q moves one pattern; k and v the patterns and z of the heads that share them; q, k and v of other heads stay."""
    ids = ids_of(seed)
    groups = model.sizes["head"] // model.sizes["kv_head"]
    for layer in range(tiny.LAYERS):
        reads = [Site(name, layer=layer) for name in ("q", "k", "v", "pattern", "z")]
        before = read(model, ids, reads)
        for name, head in (("q", 2), ("k", 1), ("v", 1)):
            site = Site(name, layer=layer)
            after = read(model, ids, reads, {site: lambda h, head=head: h.index_fill(2, torch.tensor(head), 0.3)})
            theirs = [head] if name == "q" else list(range(head * groups, (head + 1) * groups))
            for other in reads:
                change = (after[other] - before[other]).abs()
                by_head = change.amax((0, 1, 3)) if other.name != "pattern" else change.amax((0, 2, 3))
                expected = {
                    name: [head],
                    "z": theirs,
                    "pattern": [] if name == "v" else theirs,
                }.get(other.name, [])
                assert (by_head > 1e-5).nonzero().flatten().tolist() == expected, (site, other)


def edits(kind: str) -> dict[str, tuple[str, str, Callable[[Tensor], Tensor]]]:
    """Sites of layer 1, set to 0.5 (of one head where there are heads): by module, side, and a change of what passes there."""
    at = BLOCKS[kind.removesuffix("-sequential")] + ".1"

    def part(start: int, width: int) -> Callable[[Tensor], Tensor]:
        def change(h: Tensor) -> Tensor:
            h = h.clone()
            h[..., start : start + width] = 0.5
            return h

        return change

    def whole(h: Tensor) -> Tensor:
        return torch.full_like(h, 0.5)

    if kind in ("gemma2", "qwen3"):
        post = kind == "gemma2"
        return {
            "q": (f"{at}.self_attn.q_proj", "output", part(2 * 12, 12)),
            "k": (f"{at}.self_attn.k_proj", "output", part(12, 12)),
            "z": (f"{at}.self_attn.o_proj", "input", part(2 * 12, 12)),
            "attn_out": (f"{at}.{'post_attention_layernorm' if post else 'self_attn'}", "output", whole),
            "mlp_out": (f"{at}.{'post_feedforward_layernorm' if post else 'mlp'}", "output", whole),
            "mlp_pre": (f"{at}.mlp.gate_proj", "output", whole),
            "mlp_up": (f"{at}.mlp.up_proj", "output", whole),
            "mlp_post": (f"{at}.mlp.down_proj", "input", whole),
            "embed": ("model.embed_tokens", "output", whole),
        }
    inner = f"{at}.{'self_attention' if kind == 'bloom' else 'attention'}"
    found = {
        **{n: (f"{inner}.query_key_value", "output", part(3 * 8 * 2 + i * 8, 8)) for i, n in enumerate("qkv")},
        "z": (f"{inner}.dense", "input", part(2 * 8, 8)),
        "attn_out": (f"{inner}.dense", "output", whole),
        "mlp_out": (f"{at}.mlp.dense_4h_to_h", "output", whole),
        "mlp_pre": (f"{at}.mlp.dense_h_to_4h", "output", whole),
        "mlp_post": (f"{at}.mlp.dense_4h_to_h", "input", whole),
    }
    return found | ({"resid_mid": (inner, "output", whole)} if kind == "bloom" else {})  # attention returns the stream


def test_a_write_is_the_same_edit_by_a_raw_hook(model: Model, kind: str, seed: int) -> None:
    ids = ids_of(seed, examples=1)
    plain = read(model, ids, [Site("logits")])[Site("logits")][0, -1]
    for name, (path, side, change) in edits(kind).items():
        site = Site(name, layer=1) if name != "embed" else Site(name)
        head = {"q": 2, "z": 2, "k": 2 if "neox" in kind or kind == "bloom" else 1, "v": 2}.get(name)

        def write(h: Tensor, head: int | None = head) -> Tensor:
            return torch.full_like(h, 0.5) if head is None else h.index_fill(2, torch.tensor(head), 0.5)

        got = read(model, ids, [Site("logits")], {site: write})[Site("logits")][0, -1]
        close(got, sweeps.rerun(model.module, path, ids[0].tolist(), change, side), site)
        assert float((got - plain).abs().max()) > 1e-3, site


def test_writes_at_scores_and_result(model: Model, seed: int) -> None:
    """Scores of −∞ but for one source make z that source's v; a result of zero takes one head out of W_O's sum."""
    ids, n = ids_of(seed), 9
    v, z = Site("v", layer=1), Site("z", layer=1)
    groups = model.sizes["head"] // model.sizes["kv_head"]
    sees = torch.full((n, n), -1e9).fill_diagonal_(0.0)
    found = read(model, ids, [v, z, Site("scores", layer=1)], {Site("scores", layer=1): lambda h: sees.expand_as(h).clone()})
    close(found[z], found[v].repeat_interleave(groups, 2))
    by_z = {Site("z", layer=1): lambda h: h.index_fill(2, torch.tensor(3), 0.0)}
    by_result = {Site("result", layer=1): lambda h: h.index_fill(2, torch.tensor(3), 0.0)}
    reads = [Site("attn_out", layer=1), Site("logits")]
    one, other = read(model, ids, reads, by_z), read(model, ids, reads, by_result)
    for site in reads:
        close(one[site], other[site], site)


# padding and sweeps


def test_padding_on_the_left_does_not_show(model: Model, seed: int) -> None:
    lengths = (9, 5, 2)
    prompts = [ids_of(seed + i, n, 1)[0].tolist() for i, n in enumerate(lengths)]
    tokens = model.encode([Prompt(tuple(p)) for p in prompts])
    with torch.no_grad(), model.prepared():
        found = model.backend.run(model.inputs(tokens), reads=[Site("logits")], writes={})
    for i, prompt in enumerate(prompts):
        with torch.no_grad():
            alone = model.module(torch.tensor([prompt]), use_cache=False).logits[0]
        close(found[Site("logits")][i, -len(prompt) :], alone, lengths[i])


def test_a_sweep_is_the_same_in_every_strategy(model: Model, seed: int) -> None:
    """Every site of the family, padded pairs, one position at a time; and something moves."""
    pairs = sweeps.random_pairs(seed, [6, 4], early=True)
    heads = {"q", "k", "v", "scores", "pattern", "z", "result"}
    for name in sorted({site.name for site in model.sites()} - {"logits"}):
        axes: dict[str, Any] = {"layer": [0, 2]} if COMPONENTS[name].per_layer else {}
        axes |= {"head": [0, 1]} if name in heads else {}
        where = grid(name, position=[-1, 1, 2], **axes)
        serial, batched = (patch(model, pairs, where, ["logit_diff", "kl"], strategy=s) for s in ("serial", "batched"))
        top = 1 + max(float(abs(serial[v]).max()) for v in ("value", "clean", "corrupt"))
        np.testing.assert_allclose(batched["value"], serial["value"], rtol=0, atol=1e-5 * top, err_msg=name)
        assert float(abs(effects.effect(serial)).max()) > 1e-4, name
