"""One model held to every law.

>>> report = examine(model)                                                               # doctest: +SKIP
>>> report.failed, report.refused                                                         # doctest: +SKIP
((), ('rotate',))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from interp.doctor.bos import Loss, loss_with_and_without_bos
from interp.doctor.generation import OF_THE_WHOLE, of_parts
from interp.doctor.laws import LAWS, Law
from interp.doctor.patient import RAISES, Patient
from interp.doctor.verdict import Refused, Verdict
from interp.models import Model
from interp.models.listing import Listed
from interp.sites import Site


@dataclass(frozen=True)
class Report:
    """What was found."""

    architecture: str
    sites: tuple[Listed, ...]
    absent: Mapping[str, str]
    """Components that a stream does not have, each with the reason."""
    verdicts: tuple[Verdict, ...]
    """In the order of the laws."""
    loss: Loss | str = "none: it was not asked"
    """The loss of a text with and without BOS, or why there is none."""

    @property
    def passed(self) -> tuple[str, ...]:
        return self._with("passed")

    @property
    def failed(self) -> tuple[str, ...]:
        return self._with("failed")

    @property
    def refused(self) -> tuple[str, ...]:
        return self._with("refused")

    def _with(self, status: str) -> tuple[str, ...]:
        return tuple(verdict.law for verdict in self.verdicts if verdict.status == status)

    def __getitem__(self, law: str) -> Verdict:
        """The verdict on one law."""
        return {verdict.law: verdict for verdict in self.verdicts}[law]

    def spec(self) -> dict[str, Any]:
        """JSON."""
        return {
            "architecture": self.architecture,
            "passed": list(self.passed),
            "failed": list(self.failed),
            "refused": list(self.refused),
            "verdicts": [verdict.spec() for verdict in self.verdicts],
            "sites": [
                {"stream": s.stream, "name": s.name, "layers": list(s.layers), "sizes": dict(s.sizes)} for s in self.sites
            ],
            "absent": dict(self.absent),
            "loss": self.loss if isinstance(self.loss, str) else self.loss.spec(),
        }


def examine(model: Model, laws: Sequence[Law] = LAWS, *, progress: Callable[[str], None] | None = None) -> Report:
    """Hold a model to the laws.

    Args:
        laws: which of them.
        progress: called with the name of each law before it is tested.
    """
    patient = Patient(model)
    parts = {path: Patient(part) for path, part in model.parts.items() if part.anatomy.main.blocks}
    verdicts = []
    for law in laws:
        if progress is not None:
            progress(law.name)
        verdicts.append(_of_pipeline(law, patient, parts) if parts else _verdict(law, patient))
    return Report(model.name, model.sites().listed, _absent(model), tuple(verdicts), _loss(model))


def _loss(model: Model) -> Loss | str:
    if model.parts:
        return "none: it is no causal language model"
    try:
        return loss_with_and_without_bos(model)
    except RAISES as error:  # a text that is too long for it, a forward that needs more than a text
        return f"none: a text does not run ({type(error).__name__}: {next(iter(str(error).splitlines()), '')})"


def _of_pipeline(law: Law, whole: Patient, parts: Mapping[str, Patient]) -> Verdict:
    if law.name in OF_THE_WHOLE:
        return _verdict(replace(law, check=OF_THE_WHOLE[law.name] or law.check), whole)
    return of_parts(law.name, {path: _verdict(law, part) for path, part in parts.items()})


def _verdict(law: Law, patient: Patient) -> Verdict:
    try:
        return law.check(patient)
    except Refused as why:
        return Verdict(law.name, "refused", str(why))
    except RAISES as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        return Verdict(law.name, "failed", f"{type(error).__name__}: {reason}", float("inf"))


def _absent(model: Model) -> dict[str, str]:
    """By stream and component, as sites are written."""
    return {
        repr(Site(name, stream=stream.name)): why
        for stream in model.anatomy.streams.values()
        for name, why in stream.absent.items()
        if stream.blocks
    }
