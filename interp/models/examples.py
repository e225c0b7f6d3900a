"""Random inputs for a model that is seen for the first time, made from what its forward takes and its configuration says.

    >>> example(module)                                                                      # doctest: +SKIP
    {'input_ids': tensor(...), 'attention_mask': tensor(...)}

Three examples: the third is the first but for its last token, by which a model is found to be causal or not.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from interp.errors import LoadError
from interp.models.placement import first_device

BATCH, LENGTH = 3, 6

Inputs = dict[str, Tensor]


def example(module: nn.Module) -> Inputs:
    """Keyword arguments for one forward pass of ``module``, :data:`BATCH` examples, on its device.

    Raises:
        LoadError: nothing is known of what this forward takes, naming the arguments that are required.
    """
    config = getattr(module, "config", None)
    takes = {name: p for name, p in inspect.signature(module.forward).parameters.items() if name != "self"}  # of a wrapper
    generator = torch.Generator("cpu").manual_seed(0)
    found: Inputs = {}
    if config is not None or embedding(module) is not None:
        with torch.device("cpu"):  # whatever is the default: the model may be on the meta device
            made = {name: make(_Asked(module, config), generator) for name, make in _MAKERS.items() if name in takes}
        found = {name: tensor for name, tensor in made.items() if tensor is not None}
    if "input_ids" not in found:
        found.pop("attention_mask", None)
    required = [
        name
        for name, p in takes.items()
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and name not in found
    ]
    if not found or required:
        what = f"its forward needs {', '.join(required)}" if required else "its forward takes nothing that is known here"
        raise LoadError(f"{type(module).__name__}: {what}; show how it is called with load(module, example={{...}})")
    with torch.device("cpu"):
        if "pixel_values" in found and "input_ids" in found:
            found |= _with_images(_Asked(module, config), found)
        if "position_ids" in takes and set(found) == {"input_ids", "attention_mask"}:
            found["position_ids"] = torch.arange(LENGTH).expand(BATCH, -1)
    device, dtype = first_device(module), next(module.parameters()).dtype
    if device.type == "meta":  # nothing is masked, which some models look up in numbers that are not there
        found.pop("attention_mask", None)
    return {name: t.to(device, dtype if t.is_floating_point() else None) for name, t in found.items()}


def given(example: Any) -> Inputs:
    """What a user shows a forward pass by, as keyword arguments.

    Raises:
        LoadError: it is no mapping.
    """
    if not isinstance(example, Mapping):
        raise LoadError(f"example is a {type(example).__name__}; expected the forward's arguments by name: {{'input': …}}")
    return dict(example)


def described(example: Inputs) -> str:
    """The arguments with their shapes, as a mapping is written."""
    shapes = {name: getattr(value, "shape", None) for name, value in example.items()}
    said = [f"{name!r}: {type(example[name]).__name__ if shape is None else tuple(shape)}" for name, shape in shapes.items()]
    return f"{{{', '.join(said)}}}"


def batch_of(inputs: Mapping[str, Tensor]) -> int:
    """How many examples there are: what most arguments have first."""
    sizes = [len(tensor) for tensor in inputs.values() if tensor.ndim]
    return max(set(sizes), key=sizes.count)


def last_token(inputs: Mapping[str, Tensor]) -> str | None:
    """The argument whose last token differs between the first example and the third, and nothing else does."""
    return next((name for name in ("decoder_input_ids", "input_ids") if name in inputs), None)


# what each argument is made of


class _Asked:
    """A model's configuration, which knows the vocabulary by the model's embedding where it does not say so itself."""

    def __init__(self, module: nn.Module, config: Any) -> None:
        self._config = config
        table = embedding(module)
        self.vocabulary = int(table.weight.shape[0]) if table is not None else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)


def embedding(module: Any) -> nn.Embedding | None:
    """The model's own table of token embeddings, if it has one."""
    try:
        found = module.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return found if isinstance(found, nn.Embedding) else None


def text_config(config: Any) -> Any:
    """The part of a configuration that is about text."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _ids(config: Any, generator: torch.Generator) -> Tensor | None:
    vocabulary = getattr(text_config(config), "vocab_size", None) or config.vocabulary
    if vocabulary is None:
        return None
    named = [getattr(c, f"{name}_token_id", None) for c in (config, text_config(config)) for name in _SPECIAL]
    special = {i for ids in named for i in (ids if isinstance(ids, Sequence) else [ids])}  # a model may end in several ways
    plain = torch.tensor([i for i in range(vocabulary) if i not in special])
    ids = plain[torch.randint(len(plain), (BATCH, LENGTH), generator=generator)]
    ids[2] = ids[0]
    while bool(ids[2, -1] == ids[0, -1]):
        ids[2, -1] = plain[torch.randint(len(plain), (), generator=generator)]
    return ids


_SPECIAL = ("pad", "bos", "eos", "image", "video", "vision_start", "vision_end")


def _mask(config: Any, generator: torch.Generator) -> Tensor | None:
    return None if _ids(config, generator) is None else torch.ones(BATCH, LENGTH, dtype=torch.long)


def _decoder_ids(config: Any, generator: torch.Generator) -> Tensor | None:
    """One token fewer than the other prompt has, by which the two are told apart."""
    asked = getattr(config, "is_encoder_decoder", False) or hasattr(config, "text_config")
    ids = _ids(config, generator) if asked else None
    return None if ids is None else ids[:, 1:]


def _vision(config: Any) -> Any:
    return getattr(config, "vision_config", config)


def _pixels(config: Any, generator: torch.Generator) -> Tensor | None:
    vision = _vision(config)
    if hasattr(vision, "spatial_merge_size") and hasattr(vision, "temporal_patch_size"):  # packed patches, without a batch
        patch = vision.patch_size
        side = 2 * vision.spatial_merge_size
        channels = getattr(vision, "in_channels", 3)
        width = channels * vision.temporal_patch_size * patch * patch
        return _alike(torch.randn(BATCH, side * side * width, generator=generator)).reshape(-1, width)
    channels = getattr(vision, "num_channels", None)
    if channels is None:
        return None
    size = getattr(vision, "image_size", None) or 32  # a network of convolutions takes any
    height, width = (size, size) if isinstance(size, int) else size
    return _alike(torch.randn(BATCH, channels, height, width, generator=generator))


def _grid(config: Any, generator: torch.Generator) -> Tensor | None:
    merge = getattr(_vision(config), "spatial_merge_size", None)
    return None if merge is None else torch.tensor([[1, 2 * merge, 2 * merge]] * BATCH)


def _features(config: Any, generator: torch.Generator) -> Tensor | None:
    bins, positions = getattr(config, "num_mel_bins", None), getattr(config, "max_source_positions", None)
    return None if bins is None or positions is None else _alike(torch.randn(BATCH, bins, 2 * positions, generator=generator))


def _waveform(config: Any, generator: torch.Generator) -> Tensor | None:
    """Sound of as many frames as a text here has tokens, by the convolutions that make frames of it."""
    kernels, strides = getattr(config, "conv_kernel", None), getattr(config, "conv_stride", None)
    if not isinstance(kernels, Sequence) or not isinstance(strides, Sequence):
        return None
    samples = LENGTH
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        samples = (samples - 1) * stride + kernel
    return _alike(torch.randn(BATCH, samples, generator=generator))


def _latents(config: Any, generator: torch.Generator) -> Tensor | None:
    channels, size = getattr(config, "in_channels", None), getattr(config, "sample_size", None)
    if channels is None or size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return _alike(torch.randn(BATCH, channels, height, width, generator=generator))


def _timestep(config: Any, generator: torch.Generator) -> Tensor | None:
    return torch.tensor([5, 3, 5]) if hasattr(config, "in_channels") else None


def _classes(config: Any, generator: torch.Generator) -> Tensor | None:
    classes = getattr(config, "num_embeds_ada_norm", None)
    return None if classes is None else torch.tensor([1, 0, 1]) % classes


def _condition(config: Any, generator: torch.Generator) -> Tensor | None:
    width = getattr(config, "cross_attention_dim", None)
    if not isinstance(width, int) or not hasattr(config, "in_channels"):
        return None
    return _alike(torch.randn(BATCH, 4, width, generator=generator))


def _alike(tensor: Tensor) -> Tensor:
    """The third example is the first."""
    tensor[2] = tensor[0]
    return tensor


_MAKERS: Mapping[str, Callable[[Any, torch.Generator], Tensor | None]] = {
    "input_ids": _ids,
    "attention_mask": _mask,
    "decoder_input_ids": _decoder_ids,
    "pixel_values": _pixels,
    "image_grid_thw": _grid,
    "input_features": _features,
    "input_values": _waveform,
    "sample": _latents,
    "hidden_states": _latents,
    "timestep": _timestep,
    "class_labels": _classes,
    "encoder_hidden_states": _condition,
}


def _with_images(config: Any, inputs: Inputs) -> Inputs:
    """Text in which as many image tokens stand as the image has, in front; nothing for models that fuse in another way."""
    token = getattr(config, "image_token_id", None)
    if token is None:
        return {}
    vision = _vision(config)
    if "image_grid_thw" in inputs:
        count = int(inputs["image_grid_thw"][0].prod()) // vision.spatial_merge_size**2
    else:
        count = getattr(config, "image_seq_length", None) or (vision.image_size // vision.patch_size) ** 2
    images = torch.full((BATCH, count), token)
    ids = torch.cat([inputs["input_ids"][:, :1], images, inputs["input_ids"][:, 1:]], dim=1)
    made = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return made | ({"mm_token_type_ids": (ids == token).long()} if "image_grid_thw" in inputs else {})
