"""Loading: a hub id, a local folder, a GGUF file, a live module, or a model of the zoo – one function.

    >>> load("zoo/induction-2l")                                                        # doctest: +SKIP
    >>> load("gpt2"); load("path/to/folder"); load("path/to/model.gguf"); load(module, tokenizer=tokenizer)   # doctest: +SKIP

Any model of transformers, with the head that it was saved with, and any single model of diffusers. Only safetensors and GGUF
files are read, and no code of a repository runs, unless the user says so. What is wrong is said in one line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from interp.errors import LoadError, UnknownNameError
from interp.models import backends, diffusion
from interp.models.checkpoint import moved, named_dtype, weights_of
from interp.models.companions import own_processor, own_tokenizer, tokenizer_at
from interp.models.encoding import Bos
from interp.models.model import Model
from interp.models.origin import Origin
from interp.models.proof import proved
from interp.models.sources import HUB, locate
from interp.protocols import Tokenizer

if TYPE_CHECKING:
    from interp.models.zoo import KnownCircuit

_PATIENCE = 2.0
"""Seconds after which it is said what is done."""


def load(
    model: Any,
    *,
    tokenizer: Tokenizer | str | os.PathLike[str] | None = None,
    processor: Any = None,
    name: str | None = None,
    dtype: torch.dtype | str = "auto",
    device: torch.device | str | None = None,
    revision: str | None = None,
    bos: Bos = "model",
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    check: bool = True,
    example: Mapping[str, Tensor] | None = None,
    axes: Mapping[str, str] | None = None,
    backend: str | None = None,
    remote: bool = False,
    progress: bool | None = None,
    **options: Any,
) -> Model:
    """Load a model and let it prove its sites.

    Args:
        model: a hub id, a folder, a GGUF file, ``zoo/<name>`` (what ships, or is in :data:`interp.models.zoo.KNOWN`), or
            a live module or pipeline of diffusers, which is used as it is. Of a pipeline ``steps``, ``guidance`` and
            ``output`` say how images are generated (:class:`interp.models.diffusion.Settings`).
        tokenizer: for a live module; otherwise the model's own. Without one, prompts are given as token ids.
        processor: what makes images or sound into the model's inputs, for a live module; otherwise the model's own.
        name: what results call the model; by default the id, the folder's or the class's name.
        dtype: of the weights; ``"auto"`` keeps the checkpoint's own, and unpacks a GGUF file to float32.
        device: where the model is put; by default the CPU, or where ``device_map`` says.
        revision: of a hub id.
        bos: whether prompts begin with BOS: ``"model"`` for the tokenizer's way, True or False.
        trust_remote_code: allow a checkpoint's own Python code to run.
        allow_pickle: read ``pytorch_model.bin`` where there is no safetensors file. It is opened with ``weights_only=True``,
            which refuses whatever is not a tensor, but a pickle made to attack that reader can still run code: allow it for
            files whose author you trust.
        check: run the probe that proves the sites.
            A model on the meta device has the sites of a small twin of it, which proves them in its place; of a class that
            cannot be built smaller, those that structure proposes.
        example: keyword arguments of one forward pass of three examples, by which the sites are found; by default random ones,
            made from what the forward takes and the configuration says.
        axes: names for the axes of tensors that modules give, by path: ``{"features.3": "example [channel] row column"}``, what
            is at a position in brackets. Positions of ``"features.3:output"`` then run along the other axes.
        backend: what runs the forward passes: ``"torch"`` (hooks; the default), ``"transformer_lens"``, which runs a copy of a
            live module, or ``"nnsight"``. A live TransformerBridge is run as it is.
        remote: with nnsight, run on the NDIF service; nothing but the configuration and the tokenizer is loaded here.
        progress: show a line that says what is done; by default after two seconds.
        **options: further keywords of ``from_pretrained`` (``device_map``, ``attn_implementation``, ``subfolder``, …).

    Raises:
        LoadError: with the reason in one line.
        CompiledModelError: the module is compiled.
        UnknownNameError: another ``bos``.
        ProbeError: a site is not what its name says.
    """
    if bos not in ("model", True, False):
        raise UnknownNameError("bos", bos, ("model", "True", "False"))
    if diffusion.is_pipeline(model):
        settings = {key: options.pop(key) for key in ("steps", "guidance", "output") if key in options}
        _refuse_changes(dtype, device, allow_pickle, options)
        return _pipeline(model, diffusion.Settings(**settings), name, bos, check)
    with _steps(progress) as at:
        backend = backends.choose(model, backend, remote)
        shown: dict[str, Any] = {"bos": bos, "example": example, "axes": axes}
        given: dict[str, Any] = {"tokenizer": tokenizer, "processor": processor, "trust_remote_code": trust_remote_code}
        given |= {"dtype": str(dtype).removeprefix("torch."), "allow_pickle": allow_pickle, "check": check, "remote": remote}
        given |= {"backend": None if backend == backends.TORCH else backend, **shown, **options}
        if isinstance(tokenizer, (str, os.PathLike)):
            tokenizer = tokenizer_at(tokenizer)
        if isinstance(model, nn.Module):
            _refuse_changes(dtype, device, allow_pickle, options)
            tokenizer = tokenizer or backends.tokenizer_of(model)
            module, shown["peer"] = backends.wrapped(backend, model, tokenizer, live=True)
            at("finding sites")
            live = Model(module, tokenizer, processor=processor, name=name, revision=revision, **shown)
            return _shown(live, example, check, at)
        if device is not None and options.get("device_map") is not None:
            raise LoadError(
                f"device={device!r} and device_map={options['device_map']!r} both say where the model goes; give one"
            )
        dtype = named_dtype(dtype)
        if (made := _by_formulas(model)) is not None:
            _refuse_files(model, allow_pickle, remote, revision, options)
            at("finding sites")
            tokenizer = tokenizer or made.tokenizer
            module = moved(made.net, device or "cpu")
            module = module.to(dtype) if isinstance(dtype, torch.dtype) else module
            module, shown["peer"] = backends.wrapped(backend, module, tokenizer, live=False)
            loaded = Model(module, tokenizer, processor=processor, name=name or model, **shown)
            loaded.origin = Origin.of(model, given | {"name": loaded.name})
            return _shown(loaded, example, check, at)
        hub = {key: options[key] for key in HUB if key in options} | ({"revision": revision} if revision is not None else {})
        source = locate(model, hub, allow_pickle=allow_pickle)
        options = {key: value for key, value in options.items() if key not in HUB}
        trusted = {"trust_remote_code": True} if trust_remote_code else {}
        missing: dict[str, str] = {}
        tokenizer = own_tokenizer(source, trusted, missing) if tokenizer is None else tokenizer
        if remote:
            if device is not None:
                raise LoadError(f"remote=True runs on the service's own devices, so device={device!r} cannot apply")
            options |= {"dtype": dtype, "revision": revision, "trust_remote_code": trust_remote_code}
            distant = backends.remote(str(source.where), tokenizer, name or source.name, bos, example, options)
            distant.origin = Origin.of(model, given | {"name": distant.name, "revision": revision})
            return proved(distant, check)
        at("reading weights")
        module = weights_of(source, dtype, trust_remote_code, allow_pickle, options)
        if device is not None:
            module = moved(module, device)
        processor = own_processor(source, trusted, missing) if processor is None else processor
        module, shown["peer"] = backends.wrapped(backend, module, tokenizer, live=False)
        files = source.files if options.get("quantization_config") is None else None  # packed anew, the weights are others
        known: dict[str, Any] = {"name": name or source.name, "revision": source.commit or revision, "files": files}
        at("finding sites")
        loaded = Model(module, tokenizer, processor=processor, missing=missing, **known, **shown)
        loaded.origin = Origin.of(model, given | {"name": loaded.name, "revision": loaded.revision})
        return _shown(loaded, example, check, at)


@contextmanager
def _steps(progress: bool | None) -> Iterator[Callable[[str], None]]:
    """A line that says which step is under way, once loading takes so long that one asks."""
    bar = {"disable": progress is False, "delay": 0 if progress else _PATIENCE, "leave": False}
    with tqdm(bar_format="loading: {desc} ({elapsed})", mininterval=0, miniters=1, **bar) as line:

        def at(step: str) -> None:
            line.set_description_str(step, refresh=False)
            line.update()

        yield at


def _shown(model: Model, example: Mapping[str, Tensor] | None, check: bool, at: Callable[[str], None]) -> Model:
    """The model, proven; refused where its forward does not take what the user shows it by."""
    if example is not None and model.unknown:
        raise LoadError(model.unknown)
    return proved(model, check, at)


def _refuse_changes(
    dtype: torch.dtype | str, device: torch.device | str | None, allow_pickle: bool, options: Mapping[str, Any]
) -> None:
    given = [*options, *(["dtype"] if dtype != "auto" else []), *(["device"] if device is not None else [])]
    given += ["allow_pickle"] if allow_pickle else []
    if given:
        raise LoadError(
            f"a live module is used as it is, so {', '.join(given)} cannot apply; change the module before loading it"
        )


def _by_formulas(model: Any) -> KnownCircuit | None:
    """A network that is made by formulas, if a name is that of one."""
    if not isinstance(model, str) or not model.startswith("zoo/"):
        return None
    from interp.models import zoo

    make = zoo.KNOWN.get(model.removeprefix("zoo/"))
    return None if make is None else make()


def _refuse_files(model: str, allow_pickle: bool, remote: bool, revision: str | None, options: Mapping[str, Any]) -> None:
    of_files = {"allow_pickle": allow_pickle, "remote": remote, "revision": revision is not None}
    if given := [*options, *(name for name, one in of_files.items() if one)]:
        raise LoadError(f"{model} is made by formulas and not read from files, so {', '.join(given)} cannot apply")


def _pipeline(pipeline: Any, settings: diffusion.Settings, name: str | None, bos: Bos, check: bool) -> Model:
    """A diffusion pipeline: each part proves its sites by itself, the whole how often it calls them."""
    generation = diffusion.Generation(pipeline, settings)
    found = {path: Model(part, name=path, example=diffusion.called_with(part)) for path, part in generation.named_children()}
    parts = {path: part for path, part in found.items() if part.example}
    for part in parts.values():
        proved(part, check)
    inputs = diffusion.example(generation, {path: part.example for path, part in parts.items()})
    anatomy = diffusion.anatomy(generation, {path: part.anatomy for path, part in parts.items()}, inputs)
    tokenizer = getattr(pipeline, "tokenizer", None)
    known: dict[str, Any] = {"name": name or type(pipeline).__name__, "bos": bos, "example": inputs, "anatomy": anatomy}
    model = Model(generation, tokenizer, **known)
    model.parts = parts
    model.stack_refused = "one pass calls its blocks once a step"
    longest = getattr(tokenizer, "model_max_length", None)  # pipelines fill every text up, and attend to what they fill it with
    model.reading = replace(model.reading, fill=longest, sides=dict.fromkeys(model.reading.arguments))
    return model
