"""Numbers and names as a reader sees them."""

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp import views
from interp.views import labels


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.3124, 0.29, 0.334), "0.31 ± 0.02"),
        ((12.3, 10.0, 15.0), "12.30 ± 2.50"),
        ((0.0636, 0.0593, 0.0679), "0.0636 ± 0.0043"),
        ((-0.1, -0.1000001, -0.1), "-0.10 ± 0.00"),
        ((0.0, 0.0, 0.0), "0.00 ± 0.00"),
        ((-0.0, -0.0, 0.0), "0.00 ± 0.00"),
        ((0.42, 0.10, 0.55), "0.42 [0.10, 0.55]"),
        ((-0.42, -0.55, -0.10), "-0.42 [-0.55, -0.10]"),
        ((1.0, 0.839, 1.0), "1.00 [0.84, 1.00]"),
        ((0.0, -0.001, 0.31), "0.00 [0.00, 0.31]"),
        ((0.5, 0.4, 0.619), "0.50 ± 0.11"),  # sides of 0.1 and 0.119
        ((0.5, 0.4, 0.621), "0.50 [0.40, 0.62]"),
        ((0.312, 0.3, 0.318), "0.31 ± 0.01"),  # lopsided where two decimals do not show it
        ((0.00312, 0.003, 0.00354), "0.0031 [0.0030, 0.0035]"),
        ((0.5, -math.inf, math.inf), "0.50 ± ?"),
        ((-1e-7, -2e-7, 0.0), "0.0000 ± 0.0000"),
        ((0.5, math.nan, math.nan), "0.50 ± ?"),
        ((0.00017, math.nan, math.nan), "0.0002 ± ?"),
        ((math.nan, math.nan, math.nan), "undefined"),
    ],
)
def test_intervals(numbers, text):
    assert labels.interval(*numbers) == text


@pytest.mark.parametrize(
    ("token", "text"),
    [
        (" Mary", "Mary"),
        ("\n", "⏎"),
        ("  ", "␣␣"),
        ("a\nb", "a⏎b"),
        ("\x00", "�"),
        ("internationalisation", "international…"),
        ("", ""),
    ],
)
def test_tokens_on_an_axis(token, text):
    assert labels.short(token) == text


@pytest.mark.parametrize(
    ("tokens", "role", "text"),
    [
        ([" Mary"] * 3, "IO", "Mary"),
        ([" Mary", " John", " Mary"], "", "Mary|John"),
        ([" Mary", " John", " Mary"], "IO", "{IO}"),
        ([" Mary", " John", " Anna"], "", "·"),
        ([" Mary", " internationalisation"], "", "·"),
        ([" Mary", ""], "", "·"),  # one prompt is shorter
        ([" a", " b"], "a role with a long name", "{a role with…}"),
    ],
)
def test_tokens_of_several_examples_on_an_axis(tokens, role, text):
    assert labels.standing(tokens, role) == text


@given(st.integers(1, 2000), st.integers(1, 80))
def test_thinned_ticks_are_few_and_evenly_spaced(count, most):
    places, text = labels.Ticks("x", [str(i) for i in range(count)], [""] * count).thinned(most)
    assert 1 <= len(places) <= most
    assert places[0] == 0
    assert len({b - a for a, b in pairwise(places)}) <= 1
    assert text == [str(i) for i in places]


@given(st.text(alphabet="ab ·", max_size=200), st.integers(5, 60))
def test_wrapping_loses_no_word(text, width):
    lines = labels.wrap(text, width)
    assert " ".join(lines).replace("·", " ").split() == text.replace("·", " ").split()
    assert all(len(line) <= width or " " not in line.strip() for line in lines)


def test_a_figure_of_several_results_says_which_are_in_sample(make):
    ds = make(axis="head").isel(head=-1)
    seen = ds.assign_attrs(in_sample=True)

    def title(**results):
        return re.sub("(<br>)?<[^>]*>", " ", views.curve(results, x="layer").layout.title.text)

    assert "in sample" not in title(a=ds, b=ds)
    assert "in sample: the examples also selected what is shown" in title(a=seen, b=seen)
    assert "in sample: 1 of 2 results" in title(a=ds, b=seen)
    assert "in sample: 2 of 2 results" in title(a=seen.assign_attrs(in_sample_examples=3), b=seen)
    scores = [one["value"].isel(metric=0).mean("example").assign_attrs(one.attrs) for one in (ds, seen)]
    assert "in sample: 1 of 2 results" in title(a=scores[0], b=scores[1])


def test_what_a_number_means_stays_together():
    text = "edges: damage of logit_diff (0 = clean, 1 = corrupted)"
    for width in range(16, 60):
        lines = labels.wrap(text, width)
        assert " ".join(lines) == text
        assert not any(line.endswith("=") or line.startswith("=") for line in lines)


def test_the_tokens_of_both_prompts_are_two_lines_where_one_is_too_long():
    few, many = [" Mary", " John"], [f" a-long-name-{i}" for i in range(9)]
    assert labels._token_line(few, few, "") == "token differs: ' Mary', ' John'"
    assert labels._token_line([" Mary"], [" John"], "IO") == "IO, token ' Mary', corrupted ' John'"
    clean, other = labels._token_line(many, many[::-1], "").split("<br>")
    assert clean.startswith("token differs: ' a-long-name-0'")
    assert other.startswith("corrupted differs: ' a-long-name-8'")
