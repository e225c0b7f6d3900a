"""A contestant that is asked for a stratified sample of links, timed as if it had been asked for all of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import torch

from contestants.edges_question import Link, Links, every, strata
from contestants.timed import Contestant, Run


class Reweighted(Contestant):
    """Runs a contestant stratum by stratum.

    With N links in a stratum, n of them asked for, t seconds for these, and t₀ for what every call does alike (base and source
    runs, caches), all links take t₀ + Σ (N / n)·(t − t₀). t₀ is measured before and after every stratum, so that a machine
    which is slower for a while is slower in both. FLOPs are counted the same way.

    Args:
        shared: what is asked for to measure t₀: no link, or the cheapest where none cannot be asked for.
    """

    def __init__(self, inner: Contestant, shared: tuple[Link, ...]) -> None:
        self.inner, self.shared, self.device = inner, shared, inner.device
        self.seconds: list[dict[str, float]] = []
        """Of every timed run: t − t₀ by stratum, and t₀ as ``shared``."""

    def run(self, asked: Links, count: bool = False) -> Run:
        """Links must come stratum by stratum."""
        parts = {name: replace(asked, links=tuple(part)) for name, part in strata(asked.links).items()}
        nothing, runs = [self._nothing(asked, count)], []
        for part in parts.values():
            runs.append(self.inner.run(part, count))
            nothing.append(self._nothing(asked, count))
        weight, value = weights(asked), torch.cat([run.value for run in runs])
        if count:
            begin = nothing[0].flops or 0
            more = sum(weight[name] * ((run.flops or 0) - begin) for name, run in zip(parts, runs, strict=True))
            return Run(0.0, value, round(begin + more))
        around = [(one.seconds + other.seconds) / 2 for one, other in pairwise(nothing)]
        more = {name: run.seconds - first for name, run, first in zip(parts, runs, around, strict=True)}
        first = statistics.median(one.seconds for one in nothing)
        self.seconds.append({"shared": first} | more)
        return Run(first + sum(weight[name] * seconds for name, seconds in more.items()), value, None)

    def _nothing(self, asked: Links, count: bool) -> Run:
        return self.inner.run(replace(asked, links=self.shared), count)

    def close(self) -> None:
        self.inner.close()


def weights(asked: Links) -> Mapping[str, float]:
    """How many links of the model each sampled one stands for, by stratum."""
    all_, taken = strata(every(asked.shape)), strata(asked.links)
    return {name: len(all_[name]) / len(part) for name, part in taken.items()}
