"""Where a model comes from: a folder, a GGUF file or a repository of the Hugging Face hub, and what is wrong with it.

    >>> source = locate("path/to/folder")                                                   # doctest: +SKIP
    >>> source.name, source.config["architectures"]                                         # doctest: +SKIP
    ('folder', ['LlamaForCausalLM'])

Nothing is loaded here. A folder that cannot be loaded is told from one that can by its file names, so that the reason fits in
one line: a pickle, an adapter, another library's format, no weights.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from interp.errors import LoadError

HUB = ("revision", "cache_dir", "subfolder", "token", "local_files_only", "force_download", "proxies")
"""Options of ``load`` that say where files of a hub repository are found."""

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json", "diffusion_pytorch_model*.bin")
"""The pickles that transformers and diffusers read."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "tekken.json",
    "*.tiktoken",
)
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")


@dataclass(frozen=True)
class Source:
    """What is loaded."""

    where: Path | str
    """A folder, a GGUF file, or the id of a hub repository."""
    name: str
    """What results call the model."""
    hub: Mapping[str, Any] = field(default_factory=dict)
    """Options for reading from the hub, by :data:`HUB`."""

    @property
    def packed(self) -> bool:
        """Whether it is a GGUF file, which holds configuration, weights and tokenizer."""
        return isinstance(self.where, Path) and self.where.suffix == ".gguf"

    @property
    def folder(self) -> Path | str:
        """What transformers is given."""
        return self.where.parent if self.packed and isinstance(self.where, Path) else self.where

    @property
    def files(self) -> Path | None:
        """What is hashed for the digest."""
        return self.where if isinstance(self.where, Path) else None

    @property
    def commit(self) -> str | None:
        """The commit of the hub's repository that is read, by where its cache keeps it; None for files of one's own."""
        path = None if isinstance(self.where, Path) else self.file("config.json")
        found = re.search(r"snapshots.([0-9a-f]{40})\b", str(path))
        return found[1] if found is not None else None

    def file(self, name: str) -> Path | None:
        """A file of the folder or of the repository, fetched if need be; a pattern finds files of folders alone."""
        if isinstance(self.where, Path):
            return next(iter(sorted(self.where.glob(name))), None)
        from transformers.utils.hub import cached_file

        if "*" in name:
            return None
        quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
        try:
            found = cached_file(self.where, name, **quiet, **self.hub)
        except Exception as error:
            raise failed(self, error) from error
        return Path(found) if found is not None else None

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """``config.json`` as it is written; empty for a GGUF file.

        Raises:
            LoadError: there is none, or it is not JSON.
        """
        if self.packed:
            return {}
        path = self.file("config.json") or self._missing()
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise LoadError(f"{self.where}: config.json is not JSON: {first_line(error)}") from error
        if not isinstance(found, dict):
            raise LoadError(f"{self.where}: config.json holds a {type(found).__name__}, not the configuration of a model")
        return found

    def _missing(self) -> Path:
        """Say what a repository holds instead of ``config.json``, or why it could not be asked."""
        from transformers.utils.hub import cached_file

        if any(self.file(name) for name in ("model_index.json", "adapter_config.json")):
            raise LoadError(f"{self.where!r} {_without_config(self)}")
        try:
            return Path(str(cached_file(self.where, "config.json", **self.hub)))
        except Exception as error:
            raise failed(self, error) from error


def locate(model: str | os.PathLike[str], hub: Mapping[str, Any] | None = None, *, allow_pickle: bool = False) -> Source:
    """Find a model and look at what its folder holds.

    Args:
        hub: options of :data:`HUB`; ``subfolder`` holds for folders too.
        allow_pickle: accept a folder that has no safetensors.

    Raises:
        LoadError: what is there is no model that can be loaded, with the reason in one line.
    """
    hub = dict(hub or {})
    if not isinstance(model, (str, os.PathLike)):
        raise LoadError(f"model is a {type(model).__name__}, not a hub id, a folder, a GGUF file or a module")
    text = os.fspath(model)
    if not text:
        raise LoadError("model is an empty text; give a hub id, a folder, a GGUF file or zoo/<name>")
    if text.startswith("zoo/"):
        from interp.models import zoo

        return Source(zoo.path(text), text)
    path = Path(text).expanduser()
    if path.is_file():
        if path.suffix != ".gguf":
            what = "a pickle, which can run code" if path.suffix in PICKLES else "a file but not a .gguf"
            raise LoadError(f"{path} is {what}; give the folder that holds config.json and *.safetensors")
        return Source(path, path.stem)
    if path.is_dir():
        path = path / str(hub.pop("subfolder", ""))
        if not path.is_dir():
            raise LoadError(f"{str(path)!r}: no such folder")
        source = Source(path, path.name)
        if not (path / "config.json").is_file():
            raise LoadError(f"folder {path} {_without_config(source)}")
        _check_weights(path, allow_pickle)
        return source
    if path.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1 or text.endswith(".gguf"):
        raise LoadError(f"{text!r}: no such file or folder")
    return Source(text, text, hub)


def failed(source: Source | str, error: Exception) -> LoadError:
    """What a library raised while it read a model, in one line."""
    where, text = source if isinstance(source, str) else source.where, first_line(error)
    if type(error).__name__ == "SafetensorError":
        return LoadError(f"{where}: a safetensors file of it is cut short, damaged, or none ({text})")
    if "Weights only load failed" in text:
        return LoadError(f"{where}: its pickle holds more than tensors, and is not read, with or without allow_pickle=True")
    hub = ("couldn't connect", "offline", "Connection", "not a local folder", "is not a valid model identifier", "Can't load")
    if isinstance(where, str) and any(word.lower() in str(error).lower() for word in hub):
        return LoadError(
            f"{where!r} is no local folder, and the Hugging Face hub could not serve it (unreachable, offline mode, or no such "
            f"model): {text}"
        )
    return LoadError(f"{where}: {text}")


def first_line(error: Exception) -> str:
    """The first line that an error says, with the second where the first ends in a colon, or what kind it is."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
    lines = [line.strip() for line in text.split("\n")] if text else [type(error).__name__]
    return (" ".join(lines[:2]) if lines[0].endswith(":") else lines[0])[:250]


# what a folder holds that is no model


def _without_config(source: Source) -> str:
    """What is there instead of ``config.json``."""
    index = source.file("model_index.json")
    if index is not None:
        return _pipeline(index)
    adapter = source.file("adapter_config.json")
    if adapter is not None:
        return _adapter(adapter)
    if not isinstance(source.where, Path):
        return "has no config.json, so it is not a model in transformers' format"
    inside = sorted(file.parent.name for file in source.where.glob("*/config.json"))
    if (source.where / "modules.json").is_file() and inside:
        return f"is of sentence-transformers; load its transformer, {source.where / inside[0]}"
    packed = sorted(file.name for file in source.where.glob("*.gguf"))
    if packed:
        return f"has no config.json but GGUF files; give one of them, such as {source.where / packed[0]}"
    near = f"; {', '.join(inside[:3])} in it {'has' if len(inside) == 1 else 'have'} one" if inside else ""
    return f"has no config.json, so it is not a model in transformers' format{near}"


def _pipeline(index: Path) -> str:
    """A diffusers pipeline, and the parts of it that can be loaded."""
    said = _json(index)
    parts = [name for name, kind in said.items() if isinstance(kind, list) and (index.parent / name / "config.json").is_file()]
    parts.sort(key=lambda name: (not name.startswith(("unet", "transformer", "prior")), name))
    which = f" ({', '.join(parts)})" if parts else ""
    return (
        f"is a diffusers pipeline ({said.get('_class_name', 'of no named class')}), not a single model; load one of its "
        f"parts{which}, as load(…, subfolder={parts[0] if parts else 'unet'!r})"
    )


def _adapter(file: Path) -> str:
    base = _json(file).get("base_model_name_or_path") or "its base model"
    return (
        f"is a peft adapter of {base}, not a model; merge it into that (peft: merge_and_unload) and load the folder to which "
        "the result is saved, or pass the live module"
    )


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError):  # the message that it is read for says enough without it
        return {}
    return found if isinstance(found, dict) else {}


_POINTER = b"version https://git-lfs"


def _check_weights(path: Path, allow_pickle: bool) -> None:
    """Raise unless a folder holds weights that can be read."""
    if (path / "adapter_config.json").is_file():
        raise LoadError(f"folder {path} {_adapter(path / 'adapter_config.json')}")
    stored = sorted(path.glob("*.safetensors"))
    for file in stored:
        with file.open("rb") as stream:
            if stream.read(len(_POINTER)) == _POINTER:
                raise LoadError(
                    f"folder {path}: {file.name} is a pointer of git-lfs, not the file itself; run git lfs pull there"
                )
    if stored:
        return
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in PICKLES)
    known = [name for pattern in PICKLED for name in sorted(file.name for file in path.glob(pattern))]
    if known and allow_pickle:
        return
    if pickles and allow_pickle:
        raise LoadError(
            f"folder {path} has no *.safetensors, and of pickles allow_pickle=True reads {PICKLED[0]} alone, not {pickles[0]}"
        )
    if pickles:
        raise LoadError(
            f"folder {path} has no *.safetensors; {pickles[0]} is a pickle, which can run code: convert it to safetensors "
            "first, or, if you trust whoever wrote it, load with allow_pickle=True"
        )
    other = next((file.name for name in ("*.h5", "*.msgpack", "*.gguf", "*.onnx") for file in path.glob(name)), None)
    raise LoadError(f"folder {path} has no *.safetensors{f'; {other} is another format' if other else ''}")
