"""Three runs of a model that differ in what enters one stream: what the laws of its sites are held to.

    >>> with compared(model, "main") as runs:                                                # doctest: +SKIP
    ...     site, end = runs.site("resid_pre", 2), runs.site("resid_post", 2)
    ...     runs.equal("write", runs.under(runs.exchanged(site), end), runs.others[end], "the stream passes on", (site,)).holds
    True

The runs differ in one argument of the forward, the one that enters the stream, so that what other streams give is the same in
all of them. Another run's values are those of the example before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from interp.errors import ProbeError
from interp.models.deviation import deviation, rounding
from interp.models.examples import BATCH
from interp.models.model import Model
from interp.models.taps import Write
from interp.sites import Site

SCALES = ("ln1_scale", "ln1_post_scale", "ln2_scale", "ln2_post_scale", "ln_final_scale")

_BEFORE = {"cross_out": "resid_cross", "mlp_out": "resid_mid"}
"""The stream to which something is added inside a block."""


@dataclass(frozen=True)
class Outcome:
    """Whether a law holds."""

    law: str
    """Which kind: ``"shape"``, ``"stream"``, ``"heads"``, ``"pattern"``, ``"write"``."""
    what: str
    """The law with its sites, as an equation."""
    sites: tuple[Site, ...]
    """The sites that do not deserve their names if it does not hold."""
    deviation: float
    """Relative to the largest number."""
    tolerance: float

    @property
    def holds(self) -> bool:
        return self.deviation <= self.tolerance


def tolerance(model: Model) -> float:
    """By how much a law may be missed, relative to the largest number: what rounding in the model's dtype makes of it."""
    return rounding(model.dtype)


def only(inputs: Mapping[str, Tensor], varied: str) -> dict[str, Tensor]:
    """The same inputs, the examples alike in all arguments but one."""
    return {n: t if n == varied else torch.cat([t.chunk(BATCH)[0]] * BATCH) for n, t in inputs.items()}


def varied(model: Model, stream: str) -> dict[str, Tensor]:
    """The model's example, its three runs alike but for the argument that enters a stream.

    Raises:
        ProbeError: no argument does.
    """
    first = Site("resid_pre", layer=0, stream=stream)
    for name in sorted(model.example, key=lambda name: "ids" not in name):
        inputs = only(model.example, name)
        with torch.no_grad(), model.prepared():
            h = model.backend.run(inputs, reads=[first], writes={})[first]
        if bool((h[0] != h[1]).any()):
            return inputs
    raise ProbeError(f"{model.name}: no argument of its forward reaches {first!r}")


@contextmanager
def compared(model: Model, stream: str) -> Iterator[Runs]:
    """The runs of one stream, while the model is ready for more of them."""
    sites = [site for site in model.sites() if site.stream == stream or site == Site("logits")]
    with torch.no_grad(), model.prepared(sites):
        yield Runs(model, stream, sites)


class Runs:
    """What the laws of one stream are asked of: its sites in three runs, and runs with something written."""

    def __init__(self, model: Model, name: str, sites: Sequence[Site]) -> None:
        self.model, self.name, self.sites = model, name, sites
        self.stream = model.anatomy.streams[name]
        self.last = len(self.stream.blocks) - 1
        present: dict[int, set[str]] = {layer: set() for layer in range(len(self.stream.blocks))}
        for site in sites:
            if site.layer is not None:
                present[site.layer].add(site.name)
        kinds = {frozenset(names): layer for layer, names in present.items()}
        self.kinds = tuple(kinds.values())
        """The last layer of every kind: in hybrids and mixtures of experts, layers differ in what they have."""
        self.tolerance = tolerance(model)
        self.inputs = varied(model, name)
        self.found = model.backend.run(self.inputs, reads=[*sites, *self._around()], writes={})
        """What each site holds, and what enters and leaves the norms and the maps W_O."""
        self.others = {site: tensor.roll(1, 1 if site.name == "pos_embed" else 0) for site, tensor in self.found.items()}
        """Another run's values; positions are the same in every example, so theirs are moved along."""

    def _around(self) -> list[Site]:
        outputs = [self.w_o(site) for site in self.sites if site.name in ("result", "cross_result")]
        scales = [site for site in self.sites if site.name in SCALES and site.layer in (None, *self.kinds)]
        return outputs + [Site(side, path=self.norm(site)) for site in scales for side in ("input", "output")]

    # runs with something written

    def under(self, writes: Mapping[Site, Write], effect: Site) -> Tensor:
        """What ``effect`` holds while something is written."""
        return self.model.backend.run(self.inputs, reads=[effect], writes=writes)[effect]

    def exchanged(self, *sites: Site) -> dict[Site, Write]:
        """Writes another run's values at sites."""
        return {site: _constant(self.others[site]) for site in sites}

    def equal(self, law: str, got: Tensor, expected: Tensor, what: str, sites: tuple[Site, ...]) -> Outcome:
        """Equal up to the tolerance, relative to the largest number of the two."""
        if got.shape != expected.shape:
            return Outcome(
                law, f"{what} (shapes {tuple(got.shape)}, {tuple(expected.shape)})", sites, float("inf"), self.tolerance
            )
        return Outcome(law, what, sites, deviation(got, expected), self.tolerance)

    # sites and modules

    def site(self, name: str, layer: int | None) -> Site:
        return Site(name, layer=layer, stream=self.name)

    def at(self, layer: int, *names: str) -> tuple[Site, ...]:
        return tuple(self.site(name, layer) for name in names)

    def get(self, name: str, layer: int | None) -> Tensor | None:
        return self.found.get(self.site(name, layer))

    def w_o(self, result: Site) -> Site:
        """What the linear map gives of which a site holds the heads' parts."""
        known = self.stream.w_o if result.name == "result" else {}
        return Site("output", path=known.get(result.layer or 0, self.model.taps(result).path))

    def norm(self, scale: Site) -> str:
        """The norm whose scale a site is; a bridge has a hook point for it inside the norm."""
        return self.model.taps(scale).path.removesuffix(".hook_scale")

    def steps(self, layer: int) -> list[tuple[str, str, str]]:
        """What is added to the stream inside a block, each with the stream before and behind it."""
        first = "mixer_out" if self.site("mixer_out", layer) in self.model.anatomy.taps else "attn_out"
        parts = [first] if layer in self.stream.attention else []
        parts += ["cross_out"] if self.stream.crosses(layer) else []
        parts += ["mlp_out"] if layer in self.stream.mlp else []
        states = ["resid_pre", *(_BEFORE[name] for name in parts[1:]), "resid_post"]
        return [*zip(parts, states, states[1:], strict=False)]

    def joined(self, name: str, layer: int, total: Tensor) -> Tensor:
        """The sum, through the norm that follows it in post-norm blocks."""
        norm = self.stream.norms.get(self.site(name, layer))
        return total if norm is None else self.model.module.get_submodule(norm)(total)


def _constant(value: Tensor) -> Write:
    return lambda h: value.to(h)
