"""Loading: a hub id, a local folder, a GGUF file, a live module, or a model of the zoo – one function.

    >>> load("zoo/induction-2l")                                                        # doctest: +SKIP
    >>> load("gpt2"); load("path/to/folder"); load("path/to/model.gguf"); load(module, tokenizer=tokenizer)   # doctest: +SKIP

Only safetensors and GGUF files are read: a pickle can run code. What is wrong is said in one line.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from interp.errors import LoadError
from interp.models import backends, diffusion
from interp.models.encoding import Bos
from interp.models.model import Model, TorchHooks
from interp.models.padding import padded
from interp.models.probe import settle
from interp.models.stack_probe import prove
from interp.protocols import Tokenizer

_UNREADABLE = (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError, struct.error)
"""What transformers, safetensors and gguf raise for files that are missing, damaged or of another model."""


def load(
    model: Any,
    *,
    tokenizer: Tokenizer | str | os.PathLike[str] | None = None,
    name: str | None = None,
    dtype: torch.dtype | str = "auto",
    device: torch.device | str | None = None,
    revision: str | None = None,
    bos: Bos = "model",
    trust_remote_code: bool = False,
    check: bool = True,
    example: Mapping[str, Tensor] | None = None,
    axes: Mapping[str, str] | None = None,
    backend: str | None = None,
    remote: bool = False,
    **options: Any,
) -> Model:
    """Load a model and let it prove its sites.

    Args:
        model: a hub id, a folder, a GGUF file, ``zoo/<name>``, or a live module or pipeline of diffusers, which is used as it
            is. Of a pipeline ``steps``, ``guidance`` and ``output`` say how images are generated
            (:class:`interp.models.diffusion.Settings`).
        tokenizer: for a live module; otherwise the model's own.
        name: what results call the model; by default the id, the folder's or the class's name.
        dtype: of the weights; ``"auto"`` keeps the checkpoint's own, and unpacks a GGUF file to float32.
        device: where the model is put; by default the CPU, or where ``device_map`` says.
        revision: of a hub id.
        bos: whether prompts begin with BOS: ``"model"`` for the tokenizer's way, True or False.
        trust_remote_code: allow a checkpoint's own Python code to run.
        check: run the probe that proves the sites.
            A model on the meta device has the sites that its structure proposes; nothing of it can be proven.
        example: keyword arguments of one forward pass of three examples, by which the sites are found; by default random ones,
            made from what the forward takes and the configuration says.
        axes: names for the axes of tensors that modules give, by path: ``{"features.3": "example [channel] row column"}``, what
            is at a position in brackets. Positions of ``"features.3:output"`` then run along the other axes.
        backend: what runs the forward passes: ``"torch"`` (hooks; the default), ``"transformer_lens"``, which runs a copy of a
            live module, or ``"nnsight"``. A live TransformerBridge is run as it is.
        remote: with nnsight, run on the NDIF service; nothing but the configuration and the tokenizer is loaded here.
        **options: further keywords of transformers' ``from_pretrained`` (``device_map``, ``attn_implementation``, …).

    Raises:
        LoadError: with the reason in one line.
        CompiledModelError: the module is compiled.
        ProbeError: a site is not what its name says.
    """
    if diffusion.is_pipeline(model):
        settings = diffusion.Settings(**{key: options.pop(key) for key in ("steps", "guidance", "output") if key in options})
        return _pipeline(model, settings, name, bos, check)
    backend = backends.choose(model, backend, remote)
    if isinstance(model, nn.Module):
        given = [*options, *(["dtype"] if dtype != "auto" else []), *(["device"] if device is not None else [])]
        if given:
            raise LoadError(
                f"a live module is used as it is, so {', '.join(given)} cannot apply; change the module before loading it"
            )
        if isinstance(tokenizer, (str, os.PathLike)):
            tokenizer = _tokenizer(Path(tokenizer), {})
        tokenizer = tokenizer or backends.tokenizer_of(model)
        model, peer = backends.wrapped(backend, model, tokenizer, live=True)
        given_here: dict[str, Any] = {"name": name, "revision": revision, "peer": peer, "example": example, "axes": axes}
        return _proved(Model(model, tokenizer, bos=bos, **given_here), check)
    where, found = _locate(model)
    if remote:
        if device is not None:
            raise LoadError(f"remote=True runs on the service's own devices, so device={device!r} cannot apply")
        tokenizer = _words(tokenizer, where, {"revision": revision, "trust_remote_code": trust_remote_code})
        options |= {"dtype": dtype, "revision": revision, "trust_remote_code": trust_remote_code}
        return _proved(backends.remote(str(where), tokenizer, name or found, bos, example, options), check)
    options |= {"revision": revision} if revision is not None else {}
    options |= {"trust_remote_code": trust_remote_code} if trust_remote_code else {}
    module = _module(where, dtype, options)
    own: dict[str, Any] = {key: options[key] for key in ("revision", "trust_remote_code") if key in options}
    tokenizer = _words(tokenizer, where, own)
    if device is not None:
        module = module.to(device)
    commit = getattr(getattr(module, "config", None), "_commit_hash", None)
    files = where if isinstance(where, Path) else None
    known: dict[str, Any] = {"name": name or found, "revision": revision or commit, "files": files}
    module, known["peer"] = backends.wrapped(backend, module, tokenizer, live=False)
    return _proved(Model(module, tokenizer, **known, bos=bos, example=example, axes=axes), check)


def _pipeline(pipeline: Any, settings: diffusion.Settings, name: str | None, bos: Bos, check: bool) -> Model:
    """A diffusion pipeline: each part proves its sites by itself, the whole how often it calls them."""
    generation = diffusion.Generation(pipeline, settings)
    found = {path: Model(part, name=path) for path, part in generation.named_children()}
    parts = {path: part for path, part in found.items() if part.example}
    for part in parts.values():
        _proved(part, check)
    inputs = diffusion.example(generation, {path: part.example for path, part in parts.items()})
    anatomy = diffusion.anatomy(generation, {path: part.anatomy for path, part in parts.items()}, inputs)
    tokenizer = getattr(pipeline, "tokenizer", None)
    known: dict[str, Any] = {"name": name or type(pipeline).__name__, "bos": bos, "example": inputs, "anatomy": anatomy}
    model = Model(generation, tokenizer, **known)
    model.stack_refused = "one pass calls its blocks once a step"
    longest = getattr(tokenizer, "model_max_length", None)  # pipelines fill every text up, and attend to what they fill it with
    model.reading = replace(model.reading, fill=longest, sides=dict.fromkeys(model.reading.arguments))
    return model


def _proved(model: Model, check: bool) -> Model:
    """The model, after the probe run; a network without blocks has no roles to prove."""
    hooked = isinstance(model.backend, TorchHooks)
    if not hooked:
        model.stack_refused = f"its backend {type(model.backend).__name__} runs whole forward passes only"
    if not check:
        return model
    if next(model.module.parameters()).device.type == "meta":
        model.stack_refused = model.stack_refused if not hooked else "its weights are on the meta device"
        return model
    if hooked and not model.anatomy.main.blocks:
        model.stack_refused = "it has no main stack of blocks"
    if model.example:
        model.probe = settle(model)
        model.reading = padded(model)
    if hooked and model.anatomy.main.blocks:
        with model.prepared():
            given = model.arguments - (set() if model.reading.numbered else {"position_ids"})
            model.stack, model.stack_refused = prove(model.module, model.anatomy, given)
    return model


def _locate(model: str | os.PathLike[str]) -> tuple[Path | str, str]:
    """Where to load from (a path, or a hub id as text), and what to call it."""
    text = os.fspath(model)
    if text.startswith("zoo/"):
        from interp.models import zoo

        return zoo.path(text), text
    path = Path(text).expanduser()
    if path.is_file():
        if path.suffix != ".gguf":
            raise LoadError(f"{path} is a file but not a .gguf; give the folder that holds config.json and *.safetensors")
        return path, path.stem
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise LoadError(f"folder {path} has no config.json, so it is not a model in transformers' format")
        if not any(path.glob("*.safetensors")):
            pickles = [file.name for file in path.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".ckpt")]
            why = f"; {pickles[0]} is a pickle, which can run code: convert it to safetensors first" if pickles else ""
            raise LoadError(f"folder {path} has no *.safetensors{why}")
        return path, path.name
    if path.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1 or text.endswith(".gguf"):
        raise LoadError(f"{text!r}: no such file or folder")
    return text, text


def _module(where: Path | str, dtype: torch.dtype | str, options: dict[str, Any]) -> nn.Module:
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    folder = where
    if isinstance(where, Path) and where.is_file():
        from transformers import GgufConfig

        # Without dequantize=True the weights stay packed wherever Hugging Face's `kernels` is installed.
        options |= {"gguf_file": where.name, "quantization_config": GgufConfig(dequantize=True)}
        dtype = torch.float32 if dtype == "auto" else dtype
        folder = where.parent
    else:
        options["use_safetensors"] = True
    try:
        module, report = auto.from_pretrained(folder, dtype=dtype, output_loading_info=True, **options)
    except _UNREADABLE as error:
        raise LoadError(_one_line(where, error)) from error
    lacking = sorted(report["missing_keys"])
    if lacking:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise LoadError(f"{where}: the checkpoint lacks {', '.join(lacking[:3])}{more}, which would be random numbers")
    return module.eval()


def _words(tokenizer: Tokenizer | str | os.PathLike[str] | None, where: Path | str, options: dict[str, Any]) -> Tokenizer:
    """The tokenizer that was given, or of the folder that was given, or the model's own."""
    if tokenizer is None:
        return _tokenizer(where, options)
    return _tokenizer(Path(tokenizer), {}) if isinstance(tokenizer, (str, os.PathLike)) else tokenizer


def _tokenizer(where: Path | str, options: dict[str, Any]) -> Tokenizer:
    from transformers import AutoTokenizer

    folder = where
    if isinstance(where, Path) and where.is_file():
        folder, options = where.parent, {**options, "gguf_file": where.name}
    try:
        return AutoTokenizer.from_pretrained(folder, **options)
    except _UNREADABLE as error:
        raise LoadError(f"tokenizer of {_one_line(where, error)}; pass tokenizer= to load") from error


def _one_line(where: Path | str, error: Exception) -> str:
    text = str(error).strip().split("\n")[0]
    hub = ("couldn't connect", "offline", "Connection", "not a local folder", "is not a valid model identifier", "Can't load")
    if isinstance(where, str) and any(word.lower() in str(error).lower() for word in hub):
        return (
            f"{where!r} is no local folder, and the Hugging Face hub could not serve it (unreachable, offline mode, or no such "
            f"model): {text}"
        )
    return f"{where}: {text}"
