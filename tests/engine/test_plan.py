"""What explain() says before a sweep is what the sweep does."""

from __future__ import annotations

import re
from typing import Any

import pytest
import sweeps
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from interp.engine import explain, patch
from interp.engine.costs import Costs
from interp.engine.joins import Point, depth
from interp.engine.wave import Pass
from interp.errors import UnknownSiteError
from interp.interventions import Change, Constant, Intervention, Scale
from interp.models import load
from interp.sites import grid

RESIDUAL = grid("resid_pre", layer=..., position=...)


@pytest.fixture
def pairs(seed: int) -> Any:
    return sweeps.random_pairs(seed, [6, 6, 6])


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "neox"])
def test_no_prompt_is_run(kind: str, pairs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = sweeps.model(kind)

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("explain() ran the model")

    monkeypatch.setattr(nn.Module, "__call__", never)
    assert "wavefront" in str(explain(model, pairs, RESIDUAL))
    assert explain(model, pairs, RESIDUAL, strategy="serial").strategy() == "serial"


@pytest.mark.parametrize("options", [{}, {"rows": 5}, {"rows": 1}, {"skip_inert": False}], ids=str)
@pytest.mark.parametrize("where", [RESIDUAL, grid("z", layer=..., head=...)], ids=["residual", "z"])
def test_passes_and_rows_are_those_that_run(
    where: Any, options: dict[str, Any], pairs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ran = sweeps.model("llama"), []
    run = Pass.run

    def spy(self: Pass) -> Any:
        ran.append(len(self.examples))
        return run(self)

    plan = explain(model, pairs, where, **options)
    monkeypatch.setattr(Pass, "run", spy)
    effects = patch(model, pairs, where, **options)
    assert len(ran) == plan.passes == effects.attrs["passes"]
    assert max(ran) == plan.chosen[0].most_rows
    assert sum(ran) == effects.attrs["rows"]
    assert plan.by_rule == int(effects["by_rule"].sum()) == effects.attrs["rows_by_rule"]
    assert effects.attrs["fraction_of_naive_flops"] == plan.fraction < 1


def test_operations_by_hand() -> None:
    """GPT-2: 2 operations a weight and token, 4 × heads × d_head a pair of tokens; the last block at the read position."""
    model = sweeps.model("gpt2")
    d, heads, d_head, units, layers = (model.sizes[k] for k in ("d_model", "head", "d_head", "unit", "layer"))
    costs = Costs.of(model)
    qkv, out, mlp = 2 * d * 3 * d, 2 * d * d, 2 * 2 * d * units
    assert (costs.blocks[0].into, costs.blocks[0].out, costs.blocks[0].mlp) == (qkv, out, mlp)
    columns, start, tail = 10, 7, 9
    core = 4 * heads * d_head * columns
    middle, last = 3 * (qkv + out + core + mlp), 3 * qkv + (qkv + out + core + mlp)
    logits = 2 * 2 * d
    assert costs.resumed(depth(layers - 2, Point.PRE), start, tail, columns, 2) == middle + last + logits
    assert costs.resumed(depth(layers - 2, Point.MID), start, tail, columns, 2) == 3 * mlp + last + logits
    assert costs.resumed(depth(layers - 1, Point.POST), start, tail, columns, 2) == logits
    assert costs.resumed(depth(layers, Point.PRE), start, tail, columns, 2) == logits
    whole = layers * (10 * (qkv + out + mlp) + 10 * 4 * heads * d_head * 5) + 10 * 2 * d * 97
    assert costs.whole(10) == whole


def test_what_cannot_be_resumed_says_why(pairs: Any) -> None:
    model = sweeps.model("gpt2")
    asked = [Intervention.of("L1.z@-1"), Intervention.of("transformer.ln_f:output@-1", source=Constant(0.0))]
    plan = explain(model, pairs, asked)
    assert plan.strategy() == "wavefront+batched"
    assert list(plan.fallback().values()) == [1]
    assert "transformer.ln_f:output is not inside a block" in str(plan)
    effects = patch(model, pairs, asked)
    assert effects.attrs["strategy"] == "wavefront+batched"
    assert effects.attrs["fallback"]
    unproved = load(sweeps.MAKERS["gpt2"](0), check=False)
    assert "it was loaded without its probe run" in str(explain(unproved, pairs, RESIDUAL))
    assert patch(unproved, pairs, RESIDUAL).attrs["strategy"] == "batched"
    with pytest.raises(ValueError, match=r"strategy='wavefront' cannot run .* it was loaded without its probe run"):
        patch(unproved, pairs, RESIDUAL, strategy="wavefront")


def test_a_page_to_read(pairs: Any) -> None:
    plan = explain(sweeps.model("llama"), pairs, {"residual": RESIDUAL, "heads": grid("z", layer=..., head=...)}, "kl")
    page = str(plan)
    for word in (
        "cells × 3 examples",
        "by rule",
        "wavefront",
        "passes of at most",
        "FLOP",
        "MiB",
        "instead",
        "batched",
        "serial",
    ):
        assert word in page, word
    assert "divergence" in page or "kl" in page
    one = str(explain(sweeps.model("llama"), pairs, Intervention.of("L1.z"), "kl"))
    assert one.startswith("1 cell × 3 examples = 3 rows on ")
    assert " 1 group by first position" in one
    assert all(len(line) <= 140 for line in page.splitlines())


def test_what_is_given_and_held_is_on_the_page(pairs: Any) -> None:
    model = sweeps.model("llama")
    page = str(explain(model, pairs, RESIDUAL, given=Change("L1H2.z", edit=Scale(0.0)), hold=("pattern", "L2.mlp_out")))
    assert "  given       L1H2.z Scale(factor=0.0)\n" in page
    assert "  held        pattern, L2.mlp_out\n" in page
    plain = str(explain(model, pairs, RESIDUAL))
    assert "  given " not in plain
    assert "  held " not in plain


@pytest.mark.parametrize(("site", "said"), [("q", True), ("pattern", True), ("z", False), ("resid_pre", False)])
def test_attention_that_is_run_again_is_said(site: str, said: bool, pairs: Any) -> None:
    words = f"rows that change {site} run the attention of that block again, for all of its heads"
    assert (words in str(explain(sweeps.model("llama"), pairs, grid(site, layer=...)))) == said


def test_wrong_arguments_are_told_before_anything_runs(pairs: Any) -> None:
    with pytest.raises(UnknownSiteError, match="resid_mid"):
        explain(sweeps.model("neox"), pairs, grid("resid_mid", layer=...))


def test_no_tensor_of_a_model_is_moved(pairs: Any) -> None:
    model = sweeps.model("gpt2")
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    patch(model, pairs, RESIDUAL)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.module.state_dict().items())
    assert not any("forward" in module.__dict__ for module in model.module.modules())


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox"])
@pytest.mark.parametrize(
    ("where", "given"),
    [
        (RESIDUAL, None),
        (grid("z", layer=..., head=...), None),
        (grid("q", layer=..., head=...), None),
        (grid("q", layer=[2], head=...), None),
        (grid("pattern", layer=[2], head=...), None),
        (grid("mlp_post", layer=...), None),
        (grid("resid_pre", layer=...), "L1.z"),
        (grid("resid_pre", layer=...), "L2.z"),
    ],
    ids=["residual", "z", "q", "q of the last block", "pattern", "mlp_post", "given", "given in the last block"],
)
def test_operations_are_those_that_run(kind: str, where: Any, given: str | None, seed: int) -> None:
    """The plan counts by formula, torch what it runs; the rest are attention's masked halves and single columns."""
    model, pairs = sweeps.model(kind), sweeps.random_pairs(seed, [12] * 16)
    options: dict[str, Any] = {"given": None if given is None else Intervention.of(given, source=Constant(0.0))}
    plan = explain(model, pairs, where, **options)
    with FlopCounterMode(display=False) as counter:
        patch(model, pairs, where, **options)
    assert plan.flops == pytest.approx(counter.get_total_flops(), rel=0.12)


def test_one_cell_takes_more_than_its_rows(seed: int) -> None:
    """The page says what the share is of, and why it is more than all of it."""
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 6])
    plan = explain(model, pairs, grid("L1.z", position=-1))
    assert plan.fraction > 1
    (line,) = [line for line in repr(plan).splitlines() if line.startswith("  operations")]
    words = (
        r"%s, %s of the %s that one whole forward pass for each row would take; the two prompts of each pair are run as well"
    )
    assert re.search(words % (r"[\d.]+ MFLOP", f"{plan.fraction:.1%}", r"[\d.]+ MFLOP"), line)
    many = explain(model, pairs, grid("z", layer=..., head=..., position=...))
    assert many.fraction < 1
    assert "are run as well" not in repr(many)
