"""nnsight as a backend: traces of the model in this process, or requests to the NDIF service.

    >>> model = load("gpt2", backend="nnsight")                                              # doctest: +SKIP
    >>> model = load("meta-llama/Llama-3.1-70B", backend="nnsight", remote=True)               # doctest: +SKIP

Sites are found by structure, as for torch hooks; nnsight reads and writes them. Here, its wrappers of the modules' forwards are
in place during a pass and gone after it. There, one forward pass is one request: the changes travel as source and tensors.

Importing this module imports nnsight, which adds ``save`` to every object and replaces ``Tensor.backward``.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from nnsight import NNsight
from nnsight.intervention.interleaver import OutOfOrderError
from nnsight.intervention.source import STATE, SourceNotAvailable
from torch import Tensor, nn

from interp.errors import SiteNotFiredError
from interp.models.backends.nnsight_program import Place, traced
from interp.models.hooks import Hooks, _order, standing_in
from interp.models.model import Model, Peer
from interp.models.taps import Reads, Write
from interp.sites import Site


def peer() -> Peer:
    """What a model needs to know to be run by nnsight in this process."""
    return Peer(NNsightTraces)


class NNsightTraces:
    """Runs a model in this process, by a trace."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.wrapper = _Wrapper(model.module)
        model.anatomy = model.anatomy.without(self._hidden())

    def run(self, inputs: Mapping[str, Tensor], reads: Reads, writes: Mapping[Site, Write]) -> dict[Site, Tensor]:
        visits = Hooks(nn.Identity(), {site: self.model.anatomy.tap(site) for site in (*reads, *writes)}, reads, writes)
        with self.wrapper.installed():
            try:
                kept = traced(self.wrapper.root, inputs, places(visits, self.wrapper.envoys), visits)
            except OutOfOrderError as error:
                raise SiteNotFiredError(f"{error}; no number of this pass is returned") from error
        return decoded(kept, visits.reads)

    def _hidden(self) -> dict[Site, str]:
        """Scores and patterns of attention whose softmax nnsight does not find in its source."""
        by_module: dict[str, list[Site]] = defaultdict(list)
        for site, tap in self.model.anatomy.taps.items():
            if tap.event in ("scores", "pattern"):
                by_module[tap.path].append(site)
        if not by_module or self._why_not([site for sites in by_module.values() for site in sites]) is None:
            return {}
        hidden: dict[Site, str] = {}
        for sites in by_module.values():
            if (why := self._why_not(sites)) is not None:
                hidden |= dict.fromkeys(sites, f"nnsight reaches a softmax by the source of what calls it, and {why}")
        return hidden

    def _why_not(self, sites: Collection[Site]) -> str | None:
        """Why a pass that reads some sites fails; None if it does not."""
        try:
            with torch.no_grad(), self.model.prepared(sites):
                self.run(self.model.example, sites, {})
        except (LookupError, SourceNotAvailable, SiteNotFiredError) as error:
            return str(error.args[0]).split("\n")[0]
        return None


def places(visits: Hooks, envoys: Callable[[str], Any]) -> list[Place]:
    """Where the sites of one pass are seen: what a module takes comes before what it gives."""
    at: dict[tuple[str, str], list[Site]] = defaultdict(list)
    for site in sorted(dict.fromkeys((*visits.writes, *visits.reads)), key=_order):
        tap = visits.taps[site]
        at[tap.path, "attention" if tap.event in ("scores", "pattern") else tap.event].append(site)
    found = []
    for (path, event), sites in sorted(at.items(), key=lambda place: _EVENTS.index(place[0][1])):
        within = {tap.within for tap in map(visits.taps.__getitem__, sites) if tap.within is not None}
        found.append(Place(envoys(path), event, sites, {path: envoys(path) for path in within}))
    return found


_EVENTS = ("attention", "input", "routing", "output")


def decoded(kept: Mapping[str, list[Any]], reads: Collection[Site]) -> dict[Site, Tensor]:
    """The tensors of a pass by their sites.

    Raises:
        SiteNotFiredError: a location was reached more than once.
    """
    for location, times in zip(kept["reached"], kept["fired"], strict=True):
        if times != 1:
            raise SiteNotFiredError(
                f"{location} fired {times} times in one forward pass, expected 1; no number of this pass is returned"
            )
    return dict(zip(sorted(reads, key=repr), kept["found"], strict=True))


class _Wrapper:
    """nnsight's wrapper of a module, in place only while it is used."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        own = {part: part.__dict__.get("forward") for part in module.modules() if STATE not in part.__dict__}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a submodule named like a value of nnsight's is moved; we ask by module
            self.root = NNsight(module)
        self._by_module = {id(envoy._module): envoy for envoy in self.root.modules()}
        self._forwards = {part: part.__dict__["forward"] for part in own}
        self._states = {part: part.__dict__[STATE] for part in own}
        for part, forward in own.items():
            del part.__dict__["forward"], part.__dict__[STATE]
            if forward is not None:
                part.__dict__["forward"] = forward

    def envoys(self, path: str) -> Any:
        """The wrapper of one module."""
        return self._by_module[id(self.module.get_submodule(path))]

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The wrappers' forwards inside, the module's own after."""
        with standing_in(self._forwards):
            for part, state in self._states.items():
                part.__dict__[STATE] = state
            try:
                yield
            finally:
                for part in self._states:
                    del part.__dict__[STATE]
