"""Patching a real pretrained model with grouped-query attention: SmolLM2-135M-Instruct on indirect-object identification."""

from __future__ import annotations

import numpy as np
import pytest

import interp
from interp import effects


@pytest.mark.parametrize("strategy", ["serial", "batched"])
def test_the_residual_map_ends_where_the_answer_is_read(loaded_smollm2: interp.Model, strategy: str) -> None:
    """Two values follow from the architecture alone: the last residual at the last token is all that the logits read, and what
    lies before the first differing token is the same in both runs."""
    model = loaded_smollm2
    pairs = interp.tasks.ioi(2, seed=1, templates=[0], order="ABBA", tokenizer=model.tokenizer)
    where = interp.grid("resid_post", layer=[0, 29], position=...)
    run = interp.patch(model, pairs, where, strategy=strategy)
    recovery = effects.recovery(run).sel(metric="logit_diff")
    assert float(recovery.sel(layer=29).isel(position=-1)) == pytest.approx(1, abs=1e-4)
    differs = (run["clean_token"] != run["corrupted_token"]).any("example").values.argmax()
    assert differs > 5
    before = run["value"].isel(position=slice(0, differs)) - run["corrupt"]
    assert np.array_equal(before, np.zeros_like(before))
    assert run["by_rule"].isel(position=slice(0, differs)).all()
    assert not run["by_rule"].isel(position=slice(differs, None)).any()
