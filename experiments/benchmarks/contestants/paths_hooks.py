"""Path patching by plain hooks on GPT-2, as it is commonly written: two forward passes of all pairs for every sender."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from contestants.hooks import hooked, source_run
from contestants.networks import Shape
from contestants.paths_question import Paths
from contestants.timed import Contestant


class PathHooks(Contestant):
    """z of base and source are kept once. A sender's first pass, all other z frozen, ends without logits; the second has them
    at every position, or after the last token alone. Senders without a path are not run.
    """

    def __init__(self, shape: Shape, network: PreTrainedModel, logits_to_keep: int = 0) -> None:
        self.shape, self.network, self.device, self.logits_to_keep = shape, network, shape.device, logits_to_keep

    @torch.no_grad()
    def answer(self, asked: Paths) -> Tensor:
        question, ids = asked.question, asked.question.ids("base")
        everywhere = replace(question, layers=tuple(range(self.shape.layers)))
        (base, last), (source, _) = (
            source_run(self.shape, self.network, replace(everywhere, source=getattr(question, side)))
            for side in ("base", "source")
        )
        values = question.measure(last, last).repeat(len(question.layers), len(question.where), 1)
        for layer, head in asked.senders():
            queries = self._received(ids, self._sent(base, source, layer, head), asked.receivers)
            logits = self._logits(ids, queries)
            values[question.layers.index(layer), question.where.index(head)] = question.measure(logits[:, -1], last)
        return values

    def _sent(self, base: dict[int, Tensor], source: dict[int, Tensor], layer: int, head: int) -> dict[int, Tensor]:
        """z of every layer, the base's but for one head's at the last token."""
        units, changed = self._units(head), base[layer].clone()
        changed[:, -1, units] = source[layer][:, -1, units]
        return base | {layer: changed}

    def _received(
        self, ids: Tensor, frozen: dict[int, Tensor], receivers: tuple[tuple[int, int], ...]
    ) -> dict[tuple[int, int], Tensor]:
        """The receivers' queries ``[example, unit]`` at the last token while every z is frozen."""
        found: dict[tuple[int, int], Tensor] = {}
        with ExitStack() as hooks:
            for layer, z in frozen.items():
                hooks.enter_context(hooked(self.shape.w_o(self.network, layer), lambda _, z=z: z))
            for layer, head in receivers:

                def read(output: Tensor, at: tuple[int, int] = (layer, head)) -> None:
                    found[at] = output[:, -1, self._units(at[1])].clone()

                self._on_projections(hooks, layer, read)
            self.network.base_model(input_ids=ids, use_cache=False)
        return found

    def _logits(self, ids: Tensor, queries: dict[tuple[int, int], Tensor]) -> Tensor:
        """Logits of the base run with these queries at the last token."""
        with ExitStack() as hooks:
            for (layer, head), query in queries.items():

                def write(output: Tensor, head: int = head, query: Tensor = query) -> Tensor:
                    output = output.clone()
                    output[:, -1, self._units(head)] = query
                    return output

                self._on_projections(hooks, layer, write)
            return self.network(input_ids=ids, use_cache=False, logits_to_keep=self.logits_to_keep).logits

    def _units(self, head: int) -> slice:
        """A head's part of z, and of queries, keys and values side by side, where queries come first."""
        return slice(head * self.shape.head_width, (head + 1) * self.shape.head_width)

    def _on_projections(self, hooks: ExitStack, layer: int, do: Callable[[Tensor], Tensor | None]) -> None:
        """Until ``hooks`` ends, queries, keys and values of a block pass through ``do``."""

        def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
            return do(output)

        handle = self.shape.blocks(self.network)[layer].attn.c_attn.register_forward_hook(hook)
        hooks.callback(handle.remove)
