"""What a model computes with beside its weights is part of its digest: two models of one digest give the same numbers."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from interp.models import Model, digest, load


class Net(nn.Module):
    """A network of somebody's own."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU())
        self.scale = scale
        self.table = torch.ones(4)
        self.register_buffer("unsaved", torch.zeros(4), persistent=False)
        self.calls = 0
        self.seen: Any = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.seen = self.scale * self.inner(x) * self.table + self.unsaved
        return self.seen


def net(seed: int, **words: float) -> Model:
    torch.manual_seed(seed)
    return load(Net(**words).eval(), example={"x": torch.randn(3, 3)}, check=False)


CHANGES: dict[str, Callable[[Any], object]] = {
    "running mean": lambda m: m.inner[1].running_mean.add_(1),
    "running mean, by its data": lambda m: m.inner[1].running_mean.data.add_(1),
    "running variance": lambda m: setattr(m.inner[1], "running_var", torch.full((4,), 2.0)),
    "weight": lambda m: m.inner[0].weight.data.mul_(2),
    "signs": lambda m: m.inner[0].weight.data.neg_(),
    "rows": lambda m: m.inner[0].weight.data.copy_(m.inner[0].weight.data.flip(0)),
    "attribute": lambda m: setattr(m, "scale", 2.0),
    "attribute of a part": lambda m: setattr(m.inner[1], "eps", 0.5),
    "tensor that is no buffer": lambda m: m.table.mul_(2),
    "buffer that is not saved": lambda m: m.unsaved.add_(1),
    "part without weights": lambda m: m.inner.__setitem__(2, nn.Tanh()),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_changes_the_numbers_changes_the_digest(what: str, seed: int) -> None:
    model, x = net(seed), torch.randn(3, 3)
    before, numbers = model.digest, model.module(x)
    assert net(seed).digest == before, "the same again"
    with torch.no_grad():
        CHANGES[what](model.module)
    assert not torch.equal(model.module(x), numbers)
    after = model.digest
    assert after != before
    assert load(model.module, example={"x": torch.randn(3, 3)}, check=False).digest == after, "changed before it was loaded"


def test_what_a_forward_pass_writes_is_no_setting(seed: int) -> None:
    model = net(seed)
    before = model.digest
    model.module(torch.randn(5, 3))
    assert model.module.calls > 1
    assert model.digest == before
    assert load(model.module, example={"x": torch.randn(3, 3)}, check=False).digest == before


def test_code_of_ones_own_is_part_of_it(seed: int) -> None:
    def twice(factor: float) -> type[nn.Module]:
        class Twice(nn.Linear):
            def forward(self, input: torch.Tensor) -> torch.Tensor:
                return factor * super().forward(input)

        return Twice

    def found(kind: type[nn.Module]) -> str:
        torch.manual_seed(seed)
        return load(nn.Sequential(kind(3, 3)), check=False).digest  # type: ignore[arg-type, call-arg]

    assert found(twice(2.0)) == found(twice(2.0))
    assert len({found(twice(2.0)), found(twice(3.0)), found(nn.Linear)}) == 3


def test_a_function_that_is_put_into_a_class_is_noticed(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(tiny.llama(seed), check=False)
    before, kind = model.digest, type(model.module.model.layers[0].mlp)
    real = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, x: 2 * x)
    assert model.digest != before
    monkeypatch.setattr(kind, "forward", real)
    assert model.digest == before


def test_a_function_that_is_put_into_a_module_of_a_package_is_noticed(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(tiny.llama(seed), check=False)
    before = model.digest
    with monkeypatch.context() as patched:
        patched.setattr("transformers.models.llama.modeling_llama.apply_rotary_pos_emb", lambda q, k, *rest, **words: (q, k))
        assert model.digest != before
    assert model.digest == before


def test_attention_of_ones_own_is_part_of_it(seed: int) -> None:
    """Registered with transformers, which leaves the weights and every module as they were."""

    def attention(factor: float) -> Callable[..., Any]:
        def called(*given: Any, **words: Any) -> Any:
            found, pattern = sdpa_attention_forward(*given, **words)
            return factor * found, pattern

        return called

    model, found = load(tiny.llama(seed), check=False), []
    for factor in (2.0, 2.0, 3.0):
        ALL_ATTENTION_FUNCTIONS.register("mine", attention(factor))
        ALL_MASK_ATTENTION_FUNCTIONS.register("mine", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
        model.module.set_attn_implementation("mine")
        found.append(model.digest)
    model.module.set_attn_implementation("sdpa")
    assert found[0] == found[1] != found[2]
    assert model.digest not in found


@pytest.mark.parametrize(
    ("key", "value"), [("rope_parameters", {"rope_type": "default", "rope_theta": 50.0}), ("hidden_act", "relu")]
)
def test_configurations_of_one_file_of_weights(key: str, value: Any, seed: int, tmp_path: Path) -> None:
    """A folder's weights are known by its files, which do not say how they are used."""
    tiny.llama(seed).save_pretrained(tmp_path)
    plain, other = load(tmp_path, check=False), load(tmp_path, check=False, **{key: value})
    assert digest.of_module(plain.module) == digest.of_module(other.module)
    assert load(tmp_path, check=False).digest == plain.digest
    assert other.digest != plain.digest
    setattr(plain.module.config, key, value)
    assert plain.digest == other.digest


def test_another_process_finds_the_same() -> None:
    """Whatever order sets have there."""
    code = """
from interp.doctor import architectures
print([architectures.loaded(one).digest for one in ("llama", "unet", "resnet")])
"""
    call = partial(subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=True)
    one, other = (call(env={**os.environ, "PYTHONHASHSEED": seed}).stdout.splitlines()[-1] for seed in ("1", "2"))
    assert one == other


def test_how_a_model_is_run_is_no_setting(seed: int) -> None:
    model = load(tiny.llama(seed), check=False)
    before = model.digest
    model.module.set_attn_implementation("eager")
    model.module.train()
    model.module.config.use_cache = False
    assert model.digest == before


def test_tables_of_positions(seed: int) -> None:
    model = load(tiny.llama(seed), check=False)
    before = model.digest
    assert load(copy.deepcopy(model.module), check=False).digest == before
    model.module.model.rotary_emb.inv_freq.mul_(0.5)
    assert model.digest != before


def test_a_forward_of_ones_own_has_no_written_form(seed: int) -> None:
    model = load(tiny.llama(seed), check=False)
    assert model.unwritten == ""
    part = model.module.model.layers[1].mlp
    part.forward = lambda x: 2 * x
    assert model.unwritten == "there is a forward of yours on model.layers.1.mlp"
    del part.forward
    model.module.model.extra = object.__new__(type("Mine", (), {"__slots__": ("a",)}))
    assert model.unwritten == "model.extra of the model has no written form"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (1021, 16), (640, 768)])
def test_a_number_that_is_made_quickly(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> None:
    """Any change that is made by hand gives another one, a copy the same."""
    torch.manual_seed(seed)
    tensor = (2 + 50 * torch.rand(shape)).to(dtype)  # no zero, and no least integer: their signs do not change
    tensor *= 2 * torch.randint(0, 2, shape).to(dtype) - 1
    changed = {"neg": -tensor, "double": 2 * tensor}
    flat = tensor.reshape(-1)
    if tensor.numel() > 1:
        one = flat.clone()
        one[-1] += 1
        last = flat.clone()
        last[-1] *= -1
        odd = flat.clone()
        odd[1::2] *= -1
        changed |= {"one": one, "last": last, "odd": odd, "swapped": flat.flip(0), "turned": flat.roll(1)}
    found = {name: digest.quick([one.reshape(shape)]) for name, one in changed.items()}
    assert digest.quick([tensor.clone()]) == digest.quick([tensor])
    assert len({*found.values(), digest.quick([tensor])}) == len(found) + 1, found
