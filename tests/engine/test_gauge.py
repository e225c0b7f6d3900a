"""What depends on where value biases stand is named, wherever it is offered; what does not is not."""

from __future__ import annotations

import pytest
import sweeps
import torch

import interp
from interp import report
from interp.engine import Edge, explain, patch, patch_edges
from interp.interventions import Activation, Add, Change, Constant, Gate, Intervention, Scale, mean, noise, zero
from interp.models import load
from interp.sites import grid

PAIRS = sweeps.random_pairs(3, [6, 6])
EVERY_HEAD = grid("z", layer=..., head=...)


def test_zero_ablation_of_heads_is_flagged_and_mean_ablation_is_not() -> None:
    model = sweeps.model("gpt2")
    flagged = patch(model, PAIRS, EVERY_HEAD, source=zero())
    assert flagged.attrs["gauge"].startswith("zero ablation of z depends on b_V: the value biases of gpt2-0 may as well stand")
    assert report.provenance(flagged)["depends on how the model is written"] == flagged.attrs["gauge"]
    for source in (mean(), Activation(), Activation("base")):
        assert "gauge" not in patch(model, PAIRS, EVERY_HEAD, source=source).attrs


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (Change("L1.z", source=zero()), "zero ablation of z"),
        (Change("L1.v", source=Constant(torch.zeros(8))), "zero ablation of v"),
        (Change("L1.result", source=Constant(1.5)), "a constant in place of result"),
        (Change("L1.z", edit=Scale(0.0)), "scaling of z"),
        (Change("L1.z", edit=Gate((4, 8))), "scaling of z"),
        (Change("L1.z", source=noise(0.1), edit=Add()), ""),
        (Change("L1.z", source=Constant(1.0), edit=Add()), ""),
        (Change("L1.q", source=zero()), ""),
        (Change("L1.attn_out", source=zero()), ""),
        (Change("L1.pattern", source=mean()), ""),
        (Change("L1.pattern", -1, edit=Scale(0.0), attended=0), "scaling of pattern"),
    ],
    ids=repr,
)
def test_which_changes(change: Change, said: str) -> None:
    found = interp.engine.gauge.flag(sweeps.model("gpt2"), [Intervention((change,))])
    assert found.startswith(f"{said} depends on b_V") if said else found == ""


def test_explain_says_it_and_so_does_a_sweep_on_an_ablated_base() -> None:
    model = sweeps.model("gpt2")
    assert "note        zero ablation of z depends on b_V" in str(explain(model, PAIRS, EVERY_HEAD, source=zero()))
    assert "b_V" not in str(explain(model, PAIRS, EVERY_HEAD))
    given = Intervention.of("L0H1.z", source=zero())
    assert "zero ablation of z" in patch(model, PAIRS, EVERY_HEAD, given=given).attrs["gauge"]


def test_edges_taken_away_are_flagged() -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(3, [5])
    edges = [Edge.of("L0H1.z", "L1.mlp_pre"), Edge.of("embed", "logits")]
    assert "zero ablation of z" in patch_edges(model, pairs, edges=edges, source=zero()).attrs["gauge"]
    assert "gauge" not in patch_edges(model, pairs, edges=edges[1:], source=zero()).attrs
    assert "gauge" not in patch_edges(model, pairs, edges=edges).attrs


def test_without_value_biases_there_is_nothing_to_say() -> None:
    """Llama's values have no bias; GPT-2's fused projection has one, whose queries and keys do not count."""
    intervention = [Intervention.of("L1H0.z", source=zero())]
    assert interp.engine.gauge.flag(sweeps.model("llama"), intervention) == ""
    module = sweeps.MAKERS["gpt2"](1)
    attention = module.transformer.h[1].attn.c_attn
    with torch.no_grad():
        attention.bias[-32:] = 0
    assert attention.bias.any()
    assert interp.engine.gauge.flag(load(module), intervention) == ""
    assert "b_V" in interp.engine.gauge.flag(load(module), [Intervention.of("L0H0.z", source=zero())])
