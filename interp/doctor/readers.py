"""Which weights read what a norm gives: found in one forward pass by following its output from operation to operation.

>>> read = readings(model)["model.norm"]                                                  # doctest: +SKIP
>>> read.weights, read.others                                                             # doctest: +SKIP
({'lm_head.weight': -1}, ())

Nothing is known by name. A matrix product of a norm's output with a weight is a reading; operations that only lay numbers out
anew, or scale all of them, are followed; whatever else takes it (a sum, a product with another tensor) is written down, since a
norm that feeds it is more than the scale of some linear maps' inputs.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from interp.models import Model
from interp.models.calls import output_tensor
from interp.models.norms import is_norm

_FOLLOWED = {
    *("view", "reshape", "flatten", "unflatten", "contiguous", "clone", "detach", "to", "float", "type_as", "type"),
    *("unsqueeze", "squeeze", "transpose", "permute", "__getitem__", "index_select", "expand", "roll", "dropout", "repeat"),
    *("repeat_interleave", "requires_grad_", "alias"),
}
_SCALED = {"mul", "__mul__", "__rmul__", "div", "__truediv__"}
_PRODUCTS = {"linear": 1, "matmul": 1, "__matmul__": 1, "mm": 1, "bmm": 1, "addmm": 2, "baddbmm": 2}
"""Matrix products, and which argument is the weight; what it is multiplied by stands before it."""
_IGNORED = {
    "dim",
    "size",
    "__len__",
    "numel",
    "is_floating_point",
    "__get__",
    "new_empty",
    "zeros_like",
    "empty_like",
    "stride",
}
"""What asks a tensor for its shape and the like."""


@dataclass
class Reading:
    """Who takes the output of one norm."""

    weights: dict[str, int] = field(default_factory=dict)
    """Parameters by which it is multiplied, each with the axis (−1 or −2) along which it lies in them."""
    others: set[str] = field(default_factory=set)
    """Operations that take it otherwise."""


@dataclass
class Flow:
    """What was seen in one forward pass."""

    readings: dict[str, Reading]
    """By the path of the norm."""
    products: list[tuple[str, str, int, bool]]
    """Every product with a weight: the innermost module in which it was computed, the parameter, the axis of its outputs, and
    whether a norm's output was multiplied."""


def flow(model: Model) -> Flow:
    """Follow the output of every norm through one pass of the model's own example."""
    module = model.module
    follow = _Follow(module)
    with ExitStack() as stack:
        for path, part in module.named_modules():
            stack.callback(part.register_forward_pre_hook(partial(follow.enter, path)).remove)
            stack.callback(part.register_forward_hook(partial(follow.leave, path, has_gain(part))).remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(model.prepared(model.sites()))
        stack.enter_context(_experts_one_by_one(module))
        stack.enter_context(follow)
        module(**model.example)
    return Flow(follow.readings, follow.products)


def has_gain(module: nn.Module) -> bool:
    """Whether a module is a norm with a gain: it has a vector called weight."""
    weight = getattr(module, "weight", None)
    return is_norm(module) and isinstance(weight, Tensor) and weight.ndim == 1


class _Follow(TorchFunctionMode):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.readings: dict[str, Reading] = {}
        self.products: list[tuple[str, str, int, bool]] = []
        self.inside: list[str] = []
        self._marked: dict[int, tuple[Tensor, str]] = {}
        """Tensors that hold a norm's output, kept alive so that their ids stay theirs."""
        self._weights = {p.untyped_storage().data_ptr(): (name, p) for name, p in module.named_parameters() if p.ndim >= 2}

    def enter(self, path: str, module: nn.Module, args: Any) -> None:
        self.inside.append(path)

    def leave(self, path: str, norm: bool, module: nn.Module, args: Any, output: Any) -> None:
        self.inside.pop()
        if norm:
            with suppress(TypeError):
                tensor = output_tensor(output)
                self._marked[id(tensor)] = (tensor, path)
                self.readings.setdefault(path, Reading())

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", str(func))
        given = [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, Tensor)]
        given += [value for many in args if isinstance(many, (tuple, list)) for value in many if isinstance(value, Tensor)]
        marked = [self._marked[id(tensor)][1] for tensor in given if id(tensor) in self._marked]
        if name in _PRODUCTS:
            self._product(name, args, kwargs or {}, marked)
        elif marked and name not in _IGNORED:
            follows = self._follows(name, given, result)
            for path in marked:
                if follows:
                    self._marked[id(result)] = (result, path)
                else:
                    self.readings[path].others.add(name)
        return result

    def _follows(self, name: str, given: list[Tensor], result: Any) -> bool:
        """Whether an operation lays the same features out anew, or scales them."""
        if not isinstance(result, Tensor) or result.shape[-1:] != given[0].shape[-1:]:
            return False
        # By one number, or by one for every position, as masks do.
        scaled = name in _SCALED and all(tensor.ndim == 0 or tensor.shape[-1] == 1 for tensor in given[1:])
        return scaled or name in _FOLLOWED

    def _product(self, name: str, args: Any, kwargs: Any, marked: list[str]) -> None:
        at = _PRODUCTS[name]
        weight = args[at] if len(args) > at else kwargs.get("weight", kwargs.get("mat2"))
        known = self._weights.get(weight.untyped_storage().data_ptr()) if isinstance(weight, Tensor) else None
        if known is None:
            for path in marked:
                self.readings[path].others.add(name)
            return
        parameter, stored = known
        # F.linear has outputs first, a matrix product has them last; a transposed view turns that round.
        turned = weight.ndim >= 2 and weight.stride()[-2:] != stored.stride()[-2:]
        axis = -1 if (name == "linear") != turned else -2
        for path in marked:
            self.readings[path].weights[parameter] = axis
        self.products.append((self.inside[-1] if self.inside else "", parameter, -3 - axis, bool(marked)))


@contextmanager
def _experts_one_by_one(module: nn.Module) -> Any:
    """Mixtures of experts multiply expert by expert inside, by the weights as they are stored."""
    owned: list[Any] = [getattr(m, "config", None) for m in module.modules()]
    configs = {id(c): c for c in owned if getattr(c, "_experts_implementation", None) is not None}
    previous = [(config, config._experts_implementation) for config in configs.values()]
    try:
        for config, _ in previous:
            config._experts_implementation = "eager"
        yield
    finally:
        for config, implementation in previous:
            config._experts_implementation = implementation


def owners(module: nn.Module, parameter: str) -> dict[str, nn.Module]:
    """Every place of a parameter, with the module that holds it: tied weights have several."""
    wanted = module.get_parameter(parameter)
    return {
        f"{path}.{name}" if path else name: part
        for path, part in module.named_modules()
        for name, p in part.named_parameters(recurse=False)
        if p is wanted
    }
