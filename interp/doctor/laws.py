"""The laws that every architecture must keep, in one table: a name, what it says, and how a model is held to it.

>>> [law.name for law in LAWS][:3]
['sites', 'stream', 'heads']

What a law compares is the end of a stream: the model's output, and what leaves the stream's last block. Deviations are the
largest difference over 1 + the largest number, but for the laws that the probe run at loading tests too
(:mod:`interp.models.probe`): theirs are relative to the largest number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from einops import rearrange
from torch import Tensor

from interp.doctor import invariance
from interp.doctor.patient import LOGITS, Changes, Patient, Runs, constant, read
from interp.doctor.sweeps import same_numbers
from interp.doctor.verdict import Case, Refused, Verdict, deviation, judged, kept, of_outcomes, passed, tolerance
from interp.models.anatomy.record import record
from interp.models.examples import BATCH
from interp.sites import Site


@dataclass(frozen=True)
class Law:
    """What must be true of any model."""

    name: str
    statement: str
    """In one sentence."""
    check: Callable[[Patient], Verdict]
    """Raises :class:`interp.doctor.verdict.Refused` where the law cannot be tested."""


def _sites(patient: Patient) -> Verdict:
    """Reading all of them raises if one fires more or less than once."""
    found = patient.outcomes("shape")
    streams = {site.stream for outcome in found for site in outcome.sites}
    for site, tensor in patient.found.items():
        if site.stream not in streams and (site.layer is not None or len(site.axes) != tensor.ndim):
            return Verdict("sites", "failed", f"{site!r} ({', '.join(site.axes)}) has the shape {tuple(tensor.shape)}")
    if not found:
        return passed("sites", f"{len(patient.found)} site{'s' * (len(patient.found) > 1)}, none of them in a block")
    return of_outcomes("sites", found, {})


def _probed(name: str, kinds: tuple[str, ...], components: tuple[str, ...]) -> Callable[[Patient], Verdict]:
    """A law that the probe run tests, by the kinds of its outcomes."""

    def check(patient: Patient) -> Verdict:
        patient.streams  # noqa: B018 - refused without
        return of_outcomes(name, patient.outcomes(*kinds), patient.lacking(*components))

    return check


def _repeat(patient: Patient) -> Verdict:
    first = patient.found
    again = read(patient.model, patient.model.example, list(first))
    cases = [
        Case(repr(site), 0.0 if torch.equal(first[site], again[site]) else _apart(first[site], again[site])) for site in first
    ]
    return judged("repeat", cases, 0.0)


def _apart(one: Tensor, other: Tensor) -> float:
    """How far two tensors that should be the same are apart, never 0."""
    return deviation(one, other) or 1e-45


def _own_value(patient: Patient) -> Verdict:
    found = patient.found
    if any(site.layer is not None for site in found):
        cases = [case for runs in patient.streams.values() for case in _own_values(patient, runs)]
        return judged("own_value", cases, patient.tolerance)
    return judged("own_value", list(_own_modules(patient)), tolerance(patient.model))


def _own_modules(patient: Patient) -> Iterator[Case]:
    """Of a network without blocks: what goes into and comes out of its innermost modules, by their paths."""
    model = patient.model
    leaves = [path for path, part in model.module.named_modules() if path and not part._modules]
    with model.prepared():
        seen = record(model.module, leaves, (), lambda: model.module(**model.example))
    sites = [Site("input", path=path) for path in leaves if seen.input(path) is not None]
    sites += [Site("output", path=path) for path in leaves if seen.output(path) is not None]
    own = read(model, model.example, sites)
    base = patient.found[LOGITS]
    for site in sites:
        got = read(model, model.example, [LOGITS], {site: constant(own[site].clone())})[LOGITS]
        yield Case(f"writing {site!r} its own value", deviation(got, base))


def _own_values(patient: Patient, runs: Runs) -> list[Case]:
    """Every site in a run of its own, all in one pass; if that goes wrong one by one, to know which of them it is."""
    sites = [site for site in runs.sites if site != LOGITS]
    own = {site: runs.found[site].chunk(BATCH)[0] for site in sites}

    def cases(apart: bool) -> Iterator[Case]:
        groups: list[Changes] = [{}, *({site: constant(own[site])} for site in sites)]
        ends = runs.together(groups, examples=1, apart=apart)
        for i, site in enumerate(sites, 1):
            yield Case(f"writing {site!r} its own value", max(deviation(end[i], end[0]) for end in ends))

    found = list(cases(apart=False))
    return found if all(case.deviation <= patient.tolerance for case in found) else list(cases(apart=True))


def _other_run(patient: Patient) -> Verdict:
    cases: list[Case] = []
    beside: dict[str, str] = {}
    for runs in patient.streams.values():
        found, why = _others(patient, runs)
        cases += found
        beside |= {runs.stream: why} if why else {}
    if not cases:
        raise Refused(next(iter(beside.values())))
    return judged("other_run", cases, patient.tolerance, beside)


def _others(patient: Patient, runs: Runs) -> tuple[list[Case], str]:
    """The stream of another run at every joint of every layer, and why not all of it can be tested."""
    names = ("resid_pre", "resid_cross", "resid_mid", "resid_post")
    sites = [site for layer in runs.layers for name in names if (site := runs.here(name, layer)) is not None]
    if not sites:
        return [], "the stream is not seen between its blocks"
    ends = runs.together([{site: constant(runs.others[site])} for site in sites])
    base = [runs.found[end] for end in runs.ends]
    theirs = [runs.others[end] for end in runs.ends]
    output = runs.ends[0]
    if output == LOGITS and _moved(ends[0][-1], base[0]) and deviation(ends[0][-1], theirs[0]) > patient.tolerance:
        return [], f"the output of {runs.stream} takes more than its stream from the input (skip connections)"
    cases, unread = [], []
    for i, site in enumerate(sites):
        for end, got, own, expected in zip(runs.ends, (tensor[i] for tensor in ends), base, theirs, strict=True):
            if end == LOGITS and not _moved(got, own):
                unread.append(site)
                continue
            cases.append(Case(f"{site!r} of another run gives its {end!r}", deviation(got, expected)))
    within = {site.layer for site in sites if site not in unread}
    lost = [site for site in unread if site.name == "resid_post" and site.layer in within]
    cases += [Case(f"{site!r} reaches the output, as the stream before it in its block does", math.inf) for site in lost]
    return cases, f"the output does not depend on {', '.join(map(repr, unread))}" if unread else ""


def _moved(got: Tensor, base: Tensor) -> bool:
    return not torch.equal(got, base)


def _head_gate(patient: Patient) -> Verdict:
    if not patient.runs_here:
        raise Refused("its weights are not in this process")
    lacking = patient.lacking("z", "cross_z")
    cases = [
        case
        for runs in patient.streams.values()
        for name in ("z", "cross_z")
        for layer in [layer for layer in runs.layers if runs.here(name, layer) and _is_w_o(patient, runs, name, layer)][:1]
        for case in _gates(patient, runs, Site(name, layer=layer, stream=runs.stream))
    ]
    if not cases:
        raise Refused(next(iter(lacking.values()), "its heads go through no linear map of their own"))
    return judged("head_gate", cases, patient.tolerance, lacking)


def _is_w_o(patient: Patient, runs: Runs, name: str, layer: int) -> bool:
    return patient.model.has(Site(name.replace("z", "result"), layer=layer, stream=runs.stream))


def _gates(patient: Patient, runs: Runs, site: Site) -> Iterator[Case]:
    """Every head of one layer: scaled by 0, and its slice of W_O taken away from a copy of the weights."""
    model = patient.model
    heads, path = model.anatomy.size(site, "head"), model.taps(site).path
    linear = model.module.get_submodule(path)
    gated = runs.together([{site: partial(_without, head)} for head in range(heads)])
    for head in range(heads):
        weight = kept(linear).detach().clone()
        rearrange(weight, "(head d_head) d_model -> head d_head d_model", head=heads)[head] = 0
        stored = weight if kept(linear) is linear.weight else weight.mT.contiguous()
        ends = runs.with_weights({f"{path}.weight": stored})
        apart = max(deviation(got[head], end) for got, end in zip(gated, ends, strict=True))
        yield Case(f"{site.at(head=head)!r} scaled by 0 = W_O without its slice", apart)


def _without(head: int, z: Tensor) -> Tensor:
    z = z.clone()
    z[:, :, head] = 0
    return z


def _untouched(patient: Patient) -> Verdict:
    """Asked last: nothing that was done above has left a trace."""
    left = patient.traces()
    if left:
        return Verdict("untouched", "failed", "; ".join(left))
    return passed("untouched", "weights, gradients, modes, hooks, forwards and attention implementation")


LAWS: tuple[Law, ...] = (
    Law("sites", "every site fires once in a forward pass and has the axes and sizes that it declares", _sites),
    Law(
        "stream",
        "what attention, mixers and MLPs add makes the residual stream: resid_pre + attn_out = resid_mid, and so on",
        _probed("stream", ("stream",), ("attn_out", "mixer_out", "mlp_out")),
    ),
    Law(
        "heads",
        "the heads' results and the bias sum to what W_O gives",
        _probed("heads", ("heads",), ("result", "cross_result")),
    ),
    Law(
        "pattern",
        "rows of the pattern sum to 1, and pattern × v = z",
        _probed("pattern", ("pattern",), ("pattern", "cross_pattern")),
    ),
    Law(
        "writes",
        "another run's q, k and v, or pattern and v, give its z, and so on through every part of the last block",
        _probed("writes", ("write", "gate", "joints"), ("resid_pre",)),
    ),
    Law(
        "experts",
        "what the experts add is what the mixture gives, in proportion to their weights",
        _probed("experts", ("experts",), ("routing",)),
    ),
    Law("repeat", "a second run without interventions is the first, bit by bit, at every site", _repeat),
    Law("own_value", "a site that is given its own value changes nothing", _own_value),
    Law("other_run", "the residual stream of another run, at any layer, gives the other run's output", _other_run),
    Law("head_gate", "scaling a head's z by 0 is zeroing its slice of W_O", _head_gate),
    Law("sweep", "a sweep, resumed between blocks or batched, gives the numbers of one pass an intervention", same_numbers),
    *(Law(name, statement, check) for name, statement, check in invariance.GAUGES),
    Law("untouched", "afterwards the module is what it was: weights, modes, hooks", _untouched),
)
"""In the order in which they are tested."""

STATEMENTS: Mapping[str, str] = {law.name: law.statement for law in LAWS}
