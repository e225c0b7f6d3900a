"""Which run is this: the digest of what was asked for, and the words that may name it.

>>> from interp.store import run_id
>>> run_id({"site": "z", "task": "ioi"}, engine_semantics=1)
'8d0f18e6fd71'
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

from interp.errors import StoreError

ID = re.compile(r"[0-9a-f]{12}\Z")
_NAME = re.compile(r"[^/\\\x00-\x1f]{1,100}\Z")
_SEAL = 65
"""A sha256 in hexadecimal digits and a line end."""


def canonical(value: Any) -> str:
    """JSON in one spelling: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256(data: bytes | str) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def seal(body: bytes) -> bytes:
    """Bytes behind their own checksum."""
    return f"{sha256(body)}\n".encode() + body


def unseal(data: bytes) -> bytes:
    """What was sealed.

    Raises:
        ValueError: the checksum does not hold.
    """
    body = data[_SEAL:]
    if data[:_SEAL] != f"{sha256(body)}\n".encode():
        raise ValueError("its checksum does not hold")
    return body


def run_id(spec: Any, engine_semantics: int) -> str:
    """First 12 hexadecimal digits of the sha256 of the spec and the engine's semantics; versions do not enter.

    Two different specs share an id with probability 2⁻⁴⁸; the store compares the specs and refuses then.
    """
    return sha256(canonical({"engine_semantics": engine_semantics, "spec": spec}))[:12]


def check_name(name: str, what: str = "name") -> str:
    """``name`` itself, or an error where it could reach outside the store or be taken for something else."""
    if not isinstance(name, str) or not _NAME.match(name) or ".." in name or name != name.strip() or name.startswith("."):
        raise StoreError(
            f"{what} {name!r} is refused: it may have 1 to 100 characters, without '/', '\\', '..', control characters, "
            "a leading dot or outer spaces"
        )
    return name


def check_tags(tags: Any) -> list[str]:
    """Tags as a list, each once; a text is one tag."""
    if not isinstance(tags, Iterable):
        raise StoreError(f"tags is {tags!r} of type {type(tags).__name__}; expected texts, such as tags=['paper', 'draft']")
    return list(dict.fromkeys(check_name(tag, "tag") for tag in ([tags] if isinstance(tags, str) else tags)))
