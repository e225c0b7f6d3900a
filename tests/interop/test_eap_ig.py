"""EAP-IG's files: names, signs and shared keys by hand, round trips both ways, and what is refused.

The layout is that of ``Graph.to_json`` and ``Graph.to_pt`` in hannamw/EAP-IG at 795f560, written here by hand; 32,491 edges and
158 nodes are those of MIB's example for GPT-2 small (hannamw/MIB-circuit-track, ``circuits/ioi-eap-ig.json``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sweeps
import torch

import interp
from interp.circuits import Circuit, Graph
from interp.engine.graph.edges import graph as graph_of
from interp.errors import EdgesError, InteropError, LoadError
from interp.interop import eap_ig


def by_hand(layers: int, heads: int, *, parallel: bool = False, **marks: tuple[float, bool]) -> dict[str, Any]:
    """Their JSON, from the rule: a node reads all that was written before it; heads of one block do not read each other.

    Args:
        marks: score and membership of some edges, by name; all others have 0.25 and are out.
    """
    written, edges = ["input"], {}
    for layer in range(layers):
        own = [f"a{layer}.h{head}" for head in range(heads)]
        edges |= {f"{a}->{b}<{slot}>": (0.25, False) for a in written for b in own for slot in "qkv"}
        seen = [*written, *([] if parallel else own)]
        edges |= {f"{a}->m{layer}": (0.25, False) for a in seen}
        written += [*own, f"m{layer}"]
    edges |= {f"{a}->logits": (0.25, False) for a in written}
    assert set(marks) <= set(edges)
    ends = [name.replace("<", "->").split("->")[:2] for name, (_, kept) in marks.items() if kept]
    return {
        "cfg": {"n_layers": layers, "n_heads": heads, "parallel_attn_mlp": parallel, "d_model": 8},
        "nodes": {name: {"in_graph": any(name in pair for pair in ends)} for name in written} | {"logits": {"in_graph": True}},
        "edges": {name: {"score": score, "in_graph": kept} for name, (score, kept) in (edges | marks).items()},
    }


MARKS = {
    "input->a0.h1<v>": (0.5, True),
    "a0.h1->a1.h0<k>": (-2.0, True),
    "a0.h1->a1.h1<k>": (3.0, False),
    "a1.h0->logits": (4.0, True),
    "m0->m1": (-1.0, False),
}


def saved(folder: Path, said: Any, name: str = "file.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(said))
    return path


@pytest.mark.parametrize("parallel", [False, True])
def test_names_and_signs(tmp_path: Path, parallel: bool) -> None:
    """Their score is of the loss: ours, of the metric, has the other sign."""
    found = eap_ig.read(saved(tmp_path, by_hand(2, 2, parallel=parallel, **MARKS)))
    assert found.graph == Graph.like(2, 2, parallel=parallel)
    assert [repr(edge) for edge in found.circuit.edges] == ["embed → L0H1.v", "L0H1 → L1H0.k", "L1H0 → logits"]
    by_name = dict(zip(found.scores["edge"].values.tolist(), found.scores.values.tolist(), strict=True))
    assert by_name["embed → L0H1.v"] == -0.5
    assert by_name["L0H1 → L1H0.k"] == 2.0
    assert by_name["m0 → m1"] == 1.0
    assert by_name["embed → logits"] == -0.25
    assert found.nodes is None
    best = interp.circuits.strongest(found.scores, found.graph, 2, by="lowers")
    assert [repr(edge) for edge in best.edges] == ["L0H1 → L1H1.k", "L1H0 → logits"], "what helps is what their ranking takes"


def test_shared_keys_are_summed_and_any_of_them_is_enough(tmp_path: Path) -> None:
    """Two heads share one key: −(−2 + 3) = −1, in the circuit because of the first; queries stay apart."""
    shared = Graph.like(2, 2, kv_heads=1)
    found = eap_ig.read(saved(tmp_path, by_hand(2, 2, **MARKS)), shared)
    assert [repr(edge) for edge in found.circuit.edges] == ["embed → L0H0.v", "L0H1 → L1H0.k", "L1H0 → logits"]
    by_name = dict(zip(found.scores["edge"].values.tolist(), found.scores.values.tolist(), strict=True))
    assert by_name["L0H1 → L1H0.k"] == -1.0
    assert by_name["embed → L0H0.v"] == -0.75
    assert by_name["embed → L0H1.q"] == -0.25


@pytest.mark.parametrize("ending", [".json", ".pt"])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_ours_there_and_back(tmp_path: Path, kv_heads: int, ending: str, seed: int) -> None:
    graph, draw = Graph.like(3, 4, kv_heads=kv_heads), np.random.default_rng(seed)
    scores = draw.normal(size=len(graph)).astype(np.float32).astype(float)
    circuit = Circuit(graph, draw.random(len(graph)) < 0.2)
    eap_ig.write(tmp_path / f"it{ending}", graph, scores=scores, circuit=circuit, d_model=16)
    found = eap_ig.read(tmp_path / f"it{ending}", graph)
    assert found.circuit == circuit
    np.testing.assert_allclose(found.scores, scores, rtol=0, atol=1e-6)
    eap_ig.write(tmp_path / f"again{ending}", graph, circuit=circuit, d_model=16)
    alone = eap_ig.read(tmp_path / f"again{ending}", graph)
    assert alone.circuit == circuit
    assert set(np.unique(alone.scores)) >= {-1.0, 0.0}
    eap_ig.write(tmp_path / f"scores{ending}", graph, scores=scores, d_model=16)
    assert len(eap_ig.read(tmp_path / f"scores{ending}", graph).circuit) == 0


def test_theirs_there_and_back(tmp_path: Path) -> None:
    """The very same JSON, but for the order of its entries."""
    said = by_hand(2, 3, **{"input->a0.h1<v>": (0.5, True), "a0.h1->m0": (2.0, True), "m0->logits": (4.0, True)})
    found = eap_ig.read(saved(tmp_path, said))
    eap_ig.write(tmp_path / "again.json", found.graph, scores=found.scores, circuit=found.circuit, d_model=8)
    assert json.loads((tmp_path / "again.json").read_text()) == said


def test_gpt2_small_has_their_numbers_of_nodes_and_edges(tmp_path: Path) -> None:
    graph = Graph.like(12, heads=12)
    eap_ig.write(tmp_path / "gpt2.json", graph, scores=np.zeros(len(graph)), d_model=768)
    said = json.loads((tmp_path / "gpt2.json").read_text())
    assert (len(said["nodes"]), len(said["edges"])) == (158, 32491)
    assert list(said["nodes"])[:3] == ["input", "a0.h0", "a0.h1"]
    assert said["cfg"] == {"n_layers": 12, "n_heads": 12, "parallel_attn_mlp": False, "d_model": 768}
    assert {"input->a0.h0<q>", "a11.h10->logits", "m10->m11", "a3.h2->a9.h6<k>"} <= set(said["edges"])
    eap_ig.write(tmp_path / "gpt2.pt", graph, scores=np.zeros(len(graph)), d_model=768)
    tensors = torch.load(tmp_path / "gpt2.pt", weights_only=True)
    assert tensors["edges_scores"].shape == tensors["edges_in_graph"].shape == (157, 445)
    assert tensors["dst_nodes"][:2] == ["a0.h0<q>", "a0.h1<q>"]
    assert tensors["dst_nodes"][12] == "a0.h0<k>"
    assert tensors["dst_nodes"][-2:] == ["m11", "logits"]
    assert (len(tensors["src_nodes"]), len(tensors["nodes_in_graph"])) == (157, 157)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox"])
def test_scores_of_a_model(tmp_path: Path, kind: str, seed: int) -> None:
    """Effects of all edges, the mean over examples; of heads that share keys, and of parallel blocks."""
    model, pairs = sweeps.model(kind), sweeps.random_pairs(seed, [5, 5])
    scores = interp.attribute_edges(model, pairs)
    eap_ig.write(tmp_path / "it.json", graph_of(model), scores=scores, d_model=model.sizes["d_model"])
    found = eap_ig.read(tmp_path / "it.json", graph_of(model))
    expected = interp.effect(scores).mean("example").values[0]
    np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-12 + 1e-6 * abs(expected).max())


def test_scores_of_nodes(tmp_path: Path) -> None:
    said = by_hand(1, 2)
    said["nodes"]["a0.h1"]["score"], said["nodes"]["m0"]["score"] = 2.0, -1.5
    nodes = eap_ig.read(saved(tmp_path, said)).nodes
    assert nodes is not None
    np.testing.assert_array_equal(nodes, [np.nan, np.nan, -2.0, 1.5])


def test_what_does_not_fit_says_why(tmp_path: Path) -> None:
    said = by_hand(2, 2)
    path = saved(tmp_path, said)
    with pytest.raises(InteropError, match=r"file.json is of 2 blocks of 2 heads, but the graph is of 3 blocks of 2 heads"):
        eap_ig.read(path, Graph.like(3, 2))
    with pytest.raises(InteropError, match=r"is of 2 blocks of 2 heads, but the graph is of .*, MLPs beside them"):
        eap_ig.read(path, Graph.like(2, 2, parallel=True))
    with pytest.raises(InteropError, match="blocks have no MLP; EAP-IG's graphs have as many heads and one MLP"):
        eap_ig.read(path, Graph.like(2, 2, mlp=False))
    with pytest.raises(InteropError, match="positions are a writer of their own; EAP-IG's graphs have one input, with both"):
        eap_ig.read(path, Graph.like(2, 2, split_embed=True))
    fewer = said | {"edges": {name: one for name, one in said["edges"].items() if name != "m0->m1"}}
    with pytest.raises(InteropError, match="lacks the edge m0->m1, but is of 2 blocks of 2 heads, which have 46 edges"):
        eap_ig.read(saved(tmp_path, fewer, "fewer.json"))
    backwards = said | {"edges": said["edges"] | {"m1->m0": {"score": 0.0, "in_graph": False}}}
    with pytest.raises(InteropError, match="has the edge m1->m0"):
        eap_ig.read(saved(tmp_path, backwards, "more.json"))
    with pytest.raises(InteropError, match=r"has 'a5.h0->m1', but is of 2 blocks"):
        eap_ig.read(saved(tmp_path, said | {"edges": {"a5.h0->m1": {"score": 0.0, "in_graph": True}}}, "other.json"))
    neurons = said | {"nodes": said["nodes"] | {"m0": {"in_graph": True, "neurons": [True, False]}}}
    with pytest.raises(InteropError, match="is a circuit of neurons; what is read is of whole heads and MLPs"):
        eap_ig.read(saved(tmp_path, neurons, "neurons.json"))
    with pytest.raises(LoadError, match="is no graph of EAP-IG: it lacks nodes, edges"):
        eap_ig.read(saved(tmp_path, {"cfg": {}}, "empty.json"))
    cfg = {"n_layers": 2, "parallel_attn_mlp": False}
    with pytest.raises(LoadError, match="its 'cfg' lacks n_heads"):
        eap_ig.read(saved(tmp_path, said | {"cfg": cfg}, "cfg.json"))
    with pytest.raises(LoadError, match="cannot be read as JSON"):
        eap_ig.read(tmp_path / "nowhere.json")
    graph = Graph.like(2, 2)
    with pytest.raises(InteropError, match="neither scores nor a circuit"):
        eap_ig.write(tmp_path / "x.json", graph, d_model=8)
    with pytest.raises(InteropError, match=r"path ends in '.txt'"):
        eap_ig.write(tmp_path / "x.txt", graph, circuit=Circuit.whole(graph), d_model=8)
    with pytest.raises(EdgesError, match="scores are of 3 edges"):
        eap_ig.write(tmp_path / "x.json", graph, scores=np.zeros(3), d_model=8)
    (tmp_path / "broken.pt").write_bytes(b"no archive")
    with pytest.raises(LoadError, match="cannot be read"):
        eap_ig.read(tmp_path / "broken.pt")
