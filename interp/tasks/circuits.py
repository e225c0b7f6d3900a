"""Circuits that papers found in GPT-2 small and in a small network of attention, as edges of its graph.

>>> ioi_circuit()
ioi: 963 of 32,491 edges
>>> [repr(edge) for edge in docstring_circuit().edges][:3]
['embed → L0H5.v', 'embed → L1H2.q', 'L0H5 → L1H2.q']

The edges are those by which Conmy et al. (arXiv 2304.14997, appendix) write the papers' circuits down, less what they count as
edges inside of heads. Which MLPs are part of them is a convention. Heads of other models differ, those of larger ones
of a family too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from interp.circuits import Circuit, Graph

IOI_HEADS: Mapping[str, tuple[str, ...]] = {
    "name mover": ("L9H9", "L10H0", "L9H6"),
    "backup name mover": ("L10H10", "L10H6", "L10H2", "L10H1", "L11H2", "L9H7", "L9H0", "L11H9"),
    "negative name mover": ("L10H7", "L11H10"),
    "S-inhibition": ("L7H3", "L7H9", "L8H6", "L8H10"),
    "induction": ("L5H5", "L5H8", "L5H9", "L6H9"),
    "duplicate token": ("L0H1", "L0H10", "L3H0"),
    "previous token": ("L2H2", "L4H11"),
}
"""The 26 heads of indirect object identification in GPT-2 small, by role."""
GREATER_THAN_HEADS: Mapping[str, tuple[str, ...]] = {
    "early": ("L0H1", "L0H3", "L0H5"),
    "middle": ("L5H5", "L6H1", "L6H9", "L7H10", "L8H11", "L9H1"),
}
"""The heads of greater-than in GPT-2 small: those that tell which years there are, and those that attend to the first one."""


def ioi_circuit() -> Circuit:
    """Indirect object identification in GPT-2 small: Wang et al., "Interpretability in the Wild" (arXiv 2211.00593)."""
    graph = Graph.like(12, heads=12)
    heads = [head for those in IOI_HEADS.values() for head in those]
    speaking = [head for role, those in IOI_HEADS.items() for head in those if role.endswith("name mover")]
    mlps = _mlps(range(12))
    early = [*IOI_HEADS["previous token"], *IOI_HEADS["duplicate token"]]
    inhibiting = IOI_HEADS["S-inhibition"]
    edges = [
        *_between(["embed", *mlps], [*mlps, "logits"]),
        *_between(mlps, _slots(heads, "qkv")),
        *_between(heads, mlps),
        *_between(["embed"], [*_slots(early, "qkv"), *_slots(inhibiting, "q"), *_slots(speaking, "kv")]),
        *_between(IOI_HEADS["previous token"], _slots(IOI_HEADS["induction"], "kv")),
        *_between([*IOI_HEADS["induction"], *IOI_HEADS["duplicate token"]], _slots(inhibiting, "kv")),
        *_between(inhibiting, _slots(speaking, "q")),
        *_between(speaking, ["logits"]),
    ]
    return Circuit.of(graph, edges, "ioi", model="gpt2", paper="arXiv 2211.00593")


def greater_than_circuit() -> Circuit:
    """Greater-than in GPT-2 small: Hanna et al., "How does GPT-2 compute greater-than?" (arXiv 2305.00586)."""
    graph = Graph.like(12, heads=12)
    early, middle = GREATER_THAN_HEADS["early"], GREATER_THAN_HEADS["middle"]
    low, high = _mlps(range(4)), _mlps(range(8, 12))
    edges = [
        *_between(["embed"], [*_slots(early, "qkv"), *low]),
        *_between([*middle, *high], ["logits"]),
        *_between(high, high),
        *_between(["L0H1"], low),
        *_between([*early, *low], _slots(middle, "qkv")),
        *_between(middle, high),
        *_between(_mlps(range(9)), _mlps(range(9))),
        *_between(_mlps(range(12)), _slots(middle, "q")),
    ]
    return Circuit.of(graph, edges, "greater than", model="gpt2", paper="arXiv 2305.00586")


def docstring_circuit() -> Circuit:
    """Completing docstrings in a network of four layers of eight heads without MLPs: Heimersheim and Janiak, 2023."""
    graph = Graph.like(4, heads=8, mlp=False)
    last = ["L3H0", "L3H6"]
    shared = ["L1H4.v", "L1H2.q", "L1H2.k", "L2H0.q", "L2H0.k", *_slots(last, "v")]
    edges = [
        *_between(["embed"], ["L0H5.v", *shared]),
        *_between(["L0H5"], shared),
        *_between(["L1H4"], ["L2H0.v", *_slots(last, "q")]),
        *_between(["L1H2", "L2H0"], _slots(last, "k")),
        *_between(last, ["logits"]),
    ]
    return Circuit.of(graph, edges, "docstring", model="attn-only-4l", paper="Heimersheim and Janiak 2023")


CIRCUITS: Mapping[str, Callable[[], Circuit]] = {
    "docstring": docstring_circuit,
    "greater_than": greater_than_circuit,
    "ioi": ioi_circuit,
}
"""Known circuits by task."""


def _mlps(layers: Iterable[int]) -> list[str]:
    return [f"m{layer}" for layer in layers]


def _slots(heads: Sequence[str], slots: str) -> list[str]:
    return [f"{head}.{slot}" for head in heads for slot in slots]


def _between(senders: Sequence[str], receivers: Sequence[str]) -> Iterator[str]:
    """Every edge from some nodes to some readers that come later."""
    return (
        f"{sender} → {receiver}" for sender in senders for receiver in receivers if _when(sender) < _when(receiver, reads=True)
    )


def _when(node: str, *, reads: bool = False) -> tuple[float, int]:
    """The order of the network: of a layer heads come first, and what reads comes before what it writes."""
    if node in ("embed", "logits"):
        return (-1.0 if node == "embed" else float("inf"), 0)
    if node.startswith("m"):
        return int(node[1:]), 2 if reads else 3
    return int(node[1:].partition("H")[0]), 0 if reads else 1
