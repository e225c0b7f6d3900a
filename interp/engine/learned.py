"""What a method that trains interventions returns: its numbers with where they are from, made once or found in a store.

>>> asked = Asked.of("gate_heads", model, encoded, metrics, {"weight": 0.1})                 # doctest: +SKIP
>>> asked.result(make, Into.of(store), said)                                                 # doctest: +SKIP
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import xarray as xr

from interp import effects
from interp.engine import provenance, recipe
from interp.engine.background import Given, Hold, given_changes, held, in_force
from interp.engine.precision import Precision
from interp.engine.provenance import Subject
from interp.engine.stored import Into, whole
from interp.metrics import Metric
from interp.models import Encoded, Model

Make = Callable[[], tuple[xr.Dataset, Mapping[str, Any]]]
"""Makes the numbers, and says what is true of the training alone, such as ``selected_on``."""
_OF_TRAINING = ("selected_on", "out_of_memory", "gauge")
"""What a training says that its result says too."""


@dataclass(frozen=True, eq=False)
class Asked:
    """A training that is asked for."""

    call: str
    subject: Subject
    attrs: dict[str, Any]

    @classmethod
    def of(
        cls,
        call: str,
        model: Model,
        encoded: Encoded,
        metrics: tuple[Metric, ...],
        facts: Mapping[str, Any],
        *,
        patching: str = "noising",
        given: Given = None,
        hold: Hold = (),
        precision: Precision = "full",
    ) -> Asked:
        """
        Args:
            call: the function that was called.
            facts: what it was called with, JSON: all that the numbers depend on beside the model, the pairs and the metric.
        """
        subject, standing, frozen = Subject(model, encoded), given_changes(model, given), held(model, hold)
        said: dict[str, Any] = {call: dict(facts)} | ({"precision": precision} if precision != "full" else {})
        said |= {"given": standing.spec()} if standing is not None else {}
        said |= {"hold": [repr(change.site) for change in frozen.changes]} if frozen is not None else {}
        attrs = {
            **provenance.attributes(subject, patching, metrics),
            **in_force(model, standing, frozen),
            "method": call,
            **facts,
            "spec": provenance.spec(subject, patching, metrics, said),
        }
        return cls(call, subject, attrs)

    def result(self, make: Make, into: Into | None, said: Mapping[str, Any], pairs: Encoded | None = None) -> xr.Dataset:
        """What is asked for.

        Args:
            said: the arguments of the call, for the recipe.
            pairs: what was given as pairs, where others were made of them.
        """

        def made() -> xr.Dataset:
            began = time.perf_counter()
            found, facts = make()
            known = {"wall_seconds": time.perf_counter() - began, "made_at": datetime.now(UTC).isoformat(timespec="seconds")}
            of_training = {key: facts[key] for key in _OF_TRAINING if key in facts}
            return effects.stamped(found.assign_attrs({**self.attrs, **of_training, **known}))

        if into is None:
            return made()
        written = partial(recipe.recorded, self.call, self.subject.model, pairs or self.subject.encoded, **said)
        found = whole(into, xr.Dataset(attrs=self.attrs), made, beside=written)
        assert isinstance(found, xr.Dataset)
        return found
