"""Networks whose circuit is known edge by edge: what they say, which edges they have, and what finds them.

Counts and lists are those of Conmy et al. (arXiv 2304.14997, appendix on Tracr) for ``proportion`` and ``reverse``, and of each
construction for the others. Everything in float64; with β = 100 an attention that should be 0 is exp(−50).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import acdc_by_hand
import numpy as np
import pytest
import torch

import interp
from interp.circuits import Circuit, circuits_of, ranking
from interp.effects import curves
from interp.engine.graph.edges import graph
from interp.interventions import Constant, Source
from interp.models import Model, load
from interp.models.zoo import KNOWN, Compiler, KnownCircuit

PROPORTION = """
    embed → m0, m0 → L1H0.v, embed → L1H0.q, pos_embed → L1H0.q, embed → L1H0.k, pos_embed → L1H0.k, L1H0 → logits
"""
REVERSE = """
    embed → L0H0.v, L0H0 → m0, embed → m0, m0 → m1, embed → m1, pos_embed → m1, m1 → m2, m2 → L3H0.q, pos_embed → L3H0.k,
    embed → L3H0.v, L3H0 → logits
"""
INDUCTION = """
    pos_embed → L0H0.q, pos_embed → L0H0.k, embed → L0H0.v, embed → L1H0.q, L0H0 → L1H0.k, embed → L1H0.v, L1H0 → logits
"""
HISTOGRAM = "embed → L0H0.q, embed → L0H0.k, embed → L0H0.v, L0H0 → m0, embed → m0, m0 → logits"
GATE = """
    pos_embed → L0H0.q, pos_embed → L0H0.k, embed → L0H0.v, pos_embed → L0H1.q, pos_embed → L0H1.k, embed → L0H1.v,
    L0H0 → m0, L0H1 → m0, embed → m0, m0 → logits
"""
BACKUP = """
    pos_embed → L0H0.q, pos_embed → L0H0.k, embed → L0H0.v, pos_embed → L1H0.q, L0H0 → L1H0.q, pos_embed → L1H0.k,
    embed → L1H0.v, L0H0 → logits, L1H0 → logits
"""
CHAIN = """
    pos_embed → L0H1.q, pos_embed → L0H1.k, embed → L0H1.v, embed → L1H0.q, L0H1 → L1H0.k, pos_embed → L1H0.k,
    embed → L1H0.v, L1H0 → logits
"""
LISTED = {
    "proportion": PROPORTION,
    "reverse": REVERSE,
    "induction": INDUCTION,
    "histogram": HISTOGRAM,
    "or": GATE,
    "and": GATE,
    "backup": BACKUP,
    "chain": CHAIN,
}
SILENT = {"backup": ["pos_embed → L1H0.q", "embed → L1H0.v", "L1H0 → logits"]}
"""Edges of a head that speaks only where another did not: nothing is seen of them alone. What keeps it silent is."""
ZERO = Constant(0.0)


@cache
def known(name: str) -> KnownCircuit:
    return KNOWN[name]()


@cache
def model(name: str) -> Model:
    of = known(name)
    return load(of.net, tokenizer=of.tokenizer, name=name)


@cache
def effects(name: str) -> np.ndarray[Any, Any]:
    """Of every edge alone, ``[edge, example]``."""
    return of_edges(model(name), known(name), ZERO)


def of_edges(model: Model, of: KnownCircuit, source: Source | None) -> np.ndarray[Any, Any]:
    found = interp.patch_edges(model, of.pairs, "l2", graph=of.truth.graph, source=source, progress=False)
    return interp.effect(found).values[0]


@pytest.mark.parametrize("name", KNOWN)
def test_the_network_is_the_program(name: str) -> None:
    """On every prompt there is, in batches of a length; 1e-6 is asked for, and rounding is all that is off."""
    of = known(name)
    assert len(of.pairs) == len(of.expected)
    for pair, expected in zip(of.pairs, of.expected, strict=True):
        ids = list(pair.clean.text)
        with torch.no_grad():
            torch.testing.assert_close(of.net(torch.tensor([ids])).logits[0, -1], expected, rtol=0, atol=1e-12)
        assert of.tokenizer(" ".join(of.vocabulary[i] for i in ids))["input_ids"] == ids


def test_how_many_prompts() -> None:
    """Sequences of 1 to 4 of 3 letters; of 1 to 3 letters with as many question marks at most; and those whose last letter was
    there before, 3 + 15 + 57 of 2, 3 and 4.
    """
    assert len(known("proportion").pairs) == len(known("histogram").pairs) == 3 + 9 + 27 + 81
    assert len(known("reverse").pairs) == 1 * 3 + 2 * 9 + 3 * 27
    assert len(known("induction").pairs) == 3 + 15 + 57
    assert [len(known(name).pairs) for name in ("or", "and", "backup", "chain")] == [4, 4, 3, 64]


def test_what_is_said_worked_out_by_hand() -> None:
    """Two x of three before the last; c b a is a b c backwards; b followed a once of twice; b three times; either and both."""
    examples = {
        "proportion": {"BOS x a x a": {"x": 2 / 3}, "BOS x": {}, "BOS x a": {"x": 1}},
        "reverse": {"BOS a b c ?": {"c": 1}, "BOS a b c ? ?": {"b": 1}, "BOS a b c ? ? ?": {"a": 1}, "BOS c ?": {"c": 1}},
        "induction": {"BOS a b a": {"b": 1}, "BOS a a b a": {"a": 0.5, "b": 0.5}},
        "histogram": {"BOS b b a b": {"3": 1}, "BOS a": {"1": 1}},
        "or": {"BOS on off END": {"yes": 1}, "BOS off off END": {}},
        "and": {"BOS on off END": {}, "BOS on on END": {"yes": 1}},
    }
    for name, prompts in examples.items():
        of = known(name)
        for prompt, logits in prompts.items():
            with torch.no_grad():
                found = of.net(torch.tensor([of.tokenizer(prompt)["input_ids"]])).logits[0, -1]
            expected = [logits.get(word, 0.0) for word in of.vocabulary]
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12, err_msg=f"{name}: {prompt}")


@pytest.mark.parametrize("name", KNOWN)
def test_the_listed_edges(name: str) -> None:
    """7 and 11 of the two programs of the paper; all of them are on the graph that is read off the network."""
    truth, listed = known(name).truth, [edge.strip() for edge in LISTED[name].split(",")]
    assert truth == Circuit.of(graph(model(name), split_embed=True), listed)
    assert len(truth) == len(listed)
    assert {"proportion": 7, "reverse": 11}.get(name, len(truth)) == len(truth)
    assert bool(truth.graph.real[truth.graph.sender[truth.kept], truth.graph.receiver[truth.kept]].all())
    assert truth.pruned() == truth


@pytest.mark.parametrize("name", KNOWN)
def test_absent_edges_do_nothing_and_each_present_one_something(name: str) -> None:
    """With zero in its place, an edge that is absent changes no logit by 1e-10 (of squares, 1e-20); of the present ones each
    changes some, those of a backup excepted.
    """
    of, found = known(name), effects(name)
    assert found[~of.truth.kept].max() <= 1e-20
    silent = Circuit.of(of.truth.graph, SILENT.get(name, []))
    assert found[silent.kept].max(initial=0) <= 1e-20
    assert (found[(of.truth - silent).kept].max(-1) > 1e-3).all()


@pytest.mark.parametrize("name", KNOWN)
def test_the_circuit_alone_is_the_network(name: str) -> None:
    """All absent edges at once, and none of the present ones can be missed together with them."""
    of = known(name)
    whole, rest = interp.patch_circuits(model(name), of.pairs, [of.truth, ~of.truth], "l2", source=ZERO)["value"].values[0]
    assert whole.max() <= 1e-20
    assert rest.max() > 1e-3


@pytest.mark.parametrize("name", ["proportion", "reverse", "chain"])
def test_a_rotated_basis_changes_nothing(name: str, seed: int) -> None:
    of, turned = known(name), known(name).rotated(seed)
    found = of_edges(load(turned.net, name="turned"), of, ZERO)
    np.testing.assert_allclose(found, effects(name), rtol=0, atol=1e-8)
    assert (turned.net.model.embed_tokens.weight.abs() > 1e-3).float().mean() > 0.9
    assert bool((of.net.model.embed_tokens.weight == KNOWN[name]().net.model.embed_tokens.weight).all()), "a copy was turned"


@pytest.mark.parametrize("name", ["proportion", "reverse"])
def test_acdc_finds_the_programs_under_zero_ablation(name: str) -> None:
    """AUROC 1.000 of both with the squared distance: Conmy et al. (arXiv 2304.14997), table 3.

    As τ goes to 0 the circuit is the truth itself; where it is larger edges are missed, and others may be left whose source is
    then wanted. One edge after another finds the same circuits.
    """
    of, whole = known(name), Circuit.whole(known(name).truth.graph)
    some = interp.Pairs(of.pairs.items[:: 1 if name == "proportion" else 3], name)
    thresholds = [1e-12, 1e-3, 1e-2, 0.05, 0.1, 0.3, 1.0, 10.0]
    found = interp.acdc(
        model(name),
        some,
        thresholds,
        "l2",
        by="raises",
        graph=graph(model(name), split_embed=True),
        source=ZERO,
        progress=False,
    )
    sweep = circuits_of(found, whole.graph)
    assert sweep[0] == of.truth
    assert len(sweep[-1]) < len(of.truth)
    assert curves.roc_of_circuits(np.stack([circuit.kept for circuit in sweep]), of.truth.kept).auc == 1.0
    for at in (0, 3):
        assert acdc_by_hand.acdc(model(name), some, whole, "l2", thresholds[at], source=ZERO) == sweep[at]


@pytest.mark.parametrize("name", [name for name in KNOWN if name != "backup"])
def test_exact_edge_patching_finds_what_has_no_backup(name: str) -> None:
    """Absent edges have effect 0 and present ones more, so that every threshold between finds the truth: AUROC 1."""
    assert curves.roc(effects(name).mean(-1), known(name).truth.kept).auc == 1.0


def test_exact_edge_patching_misses_a_backup() -> None:
    """The three edges by which the backup would speak are as silent as the 33 that are absent: half of the pairs with them.

    AUROC = (6·33 + 3·33/2) / (9·33) = 5/6.
    """
    of = known("backup")
    assert len(of.truth.graph) - len(of.truth) == 33
    score = np.where(effects("backup").mean(-1) > 1e-9, effects("backup").mean(-1), 0.0)
    assert curves.roc(score, of.truth.kept).auc == pytest.approx(5 / 6, abs=1e-12)


def test_an_or_gate_needs_one_of_two_heads_and_an_and_gate_both() -> None:
    """Where both sources are on, an or misses neither head's edge alone, and both together; ACDC keeps one of the heads: the
    one whose edge it asks about last. An and misses each.
    """
    for name, alone in (("or", 0.0), ("and", 1.0)):
        of = known(name)
        on = interp.Pairs(of.pairs.items[:1], "both on")
        assert on[0].clean.text == tuple(of.vocabulary.index(word) for word in ("BOS", "on", "on", "END"))
        whole = Circuit.whole(of.truth.graph)
        heads = [Circuit.of(whole.graph, [f"L0H{head} → m0"]) for head in range(2)]
        circuits = [whole - heads[0], whole - heads[1], whole - heads[0] - heads[1]]
        found = interp.patch_circuits(model(name), on, circuits, "l2", source=ZERO)["value"].values[0, :, 0]
        np.testing.assert_allclose(found, [alone, alone, 1.0], rtol=0, atol=1e-12)
        left = acdc_by_hand.acdc(model(name), on, whole, "l2", 1e-9, source=ZERO)
        assert [edge in left for edge in ("L0H0 → m0", "L0H1 → m0")] == [True, name == "and"]


def test_of_another_prompt_positions_and_constants_say_the_same() -> None:
    """The truth is that of zero ablation: no edge out of positions has an effect where the other prompt's value is taken."""
    for name in ("proportion", "reverse"):
        of = known(name)
        found = of_edges(model(name), of, None).max(-1)
        silent = {repr(edge) for edge in Circuit(of.truth.graph, of.truth.kept & (found <= 1e-20)).edges}
        assert {edge for edge in map(repr, of.truth.edges) if edge.startswith("pos_embed")} <= silent
        assert silent == set(_SAME[name])
        assert found[~of.truth.kept].max() <= 1e-20


_SAME = {
    "proportion": ["embed → L1H0.q", "pos_embed → L1H0.q", "embed → L1H0.k", "pos_embed → L1H0.k"],
    "reverse": ["embed → m0", "embed → m1", "pos_embed → m1", "pos_embed → L3H0.k"],
}
"""Constants: positions, the 1 that every token writes, and where BOS is."""


def test_a_program_of_your_own() -> None:
    """Sort two letters: of each position whether the other is smaller, in three steps; edges as the steps read."""
    program = Compiler(("BOS", "a", "b", "c"), length=3)
    first = program.aggregate(
        "first", program.token, query=program.position, key=program.position, where=lambda own, other: other == 1
    )
    smaller = program.map("smaller", (first, program.token), min, ("BOS", "a", "b", "c"))
    net = program.net(smaller)
    assert program.edges(smaller) == [
        "pos_embed → L0H0.q", "pos_embed → L0H0.k", "embed → L0H0.v", "L0H0 → m0", "embed → m0", "m0 → logits",
    ]  # fmt: skip
    for one in (1, 2, 3):
        for other in (1, 2, 3):
            with torch.no_grad():
                assert int(net(torch.tensor([[0, one, other]])).logits[0, -1].argmax()) == min(one, other)


def test_numbers_are_ranked_by_size() -> None:
    """The effects of all edges, as :func:`interp.circuits.strongest` ranks them, put the truth first."""
    of = known("reverse")
    found = interp.patch_edges(model("reverse"), of.pairs, "l2", graph=of.truth.graph, source=ZERO)
    assert interp.circuits.strongest(found, of.truth.graph, 11) == of.truth
    assert ranking(found, of.truth.graph).shape == (94,)
