"""The READMEs of the experiments on trained toys say what their committed tables hold; the scripts make such tables."""

from __future__ import annotations

import json
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from interp import tasks
from interp.models.zoo import MLP

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def script(name: str) -> Any:
    spec = spec_from_file_location(f"{name}_run", EXPERIMENTS / name / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table(name: str, file: str = "table.json") -> Any:
    return json.loads((EXPERIMENTS / name / file).read_text(encoding="utf-8"))


def lines(name: str) -> dict[str, list[str]]:
    """Cells of the page's table rows, by their first one or two."""
    page = (EXPERIMENTS / name / "README.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| ")]
    return {row[0] if row[1][:1].isdigit() else f"{row[0]}, {row[1]}": row for row in rows}


def numbers(cell: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.\d+", cell)]


def test_the_page_of_rotations_says_what_the_table_holds() -> None:
    page, held = lines("das_hierarchical_equality"), table("das_hierarchical_equality")
    net = EXPERIMENTS / "das_hierarchical_equality" / "README.md"
    cells = [line.strip("| ").split(" | ") for line in net.read_text().splitlines() if re.match(r"\| \d \| \d of", line)]
    assert len(cells) == len(held["turned"]) == 5
    for (turn, starts, chosen, low, worst, random, mask), one in zip(cells, held["turned"], strict=True):
        first = one["ranks"]["1"]
        assert int(turn) == one["turn"]
        assert starts == f"{sum(iia >= 0.999 for iia in first['iia'])} of {len(first['iia'])}"
        others = [one["ranks"][rank] for rank in ("2", "8")]
        expected = [
            *(first["iia"][first["chosen"]], min(min(each["iia"]) for each in others)),
            *(max(max(each["keep"] + each["leak"]) for each in others), others[1]["largest random subspace"]),
            one["mask of units"],
        ]
        np.testing.assert_allclose([float(cell) for cell in (chosen, low, worst, random, mask)], expected, atol=0.0051)
    for one in held["trained"]:
        rotation, mask = (numbers(cell) for cell in page[str(one["seed"])][1:])
        assert rotation == [round(layer["rotation"], 2) for layer in one["layers"].values()]
        assert mask == [round(layer["mask of units"], 2) for layer in one["layers"].values()]


def test_the_page_of_prices_says_what_the_table_holds() -> None:
    page, held = lines("boundless_price_tagging"), table("boundless_price_tagging")
    assert len(held) >= 4
    for network in held:
        _, *cells = page[network["network"]]
        own = network["boundless_das"]
        for cell, one in zip(cells, own["alignments"].values(), strict=False):
            np.testing.assert_allclose(numbers(cell), [one["iia"], one["low"], one["high"]], atol=0.00051)
        found = {(one["hypothesis"], one["rival"]): one for one in own["told apart"]}
        for cell, rival in zip(cells[4:], ("midpoint", "bracket"), strict=True):
            one = found["left", rival]
            np.testing.assert_allclose(numbers(cell), [one["difference"], one["low"], one["high"]], atol=0.00051)


def test_the_page_of_the_dilemma_says_what_the_table_holds() -> None:
    page, held = lines("dilemma"), pd.DataFrame(table("dilemma"))
    published = table("dilemma", "config.json")["published"]
    for (hypothesis, method), own in held.groupby(["hypothesis", "map"]):
        by = own.groupby("layer")["iia"]
        cells = page[f"{hypothesis}, {method}"][2:]
        for cell, mean, std in zip(cells, by.mean(), by.std(), strict=True):
            np.testing.assert_allclose(numbers(cell)[:2], [mean, std], atol=0.00051)
        for cell, there in zip(cells, published.get(hypothesis, {}).get(method, []), strict=False):
            np.testing.assert_allclose(numbers(cell)[2:], there)
    text = (EXPERIMENTS / "dilemma" / "README.md").read_text(encoding="utf-8")
    random = [line["iia"] for line in table("dilemma", "table-long.json")]
    assert f"three networks: {', '.join(f'{iia:.3f}' for iia in random)}" in " ".join(text.split())


def test_one_rotation_again() -> None:
    """The quick form: rank 8 finds the direction in a hundred steps as well."""
    run = script("das_hierarchical_equality")
    found = run.turned(0, run.CONFIG["quick"] | {"steps": 100})
    assert found["ranks"]["8"]["iia"] == [1.0, 1.0]
    assert found["ranks"]["8"]["random subspace"] < 0.8
    assert found["no-op"] == 0.5


@pytest.fixture(scope="module")
def prices() -> interp.Model:
    return interp.load(MLP((3, 32, 32, 32, 2), seed=0), example={"x": torch.zeros(3, 3)}, name="prices")


def test_price_pairs_are_shared_and_judged_by_each_causal_model(prices: interp.Model) -> None:
    """With nothing changed the network says what it says: each score is how often that is the causal model's label."""
    run, task = script("boundless_price_tagging"), tasks.price_tagging()
    rows = run.pairs_of(task, 200, seed=1)
    assert len(rows) == 200
    x = torch.tensor(np.stack([rows.base[name] for name in ("lo", "hi", "amount")], -1) / 100).float()
    said = prices.module(x).argmax(-1).bool().numpy()
    aligned = interp.interventions.Change("act1:output", edit=interp.interventions.Interpolate(0.0))
    for name in ("left", "midpoint", "bracket"):
        label = rows.relabelled(name, task.variables[name]).label
        found = run.scores(prices, rows, name, aligned)
        np.testing.assert_array_equal(found["iia"].values > 0.5, said == label)
    source, own, model = rows.sources["L"], rows.base, task.models["left"]
    bits = {name: {side: model.run(one)[name] for side, one in (("own", own), ("source", source))} for name in "LR"}
    labels = [
        bits["L"][left] & bits["R"][right] for left, right in (("source", "own"), ("own", "source"), ("source", "source"))
    ]
    found = run.scores(prices, rows, "left and right", aligned)
    np.testing.assert_allclose(found["iia"].values, np.mean([said == label for label in labels], axis=0), atol=1e-6)


def test_a_line_of_the_dilemma() -> None:
    """Columns, controls and places of a search, in a network that nothing was taught."""
    run = script("dilemma")
    model = interp.load(MLP((16, 16, 16, 16, 2), seed=0), example={"x": torch.zeros(3, 16)})
    settings = {"train": 256, "test": 128, "validation": 0.1, "batch": 64, "rotation": {"steps": 5}}
    task = tasks.equality_of_vectors()
    found = run.searched(model, task, "first equality", "rotation", settings)
    assert [line["layer"] for line in found] == [1, 2, 3]
    assert all(0 <= line[name] <= 1 for line in found for name in run.MEASURED)
    [alone] = run.searched(model, task, "first entity", "rotation", settings, (2,), random=False)
    assert np.isnan(alone["random network"])
