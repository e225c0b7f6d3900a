"""Choices are uniform, reproducible and independent of how many follow."""

from __future__ import annotations

import hashlib
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.tasks.draw import Draw, balanced


@given(seed=st.integers(), index=st.integers(0, 1000))
def test_streams_repeat(seed: int, index: int) -> None:
    assert Draw("t", seed, index).order(range(9)) == Draw("t", seed, index).order(range(9))


def test_streams_are_what_the_standard_library_promises() -> None:
    # A str seed is the str's bytes with their sha512 behind them, as one integer: the seeding that Python fixed with version 2.
    key = b"task/3/5"
    seeded = random.Random(int.from_bytes(key + hashlib.sha512(key).digest(), "big"))
    draw = Draw("task", 3, 5)
    assert [draw.below(1000) for _ in range(20)] == [int(seeded.random() * 1000) for _ in range(20)]


@pytest.mark.parametrize("other", [("t", 0, 1), ("t", 1, 0), ("u", 0, 0), ("t", -1, 0)])
def test_task_seed_and_index_each_change_the_stream(other: tuple[str, int, int]) -> None:
    assert Draw("t", 0, 0).order(range(20)) != Draw(*other).order(range(20))


def test_below_is_uniform(seed: int) -> None:
    counts = Counter(Draw("t", seed, i).below(8) for i in range(8000))
    # chi-square with 7 degrees of freedom exceeds 40 with probability 1.2e-6
    assert sum((counts[k] - 1000) ** 2 / 1000 for k in range(8)) < 40


@given(seed=st.integers(0, 999), k=st.integers(0, 4))
def test_distinct_items_are_distinct_and_avoid_the_excluded(seed: int, k: int) -> None:
    found = Draw("t", seed, 0).distinct("abcdef", k, without=("a", "f"))
    assert len(set(found)) == len(found) == k
    assert set(found) <= set("bcde")


@given(seed=st.integers(0, 999), items=st.lists(st.integers()))
def test_order_is_a_permutation(seed: int, items: list[int]) -> None:
    assert sorted(Draw("t", seed, 0).order(items)) == sorted(items)


def test_separate_reaches_every_pair_equally(seed: int) -> None:
    pairs = [(a, b) for a in range(1, 6) for b in range(1, 6) if b - a >= 2]  # by enumeration: 6 of them
    counts = Counter(Draw("t", seed, i).separate(1, 6, 2) for i in range(6000))
    assert sorted(counts) == pairs
    # chi-square with 5 degrees of freedom exceeds 36 with probability 1e-6
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 36


@given(seed=st.integers(0, 999), n=st.integers(1, 50), more=st.integers(0, 50))
def test_balanced_lists_are_balanced_prefixes(seed: int, n: int, more: int) -> None:
    short, long = balanced("t", seed, n, "abcde"), balanced("t", seed, n + more, "abcde")
    assert long[:n] == short
    counts = Counter(short)
    assert max(counts.values()) - min(counts[c] for c in "abcde") <= 1
