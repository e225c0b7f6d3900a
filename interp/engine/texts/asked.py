"""What is asked of texts, in whatever form: one or several interventions as a list, what is in force as one of its own.

>>> several(None), several([None, change])                                  # doctest: +SKIP
([None], [None, Intervention(L2.z ← Activation(source))])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from interp.engine.asked import listed
from interp.engine.background import Given, given_changes
from interp.interventions import Change, Intervention
from interp.models import Model

Asked = Intervention | Change | Sequence[Intervention | Change | None] | None


def several(given: Any) -> list[Intervention | None]:
    many = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    found = iter(listed([one for one in many if one is not None], "interventions") if many != [None] * len(many) else [])
    if not many:
        raise ValueError("interventions is an empty list; None is the model as it is")
    return [None if one is None else next(found) for one in many]


def in_force(model: Model, given: Given) -> Intervention | None:
    """What is given, behind what :meth:`interp.Model.edited` has put in force, as one intervention with changes of its own: the
    same may be asked for again, at other positions.
    """
    found = given_changes(model, given)
    return None if found is None else replace(found, changes=tuple(map(replace, found.changes)))


def named(one: Intervention | None, given: Any) -> str:
    """What an intervention is called in a result."""
    if one is None:
        return "as it is" if given is None else "what is given"
    return repr(one)[len("Intervention(") : -1]
