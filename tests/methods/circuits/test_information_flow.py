"""Shares of what readers see, against the formula on tensors that are cached one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sweeps
import torch
from einops import einsum

import interp
from interp import axes
from interp.circuits import strongest
from interp.engine.graph.edges import graph
from interp.errors import UnknownNameError
from interp.interventions import Activation, Constant, mean
from interp.sites import Site


def by_hand(model: interp.Model, ids: list[int], others: list[list[int]], *, pooled: bool = False) -> np.ndarray[Any, Any]:
    """``[edge]``, of a GPT-2 or a Llama: heads by W_O, streams by sums of what was said and biases.

    Args:
        others: prompts, the mean of which is seen in the place of a writer; of none of them, nothing.
        pooled: whether that mean is over positions too.
    """
    shape = graph(model)
    sites = [Site("resid_pre", layer=0)]
    for layer in range(len(shape.blocks)):
        sites += [Site(name, layer=layer) for name in ("z", "mlp_out", "resid_pre", "resid_mid", "resid_post")]

    def said(ids: list[int]) -> tuple[list[torch.Tensor], dict[Site, torch.Tensor]]:
        with torch.no_grad(), model.prepared():
            read = model.backend.run(model.inputs(model.encode([tuple(ids)])), reads=sites, writes={})
        found = {site: read[site][0] for site in sites}
        writers = [found[Site("resid_pre", layer=0)]]
        for layer in range(len(shape.blocks)):
            linear = model.module.get_submodule(model.anatomy.w_o[layer])
            weight = linear.weight if "Conv1D" in type(linear).__name__ else linear.weight.T
            z = found[Site("z", layer=layer)]
            each = einsum(z, weight.detach().reshape(z.shape[1], z.shape[2], -1), "p h d, h d m -> h p m")
            writers += [*each, found[Site("mlp_out", layer=layer)]]
        return writers, found

    own, found = said(ids)
    read = [torch.stack(of) for of in zip(*(said(other)[0] for other in others), strict=True)]
    theirs = [one.mean(0) for one in read] if others else [torch.zeros_like(one) for one in own]
    theirs = [one.mean(0, keepdim=True).expand_as(one) for one in theirs] if pooled else theirs
    shares = []
    for number, receiver in enumerate(shape.receivers):
        layer = receiver.layer
        if layer is None:
            stream = found[Site("resid_post", layer=len(shape.blocks) - 1)][-1:]
        else:
            stream = found[Site("resid_mid" if receiver.name == "mlp_pre" else "resid_pre", layer=layer)]
        at = slice(-1, None) if layer is None else slice(None)
        nearer = [
            (stream.norm(1, -1) - (stream - (a - b)[at]).norm(1, -1)).clamp(min=0)
            for a, b in zip(own[: shape.before[number]], theirs[: shape.before[number]], strict=True)
        ]
        total = torch.stack(nearer).sum(0)
        shares += [float(torch.where(total > 0, one / total, 0).nan_to_num().mean()) for one in nearer]
    return np.array(shares)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("source", [None, Activation()])
def test_shares_are_those_of_the_formula(kind: str, source: Activation | None, seed: int) -> None:
    model, pairs = sweeps.model(kind, torch.float64), sweeps.random_pairs(seed, [6, 4])
    found = interp.information_flow(model, pairs, source=source)
    for example, pair in enumerate(pairs):
        others = [list(pair.corrupted.text)] if source is not None else []
        expected = by_hand(model, list(pair.clean.text), others)
        np.testing.assert_allclose(found["score"][:, example], expected, rtol=0, atol=1e-6 if kind == "llama" else 1e-9)


@pytest.mark.parametrize("pooled", [False, True], ids=["positional mean", "mean"])
def test_shares_beyond_a_mean(pooled: bool, seed: int) -> None:
    model, pairs = sweeps.model("gpt2", torch.float64), sweeps.random_pairs(seed, [6, 6, 6])
    source = mean("source", over=(axes.EXAMPLE, axes.POSITION)) if pooled else mean("source")
    found = interp.information_flow(model, pairs, source=source)
    others = [list(pair.corrupted.text) for pair in pairs]
    for example, pair in enumerate(pairs):
        expected = by_hand(model, list(pair.clean.text), others, pooled=pooled)
        np.testing.assert_allclose(found["score"][:, example], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", sorted(sweeps.MAKERS))
def test_shares_of_a_reader_add_up_to_one(kind: str, seed: int) -> None:
    model = sweeps.model(kind, torch.float32 if kind in ("gemma2", "bloom") else torch.float64)
    pairs, shape = sweeps.random_pairs(seed, [6, 4, 6]), graph(model)
    score = interp.information_flow(model, pairs)["score"].values
    assert score.shape == (len(shape), 3)
    for reader in range(len(shape.receivers)):
        np.testing.assert_allclose(score[shape.receiver == reader].sum(0), 1, atol=1e-6)
    assert (score >= 0).all()
    average = interp.information_flow(model, pairs, source=mean("source"))["score"].values
    assert float(abs(average - score).max()) > 1e-3


def test_shares_rank_edges_and_say_where_they_come_from(seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [5, 6])
    found = interp.information_flow(model, pairs, source=Constant(0.0))
    circuit = strongest(found, graph(model), 10)
    best = np.argsort(-found["score"].mean("example").values, kind="stable")[:10]
    assert set(np.flatnonzero(circuit.kept)) == set(best)
    assert circuit.origin["method"] == "information_flow"
    assert found["edge"].values.tolist() == [repr(edge) for edge in graph(model).edges]
    with pytest.raises(UnknownNameError, match="unknown patching"):
        sweeps.unchecked(interp.information_flow)(model, pairs, patching="clean")
