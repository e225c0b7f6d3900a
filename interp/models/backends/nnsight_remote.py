"""A model on the NDIF service: its structure here, its weights there, one request a forward pass.

    >>> model = load("meta-llama/Llama-3.1-70B", backend="nnsight", remote=True)               # doctest: +SKIP
    >>> patch(model, pairs, grid("resid_post", layer=range(0, 80, 8), position=-1))            # doctest: +SKIP

What travels: the block of :mod:`interp.models.backends.nnsight_program`, every function of this package and of yours that a
change needs, as source, tensors, and token ids. What comes back: the tensors that were read, on the CPU, without gradients.

Sites are found and proven on a small twin (:mod:`interp.models.twin`), because a probe run there would be some
hundred requests; ``interp.models.probe.probe(model)`` makes it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pickle import PicklingError
from typing import Any

import torch
from nnsight import CONFIG, TransformersModel, register
from nnsight.intervention.backends.remote import RemoteBackend
from nnsight.intervention.backends.remote import RemoteError as Refused
from nnsight.intervention.source import STATE
from torch import Tensor, nn
from websocket import WebSocketException

from interp import errors
from interp.errors import GradientError, LoadError, RemoteError, SiteNotFiredError, UnknownNameError
from interp.models.backends.nnsight import decoded, places
from interp.models.backends.nnsight_program import traced
from interp.models.encoding import Bos
from interp.models.hooks import Hooks
from interp.models.model import Model, Peer
from interp.models.taps import Reads, Write
from interp.models.twin import anatomy, twin
from interp.protocols import Tokenizer
from interp.sites import Site

Runner = Callable[[], Any]
"""Makes what sends one request and waits for its answer, with nnsight's own classes."""


def remote(
    name: str,
    tokenizer: Tokenizer,
    label: str,
    bos: Bos,
    example: Mapping[str, Tensor] | None,
    options: Mapping[str, Any],
    runner: Runner | None = None,
) -> Model:
    """A model that runs on the service.

    Args:
        name: its id on the Hugging Face hub.
        label: what results call it.
        options: of nnsight's ``TransformersModel``: ``dtype``, ``revision``, ``trust_remote_code``, …
        runner: another way to the service than nnsight's own.

    Raises:
        LoadError: no API key, the hub cannot be reached, or it has no such model.
    """
    if runner is None and not CONFIG.API.APIKEY:
        raise LoadError(
            f"remote=True needs an API key of the service at {CONFIG.API.HOST}: set NDIF_API_KEY, or call "
            "nnsight.CONFIG.set_default_api_key(key)"
        )
    try:
        # The tokenizer is copied because nnsight changes its padding.
        root = TransformersModel(name, task="text-generation", tokenizer=copy.deepcopy(tokenizer), **options)
        key = None if runner is not None else root.to_model_key()
    except Exception as error:  # the hub's, transformers' and httpx' own classes have nothing in common
        reason = str(error).strip().split("\n")[0][:300]
        raise LoadError(f"{name!r} cannot be had for the NDIF service ({type(error).__name__}: {reason})") from error
    for part in root._module.modules():  # nnsight's forwards, which nothing calls here and which hide what a forward takes
        part.__dict__.pop("forward", None)
        part.__dict__.pop(STATE, None)
    send = runner or (lambda: RemoteBackend(key))
    small = twin(root._module)
    peer = Peer(
        lambda model: NDIF(model, root, send),
        anatomy=lambda inputs: anatomy(root._module, small, {name: tensor.to("meta") for name, tensor in inputs.items()}),
        device=torch.device("cpu"),
    )
    known: dict[str, Any] = {"name": label, "revision": options.get("revision"), "example": example or small.example}
    model = Model(root._module, tokenizer, **known, bos=bos, peer=peer)
    model.probe = small.probe
    return model


class NDIF:
    """Runs a model on the service, a request a pass."""

    def __init__(self, model: Model, root: Any, runner: Runner) -> None:
        self.model, self.root, self.runner = model, root, runner
        register("interp")  # its functions travel as source: the service does not have this package
        self._by_module = {id(envoy._module): envoy for envoy in root.modules()}
        why = "which attention implementation runs is the service's choice, and fused ones have no pattern"
        inside = [site for site, tap in model.anatomy.taps.items() if tap.event in ("scores", "pattern")]
        model.anatomy = model.anatomy.without(dict.fromkeys(inside, why))

    def run(self, inputs: Mapping[str, Tensor], reads: Reads, writes: Mapping[Site, Write]) -> dict[Site, Tensor]:
        if torch.is_grad_enabled():
            raise GradientError("what comes back from the NDIF service has no gradients; run it inside torch.no_grad()")
        taps = {site: self.model.anatomy.tap(site) for site in (*reads, *writes)}
        visits = Hooks(nn.Identity(), taps, reads, {site: _brought(write) for site, write in writes.items()})
        try:
            kept = traced(self.root, inputs, places(visits, self._envoy), visits, self.runner())
        except Refused as error:
            raise _meant(error, self.model.name) from error
        except (OSError, WebSocketException) as error:
            raise RemoteError(f"the service cannot be reached at {CONFIG.API.HOST}: {_last_line(error)}") from error
        except (PicklingError, TypeError) as error:
            raise RemoteError(f"a change cannot travel to the service: {_last_line(error)}") from error
        return decoded(kept, visits.reads)

    def _envoy(self, path: str) -> Any:
        return self._by_module[id(self.model.module.get_submodule(path))]


def _brought(write: Write) -> Write:
    """The change made where its own tensors are: what it gives is sent back to the device by whoever writes it."""
    return lambda h: write(h.cpu())


def _meant(error: Refused, name: str) -> Exception:
    """The error that a pass here would have raised, where the traceback from the service ends with one of those."""
    line = _last_line(error)
    kind, _, text = line.partition(": ")
    if kind.endswith("OutOfOrderError"):
        return SiteNotFiredError(f"{text}; no number of this pass is returned")
    ours = getattr(errors, kind.removeprefix("interp.errors."), None) if kind.startswith("interp.errors.") else None
    if ours is not None and not issubclass(ours, UnknownNameError):
        return ours(text)
    return RemoteError(f"the service could not run {name}: {line}")


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().split("\n") if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
