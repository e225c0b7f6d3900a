"""Stability of circuits under resampled examples: planted scores, noise, and what is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sweeps
import xarray as xr

from interp.circuits import BAR, Graph, chance, stability
from interp.errors import EdgesError, InputError

SHAPE = Graph.like(3, heads=4)


def scores(values: np.ndarray[Any, Any], templates: list[str] | None = None) -> xr.DataArray:
    coords = {"edge": ("cell", SHAPE.coords()["edge"][1])}
    return xr.DataArray(
        values, dims=("cell", "example"), coords=coords | ({"template": ("example", templates)} if templates else {})
    )


def test_ground_truth_6_planted_scores_without_noise_are_stable(seed: int) -> None:
    """Card 11, test 6: every resample has the same circuit, J = 1."""
    planted = np.random.default_rng(seed).permutation(len(SHAPE)).astype(float) + 1
    found = stability(scores(np.tile(planted[:, None], 12)), SHAPE, [5, 50])
    for name in ("jaccard", "jaccard_nodes", "halves"):
        np.testing.assert_array_equal(found[name], 1)
    assert {*np.unique(found["frequency"])} == {0.0, 1.0}
    np.testing.assert_array_equal(found["frequency"].sum("edge"), [5, 50])
    assert found.attrs["bar"] == BAR == 0.8
    assert found.attrs["resamples"] == 100


def test_ground_truth_6_of_pure_noise_halves_agree_by_chance_and_resamples_do_not(seed: int) -> None:
    """Card 11, test 6 expects chance of resamples too, which cannot be: they share most of their examples.

    Means of two resamples of the same noise correlate by a half. Expected, for the k largest in size of n pairs of normals with
    that correlation: by drawing such pairs. Halves share nothing: k / (2n − k), but for 1.2 % that E[X/(2k − X)] is not that.
    """
    draw, k, n = np.random.default_rng(seed), 60, len(SHAPE)
    found = [stability(scores(draw.normal(size=(n, 32))), SHAPE, k, resamples=20, seed=i) for i in range(24)]
    halves = np.array([one["halves"].item() for one in found])
    assert abs(halves.mean() - chance(k, k, n)) <= 4 * halves.std() / np.sqrt(24) + 0.02 * chance(k, k, n)
    expected = []
    for _ in range(200):
        common, first, second = draw.normal(size=(3, n))
        one, other = ({*np.argsort(-abs(common + own))[:k].tolist()} for own in (first, second))
        expected.append(len(one & other) / len(one | other))
    for name in ("jaccard", "noise"):
        measured = np.array([one[name].item() for one in found])
        error = np.sqrt(measured.var() / len(found) + np.var(expected) / len(expected))
        assert abs(measured.mean() - np.mean(expected)) <= 4 * error + 0.02, name
    assert np.mean(expected) > 1.5 * chance(k, k, n)


def test_templates_are_drawn_whole(seed: int) -> None:
    """Scores that differ by template alone are less stable where templates are drawn than where their examples are."""
    draw = np.random.default_rng(seed)
    of_template = draw.normal(size=(len(SHAPE), 4))
    templates = [f"t{i % 4}" for i in range(40)]
    given = scores(of_template[:, np.arange(40) % 4], templates)
    found, alone = (stability(given, SHAPE, 20, clusters=clusters) for clusters in ("template", None))
    assert (found.attrs["resampled"], found.attrs["units"]) == ("template", 4)
    assert (alone.attrs["resampled"], alone.attrs["units"]) == ("example", 40)
    assert found["jaccard"].item() < alone["jaccard"].item() - 0.1


def test_the_draw_is_the_seed_s(seed: int) -> None:
    given = scores(np.random.default_rng(seed).normal(size=(len(SHAPE), 8)))
    first, again, other = (stability(given, SHAPE, 20, seed=s) for s in (1, 1, 2))
    xr.testing.assert_identical(first, again)
    assert not first["frequency"].equals(other["frequency"])
    connected = stability(given, SHAPE, 20, connected=True)
    assert not first["frequency"].equals(connected["frequency"])


def test_mistakes_are_named() -> None:
    ask: Any = sweeps.unchecked(stability)
    values = np.random.default_rng(0).normal(size=(len(SHAPE), 4))
    for wrong in (values, scores(values).mean("example"), scores(values[:, :1])):
        with pytest.raises(InputError, match="stability resamples examples, and these scores have none, or one"):
            ask(wrong, SHAPE, 5)
    with pytest.raises(EdgesError, match="scores are of 3 edges"):
        ask(xr.DataArray(values[:3], dims=("cell", "example")), SHAPE, 5)
    with pytest.raises(InputError, match="resamples=1; expected how often examples are drawn, a whole number from 2 on"):
        ask(scores(values), SHAPE, 5, resamples=1)
