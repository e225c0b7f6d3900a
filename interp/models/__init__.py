"""Models: a module, its tokenizer, and the map from sites to its tensors."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from interp.models.encoding import Bos, Encoded, Tokens
from interp.models.loading import load
from interp.models.model import Backend, Model, Probe, TorchHooks
from interp.models.places import Places

__all__ = ["Backend", "Bos", "Encoded", "Model", "Places", "Probe", "Tokens", "TorchHooks", "load"]


def __getattr__(name: str) -> Any:
    """``interp.models.zoo`` without an import of its own, which would slow every other use."""
    if name == "zoo":
        return import_module("interp.models.zoo")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
