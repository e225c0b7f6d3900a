"""Where a model's weights are used: on one device, on several, or brought in from memory or disk when they are (accelerate).

>>> import torch
>>> devices(torch.nn.Linear(2, 2))
(device(type='cpu'),)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def devices(module: nn.Module) -> tuple[torch.device, ...]:
    """The devices on which weights are used, in the order of the network.

    Weights that accelerate has put away are on the meta device between calls, and count where they are brought in.
    """
    return tuple(dict.fromkeys(_used(module))) or (torch.device("cpu"),)


def first_device(module: nn.Module) -> torch.device:
    """The first of :func:`devices`, where inputs go, without a walk through the rest of the network."""
    return next(_used(module), torch.device("cpu"))


def weights(module: nn.Module) -> dict[str, Any]:
    """What a state dict holds by name, weights that are put away brought in."""
    found: dict[str, Any] = module.state_dict()
    stored: dict[str, Mapping[str, Tensor]] = {
        path: hook.weights_map for path, part in module.named_modules() for hook in _away(part)
    }
    for name, tensor in found.items():
        path, _, last = name.rpartition(".")
        if isinstance(tensor, Tensor) and tensor.is_meta and path in stored:
            found[name] = stored[path][last]
    return found


def _used(module: nn.Module) -> Iterator[torch.device]:
    """Where the weights of each module are used."""
    for part in module.modules():
        own = next(part.parameters(recurse=False), None)
        if own is not None:
            away = next(iter(_away(part)), None) if own.is_meta else None
            yield own.device if away is None or away.execution_device is None else torch.device(away.execution_device)


def _away(part: nn.Module) -> Iterator[Any]:
    """Accelerate's hooks of a module that bring in its weights when it is called."""
    hook: Any = getattr(part, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):  # several in a row, or one
        if getattr(one, "offload", False) and getattr(one, "weights_map", None) is not None:
            yield one
