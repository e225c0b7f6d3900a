"""The circuit that ships is what the script finds; the page says what the table holds."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from itertools import product
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.circuits import SELECTED, Circuit, Graph
from interp.models.zoo import VERIFIED

FOLDER = Path(__file__).parents[2] / "experiments" / "verified_circuit"
TABLE = json.loads((FOLDER / "table.json").read_text())
PAGE = (FOLDER / "README.md").read_text()


@pytest.fixture(scope="module")
def script() -> Any:
    spec = spec_from_file_location("verified_circuit_run", FOLDER / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bench(script: Any) -> Any:
    return script.Bench(script.CONFIG)


def test_the_search_finds_what_ships(script: Any, bench: Any) -> None:
    shipped, found = VERIFIED["induction-2l"](), script.found(bench)
    assert found == shipped.truth
    assert found.name == shipped.name
    assert found.origin[SELECTED] == shipped.truth.origin[SELECTED]
    assert found.origin["threshold"] == shipped.truth.origin["threshold"] == TABLE["config"]["threshold"]
    assert bench.held_out[: script.SHIPPED].digest == shipped.pairs.digest
    assert [repr(edge) for edge in found.edges] == TABLE["circuit"]
    assert TABLE["pairs"] == {"discovery": bench.discovery.digest, "held_out": bench.held_out.digest}
    assert TABLE["config"] == script.CONFIG
    words = [{word for pair in pairs for word in pair.clean.text.split()} for pairs in (bench.discovery, bench.held_out)]
    assert not words[0] & words[1]


@pytest.mark.parametrize("ablation", ["positional mean", "mean"])
def test_other_ablations_find_the_same(script: Any, bench: Any, ablation: str) -> None:
    [found] = bench.search(bench.discovery[:16], ablation, [script.CONFIG["threshold"]])
    assert found == VERIFIED["induction-2l"]().truth


def test_sets_that_lead_to_the_logits(script: Any) -> None:
    """Of all 2¹² sets of edges of two blocks with a head each: those in which each edge is read by the logits, or by a head
    that an edge of the set leads out of, and so on.
    """
    graph = Graph.like(2, 1, mlp=False)
    assert len(graph) == 12
    ends = [tuple(repr(edge).split(" → ")) for edge in graph.edges]
    expected = set()
    for kept in product([False, True], repeat=len(graph)):
        edges = [n for n in range(len(graph)) if kept[n]]
        senders = {ends[n][0] for n in edges}
        if all(ends[n][1] == "logits" or ends[n][1].split(".")[0] in senders for n in edges):
            expected.add(tuple(edges))
    found = [tuple(sorted(one)) for size in range(13) for one in script.leading(graph, size)]
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_no_smaller_set_of_edges_is_faithful(script: Any, bench: Any) -> None:
    """All sets of up to four edges: 1,509 that differ and lead from the embedding to the logits, on three pairs."""
    circuits = [one for size in range(1, 5) for one in script.different(bench, "other prompt", size)]
    assert len(circuits) == 1509
    bench.some = bench.held_out[:3]
    f = bench.f([*circuits, VERIFIED["induction-2l"]().truth], "other prompt", fast=True)
    assert f[:, :-1].max() < 0.8
    assert f[:, -1].min() > 0.9


def test_the_table_has_every_set(script: Any) -> None:
    for ablation, each in TABLE["ablations"].items():
        for metric in TABLE["config"]["metrics"]:
            sizes = each[metric]["sets_of_edges"]
            assert [one["sets"] for one in sizes] == [comb(81, one["edges"]) for one in sizes], ablation
            assert [one["reach"] for one in sizes] == [0, 0, 0, 0, 1], (ablation, metric)
            assert set(sizes[-1]["of"]) == set(TABLE["circuit"])


def test_the_page_says_what_the_table_holds() -> None:
    for name, each in TABLE["ablations"].items():
        own, heads = each["faithful"]["12 words"], each["kl"]["sets_of_heads"]
        row = [f"{own['kl']['f']:.3f} [{own['kl']['low']:.3f}, {own['kl']['high']:.3f}]"]
        row += [f"{own['logit_diff']['f']:.3f} [{own['logit_diff']['low']:.3f}, {own['logit_diff']['high']:.3f}]"]
        row += [f"{own['same_top1']['value']:.3f}"]
        row += [f"{min(each['kl']['without_one_edge_f_falls_by'].values()):.2f}"]
        row += [f"{each['kl']['one_more_edge']['f_changes_by_at_most']:.4f}"]
        row += [f"{each['kl']['sets_of_edges'][3]['best']:.2f}", f"{each['kl']['sets_of_edges'][4]['second']:.2f}"]
        row += [f"{heads['best_without']:.2f}"]
        assert f"| {name} | {' | '.join(row)} |" in PAGE
        assert heads["reach"] == heads["sets_with_those"] == 64
        assert each["search"]["other_seeds"] == {"of": 10, "the_same_circuit": 10}
        assert {one["auroc"] for name, one in each["search"]["scores"].items() if name.startswith("exact")} == {1.0}
        assert each["kl"]["drawn_with_all_its_edges"]["reach"] == 500
        assert not any(each[metric]["drawn_without_one_of_them"]["reach"] for metric in ("kl", "logit_diff"))
    page, every = " ".join(PAGE.split()), TABLE["ablations"].values()
    sets = [[sum(one[what] for one in each["kl"]["sets_of_edges"]) for each in every] for what in ("sets", "different")]
    assert f"Of all {sets[0][0]:,} sets" in page
    assert f"{sets[1][1]:,} for a mean and {sets[1][0]:,} for another prompt's values" in page
    most = [max(each["kl"][what]["f_changes_by_at_most"] for each in every) for what in ("one_more_edge", "two_more_edges")]
    assert f"changes f by at most {most[0]:.4f}, two more (all 2,850 pairs) by at most {most[1]:.4f}" in page
    without = [max(max(each[m]["the_whole_model_without_it"].values()) for each in every) for m in ("kl", "logit_diff")]
    assert f"has f ≤ {without[0]:.2f} by divergence and ≤ {without[1]:.2f} by logit difference" in page
    drawn = TABLE["ablations"]["other prompt"]["logit_diff"]["drawn_with_all_its_edges"]
    assert f"{500 - drawn['reach']} fall below 0.95 (the lowest is at {drawn['lowest']:.3f})" in page
    gaps = ", ".join(f"{each['kl']['knocked_out_of_both']['f_changes_by_at_most']:.2f}" for each in every)
    assert gaps == "0.09, 0.37, 0.13"
    assert "by up to 0.09 with the other prompt's values, 0.13 with the mean's and 0.37 with the positional mean's" in page


def test_a_quick_run_makes_such_a_table(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = script.QUICK | {"discovery": 4, "held_out": 6, "reference": 6, "seeds": 1, "enumerated_on": 2, "random": 3}
    config = script.CONFIG | tiny | {"enumerated_up_to": 1, "other_lengths": [], "ablations": ["mean"], "thresholds": [0.1]}
    small = script.Bench(config)
    told = script.measured(small, script.found(small), "mean")
    assert set(told) == set(TABLE["config"]["metrics"])
    assert told["kl"].keys() == TABLE["ablations"]["mean"]["kl"].keys()
    assert np.isfinite(told["kl"]["sets_of_edges"][0]["best"])
    assert isinstance(script.found(small), Circuit)
