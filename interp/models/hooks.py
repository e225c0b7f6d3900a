"""The default backend: one forward pass of a module with hooks that read and write sites.

    >>> with Hooks(module, taps, reads=[site], writes={other: lambda h: 0 * h}) as hooks:      # doctest: +SKIP
    ...     module(**inputs)
    >>> hooks.found[site]                                                                     # doctest: +SKIP

The context manager owns every hook and removes it, also when the pass raises; hooks that a user registered stay and run before
ours. A site that was planned fires exactly once, or the run raises: an unpatched number is never returned.

Attention scores and patterns are seen inside the model's own eager attention, around the one softmax that it calls, so masks,
windows and soft-capping are the model's own; or, at chosen queries, beside fused attention (:mod:`interp.models.inside`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from interp.errors import CompiledModelError, ShapeMismatchError, SiteNotFiredError
from interp.models.calls import Call, first_tensor, output_tensor, with_first, with_output, with_tensors
from interp.models.experts import chosen, dense, routed
from interp.models.inside import DoubleSoftmax, InsideAttention
from interp.models.layouts import Flat, Units
from interp.models.settings import unwritten
from interp.models.taps import Reads, Tap, Write, at_positions
from interp.own_code import installed
from interp.sites import Site

Forward = Callable[..., Any]


class Left(Exception):  # noqa: N818 - a signal, not an error
    """Raised to leave a model's forward once nothing more of it is wanted."""


def leave(*args: Any, **kwargs: Any) -> Any:
    """Stands in for the module at which a forward is left."""
    raise Left


class Hooks:
    """Reads and writes of one forward pass.

    Args:
        module: the model; never moved, cast or rewired.
        taps: where each site is seen.
        reads: sites whose tensors are kept in :attr:`found`, as they are after the writes; in a mapping, those with positions
            at these alone (:func:`interp.models.taps.at_positions`).
        writes: sites whose tensors are changed, each by a function of the whole tensor. Beside fused attention scores and
            patterns are read at given positions alone, and written by what knows its queries
            (:class:`interp.models.queries.QueryWrite`).
    """

    def __init__(
        self,
        module: nn.Module,
        taps: Mapping[Site, Tap],
        reads: Reads = (),
        writes: Mapping[Site, Write] | None = None,
    ) -> None:
        self.module, self.taps, self.writes = module, taps, dict(writes or {})
        self.reads: Mapping[Site, Tensor | None] = reads if isinstance(reads, Mapping) else dict.fromkeys(reads)
        self.found: dict[Site, Tensor] = {}
        self.fired: Counter[Site] = Counter()
        self.beside: set[Site] = set()
        """Scores and patterns that were seen beside fused attention."""
        self._written: dict[Site, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        self._orders: list[tuple[nn.Module, list[int]]] = []
        """In which order the hooks of modules ran, where that was changed."""
        self._inside: InsideAttention | None = None
        self._examples: dict[str, int] = {}
        self._calls: Counter[tuple[str, str]] = Counter()
        """How often each module has been seen at an event."""

    def __enter__(self) -> Self:
        at: dict[tuple[str, str], list[Site]] = defaultdict(list)
        for site in sorted(dict.fromkeys((*self.writes, *self.reads)), key=_order):
            tap = self.taps[site]
            at[tap.path, "attention" if tap.event in ("scores", "pattern") else tap.event].append(site)
        try:
            for path in {tap.within for site in (*self.writes, *self.reads) if (tap := self.taps[site]).within is not None}:
                self._count(path)
            for (path, event), sites in at.items():
                self._attach(self.module.get_submodule(path), event, sites)
            if self._inside is not None:
                self._inside.__enter__()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._inside is not None:
            self._inside.__exit__(kind, error, trace)
        self._remove()
        if error is None:
            self._check_fired()

    # Hooks are methods with their sites bound: functions made anew in every pass are slow where annotations are checked.

    def _count(self, path: str) -> None:
        """Note how many examples enter a module."""
        hook = partial(self._counted, path)
        self._handles.append(self.module.get_submodule(path).register_forward_pre_hook(hook, with_kwargs=True))

    def _counted(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._examples[path] = len(first_tensor(args, kwargs))

    def _attach(self, module: nn.Module, event: str, sites: list[Site]) -> None:
        if event == "input":
            self._handles.append(module.register_forward_pre_hook(partial(self._before, sites), with_kwargs=True))
        elif event == "routing":
            self._handles.append(module.register_forward_pre_hook(partial(self._route, sites), with_kwargs=True))
        elif event == "output":
            self._handles.append(module.register_forward_hook(partial(self._after, sites), with_kwargs=True))
            self._recorders_last(module)
        else:
            self._inside = self._inside or InsideAttention(self)
            self._handles.append(module.register_forward_pre_hook(partial(self._enter, sites), with_kwargs=True))
            self._handles.append(module.register_forward_hook(self._inside.leave))

    def _recorders_last(self, module: nn.Module) -> None:
        """What transformers notes of an output comes after our writes: LLaVA reads its pictures from what was noted."""
        hooks: Any = module._forward_hooks  # an OrderedDict, annotated as a dict
        recorders = [key for key, hook in hooks.items() if is_recorder(hook)]
        if recorders:
            self._orders.append((module, list(hooks)))
            for key in recorders:
                hooks.move_to_end(key)

    def _before(
        self, sites: list[Site], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        seen = first_tensor(args, kwargs)
        return with_first(args, kwargs, self.visit(self._now(sites), seen, Call(module, args, kwargs)))

    def _route(
        self, sites: list[Site], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        now = self._now(sites)
        return self._reroute(now, Call(module, args, kwargs)) if now else None

    def _reroute(self, sites: list[Site], call: Call) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """What the experts are called with instead; None if nothing is changed."""
        _, index, weights = routed(call)
        seen = dense(index, weights, _experts(self.taps[sites[0]]))
        new = self.visit(sites, seen, call)
        return None if new is seen else with_tensors(call.args, call.kwargs, (None, *chosen(new)))

    def _after(self, sites: list[Site], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        seen = output_tensor(output)
        new = self.visit(self._now(sites), seen, Call(module, args, kwargs))
        return output if new is seen else with_output(output, new)

    def _enter(self, sites: list[Site], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert self._inside is not None
        self._inside.enter(self._now(sites), Call(module, args, kwargs))

    def _now(self, sites: list[Site]) -> list[Site]:
        """Those of a module's sites that are meant by this call of it."""
        tap = self.taps[sites[0]]
        number = self._calls[tap.path, tap.event]
        self._calls[tap.path, tap.event] += 1
        return [site for site in sites if site.call in (None, number)]

    def visit(self, sites: list[Site], seen: Tensor, call: Call | None) -> Tensor:
        """Write, then read, every site of one event; returns what the model goes on with."""
        for site in sites:
            tap = self.taps[site]
            self.fired[site] += 1
            if site in self.writes:
                seen = self._write(site, tap, seen, self._called(tap, call))
        for site in sites:
            if site in self.reads:
                tap = self.taps[site]
                # What was written is read as it was written: a head's result is no part of the tensor that is seen.
                value = self._written[site] if site in self._written else tap.layout.read(seen, self._called(tap, call))
                part = at_positions(site, value, self.reads[site])
                self.found[site] = part.clone() if part is value and (tap.in_place or tap.copied) else part
        return seen

    def _called(self, tap: Tap, call: Call | None) -> Call | None:
        return call._replace(examples=self._examples[tap.within]) if call is not None and tap.within is not None else call

    def _write(self, site: Site, tap: Tap, seen: Tensor, call: Call | None) -> Tensor:
        old = tap.layout.read(seen.clone() if tap.in_place else seen, call)
        new = self.writes[site](old)
        if not isinstance(new, Tensor) or new.shape != old.shape:
            got = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
            raise ShapeMismatchError(
                f"the write of {site!r} returned {got} for a tensor of shape {tuple(old.shape)} {site.axes}"
            )
        if new is old:
            return seen
        new = new.to(seen)
        if tap.copied:
            new = new.clone()  # the caller writes into what it is given
        self._written[site] = new
        if tap.in_place:
            return seen.copy_(tap.layout.put(seen, new, call))
        return tap.layout.put(seen, new, call)

    def _check_fired(self) -> None:
        for site in (*self.writes, *self.reads):
            if self.fired[site] != 1:
                raise SiteNotFiredError(
                    f"{site!r} (module {self.taps[site].path or type(self.module).__name__!r}, {self.taps[site].event}) fired "
                    f"{self.fired[site]} times in one forward pass, expected 1; no number of this pass is returned"
                )

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for module, order in reversed(self._orders):
            hooks: Any = module._forward_hooks
            for key in [key for key in order if key in hooks]:
                hooks.move_to_end(key)
        self._orders.clear()


def is_recorder(hook: Any) -> bool:
    """Whether a hook is one with which transformers notes what modules give, for ``output_hidden_states``."""
    return (getattr(hook, "__module__", "") or "").startswith("transformers.")


def is_own(hook: Any) -> bool:
    """Whether a hook is one of ours."""
    return isinstance(getattr(getattr(hook, "func", hook), "__self__", None), Hooks | InsideAttention)


def of_others(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Forward hooks that are neither ours nor recorders of transformers, each behind the name of its module."""
    for name, child in module.named_modules():
        for hook in (*child._forward_hooks.values(), *child._forward_pre_hooks.values()):
            if not is_recorder(hook) and not is_own(hook):
                yield name, hook


_PARTS = ("torch.", "nnsight.", "transformer_lens.model_bridge.")
"""Where hooks are written that are part of a model: a weight norm's, a bridge's own."""


def hooked(module: nn.Module) -> str:
    """Why a model's digest does not say what it computes: a hook or a forward of somebody's own, and where; else empty."""
    for name, hook in of_others(module):
        if not (getattr(hook, "__module__", "") or "").startswith(_PARTS):
            return f"there is a hook of yours on {name or 'the model'}"
    for name, part in module.named_modules():
        if not _is_installed(part.__dict__.get("forward")):
            return f"there is a forward of yours on {name or 'the model'}"
    return unwritten(module)


def _is_installed(forward: Any) -> bool:
    """Whether a forward that was put on a module, if any, was put there by a package."""
    while isinstance(forward, partial):
        forward = forward.func
    return forward is None or installed(getattr(forward, "__func__", forward))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, each submodule's own mode restored after."""
    training = [m for m in module.modules() if m.training]
    for m in training:
        m.training = False
    try:
        yield
    finally:
        for m in training:
            m.training = True


@contextmanager
def standing_in(forwards: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Other forwards for some modules inside, their own after; hooks on the modules still run."""
    own = {module: module.__dict__["forward"] for module in forwards if "forward" in module.__dict__}
    try:
        for module, forward in forwards.items():
            module.__dict__["forward"] = forward
        yield
    finally:
        for module in forwards:
            del module.__dict__["forward"]
            if module in own:
                module.__dict__["forward"] = own[module]


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Parameters without gradients inside, those that had them with them again after; what is in their ``grad`` stays."""
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in learned:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)


@contextmanager
def eager_attention(module: nn.Module) -> Iterator[None]:
    """The model's own eager attention and mask inside, the previous implementation after.

    In float64 the softmax is taken in float64 too, as fused attention takes it: many models ask for float32, in which the least
    number of float64, by which a mask hides, is −∞, and a row of padding becomes NaN.
    """
    parts: list[Any] = list(module.modules())
    double = any(parameter.dtype == torch.float64 for parameter in module.parameters())
    fused = {m: m.processor for m in parts if hasattr(m, "get_attention_scores") and hasattr(m, "set_processor")}  # diffusers
    with _configured(module, "_attn_implementation", "eager"):
        try:
            for attention in fused:
                from diffusers.models.attention_processor import AttnProcessor

                attention.set_processor(AttnProcessor())
            with DoubleSoftmax() if double else nullcontext():
                yield
        finally:
            for attention, processor in fused.items():
                attention.set_processor(processor)


def shaped_experts(module: nn.Module) -> AbstractContextManager[None]:
    """Mixtures of experts that run on the meta device inside: grouped products know no shapes there but those of bfloat16."""
    meta = any(parameter.is_meta for parameter in module.parameters())
    return _configured(module, "_experts_implementation", "batched_mm") if meta else nullcontext()


@contextmanager
def _configured(module: nn.Module, setting: str, value: str) -> Iterator[None]:
    """A setting of every configuration in a model that has it, put back afterwards."""
    owned: list[Any] = [getattr(m, "config", None) for m in module.modules()]
    configs = {id(config): config for config in owned if hasattr(config, setting)}
    previous = [(config, getattr(config, setting)) for config in configs.values()]
    try:
        for config, _ in previous:
            setattr(config, setting, value)
        yield
    finally:
        for config, before in previous:
            setattr(config, setting, before)


@contextmanager
def fused_activations(module: nn.Module) -> Iterator[None]:
    """Activations that a model writes as a chain of tensor operations run as one inside: GELU by its tanh formula.

    The function is the same, up to rounding; a chain of eight passes over memory costs as much as a tenth of a block's matrix
    products on a CPU. A forward that was overridden on the instance stays.
    """
    chains = [m for m in module.modules() if _is_gelu_chain(type(m)) and "forward" not in m.__dict__]
    with standing_in(dict.fromkeys(chains, _gelu_tanh)):
        yield


_GELU_TANH = ("NewGELUActivation", "BloomGelu")
"""Classes of transformers whose forward is x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))."""


def _is_gelu_chain(kind: type[nn.Module]) -> bool:
    return kind.__name__ in _GELU_TANH and kind.__module__.startswith("transformers.")


_NETWORK = (
    *("ln1_scale", "q", "k", "v", "scores", "pattern", "z", "result", "ln1_post_scale", "attn_out"),
    *("ln2_scale", "mlp_pre", "mlp_up", "mlp_post", "routing", "expert_out", "ln2_post_scale", "mlp_out"),
)


def _order(site: Site) -> int:
    """Changes seen in one tensor are made in the order of the network: what a head adds comes before what attention adds."""
    return _NETWORK.index(site.name) if site.name in _NETWORK else len(_NETWORK)


def _experts(tap: Tap) -> int:
    layout = tap.layout.layout if isinstance(tap.layout, Flat) else tap.layout
    assert isinstance(layout, Units)
    return layout.stop


def _gelu_tanh(x: Tensor) -> Tensor:
    return nn.functional.gelu(x, approximate="tanh")


def refuse_compiled(module: nn.Module) -> None:
    """Raise ``CompiledModelError`` for a module that is compiled, wholly or in part, because its hooks would be ignored."""
    for name, child in module.named_modules():
        if isinstance(child, torch.jit.ScriptModule):
            which = f"its module {name!r}" if name else "the model"
            raise CompiledModelError(
                f"{which} is TorchScript, which runs no hooks inside; pass the module that it was made from"
            )
        wrapped = hasattr(child, "_orig_mod")
        forward = hasattr(child.__dict__.get("forward"), "_torchdynamo_orig_callable")
        if wrapped or forward or getattr(child, "_compiled_call_impl", None) is not None:
            which = f"its module {name!r}" if name else "the model"
            mend = "pass the original, model._orig_mod" if wrapped and not name else "load it again without compiling it"
            raise CompiledModelError(
                f"{which} is compiled (torch.compile): hooks added after the first call are silently ignored; {mend}"
            )
