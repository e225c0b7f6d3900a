"""What a module computes with beside its weights: its configuration, and the attributes, tables and code of its parts.

    >>> settings = Settings(module)                                                          # doctest: +SKIP
    >>> module(**inputs); settings.settle()    # what a forward pass writes is no setting      # doctest: +SKIP
    >>> module.model.layers[0].self_attn.scaling = 0.1                                       # doctest: +SKIP
    >>> "model.layers.0.self_attn.scaling" in settings.changed()                             # doctest: +SKIP
    True

Numbers, texts and functions that somebody set on a part count, buffers that no file holds, which class a part is, and the code
of classes of the user's own, of functions that were put into others, and of attention that transformers was told of.
Configurations count by what differs from their class's defaults.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Hashable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from interp.models.digest import absorb, quick
from interp.own_code import code_of, in_writing, installed

_ASIDE = {
    *vars(nn.Module()),
    *("forward", "_old_forward", "_hf_hook", "hf_device_map", "_is_hf_initialized", "name_or_path", "warnings_issued"),
    "_internal_dict",  # the configuration, in diffusers
}
"""Attributes that say nothing of what is computed; a forward is looked at by :func:`interp.models.hooks.hooked`."""
_PLACING = ("transformers_version", "architectures", "dtype", "torch_dtype", "use_cache")
_PLACING_FROM = ("_", "output_", "return_", "attn_implementation", "experts_implementation")
"""What a configuration says of how it was saved and how it is run; the dtype is known otherwise."""
_MOVING = ("dynamic", "longrope")
"""Rotary embeddings whose tables follow the lengths of prompts."""
_SAID = " in words"
_REMOTE = "transformers_modules."
"""Where transformers puts the code of a repository."""


class Settings:
    """What a module holds beside its weights: as it was made, and as it is now."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._first: dict[str, Any] = {name: _seen(value) for name, value in _held(module)}
        self._written: set[str] = set()
        self._loaded: Mapping[str, Hashable] = {}

    def settle(self) -> None:
        """Leave out what a forward pass wrote meanwhile, and take what is there now for what was loaded."""
        now = {name: _seen(value) for name, value in _held(self._module)}
        self._written = {name for name, seen in now.items() if not _same(seen, self._first.get(name))}
        self._first, self._loaded = {}, self.state()

    def state(self) -> dict[str, Hashable]:
        """All there is by name; tensors by a number that is made quickly."""
        held = {name: _quick(value) for name, value in _held(self._module) if name not in self._written}
        return held | {f"{name}{_SAID}": text for name, text in _configured(self._module)}

    def changed(self, *, live: bool = False) -> dict[str, str]:
        """What is not as it was loaded, of a live module all there is, and what is not in the files of its weights."""
        now, before = self.state(), {} if live else self._loaded
        found = {name: str(told) for name, told in now.items() if name.endswith(_SAID)}
        found |= {name: "gone" for name in before if name not in now}
        for name, value in _held(self._module):
            if name in now and (before.get(name, ()) != now[name] or (isinstance(value, type) and not installed(value))):
                found[name] = _sha256(value) if isinstance(value, Tensor) else str(now[name])
        return found


def unwritten(module: nn.Module) -> str:
    """What a module computes with and has no written form; empty where there is no such thing."""
    rest = ((name, value) for name, value in _held(module) if not isinstance(value, Tensor))  # a tensor always has one
    return next((f"{name} of the model has no written form" for name, value in rest if _quick(value) is None), "")


def _held(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """What is looked at, by name: the class of every part, each class once, attributes, and buffers that are not saved."""
    kinds: dict[type, None] = {}
    for path, part in module.named_modules():
        kind, at = type(part), f"{path}." if path else ""
        kinds[kind] = None
        yield f"{at}class", f"{kind.__module__}.{kind.__qualname__}"
        for name, value in vars(part).items():
            if name not in _ASIDE and not _is_config(value) and (_counts(value) or not installed(kind)):
                yield f"{at}{name}", value
        if not any(word in str(getattr(part, "rope_type", "")) for word in _MOVING):
            unsaved = {name: part._buffers.get(name) for name in sorted(part._non_persistent_buffers_set)}
            yield from ((f"{at}{name}", value) for name, value in unsaved.items() if value is not None)
    yield from ((f"{kind.__module__}.{kind.__qualname__}", kind) for kind in kinds)
    yield from _attending(module)


def _counts(value: Any) -> bool:
    """Whether an attribute of a part of an installed class counts: not such objects of packages as have no written form."""
    if isinstance(value, Tensor) or in_writing(value) is not None:
        return True
    if isinstance(value, partial):
        return _counts(value.func)
    return not installed(value) if _is_function(value) else not installed(type(value))


def _quick(value: Any) -> Hashable:
    """Another one for another value; None of what has no written form."""
    if isinstance(value, Tensor):
        return str(tuple(value.shape)), str(value.dtype), quick([value])
    return _code(value) if isinstance(value, type) else in_writing(value)


def _code(kind: type) -> str | None:
    """What is the user's own of a class: its code, or the functions that were put into it or into the module it is from."""
    if kind.__module__.startswith(_REMOTE):
        file = getattr(sys.modules.get(kind.__module__), "__file__", None)
        return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()
    if not installed(kind):
        return code_of(kind)
    places = [*kind.__mro__, sys.modules.get(kind.__module__)]
    every = [(name, one) for place in places for name, one in getattr(place, "__dict__", {}).items()]
    return in_writing([[name, one] for name, one in every if isinstance(one, FunctionType) and not installed(one)])


def _attending(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Attention of the user's own, by the name under which transformers was told of it."""
    known = getattr(sys.modules.get("transformers.modeling_utils"), "ALL_ATTENTION_FUNCTIONS", {})
    named = (getattr(getattr(part, "config", None), "_attn_implementation", None) for part in module.modules())
    for name in sorted({one for one in named if isinstance(one, str)}):
        if name in known and _is_function(known[name]) and not installed(known[name]):
            yield f"attention {name}", known[name]


def _is_function(value: Any) -> bool:
    return isinstance(value, FunctionType | MethodType)


def _seen(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value, 0 if value.is_inference() else value._version
    return _quick(value)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return one[0] is other[0] and one[1] == other[1]
    return bool(type(one) is type(other) and one == other)


def _sha256(tensor: Tensor) -> str:
    total = hashlib.sha256()
    absorb(total, "", tensor)
    return total.hexdigest()


def _is_config(value: Any) -> bool:
    return hasattr(value, "to_diff_dict")


def _configured(module: nn.Module) -> Iterator[tuple[str, str]]:
    """What the configurations in a module say, each once."""
    known: set[int] = set()
    for path, part in module.named_modules():
        config: Any = getattr(part, "config", None)
        if id(config) not in known and (_is_config(config) or isinstance(config, Mapping)):
            known.add(id(config))
            said = _said(config.to_diff_dict() if _is_config(config) else dict(config))
            yield f"{path}.config".lstrip("."), json.dumps(said, sort_keys=True, default=str)


def _said(config: Any) -> Any:
    if isinstance(config, Mapping):
        kept = {str(key): one for key, one in config.items() if str(key) not in _PLACING}
        return {key: _said(one) for key, one in kept.items() if not key.startswith(_PLACING_FROM)}
    return config
