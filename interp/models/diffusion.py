"""Diffusion pipelines: one whole generation is one forward pass, in which the denoiser is called once a step.

    >>> model = load(pipeline, steps=20, guidance=7.5)                                       # doctest: +SKIP
    >>> interp.patch(model, pairs, grid("cross_out", layer=..., call=...), metric)           # doctest: +SKIP

The denoiser's blocks are the main stream, the text encoder's the stream ``text``. With guidance every example is run twice in
one batch, without its prompt and with it: the axis ``half``. The text encoder is called for the prompt (call 0), then for the
negative prompt (call 1). diffusers' pipelines run without gradients.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.errors import LoadError
from interp.models import examples
from interp.models.anatomy import Anatomy, Repeated
from interp.models.anatomy.parts import composed
from interp.models.calls import first_tensor
from interp.sites import MAIN

DENOISERS = ("unet", "transformer")
STREAMS = {"unet": "main", "transformer": "main", "text_encoder": "text", "vae": "vae"}
"""What the main streams of a pipeline's parts are called; other parts by their own name."""


def is_pipeline(model: Any) -> bool:
    """Whether something is a pipeline of diffusers, told without importing it."""
    return any(
        kind.__name__ == "DiffusionPipeline" and kind.__module__.startswith("diffusers.") for kind in type(model).__mro__
    )


@dataclass(frozen=True)
class Settings:
    """How images are generated."""

    steps: int = 20
    guidance: float = 7.5
    """Weight of the prompt; at 1 or below there is no half without it."""
    output: Literal["image", "latent"] = "image"


class Generation(nn.Module):
    """A pipeline of diffusers as a module, its parts under the names that they have there.

    Args:
        pipeline: one that takes ``latents`` and prompt embeddings, with a scheduler that draws nothing by itself.
    """

    def __init__(self, pipeline: Any, settings: Settings) -> None:
        super().__init__()
        self.pipeline, self.settings = pipeline, settings
        for name, part in pipeline.components.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
        takes = inspect.signature(pipeline.__call__).parameters
        lacking = [name for name in ("latents", "prompt_embeds") if name not in takes]
        if lacking or self.denoiser is None:
            needs = f"takes no {lacking[0]}" if lacking else f"has no part called {' or '.join(DENOISERS)}"
            raise LoadError(f"{type(pipeline).__name__} {needs}; load its denoiser by itself")

    @property
    def denoiser(self) -> str | None:
        """Which part is called once a step."""
        return next((name for name in DENOISERS if name in self._modules), None)

    @property
    def guided(self) -> bool:
        return self.settings.guidance > 1

    def forward(
        self,
        latents: Float[Tensor, "example channel row column"],
        input_ids: Int[Tensor, "example token"] | None = None,
        negative_input_ids: Int[Tensor, "example token"] | None = None,
        prompt_embeds: Float[Tensor, "example token d_model"] | None = None,
        negative_prompt_embeds: Float[Tensor, "example token d_model"] | None = None,
    ) -> Float[Tensor, "example colour height width"]:
        """Generate one image, or its latents, for every example.

        Args:
            latents: the noise that each begins with.
            input_ids: the prompt; or ``prompt_embeds``, what the text encoder makes of it.
            negative_input_ids: what guidance leads away from; by default the empty prompt.

        Raises:
            ValueError: neither ids nor embeddings of a prompt.
        """
        prompt = self._embedded(input_ids, prompt_embeds, "prompt_embeds")
        negative = None
        if self.guided:
            if negative_input_ids is None and negative_prompt_embeds is None:
                negative_input_ids = self._empty(len(latents), prompt.shape[1]).to(latents.device)
            negative = self._embedded(negative_input_ids, negative_prompt_embeds, "negative_prompt_embeds")
        with _quiet(self.pipeline):
            made = self.pipeline(
                prompt_embeds=prompt,
                negative_prompt_embeds=negative,
                latents=latents,
                num_inference_steps=self.settings.steps,
                guidance_scale=self.settings.guidance,
                output_type="pt" if self.settings.output == "image" else "latent",
            )
        images: Tensor = made.images
        return images

    def _embedded(self, ids: Tensor | None, embeds: Tensor | None, name: str) -> Tensor:
        if embeds is not None:
            return embeds
        encoder = self._modules.get("text_encoder")
        if ids is None or encoder is None:
            raise ValueError(f"a generation needs {name}" + ("" if encoder is None else " or token ids"))
        found: Tensor = encoder(ids)[0]
        return found

    def _empty(self, examples: int, tokens: int) -> Tensor:
        tokenizer = getattr(self.pipeline, "tokenizer", None)
        if tokenizer is None:
            raise ValueError("guidance needs negative_input_ids or negative_prompt_embeds, because there is no tokenizer")
        ids = tokenizer("", padding="max_length", max_length=tokens, truncation=True)["input_ids"]
        return torch.tensor(ids).expand(examples, -1)


def called_with(part: nn.Module) -> dict[str, Tensor] | None:
    """Arguments of one forward pass of a part, as a pipeline calls it: positions are numbered by the part itself."""
    try:
        found = examples.example(part)
    except LoadError:
        return None
    return {name: tensor for name, tensor in found.items() if name != "position_ids"}


def example(generation: Generation, parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Arguments of one generation of three examples, from those of its parts."""
    denoised = parts[generation.denoiser or ""]
    found = {"latents": next(denoised[name] for name in ("sample", "hidden_states") if name in denoised)}
    texts = parts.get("text_encoder")
    if texts is not None:
        found |= {"input_ids": texts["input_ids"]}
        found |= {"negative_input_ids": texts["input_ids"].roll(1, -1)} if generation.guided else {}
    else:
        found |= {"prompt_embeds": denoised["encoder_hidden_states"]}
        found |= {"negative_prompt_embeds": -denoised["encoder_hidden_states"]} if generation.guided else {}
    return found


def anatomy(generation: Generation, parts: Mapping[str, Anatomy], inputs: Mapping[str, Tensor]) -> Anatomy:
    """The sites of a pipeline: those of its parts, with the number of times that one generation calls each."""
    names = {name: STREAMS.get(name, name) for name in parts}
    repeated, shape = counted(generation, list(parts), {name: tensor[:1] for name, tensor in inputs.items()})
    found = composed(parts, names, repeated)
    made = {("", "output"): (found.batch, *shape[1:])}
    streams = dict(found.streams)
    if MAIN in streams and streams[MAIN].cross and "text" in streams:  # as many positions as the prompt has tokens
        streams[MAIN] = replace(streams[MAIN], attends="text")
    return replace(found, streams=streams, outputs=shape[1], shapes={**found.shapes, **made})


def counted(
    generation: Generation, parts: list[str], inputs: Mapping[str, Tensor]
) -> tuple[dict[str, Repeated], tuple[int, ...]]:
    """How often a generation of one example calls its parts, and with both halves or one; and the shape of what it makes."""
    calls: dict[str, list[int]] = {name: [] for name in parts}

    def note(name: str) -> Any:
        return lambda module, args, kwargs: calls[name].append(len(first_tensor(args, kwargs)))

    handles = [generation.get_submodule(name).register_forward_pre_hook(note(name), with_kwargs=True) for name in parts]
    try:
        with torch.no_grad():
            shape = tuple(generation(**inputs).shape)
    finally:
        for handle in handles:
            handle.remove()
    return {name: Repeated(len(sizes), max(sizes)) for name, sizes in calls.items() if sizes and set(sizes) <= {1, 2}}, shape


@contextmanager
def _quiet(pipeline: Any) -> Iterator[None]:
    """Without diffusers' own bar of steps; the sweep has one."""
    own = getattr(pipeline, "_progress_bar_config", None)
    pipeline.set_progress_bar_config(**{**(own or {}), "disable": True})
    try:
        yield
    finally:
        if own is None:
            del pipeline._progress_bar_config
        else:
            pipeline._progress_bar_config = own
