"""Changes at chosen attended positions, and attention knockout: what they say, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from interp.errors import HeadOutOfRangeError, PositionError, UnknownSiteError
from interp.interventions import Activation, Add, Change, Constant, Cut, Intervention, Scale, attention_knockout, knockout
from interp.sites import Positions, Site, grid


@pytest.mark.parametrize(
    ("attended", "said"), [("S2", "S2"), ("S2[-1]", "S2[-1]"), (-1, "-1"), ((0, 3), "0,3"), (range(2), "0,1")]
)
def test_a_change_says_where_in_the_row_it_is_made(attended: object, said: str) -> None:
    change = Change("L3H2.pattern", "END", edit=Scale(0.0), attended=attended)  # type: ignore[arg-type]
    assert change.attended == Positions.parse(attended)  # type: ignore[arg-type]
    assert repr(change) == f"L3H2.pattern@END attended={said} Scale(factor=0.0)"
    assert change.spec()["attended"] == said
    json.dumps(change.spec())


def test_whole_rows_are_what_they_were_before_spans_could_be_said() -> None:
    """The digest of a run is that of its spec: what means the same is written as it always was."""
    for whole in (Change("L3H2.pattern", "END"), Change("L3H2.pattern", "END", attended=...), Change("L3.z")):
        assert set(whole.spec()) == {"site", "positions", "source", "edit", "featurizer", "keep_error"}
        assert "attended" not in repr(whole)
    assert set(grid("pattern", layer=...).spec()) == {"site", "positions", "axes"}


def test_targets_and_grids_take_one_span_for_all() -> None:
    two = Intervention.of("L1H0.pattern@END", "L2.scores@-1", edit=Scale(0.0), attended="S2")
    assert [repr(change.attended) for change in two.changes] == ["S2", "S2"]
    where = grid("pattern", layer=..., head=..., position="END", attended="S2")
    assert repr(where) == "grid(pattern, layer=all, head=all, position=END, attended=S2)"
    assert where.spec()["attended"] == "S2"
    assert repr(grid("L1.cross_scores", head=..., attended=-1)) == "grid(L1.cross_scores, head=all, attended=-1)"


def test_what_has_no_attended_positions_is_refused() -> None:
    said = r"^attended=S2 of L3\.z: only scores and patterns have rows of attended positions"
    with pytest.raises(PositionError, match=said):
        Change("L3.z", "END", attended="S2")
    with pytest.raises(PositionError, match=said):
        grid("L3.z", attended="S2")
    with pytest.raises(PositionError, match="output has the axes example, position, unit"):
        Change("encoder.fc1:output", attended=0)
    with pytest.raises(PositionError, match="cross_k has the axes example, source_position"):
        Change("L0.cross_k", attended=0)
    with pytest.raises(PositionError, match="neither 'all', 'last', a role"):
        Change("L3.pattern", attended="[1]")
    with pytest.raises(PositionError, match="name one token twice"):
        Change("L3.pattern", attended=(1, 1))


def test_a_token_may_be_left_to_attend_to_itself() -> None:
    change = Change("L3.scores", edit=Cut(), attended="all but 0", own=False)
    assert repr(change) == "L3.scores attended=all but 0 own=False Cut()"
    assert change.spec()["own"] is False
    assert "own" not in Change("L3.scores", edit=Cut(), attended="all but 0").spec()
    knocked = attention_knockout(..., "all but 0", layers=3, renormalise=True, own=False)
    assert knocked.spec() == Intervention((change,)).spec()
    for wrong in ("L3.z", "L3.cross_scores"):
        with pytest.raises(PositionError, match=r"own=False of L3\..*: only in scores and patterns of self-attention"):
            Change(wrong, own=False)
    with pytest.raises(PositionError, match=r"own=False of L1\.cross_pattern"):
        attention_knockout(-1, 0, layers=1, cross=True, own=False)


def test_spans_are_not_swept() -> None:
    with pytest.raises(
        PositionError, match=r"attended=\['IO', 'S1'\] is not swept: give one role or indices, and a grid for each"
    ):
        grid("pattern", layer=3, attended=["IO", "S1"])


def test_minus_infinity_is_for_scores() -> None:
    assert torch.equal(Cut()(torch.ones(2), torch.ones(2)), torch.full((2,), -torch.inf))
    assert Cut().spec() == {"kind": "cut"}
    with pytest.raises(UnknownSiteError, match=r"site for Cut\(\) L3\.pattern: −∞ is for scores; elsewhere Scale\(0\.0\)"):
        Change("L3.pattern", edit=Cut())
    Change("L3.cross_scores", edit=Cut())


def test_the_two_knockouts_of_the_literature() -> None:
    """After the softmax without renormalising, and before it (methods/localise.md, card 7)."""
    zero = attention_knockout("END", "S2", layers=[3, 4], heads=(0, 2))
    assert [change.site for change in zero.changes] == [Site("pattern", layer=n, head=h) for n in (3, 4) for h in (0, 2)]
    assert {(repr(c.positions), repr(c.attended), c.edit) for c in zero.changes} == {("END", "S2", Scale(0.0))}
    mask = attention_knockout(-1, (0, 1), layers=7, renormalise=True)
    assert repr(mask) == "Intervention(L7.scores@-1 attended=0,1 Cut())"
    crossed = attention_knockout(-1, 0, layers=1, heads=2, cross=True)
    assert repr(crossed) == "Intervention(L1H2.cross_pattern@-1 attended=0 Scale(factor=0.0))"
    elsewhere = attention_knockout(0, -1, layers=1, stream="encoder", renormalise=True)
    assert elsewhere.changes[0].site == Site("scores", layer=1, stream="encoder")


@pytest.mark.parametrize(
    "wrong", [{"layers": []}, {"layers": [1, 1]}, {"layers": -1}, {"layers": 1, "heads": ()}, {"layers": 1, "heads": [-2]}]
)
def test_no_layers_or_heads_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(HeadOutOfRangeError, match="expected a number from 0 on, or several different ones"):
        attention_knockout("END", "S2", **wrong)


@pytest.mark.parametrize("wrong", [..., "3", "all", [0.5]])
def test_what_is_no_number_is_refused(wrong: object) -> None:
    """Past the annotations, which a notebook does not check."""
    said = r"layers=.* expected a number from 0 on, or several different ones such as range\(model\.sizes\['layer'\]\)"
    with pytest.raises(HeadOutOfRangeError, match=said):
        knockout._several("layers", wrong)


def test_sources_of_values_may_be_combined_with_a_span() -> None:
    for change in (
        Change("L3.scores", -1, Constant(1.0), Add(), attended=0),
        Change("L3.pattern", -1, Activation("clean"), attended=0),
    ):
        assert "attended=0 ←" in repr(change)
