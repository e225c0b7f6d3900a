"""Interventions as safetensors files: what was trained, kept beside a run or anywhere, and made again in full.

    >>> das = Intervention.of("L9.resid_post@END", featurizer=Rotation(768, 16))
    >>> again = from_safetensors(to_safetensors(das))
    >>> again, again.spec() == das.spec()
    (Intervention(L9.resid_post@END ← Activation(source) in Rotation(768 → 16)), True)
    >>> store.save(effects, beside={"das.safetensors": to_safetensors(das)})                 # doctest: +SKIP

The tensors are those of the learned parts and of constants; the file's metadata hold the rest, as JSON
(:mod:`interp.interventions.writing`), and a digest of the tensors. Any reader of safetensors opens it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from interp.errors import StoreError
from interp.interventions.digest import digest
from interp.interventions.reading import Reader
from interp.interventions.writing import Writer

FORMAT = 1
_KEY = "interp"
"""Under which the metadata hold the JSON."""


def to_safetensors(what: Any) -> bytes:
    """Interventions as the content of a safetensors file: one, several in a list or by name, or a part of one.

    Raises:
        StoreError: something in it cannot be written: a function, or a part of another's that has no ``options()``.
    """
    writer = Writer()
    data = writer.write(what)
    sealed = {"format": FORMAT, "what": data, "sha256": seal(data, writer.tensors)}
    return save(writer.tensors, {_KEY: json.dumps(sealed, ensure_ascii=False)})


def from_safetensors(content: bytes, *, kinds: Iterable[type] = ()) -> Any:
    """What :func:`to_safetensors` wrote, made anew and ready to be used.

    Args:
        content: of the file, such as ``run.beside()["das.safetensors"]`` or ``Path("das.safetensors").read_bytes()``.
        kinds: classes of your own that are in it.

    Raises:
        StoreError: the file is damaged, no safetensors file, or not written by this; a class in it was not passed.
    """
    if not isinstance(content, bytes):
        raise StoreError(
            f"content is {content!r:.100} of type {type(content).__name__}; expected the bytes of a file, such as "
            "Path('das.safetensors').read_bytes()"
        )
    tensors = tensors_of(content, "the file")
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    data = parsed(header.get("__metadata__", {}).get(_KEY, "null"), "the file")
    if not isinstance(data, dict) or not {"format", "what", "sha256"} <= data.keys():
        raise StoreError(
            f"the file holds the tensors {', '.join(sorted(tensors)[:5]) or 'none'}, but does not say of which interventions; "
            "expected what interp.interventions.to_safetensors wrote"
        )
    check_format(data["format"], "the file")
    if seal(data["what"], tensors) != data["sha256"]:
        raise StoreError("the file is damaged: it does not hold what was written (its sha256 is another)")
    return Reader(tensors, what="the file", kinds=kinds).read(data["what"])


def tensors_of(content: bytes, what: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        StoreError: it is damaged, a pickle, or something else.
    """
    try:
        return load(content)
    except Exception as error:  # safetensors has one class of its own, and lets others through
        if content[:4] == b"PK\x03\x04" or (content[:1] == b"\x80" and content[1:2] <= b"\x05"):
            raise StoreError(
                f"{what} is a pickle, as torch.save writes, which can run code; nothing is unpickled here: save it anew, with "
                "safetensors or interp.interventions.to_safetensors"
            ) from None
        raise StoreError(f"{what} is damaged, or no safetensors file: {error}") from error


def parsed(text: str | bytes, what: str) -> Any:
    """JSON.

    Raises:
        StoreError: it is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{what} holds no JSON: {error}") from error


def check_format(found: Any, what: str) -> None:
    if found != FORMAT:
        raise StoreError(f"{what} has the format {found!r}, but this version of interp reads format {FORMAT}")


def seal(data: Any, tensors: Mapping[str, Tensor]) -> str:
    """sha256 of JSON and the tensors beside it, 16 hexadecimal digits."""
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(f"{canonical} {digest(tensors)}".encode()).hexdigest()[:16]
