"""What a model proves when it is loaded: its sites, how its prompts are padded, and whether its blocks run one by one.

>>> proved(Model(module), check=True).probe                                              # doctest: +SKIP
Probe(causal=True, checked=36, worst=2.4e-07)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress

import torch

from interp.errors import LoadError
from interp.models import beside
from interp.models.examples import BATCH
from interp.models.hooks import eager_attention, evaluating, shaped_experts
from interp.models.model import Model, TorchHooks
from interp.models.padding import padded
from interp.models.probe import settle, tolerance
from interp.models.stack_probe import prove
from interp.models.twin import anatomy, twin
from interp.sites import Site


def proved(model: Model, check: bool, at: Callable[[str], object] = lambda step: None) -> Model:
    """The model, after the probe run; a network without blocks has no roles to prove.

    Args:
        at: called with what is tried next.

    Raises:
        ProbeError: the stream between blocks cannot be written.
    """
    hooked = isinstance(model.backend, TorchHooks)
    if not hooked:
        model.stack_refused = f"its backend {type(model.backend).__name__} runs whole forward passes only"
        model.beside_refused = f"its backend {type(model.backend).__name__} runs eager attention"
    if not check:
        return model
    if model.device.type == "meta":
        model.stack_refused = "its weights are on the meta device"
        if model.example:
            _prove_twin(model)
        return model
    if model.peer.device is not None:  # the weights are elsewhere
        return model
    if hooked and not model.anatomy.main.blocks:
        model.stack_refused = "it has no main stack of blocks"
    if model.example:
        at("proving sites")
        model.probe = settle(model)
        at("trying padding")
        model.reading = padded(model)
        _apart(model)
        if hooked:
            at("trying attention")
            model.beside_refused = beside.refused(model)
    if hooked and model.anatomy.main.blocks:
        at("trying blocks one by one")
        with model.prepared():
            given = model.arguments - (set() if model.reading.numbered else {"position_ids"})
            model.stack, model.stack_refused = prove(model.module, model.anatomy, given)
    return model


def _prove_twin(model: Model) -> None:
    """Take the sites of a small twin; of a class that cannot be built smaller, structure proposes and nothing proves."""
    with suppress(LoadError), evaluating(model.module), eager_attention(model.module), shaped_experts(model.module):
        model.anatomy = anatomy(model.module, twin(model.module), model.example)


def _apart(model: Model) -> None:
    """Say so where an example's numbers depend on the other examples of a batch."""
    blocks = model.anatomy.main.blocks
    if not blocks:
        return
    end = Site("resid_post", layer=len(blocks) - 1)
    alone = {name: tensor.chunk(BATCH)[0] for name, tensor in model.example.items()}
    with torch.no_grad(), model.prepared():
        whole, one = (model.backend.run(given, [end], {})[end].float() for given in (model.example, alone))
    deviation = float((whole[:1] - one).abs().max()) / max(1e-6, float(whole.abs().max()))
    if deviation > tolerance(model):
        warnings.warn(
            f"{model.name}: an example's numbers depend on the others in its batch, by {deviation:.1e} of the largest, as they "
            "do where activations are quantised by their range; strategies differ by as much",
            RuntimeWarning,
            stacklevel=4,
        )
