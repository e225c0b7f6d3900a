"""W_Q, W_K, W_V and W_O are those of every architecture: what they make of a recorded input is what the tap sees.

Expected numbers: the model's own tensors at q, k, v, z and behind W_O, in one forward pass.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from interp.doctor import architectures
from interp.models import Model
from interp.models.anatomy.record import record
from interp.models.layouts import Flat
from interp.models.weights.projections import output_map, projection
from interp.sites import Site

NONE = {"mamba", "resnet", "dcgan"}
"""No attention."""


def attentions(model: Model) -> list[Site]:
    return [site for site in model.sites() if site.name in ("q", "k", "v", "cross_q", "cross_k", "cross_v", "z", "cross_z")]


def recorded(model: Model, sites: list[Site]) -> tuple[dict[Site, Tensor], object]:
    with torch.no_grad(), model.prepared(sites):
        found = model.backend.run(model.example, reads=sites, writes={})
        paths = [model.taps(site).path for site in sites]
        return found, record(model.module, paths, (), lambda: model.module(**model.example))


@pytest.mark.parametrize("architecture", [name for name in architectures.available() if name not in NONE])
def test_projections_of_every_architecture(architecture: str) -> None:
    model = architectures.loaded(architecture)
    sites = attentions(model)
    assert {site.name for site in sites} >= ({"z"} if architecture == "qwen3-next" else {"q", "k", "v", "z"})
    found, seen = recorded(model, sites)
    for site in sites:
        tap = model.taps(site)
        taken = seen.input(tap.path)
        if isinstance(tap.layout, Flat):
            taken = taken.reshape(len(found[site]), -1, taken.shape[-1])
        if site.name.endswith("z"):
            out = output_map(model, site)
            got = torch.einsum("ephd,hdm->epm", found[site], out.weight) + (0 if out.bias is None else out.bias)
            expected = seen.output(tap.path).reshape(got.shape)
        else:
            own = projection(model, site)
            got = torch.einsum("epd,hdk->ephk", taken, own.weight) + (0 if own.bias is None else own.bias)
            expected = found[site]
        assert got.shape == expected.shape, site
        deviation = float((got - expected).abs().max())
        assert deviation <= 1e-5 * (1 + float(expected.abs().max())), (site, deviation)


def test_what_is_returned_is_a_copy() -> None:
    model = architectures.loaded("llama")
    before = model.digest
    own = projection(model, Site("q", layer=0))
    own.weight.zero_()
    output_map(model, Site("z", layer=0)).weight.zero_()
    assert model.digest == before
    assert not own.weight.requires_grad
