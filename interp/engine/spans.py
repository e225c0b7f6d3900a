"""Which token of the source stands beside which of the target's, also where the two spans are not equally long.

    >>> from interp.interventions import Change
    >>> target, own = torch.tensor([[4, -1, -1], [2, 3, 4]]), torch.tensor([[4, -1], [3, -1]])
    >>> found = matched(Change("L2.resid_pre", "city"), target, own)
    >>> found.target.tolist(), found.own.tolist(), found.unequal.tolist()
    ([[4, -1, -1], [4, -1, -1]], [[4, -1, -1], [3, -1, -1]], [False, True])

Equally long spans are matched token by token, each pair for itself. Where the spans of two roles are not, the source says what
is done (:class:`interp.interventions.Activation`): ``unequal="last"`` writes the last token of the source's span at the last
token of the target's and leaves the others, ``"mean"`` writes the mean over the source's span at every token of the target's,
and ``"refuse"`` raises. One token that a source names itself, ``Activation(positions="END")``, serves all of the target's. Raw
indices, and all positions, have no such rule: a token is known by its index there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import ShapeMismatchError
from interp.interventions import Activation, Change
from interp.sites import Positions

_SAID = {
    "last": "the last token of the source's span is written at the last token of the target's, the others stay",
    "mean": "the mean over the source's span is written at every token of the target's",
}


class Placed(Protocol):
    """What is asked of a change here (:class:`interp.engine.cells.Place`)."""

    @property
    def change(self) -> Change: ...
    @property
    def unequal(self) -> Bool[Tensor, " example"] | None: ...


class Resolved(Protocol):
    """What is asked of an intervention here (:class:`interp.engine.cells.Cell`)."""

    @property
    def places(self) -> Sequence[Placed]: ...


@dataclass(frozen=True, eq=False)
class Spans:
    """Columns of the target and, slot by slot beside them, of the source; −1 where nothing is changed."""

    target: Int[Tensor, "example span"]
    own: Int[Tensor, "example span"]
    """Where the value is the mean over the source's span, any column of it."""
    unequal: Bool[Tensor, " example"] | None
    """Where the rule was needed; None if nowhere."""


def matched(change: Change, target: Int[Tensor, "example span"], own: Int[Tensor, "example own_span"]) -> Spans:
    """The columns of a change and of its source, side by side. What was matched before stays as it is.

    Args:
        own: the source's columns, of the prompt that serves each example.

    Raises:
        ShapeMismatchError: the spans are not equally long, and no rule says what to do.
    """
    source = change.source
    assert isinstance(source, Activation)
    many, theirs = (target >= 0).sum(-1), (own >= 0).sum(-1)
    beside = _as_wide(own, target)
    positions = source.own_positions or change.positions
    spans = _is_span(change.positions) and _is_span(positions)
    if not spans or positions != change.positions:  # one token of the source's own serves all of the target's
        beside = torch.where((theirs == 1)[:, None] & (target >= 0), own[:, :1], beside)
        theirs = torch.where(theirs == 1, many, theirs)
    unequal = many != theirs
    if not bool(unequal.any()):
        return Spans(target, beside, None)
    square = source.site_for(change.site).square
    if not spans or square or change.joint > 1 or source.unequal == "refuse":
        example = int(unequal.nonzero()[0])
        ours, own_ = int(many[example]), int(theirs[example])
        counts = f"{change!r}: in example {example} the target has {ours} tokens, the source {own_}"
        raise ShapeMismatchError(f"{counts}; {_instead(change, spans=spans, square=square)}")
    if source.unequal == "mean":
        return Spans(target, torch.where(unequal[:, None] & (target >= 0), own[:, :1], beside), unequal)
    columns = torch.where(unequal[:, None], _last(target, target.shape[1]), target)
    return Spans(columns, torch.where(unequal[:, None], _last(own, target.shape[1]), beside), unequal)


def _is_span(positions: Positions) -> bool:
    """Whether positions are a role's, all of its tokens."""
    return positions.role is not None and positions.pick is None


def _as_wide(own: Int[Tensor, "example own_span"], target: Int[Tensor, "example span"]) -> Int[Tensor, "example span"]:
    """As many columns as the target's; those behind the longest span are empty."""
    width = target.shape[1]
    return own[:, :width] if own.shape[1] >= width else torch.nn.functional.pad(own, (0, width - own.shape[1]), value=-1)


def _last(columns: Int[Tensor, "example span"], width: int) -> Int[Tensor, "example width"]:
    """The last column of each span, alone."""
    slot = ((columns >= 0).sum(-1, keepdim=True) - 1).clamp(min=0)
    return torch.nn.functional.pad(columns.gather(-1, slot), (0, width - 1), value=-1)


def _instead(change: Change, *, spans: bool, square: bool) -> str:
    """Why spans of different length have no rule, and what would do."""
    if square:
        return "rows of attention are matched along source_position too, by raw index: patch z or result of the head instead"
    if change.joint > 1:
        return f"{change.joint} tokens are changed as one, so the source has as many"
    if isinstance(change.source, Activation) and change.source.pool == "resample" and not spans:
        return (
            "the values of another prompt are written token by token, so change tokens that all prompts have: position=-1, or "
            "a role, whose spans may differ in length (unequal='last' or 'mean' says what then); or give prompts of one length"
        )
    if spans:
        return "Activation(unequal='last') writes the last token of the span, unequal='mean' the mean over it"
    return (
        "spans must be equally long, or the source one token, such as Activation(positions='subject[-1]'); roles that cover "
        "spans of different length have a rule, Activation(unequal='last')"
    )


def recorded(cells: Iterable[Resolved]) -> dict[str, Any]:
    """The attribute ``unequal`` of a result: which rule was needed, and in how many examples; nothing if in none."""
    found = {id(place.unequal): place for cell in cells for place in cell.places if place.unequal is not None}
    if not found:
        return {}
    rules = sorted({str(getattr(place.change.source, "unequal", "")) for place in found.values()})
    where = torch.stack([place.unequal for place in found.values() if place.unequal is not None]).any(0)
    return {"unequal": {"rule": "+".join(rules), "examples": int(where.sum())}}


def note(cells: Iterable[Resolved], examples: int) -> list[str]:
    """What a plan says of it."""
    found = recorded(cells).get("unequal")
    if found is None:
        return []
    said = "; ".join(_SAID[rule] for rule in found["rule"].split("+"))
    where = f"in {found['examples']} of {examples} examples source and target spans differ in length"
    return [f"{where}: {said} (unequal={found['rule']!r})"]
