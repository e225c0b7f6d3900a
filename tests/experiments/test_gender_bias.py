"""The README of experiments/gender_bias says what its table holds; the script trains what it says, and nothing else."""

from __future__ import annotations

import copy
import json
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import interp

FOLDER = Path(__file__).parents[2] / "experiments" / "gender_bias"
TABLE = json.loads((FOLDER / "table.json").read_text())
CONFIG = json.loads((FOLDER / "config.json").read_text())
PAGE = (FOLDER / "README.md").read_text()
TEXT = " ".join(PAGE.split())
LAST = str(CONFIG["updates"][-1])


@pytest.fixture(scope="module")
def script() -> Any:
    spec = spec_from_file_location("gender_bias_run", FOLDER / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(script: Any) -> interp.Model:
    made: interp.Model = script.tiny()
    return made


def said(three: list[float]) -> str:
    mean, low, high = three
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"


def test_the_page_says_what_the_table_holds() -> None:
    rows = re.findall(
        r"^\| ([^|]+?) \| ([\d,]+) \| ([^|]+?) \| ([^|]+?) \| ([^|]+?) \| ([^|]+?) \| ([^|]+?) \|$", PAGE, re.MULTILINE
    )
    assert [row[0] for row in rows] == [*TABLE["tuned"]]
    for name, parameters, size, signed, gendered, ioi, loss in rows:
        of = TABLE["tuned"][name]
        after = of["after"][LAST]
        assert int(parameters.replace(",", "")) == of["parameters"]
        assert (size, signed) == (said(after["mean |bias|"]), said(after["signed bias"]))
        assert gendered == f"{after['gendered nouns']['right']:.0%}, {after['gendered nouns']['margin']:.2f}"
        assert ioi == f"{after['ioi']['right']:.0%}, {after['ioi']['margin']:.2f}"
        assert loss == f"{after['loss on plain sentences']:.2f}"
    before, of = TABLE["before"], TABLE["found"]
    assert f"mean |b| is {said(before['mean |bias|'])}" in TEXT
    assert f"signed bias is {said(before['signed bias'])}" in TEXT
    assert f"the total effect is {of['total effect']:.2f}" in TEXT
    for head, effect in [*of["heads"].items()][:4]:
        assert f"{head} ({effect:.2f})" in TEXT


def test_halves_of_the_bias_on_the_page() -> None:
    rows = re.findall(r"^\| ([^|]+?) \| ([\d.]+|never) \| ([\d.–]+) \| ([\d.–]+) \|$", PAGE, re.MULTILINE)
    assert [row[0] for row in rows] == [*TABLE["tuned"]]
    for name, updates, margin, loss in rows:
        half = TABLE["tuned"][name]["where half of the bias is gone"]
        if half is None:
            assert (updates, margin, loss) == ("never", "–", "–")
        else:
            told = (half["updates"], half["gendered nouns, margin"], half["loss on plain sentences"])
            assert (updates, margin, loss) == tuple(f"{x:.{digits}f}" for x, digits in zip(told, (1, 2, 2), strict=True))


def test_what_the_page_concludes_is_in_the_table() -> None:
    tuned, of = TABLE["tuned"], TABLE["found"]
    found, masked, any_heads, alike = list(tuned)[:4]
    runs = {name: tuned[name]["after"]["10"]["of each run"] for name in (found, masked, any_heads, alike)}
    spans = [f"{min(runs[name]):.2f} to {max(runs[name]):.2f}" for name in (found, masked, any_heads, alike)]
    assert re.search(".*".join(map(re.escape, spans)), TEXT)
    assert max(*runs[found], *runs[masked]) < min(*runs[any_heads], *runs[alike])
    less = TABLE["mean |bias| of found heads less that of"]
    for name in (any_heads, alike):
        assert said(less[name]) in TEXT
        assert less[name][1] < 0 < less[name][2]
    half = {name: one["where half of the bias is gone"] for name, one in tuned.items()}
    kept = {name: one["gendered nouns, margin"] for name, one in half.items() if one}
    assert kept[found] < kept[alike] < kept[any_heads] < kept[masked]
    assert max(kept, key=lambda name: kept[name]) == "last layers, gently"
    losses = [half[name]["loss on plain sentences"] for name in (found, masked, alike, any_heads)]
    assert losses == sorted(losses)
    together = [f"{100 * share:.0f} %" for share in of["together, held out"]["mean"]]
    assert f"reaches {together[0]} of the total effect, the first two {together[1]}, and all ten {together[-1]}" in TEXT
    assert f"correlation over all heads {of['at the last token']['correlation']:.2f}" in TEXT
    assert {*list(of["at the last token"]["heads"])[:4]} == {*list(of["heads"])[:4]}
    assert f"(heads: {of['sum over heads']:.2f})" in TEXT
    mlps = of["MLPs"]
    assert sorted(mlps, key=lambda layer: mlps[layer])[-2:] == ["L29", "L26"]
    assert f"layers 26 ({mlps['L26']:.2f}) and 29 ({mlps['L29']:.2f})" in TEXT
    assert f"MLP 0 alone carries {mlps['L0']:.2f}" in TEXT
    mass = [one["P(he) + P(she)"] for one in (TABLE["before"], tuned[found]["after"][LAST])]
    assert f"from {mass[0]:.2f} to {mass[1]:.2f}" in TEXT


def test_the_page_says_how_it_was_run() -> None:
    assert f"{LAST} updates of {CONFIG['batch']} prompts" in TEXT
    assert f"rate is {CONFIG['lr']} " in TEXT
    assert f"{round(TABLE['core seconds']['all'] / 60)} minutes of one core" in TEXT
    for name, rate in CONFIG["gentle"].items():
        assert TABLE["tuned"][name]["lr"] == CONFIG["lr"]
        assert TABLE["tuned"][f"{name}, gently"]["lr"] == rate
    held = TABLE["held out"]
    assert f"{len(held['frames'])} frames and {len(held['occupations'])} occupations are held out" in TEXT


def test_found_and_tuned_on_shares_nothing_with_what_is_measured(script: Any, model: interp.Model) -> None:
    drawn = script.data(model, script.QUICK)
    seen = [*drawn.found, *drawn.tuned_on(600, 0, model)]
    measured = [*drawn.held_out, *drawn.carried, *drawn.gendered]
    assert {pair.template for pair in seen}.isdisjoint(pair.template for pair in measured)
    assert {one for pair in seen for one in pair.entities}.isdisjoint(one for pair in measured for one in pair.entities)
    prompts = [str(side.text) for pair in drawn.held_out for side in (pair.clean, pair.corrupted)]
    assert len(set(prompts)) == len(prompts) == 6 * 24  # every held-out occupation in every held-out frame, once


def test_a_head_is_its_rows_and_columns(script: Any, model: interp.Model) -> None:
    """Two heads of 8 by 32 each: by hand, rows of W_Q and columns of W_O."""
    parts = script.trained_parts(model, script.Setting("two", 0, 0.1, ((0, 1), (2, 3))))
    assert script.count(model, parts) == 2 * 2 * 8 * 32
    for layer, head in ((0, 1), (2, 3)):
        rows = slice(8 * head, 8 * head + 8)
        queries, out = (parts[f"model.layers.{layer}.self_attn.{which}_proj.weight"] for which in "qo")
        expected = torch.zeros(32, 32)
        expected[rows] = 1
        assert torch.equal(queries, expected)
        assert torch.equal(out, expected.T)
    assert len(parts) == 4


@pytest.mark.parametrize("what", ["heads", "layers", "everything"])
def test_nothing_else_moves(what: str, script: Any, model: interp.Model) -> None:
    """Weights after some updates: to the bit where they are not trained, and the model itself stays as it is."""
    heads, layers = {"heads": (((1, 2),), None), "layers": (None, 1), "everything": (None, None)}[what]
    parts = script.trained_parts(model, script.Setting(what, 0, 0.01, heads, layers))
    before = {name: copy.deepcopy(p.detach()) for name, p in model.module.named_parameters()}
    config = {**script.QUICK, "updates": [3]}
    pairs = script.data(model, config).tuned_on(12, 0, model)
    [(update, weights)] = script.tune(model, pairs, parts, 0.01, config)
    assert (update, weights.keys()) == (3, parts.keys())
    for name, weight in weights.items():
        moved, mask = weight != before[name], parts[name]
        assert bool(moved.any()), name
        if mask is not None:
            assert not bool((moved & (mask == 0)).any())
    assert all(torch.equal(p, before[name]) for name, p in model.module.named_parameters())
    expected = {"heads": 2, "layers": 9, "everything": len(before)}[what]  # of a Llama block: 4 + 3 maps and 2 norms
    assert len(weights) == expected


def test_tuning_evens_the_pronouns_out(script: Any, model: interp.Model) -> None:
    """Its optimum, log ½ each: after many updates of all parameters the loss of the two sentences is ln 2."""
    config = {**script.QUICK, "updates": [60], "batch": 8}
    pairs = script.data(model, config).tuned_on(480, 0, model)
    parts = script.trained_parts(model, script.Setting("everything", 0, 0.01))
    [(_, weights)] = script.tune(model, pairs, parts, 0.01, config)
    with interp.reweighted(model, weights):
        after = interp.check(model, pairs[:40])
    loss = -after.clean["logprob"] + after.clean["margin"] / 2
    assert loss.mean() == pytest.approx(np.log(2), abs=0.05)


def test_numbers_are_those_of_single_prompts(script: Any, model: interp.Model) -> None:
    """Biases, probabilities and losses by hand, through the module alone."""
    drawn = script.data(model, script.QUICK)
    found = script.measured(model, drawn)
    tokenizer: Any = model.tokenizer
    she, he = (tokenizer.convert_tokens_to_ids(word) for word in ("she", "he"))

    def logprobs(text: object) -> torch.Tensor:
        with torch.no_grad():
            return model.module(torch.tensor([tokenizer.encode(str(text))])).logits[0].log_softmax(-1)

    n = len(drawn.held_out)
    for i, sign, prompt in ((3, 1, drawn.held_out[3].clean), (n + 3, -1, drawn.held_out[3].corrupted)):
        p = logprobs(prompt.text)[-1]
        assert found["bias"][i] == pytest.approx(sign * float(p[she] - p[he]), abs=1e-5)
        assert found["pronouns"][i] == pytest.approx(float(p[she].exp() + p[he].exp()), abs=1e-6)
    ids = tokenizer.encode(script.TEXTS[2])
    p = logprobs(script.TEXTS[2])
    assert found["loss"][2] == pytest.approx(-np.mean([float(p[i, token]) for i, token in enumerate(ids[1:])]), abs=1e-5)


def test_random_heads_of_the_same_layers(script: Any, model: interp.Model) -> None:
    chosen = ((0, 1), (0, 2), (2, 3))
    rest = [(layer, head) for layer in range(3) for head in range(4) if (layer, head) not in chosen]
    for n in range(8):
        drawn = script._alike(chosen, rest, script.Draw("test", 0, n))
        assert [layer for layer, _ in drawn] == [0, 0, 2]
        assert len({*drawn, *chosen}) == 6


def test_where_half_is_gone_lies_on_a_straight_line(script: Any) -> None:
    def at(size: float, margin: float) -> dict[str, Any]:
        return {"mean |bias|": [size, 0, 0], "gendered nouns": {"margin": margin}, "loss on plain sentences": 2 * margin}

    after = {"10": at(0.8, 3.0), "20": at(0.4, 1.0)}
    expected = {"updates": 17.5, "gendered nouns, margin": 1.5, "loss on plain sentences": 3.0}
    assert script.at_half(at(1.0, 4.0), after) == expected
    assert script.at_half(at(1.0, 4.0), {"10": after["10"]}) is None


def test_the_script_makes_such_a_table(script: Any, model: interp.Model) -> None:
    single, told = script.study(model, script.QUICK)
    told = json.loads(script.written(told))
    assert isinstance(single, xr.Dataset)
    assert dict(single.sizes)["layer"] * dict(single.sizes)["head"] == 12

    def shape(table: Any, depth: int = 2) -> Any:
        return {key: shape(value, depth - 1) for key, value in table.items()} if isinstance(table, dict) and depth else None

    assert shape(told["before"]) == shape(TABLE["before"])
    assert told.keys() == TABLE.keys()
    assert told["tuned"].keys() == TABLE["tuned"].keys()
    assert told["found"].keys() == TABLE["found"].keys()
    assert all(one.keys() == TABLE["tuned"][name].keys() for name, one in told["tuned"].items())
    assert len(script.drawn_as(told).data) == 2 * len(told["tuned"])


def test_strongest_heads_lie_in_the_direction_of_the_total_effect(script: Any) -> None:
    effect = xr.DataArray([[0.5, -0.1], [-2.0, 0.0]], dims=("layer", "head"))
    assert script._strongest(effect, 2) == {"L1H0": -2.0, "L0H1": -0.1}
    assert script._strongest(-effect, 1, sign=-1) == {"L0H0": 0.5}
    assert TABLE["found"]["total effect"] < 0
    assert all(value < 0 for value in TABLE["found"]["heads"].values())
