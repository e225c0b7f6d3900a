"""The law of the engine: what is resumed between blocks gives what whole forward passes give.

>>> same_numbers(patient)                                                                 # doctest: +SKIP
Verdict(law='wave', status='passed', what='14 cases, the worst: q', …)
"""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor

from interp.doctor.patient import Patient
from interp.doctor.verdict import Case, Refused, Verdict, judged
from interp.engine import patch
from interp.pairs import Pair, Pairs, Prompt
from interp.sites import MAIN, Grid, grid

TEXT = {"input_ids", "attention_mask", "position_ids"}
PLACE = -3


def same_numbers(patient: Patient) -> Verdict:
    """Every component, in the last two layers that have it, at a place in the middle of two prompts of unequal length."""
    model = patient.model
    others = sorted(set(model.example) - TEXT)
    if not model.example or others:
        raise Refused(f"sweeps run on text alone; its forward takes {', '.join(others) or 'nothing that is known'}")
    if model.stack is None:
        raise Refused(f"nothing can be resumed: {model.stack_refused}")
    pairs = _pairs(model.example["input_ids"])
    where = _everywhere(patient)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a noise floor, which is what is measured here
        slow, fast = (
            patch(model, pairs, where, "logit_diff", strategy=strategy, progress=False) for strategy in ("serial", "auto")
        )
    cases = [Case(name, _apart(slow[name]["value"], fast[name]["value"])) for name in where]
    # Batch size alone moves a difference of two logits by twice the rounding of one.
    return judged("wave", cases, 2 * patient.tolerance)


def _everywhere(patient: Patient) -> dict[str, Grid]:
    sites = [site for site in patient.model.sites() if site.stream == MAIN and site.name != "logits"]
    found = {}
    for name in dict.fromkeys(site.name for site in sites):
        layers = [site.layer for site in sites if site.name == name and site.layer is not None][-2:]
        found[name] = grid(name, layer=layers, position=[PLACE]) if layers else grid(name, position=[PLACE])
    return found


def _pairs(ids: Tensor) -> Pairs:
    """Two pairs that begin alike, the second shorter by a token."""
    clean, other = ids[0].tolist(), ids[1].tolist()
    answers = (clean[1],)
    wrong = (next(token for token in (*other, 0, 1) if token not in answers),)
    items = []
    for n in (len(clean), len(clean) - 1):
        corrupted = [*clean[: n - 3], other[n - 3], clean[n - 2], other[n - 1]]
        items.append(Pair(Prompt(tuple(clean[:n])), Prompt(tuple(corrupted)), answers=answers, wrong=wrong))
    return Pairs(tuple(items))


def _apart(slow: Any, fast: Any) -> float:
    return float(abs(slow - fast).max()) / (1 + float(abs(slow).max()))
