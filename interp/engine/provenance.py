"""What a result says about where it came from."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, cached_property
from importlib import metadata
from typing import Any

from torch import Tensor

from interp import axes
from interp.engine import surroundings
from interp.engine.precision import computed
from interp.interventions.digest import anonymous, digest
from interp.metrics import FromLogits, Metric
from interp.models import Encoded, Model, Places
from interp.own_code import in_writing, own_code
from interp.prompts import Answer

ENGINE_SEMANTICS = 1
"""Raised only when numbers may change; part of a run's identity."""


@cache
def versions() -> dict[str, str]:
    """Versions of the packages that made the numbers, and of Python."""
    packages = {name: metadata.version(name) for name in ("interp-workbench", "torch", "transformers", "numpy", "xarray")}
    return packages | {"python": platform.python_version()}


@dataclass(frozen=True, eq=False)
class Subject:
    """A model and prompts of one sweep: what they are known by is told once, for the weights are read for it."""

    model: Model
    encoded: Encoded

    @cached_property
    def identity(self) -> dict[str, Any]:
        return identity(self.model, self.encoded)

    @cached_property
    def unwritten(self) -> str:
        """Why the identity does not say what is computed; empty where it does."""
        return self.model.unwritten


def identity(model: Model, encoded: Encoded) -> dict[str, Any]:
    """What the numbers are of. Prompts are known by their tokens too, which another tokenizer or template changes."""
    return {
        "model": model.name,
        "model_digest": model.digest,
        "revision": model.revision,
        "pairs_digest": encoded.pairs.digest,
        "bos": encoded.bos,
        "dtype": str(model.dtype).removeprefix("torch."),
        **({"bos_asked": encoded.asked} if encoded.asked != "model" else {}),  # special tokens may be others than BOS
        "tokens": _tokens(encoded),
    }


def _tokens(encoded: Encoded) -> str:
    """sha256 of the real token ids of all prompts and of their answers, 16 hexadecimal digits."""
    total = hashlib.sha256(json.dumps([encoded.answered.right, encoded.answered.wrong]).encode())
    for side in (encoded.clean, encoded.corrupted):
        if side.ids is not None:
            for row, real in zip(side.ids.cpu(), side.mask.cpu(), strict=True):
                total.update(json.dumps(row[real].tolist()).encode())
    return total.hexdigest()[:16]


def spec(subject: Subject, patching: str, metrics: Sequence[Metric], family: dict[str, Any]) -> dict[str, Any] | None:
    """The canonical description whose digest identifies a run; None if something in it cannot be written down.

    Such as a hook of somebody's own: it may do anything to what the model says, and the weights do not know of it.
    """
    described = [_metric(metric) for metric in metrics]
    if None in described or anonymous(family) or subject.unwritten:
        return None
    return subject.identity | {"patching": patching, "metrics": described} | family


def _metric(metric: Any) -> str | None:
    """A metric's class with its fields, and its code if it is the user's own.

    None for a function, or for an object that does not say what it is.
    """
    code = own_code(metric)
    if isinstance(metric, FromLogits) or not is_dataclass(metric) or code is None:
        return None
    if not code:
        return f"{type(metric).__module__}.{metric!r}"
    said = {field.name: _field(getattr(metric, field.name)) for field in fields(metric)}
    if None in said.values():
        return None
    each = ", ".join(f"{name}={value}" for name, value in said.items())
    return f"{type(metric).__module__}.{type(metric).__qualname__}({each}) {code}"


def _field(value: Any) -> str | None:
    """A tensor by its digest: its text leaves most of it out."""
    return digest({"": value}) if isinstance(value, Tensor) else in_writing(value)


def attributes(subject: Subject, patching: str, metrics: Sequence[Metric]) -> dict[str, Any]:
    """Provenance that does not depend on what was swept."""
    model, encoded = subject.model, subject.encoded
    made_by = dict(encoded.pairs.made_by)
    return (
        subject.identity
        | of_answers(encoded)
        | {
            "task": encoded.pairs.task,
            "task_made_by": made_by,
            "seed": made_by.get("seed"),
            "patching": patching,
            "units": {m.name: getattr(m, "unit", "") for m in metrics},
            "device": str(model.device),
            "device_name": surroundings.device_name(model.device),
            "peak_memory": surroundings.peak_memory(model.device),
            "git_revision": surroundings.git_revision(),
            "float32_precision": computed(),
            "engine_semantics": ENGINE_SEMANTICS,
            "versions": versions(),
        }
    )


def of_answers(encoded: Encoded) -> dict[str, Any]:
    """The fewest and the most tokens of a right answer, and how several are read; nothing where all are one token."""
    least, most = encoded.answered.span
    if most == 1:
        return {}
    return {"answer_tokens": [least, most], "answers_read": "teacher forced, behind both prompts"}


def example_coordinates(encoded: Encoded) -> dict[str, Any]:
    """Template and prompts of every example, and its answers where there are any, ``" a | b"`` of alternatives."""
    pairs = encoded.pairs
    known = {
        "template": [pair.template for pair in pairs],
        "clean_prompt": [_written(pair.clean.text) for pair in pairs],
        "corrupted_prompt": [_written(pair.corrupted.text) for pair in pairs],
    }
    answers = {"answer": [pair.answers for pair in pairs], "wrong": [pair.wrong for pair in pairs]}
    return known | {name: [" | ".join(map(_written, one)) for one in found] for name, found in answers.items() if any(found)}


def _written(text: Answer) -> str:
    """Words as they are, ids of tokens with spaces between."""
    return text if isinstance(text, str) else str(text) if isinstance(text, int) else " ".join(map(str, text))


def token_coordinates(clean: Places, corrupted: Places, positions: Sequence[int | str] | None) -> dict[str, Any]:
    """The token at every raw position and example, where positions are raw indices of tokens; or its row, column, …

    ``role`` is the one that every clean prompt has there, "" where it is none.
    """
    raw = [p for p in positions or () if isinstance(p, int)]
    if positions is None or len(raw) < len(positions):
        return {}
    lattice: dict[str, Any] = {name: (axes.POSITION, [where[p] for p in raw]) for name, where in clean.coordinates().items()}
    roles = clean.roles_at(raw)
    lattice |= {"role": (axes.POSITION, roles)} if any(roles) else {}
    if not clean.strings:
        return lattice
    return lattice | {
        f"{side}_token": ((axes.POSITION, axes.EXAMPLE), [[strings[p] for strings in places.strings] for p in raw])
        for side, places in (("clean", clean), ("corrupted", corrupted))
    }
