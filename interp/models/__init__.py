"""Models: a module, its tokenizer, and the map from sites to its tensors."""

from __future__ import annotations

from interp.models.encoding import Bos, Encoded, Tokens
from interp.models.loading import load
from interp.models.model import Backend, Model, Probe, TorchHooks
from interp.models.places import Places

__all__ = ["Backend", "Bos", "Encoded", "Model", "Places", "Probe", "Tokens", "TorchHooks", "load"]
