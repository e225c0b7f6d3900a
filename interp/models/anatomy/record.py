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
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from interp.models.calls import first_tensor, output_tensor
from interp.models.inside import SOFTMAX

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
    recorder = _Recorder()
    inside = recorder.inside
    inside.found = recorder.seen.softmaxes
    with ExitStack() as hooks, torch.no_grad():
        for path in dict.fromkeys((*paths, *attention)):
            part = module.get_submodule(path)
            handles = [
                part.register_forward_pre_hook(partial(recorder.before, path), with_kwargs=True),
                part.register_forward_hook(partial(recorder.after, path)),
            ]
            if path in attention:
                handles += [
                    part.register_forward_pre_hook(partial(inside.enter, path)),
                    part.register_forward_hook(inside.leave),
                ]
            for handle in handles:
                hooks.callback(handle.remove)
        with inside:
            recorder.seen.shapes, recorder.seen.heads = shapes(module, forward)
    return recorder.told()


class _Recorder:
    def __init__(self) -> None:
        self.seen, self.inside = Seen(), _Inside()
        self.given: dict[tuple[str, int], tuple[Tensor, int]] = {}

    def before(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        seen = self.seen
        if path not in seen.inputs:
            seen.order.append(path)
        if len(args) + len(kwargs) == 1:
            seen.alone.add(path)
        seen.tensors[path] = [tuple(v.shape) for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
        with suppress(TypeError):  # called without a tensor
            seen.inputs[path].append(first_tensor(args, kwargs).detach().clone())

    def after(self, path: str, module: nn.Module, args: Any, output: Any) -> None:
        with suppress(TypeError):
            tensor = output_tensor(output)
            self.given[path, len(self.seen.outputs[path])] = (tensor, tensor._version)
            self.seen.outputs[path].append(tensor.detach().clone())

    def told(self) -> Seen:
        self.seen.overwritten = {path for (path, _), (tensor, version) in self.given.items() if tensor._version != version}
        return self.seen


def shapes(module: nn.Module, forward: Callable[[], object]) -> tuple[Shapes, list[str]]:
    """Run ``forward`` and write down the shapes of what goes into and out of every module, and which of them give logits."""
    noted = _Shapes()
    with ExitStack() as hooks, torch.no_grad():
        for path, part in module.named_modules():
            hooks.callback(part.register_forward_pre_hook(partial(noted.before, path), with_kwargs=True).remove)
            hooks.callback(part.register_forward_hook(partial(noted.after, path)).remove)
        forward()
    return {place: shape for place, shape in noted.found.items() if place not in noted.twice}, noted.heads


class _Shapes:
    def __init__(self) -> None:
        self.found: Shapes = {}
        self.twice: set[tuple[str, str]] = set()
        self.heads: list[str] = []

    def before(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        with suppress(TypeError):  # called without a tensor
            self._note(path, "input", first_tensor(args, kwargs))

    def after(self, path: str, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(getattr(output, "logits", None), Tensor):
            self.heads.append(path)
        with suppress(TypeError):
            self._note(path, "output", output_tensor(output))

    def _note(self, path: str, side: str, tensor: Tensor) -> None:
        if (path, side) in self.found:
            self.twice.add((path, side))
        self.found[path, side] = tuple(tensor.shape)


class _Inside(TorchFunctionMode):
    """Writes down every softmax that is called inside an attention module."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.found: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def enter(self, path: str, module: nn.Module, args: Any) -> None:
        self.stack.append(path)

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.stack.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.stack and func in SOFTMAX:
            self.found[self.stack[-1]].append((args[0].detach().clone(), result.detach().clone()))
        return result
