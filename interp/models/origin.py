"""What a model was loaded from, as data, so that it can be loaded again.

    >>> interp.load("zoo/language-4l", dtype="float64").origin                               # doctest: +SKIP
    Origin(arguments={'model': 'zoo/language-4l', 'name': 'zoo/language-4l', 'dtype': 'float64'}, why_not='')

Loading again runs no code but this library's own. What was loaded in a way that runs other code, or could – a repository's own,
a pickle's, a kernel's from the hub, a service's – is not loaded again without being asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_DEFAULTS: dict[str, Any] = {"dtype": "auto", "bos": "model", "check": True, "trust_remote_code": False}
_DEFAULTS |= {"allow_pickle": False, "remote": False}
_WITHOUT = ("token", "proxies", "cache_dir", "force_download", "local_files_only")
"""Where and how files are fetched, which is no part of what is loaded; a token is nobody else's."""
_DATA = (
    *("model", "tokenizer", "name", "dtype", "revision", "bos", "check", "example", "axes", "backend"),
    *("subfolder", "variant", "device_map", "attn_implementation"),
)
"""What is given again. Everything else is a live object, or may run code."""


@dataclass(frozen=True)
class Origin:
    """The arguments of the call of :func:`interp.load` that gave a model."""

    arguments: Mapping[str, Any]
    """Those that are not their defaults, without the device; a folder by its full path, ``~`` standing for the user's own."""
    why_not: str = ""
    """Why it cannot be called again; empty where it can."""

    @classmethod
    def of(cls, model: str | os.PathLike[str], arguments: Mapping[str, Any]) -> Origin:
        """Of a model that was loaded from somewhere."""
        given = {"model": _where(model)} | {key: one for key, one in arguments.items() if key not in _WITHOUT}
        if isinstance(given.get("tokenizer"), str | os.PathLike):
            given["tokenizer"] = _where(given["tokenizer"])
        said = {key: one for key, one in given.items() if one is not None and not (key in _DEFAULTS and one == _DEFAULTS[key])}
        return cls(said, why_not(said))


LIVE = Origin({}, "a live object was given, not a name")


def why_not(arguments: Mapping[str, Any]) -> str:
    """Why ``load`` is not called with these without being asked for; empty where it can be."""
    strange = [f"{key}={arguments[key]!r}" for key in arguments if key not in _DATA]
    strange += [f"{key} of type {type(one).__name__}" for key in ("model", "tokenizer") if _is_live(one := arguments.get(key))]
    if "/" in str(arguments.get("attn_implementation", "")):
        strange.append(f"attn_implementation={arguments['attn_implementation']!r}")
    return f"it was loaded with {', '.join(strange)}"[:300] if strange else ""


def _is_live(one: Any) -> bool:
    return one is not None and not isinstance(one, str)


def _where(model: str | os.PathLike[str]) -> str:
    """A folder or file from anywhere; a name as it is."""
    text = os.fspath(model)
    path = Path(text).expanduser()
    if text.startswith("zoo/") or not path.exists():
        return text
    full, home = path.absolute(), Path.home()
    return f"~/{full.relative_to(home).as_posix()}" if full.is_relative_to(home) else str(full)
