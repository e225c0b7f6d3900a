"""Hooks of ours on the hook points of a TransformerBridge, for one forward pass.

>>> with PointHooks(bridge, taps, reads=[site]) as hooks:                                 # doctest: +SKIP
...     called(bridge, {"input_ids": ids})
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from interp.models.calls import Call
from interp.models.hooks import Hooks
from interp.sites import Site


def called(bridge: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """The bridge's logits for keyword arguments of the model that it wraps."""
    rest = dict(inputs)
    first = next((rest.pop(name) for name in ("input_ids", "pixel_values", "input_values") if name in rest), None)
    return bridge(first, return_type="logits", **rest)


@dataclass(frozen=True)
class Column:
    """One number a token, in a last axis of its own."""

    def read(self, seen: Tensor, call: Call | None) -> Float[Tensor, "example position"]:
        return seen[..., 0]

    def put(self, seen: Tensor, new: Tensor, call: Call | None) -> Tensor:
        return new[..., None]


class PointHooks(Hooks):
    """Hooks on hook points, through their own registry, which decides whether some of them are called at all."""

    def _attach(self, module: nn.Module, event: str, sites: list[Site]) -> None:
        if not isinstance(module, HookPoint):
            super()._attach(module, event, sites)
            return

        def seen(tensor: Tensor, hook: Any) -> Tensor | None:
            new = self.visit(self._now(sites), tensor, None)
            return None if new is tensor else new

        self._handles.append(PointHandle(module, module.add_hook(seen)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class PointHandle:
    """One hook of ours on a hook point."""

    point: HookPoint
    handle: Any

    def remove(self) -> None:
        self.handle.hook.remove()
        if self.handle in self.point.fwd_hooks:
            self.point.fwd_hooks.remove(self.handle)
