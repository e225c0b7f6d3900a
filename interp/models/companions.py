"""What turns words, images and sound into a model's inputs: its tokenizer and its processor, where its folder holds them.

>>> tokenizer_at("path/to/folder").encode(" Mary")                                      # doctest: +SKIP
[5335]
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp.errors import LoadError
from interp.models.sources import PROCESSOR_FILES, TOKENIZER_FILES, Source, failed
from interp.protocols import Tokenizer


def own_tokenizer(source: Source, options: Mapping[str, Any], missing: dict[str, str]) -> Tokenizer | None:
    """The model's own tokenizer, or None with the reason in ``missing``: vision models have none."""
    if source.packed:
        return _tokenizer(source, options)
    if not any(source.file(name) for name in TOKENIZER_FILES):
        missing["tokenizer"] = f"{source.where} holds no tokenizer"  # transformers would make an empty one
        return None
    return _tokenizer(source, options)


def tokenizer_at(where: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer of a folder, a GGUF file or a hub id."""
    text, path = os.fspath(where), Path(where).expanduser()
    if path.is_dir() and not any(Source(path, "").file(name) for name in TOKENIZER_FILES):
        raise LoadError(f"tokenizer={text!r}: the folder holds no tokenizer")  # transformers would make an empty one
    if not path.exists() and (path.is_absolute() or text.startswith((".", "~"))):
        raise LoadError(f"tokenizer={text!r}: no such folder")
    return _tokenizer(Source(path if path.exists() else text, text), {})


def _tokenizer(source: Source, options: Mapping[str, Any]) -> Tokenizer:
    from transformers import AutoTokenizer

    packed = {"gguf_file": source.where.name} if source.packed and isinstance(source.where, Path) else {}
    try:
        return AutoTokenizer.from_pretrained(source.folder, **packed, **options, **source.hub)
    except Exception as error:  # whatever transformers or tokenizers raise for files that they cannot read
        raise LoadError(f"tokenizer of {failed(source, error)}; pass tokenizer= to load") from error


def own_processor(source: Source, options: Mapping[str, Any], missing: dict[str, str]) -> Any:
    """The model's own processor of images or sound, or None with the reason in ``missing`` where it cannot be made."""
    if source.packed or not any(source.file(name) for name in PROCESSOR_FILES):
        return None
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(source.folder, **options, **source.hub)
    except Exception as error:  # most often an image library that is not installed
        missing["processor"] = str(failed(source, error))
        return None
