"""Counts of nodes and edges against the closed form, worked out by hand from what each receiver reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from interp.circuits import EMBED, LOGITS, POS_EMBED, Block, Circuit, Edge, Graph, node
from interp.errors import EdgesError, UnknownNameError, UnknownSiteError
from interp.sites import Site

SHAPES = {
    # senders, receivers, edges with queries, keys and values apart, and together
    "GPT-2 small": (Graph.like(12, 12), 157, 445, 32_491, 11_611),
    "GPT-2 medium": (Graph.like(24, 16), 409, 1_177, 231_877, 80_965),
    "GPT-2 XL": (Graph.like(48, 25), 1_249, 3_649, 2_235_025, 766_225),
    "two layers of attention": (Graph.like(2, 8, mlp=False), 17, 49, 257, 97),
    "four layers of attention": (Graph.like(4, 8, mlp=False), 33, 97, 1_281, 449),
    "InterpBench IOI": (Graph.like(6, 4), 31, 79, 1_108, 460),
    "Pythia-160m": (Graph.like(12, 12, parallel=True), 157, 445, 32_347, 11_467),
    "Qwen2.5-0.5B": (Graph.like(24, 14, kv_heads=2), 361, 457, 79_813, 63_157),
    "Llama-3.2-1B": (Graph.like(16, 32, kv_heads=8), 529, 785, 195_865, 132_249),
    "Llama-3.1-8B": (Graph.like(32, 32, kv_heads=8), 1_057, 1_569, 805_681, 543_281),
    "Llama-3.1-8B, keys and values repeated": (Graph.like(32, 32), 1_057, 3_105, 1_592_881, 543_281),
}


@pytest.mark.parametrize("name", SHAPES)
def test_counts(name: str) -> None:
    """Of each block (H + 2·H_kv)·n + (n + H) with n writers before it, of a parallel one without the H; n + 1 in the end."""
    graph, senders, receivers, edges, merged = SHAPES[name]
    assert (len(graph.senders), len(graph.receivers), len(graph), graph.merged) == (senders, receivers, edges, merged)
    assert int(graph.real.sum()) == edges


MIXED = Graph((Block(4, 2), Block(2, 1, parallel=True), Block(3, 3, mlp=False), Block(2, 2)))


@pytest.mark.parametrize("graph", [MIXED, Graph.like(2, 3), Graph.like(3, 2, kv_heads=1, parallel=True)])
def test_an_edge_is_where_the_writer_comes_first(graph: Graph) -> None:
    """By time within a block: heads read at 0 and write at 1; an MLP reads at 2, or at 0 beside the heads, and writes at 3."""

    def read(site: Site) -> tuple[int, int]:
        if site == LOGITS:
            return (len(graph.blocks), 0)
        assert site.layer is not None
        late = site.name == "mlp_pre" and not graph.blocks[site.layer].parallel
        return (site.layer, 2 if late else 0)

    def written(site: Site) -> tuple[int, int]:
        return (-1, 0) if site == EMBED else (site.layer or 0, 1 if site.name == "z" else 3)

    expected = [[written(s) < read(r) for r in graph.receivers] for s in graph.senders]
    np.testing.assert_array_equal(graph.real, expected)
    assert [graph.number(edge) for edge in graph.edges] == list(range(len(graph)))
    assert graph.numbers([repr(edge) for edge in graph.edges]).tolist() == list(range(len(graph)))


@pytest.mark.parametrize("name", SHAPES)
def test_a_split_embedding_is_one_writer_more_of_every_reader(name: str) -> None:
    whole, _, receivers, edges, merged = SHAPES[name]
    split = Graph(whole.blocks, split_embed=True)
    assert split.senders == (EMBED, POS_EMBED, *whole.senders[1:])
    assert len(split) == edges + receivers
    assert split.merged == merged + sum(site.name not in ("k", "v") for site in split.receivers)
    assert split.receivers == whole.receivers
    assert bool(split.real[:2].all())
    np.testing.assert_array_equal(split.real[2:], whole.real[1:])


def test_circuits_of_a_split_embedding(tmp_path: Path) -> None:
    """They say so when they are written; both embeddings are where paths begin, and in every circuit of nodes."""
    graph = Graph.like(2, 2, split_embed=True)
    circuit = Circuit.of(graph, ["pos_embed → L0H1.q", "embed → L0H1.v", "L0H1 → logits", "L0H0 → m1"], "some")
    circuit.save(tmp_path / "circuit.json")
    again = Circuit.load(tmp_path / "circuit.json")
    assert (again, again.graph) == (circuit, graph)
    assert [repr(edge) for edge in again.pruned().edges] == ["pos_embed → L0H1.q", "embed → L0H1.v", "L0H1 → logits"]
    assert "split_embed" not in Circuit.whole(Graph.like(2, 2)).to_json()
    among = Circuit.among(graph, ["L0H1"])
    assert among.nodes == ("embed", "pos_embed", "L0H1")
    assert len(among) == 2 * 3 + 3  # both into q, k and v of the head; both and the head into the logits
    assert graph.coords(graph.numbers(["pos_embed → m1"]))["sender_layer"][1] == [-1]
    assert graph != Graph.like(2, 2)


def test_keys_and_values_serve_the_heads_that_share_them() -> None:
    assert [node(site) for site in MIXED.serves(Site("k", layer=0, head=1))] == ["L0H2", "L0H3"]
    assert [node(site) for site in MIXED.serves(Site("q", layer=0, head=1))] == ["L0H1"]
    assert [node(site) for site in MIXED.serves(Site("mlp_pre", layer=3))] == ["m3"]
    assert MIXED.serves(LOGITS) == ()
    for number, receiver in enumerate(MIXED.receivers):
        served = [MIXED.senders[i] for i in np.flatnonzero(MIXED.served[number])]
        assert served == list(MIXED.serves(receiver))


def test_dense_and_back() -> None:
    values = np.arange(2 * len(MIXED)).reshape(2, -1)
    dense = MIXED.dense(values, fill=-1)
    assert dense.shape == (2, *MIXED.real.shape)
    assert bool((dense[:, ~MIXED.real] == -1).all())
    np.testing.assert_array_equal(dense[:, MIXED.sender, MIXED.receiver], values)


def test_coordinates_of_some_edges() -> None:
    some = MIXED.numbers(["L0H1 → L2H1.k", "embed → m1", "m3 → logits"])
    coords = {name: values for name, (_, values) in MIXED.coords(some).items()}
    assert coords["edge"] == ["L0H1 → L2H1.k", "embed → m1", "m3 → logits"]
    assert coords["slot"] == ["k", "", ""]
    assert (coords["sender_layer"], coords["sender_head"]) == ([0, -1, 3], [1, -1, -1])
    assert (coords["receiver_layer"], coords["receiver_head"]) == ([2, 1, -1], [1, -1, -1])
    assert coords["receiver_heads"] == [1, 0, 0]


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(UnknownSiteError, match="does not read it"):
        MIXED.number(Edge.of("L2H0.z", "L1H0.q"))
    with pytest.raises(UnknownSiteError, match="unknown receiver"):
        MIXED.number(Edge.of("embed", "L0H3.k"))
    with pytest.raises(UnknownSiteError, match="unknown receiver"):
        MIXED.number(Edge.of("embed", "L0H1.z"))
    with pytest.raises(UnknownNameError, match="no edge as it is printed, such as m3 → logits"):
        MIXED.numbers(["L0H9 → logits"])
    with pytest.raises(UnknownNameError, match=r"unknown receiver 'L9H0\.q'"):
        MIXED.numbers(["embed → L9H0.q"])
    with pytest.raises(UnknownNameError, match="unknown node 'm2'"):
        MIXED.node("m2")
    with pytest.raises(EdgesError, match="heads=14 cannot share kv_heads=4 evenly"):
        Graph.like(2, 14, kv_heads=4)
    with pytest.raises(ValueError, match="layers=0"):
        Graph.like(0, 4)
