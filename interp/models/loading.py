"""Loading: a hub id, a local folder, a GGUF file, a live module, or a model of the zoo – one function.

    >>> load("zoo/induction-2l")                                                        # doctest: +SKIP
    >>> load("gpt2"); load("path/to/folder"); load("path/to/model.gguf"); load(module, tokenizer=tokenizer)   # doctest: +SKIP

Any model of transformers, with the head that it was saved with, and any single model of diffusers. Only safetensors and GGUF
files are read, and no code of a repository runs, unless the user says so. What is wrong is said in one line.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interp.errors import LoadError, nearest
from interp.models.classes import class_of, quiet
from interp.models.companions import own_processor, own_tokenizer, tokenizer_at
from interp.models.encoding import Bos
from interp.models.examples import BATCH
from interp.models.model import Model
from interp.models.probe import settle, tolerance
from interp.models.sources import HUB, Source, failed, first_line, locate
from interp.models.stack_probe import prove
from interp.protocols import Tokenizer
from interp.sites import Site


def load(
    model: str | os.PathLike[str] | nn.Module,
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
    **options: Any,
) -> Model:
    """Load a model and let it prove its sites.

    Args:
        model: a hub id, a folder, a GGUF file, ``zoo/<name>``, or a live module, which is used as it is.
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
            A model on the meta device has the sites that its structure proposes; nothing of it can be proven.
        example: keyword arguments of one forward pass of three examples, by which the sites are found; by default random ones,
            made from what the forward takes and the configuration says.
        **options: further keywords of ``from_pretrained`` (``device_map``, ``attn_implementation``, ``subfolder``, …).

    Raises:
        LoadError: with the reason in one line.
        CompiledModelError: the module is compiled.
        ProbeError: a site is not what its name says.
    """
    if isinstance(model, nn.Module):
        given = [*options, *(["dtype"] if dtype != "auto" else []), *(["device"] if device is not None else [])]
        given += ["allow_pickle"] if allow_pickle else []
        if given:
            raise LoadError(
                f"a live module is used as it is, so {', '.join(given)} cannot apply; change the module before loading it"
            )
        if isinstance(tokenizer, (str, os.PathLike)):
            tokenizer = tokenizer_at(tokenizer)
        alive = Model(model, tokenizer, processor=processor, name=name, revision=revision, bos=bos, example=example)
        return _proved(alive, check)
    if device is not None and options.get("device_map") is not None:
        raise LoadError(f"device={device!r} and device_map={options['device_map']!r} both say where the model goes; give one")
    dtype = _dtype(dtype)
    hub = {key: options[key] for key in HUB if key in options} | ({"revision": revision} if revision is not None else {})
    source = locate(model, hub, allow_pickle=allow_pickle)
    options = {key: value for key, value in options.items() if key not in HUB}
    module = _module(source, dtype, trust_remote_code, allow_pickle, options)
    if device is not None:
        module = _moved(module, device)
    trusted = {"trust_remote_code": True} if trust_remote_code else {}
    missing: dict[str, str] = {}
    if isinstance(tokenizer, (str, os.PathLike)):
        tokenizer = tokenizer_at(tokenizer)
    elif tokenizer is None:
        tokenizer = own_tokenizer(source, trusted, missing)
    processor = own_processor(source, trusted, missing) if processor is None else processor
    files = source.files if options.get("quantization_config") is None else None  # packed anew, the weights are others
    known: dict[str, Any] = {"name": name or source.name, "revision": source.commit or revision, "files": files}
    made = Model(module, tokenizer, processor=processor, missing=missing, **known, bos=bos, example=example)
    return _proved(made, check)


def _proved(model: Model, check: bool) -> Model:
    """The model, after the probe run; a network without blocks has no roles to prove."""
    if not check:
        return model
    if model.device.type == "meta":
        model.stack_refused = "its weights are on the meta device"
        return model
    if not model.anatomy.main.blocks:
        model.stack_refused = "it has no main stack of blocks"
    if model.example:
        model.probe = settle(model)
        _apart(model)
    if model.anatomy.main.blocks:
        with model.prepared():
            model.stack, model.stack_refused = prove(model.module, model.anatomy, model.arguments)
    return model


def _apart(model: Model) -> None:
    """Say so where an example's numbers depend on the other examples of a batch."""
    blocks = model.anatomy.main.blocks
    if not blocks:
        return
    end = Site("resid_post", layer=len(blocks) - 1)
    alone = {name: tensor.chunk(BATCH)[0] for name, tensor in model.example.items()}
    with torch.no_grad(), model.prepared():
        whole, one = (model.backend.run(given, [end], {})[end].float() for given in (model.example, alone))
    deviation = float((whole[:1] - one).abs().max()) / max(1e-6, float(whole.abs().max()))
    if deviation > tolerance(model):
        warnings.warn(
            f"{model.name}: an example's numbers depend on the others in its batch, by {deviation:.1e} of the largest, as they "
            "do where activations are quantised by their range; strategies differ by as much",
            RuntimeWarning,
            stacklevel=4,
        )


def _dtype(dtype: torch.dtype | str) -> torch.dtype | str:
    """A dtype by its name, or ``"auto"``."""
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if dtype == "auto" or (isinstance(found, torch.dtype) and found.is_floating_point):
        return found or "auto"
    near = nearest(dtype, ("float32", "float16", "bfloat16", "float64", "auto"), n=1)
    did = f"; did you mean {near[0]!r}?" if near else "; quantised weights are asked for with quantization_config="
    raise LoadError(f"dtype {dtype!r} is not 'auto' or the name of a floating-point dtype of torch{did}")


def _moved(module: nn.Module, device: torch.device | str) -> nn.Module:
    try:
        return module.to(device)
    except (RuntimeError, AssertionError, ValueError) as error:  # torch's ways to say that there is no such device
        raise LoadError(f"device {str(device)!r}: {first_line(error)}") from error


def _module(
    source: Source, dtype: torch.dtype | str, trust_remote_code: bool, allow_pickle: bool, options: dict[str, Any]
) -> nn.Module:
    kind = class_of(source, trust_remote_code=trust_remote_code)
    asked: dict[str, Any] = {"output_loading_info": True, **source.hub, **options}
    if source.packed:
        from transformers import GgufConfig

        assert isinstance(source.where, Path)
        # Without dequantize=True the weights stay packed wherever Hugging Face's `kernels` is installed.
        asked = {"gguf_file": source.where.name, "quantization_config": GgufConfig(dequantize=True), **asked}
        dtype = torch.float32 if dtype == "auto" else dtype
    else:
        asked |= {"use_safetensors": None if allow_pickle else True}
    diffusion = "_class_name" in source.config
    if not diffusion:
        asked |= {"dtype": dtype, "ignore_mismatched_sizes": True}  # the report says more than the error
        asked |= {"trust_remote_code": True} if trust_remote_code else {}
    try:
        asked |= {"torch_dtype": _stored(source) if dtype == "auto" else dtype} if diffusion else {}
        with quiet():
            module, report = kind.from_pretrained(source.folder, **asked)
    except Exception as error:  # whatever a library, or a repository's own code, raises for files that it cannot read
        raise failed(source, error) from error
    _complete(source, report, type(module).__name__)
    return module.eval()


def _stored(source: Source) -> torch.dtype | None:
    """The floating-point dtype that all weights of a folder are stored in; None where they differ, or none is known."""
    from safetensors import safe_open

    if not isinstance(source.where, Path):
        return None
    found = set()
    for file in sorted(source.where.glob("*.safetensors"))[:1]:
        with safe_open(file, "pt") as weights:
            found = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118 - not a dict
    dtypes = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
    return dtypes.get(found.pop()) if len(found) == 1 else None


def _complete(source: Source, report: Mapping[str, Any], kind: str) -> None:
    """Raise where weights are not what the class expects: transformers would fill the gaps with random numbers."""
    mismatched = sorted(report.get("mismatched_keys", ()))
    if mismatched:
        name, stored, expected = mismatched[0]
        more = f", and {len(mismatched) - 1} more do not fit" if len(mismatched) > 1 else ""
        raise LoadError(
            f"{source.where}: {name} is {tuple(stored)} in the checkpoint, but the configuration makes it "
            f"{tuple(expected)}{more}"
        )
    lacking = sorted(report["missing_keys"])
    if lacking:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise LoadError(f"{source.where}: the checkpoint lacks {', '.join(lacking[:3])}{more}, which would be random numbers")
    spare = sorted(report["unexpected_keys"])
    if spare:
        said = f"{source.where}: {kind} has no place for {len(spare)} weights of the checkpoint, such as {spare[0]}; left out"
        warnings.warn(said, RuntimeWarning, stacklevel=4)
