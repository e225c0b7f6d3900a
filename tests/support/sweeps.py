"""What tests of the engine share: models made once, random pairs of ids, and an independent reference.

The reference knows nothing of the engine: one prompt at a time, unpadded, through the raw module with plain torch hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from interp.models import Model, load
from interp.models.stack import Stack
from interp.models.zoo import ZooConfig
from interp.prompts import Pair, Pairs, Prompt


def zoo(seed: int, **changes: object) -> PreTrainedModel:
    """The zoo's class, attention only unless told otherwise, with grouped-query attention and learned positions."""
    sizes = {"vocab_size": tiny.VOCAB, "hidden_size": tiny.WIDTH, "num_hidden_layers": 3, "num_attention_heads": tiny.HEADS}
    config = ZooConfig(**(sizes | {"num_key_value_heads": tiny.KV_HEADS, "attn_only": True, "attention_bias": True} | changes))
    return tiny.random_model(config, seed)


MAKERS: dict[str, Callable[[int], PreTrainedModel]] = {
    "gpt2": tiny.gpt2,
    "llama": tiny.llama,
    "mistral": tiny.mistral,
    "zoo": zoo,
    "neox": tiny.neox,
    "neox-sequential": lambda seed: tiny.neox(seed, parallel=False),
    "gemma2": tiny.gemma2,
    "qwen3": tiny.qwen3,
    "bloom": tiny.bloom,
}


@cache
def model(kind: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Model:
    """Made once; tests that change a module make their own."""
    return load(MAKERS[kind](seed).to(dtype), name=f"{kind}-{seed}")


def random_pairs(seed: int, lengths: Sequence[int], *, longer: Sequence[int] | None = None, early: bool = False) -> Pairs:
    """Pairs of ids that differ from a random position on, here and there; roles "subject" (1 or 2 tokens) and "end".

    Args:
        lengths: of the clean prompts.
        longer: tokens that each corrupted prompt has more; equal lengths where left out.
        early: whether the first token may differ; else the two prompts begin alike.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    items = []
    for i, n in enumerate(lengths):
        clean = [draw(0, tiny.VOCAB) for _ in range(n)]
        more = 0 if longer is None else longer[i]
        corrupted = [*clean, *(draw(0, tiny.VOCAB) for _ in range(more))][: n + more]
        first = draw(0 if early else 1, n - 1)
        for p in {first, draw(first, n), n - 1} - {p for p in range(n) if p >= len(corrupted)}:
            corrupted[p] = (corrupted[p] + 1 + draw(0, tiny.VOCAB - 1)) % tiny.VOCAB
        width = draw(1, 3)
        start, other = draw(0, n - width), draw(0, min(n, n + more) - width + 1)
        moved = start if longer is None else other
        roles = {"subject": (start, start + width), "end": (n - 1, n)}
        theirs = {"subject": (moved, moved + width), "end": (n + more - 1, n + more)}
        a, b, c = (int(t) for t in torch.randperm(tiny.VOCAB, generator=generator)[:3])
        items.append(
            Pair(
                Prompt(tuple(clean), roles),
                Prompt(tuple(corrupted), theirs),
                (a,) if i % 2 else (a, c),
                (b,),
                template=f"t{i % 2}",
                entities=(f"e{i % 3}",),
            )
        )
    return Pairs(tuple(items), "toy", {"seed": seed})


def record(module: nn.Module, path: str, ids: Sequence[int], side: str = "output") -> Tensor:
    """What a module of the raw network gives (or takes) on one prompt, ``[1, position, width]``."""
    kept: list[Tensor] = []
    handle = _hook(module.get_submodule(path), side, lambda h: kept.append(h.detach().clone()))
    with torch.no_grad():
        module(torch.tensor([list(ids)]))
    handle.remove()
    return kept[0]


def rerun(module: nn.Module, path: str, ids: Sequence[int], change: Callable[[Tensor], Tensor], side: str = "output") -> Tensor:
    """Last logits ``[vocab]`` of one prompt with what a module gives (or takes) changed."""
    handle = _hook(module.get_submodule(path), side, change)
    with torch.no_grad():
        logits = module(torch.tensor([list(ids)])).logits[0, -1]
    handle.remove()
    return logits


def _hook(module: nn.Module, side: str, change: Callable[[Tensor], Any]) -> Any:
    def before(m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        key = "hidden_states"
        seen = args[0] if args else kwargs[key]
        new = change(seen)
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, key: new})

    def after(m: nn.Module, args: Any, output: Any) -> Any:
        seen = output[0] if isinstance(output, tuple) else output
        new = change(seen)
        if new is None:
            return None
        return (new, *output[1:]) if isinstance(output, tuple) else new

    return (
        module.register_forward_hook(after) if side == "output" else module.register_forward_pre_hook(before, with_kwargs=True)
    )


def rows_of_blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows every block is run with from now on."""
    run, seen = Stack.run, []

    def spy(self: Stack, layer: int, hidden: Tensor, *args: Any, **options: Any) -> Tensor:
        seen.append(len(hidden))
        return run(self, layer, hidden, *args, **options)

    monkeypatch.setattr(Stack, "run", spy)
    return seen


def unchecked(function: Any) -> Any:
    """A function without the tests' check of annotations, as users have it: what it is given then reaches its own checks."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function
