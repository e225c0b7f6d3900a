"""What a shard keeps for its rows stays small, however many columns they start at."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sweeps

from interp.engine import patch
from interp.engine.shard import Shard
from interp.interventions import Constant
from interp.sites import grid


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bloom"])
def test_arguments_of_the_columns_used_last_are_kept(kind: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = sweeps.model(kind), sweeps.random_pairs(seed, [40] * 4)
    shards: dict[int, Shard] = {}
    of = Shard.arguments

    def spy(self: Shard, start: int) -> Any:
        shards[id(self)] = self
        return of(self, start)

    def swept(**options: Any) -> Any:
        shards.clear()
        where = grid("resid_pre", layer=..., position=range(40))
        found = patch(model, pairs, where, source=Constant(0.5), **options)["value"]
        return found, max(len(shard._arguments) for shard in shards.values())

    monkeypatch.setattr(Shard, "arguments", spy)
    monkeypatch.setattr("interp.engine.wavefront._OVERHEAD", {"cpu": 0, "cuda": 0})  # every column its own pass
    everything, kept = swept()
    assert kept == 40
    one = max(a.bytes for shard in shards.values() for a in shard._arguments.values())
    monkeypatch.setattr("interp.engine.shard.SHARE", 1)
    monkeypatch.setattr("interp.engine.shard.memory", lambda model: 5 * one)
    few, kept = swept()
    assert 2 <= kept < 25, "the early columns take more than the late ones"
    np.testing.assert_array_equal(few, everything)
    monkeypatch.setattr("interp.engine.shard.memory", lambda model: 0)
    assert swept()[1] == 2, "a column and the one that is read"
