"""Projections that are not run where all they give is written over, and what heads leave out, each once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import sweeps
import torch

from interp.circuits import Circuit
from interp.engine import patch_circuits
from interp.engine.graph.edges import graph
from interp.engine.graph.mixed import _distinct
from interp.engine.graph.slots import projections, slots, spared
from interp.models import load


@pytest.mark.parametrize(
    ("kind", "written", "names"),
    [
        ("llama", "qkv", ["q_proj", "k_proj", "v_proj"]),
        ("llama", "k", ["k_proj"]),
        ("gpt2", "qkv", ["c_attn"]),
        ("gpt2", "qk", []),  # of a map that holds all three, values are still wanted
        ("neox", "qkv", ["query_key_value"]),
    ],
)
def test_maps_that_are_written_over_are_not_run(kind: str, written: str, names: list[str]) -> None:
    model = load(sweeps.MAKERS[kind](0), name=kind)
    known, called = slots(model, graph(model)), {module: name for name, module in model.module.named_modules()}
    own = [known[site] for site in projections(graph(model), 1) if site.name in written]
    found = spared(model, own)
    assert [called[module].rsplit(".", 1)[1] for module in found] == names
    for module, instead in found.items():
        x = torch.randn(2, 3, model.sizes["d_model"])
        assert instead(x).shape == module(x).shape
        handle = module.register_forward_hook(lambda *given: None)
        assert module not in spared(model, own), "a hook of somebody's own is run on what the map gives"
        handle.remove()


def test_no_projection_is_run_in_vain_and_circuits_are_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = load(sweeps.MAKERS["llama"](seed).double(), name="llama"), sweeps.random_pairs(seed, [9, 9])
    shape = graph(model)
    kept = np.random.default_rng(seed).random(len(shape)) < 0.5
    circuits = [Circuit(shape, kept), Circuit(shape, ~kept)]
    ran, plain = Counter[torch.nn.Module](), torch.nn.Linear.forward
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda self, x: (ran.update([self]), plain(self, x))[1])
    queries = [model.module.get_submodule(path + ".q_proj") for path in model.anatomy.attention.values()]
    fast = patch_circuits(model, pairs, circuits, progress=False)
    spare = sum(ran[one] for one in queries)
    monkeypatch.setattr("interp.engine.graph.mixed.spared", lambda model, written: {})
    ran.clear()
    slow = patch_circuits(model, pairs, circuits, progress=False)
    assert spare < sum(ran[one] for one in queries)
    np.testing.assert_array_equal(fast["value"], slow["value"])


def test_what_receivers_leave_out_is_found_once(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    out = torch.randint(0, 2, (7, 3, 2, 2), generator=draw).float()
    once, whose, where = _distinct(out)
    assert len(once) == sum(len(out[:, receiver].flatten(1).unique(dim=0)) for receiver in range(3))
    assert torch.equal(once[where][:, :, 0], out)
    assert torch.equal(whose[where], torch.arange(3).expand(7, 3))
