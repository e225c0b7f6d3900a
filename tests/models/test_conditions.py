"""Real-life conditions: sweeps of a model that is halved, put away, quantised, tied, checkpointed, padded or adapted.

Every number is compared with that of the plain model – float32, one device, ``serial`` – or with the raw module and plain torch
hooks. Tolerance where nothing is rounded otherwise: 1e-5 × (1 + max |logit|).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from saved import build
from torch import Tensor, nn
from transformers import PreTrainedModel, QuantoConfig

from interp.engine import attribute, patch, patch_edges
from interp.errors import CompiledModelError, InputError, PositionError, UnknownSiteError
from interp.interventions import Constant, Intervention
from interp.models import Encoded, Model, load
from interp.models.encoding import encode
from interp.models.placement import devices
from interp.prompts import Pairs
from interp.sites import Site, grid

LENGTHS = [8, 6, 4, 7]
SITES = ["resid_pre", "result", "pattern", "mlp_post"]


def values(model: Model, pairs: Pairs | Encoded, site: str = "z", **options: Any) -> np.ndarray:
    return patch(model, pairs, grid(site, layer=...), metric=["logit_diff", "logprob"], **options)["value"].values


def close(got: np.ndarray, expected: np.ndarray, what: object = "") -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * (1 + np.abs(expected).max()), err_msg=str(what))


def differ(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())


@pytest.fixture
def pairs(seed: int) -> Pairs:
    return sweeps.random_pairs(seed, LENGTHS)


# half precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "bloom"])
def test_half_precision(kind: str, dtype: torch.dtype, pairs: Pairs, tmp_path: Path, seed: int) -> None:
    """The model runs in its own dtype, what is measured is float32, and no strategy is further off than the dtype is.

    On a CPU a row comes out the same in a batch of any size, so the spread of serial over batch sizes alone would be 0; what
    rounding does to a number is how far serial is from the same weights' float32.
    """
    sweeps.MAKERS[kind](seed).to(dtype).save_pretrained(tmp_path)
    plain, half = load(tmp_path, dtype=torch.float32), load(tmp_path)
    assert half.dtype == dtype
    assert half.sites() == plain.sites(), "the laws' tolerance leaves every site"
    assert half.probe is not None
    assert half.probe.worst < 5e-2 / 2, "and not by a hair"
    assert half.stack is not None
    for site in ("resid_pre", "z", "pattern"):
        full, serial = (values(model, pairs, site, strategy="serial") for model in (plain, half))
        spread = max(differ(values(half, pairs, site, strategy="batched", rows=rows), serial) for rows in (1, None))
        rounding = max(spread, differ(serial, full))
        wave = patch(half, pairs, grid(site, layer=...), metric=["logit_diff", "logprob"])
        assert wave.attrs["strategy"] == "wavefront"
        assert wave.attrs["dtype"] == str(dtype).removeprefix("torch.")
        assert wave["value"].dtype == wave["clean"].dtype == np.float32
        assert 0 < differ(serial, full) < 1, "the dtype shows, and is not all that shows"
        assert differ(wave["value"].values, serial) <= 3 * rounding, site
        assert differ(wave["value"].values, full) <= 3 * rounding, site


# weights that are put away until they are used


def _mapped(module: PreTrainedModel, where: str) -> dict[str, str]:
    """The second block put away, the rest on the CPU."""
    path = "model.layers" if hasattr(module, "model") else "transformer.h"
    body = module.get_submodule(path.partition(".")[0])
    names = [f"{path.partition('.')[0]}.{name}" for name, _ in body.named_children() if not path.endswith(f".{name}")]
    return {**dict.fromkeys([*names, "lm_head"], "cpu"), **{f"{path}.{i}": where if i == 1 else "cpu" for i in range(3)}}


def _dispatched(module: PreTrainedModel, folder: Path) -> PreTrainedModel:
    return dispatch_model(module, _mapped(module, "disk"), main_device="cpu", offload_dir=str(folder))


AWAY: dict[str, Callable[[PreTrainedModel, Path], PreTrainedModel]] = {
    "one block on disk": _dispatched,
    "everything in memory": lambda module, folder: cpu_offload(module, execution_device=torch.device("cpu")),
    "everything on disk": lambda module, folder: disk_offload(module, str(folder), execution_device=torch.device("cpu")),
}


def rewired(module: nn.Module) -> list[tuple[str, int, int, bool]]:
    """accelerate's hooks and the forwards that it put in place, and which weights are away."""
    return [
        (name, id(getattr(part, "_hf_hook", None)), id(part.__dict__.get("forward")), any(p.is_meta for p in part.parameters()))
        for name, part in module.named_modules()
    ]


@pytest.mark.filterwarnings("ignore:.*TypedStorage:UserWarning")
@pytest.mark.parametrize("away", AWAY)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_weights_that_accelerate_puts_away(kind: str, away: str, pairs: Pairs, tmp_path: Path) -> None:
    plain, module = load(sweeps.MAKERS[kind](0)), AWAY[away](sweeps.MAKERS[kind](0), tmp_path)
    before = rewired(module)
    assert any(meta for *_, meta in before)
    model = load(module)
    assert model.sites() == plain.sites()
    assert model.device == torch.device("cpu")
    assert (model.stack is not None, model.stack_refused) == (True, "")
    assert model.digest == plain.digest
    for site in SITES:
        expected = values(plain, pairs, site, strategy="serial")
        close(values(model, pairs, site, strategy="serial"), expected, site)
        close(values(model, pairs, site, strategy="batched"), expected, site)
        close(values(model, pairs, site, strategy="wavefront"), expected, site)
    where = grid("z", layer=..., head=...)
    close(attribute(model, pairs, where)["value"].values, attribute(plain, pairs, where)["value"].values)
    even = sweeps.random_pairs(1, [6, 6])
    close(patch_edges(model, even)["value"].values, patch_edges(plain, even)["value"].values)
    assert rewired(module) == before
    assert model.digest == plain.digest


def test_a_device_map_of_load(pairs: Pairs, tmp_path: Path) -> None:
    live = sweeps.MAKERS["llama"](0)
    live.save_pretrained(tmp_path / "saved")
    plain = load(tmp_path / "saved")
    for device_map in ({"": "cpu"}, _mapped(live, "disk"), {"": "disk"}):
        model = load(tmp_path / "saved", device_map=device_map, offload_folder=str(tmp_path / "away"))
        assert model.device == torch.device("cpu")
        assert model.probe is not None
        close(values(model, pairs, strategy="wavefront"), values(plain, pairs, strategy="serial"))
        assert model.digest == plain.digest


def test_a_model_on_several_devices_runs_whole_passes(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one device here: what is tested is that the wave is refused, for its rows would have to follow the blocks."""
    two = (torch.device("cuda:0"), torch.device("cuda:1"))
    monkeypatch.setattr("interp.models.stack_probe.devices", lambda module: two)
    model = load(tiny.llama(0))
    found = patch(model, pairs, grid("z", layer=...))
    assert model.stack_refused == "its blocks are on 2 devices (cuda:0, cuda:1)"
    assert found.attrs["strategy"] == "batched"
    assert next(iter(found.attrs["fallback"])).startswith("its blocks are on 2 devices")


def test_devices_are_those_where_weights_are_used(tmp_path: Path) -> None:
    cpu, meta = torch.device("cpu"), torch.device("meta")
    assert devices(tiny.llama(0)) == (cpu,)
    assert devices(_dispatched(tiny.llama(0), tmp_path)) == (cpu,)
    assert devices(nn.Sequential(nn.Linear(2, 2, device=meta), nn.Linear(2, 2))) == (meta, cpu)


# quantised modules


def _dynamic(module: nn.Module) -> nn.Module:
    """torch's own int8: weights are packed, activations are rounded by the range of the whole batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it moves to torchao
        return torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8)


@pytest.mark.parametrize("kind", ["llama", "neox"])
def test_int8_whose_activations_are_rounded_by_the_batch(kind: str, pairs: Pairs, seed: int) -> None:
    module = _dynamic(sweeps.MAKERS[kind](seed))
    with pytest.warns(
        RuntimeWarning, match=r"an example's numbers depend on the others in its batch, by \d\.\de-0[123] of the"
    ):
        model = load(module)
    assert model.sites() == load(sweeps.MAKERS[kind](seed)).sites()
    assert "is not a linear map" in model.stack_refused
    with pytest.warns(
        RuntimeWarning, match="writing the base's own values back moves metric 'logit_diff' by .*, which is more"
    ):
        assert patch(model, pairs, grid("z", layer=...)).attrs["strategy"] == "batched"
    # one example a pass is what the quantised network itself gives it, unembedding the last token alone
    block = module.get_submodule(f"{model.anatomy.blocks}.1")
    for one in pairs:
        new = sweeps.record(module, f"{model.anatomy.blocks}.1", one.corrupted.text)[:, -1:]
        handle = block.register_forward_hook(lambda m, args, h, new=new: _ends(h, new))
        with torch.no_grad():
            logits = module(torch.tensor([one.clean.text]), logits_to_keep=1).logits[0, -1]
        handle.remove()
        change = [Intervention.of("L1.resid_post@-1")]
        found = patch(model, Pairs((one,)), change, "logprob", patching="noising", strategy="serial")
        expected = logits.log_softmax(-1)[torch.tensor(one.answers)].logsumexp(0)
        close(found["value"].values.flatten(), np.array([float(expected)]))


def _ends(output: Any, new: Tensor) -> Any:
    """What a block gives, with another last position."""
    if isinstance(output, tuple):
        return (_ends(output[0], new), *output[1:])
    return torch.cat([output[:, :-1], new], dim=1)


@pytest.mark.parametrize("kind", ["llama", "neox"])
def test_results_of_packed_weights_add_up(kind: str, seed: int) -> None:
    """Each head's result is what W_O makes of that head alone, its weights as they are packed."""
    with pytest.warns(RuntimeWarning, match="depend on the others"):
        model = load(_dynamic(sweeps.MAKERS[kind](seed)))
    result, path = Site("result", layer=1), Site("output", path=model.anatomy.w_o[1])
    with torch.no_grad():
        found = model.backend.run(model.example, reads=[result, path], writes={})
        bias = model.module.get_submodule(model.anatomy.w_o[1])(torch.zeros(1, tiny.WIDTH))
    torch.testing.assert_close(found[result].sum(-2) + bias, found[path], atol=1e-5, rtol=1e-5)


class Packed(Tensor):
    """Eight bits a number and a scale a row, which is good for ``linear`` and nothing else: the way of torchao."""

    @staticmethod
    def __new__(cls, codes: Tensor, scales: Tensor) -> Packed:
        return Tensor._make_wrapper_subclass(cls, codes.shape, dtype=scales.dtype, device=codes.device)  # type: ignore[attr-defined]

    def __init__(self, codes: Tensor, scales: Tensor) -> None:
        self.codes, self.scales = codes, scales

    @classmethod
    def of(cls, weight: Tensor) -> Packed:
        scales = weight.abs().amax(-1, keepdim=True) / 127
        return cls((weight / scales).round().to(torch.int8), scales)

    def plain(self) -> Tensor:
        return self.codes * self.scales

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["codes", "scales"], None

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is nn.functional.linear:
            return function(args[0], args[1].plain(), *args[2:], **(kwargs or {}))
        return super().__torch_function__(function, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.detach.default:
            return cls(args[0].codes, args[0].scales)
        raise NotImplementedError(f"{function} of a packed weight")


def _linears(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    for path, part in list(module.named_modules()):
        if isinstance(part, nn.Linear) and "layers" in path:
            yield module.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2], part


def _eight_bits(module: PreTrainedModel, folder: Path) -> tuple[nn.Module, nn.Module]:
    """Weights of a class of their own in plain ``nn.Linear`` modules."""
    twin = copy.deepcopy(module)
    for packed, plain in zip(_linears(module), _linears(twin), strict=True):
        weight = Packed.of(packed[2].weight.detach())
        packed[2].weight = nn.Parameter(weight, requires_grad=False)
        plain[2].weight.data = weight.plain()
    return module, twin


def _quanto(module: PreTrainedModel, folder: Path) -> tuple[nn.Module, nn.Module]:
    """quanto, by way of transformers and ``load``."""
    module.save_pretrained(folder)
    model, twin = load(folder, quantization_config=QuantoConfig(weights="int8")), copy.deepcopy(module)
    assert model.digest != load(folder).digest, "packed anew, the weights are others than the file's"
    for packed, plain in zip(_linears_of(model.module), _linears(twin), strict=True):
        plain[2].weight.data = packed.weight.dequantize()
    return model.module, twin


def _linears_of(module: nn.Module) -> list[Any]:
    return [part for path, part in module.named_modules() if hasattr(part, "in_features") and "layers" in path]


@pytest.mark.parametrize("quantise", [_eight_bits, _quanto])
def test_weights_in_eight_bits(quantise: Any, pairs: Pairs, tmp_path: Path, seed: int) -> None:
    """Weights alone are rounded: the numbers are those of the plain model with the rounded weights, in every strategy."""
    packed, twin = quantise(tiny.llama(seed), tmp_path)
    model, rounded, plain = load(packed), load(twin), load(tiny.llama(seed))
    assert type(model.module.model.layers[0].self_attn.o_proj.weight) not in (nn.Parameter, Tensor)
    assert model.sites() == plain.sites()
    assert model.stack_refused == ""
    for site in SITES:
        expected = values(rounded, pairs, site, strategy="serial")
        assert differ(expected, values(plain, pairs, site, strategy="serial")) > 1e-3, "eight bits show"
        for strategy in ("serial", "batched", "wavefront"):
            close(values(model, pairs, site, strategy=strategy), expected, (site, strategy))
    even = sweeps.random_pairs(seed, [6, 6])
    close(patch_edges(model, even)["value"].values, patch_edges(rounded, even)["value"].values)
    assert model.digest != plain.digest


class RoundedRows(nn.Linear):
    """Every token is rounded to eight bits by its own range before it is multiplied."""

    def forward(self, x: Tensor) -> Tensor:
        scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-9) / 127
        return super().forward((x / scale).round() * scale)


def test_activations_in_eight_bits_have_no_results(pairs: Pairs, seed: int) -> None:
    """Heads then do not add up to what W_O gives: ``result`` is absent, with the reason; the rest is there."""
    module = tiny.llama(seed)
    for parent, name, linear in _linears(module):
        rounded = RoundedRows(linear.in_features, linear.out_features, bias=False)
        rounded.weight = linear.weight
        setattr(parent, name, rounded)
    model, plain = load(module), load(tiny.llama(seed))
    assert set(plain.sites()) - set(model.sites()) == {Site("result", layer=layer) for layer in range(3)}
    with pytest.raises(
        UnknownSiteError, match=r"because W_O of layer \d − Σ L\d\.result = b_O does not hold for it \(deviation"
    ):
        model.check(Site("result", layer=0))
    assert "is not a linear map" in model.stack_refused
    for site in ("resid_pre", "z", "pattern"):
        close(values(model, pairs, site), values(model, pairs, site, strategy="serial"), site)


# adapters: a module that is more than its weight


class Adapted(nn.Module):
    """A linear map with a low-rank part beside it, in the form of peft: ``weight`` is that of the map alone."""

    def __init__(self, base: nn.Linear, generator: torch.Generator) -> None:
        super().__init__()
        self.base_layer = base
        self.in_features, self.out_features = base.in_features, base.out_features
        self.down, self.up = nn.Linear(base.in_features, 2, bias=False), nn.Linear(2, base.out_features, bias=False)
        for part in (self.down, self.up):
            part.weight.data = 0.3 * torch.randn(part.weight.shape, generator=generator)

    @property
    def weight(self) -> Tensor:
        return self.base_layer.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.up(self.down(x))


def test_an_adapter_beside_the_weight(pairs: Pairs, seed: int) -> None:
    """The numbers of the same model with the adapter merged into its weights; reading ``weight`` would leave it out."""
    merged, adapted = tiny.llama(seed), tiny.llama(seed)
    generator = torch.Generator().manual_seed(seed)
    for layer in range(3):
        for name in ("self_attn.o_proj", "self_attn.q_proj", "mlp.down_proj"):
            parent = adapted.get_submodule(f"model.layers.{layer}.{name.partition('.')[0]}")
            part = Adapted(parent.get_submodule(name.partition(".")[2]), generator)
            setattr(parent, name.partition(".")[2], part)
            weight = merged.get_submodule(f"model.layers.{layer}.{name}").weight.data
            weight += part.up.weight.data @ part.down.weight.data
    one, other = load(adapted), load(merged)
    assert one.sites() == other.sites()
    assert one.stack is not None
    for site in SITES:
        for strategy in ("serial", "wavefront"):
            close(values(one, pairs, site, strategy=strategy), values(other, pairs, site, strategy="serial"), (site, strategy))
    even = sweeps.random_pairs(seed, [6, 6])
    close(patch_edges(one, even)["value"].values, patch_edges(other, even)["value"].values)


# tied weights


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "bloom"])
def test_tied_weights(kind: str, pairs: Pairs, tmp_path: Path, seed: int) -> None:
    """An embedding that is written leaves the unembedding alone, and no weight is touched."""
    tied = sweeps.MAKERS[kind](seed)
    tied.save_pretrained(tmp_path)
    model = load(tmp_path)
    head, embedding = model.module.get_output_embeddings(), model.module.get_input_embeddings()
    assert head.weight is embedding.weight
    apart = copy.deepcopy(tied)
    apart.get_output_embeddings().weight = nn.Parameter(embedding.weight.detach().clone())
    assert apart.get_input_embeddings().weight is not apart.get_output_embeddings().weight
    before, digest = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}, model.digest
    zeroed = [Intervention.of("embed@-1", source=Constant(0.0)), Intervention.of("L1.z@-1")]
    for strategy in ("serial", "wavefront", "batched"):
        got, expected = (patch(m, pairs, zeroed, "logprob", strategy=strategy)["value"].values for m in (model, load(apart)))
        close(got, expected, strategy)
    attribute(model, pairs, grid("z", layer=...))
    assert head.weight is embedding.weight
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.module.state_dict().items())
    assert all(p.grad is None for p in model.module.parameters())
    assert model.digest == digest == load(tmp_path).digest
    assert load(tied).digest == load(tiny.random_model(tied.config, seed)).digest


# gradient checkpointing and training mode


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_is_off_inside_and_on_again_after(kind: str, reentrant: bool, pairs: Pairs, seed: int) -> None:
    """A block that is run again for its gradient would be patched twice, and would read what was patched."""
    plain, module = load(sweeps.MAKERS[kind](seed)), sweeps.MAKERS[kind](seed)
    module.activation_checkpointing_enable({"use_reentrant": reentrant})
    module.train()
    for dropout in (m for m in module.modules() if isinstance(m, nn.Dropout)):
        dropout.p = 0.5
    runs: list[int] = []
    first = "model.layers.1.input_layernorm" if kind == "llama" else "transformer.h.1.ln_1"
    counting = module.get_submodule(first).register_forward_pre_hook(lambda *_: runs.append(1))
    module(torch.tensor([[1, 2, 3]])).logits.sum().backward()
    assert len(runs) == 2, "outside, checkpointing runs a block twice"
    counting.remove()
    module.zero_grad()

    def state() -> list[object]:
        flags = [(m.training, getattr(m, "gradient_checkpointing", None)) for m in module.modules()]
        return [*flags, module.config.use_cache, module.is_activation_checkpointing]

    before, model = state(), load(module)
    close(values(model, pairs, strategy="serial"), values(plain, pairs, strategy="serial"))
    close(values(model, pairs, strategy="wavefront"), values(plain, pairs, strategy="serial"))
    where = grid("z", layer=..., head=...)
    close(attribute(model, pairs, where)["value"].values, attribute(plain, pairs, where)["value"].values)
    assert state() == before
    assert model.module.training


# padding


def tokens(rows: list[tuple[int, ...]], side: str, pad: int = 0) -> dict[str, Tensor]:
    """As a tokenizer of transformers returns them."""
    width = max(map(len, rows))
    spare = [[pad] * (width - len(row)) for row in rows]
    ids = [[*more, *row] if side == "left" else [*row, *more] for row, more in zip(rows, spare, strict=True)]
    real = [[0] * len(more) + [1] * len(row) for row, more in zip(rows, spare, strict=True)]
    mask = [row if side == "left" else row[::-1] for row in real]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_padded_by_the_user_on_either_side(side: str, tiny_llama: PreTrainedModel) -> None:
    model, rows = load(tiny_llama, check=False), [(1, 2, 3), (4,), (5, 0)]
    own, given = model.encode(rows), model.encode(tokens(rows, side))
    assert torch.equal(own.ids, given.ids)
    assert torch.equal(own.mask, given.mask), "a token that is spelled as padding is real where the mask says so"
    whole = torch.tensor([[1, 2], [3, 4]])
    assert model.encode(whole).ids.tolist() == whole.tolist()
    with torch.no_grad():
        for row, logits in zip(rows, model.module(**given.inputs()).logits, strict=True):
            expected = model.module(torch.tensor([row])).logits[0]
            torch.testing.assert_close(logits[-len(row) :], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bloom"])
def test_padding_never_shows(kind: str, pairs: Pairs) -> None:
    """Each pair alone, where nothing is padded, and all of them in one batch."""
    model = sweeps.model(kind)
    for site in SITES:
        together = values(model, pairs, site)
        alone = np.concatenate([values(model, Pairs((pair,)), site, strategy="serial") for pair in pairs], axis=-1)
        close(together, alone, site)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"input_ids": [[1, 2, 3]], "attention_mask": [[1, 0, 1]]}, r"mask of example 0 is not one run of ones: \[1, 0, 1\]"),
        ({"input_ids": [[1, 2], [3, 4]], "attention_mask": [[1, 1], [0, 0]]}, r"mask of example 1 is not one run of ones"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1, 1, 1]]}, r"input_ids \(1, 2\), attention_mask \(1, 3\)"),
        ({"ids": [[1]]}, "a mapping of prompts has input_ids and attention_mask, but here ids"),
        (
            {"input_ids": [[1, 2], [3]]},
            r"input_ids are no tensor \(.*\); rows of different lengths are given as a list of lists",
        ),
        (torch.randn(2, 3), "token ids are whole numbers, but here is a tensor of float32"),
        (torch.tensor([1, 2, 3]), r"are \[example, position\] both, but here input_ids \(3,\)"),
    ],
)
def test_tensors_that_are_no_prompts(batch: Any, words: str, tiny_llama: PreTrainedModel) -> None:
    with pytest.raises(PositionError, match=words):
        load(tiny_llama, check=False).encode(batch)


def test_one_prompt_of_ids_in_place_of_several() -> None:
    words = r"a prompt is a text, a list of token ids, a chat or a Prompt, not 1; one prompt of ids is \[\[1, …\]\]"
    with pytest.raises(PositionError, match=words):
        sweeps.unchecked(encode)([1, 2, 3], None)


def test_prompts_of_a_model_that_reads_none(seed: int) -> None:
    model = load(build("vit", seed), check=False)
    with pytest.raises(InputError, match="the model's forward needs pixel_values"):
        model.encode([[1, 2]])


# models whose hooks would be ignored


def test_torchscript_is_refused(tiny_gpt2: PreTrainedModel) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is on its way out
        scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 4)))
    with pytest.raises(CompiledModelError, match="the model is TorchScript, which runs no hooks inside"):
        load(scripted)
    tiny_gpt2.transformer.h[1].mlp = scripted
    with pytest.raises(CompiledModelError, match=r"its module 'transformer\.h\.1\.mlp' is TorchScript"):
        load(tiny_gpt2)


@pytest.mark.parametrize(
    "compiling",
    [
        lambda module: module.compile(backend="eager"),
        lambda module: module.transformer.h[1].mlp.compile(backend="eager"),
        lambda module: setattr(
            module.transformer.h[1], "forward", torch.compile(module.transformer.h[1].forward, backend="eager")
        ),
        lambda module: module.transformer.h.__setitem__(1, torch.compile(module.transformer.h[1], backend="eager")),
    ],
)
def test_a_model_compiled_between_loading_and_a_sweep(compiling: Callable[[Any], object], pairs: Pairs, seed: int) -> None:
    module = tiny.gpt2(seed)
    model = load(module)
    compiling(module)
    for run in (lambda: values(model, pairs), lambda: attribute(model, pairs, grid("z", layer=...))):
        with pytest.raises(CompiledModelError, match="is compiled"):
            run()


# a hook of the user's, under a condition


def test_a_users_hook_on_a_model_that_is_put_away(pairs: Pairs, tmp_path: Path) -> None:
    """It acts once on every row, as it does without accelerate, and is there after."""
    plain, away = tiny.llama(0), _dispatched(tiny.llama(0), tmp_path)
    for module in (plain, away):
        module.model.layers[1].register_forward_hook(lambda m, args, h: h * 0.8 + 0.1)
    one, other = load(plain), load(away)
    close(values(other, pairs), values(one, pairs, strategy="serial"))
    assert len(away.model.layers[1]._forward_hooks) == 1
    unhooked = values(load(tiny.llama(0)), pairs)
    assert differ(unhooked, values(other, pairs)) > 1e-3
