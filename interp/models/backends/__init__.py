"""Backends: which library runs a model's forward passes.

    >>> load("gpt2", backend="transformer_lens")                                             # doctest: +SKIP
    >>> load(bridge)                       # a live TransformerBridge chooses its backend itself   # doctest: +SKIP
    >>> load("meta-llama/Llama-3.1-70B", backend="nnsight", remote=True)                      # doctest: +SKIP

A peer is imported when it is chosen, and not before: importing nnsight changes the whole process.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from interp.errors import LoadError, UnknownNameError
from interp.models.model import Model, Peer
from interp.protocols import Tokenizer

TORCH, LENS, NNSIGHT = "torch", "transformer_lens", "nnsight"
BACKENDS = (TORCH, LENS, NNSIGHT)


def choose(model: object, backend: str | None, remote: bool) -> str:
    """The backend's name: as asked, or a live bridge's own, or torch hooks.

    Raises:
        UnknownNameError: no such backend, with the near matches.
        LoadError: it does not fit the model.
    """
    if backend is not None and backend not in BACKENDS:
        raise UnknownNameError("backend", backend, BACKENDS)
    if remote and backend != NNSIGHT:
        raise LoadError(f"remote=True runs through nnsight, so it needs backend='nnsight' (backend={backend!r})")
    if remote and isinstance(model, nn.Module):
        raise LoadError("remote=True needs the model's id on the Hugging Face hub, but a live module was given")
    if not _is_bridge(model):
        return backend or TORCH
    if backend not in (None, LENS):
        raise LoadError(f"a TransformerBridge runs through TransformerLens, but backend={backend!r} was given")
    return LENS


def wrapped(backend: str, module: nn.Module, tokenizer: Tokenizer | None, *, live: bool) -> tuple[nn.Module, Peer | None]:
    """The module through which a backend runs a model, and what :class:`Model` needs to know of the backend.

    Args:
        live: the module is the user's own and stays as it is.
    """
    if backend == LENS:
        from interp.models.backends import transformer_lens as lens

        bridge = module if _is_bridge(module) else lens.boot(module, tokenizer, copied=live)
        return bridge, lens.peer(bridge)
    if backend == NNSIGHT:
        from interp.models.backends import nnsight as traces

        return module, traces.peer()
    return module, None


def remote(*known: Any) -> Model:
    """A model on the NDIF service."""
    from interp.models.backends import nnsight_remote

    return nnsight_remote.remote(*known)


def tokenizer_of(module: object) -> Any:
    """The tokenizer that a live model brings along: a bridge has one."""
    return getattr(module, "tokenizer", None) if _is_bridge(module) else None


def _is_bridge(model: object) -> bool:
    return any(kind.__module__.startswith("transformer_lens.") for kind in type(model).__mro__)


__all__ = ["BACKENDS", "Model", "choose", "tokenizer_of", "wrapped"]
