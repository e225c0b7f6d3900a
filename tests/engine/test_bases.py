"""Fitted, composed, shared and learned bases in sweeps: every strategy gives what the first one gives."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import sweeps
import torch

from interp.engine import patch
from interp.interventions import (
    Change,
    Columns,
    Composed,
    Fitted,
    Intervention,
    Joint,
    RevNet,
    Rotation,
    Select,
    SparseAutoencoder,
    pca,
    random_subspace,
)


def bases(width: int, heads: int, seed: int) -> dict[str, Intervention]:
    draw = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    fitted: Fitted = pca(drawn(60, width), 6)
    shared = Rotation(width, 4, seed=seed)
    sae = SparseAutoencoder(
        drawn(width, 40), drawn(40), drawn(40, width), drawn(width), activation="topk", k=5, normalize="norm"
    )
    of_heads = Joint("(b t) h d -> (b t) (h d)", heads=range(heads), of=heads, inner=random_subspace(width, 3, seed))
    first, second = (Change("L0.resid_post", -1, featurizer=Columns(shared, *part)) for part in ((0, 2), (2, 4)))
    return {
        "fitted": Intervention.of("L0.resid_post@end", featurizer=fitted),
        "composed": Intervention.of("L1.resid_pre@end", featurizer=Composed(fitted, Rotation(6, 2, seed=seed))),
        "parts": Intervention((first,)).then(Intervention((second,))),
        "whole": Intervention((Change("L0.resid_post", -1, featurizer=shared),)),
        "dictionary": Intervention.of("L0.resid_post@end", featurizer=sae, edit=Select(torch.arange(41) < 20)),
        "revnet": Intervention.of(
            "L1.mlp_out@end", featurizer=RevNet(width, 2, seed=seed), edit=Select(torch.arange(width) < 4)
        ),
        "heads": Intervention.of("L1.z@end", featurizer=of_heads),
    }


@pytest.mark.parametrize("strategy", ["batched", "wavefront"])
def test_strategies_agree_and_parts_are_the_whole(strategy: Any, seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 6, 6])
    named = bases(model.sizes["d_model"], model.sizes["head"], seed)
    expected = patch(model, pairs, list(named.values()), strategy="serial")["value"].values
    found = patch(model, pairs, list(named.values()), strategy=strategy)["value"].values
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    (cells,) = expected
    rows = dict(zip(named, cells, strict=True))
    np.testing.assert_allclose(rows["parts"], rows["whole"], rtol=0, atol=1e-5)
    others = [row for name, row in rows.items() if name != "parts"]
    assert all(np.abs(one - two).max() > 1e-4 for one, two in itertools.combinations(others, 2))
