"""Rows that fork from rows give the numbers of rows that begin with the base run, and are fewer blocks' work.

Tolerance: 1e-5 × (1 + max |logit|) in float32, against whole forward passes.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import sweeps

from interp.engine import patch
from interp.engine.lines import Lines
from interp.engine.prepared import Options, prepare
from interp.interventions import Add, Change, Constant, Intervention, Scale
from interp.metrics import resolve


def heads(model: Any, source: Any = None) -> list[Intervention]:
    return [
        Intervention.of(f"L{layer}H{head}.z", source=source or Constant(0.0))
        for layer in range(model.sizes["layer"])
        for head in range(0, model.sizes["head"], 2)
    ]


def largest(ds: Any) -> float:
    return 1e-5 * (1 + float(abs(ds["value"]).max()) + 10)  # these models' logits are below 10


@pytest.mark.parametrize("kind", sorted(sweeps.MAKERS))
def test_pairs_and_triples(kind: str, seed: int) -> None:
    """All pairs, some triples, with and without the single ones among what is asked for; the longest line has three blocks."""
    model = sweeps.model(kind)
    options: dict[str, Any] = [{}, {"rows": 1}, {"rows": 4}, {"skip_inert": False}][seed % 4]
    pairs = sweeps.random_pairs(seed, [6, 5, 6])
    single = heads(model)
    together = [a & b for a, b in combinations(single, 2)] + [a & b & c for a, b, c in combinations(single[::2], 3)]
    others = [
        Intervention.of("L0.resid_post@end", "L2.resid_post@-1"),  # parts behind the last block
        Intervention.of("L0.resid_post@end", "L2.resid_post@-2"),
        Intervention.of("L0.resid_post@end", "L1.q@-1"),
        Intervention.of("embed@-1", "L1H0.z"),
        Intervention.of(Change("L0.resid_post", -1, edit=Scale(0.5)), Change("L1.attn_out", -1, edit=Add(0.5))),
        Intervention.of(Change("L0.resid_post", -1, edit=Scale(0.5)), Change("L2.attn_out", -1, edit=Add(0.5))),
    ]
    for asked in (together, [*single, *together, *others]):
        reference = patch(model, pairs, asked, ["logit_diff", "kl"], strategy="batched")
        found = patch(model, pairs, asked, ["logit_diff", "kl"], strategy="wavefront", **options)
        np.testing.assert_allclose(found["value"], reference["value"], rtol=0, atol=largest(reference))


def test_given_and_forks(seed: int) -> None:
    model = sweeps.model("llama")
    pairs = sweeps.random_pairs(seed, [6, 6])
    asked = [a & b for a, b in combinations(heads(model), 2)]
    given = Intervention.of(Change("L1.mlp_out", -1), Change("L0.resid_post", "subject", edit=Scale(0.7)))
    reference = patch(model, pairs, asked, given=given, strategy="serial")
    found = patch(model, pairs, asked, given=given)
    np.testing.assert_allclose(found["value"], reference["value"], rtol=0, atol=largest(reference))


def cells_and_parents(model: Any, asked: list[Intervention]) -> tuple[int, list[int]]:
    encoded = model.encode(sweeps.random_pairs(0, [5, 5]))
    prepared = prepare(model, encoded, [asked], resolve("logit_diff"), Options())
    return len(prepared.cells), prepared.parents.tolist()


def test_what_is_shared_is_found() -> None:
    """A beginning that two share is a row of its own; one that was asked for is used; one of its own is left alone."""
    model = sweeps.model("gpt2")
    a, b, c = (Intervention.of(f"L{layer}H1.z") for layer in range(3))
    again = Intervention.of("L0H1.z")  # another object that says the same
    assert cells_and_parents(model, [a & b, again & c]) == (4, [3, 3, -1, -1])
    assert cells_and_parents(model, [a & b, a]) == (3, [1, -1, -1])
    assert cells_and_parents(model, [a & b, b & c]) == (3, [-1, -1, -1])
    assert cells_and_parents(model, [a & b & c, a & b]) == (3, [1, -1, -1])
    other = Intervention.of("L0H1.z", source=Constant(0.0))
    assert cells_and_parents(model, [a & b, other & c]) == (3, [-1, -1, -1])
    same_block = Intervention.of("L0H1.z", "L0H2.z")
    assert cells_and_parents(model, [same_block, a]) == (3, [-1, -1, -1])


def test_forking_is_less_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that run through blocks: pairs (first, last block) begin at the last one."""
    model, counted = sweeps.model("gpt2"), sweeps.rows_of_blocks(monkeypatch)
    first = Intervention.of("L0H1.z", source=Constant(0.0))
    asked = [first & Intervention.of(f"L2H{head}.z", source=Constant(0.0)) for head in range(4)]
    patch(model, sweeps.random_pairs(0, [5]), asked, strategy="wavefront")
    # The shared row: blocks 0, 1 and 2 (it is carried on). Four that leave it: block 2. The self-patch: the two blocks' own.
    forked = sum(counted)
    counted.clear()
    monkeypatch.setattr("interp.engine.prepared.forked", lambda model, cells, begins: _unforked(cells, begins))
    patch(model, sweeps.random_pairs(0, [5]), asked, strategy="wavefront")
    assert forked < sum(counted)


def test_rows_of_one_example_run_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six rows a pass, of six examples: ordered by where they join alone, each would bring the row that it leaves."""
    model, counted = sweeps.model("gpt2"), sweeps.rows_of_blocks(monkeypatch)
    single = heads(model)
    asked = [*single, *(a & b for a, b in combinations(single, 2))]
    first = patch(model, sweeps.random_pairs(0, [5] * 6), asked, strategy="wavefront", rows=12)
    together = sum(counted)
    counted.clear()
    monkeypatch.setattr(Lines, "arranged", lambda self, rows: self.joins[rows[:, 0]].argsort(stable=True))
    second = patch(model, sweeps.random_pairs(0, [5] * 6), asked, strategy="wavefront", rows=12)
    assert together < 0.9 * sum(counted)
    np.testing.assert_allclose(first["value"], second["value"], rtol=0, atol=largest(first))


def _unforked(cells: Any, begins: Any) -> Any:
    from interp.engine.forks import Forks

    return Forks(list(cells), list(begins), [-1] * len(cells))
