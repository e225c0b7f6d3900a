"""Issue 8, circuit discovery: its "Done when" lines at full size."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import smollm2
import torch
from suites import ROOT, require
from transformers import GPT2Config, GPT2LMHeadModel

import interp
from interp.effects import curves
from interp.models.zoo import BACKUP, INTERFERING, KNOWN, PRIMARY, backup_construction, backup_prompts

MICRO = (
    "Edge counts, EAP and EAP-IG scores agree with hand-computed values on a micro model, and with finite differences; EAP "
    "equals exact edge patching on a linear model to 1e-6."
)
ACDC = (
    "Speculative ACDC returns the identical edge set as a plain sequential implementation in float64 (in float32 any differing "
    "edge lies within 1e-6 of τ); 16 pairs × ≤ 16 tokens on the zoo model, τ chosen to keep 1, 2, 5, 10 and 20% of the edges; "
    "passes ≤ 1.5 × mispredictions + edges/32; wall time over the τ sweep ≥ 5× one batched forward an edge, also quoted "
    "against prefix-cached sequential (`python experiments/benchmarks/acdc.py --json`)."
)
EXACT = (
    "Exact scores of all edges of a GPT-2-small-shaped model over 8 examples finish on the CPU of a 2-core machine, time "
    "quoted, with the extrapolation to an H200."
)
COMPILED = (
    "AUROC = 1.0 for ACDC with zero ablation on both compiled programs (the published value), and for exact edge patching "
    "where theory says so."
)
GATING = (
    "Head gating on the hand-built backup-head and interfering-head nets labels each head rightly with 10 seeds; on SmolLM2 "
    "IOI the ordered ablation has the signs that the paper predicts."
)
PAIRS = (
    "`experiments/interactions/`: exact pairwise ablation of all head pairs (I(a,b) = Δ(ab) − Δ(a) − Δ(b)) by rows forking "
    "from rows, on the zoo in full and on SmolLM2 for a few examples with the extrapolation; backup heads appear with one "
    "sign, serial composition with the other."
)
NOISE = (
    "A circuit fitted to pure noise scores above its random control in sample and at control level out of sample, and says "
    "which it is."
)
SMOLLM2 = (
    "On SmolLM2 IOI: the faithfulness curve f = (m(C) − m(∅)) / (m(full) − m(∅)), logit difference, resample ablation, edges "
    "counted with q/k/v split, on ≥ 100 held-out prompts with other names and templates, 95% intervals, against 20 random "
    "circuits of each size, bootstrap stability; aim: f ≥ 0.8 at ≤ 5% of the edges; if that is not reached, the best point and "
    "the reason."
)
H200 = 67e12
"""FLOP/s of a H200 in float32 without tensor cores, by its data sheet."""


@pytest.mark.done_when(8, MICRO)
def test_counts_and_estimates(figures: dict[str, Any]) -> None:
    require(figures, "tests/circuits", "tests/engine/graph", "tests/methods/circuits/test_edge_attribution.py")


@pytest.mark.done_when(8, ACDC)
def test_decisions_ahead_are_those_of_one_edge_after_the_other(figures: dict[str, Any]) -> None:
    script = ROOT / "experiments" / "benchmarks" / "acdc.py"
    done = subprocess.run([sys.executable, str(script), "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    [case] = json.loads(done.stdout)  # the script compares the edges themselves: none may differ
    took, seconds = case["took"]["interp"], case["seconds"]
    edges = 479
    figures |= {"seconds": seconds, "a_bare_forward_an_edge": case["forward_an_edge_seconds"], "took": took}
    figures["ratio"] = {name: round(each / seconds["interp"], 2) for name, each in seconds.items()}
    figures["ratio_to_bare_forwards"] = round(case["forward_an_edge_seconds"] / seconds["interp"], 2)
    for count, share in zip(took["edges"], (0.2, 0.1, 0.05, 0.02, 0.01), strict=True):
        assert count / edges == pytest.approx(share, rel=0.15)
    for passes, misses in zip(took["passes"], took["misses"], strict=True):
        assert passes <= 1.5 * misses + edges / 32
    assert min(took["closest"]) > 1e-12
    assert case["forward_an_edge_seconds"] >= 5 * seconds["interp"]
    assert seconds["plain"] >= 5 * seconds["interp"]


@pytest.mark.done_when(8, ACDC)
def test_float32_decides_as_float64_but_near_the_threshold(figures: dict[str, Any]) -> None:
    taus = (6e-6, 1e-4, 3e-3, 0.5)
    found = []
    for dtype in (torch.float64, torch.float32):
        model = interp.load("zoo/language-4l", dtype=dtype, progress=False)
        pairs = interp.tasks.ioi(16, seed=0, templates=[2], tokenizer=model.tokenizer)
        found.append(interp.acdc(model, pairs, taus, progress=False))
    for cell, tau in enumerate(taus):
        double, single = (one.isel(cell=cell) for one in found)
        differ = np.flatnonzero(double["in_circuit"].values != single["in_circuit"].values)
        figures[f"{tau:g}"] = {"differ": len(differ), "closest": float(double["closest"])}
        # a decision that differs changes what is asked next, so it is the first one that has to be near
        if len(differ):
            first = differ.max()
            assert abs(float(double["change"][first]) - tau) <= 1e-6


@pytest.mark.done_when(8, EXACT)
def test_all_edges_of_gpt2_small_over_eight_examples(figures: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = interp.load(GPT2LMHeadModel(GPT2Config()).eval(), name="gpt2-small-shaped", progress=False)
    draw = np.random.default_rng(0)
    pairs = []
    for _ in range(8):
        clean = draw.integers(1, 50257, 15)
        corrupted = clean.copy()
        corrupted[[3, 9]] = draw.integers(1, 50257, 2)
        right, wrong = draw.integers(1, 50257, 2)
        both = (interp.Prompt(tuple(ids.tolist())) for ids in (clean, corrupted))
        pairs.append(interp.Pair(*both, answers=(int(right),), wrong=(int(wrong),)))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # the machine's, where tests have one
    try:
        began = time.perf_counter()
        found = interp.patch_edges(model, pairs, progress=False)
        seconds = time.perf_counter() - began
        a, b = torch.randn(960, 768), torch.randn(768, 3072)
        began = time.perf_counter()
        for _ in range(20):
            a @ b
        rate = 20 * 2 * 960 * 768 * 3072 / (time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    figures |= {"edges": found.sizes["cell"], "seconds": round(seconds, 1), "matmul_gflop_per_second": round(rate / 1e9, 1)}
    on_h200 = seconds * rate / H200 * 100 / 8
    figures["extrapolated_h200_seconds_for_100_examples_at_its_peak"] = round(on_h200, 2)
    figures["the_same_at_a_tenth_of_its_peak"] = round(10 * on_h200, 1)
    assert found.sizes["cell"] == 32_491
    assert np.isfinite(found["value"]).all()
    assert float(abs(interp.effect(found)).mean()) > 0


@pytest.mark.done_when(8, COMPILED)
@pytest.mark.parametrize("name", ["proportion", "reverse"])
def test_both_programs_are_found_again(name: str, figures: dict[str, Any]) -> None:
    known, zero = KNOWN[name](), interp.Constant(0.0)
    model = interp.load(known.net, tokenizer=known.tokenizer, name=name, progress=False)
    taus = np.geomspace(1e-12, 10, 14).tolist()
    found = interp.acdc(model, known.pairs, taus, "l2", by="raises", graph=known.truth.graph, source=zero, progress=False)
    circuits = found["in_circuit"].values
    exact = interp.patch_edges(model, known.pairs, "l2", graph=known.truth.graph, source=zero, progress=False)
    score = np.abs(interp.effect(exact).values[0]).mean(-1)
    figures |= {
        "edges": len(known.truth.graph),
        "in_the_truth": len(known.truth),
        "acdc_auroc": curves.roc_of_circuits(circuits, known.truth.kept).auc,
        "exact_auroc": curves.roc(score, known.truth.kept).auc,
        "acdc_edges": found["edges"].values.tolist(),
    }
    assert figures["acdc_auroc"] == 1.0
    assert figures["exact_auroc"] == 1.0


@pytest.mark.done_when(8, GATING)
def test_every_head_has_its_role_with_ten_seeds(figures: dict[str, Any]) -> None:
    net = backup_construction(interference=1.0, alert=60.0)
    model = interp.load(net, name="backup", progress=False)
    pairs = [interp.Pair(*[interp.Prompt(tuple(ids))] * 2, answers=(ids[1],)) for ids in backup_prompts(net).tolist()]
    gates = interp.gate_heads(model, pairs, seeds=10, updates=500, progress=False)
    expected = {PRIMARY: "facilitating", INTERFERING: "interfering", BACKUP: "irrelevant", (0, 1): "irrelevant"}
    for (layer, head), role in expected.items():
        own = gates.sel(layer=layer, head=head)
        figures[f"L{layer}H{head}"] = f"{role} in {int((own['role'] == role).sum())} of 10 seeds"
        assert (own["role"] == role).all()


@pytest.mark.done_when(8, GATING)
def test_ordered_ablation_of_smollm2_has_the_signs_of_the_paper(tmp_path: Path, figures: dict[str, Any]) -> None:
    script = ROOT / "experiments" / "head_gating" / "run.py"
    command = [sys.executable, str(script), "--model", str(smollm2.folder()), "--out", str(tmp_path), "--store", ""]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    [path] = tmp_path.glob("table-*.json")
    table = json.loads(path.read_text())
    figures |= {"heads": table["percent of heads, always | any"], "settings": [table["updates"], table["batch"]]}
    figures["change"] = change = {role: each["mean"] for role, each in table["change by ordered ablation"].items()}
    figures["intervals"] = {role: each["95% interval"] for role, each in table["change by ordered ablation"].items()}
    assert change["facilitating"] < 0 < change["interfering"]
    assert abs(change["irrelevant"]) < min(-change["facilitating"], change["interfering"])


@pytest.mark.done_when(8, PAIRS)
def test_interactions_of_all_pairs(tmp_path: Path, figures: dict[str, Any]) -> None:
    script = ROOT / "experiments" / "interactions" / "run.py"
    for which, more in (("zoo", []), ("smollm2", ["--model", str(smollm2.folder())])):
        command = [sys.executable, str(script), which, *more, "--out", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        figures[which] = json.loads((tmp_path / f"table-{which}.json").read_text())
    require(figures, "tests/methods/circuits/test_interactions.py", "tests/experiments/test_interactions.py")


@pytest.mark.done_when(8, NOISE)
def test_a_circuit_of_noise_is_told_from_one_of_a_behaviour(figures: dict[str, Any]) -> None:
    suite = "tests/methods/circuits/test_evaluation.py"
    noise = ("a_circuit_fitted_to_noise_is_above_random_in_sample_and_not_out_of_sample", "an_evaluation_says_whether_it_is_in")
    require(figures, suite, "-k", " or ".join((*noise, "a_circuit_of_a_behaviour_is_above_random_out_of_sample_too")))


@pytest.mark.done_when(8, SMOLLM2)
def test_a_circuit_of_smollm2_for_indirect_objects(tmp_path: Path, figures: dict[str, Any]) -> None:
    """Circuits are of the strongest edges, by size: signed ones leave out what holds the behaviour back, and overshoot."""
    script = ROOT / "experiments" / "circuits" / "smollm2_ioi.py"
    command = [sys.executable, str(script), "--model", str(smollm2.folder()), "--out", str(tmp_path), "--store", ""]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    [path] = tmp_path.glob("ioi-swap-*.json")
    table = json.loads(path.read_text())
    assert table["held_out"]["pairs"] >= 100
    assert table["in_sample_examples"] == table["in_sample_templates"] == 0
    assert table["config"]["random"] >= 20
    lines = table["faithfulness"]["logit_diff"]
    curve = {row["share"]: row for row in lines if row["line"] == "EAP-IG, size"}
    chance = {row["share"]: row for row in lines if row["line"] == "random"}
    figures["curve"] = {f"{share:.1%}": [row["f"], row["low"], row["high"]] for share, row in curve.items()}
    figures["random"] = {f"{share:.1%}": [row["f"], row["low"], row["high"]] for share, row in chance.items()}
    figures |= {"edges": table["edges"], "full": table["full"], "empty": table["empty"]}
    figures["stability"] = table["stability"]["size"]
    best = max((row for row in curve.values() if row["share"] <= 0.05), key=lambda row: row["f"])
    figures["best_within_5_percent"] = best
    assert best["f"] >= 0.8
    assert best["low"] > chance[best["share"]]["high"]
    assert all(0 < one <= 1 for one in table["stability"]["size"]["jaccard"])
