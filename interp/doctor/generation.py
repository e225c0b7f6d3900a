"""A diffusion pipeline under examination: the whole at every call of every part, its parts by themselves.

>>> examine(load(pipeline, steps=2))["own_value"].what                                     # doctest: +SKIP
'8 cases, none deviates'

One forward pass of a pipeline is one generation, which calls its denoiser once a step and its text encoder for both prompts.
That every site is seen at every one of these calls and in both halves of the batch, and that nothing comes of writing there
what is there, is asked of the whole. What attention and MLPs do inside a part is asked of the part, on inputs of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import groupby

from interp import axes
from interp.doctor.patient import LOGITS, Patient, constant, read
from interp.doctor.verdict import Case, Verdict, deviation, judged, passed
from interp.models.listing import OF_A_PROMPT
from interp.sites import Site


def _sites(patient: Patient) -> Verdict:
    """Reading raises if a call sees a site more or less than once."""
    found, anatomy = patient.found, patient.model.anatomy
    examples = len(found[LOGITS])
    for site, tensor in found.items():
        known = {axis: anatomy.size(site, axis) for axis in site.axes if axis not in OF_A_PROMPT}
        sizes = [examples if axis == axes.EXAMPLE else known.get(axis) for axis in site.axes]
        if len(sizes) != tensor.ndim or any(size not in (None, n) for size, n in zip(sizes, tensor.shape, strict=True)):
            return Verdict("sites", "failed", f"{site!r} ({', '.join(site.axes)}) has the shape {tuple(tensor.shape)}")
    return passed("sites", f"{len(patient.model.sites())} sites, {len(found)} with every call and half")


def _own_value(patient: Patient) -> Verdict:
    """All sites of one call and half in one pass; if that goes wrong one by one, to know which of them it is."""
    model, found = patient.model, patient.found
    own = sorted((site for site in found if site != LOGITS), key=_when)

    def case(sites: list[Site], what: str) -> Case:
        got = read(model, model.example, [LOGITS], {site: constant(found[site].clone()) for site in sites})[LOGITS]
        return Case(f"writing {what} its own value", deviation(got, found[LOGITS]))

    def cases() -> Iterator[Case]:
        for _, group in groupby(own, key=_when):
            sites = list(group)
            together = case(sites, f"{sites[0]!r} and all others of this call")
            exact = together.deviation <= patient.tolerance
            yield from [together] if exact else [case([site], repr(site)) for site in sites]

    return judged("own_value", list(cases()), patient.tolerance)


def _when(site: Site) -> tuple[str, int, int]:
    return site.stream, -1 if site.call is None else site.call, -1 if site.half is None else site.half


OF_THE_WHOLE: Mapping[str, Callable[[Patient], Verdict] | None] = {
    "sites": _sites,
    "repeat": None,
    "own_value": _own_value,
    "sweep": None,
    "untouched": None,
}
"""Laws that are asked of whole generations, by name, and how; None where it is as of any model."""


def of_parts(law: str, found: Mapping[str, Verdict]) -> Verdict:
    """The verdict on a pipeline's parts: failed if one fails, refused if none can be tested."""
    broken, kept = ({path: one for path, one in found.items() if one.status == status} for status in ("failed", "passed"))
    chosen = broken or kept
    if not chosen:
        return Verdict(law, "refused", next(one.what for one in found.values()))
    untested = {path: one.what for path, one in found.items() if one.status == "refused"}
    untested |= {f"{path} {what}": why for path, one in chosen.items() for what, why in one.untested.items()}
    worst = max(chosen.values(), key=lambda one: one.deviation or 0.0)
    what = "; ".join(f"{path}: {one.what}" for path, one in chosen.items())
    return Verdict(law, "failed" if broken else "passed", what, worst.deviation, worst.tolerance, untested)
