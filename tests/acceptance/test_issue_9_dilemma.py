"""Issue 9, trained toys: the tables of experiments/dilemma and boundless_price_tagging, and networks of them again."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from interp import tasks
from interp.training.toys import trained_on

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
DILEMMA = (
    "Trained nets over 10 seeds reproduce the published picture within its spread: rotation IIA falls over layers, RevNet "
    "stays near 1, the random-init control exposes it."
)
PRICES = "Competing causal models of price tagging are told apart on the trained toy, with intervals."
LAYERS = [1, 2, 3]


def script(name: str) -> Any:
    spec = spec_from_file_location(f"{name}_run", EXPERIMENTS / name / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table(name: str, file: str = "table.json") -> Any:
    return json.loads((EXPERIMENTS / name / file).read_text(encoding="utf-8"))


def by_layer(lines: pd.DataFrame, hypothesis: str, method: str) -> pd.DataFrame:
    """``[network, layer]``."""
    own = lines[(lines["hypothesis"] == hypothesis) & (lines["map"] == method)]
    return own.pivot(index="seed", columns="layer", values="iia")[LAYERS]


@pytest.mark.done_when(9, DILEMMA)
def test_ten_networks_show_the_published_picture(figures: dict[str, Any]) -> None:
    """Means within two standard deviations, theirs and ours together, and the fall in every single network."""
    lines, published = pd.DataFrame(table("dilemma")), table("dilemma", "config.json")["published"]
    assert sorted(lines["seed"].unique()) == list(range(10))
    rotation = by_layer(lines, "both equalities", "rotation")
    means, stds = rotation.mean(), rotation.std()
    figures |= {"rotation": means.round(3).to_list(), "std": stds.round(3).to_list()}
    for layer, (mean, std) in zip(LAYERS, published["both equalities"]["rotation"], strict=True):
        assert abs(means[layer] - mean) <= 2 * (std**2 + stds[layer] ** 2) ** 0.5
    for hypothesis in ("both equalities", "first equality"):
        falls = by_layer(lines, hypothesis, "rotation")
        assert (falls[1] > falls[3] + 0.1).all()
        expressive = by_layer(lines, hypothesis, "reversible network")
        figures[f"reversible network, {hypothesis}"] = expressive.mean().round(3).to_list()
        assert expressive.mean().min() >= 0.98
        assert (expressive.values >= 0.97).mean() >= 0.95  # of single starts
    for method in ("rotation", "reversible network"):
        false = by_layer(lines, "first entity", method)
        figures[f"false hypothesis, {method}"] = false.mean().round(3).to_list()
        np.testing.assert_allclose(false.mean(), 0.5, atol=0.02)


@pytest.mark.done_when(9, DILEMMA)
def test_the_expressive_map_rises_in_random_networks_and_a_rotation_does_not(figures: dict[str, Any]) -> None:
    long, short = pd.DataFrame(table("dilemma", "table-long.json")), pd.DataFrame(table("dilemma"))
    random = long["iia"]
    rotation = short[short["map"] == "rotation"]["random network"].dropna()
    figures |= {"random networks, long search": random.to_list(), "rotation": rotation.max()}
    assert random.max() >= 0.8  # as published
    assert rotation.max() <= 0.55


@pytest.mark.done_when(9, DILEMMA)
def test_one_of_the_networks_again(figures: dict[str, Any]) -> None:
    """Trained and searched anew from its seed: within three points of the table, which another machine may have made."""
    run, seed = script("dilemma"), 3
    model, committed = trained_on("equality of vectors", seed, progress=False), pd.DataFrame(table("dilemma"))
    for method in ("rotation", "reversible network"):
        task, settings = tasks.equality_of_vectors(), run.CONFIG["short"]
        found = run.searched(model, task, "both equalities", method, settings, random=False)
        again = [line["iia"] for line in found]
        figures[method] = again
        np.testing.assert_allclose(again, by_layer(committed, "both equalities", method).loc[seed], atol=0.03)


@pytest.mark.done_when(9, PRICES)
def test_causal_models_of_prices_are_told_apart(figures: dict[str, Any]) -> None:
    """In every trained network both boundaries are above both others, pair by pair; in the one that holds the bracket not."""
    *trained, known = table("boundless_price_tagging")
    assert len(trained) >= 3
    for network in trained:
        for method in ("boundless_das", "das"):
            own = network[method]
            found = {(one["hypothesis"], one["rival"]): one for one in own["told apart"]}
            figures[f"{network['network']}, {method}"] = {name: one["same pairs"] for name, one in own["alignments"].items()}
            for name in ("left", "left and right"):
                claim = own["alignments"][name]
                assert claim["low"] > max(claim["random subspace"], claim.get("random network", 0.0))
                for rival in ("midpoint", "bracket"):
                    assert found[name, rival]["low"] > 0.05
    for method in ("boundless_das", "das"):
        each = known[method]["alignments"]
        assert each["bracket"]["by layer"][0] >= 0.95
        assert min(each["bracket"]["iia"], each["midpoint"]["iia"]) >= 0.95


@pytest.mark.done_when(9, PRICES)
def test_one_network_that_tags_prices_again(figures: dict[str, Any]) -> None:
    """Boundless DAS of two causal models from the seed on, judged on the pairs of the table."""
    run = script("boundless_price_tagging")
    settings, [committed, *_] = run.CONFIG["full"], table("boundless_price_tagging")
    model = trained_on("price tagging", 0, progress=False)
    same = run.pairs_of(tasks.price_tagging(), settings["pairs"], seed=7)
    for name in ("left", "bracket"):
        aligned = run.searched(model, name, "boundless_das", settings)
        own = run.scores(model, same, name, aligned.best)
        found = run.told(aligned, own)
        figures[name] = found
        there = committed["boundless_das"]["alignments"][name]
        for key in ("iia", "same pairs"):
            assert found[key] == pytest.approx(there[key], abs=0.03)
