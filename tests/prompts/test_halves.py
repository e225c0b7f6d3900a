"""Splits of pairs: nothing shared, nothing forgotten, the same draw for the same seed. Counts are by hand."""

from __future__ import annotations

import itertools
import random
import re
import warnings
from typing import Any

import pytest
import sweeps

from interp.errors import UnknownNameError
from interp.prompts import Pair, Pairs
from interp.prompts.halves import halves


def made(n: int, templates: int = 4, entities: int = 0) -> Pairs:
    """``n`` different pairs; templates in turn; with entities, each pair has two of them, neighbours in a ring."""
    items = [
        Pair(
            f"clean {i}",
            f"other {i}",
            (),
            (),
            f"t{i % templates}",
            (f"e{i % entities}", f"e{(i + 1) % entities}") if entities else (),
        )
        for i in range(n)
    ]
    return Pairs(tuple(items), "demo", {"seed": 5})


def test_no_template_is_on_both_sides(seed: int) -> None:
    pairs = made(20)
    one, other = pairs.split(by="template", fraction=0.25, seed=seed)
    assert (len(one), len(other)) == (5, 15), "one template of four"
    assert not {pair.template for pair in one} & {pair.template for pair in other}
    assert sorted(p.clean.text for p in (*one, *other)) == sorted(p.clean.text for p in pairs)
    how = {"by": "template", "fraction": 0.25, "seed": seed, "left_out": 0}
    assert one.made_by == {"seed": 5, "split": {**how, "set": "first"}}
    assert other.made_by == {"seed": 5, "split": {**how, "set": "second"}}
    assert [pairs.items.index(pair) for pair in one] == sorted(pairs.items.index(pair) for pair in one), "in their order"


def first(pairs: Pairs, by: Any, seed: int) -> frozenset[str]:
    return frozenset(str(pair.clean.text) for pair in pairs.split(by, seed=seed)[0])


@pytest.mark.parametrize("by", ["template", "entity", None])
def test_the_draw_is_the_seeds_and_not_the_orders(by: str | None, seed: int) -> None:
    pairs = made(24, entities=12)
    shuffled = list(pairs)
    random.Random(seed).shuffle(shuffled)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        one, other = (first(items, by, seed) for items in (pairs, Pairs(tuple(shuffled))))
        assert one == other
        draws = {first(pairs, by, s) for s in range(8)}
    assert len(draws) > 1


def test_pairs_that_mix_entities_are_left_out_and_counted() -> None:
    """A ring of twelve: every pair whose two entities lie in different sets is in neither."""
    pairs = made(12, entities=12)
    with pytest.warns(RuntimeWarning, match=r"\d of 12 pairs mix entities of both sets and are in neither") as seen:
        one, other = pairs.split(by="entity", seed=0)
    mine, theirs = ({e for pair in side for e in pair.entities} for side in (one, other))
    assert not mine & theirs
    lost = [pair for pair in pairs if pair not in (*one, *other)]
    assert one.made_by["split"]["left_out"] == other.made_by["split"]["left_out"] == len(lost) > 0
    assert f"{len(lost)} of 12 pairs" in str(seen[0].message)
    assert not any({*pair.entities} <= mine or {*pair.entities} <= theirs for pair in lost)


def test_entities_that_no_pair_connects_are_parted_where_nothing_is_lost() -> None:
    items = [Pair(f"c{i}", f"d{i}", entities=(f"a{i}", f"b{i}")) for i in range(10)]
    for seed in range(5):
        one, other = Pairs(tuple(items)).split(by="entity", seed=seed)  # a warning would be an error
        assert (len(one), len(other)) == (5, 5)


def test_equal_pairs_stay_together(seed: int) -> None:
    pairs = Pairs(tuple(pair for pair in made(6) for _ in range(2)))
    one, other = pairs.split(None, seed=seed)
    assert (len(one), len(other)) == (6, 6)
    assert not {pair.clean.text for pair in one} & {pair.clean.text for pair in other}


@pytest.mark.parametrize(("fraction", "first"), [(0.01, 1), (0.5, 5), (0.55, 6), (0.99, 9)])
def test_the_fraction_is_rounded_and_leaves_both_something(fraction: float, first: int) -> None:
    assert [len(side) for side in made(10).split(None, fraction=fraction)] == [first, 10 - first]


def test_what_cannot_be_split() -> None:
    with pytest.raises(UnknownNameError, match="unknown by 'templates'; did you mean 'template'"):
        sweeps.unchecked(halves)(made(4), "templates", 0.5, 0)
    with pytest.raises(ValueError, match=re.escape("fraction=1.0; expected a number between 0 and 1")):
        made(4).split(fraction=1.0)
    with pytest.raises(
        ValueError, match=r"split\(by='template'\) needs two templates at least, one for each set; the pairs have 1"
    ):
        made(4, templates=1).split(by="template")
    with pytest.raises(ValueError, match=r"split\(by='entity'\): 4 of 4 pairs have no entities; give Pair\(entities=…\)"):
        made(4).split(by="entity")
    everyone = Pairs(tuple(Pair(f"c{a}{b}", "d", entities=(a, b)) for a, b in itertools.combinations("xyz", 2)))
    with pytest.raises(ValueError, match="leaves a set empty: of 3 pairs"):
        everyone.split(by="entity")


def test_by_default_the_sets_share_no_template_else_no_entity(seed: int) -> None:
    def how(pairs: Pairs) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return pairs.split(seed=seed)[0].made_by["split"]["by"]

    assert how(made(12)) == "template"
    assert how(made(12, templates=1)) == "pair"
    apart = [Pair(f"c{i}", f"d{i}", template="t", entities=(f"a{i % 4}", f"b{i % 4}")) for i in range(10)]
    assert how(Pairs(tuple(apart))) == "entity"
    assert how(made(12, templates=1, entities=12)) == "pair", "every entity is met with another: pairs would be lost"
    assert how(Pairs((Pair("a", "b", template="x"), Pair("c", "d")))) == "pair", "one names no template"


def test_adding_and_sampling(seed: int) -> None:
    one, other = made(3), Pairs(made(2).items, "more", {"seed": 7})
    both = one + other
    assert (both.items, both.task) == (one.items + other.items, "demo + more")
    assert both.made_by == {"parts": [{"task": "demo", "pairs": 3, "seed": 5}, {"task": "more", "pairs": 2, "seed": 7}]}
    assert (one + one).made_by == {"seed": 5}
    assert (one + Pairs(())) == one
    drawn = made(10).sample(4, seed)
    assert len({pair.clean.text for pair in drawn}) == 4
    assert drawn.made_by == {"seed": 5, "sample": {"n": 4, "of": 10, "seed": seed}}
    assert drawn == made(10).sample(4, seed)
    with pytest.raises(ValueError, match="a sample of n=11 pairs; expected 1 to 10"):
        made(10).sample(11)
    with pytest.raises(TypeError, match="unsupported operand"):
        one + 3  # type: ignore[operator]
