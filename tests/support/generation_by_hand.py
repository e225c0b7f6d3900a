"""Generation written by hand: greedy, one prompt at a time, a whole pass of the raw module for every new token, no cache.

Edits are plain torch hooks on a block's output, at the same absolute positions in every pass. Weights are float64 where the
architecture computes in it; where the next token is a matter of rounding, no tokens are returned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import tiny
import torch
from torch import Tensor

from interp import generate
from interp.doctor import architectures
from interp.engine import Generated
from interp.interventions import Add, Change, Constant
from interp.models import Model, load
from interp.prompts import Prompt

SINGLE = (
    *("gpt-neo", "gpt-j", "gemma2", "gemma3", "bloom", "mixtral", "qwen3-moe", "deepseek-v3", "mamba", "gpt-oss", "jamba"),
    "qwen3-next",
)
"""Those that compute parts in float32 whatever their weights are, or cannot do without."""

NEW = 6
"""New tokens of a text."""

Run = Callable[[dict[str, Tensor]], Tensor]
"""Arguments of one forward pass to its logits."""


@cache
def model(kind: str) -> Model:
    """Made once."""
    module = architectures.build(kind)
    return load(module if kind in SINGLE else module.double(), name=kind)


def share(kind: str, dtype: torch.dtype) -> float:
    """Largest deviation that rounding explains, of the largest number: ten times that of float32 for recurrences."""
    single = kind in SINGLE or dtype == torch.float32
    return {"mamba": 1e-4, "qwen3-next": 1e-4}.get(kind, 1e-5 if single else 1e-10)


def ids(seed: int, *lengths: int) -> list[tuple[int, ...]]:
    """Random texts without the token that ends one."""
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randint(1, tiny.VOCAB - 5, (n,), generator=generator).tolist()) for n in lengths]


def prompts(kind: str, seed: int) -> list[Prompt]:
    """Two, of unequal length where the model lets them be."""
    if kind == "whisper":
        shape = model(kind).example["input_features"].shape[1:]
        sounds = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        texts = ids(seed, 3, 3)
        return [Prompt(inputs={"input_features": sound}, target=text) for sound, text in zip(sounds, texts, strict=True)]
    if kind in ("t5", "bart"):
        return [Prompt(text, target=said) for text, said in zip(ids(seed, 6, 6), ids(seed + 1, 3, 3), strict=True)]
    sides = model(kind).reading.sides
    return [Prompt(text) for text in ids(seed, 5, 8 if all(sides.values()) else 5)]


def said(prompt: Prompt) -> tuple[int, ...]:
    """The tokens that the text goes on from."""
    found = prompt.text if prompt.target is None else prompt.target
    assert isinstance(found, tuple)
    return found


def arguments(prompt: Prompt, text: Sequence[int]) -> dict[str, Tensor]:
    """What the raw module is called with."""
    now = torch.tensor([list(text)])
    if prompt.target is None:
        return {"input_ids": now}
    of_encoder = {name: array[None] for name, array in prompt.inputs.items()} or {"input_ids": torch.tensor([prompt.text])}
    return {**of_encoder, "decoder_input_ids": now}


def greedy(prompt: Prompt, run: Run, new: int) -> tuple[list[int], Tensor]:
    """New tokens and their log-probabilities."""
    text, logprobs, narrowest = list(said(prompt)), [], torch.inf
    for _ in range(new):
        logits = run(arguments(prompt, text))[0, -1]
        chosen = logits.clone()
        chosen[0] = -torch.inf  # the token that would end it
        best, second = chosen.topk(2).values.tolist()
        narrowest = min(narrowest, best - second)
        text.append(int(chosen.argmax()))
        logprobs.append(float(logits.float().log_softmax(-1)[text[-1]]))
    return text[len(said(prompt)) :] if narrowest > 1e-3 else [], torch.tensor(logprobs)


def hooked(kind: str, block: str, change: Callable[[Tensor], Tensor]) -> tuple[Run, list[Tensor]]:
    """Whole passes of the raw module with a block's output changed; and what that output was, pass by pass."""
    module, seen = model(kind).module, []

    def after(owner: Any, args: Any, output: Any) -> Any:
        h = change((output[0] if isinstance(output, tuple) else output).clone())
        seen.append(h)
        return (h, *output[1:]) if isinstance(output, tuple) else h

    def run(given: dict[str, Tensor]) -> Tensor:
        handle = module.get_submodule(block).register_forward_hook(after)
        try:
            with torch.no_grad():
                return module(**given, use_cache=False).logits
        finally:
            handle.remove()

    return run, seen


def added(positions: Callable[[int], bool], vector: Tensor) -> Callable[[Tensor], Tensor]:
    """Adds a vector at some absolute positions."""

    def change(h: Tensor) -> Tensor:
        there = torch.tensor([positions(p) for p in range(h.shape[1])])
        return h + there[None, :, None] * vector

    return change


def close(kind: str, got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=share(kind, expected.dtype) * (1 + float(expected.abs().max())))


def rows(made: Generated, cell: int) -> list[list[int]]:
    return [row[row >= 0].tolist() for row in made.ids[cell]]


def write(kind: str, given: Sequence[Prompt], interventions: Any, /, **options: Any) -> Generated:
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "forced_eos_token_id": None} | options
    return generate(model(kind), list(given), interventions, **options)


def steered(strength: float, site: str = "L1.resid_post", positions: Any = None) -> Change:
    vector = torch.randn(tiny.WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return Change(site, positions, Constant(vector), Add(strength))


def same(one: Generated, other: Generated, cell: int, row: int, other_cell: int = 0, other_row: int = 0) -> None:
    """Two rows hold the same tokens with the same log-probabilities."""
    assert torch.equal(one.ids[cell, row], other.ids[other_cell, other_row])
    got, expected = one.logprobs[cell, row], other.logprobs[other_cell, other_row]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5, equal_nan=True)
