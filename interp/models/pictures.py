"""Pictures of a prompt: the model's own processor makes numbers of them, and tokens that stand for them in the text.

    >>> asked = Prompt("<image> What is this?", {"what": (8, 12)}, images=(photo,))          # doctest: +SKIP
    >>> pictured(asked, processor, tokenizer, image=32000).text[:3]                          # doctest: +SKIP
    (1, 32000, 32000)

A processor repeats the token of a picture as often as the picture has positions; roles of the text move along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from interp.errors import InputError, PositionError
from interp.prompts import Prompt, Span
from interp.protocols import Tokenizer

_OF_TOKENS = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")


def pictured(prompt: Prompt, processor: Any, tokenizer: Tokenizer | None, image: int | None) -> Prompt:
    """The same prompt with its pictures as arrays, and its text as the tokens that the processor makes of it.

    Args:
        processor: the model's own, as transformers makes it; one of images alone where the text has no place for them.
        image: the token that stands where a picture is.

    Raises:
        InputError: there is no processor.
        PositionError: a role that cannot be found among the processor's tokens.
    """
    if not prompt.images:
        return prompt
    if processor is None:
        raise InputError(
            "the prompt has images, but the model has no processor: load a folder that holds one, or give the numbers "
            "themselves, Prompt(inputs={'pixel_values': …})"
        )
    told = isinstance(prompt.text, str) and bool(prompt.text) and hasattr(processor, "image_processor")
    process = processor if told else getattr(processor, "image_processor", processor)
    text = {"text": prompt.text, **({"add_special_tokens": False} if prompt.templated else {})} if told else {}
    made = dict(process(images=list(prompt.images), return_tensors="pt", **text))
    arrays = {name: array for name, array in made.items() if name not in _OF_TOKENS}
    asked = replace(prompt, images=(), inputs={**arrays, **prompt.inputs})
    if "input_ids" not in made:
        return asked
    ids = made["input_ids"][0].tolist()
    return replace(asked, text=tuple(ids), roles=_moved(prompt, ids, tokenizer, image))


def _moved(prompt: Prompt, ids: Sequence[int], tokenizer: Tokenizer | None, image: int | None) -> dict[str, Span]:
    """Roles of a text as spans of its tokens, each picture's token repeated as often as it has positions."""
    own = {role: span for role, span in prompt.roles.items() if ":" not in role}
    rest = {role: span for role, span in prompt.roles.items() if ":" in role}
    if not own or tokenizer is None:
        return rest
    found = tokenizer(prompt.text, add_special_tokens=not prompt.templated, return_offsets_mapping=True)
    spans = [tuple(span) for span in found["offset_mapping"]]
    starts = _starts(list(found["input_ids"]), ids, image)
    if starts is None:
        raise PositionError(
            f"the roles of prompt {prompt.text!r} cannot be found among the tokens that the processor made of it; give the "
            "prompt as token ids, with roles as spans of them"
        )
    moved = {}
    for role, (start, stop) in own.items():
        at = [i for i, (a, b) in enumerate(spans) if a < stop and start < b]
        if not at:
            raise PositionError(f"role {role!r} of prompt {prompt.text!r} covers {prompt.text[start:stop]!r}, no token of it")
        moved[role] = (starts[at[0]], starts[at[-1] + 1])
    return moved | rest


def _starts(plain: Sequence[int], ids: Sequence[int], image: int | None) -> list[int] | None:
    """Where each token of the plain text begins among the processor's, and where the last ends; None if they do not match."""
    starts, at = [], 0
    for token in plain:
        starts.append(at)
        if at >= len(ids) or ids[at] != token:
            return None
        at += 1
        while token == image and at < len(ids) and ids[at] == image:
            at += 1
    return [*starts, at] if at == len(ids) else None
