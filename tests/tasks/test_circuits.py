"""The papers' circuits as edges: counts by rule, worked out by hand beside them; their sums are those of ACDC's files.

ACDC (arXiv 2304.14997) counts an edge more inside of each query, key and value that is used: 1041, 262 and 37 with 78, 27 and
13 of them.
"""

from __future__ import annotations

import numpy as np
import pytest

from interp import tasks
from interp.circuits import LOGITS, SLOTS, Circuit, Graph, node


def into(circuit: Circuit, reader: str) -> set[str]:
    """Who is read, by a reader's short name."""
    return {node(edge.sender) for edge in circuit.edges if node(edge.receiver) == reader}


@pytest.mark.parametrize(
    ("name", "edges", "acdc", "heads"), [("ioi", 963, 1041, 26), ("greater_than", 235, 262, 9), ("docstring", 24, 37, 6)]
)
def test_counts(name: str, edges: int, acdc: int, heads: int) -> None:
    circuit = tasks.CIRCUITS[name]()
    used = {edge.receiver for edge in circuit.edges if edge.receiver.name in SLOTS}
    assert len(circuit) == edges
    assert len(circuit) + len(used) == acdc
    assert sum("H" in one for one in circuit.nodes) == heads
    assert circuit.pruned() == circuit


def test_ioi_by_rule() -> None:
    """14 nodes in front of each other: 91. 26 heads with 3·l MLPs in front, and 12 − l behind; the rest by role."""
    circuit = tasks.ioi_circuit()
    assert circuit.graph == Graph.like(12, 12)
    heads = [head for those in tasks.IOI_HEADS.values() for head in those]
    layers = np.array([int(head[1:].partition("H")[0]) for head in heads])
    assert (len(heads), 3 * layers.sum(), (12 - layers).sum()) == (26, 567, 123)
    assert len(circuit) == 91 + 567 + 123 + 45 + 16 + 32 + 24 + 52 + 13
    mlps = {f"m{layer}" for layer in range(12)}
    speaking = {head for role, those in tasks.IOI_HEADS.items() if "mover" in role for head in those}
    assert into(circuit, "logits") == {"embed"} | mlps | speaking
    assert into(circuit, "L9H9.q") == {*(f"m{i}" for i in range(9)), *tasks.IOI_HEADS["S-inhibition"]}
    assert into(circuit, "L9H9.k") == {"embed", *(f"m{i}" for i in range(9))}
    assert into(circuit, "L5H9.v") == {*(f"m{i}" for i in range(5)), "L2H2", "L4H11"}
    assert into(circuit, "L5H9.q") == {f"m{i}" for i in range(5)}
    assert into(circuit, "L8H6.q") == {"embed", *(f"m{i}" for i in range(8))}
    assert into(circuit, "L0H1.k") == {"embed"}
    assert "L9H9" in into(circuit, "m9")
    assert circuit.origin["paper"] == "arXiv 2211.00593"


def test_greater_than_by_rule() -> None:
    """13 into the first layer and early MLPs, 10 to the logits, 6 among late MLPs, 4 of L0H1, 126 into the middle heads and 23
    of them, 36 among MLPs up to the eighth, and 17 more into their queries.
    """
    circuit = tasks.greater_than_circuit()
    assert len(circuit) == 13 + 10 + 6 + 4 + 126 + 23 + 36 + 17
    early = {"L0H1", "L0H3", "L0H5", "m0", "m1", "m2", "m3"}
    assert into(circuit, "L7H10.v") == early
    assert into(circuit, "L7H10.q") == early | {"m4", "m5", "m6"}
    assert into(circuit, "m9") == {"L5H5", "L6H1", "L6H9", "L7H10", "L8H11", "L9H1", "m8"}
    assert into(circuit, "m8") == {"L5H5", "L6H1", "L6H9", "L7H10", "L8H11", *(f"m{i}" for i in range(8))}
    assert into(circuit, "m0") == {"embed", "L0H1"}
    assert "embed" not in into(circuit, "logits")


def test_docstring_by_rule() -> None:
    circuit = tasks.docstring_circuit()
    assert circuit.graph == Graph.like(4, 8, mlp=False)
    assert into(circuit, "L3H6.k") == {"L1H2", "L2H0"}
    assert into(circuit, "L3H0.q") == {"L1H4"}
    assert into(circuit, "L2H0.q") == {"embed", "L0H5"}
    assert into(circuit, node(LOGITS)) == {"L3H0", "L3H6"}
