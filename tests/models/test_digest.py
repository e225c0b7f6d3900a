"""Digests of weights: equal for equal numbers, different for any other."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from torch import nn

from interp.models import digest, load


def test_equal_weights_have_equal_digests(seed: int) -> None:
    assert digest.of_module(tiny.llama(seed)) == digest.of_module(tiny.llama(seed).train())
    assert digest.of_module(tiny.llama(seed)) != digest.of_module(tiny.llama(seed + 1))


def _one_number(module: nn.Module) -> None:
    module.weight.data[1, 2] = torch.nextafter(module.weight.data[1, 2], torch.tensor(9.0))  # type: ignore[union-attr,index,operator]


@pytest.mark.parametrize(
    "change",
    [
        _one_number,
        lambda m: m.double(),
        lambda m: m.half(),
        lambda m: m.register_buffer("more", torch.zeros(1)),
        lambda m: m.weight.data.neg_(),
        lambda m: setattr(m, "weight", nn.Parameter(m.weight.detach().reshape(4, 3))),
    ],
)
def test_any_change_changes_the_digest(change: Callable[[nn.Module], object]) -> None:
    torch.manual_seed(0)
    module = nn.Linear(4, 3)
    before = digest.of_module(module)
    change(module)
    assert digest.of_module(module) != before


def test_every_kind_of_tensor() -> None:
    """Scalars, empty tensors, integers, booleans, bfloat16 and views that are not contiguous."""
    module = nn.Module()
    for i, tensor in enumerate(
        [
            torch.tensor(1.5),
            torch.zeros(0, 3),
            torch.arange(3),
            torch.tensor([True, False]),
            torch.ones(2, dtype=torch.bfloat16),
            torch.arange(6.0).reshape(2, 3).T,
        ]
    ):
        module.register_buffer(f"b{i}", tensor)
    first = digest.of_module(module)
    module.b5 = torch.arange(6.0).reshape(2, 3).T.contiguous()
    assert digest.of_module(module) == first, "how it lies in memory does not matter"
    module.b0 = torch.tensor(1.25)
    assert digest.of_module(module) != first


def test_files(tmp_path: Path) -> None:
    assert digest.of_files(tmp_path) is None
    (tmp_path / "a.safetensors").write_bytes(b"one")
    (tmp_path / "b.safetensors").write_bytes(b"two")
    both = digest.of_files(tmp_path)
    assert both != digest.of_files(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").rename(tmp_path / "c.safetensors")
    assert digest.of_files(tmp_path) != both, "names belong to it"


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    """Cached by path, size and time of change: here only the time differs."""
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"one")
    first = digest.of_files(file)
    file.write_bytes(b"two")
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert digest.of_files(file) != first


def test_a_models_digest_follows_its_weights(seed: int) -> None:
    model = load(tiny.llama(seed), check=False)
    before = model.digest
    assert model.digest == before
    with torch.no_grad():
        model.module.lm_head.weight.mul_(2)
    assert model.digest != before
    with torch.no_grad():
        model.module.lm_head.weight.div_(2)
    assert model.digest == before
