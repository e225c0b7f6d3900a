"""One forward pass with everything written down that passed certain modules.

>>> seen = record(module, {"model.layers.0.mlp"}, set(), lambda: module(**inputs))          # doctest: +SKIP
>>> seen.output("model.layers.0.mlp").shape                                               # doctest: +SKIP
torch.Size([3, 6, 32])
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from interp.models.hooks import SOFTMAX
from interp.models.taps import first_tensor, output_tensor

Shapes = dict[tuple[str, str], tuple[int, ...]]
"""Shape of a tensor by path and side, ``"input"`` or ``"output"``, of modules that are called once."""


@dataclass(eq=False)
class Seen:
    """What passed, one entry a call."""

    inputs: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    outputs: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    overwritten: set[str] = field(default_factory=set)
    """Modules whose output somebody wrote into later, so that only a copy keeps what they gave."""
    softmaxes: dict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=lambda: defaultdict(list))
    """Argument and result of every softmax called inside an attention module."""
    alone: set[str] = field(default_factory=set)
    """Modules that are called with one tensor and nothing else."""
    tensors: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    """Shapes of all tensors that a module is called with."""
    order: list[str] = field(default_factory=list)
    """Modules as they were first called."""
    shapes: Shapes = field(default_factory=dict)
    """Of what every module of the model takes and gives."""
    heads: list[str] = field(default_factory=list)
    """Modules whose output holds logits by name, the innermost first."""

    def input(self, path: str) -> Tensor | None:
        """What a module that was called once took."""
        return self.inputs[path][0] if len(self.inputs[path]) == 1 else None

    def output(self, path: str) -> Tensor | None:
        """What a module that was called once gave."""
        return self.outputs[path][0] if len(self.outputs[path]) == 1 else None

    def softmax(self, path: str) -> tuple[Tensor, Tensor] | None:
        """Scores and pattern of an attention module that called one softmax."""
        return self.softmaxes[path][0] if len(self.softmaxes[path]) == 1 else None


def record(module: nn.Module, paths: Collection[str], attention: Collection[str], forward: Callable[[], object]) -> Seen:
    """Run ``forward`` and write down what goes into and out of modules.

    Args:
        attention: modules inside which softmaxes are written down.
    """
    seen, given, inside = Seen(), {}, _Inside()

    def before(path: str) -> Callable[..., None]:
        def hook(m: nn.Module, args: Any, kwargs: Any) -> None:
            if path not in seen.inputs:
                seen.order.append(path)
            if len(args) + len(kwargs) == 1:
                seen.alone.add(path)
            seen.tensors[path] = [tuple(v.shape) for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
            with suppress(TypeError):  # called without a tensor
                seen.inputs[path].append(first_tensor(args, kwargs).detach().clone())

        return hook

    def after(path: str) -> Callable[..., None]:
        def hook(m: nn.Module, args: Any, output: Any) -> None:
            with suppress(TypeError):
                tensor = output_tensor(output)
                given[path, len(seen.outputs[path])] = (tensor, tensor._version)
                seen.outputs[path].append(tensor.detach().clone())

        return hook

    def enter(path: str) -> Callable[..., None]:
        return lambda m, args: inside.stack.append(path)

    def leave(m: nn.Module, args: Any, output: Any) -> None:
        inside.stack.pop()

    inside.found = seen.softmaxes
    with ExitStack() as hooks, torch.no_grad():
        for path in dict.fromkeys((*paths, *attention)):
            part = module.get_submodule(path)
            handles = [part.register_forward_pre_hook(before(path), with_kwargs=True), part.register_forward_hook(after(path))]
            if path in attention:
                handles += [part.register_forward_pre_hook(enter(path)), part.register_forward_hook(leave)]
            for handle in handles:
                hooks.callback(handle.remove)
        with inside:
            seen.shapes, seen.heads = shapes(module, forward)
    seen.overwritten = {path for (path, _), (tensor, version) in given.items() if tensor._version != version}
    return seen


def shapes(module: nn.Module, forward: Callable[[], object]) -> tuple[Shapes, list[str]]:
    """Run ``forward`` and write down the shapes of what goes into and out of every module, and which of them give logits."""
    found: Shapes = {}
    heads: list[str] = []
    twice: set[tuple[str, str]] = set()

    def note(path: str, side: str, tensor: Callable[[], Tensor]) -> None:
        with suppress(TypeError):  # no tensor there
            twice.update({(path, side)} & found.keys())
            found[path, side] = tuple(tensor().shape)

    def before(path: str) -> Callable[..., None]:
        return lambda m, args, kwargs: note(path, "input", lambda: first_tensor(args, kwargs))

    def after(path: str) -> Callable[..., None]:
        def hook(m: nn.Module, args: Any, output: Any) -> None:
            note(path, "output", lambda: output_tensor(output))
            if isinstance(getattr(output, "logits", None), Tensor):
                heads.append(path)

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for path, part in module.named_modules():
            hooks.callback(part.register_forward_pre_hook(before(path), with_kwargs=True).remove)
            hooks.callback(part.register_forward_hook(after(path)).remove)
        forward()
    return {place: shape for place, shape in found.items() if place not in twice}, heads


class _Inside(TorchFunctionMode):
    """Writes down every softmax that is called inside an attention module."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.found: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.stack and func in SOFTMAX:
            self.found[self.stack[-1]].append((args[0].detach().clone(), result.detach().clone()))
        return result
