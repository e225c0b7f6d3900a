"""Runs are left once nothing more of them is read; what is read is what the whole run would have given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sweeps
import torch

from interp.engine import patch
from interp.interventions import Activation, Change, Rotation
from interp.models import Model
from interp.models.suffix import recorded, recording
from interp.sites import Site, grid
from interp.training import fit

KINDS = sorted(sweeps.MAKERS)


def entered(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The blocks that whole forward passes enter, with repeats."""
    module: Any = model.module
    seen: list[int] = []
    for number, block in enumerate(module.get_submodule(model.anatomy.blocks)):

        def counted(*args: Any, number: int = number, forward: Any = block.forward, **kwargs: Any) -> Any:
            seen.append(number)
            return forward(*args, **kwargs)

        monkeypatch.setattr(block, "forward", counted)
    return seen


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keeping", [False, True])
def test_what_was_seen_is_what_a_whole_pass_gives(kind: str, keeping: bool, seed: int) -> None:
    model = sweeps.model(kind)
    tokens = model.encode(sweeps.random_pairs(seed, [6, 5, 7])).clean
    roles = [site for site in model.sites() if site.name not in ("logits", "result")]
    paths = [Site("output", path=path) for path in (*model.anatomy.attention.values(), *model.anatomy.mlp.values())]
    every = [*roles, *paths]
    with torch.no_grad(), model.prepared(every):
        whole = model.backend.run(model.inputs(tokens), reads=every, writes={})
        for site in every:
            inputs: dict[str, Any] = model.inputs(tokens)
            if keeping:
                cache = recording()
                inputs |= {"past_key_values": cache, "use_cache": True}
            with model.leaving([site], keeping=keeping):
                found = model.backend.run(inputs, reads=[site], writes={})
            torch.testing.assert_close(found[site], whole[site], rtol=0, atol=2e-5)
            assert not keeping or len(recorded(cache)) == model.sizes["layer"]


@pytest.mark.parametrize(
    ("site", "keeping", "last", "leaves"),
    [
        ("L0.resid_pre", False, -1, True),
        ("L0.z", False, 0, True),
        ("L1.resid_post", False, 1, True),
        ("L1.resid_pre", False, 0, True),
        ("L2.resid_pre", False, 1, True),
        ("L2.mlp_out", False, 2, False),
        ("L1.resid_post", True, 2, True),
        ("L2.z", True, 2, True),
        ("L2.mlp_out", True, 2, False),
        ("model.norm:output", False, 2, False),
        ("logits", False, 2, False),
    ],
)
def test_where_a_pass_is_left(site: str, keeping: bool, last: int, leaves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = sweeps.model("llama")
    seen = entered(model, monkeypatch)
    mlp: Any = model.module.model.layers[2].mlp  # type: ignore[union-attr]
    ended: list[int] = []
    handle = mlp.register_forward_hook(lambda *_: ended.append(1))
    read = Site.parse(site)
    with torch.no_grad(), model.leaving([read], keeping=keeping):
        model.backend.run(model.inputs(model.encode([(1, 2, 3)])), reads=[read], writes={})
    handle.remove()
    assert max(seen, default=-1) == last
    assert bool(ended) != leaves


def test_training_runs_no_block_behind_its_source(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One base run, one source run; the rotation is behind the first block of three."""
    model, pairs = sweeps.model("llama"), sweeps.random_pairs(seed, [6, 6])
    where = Change("L0.resid_post", -1, featurizer=Rotation(model.sizes["d_model"], 2, seed=seed))
    seen = entered(model, monkeypatch)
    monkeypatch.setattr(
        "interp.training.interventions._Training.step", lambda self, *_: (_ for _ in ()).throw(RuntimeError("filled"))
    )
    with pytest.raises(RuntimeError, match="filled"):
        fit(model, pairs, where)
    assert sorted(seen) == [0, 0, 1, 2], "the source run ends behind the first block, the base run keeps all keys and values"


@pytest.mark.parametrize("strategy", ["serial", "wavefront"])
def test_other_prompts_are_run_as_far_as_they_are_read(strategy: Any, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 6])
    other = Activation((1, 2, 3, 4, 5, 6), positions=[2])
    expected = patch(model, pairs, grid("z", layer=[0, 1], position=-1), source=other, strategy=strategy)["value"]
    monkeypatch.setattr(Model, "leaving", lambda self, sites, keeping: torch.no_grad())
    found = patch(model, pairs, grid("z", layer=[0, 1], position=-1), source=other, strategy=strategy)["value"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
