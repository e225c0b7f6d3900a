"""A model under examination: what its streams hold in one run, and many changed runs at once.

>>> patient = Patient(model)                                                              # doctest: +SKIP
>>> runs = patient.streams["main"]                                                        # doctest: +SKIP
>>> runs.together([{}, {Site("z", layer=0): lambda z: 0 * z}])[0].shape                   # doctest: +SKIP
torch.Size([2, 3, 6, 97])

The runs of one stream differ in the one argument that enters it. Many changes run in one pass: the examples are repeated, and
each repetition is written for itself.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.func import functional_call

from interp.doctor.verdict import Refused, deviation, tolerance
from interp.models import Model
from interp.models.examples import BATCH
from interp.models.hooks import Hooks
from interp.models.model import TorchHooks
from interp.models.probe import Outcome, outcomes, varied
from interp.models.taps import Write
from interp.sites import Site

LOGITS = Site("logits")
_NUMBERS = 2**25
"""Of the ends of a stream, how many are computed in one pass, roughly."""

_FLOOR = 1e-4
"""Noise beyond this is no rounding of float32."""

RAISES = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError)
"""What a forward that does not bear an intervention raises; the errors of this package are among them."""

Changes = Mapping[Site, Write]
"""What is written in one run; a write sees the examples of that run alone."""


def moments(model: Model) -> list[Site]:
    """Every site at every call, and in every half, of the part that it is in."""
    found = []
    for site in model.sites():
        times = model.anatomy.repeats(site)
        calls = range(times.calls) if times.calls > 1 else (None,)
        halves = range(times.halves) if times.halves > 1 else (None,)
        found += [site.at(call=call, half=half) for call in calls for half in halves]
    return found


class Patient:
    """A model with what its laws share."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._state = _state(model)

    @cached_property
    def tolerance(self) -> float:
        """How far two numbers that should be equal may lie apart: ten times what the batch size moves, if that is more."""
        if self.model.parts:  # whose streams are seen several times in one pass
            return tolerance(self.model)
        floor = max((runs.floor for runs in self.streams.values()), default=0.0)
        return max(tolerance(self.model), 10 * floor if floor < _FLOOR else 0.0)

    @cached_property
    def found(self) -> dict[Site, Tensor]:
        """Every site in a run of the model's own example, of a pipeline at every call and in every half.

        Raises:
            Refused: nothing is known of what its forward takes.
        """
        if not self.model.example:
            raise Refused(self.model.unknown or "no run of it is known")
        return read(self.model, self.model.example, moments(self.model))

    @cached_property
    def probed(self) -> tuple[list[Outcome], Exception | None]:
        """What the probe run at loading tests, and the error that ended it, if one did."""
        found: list[Outcome] = []
        try:
            found.extend(outcomes(self.model))
        except RAISES as error:
            return found, error
        return found, None

    def outcomes(self, *kinds: str) -> list[Outcome]:
        """Those of some kinds. Where all of them hold, an error that ended the probe run is raised."""
        found, error = self.probed
        chosen = [outcome for outcome in found if outcome.law in kinds]
        if error is not None and all(outcome.holds for outcome in chosen):
            raise error
        return chosen

    @cached_property
    def streams(self) -> dict[str, Runs]:
        """Every stack of blocks.

        Raises:
            Refused: there is none.
        """
        if not self.model.example:
            raise Refused(self.model.unknown or "no run of it is known")
        names = [name for name, stream in self.model.anatomy.streams.items() if stream.blocks]
        if not names:
            raise Refused("it has no stack of blocks")
        return {name: Runs(self.model, name) for name in names}

    def lacking(self, *components: str) -> dict[str, str]:
        """Streams that have none of some components, each with the reason for the first."""
        found = {}
        for name, stream in self.model.anatomy.streams.items():
            there = {site.name for site in self.model.anatomy.taps if site.stream == name}
            if not there & set(components):
                found[name] = stream.absent.get(components[0], "it has no stack of blocks")
        return found

    @property
    def runs_here(self) -> bool:
        """Whether the module's own weights are what runs."""
        return type(self.model.backend) is TorchHooks

    def traces(self) -> list[str]:
        """What of the module is not as it was when the examination began."""
        now = _state(self.model)
        return [
            f"{what} of {path or 'the model'} changed" for (what, path), was in self._state.items() if now[what, path] != was
        ]


class Runs:
    """The runs of one stream."""

    def __init__(self, model: Model, stream: str) -> None:
        self.model, self.stream = model, stream
        self.inputs = varied(model, stream)
        self.sites = [site for site in model.sites() if site.stream == stream]
        self.layers = range(len(model.anatomy.streams[stream].blocks))
        last = Site("resid_post", layer=self.layers[-1], stream=stream)
        self.ends = [site for site in (LOGITS, last) if model.has(site)]
        """Where effects are read: the output, and what leaves the stream's last block."""
        self.found = read(model, self.inputs, [*self.sites, *self.ends])
        self.others = {site: self.other(site, tensor) for site, tensor in self.found.items()}
        """Another run's values: of the example before; positions are the same in every example, so theirs are moved along."""
        self.across = False
        """Whether the output compares every example with every other."""
        self.limit = max(1, min(128, _NUMBERS // max(self.found[site].numel() for site in self.ends)))
        self.floor = self._noise()
        """How far the ends move with the batch size alone."""
        if self.floor > 0.1:
            self.limit = 1  # runs cannot share a pass

    def on(self, model: Model) -> Runs:
        """The same runs on another model with the same sites."""
        made = copy.copy(self)
        made.model = model
        made.found = read(model, self.inputs, list(self.found))
        made.others = {site: self.other(site, tensor) for site, tensor in made.found.items()}
        return made

    def other(self, site: Site, tensor: Tensor) -> Tensor:
        return tensor.roll(1, 1 if site.name == "pos_embed" else 0)

    def here(self, name: str, layer: int | None) -> Site | None:
        """A site of this stream, if it exists."""
        site = Site(name, layer=layer, stream=self.stream)
        return site if site in self.found else None

    def together(
        self, groups: Sequence[Changes], model: Model | None = None, *, examples: int = BATCH, apart: bool = False
    ) -> list[Tensor]:
        """The ends of the stream, ``[run, example, …]`` each, for several runs with some changes in force in each.

        Args:
            model: another model with the same sites; by default this one.
            examples: only the first one, or all three.
            apart: one run a pass.
        """
        limit = 1 if apart else self.limit
        parts = []
        inputs = {name: tensor.chunk(BATCH)[0] if examples == 1 else tensor for name, tensor in self.inputs.items()}
        for start in range(0, len(groups), limit):
            part = groups[start : start + limit]
            repeated = {name: torch.cat([tensor] * len(part)) for name, tensor in inputs.items()}
            sites = dict.fromkeys(site for group in part for site in group)
            writes = {site: partial(_each, [group.get(site) for group in part]) for site in sites}
            found = read(model or self.model, repeated, self.ends, writes, eager=self.sites)
            parts.append([self._apart(end, found[end], len(part)) for end in self.ends])
        return [torch.cat(tensors) for tensors in zip(*parts, strict=True)]

    def with_weights(self, weights: Mapping[str, Tensor]) -> list[Tensor]:
        """The ends of the stream, ``[example, …]`` each, with other weights for this one run; the module's own stay."""
        module = self.model.module
        taps = {site: self.model.taps(site) for site in self.ends}
        with torch.no_grad(), self.model.prepared(self.sites), Hooks(module, taps, self.ends) as hooks:
            functional_call(module, dict(weights), (), dict(self.inputs))
        return [self._apart(end, hooks.found[end], 1)[0] for end in self.ends]

    def _apart(self, end: Site, tensor: Tensor, runs: int) -> Tensor:
        """``[(run example), …]`` by run; of an output that compares all examples, each run with itself."""
        each = tensor.unflatten(0, (runs, -1))
        if end != LOGITS or not self.across:
            return each
        return torch.stack([each[i].unflatten(-1, (runs, -1))[..., i, :] for i in range(runs)])

    def _noise(self) -> float:
        end = self.found[self.ends[0]]
        twice = read(self.model, {name: torch.cat([t] * 2) for name, t in self.inputs.items()}, self.ends, eager=self.sites)
        self.across = twice[self.ends[0]].shape[1:] != end.shape[1:]
        return max(deviation(run, self.found[end]) for end in self.ends for run in self._apart(end, twice[end], 2))


def read(
    model: Model,
    inputs: Mapping[str, Tensor],
    sites: Sequence[Site] | None = None,
    writes: Changes | None = None,
    *,
    eager: Sequence[Site] = (),
) -> dict[Site, Tensor]:
    """One pass; by default every site is read.

    Args:
        eager: sites for which the model is prepared, beside those of this pass.
    """
    sites = model.sites() if sites is None else sites
    with torch.no_grad(), model.prepared([*sites, *(writes or {}), *eager]):
        return model.backend.run(inputs, reads=sites, writes=writes or {})


def _state(model: Model) -> dict[tuple[str, str], object]:
    """What a forward pass and an examination must leave alone, by module."""
    found: dict[tuple[str, str], object] = {}
    for path, module in model.module.named_modules():
        weights = [(p, p._version, p.requires_grad) for p in module.parameters(recurse=False)]
        found["weights", path] = [(id(p), *rest) for p, *rest in weights]
        found["gradients", path] = [id(p.grad) for p, *_ in weights]
        found["the mode", path] = module.training
        found["hooks", path] = [*module._forward_hooks, *module._forward_pre_hooks, *module._backward_hooks]
        found["the forward", path] = id(module.__dict__.get("forward"))
        found["the attention implementation", path] = getattr(getattr(module, "config", None), "_attn_implementation", None)
    return found


def _each(changes: Sequence[Write | None], h: Tensor) -> Tensor:
    """Several runs that lie one after another, each changed for itself."""
    runs = h.unflatten(0, (len(changes), -1)).clone()
    for i, change in enumerate(changes):
        if change is not None:
            runs[i] = change(runs[i])
    return runs.flatten(0, 1)


def constant(value: Tensor) -> Write:
    return lambda h: value.to(h)
