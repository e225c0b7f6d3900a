"""Weights from files: a model of transformers or of diffusers, of the class that it was saved with, and complete.

>>> weights_of(locate("path/to/folder", {}), "auto")                                     # doctest: +SKIP
LlamaForCausalLM(...)

Only safetensors and GGUF files are read, and no code of a repository runs, unless the user says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from interp.errors import LoadError, nearest
from interp.models.classes import class_of, quiet
from interp.models.sources import Source, failed, first_line


def named_dtype(dtype: torch.dtype | str) -> torch.dtype | str:
    """A dtype by its name, or ``"auto"``."""
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if dtype == "auto" or (isinstance(found, torch.dtype) and found.is_floating_point):
        return found or "auto"
    near = nearest(dtype, ("float32", "float16", "bfloat16", "float64", "auto"), n=1)
    did = f"; did you mean {near[0]!r}?" if near else "; quantised weights are asked for with quantization_config="
    raise LoadError(f"dtype {dtype!r} is not 'auto' or the name of a floating-point dtype of torch{did}")


def moved(module: nn.Module, device: torch.device | str) -> nn.Module:
    try:
        return module.to(device)
    except (RuntimeError, AssertionError, ValueError) as error:  # torch's ways to say that there is no such device
        raise LoadError(f"device {str(device)!r}: {first_line(error)}") from error


def weights_of(
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
