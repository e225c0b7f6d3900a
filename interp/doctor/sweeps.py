"""The law of the engine: whatever way a sweep is run, its numbers are those of one forward pass an intervention.

>>> same_numbers(patient)                                                                 # doctest: +SKIP
Verdict(law='sweep', status='passed', what='14 cases, the worst: q', …)
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from interp.doctor.patient import Patient
from interp.doctor.verdict import Case, Refused, Verdict, judged
from interp.engine import patch
from interp.metrics import FromLogits
from interp.models import Model
from interp.models.examples import BATCH
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import Grid, grid

TEXT = {"input_ids", "attention_mask", "position_ids"}
WORDS = {"input_ids": "text", "decoder_input_ids": "target"}
DERIVED = ("mask", "position_ids", "type_ids")
"""Endings of arguments that follow from the others."""
FIRST = FromLogits(lambda logits: logits[..., 0], name="first output")


def same_numbers(patient: Patient) -> Verdict:
    """Every component of every stream, in the last two layers that have it, of a pipeline at its last call: rows that are
    resumed between blocks where the model allows it, whole passes of many rows elsewhere, against one intervention a pass.
    """
    model = patient.model
    if not model.example:
        raise Refused(f"nothing is known of its prompts: {model.unknown}")
    text = set(model.example) <= TEXT
    pairs = _texts(model.example["input_ids"]) if text else _pairs(model)
    where = _everywhere(patient, [-3] if text else [0, -1])
    if not where:
        raise Refused("no block of it is known")
    metric = "logit_diff" if text and model.anatomy.outputs > 1 else FIRST
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a noise floor, which is what is measured here
        slow, fast = (patch(model, pairs, where, metric, strategy=strategy, progress=False) for strategy in ("serial", "auto"))
    cases = [Case(f"{name}, {_ways(fast[name])}", _apart(slow[name]["value"], fast[name]["value"])) for name in where]
    # Batch size alone moves a difference of two logits by twice the rounding of one.
    return judged("sweep", cases, 2 * patient.tolerance)


def _ways(found: Any) -> str:
    return found.attrs["strategy"]


def _everywhere(patient: Patient, places: list[int]) -> dict[str, Grid]:
    sites = [site for site in patient.model.sites() if site.name != "logits"]
    found = {}
    for stream, name in dict.fromkeys((site.stream, site.name) for site in sites):
        alike = [site for site in sites if (site.stream, site.name) == (stream, name)]
        layers = [site.layer for site in alike if site.layer is not None][-2:]
        swept: dict[str, Any] = {"layer": layers} if layers else {}
        whole, times = alike[0].at(layer=None), patient.model.anatomy.repeats(alike[0])
        if patient.model.anatomy.repeated:  # a pass is a whole generation: at its last call, everywhere
            swept |= {"call": [times.calls - 1]} if times.calls > 1 else {}
            swept |= {"half": [times.halves - 1]} if times.halves > 1 else {}
        elif "position" in alike[0].axes:
            swept |= {"position": places}
        found[repr(whole)] = grid(whole, **swept)
    return found


def _texts(ids: Tensor) -> Pairs:
    """Two pairs that begin alike, the second shorter by a token."""
    clean, other = ids[0].tolist(), ids[1].tolist()
    answers = (clean[1],)
    wrong = (next(token for token in (*other, 0, 1) if token not in answers),)
    items = []
    for n in (len(clean), len(clean) - 1):
        corrupted = [*clean[: n - 3], other[n - 3], clean[n - 2], other[n - 1]]
        items.append(Pair(Prompt(tuple(clean[:n])), Prompt(tuple(corrupted)), answers=answers, wrong=wrong))
    return Pairs(tuple(items))


def _pairs(model: Model) -> Pairs:
    """The first two examples that the model was loaded with, each the other's contrast."""
    one, other = (_prompt(model, number) for number in (0, 1))
    return Pairs((Pair(one, other), Pair(other, one)))


def _prompt(model: Model, number: int) -> Prompt:
    given = {name: tensor for name, tensor in model.example.items() if not name.endswith(DERIVED)}
    own = {name: tensor[number] if len(tensor) == BATCH else tensor.chunk(BATCH)[number] for name, tensor in given.items()}
    return prompt_of(own)


def prompt_of(arguments: Mapping[str, Tensor]) -> Prompt:
    """The prompt that gives a forward these arguments, each of one example."""
    words: dict[str, Any] = {WORDS[name]: tuple(arguments[name].tolist()) for name in WORDS if name in arguments}
    return Prompt(inputs={name: tensor for name, tensor in arguments.items() if name not in WORDS}, **words)


def _apart(slow: Any, fast: Any) -> float:
    return float(abs(slow - fast).max()) / (1 + float(abs(slow).max()))
