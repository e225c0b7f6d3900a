"""A model proves its sites when it is loaded: short forward passes on random inputs, each site held to what its name says.

    >>> probe(model)                                                                     # doctest: +SKIP
    Probe(causal=True, checked=36, worst=2.4e-07)

Every site fires once; what is read there is what its name says (:mod:`interp.models.probe.read`), and what is written there
has the effect that its name says (:mod:`interp.models.probe.written`, :mod:`interp.models.probe.norms`). ``probe`` refuses a
model with a site that breaks a law, ``settle`` leaves the site out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from interp.errors import ProbeError
from interp.models.examples import last_token
from interp.models.model import Model, Probe
from interp.models.probe import read, written
from interp.models.probe.runs import Outcome, compared, only, tolerance, varied
from interp.sites import Site

__all__ = ["Outcome", "causal", "outcomes", "probe", "settle", "tolerance", "varied"]


def probe(model: Model) -> Probe:
    """Hold every site to its laws.

    Raises:
        ProbeError: a site is not what its name says, naming site, identity and deviation.
    """
    return _held(model, list(outcomes(model)))


def _held(model: Model, found: Sequence[Outcome]) -> Probe:
    for outcome in found:
        if not outcome.holds and outcome.law != "trunk":
            raise ProbeError(
                f"{model.name}: {outcome.what} does not hold: relative deviation {outcome.deviation:.1e} (allowed "
                f"{outcome.tolerance:.0e}). A module does not play the role that its name suggests; load with check=False to "
                "look closer"
            )
    held = [outcome.deviation for outcome in found if outcome.holds]
    return Probe(causal(model), len(model.sites()), max(held, default=0.0))


def settle(model: Model) -> Probe:
    """Leave out the sites that break a law, with the reason, and hold the others to theirs.

    Raises:
        ProbeError: the stream between blocks itself cannot be written.
    """
    exchanged: set[str] = set()
    while True:
        found = list(outcomes(model))
        broken = [outcome for outcome in found if not outcome.holds and outcome.law not in ("joints", "trunk")]
        gates = {outcome.sites[0].stream for outcome in broken if outcome.law == "gate"} - exchanged
        if not any(outcome.sites for outcome in broken):
            return _held(model, found)
        for stream in gates:  # the halves of a fused map lie the other way round
            model.anatomy = model.anatomy.exchanged("mlp_pre", "mlp_up", stream)
        exchanged |= gates
        if gates:
            continue
        wrong: dict[Site, str] = {}
        for outcome in broken:
            why = f"{outcome.what} does not hold for it (deviation {outcome.deviation:.1e})"
            names = {(site.name, site.stream) for site in outcome.sites}
            wrong |= {site: why for site in model.sites() if (site.name, site.stream) in names}
        model.anatomy = model.anatomy.without(wrong)


def outcomes(model: Model) -> Iterator[Outcome]:
    """Every law, stream by stream."""
    for stream in model.anatomy.streams.values():
        if stream.blocks:
            with compared(model, stream.name) as runs:
                yield from read.outcomes(runs)
                yield from written.outcomes(runs)


def causal(model: Model) -> bool:
    """Whether another last token leaves every earlier position of the main stream as it was."""
    main, name = model.anatomy.main, last_token(model.example)
    if not main.blocks or name is None:
        return False
    inputs = only(model.example, name)
    site = Site("resid_post", layer=len(main.blocks) - 1)
    with torch.no_grad(), model.prepared():
        last = model.backend.run(inputs, reads=[site], writes={})[site].float()
    if last.ndim != 3 or last.shape[1] < 2:
        return False
    moved = (last[0, :-1] - last[2, :-1]).norm(dim=-1) / last[0, :-1].norm(dim=-1)  # a token at a time: some are far larger
    return bool((moved <= tolerance(model)).all())
