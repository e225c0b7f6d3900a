"""Caches against plain torch hooks on the raw module, one prompt at a time and unpadded.

Tolerance: 1e-5 × (1 + largest number) in float32, 1e-10 × in float64.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import anything
import memory
import numpy as np
import pytest
import sweeps
import tiny
import torch
from torch import Tensor, nn

from interp.engine import pieces
from interp.engine.single.asked import ask
from interp.engine.single.cache import cache
from interp.engine.single.filled import Filled
from interp.engine.single.variables import variables
from interp.errors import HeadOutOfRangeError, InputError, PositionError, ShapeMismatchError, UnknownNameError, UnknownSiteError
from interp.interventions import Activation, Change, Constant, Intervention, Scale
from interp.models import Model, load
from interp.prompts import Pair, Pairs, Prompt

IDS = [(5, 9, 31, 7, 9, 2), (11, 3, 8), (60, 44, 44, 1, 90)]


def raw(model: Model, ids: tuple[int, ...], path: str, *, before: bool = False, **options: Any) -> Tensor:
    """What a module takes or gives, by a hook on the raw module."""
    seen: list[Tensor] = []

    def note(*given: Any) -> None:
        found = given[1] if before else given[2]
        seen.append((found[0] if isinstance(found, tuple) else found).detach().clone())

    module = model.module.get_submodule(path)
    handle = module.register_forward_pre_hook(note) if before else module.register_forward_hook(note)
    try:
        with torch.no_grad():
            model.module(torch.tensor([ids]), use_cache=False, **options)
    finally:
        handle.remove()
    (found,) = seen
    return found[0]


def close(got: Any, expected: Tensor, share: float = 1e-5) -> None:
    want = expected.double().numpy()
    np.testing.assert_allclose(np.asarray(got), want, rtol=0, atol=share * (1 + np.abs(want).max()))


BLOCKS = {"gpt2": "transformer.h.{}", "llama": "model.layers.{}", "mistral": "model.layers.{}", "neox": "gpt_neox.layers.{}"}


@pytest.mark.parametrize("kind", sorted(BLOCKS))
def test_the_stream_of_prompts_of_unequal_length(kind: str) -> None:
    model = sweeps.model(kind)
    ds = cache(model, IDS, "resid_post")
    assert ds.resid_post.dims == ("example", "layer", "position", "d_model")
    assert ds.resid_post.shape == (3, tiny.LAYERS, 6, tiny.WIDTH)
    assert ds.resid_post.dtype == np.float32
    for e, ids in enumerate(IDS):
        for layer in range(tiny.LAYERS):
            found = ds.resid_post.sel(layer=layer).isel(example=e)
            close(found[: len(ids)], raw(model, ids, BLOCKS[kind].format(layer)))
            assert np.isnan(found[len(ids) :]).all()


def test_heads_units_scores_and_logits() -> None:
    model = sweeps.model("llama")
    ds = cache(model, IDS, ["q", "k", "z", "mlp_post", "pattern", "logits", "embed"])
    assert ds.k.dims == ("example", "layer", "position", "kv_head", "d_head")  # two for four heads
    assert ds.q.dims == ds.z.dims == ("example", "layer", "position", "head", "d_head")
    assert ds.pattern.dims == ("example", "layer", "head", "position", "source_position")
    assert ds.mlp_post.dims == ("example", "layer", "position", "unit")
    module: Any = model.module
    for e, ids in enumerate(IDS):
        n, one = len(ids), ds.isel(example=e)
        with torch.no_grad():
            module.set_attn_implementation("eager")
            out = module(torch.tensor([ids]), output_attentions=True)
            module.set_attn_implementation("sdpa")
        close(one.logits[:n], out.logits[0])
        for layer in range(tiny.LAYERS):
            at, own = f"model.layers.{layer}", one.sel(layer=layer)
            close(own.q[:n].values.reshape(n, -1), raw(model, ids, f"{at}.self_attn.q_proj"))
            close(own.k[:n].values.reshape(n, -1), raw(model, ids, f"{at}.self_attn.k_proj"))
            close(own.z[:n].values.reshape(n, -1), raw(model, ids, f"{at}.self_attn.o_proj", before=True))
            close(own.mlp_post[:n], raw(model, ids, f"{at}.mlp.down_proj", before=True))
            close(own.pattern[:, :n, :n], out.attentions[layer][0])
            assert np.isnan(own.pattern[:, n:]).all()
            assert np.isnan(own.pattern[:, :, n:]).all()


def test_names_and_coordinates() -> None:
    model = sweeps.model("llama")
    ds = cache(model, IDS, ["L1.z", "L2H3.q", "L2H1.q"])
    assert ds.z.shape == (3, 1, 6, tiny.HEADS, 8)
    assert ds.layer.values.tolist() == [1]
    assert ds.q.dims == ("example", "q_layer", "position", "q_head", "d_head")  # other layers and heads than z has
    assert (ds.q_layer.values.tolist(), ds.q_head.values.tolist()) == ([2], [1, 3])
    assert ds.position.values.tolist() == list(range(6))
    assert ds.token.dims == ("example", "position")
    assert ds.token.values[1].tolist() == ["11", "3", "8", "", "", ""]
    assert ds.prompt.values.tolist()[1] == "11 3 8"
    whole = cache(model, IDS, ["q", "z"])
    np.testing.assert_array_equal(ds.q.values, whole.q.sel(layer=[2], head=[1, 3]).values)
    np.testing.assert_array_equal(ds.z.values, whole.z.sel(layer=[1]).values)


def test_heads_that_make_no_rectangle_are_variables_of_their_own() -> None:
    model = sweeps.model("gpt2")
    whole = cache(model, IDS[:1], ["z", "pattern"])
    ds = cache(model, IDS[:1], ["0.3", "L0H1", "L2H1.z", "L1H2.pattern"])
    assert list(ds) == ["L0H3.z", "L0H1.z", "L2H1.z", "pattern"]
    assert ds["L2H1.z"].dims == ("example", "position", "d_head")
    np.testing.assert_array_equal(ds["L0H3.z"], whole.z.sel(layer=0, head=3))
    np.testing.assert_array_equal(ds["L2H1.z"], whole.z.sel(layer=2, head=1))
    np.testing.assert_array_equal(ds.pattern, whole.pattern.sel(layer=[1], head=[2]))
    apart = cache(model, IDS[:1], ["L0H3.pattern", "L1.pattern"])
    assert apart["L0H3.pattern"].dims == ("example", "position", "source_position")
    np.testing.assert_array_equal(apart["L0H3.pattern"], whole.pattern.sel(layer=0, head=3))


def test_what_is_named_twice_is_kept_once() -> None:
    model = sweeps.model("gpt2")
    ds = cache(model, IDS[:1], ["z", "L1H2.z", "L0.z"])
    assert list(ds) == ["z"]
    assert ds.z.sizes["head"] == tiny.HEADS


def test_modules_by_path() -> None:
    model = sweeps.model("gpt2")
    ds = cache(model, IDS, ["transformer.h.1.mlp:output", "transformer.h.0.attn:input[4]"])
    found = ds["transformer.h.1.mlp:output"]
    assert found.dims == ("example", "position", "unit")
    for e, ids in enumerate(IDS):
        close(found[e, : len(ids)], raw(model, ids, "transformer.h.1.mlp"))
    assert ds["transformer.h.0.attn:input[4]"].dims == ("example", "position")
    class_ = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    net = load(class_, example={"input": torch.randn(3, 4)}, name="net")
    x = torch.randn(2, 4)
    ds = cache(net, [Prompt(inputs={"input": row}) for row in x], ["0:output", "2:input"])
    close(ds["0:output"].squeeze(), class_[0](x).detach())
    close(ds["2:input"].squeeze(), class_[0](x).detach().relu())


def test_an_encoder_has_axes_of_its_own(seed: int) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(seed)
    config = T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=20, num_layers=2, num_heads=4, decoder_start_token_id=0)
    net = T5ForConditionalGeneration(config).eval()
    model = load(net, name="t5")
    ids, said = torch.tensor([[5, 6, 7, 8, 1]]), (9, 4)
    ds = cache(model, [Prompt(tuple(ids[0].tolist()), target=said)], ["resid_post", "encoder:resid_post", "cross_pattern"])
    assert ds["encoder:resid_post"].dims == ("example", "encoder_layer", "encoder_position", "encoder_d_model")
    assert ds.cross_pattern.dims == ("example", "layer", "head", "position", "encoder_position")
    assert ds.encoder_token.values.tolist() == [["5", "6", "7", "8", "1"]]
    assert ds.token.values.tolist() == [["9", "4"]]
    with torch.no_grad():
        out = net(input_ids=ids, decoder_input_ids=torch.tensor([said]), output_hidden_states=True)
    close(ds["encoder:resid_post"][0, 0], out.encoder_hidden_states[1][0])
    close(ds.resid_post[0, 0], out.decoder_hidden_states[1][0])


def test_layers_that_lack_a_component_have_no_place_on_the_axis() -> None:
    model = load(sweeps.zoo(0, num_hidden_layers=2), name="attention only")
    with pytest.raises(UnknownSiteError, match="mlp_out"):
        cache(model, IDS[:1], "mlp_out")
    from interp.doctor import architectures

    hybrid = load(architectures.build("qwen3-next"), name="hybrid")
    there = [site.layer for site in hybrid.sites() if site.name == "z"]
    assert len(there) < hybrid.sizes["layer"]
    ds = cache(hybrid, IDS[:1], ["resid_post", "z"])
    assert ds.z_layer.values.tolist() == there
    assert ds.layer.values.tolist() == list(range(hybrid.sizes["layer"]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_numbers_are_float32_or_the_models_float64(dtype: torch.dtype) -> None:
    model = load(tiny.llama(3).to(dtype), name="cast")
    ds = cache(model, IDS[:1], "resid_post")
    assert ds.resid_post.dtype == (np.float64 if dtype == torch.float64 else np.float32)
    close(ds.resid_post[0, 1], raw(model, IDS[0], "model.layers.1").to(torch.float64), 1e-10)


# some positions alone


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "pieces"])
@pytest.mark.parametrize("kind", ["gpt2", "mistral"])
def test_some_positions_alone_are_what_all_of_them_have_there(
    kind: str, cut: bool, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    model = sweeps.model(kind)
    names = ["resid_post", "z", "k", "pattern", "logits"]
    drawn = torch.randint(1, 90, (4, 13), generator=torch.Generator().manual_seed(seed)).tolist()
    prompts = [Prompt(ids[:n], {"name": (1, stop)}) for ids, n, stop in zip(drawn, (13, 9, 13, 12), (4, 2, 3, 3), strict=True)]
    whole = cache(model, prompts, names)
    if cut:
        monkeypatch.setitem(pieces.SIZE, "cpu", 4)
    ds = cache(model, prompts, names, position=["name", "last", 4])
    assert ds.position.values.tolist() == ["name[0]", "name[1]", "name[2]", "-1", "4"]
    for e, prompt in enumerate(prompts):
        start, stop = prompt.roles["name"]
        at = [*range(start, stop), *[None] * (3 - (stop - start)), len(prompt.text) - 1, 4]
        for slot, where in enumerate(at):
            one = ds.isel(example=e, position=slot)
            if where is None:
                assert one.token == ""
                assert all(np.isnan(one[name]).all() for name in names)
                continue
            there = whole.isel(example=e, position=where)
            assert one.token == there.token
            for name in names:
                np.testing.assert_allclose(one[name], there[name], rtol=0, atol=1e-5 * (1 + float(np.nanmax(abs(there[name])))))
    last = cache(model, prompts, names, position=-1)
    assert last.attrs["position"] == "-1"
    assert last.position.values.tolist() == [-1]
    assert all(last[name].nbytes * 13 == whole[name].nbytes for name in names)
    assert np.array_equal(np.isnan(last.pattern), np.isnan(ds.pattern.isel(position=[3])))
    np.testing.assert_allclose(last.logits, ds.logits.isel(position=[3]), atol=1e-5)


def test_positions_of_streams_and_of_what_has_none() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=20, num_layers=2, num_heads=4, decoder_start_token_id=0)
    model = load(T5ForConditionalGeneration(config).eval(), name="t5")
    names = ["resid_post", "encoder:resid_post", "cross_pattern"]
    whole, last = (cache(model, [Prompt((5, 6, 7, 8, 1), target=(9, 4))], names, position=where) for where in (None, "last"))
    assert (last.token.item(), last.encoder_token.item()) == ("4", "1")  # each stream has its own
    close(last["encoder:resid_post"][0, 0, 0], torch.tensor(whole["encoder:resid_post"][0, 0, -1].values))
    close(last.cross_pattern[0, 0, :, 0], torch.tensor(whole.cross_pattern[0, 0, :, -1].values))
    assert last.cross_pattern.shape[-1] == 5

    gpt2 = sweeps.model("gpt2")
    (pooled,) = variables(gpt2, "L0.attn_out")
    with pytest.raises(PositionError, match=r"position=-1: L0.attn_out of shape \(3, 5\) has no positions of these prompts"):
        Filled(ask(gpt2, IDS), pooled, -1).add(0, torch.zeros(3, 5), range(3), range(6))
    with pytest.raises(PositionError, match="past the end of example 1"):
        cache(gpt2, IDS, "L0.z", position=4)
    with pytest.raises(PositionError, match="names 'a' twice"):
        cache(gpt2, [Prompt(IDS[0], {"a": (1, 2)})], "L0.z", position=["a", "a"])
    with pytest.raises(UnknownNameError, match="unknown role 'S'"):
        cache(gpt2, IDS, "L0.z", position="S")


def test_attributes_say_where_numbers_come_from() -> None:
    model = sweeps.model("gpt2")
    given = Intervention.of("L0H1.z", source=Constant(0.0))
    attrs = cache(model, IDS, "L0.z", given=given).attrs
    assert attrs["method"] == "cache"
    assert attrs["model"] == model.name
    assert attrs["model_digest"] == model.digest
    assert attrs["given"] == repr(given)
    assert attrs["float32_precision"] == "ieee"
    assert (attrs["bos"], attrs["dtype"], attrs["sites"]) == (False, "float32", ["z"])
    assert "torch" in attrs["versions"]


# what is in force


def hooked(model: Model, ids: tuple[int, ...], at: str, change: Callable[[Tensor], Tensor], path: str) -> Tensor:
    """A raw module's output while the input of another is changed."""
    module = model.module.get_submodule(at)
    handle = module.register_forward_pre_hook(lambda m, args: (change(args[0]),))
    try:
        return raw(model, ids, path)
    finally:
        handle.remove()


def test_what_is_given_is_in_force_and_seen() -> None:
    model, width = sweeps.model("gpt2"), tiny.WIDTH // tiny.HEADS

    def zeroed(z: Tensor) -> Tensor:
        z = z.clone()
        z[..., 2 * width : 3 * width] = 0
        return z

    given = Intervention.of("L0H2.z", source=Constant(0.0))
    ds = cache(model, IDS, ["resid_post", "L0.z"], given=given)
    assert (ds.z.sel(head=2)[1, :, :3] == 0).all()
    assert (np.abs(ds.z.sel(head=1)[1, :, :3]) > 0).all()
    for e, ids in enumerate(IDS):
        close(ds.resid_post[e, 2, : len(ids)], hooked(model, ids, "transformer.h.0.attn.c_proj", zeroed, "transformer.h.2"))
    own = cache(model, IDS, "resid_post", given=[Change("L1.resid_post", -1, edit=Scale(0.0)), given])
    assert (own.resid_post[1, 1, 2] == 0).all()
    assert (own.resid_post[1, 1, 1] != 0).all()


def test_the_other_prompts_values_can_be_given_to_pairs_only() -> None:
    model = sweeps.model("gpt2")
    pairs = Pairs((Pair(IDS[0], tuple(reversed(IDS[0])), 3, 4),))
    given = Intervention.of("L1.resid_post@-1", source=Activation())
    other = cache(model, pairs, "resid_post", side="corrupted").resid_post
    ds = cache(model, pairs, "resid_post", given=given)
    assert (ds.attrs["task"], cache(model, IDS, "L0.z").attrs["task"]) == ("pairs", None)
    ds = ds.resid_post
    np.testing.assert_allclose(ds[0, 1, -1], other[0, 1, -1], atol=1e-5)
    assert np.abs(ds[0, 1, 0] - other[0, 1, 0]).max() > 1e-2
    close(other[0, 2], raw(model, tuple(reversed(IDS[0])), "transformer.h.2"))
    with pytest.raises(InputError, match="these are no pairs"):
        cache(model, IDS, "resid_post", given=given)
    text = Intervention.of("L1.resid_post@-1", source=Activation(Prompt(IDS[1]), positions=-1))
    close(cache(model, IDS[:1], "resid_post", given=text).resid_post[0, 1, -1], raw(model, IDS[1], "transformer.h.1")[-1])


def test_changed_logits_are_seen() -> None:
    model = sweeps.model("gpt2")
    own = cache(model, IDS, "logits").logits
    for sites in (["logits"], ["logits", "resid_post"]):
        ds = cache(model, IDS, sites, given=Change("logits", 1, edit=Scale(2.0)))
        np.testing.assert_allclose(ds.logits[:, 1], 2 * own[:, 1], rtol=1e-6)
        np.testing.assert_array_equal(ds.logits[:, 0], own[:, 0])
    assert cache(model, IDS, "resid_post", given=Change("logits", 1, edit=Scale(2.0))).resid_post.shape[1] == tiny.LAYERS


# how it runs


@pytest.mark.parametrize("kind", ["gpt2", "mistral", "gemma2", "bloom"])
def test_long_prompts_in_pieces_and_many_in_batches(
    kind: str, monkeypatch: pytest.MonkeyPatch, seed: int, capsys: object
) -> None:
    model = sweeps.model(kind)
    names = ["resid_post", "z", "k", "pattern", "scores", "logits", "mlp_out"]
    prompts = [
        tuple(torch.randint(1, 90, (n,), generator=torch.Generator().manual_seed(seed)).tolist()) for n in (13, 9, 13, 12)
    ]
    given = Change("L0.resid_post", [2, -1], edit=Scale(0.5))
    whole = cache(model, prompts, names, given=given)
    monkeypatch.setenv("INTERP_MEMORY_BYTES", "1")
    batches = cache(model, prompts, names, given=given)
    monkeypatch.delenv("INTERP_MEMORY_BYTES")
    monkeypatch.setitem(pieces.SIZE, "cpu", 4)
    cut = cache(model, prompts, names, given=given)
    for found in (batches, cut):
        for name in names:
            one, other = (np.where(d[name] < -1e30, -1e30, d[name]) for d in (found, whole))  # masks differ in how low they are
            assert np.array_equal(np.isnan(one), np.isnan(other))
            np.testing.assert_allclose(
                one, other, rtol=0, atol=1e-5 * (1 + np.nanmax(np.where(other < -1e29, 0, np.abs(other))))
            )


def test_the_run_is_left_behind_the_deepest_site(monkeypatch: pytest.MonkeyPatch) -> None:
    model = sweeps.model("gpt2")
    entered = []
    for number in range(tiny.LAYERS):
        block: Any = model.module.get_submodule(f"transformer.h.{number}")
        own = block.forward
        monkeypatch.setattr(block, "forward", lambda *a, n=number, f=own, **k: (entered.append(n), f(*a, **k))[1])
    cache(model, IDS, "L0.z")
    assert entered == [0]


def test_only_what_was_named_is_kept() -> None:
    net = tiny.random_model(type(tiny.llama(0).config)(**tiny._rotary("LlamaForCausalLM", {"num_hidden_layers": 12})), 0)
    model = load(net, name="deep")
    prompts = torch.randint(1, 90, (8, 40))
    ten = [f"L{n}.resid_post" for n in range(5)] + [f"L{n}.mlp_post" for n in range(5)]
    ds = cache(model, prompts, ten)  # and everything that is made once has been made
    asked = 8 * 40 * 5 * (tiny.WIDTH + tiny.MLP) * 4
    assert sum(ds[name].nbytes for name in ds) == asked
    gc.collect()
    before = sum(issubclass(type(one), Tensor) for one in gc.get_objects())
    kept = cache(model, prompts, ten)
    gc.collect()
    assert sum(issubclass(type(one), Tensor) for one in gc.get_objects()) == before
    assert all(kept[name].values.base is None or kept[name].values.base.nbytes == kept[name].nbytes for name in kept)
    every = ["resid_post", "mlp_post", "z", "q", "k", "v", "attn_out", "mlp_out"]
    size = sum(one.nbytes for one in cache(model, prompts, every).values())
    plain, cached = memory.taken(lambda: net(prompts, use_cache=False)), memory.taken(lambda: cache(model, prompts, every))
    assert cached < 1.2 * plain  # of tensors: the arrays are outside, and there is no second copy of them
    assert size > 1.5 * plain


@pytest.mark.parametrize("kind", ["gpt-oss", "jamba", "deepseek-v3", "bert", "whisper", "vit", "clip", "llava", "unet"])
def test_every_site_of_other_architectures(kind: str, seed: int) -> None:
    """Against one forward pass that reads whole tensors and keeps them."""
    model = anything.model(kind)
    prompts = anything.pairs(model, seed)
    tokens = model.encode(prompts).clean
    by_name: dict[str, list[Any]] = {}
    for site in model.sites():
        by_name.setdefault(site.name if site.stream == "main" else f"{site.stream}:{site.name}", []).append(site)
    for name, sites in by_name.items():
        ds = cache(model, prompts, name)
        with torch.no_grad(), model.prepared(sites):
            whole = model.backend.run(model.inputs(tokens), sites, {})
        for site in sites:
            found = ds[name].values[:, sites.index(site)] if site.layer is not None else ds[name].values
            largest = float(whole[site].where(whole[site] > -1e30, 0).abs().max())
            np.testing.assert_allclose(found, whole[site], rtol=0, atol=1e-5 * (1 + largest), err_msg=repr(site))


def test_another_backend_gives_the_same() -> None:
    names, given = ["resid_post", "z", "logits"], Change("L0.resid_post", -1, edit=Scale(0.5))
    bridge, ours = load(tiny.gpt2(0), name="bridged", backend="transformer_lens"), load(tiny.gpt2(0), name="ours")
    for changed in (None, given):
        one, other = (cache(model, IDS, names, given=changed) for model in (bridge, ours))
        for name in names:
            np.testing.assert_allclose(one[name], other[name], rtol=0, atol=1e-5 * (1 + float(abs(other[name]).max())))


# mistakes


def test_mistakes_are_told() -> None:
    model = sweeps.model("gpt2")
    with pytest.raises(
        ValueError, match=r"sites=None names nothing to keep; expected a name such as 'resid_post'.*model.sites\(\)"
    ):
        cache(model, IDS)
    with pytest.raises(ValueError, match=r"sites=\[\] names nothing"):
        cache(model, IDS, [])
    with pytest.raises(UnknownSiteError, match="did you mean 'resid_post'"):
        cache(model, IDS, "resid_pots")
    with pytest.raises(HeadOutOfRangeError, match="layer 7"):
        cache(model, IDS, "L7.z")
    with pytest.raises(HeadOutOfRangeError, match="head 9"):
        cache(model, IDS, "L1H9.z")
    with pytest.raises(UnknownNameError, match=r"unknown side 'base'.*clean, corrupted"):
        cache(model, IDS, "z", side="base")
    with pytest.raises(UnknownNameError, match=r"unknown bos 'yes' \(known: model, True, False\)"):
        ask(model, IDS, bos="yes")
    with pytest.raises(InputError, match="prompts is empty"):
        cache(model, [], "z")
    with pytest.raises(InputError, match="prompts is int"):
        cache(model, 3, "z")
    with pytest.raises(InputError, match="pairs and prompts"):
        cache(model, [IDS[0], Pair(IDS[0], IDS[0])], "z")


class Wide(nn.Module):
    """A layer whose output has no examples in front."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(7, 3))
        self.first, self.rows = nn.Linear(4, 3), nn.Identity()

    def forward(self, input: Tensor) -> Tensor:
        return self.first(input) @ self.rows(self.table).T


def test_a_tensor_that_is_not_the_examples_is_refused() -> None:
    net = load(Wide(), example={"input": torch.randn(3, 4)}, name="wide")
    with pytest.raises(ShapeMismatchError, match=r"rows:output has shape \(7, 3\) for 2 prompts: its first axis is not theirs"):
        cache(net, [Prompt(inputs={"input": row}) for row in torch.randn(2, 4)], "rows:output")
