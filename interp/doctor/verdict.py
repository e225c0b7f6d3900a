"""What was found about one law.

>>> passed("repeat", "47 sites", 0.0, 1e-5).status
'passed'
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.models import Model
from interp.models.maps import in_out
from interp.models.probe import Outcome

Status = Literal["passed", "failed", "refused"]


class Refused(Exception):  # noqa: N818 - an answer, not an error
    """A law cannot be tested on a model, with the reason in one line."""


@dataclass(frozen=True)
class Verdict:
    """Whether a model keeps a law."""

    law: str
    status: Status
    what: str
    """What was tested, with the worst case; what is broken; or why it cannot be tested."""
    deviation: float | None = None
    """Of the worst case; how it is counted is the law's. None where nothing was measured."""
    tolerance: float | None = None
    untested: Mapping[str, str] = field(default_factory=dict)
    """Streams, layers or modules that the law does not speak of, each with the reason."""

    def spec(self) -> dict[str, Any]:
        """JSON; a deviation that is no finite number is written as text."""
        number = self.deviation
        finite = number is None or abs(number) < float("inf")
        return {
            "law": self.law,
            "status": self.status,
            "what": self.what,
            "deviation": number if finite else str(number),
            "tolerance": self.tolerance,
            "untested": dict(self.untested),
        }


class Case(NamedTuple):
    """One equation that was tested."""

    what: str
    deviation: float


def passed(
    law: str,
    what: str,
    deviation: float | None = None,
    tolerance: float | None = None,
    untested: Mapping[str, str] | None = None,
) -> Verdict:
    return Verdict(law, "passed", what, deviation, tolerance, untested or {})


def refused(law: str, why: str) -> Verdict:
    return Verdict(law, "refused", why)


def judged(law: str, cases: Sequence[Case], tolerance: float, untested: Mapping[str, str] | None = None) -> Verdict:
    """Passed if every case is within the tolerance; the worst ones are named."""
    worst = sorted(cases, key=lambda case: -_size(case.deviation))
    broken = [case.what for case in worst if not case.deviation <= tolerance]
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        return Verdict(law, "failed", "; ".join(broken[:3]) + more, worst[0].deviation, tolerance, untested or {})
    many = "1 case" if len(cases) == 1 else f"{len(cases)} cases"
    which = f", the worst: {worst[0].what}" if worst[0].deviation > 0 else ", none deviates"
    return passed(law, many + which, worst[0].deviation, tolerance, untested)


def of_outcomes(law: str, outcomes: Sequence[Outcome], untested: Mapping[str, str]) -> Verdict:
    """The verdict on what the probe run at loading tests too."""
    if not outcomes:
        raise Refused(next(iter(untested.values()), "it has no stack of blocks"))
    found = [Case(outcome.what, outcome.deviation) for outcome in outcomes]
    return judged(law, found, outcomes[0].tolerance, untested)


def deviation(got: Tensor, expected: Tensor) -> float:
    """The largest difference, over 1 + the largest expected number; infinite where something is not a number."""
    if got.shape != expected.shape:
        return float("inf")
    found = float((got.double() - expected.double()).abs().max()) / (1 + float(expected.double().abs().max()))
    return found if found == found else float("inf")


def tolerance(model: Model) -> float:
    """How far two numbers that should be equal may lie apart: by rounding of float32 in small models and in real ones."""
    if model.dtype in (torch.float16, torch.bfloat16):
        return 5e-2
    return 1e-5 if sum(parameter.numel() for parameter in model.module.parameters()) < 1_000_000 else 1e-4


def _size(number: float) -> float:
    return number if number == number else float("inf")


def kept(linear: nn.Module) -> Float[Tensor, "d_in d_out"]:
    """The weight of a linear map, inputs as rows.

    Raises:
        Refused: it is not kept as a matrix, but packed or beside an adapter.
    """
    weight = in_out(linear)
    if weight is None:
        raise Refused(f"the weights of a {type(linear).__name__} are not kept as a matrix")
    return weight
