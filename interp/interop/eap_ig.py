"""EAP-IG: circuits and scores of edges as its graphs hold them, in JSON and in its ``.pt`` files.

    >>> from interp.interop import eap_ig
    >>> found = eap_ig.read("importances.json", interp.graph(model))                             # doctest: +SKIP
    >>> found.circuit, found.scores.sel(cell=0).item()                                           # doctest: +SKIP
    >>> eap_ig.write("importances.json", interp.graph(model), scores=scores, d_model=768)        # doctest: +SKIP

Hanna, Pezzelle and Belinkov (arXiv 2403.17806); the benchmark MIB (arXiv 2504.13151) takes these files.

| theirs | ours |
|---|---|
| ``input``, ``a3.h0``, ``m3``, ``a9.h6<q>`` | ``embed``, ``L3H0``, ``m3``, ``L9H6.q`` |
| score: what corrupting an edge does to the *loss* −m | what its absence does to the metric m: the sign turns round |
| keys and values of every head, also where heads share them | keys and values of key/value heads |

Where heads share keys and values a circuit that is read has the shared edge if it has any of theirs, and its score is their
sum, as the gradient at what is shared is a sum. A circuit that is written has all of them, and each has an even part of the
score: so what is written is read again, and edges are as many as they count. An edge counts if both its ends are in their
graph, which is what their pruning leaves.

What is written here was read by EAP-IG itself (hannamw/EAP-IG at 795f560, its graph alone): its pruning, its strongest n and
its greedy selection left the same edges as ours. Their circuits of neurons, which are coordinates of what a node adds to the
stream, are refused, and so is a graph of ours whose nodes are told apart: what goes over is whole heads and MLPs. Nothing of
theirs is imported, and a ``.pt`` file is read without running anything in it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from interp import axes
from interp.circuits import LOGITS, SLOTS, Circuit, Graph, ranking
from interp.circuits.selecting import Scores
from interp.errors import EdgesError, InteropError, LoadError, require_whole
from interp.sites import Site

_SIZES = ("n_layers", "n_heads", "parallel_attn_mlp")
_OF_NEURONS = "is a circuit of neurons; what is read is of whole heads and MLPs: export it by edges or nodes"
_TENSORS = ("cfg", "src_nodes", "dst_nodes", "edges_scores", "edges_in_graph", "nodes_in_graph")


class Read(NamedTuple):
    """What a file holds."""

    graph: Graph
    circuit: Circuit
    """Edges that are in their graph; none in a file of scores alone."""
    scores: xr.DataArray
    """``[cell]``, what each edge's absence does to the metric, with the names of the edges; NaN where there is no score."""
    nodes: xr.DataArray | None
    """``[sender]``, the same of nodes, where the file has scores of them."""


def read(path: str | os.PathLike[str], graph: Graph | None = None, *, name: str | None = None) -> Read:
    """A graph that EAP-IG wrote.

    Args:
        path: ending in ``.json`` or ``.pt``.
        graph: of the model, ``interp.graph(model)``; by default the one that the file describes, in which no heads share keys
            and values.
        name: of the circuit; by default the file's.

    Raises:
        LoadError: no such file, or none of theirs.
        InteropError: it is of another model than the graph, or of neurons, or it lacks edges.
    """
    path = Path(path)
    found = _tensors(path) if path.suffix == ".pt" else _named(path)
    graph = found.wide if graph is None else graph
    wide = _wide(graph)
    if wide != found.wide:
        raise InteropError(f"{path.name} is of {_described(found.wide)}, but the graph is of {_described(wide)}")
    home = _home(graph, wide)
    kept, scores = np.zeros(graph.real.shape, bool), np.zeros(graph.real.shape)
    ends = np.array([found.inside[wide.served[number]].any() for number in range(len(wide.receivers))])
    ends[-1] = True
    np.logical_or.at(kept.T, home, (found.kept & found.inside[:, None] & ends).T)
    np.add.at(scores.T, home, -found.scores.T)
    origin = {"method": "EAP-IG file", "file": path.name}
    circuit = Circuit(graph, kept[graph.sender, graph.receiver], name or path.stem, origin)
    said = {"quantity": "effect", "sign": "change of the metric; the file has that of the loss", "file": path.name}
    values = xr.DataArray(
        scores[graph.sender, graph.receiver], dims=axes.CELL, coords=graph.coords(), name="effect", attrs=said
    )
    nodes = None
    if found.nodes is not None:
        names = [repr(site) for site in graph.senders]
        nodes = xr.DataArray(-found.nodes, dims="sender", coords={"sender": names}, name="effect", attrs=said)
    return Read(graph, circuit, values, nodes)


def write(
    path: str | os.PathLike[str],
    graph: Graph,
    *,
    scores: Scores | None = None,
    circuit: Circuit | None = None,
    d_model: int,
    metric: str | None = None,
) -> None:
    """A graph as EAP-IG reads it.

    Args:
        path: ending in ``.json`` or ``.pt``.
        graph: of the model.
        scores: effects of all edges, as for :func:`interp.circuits.strongest`. Without them an edge's score is 1 in the circuit
            and 0 outside of it.
        circuit: what is in their graph; without it, nothing is, and the file is one of scores.
        d_model: width of the stream, which their files say.
        metric: which one, of effects of several.

    Raises:
        InteropError: their graph has no such shape (blocks that differ, or that lack an MLP); neither scores nor a circuit, or
            a circuit of another graph; a path with another ending.
        EdgesError, UnknownNameError: scores that are not of the graph's edges.
    """
    path = Path(path)
    if path.suffix not in (".json", ".pt"):
        raise InteropError(f"path ends in {path.suffix!r}; EAP-IG reads '.json' and '.pt'")
    require_whole("d_model", d_model, "how wide the stream is")
    if scores is None and circuit is None:
        raise InteropError("neither scores nor a circuit are given: there is nothing to write")
    if circuit is not None and circuit.graph != graph:
        raise InteropError(f"{circuit!r} is of {circuit.graph!r}, but the graph is {graph!r}")
    wide = _wide(graph)
    home = _home(graph, wide)
    kept = np.zeros(len(graph), bool) if circuit is None else circuit.kept
    said = kept.astype(float) if scores is None else ranking(scores, graph, "lowers", metric)
    shares = np.bincount(home)[home] if scores is not None else np.ones(len(home))
    block = wide.blocks[0]
    cfg = {"n_layers": len(wide.blocks), "n_heads": block.heads, "parallel_attn_mlp": block.parallel, "d_model": d_model}
    dense = {"scores": graph.dense(said)[:, home] / shares, "kept": graph.dense(kept)[:, home]}
    inside = dense["kept"].any(1) | wide.served[dense["kept"].any(0)].any(0)
    if path.suffix == ".pt":
        _write_tensors(path, wide, cfg, dense, inside)
    else:
        _write_named(path, wide, cfg, dense, inside)


def counted(circuit: Circuit) -> int:
    """How many edges a circuit has as they count them: into keys and values that heads share, one for every head.

    Raises:
        InteropError: their graph has no such shape.
    """
    home = _home(circuit.graph, _wide(circuit.graph))
    return int(np.bincount(home)[circuit.graph.receiver[circuit.kept]].sum())


# ------------------------------------------------------------------------------------------------- their graph


class _Theirs(NamedTuple):
    """What a file says, in their graph, whose order of nodes is ours."""

    wide: Graph
    kept: NDArray[np.bool_]
    """``[sender, receiver]``."""
    scores: NDArray[np.float64]
    inside: NDArray[np.bool_]
    """``[sender]``."""
    nodes: NDArray[np.float64] | None


def _wide(graph: Graph) -> Graph:
    """The graph as they have it, with keys and values for every head."""
    if graph.split_embed:
        raise InteropError(f"in {graph!r} positions are a writer of their own; EAP-IG's graphs have one input, with both")
    if graph.coordinates or graph.spans:
        raise InteropError(f"in {graph!r} nodes are told apart, in coordinates or by tokens; EAP-IG's graphs have whole ones")
    alike = {(block.heads, block.mlp, block.parallel) for block in graph.blocks}
    if len(alike) != 1 or not graph.blocks[0].mlp:
        what = f"blocks differ ({', '.join(map(str, sorted(alike)))})" if len(alike) != 1 else "blocks have no MLP"
        raise InteropError(f"in {graph!r} {what}; EAP-IG's graphs have as many heads and one MLP in every block")
    block = graph.blocks[0]
    return Graph.like(len(graph.blocks), block.heads, parallel=block.parallel)


def _home(graph: Graph, wide: Graph) -> NDArray[np.int64]:
    """``[receiver of theirs]``, the number of the one in which it is here."""
    at = {site: number for number, site in enumerate(graph.reading)}

    def place(site: Site) -> int:
        if site.name not in SLOTS[1:]:
            return at[site]
        block = graph.blocks[site.layer or 0]
        return at[site.at(head=(site.head or 0) * block.kv_heads // block.heads)]

    return np.array([place(site) for site in wide.reading])


def _described(graph: Graph) -> str:
    block = graph.blocks[0]
    return f"{len(graph.blocks)} blocks of {block.heads} heads{', MLPs beside them' if block.parallel else ''}"


def _sender(site: Site) -> str:
    if site.layer is None:
        return "input"
    return f"a{site.layer}.h{site.head}" if site.name == "z" else f"m{site.layer}"


def _receiver(site: Site) -> str:
    if site == LOGITS:
        return "logits"
    return f"a{site.layer}.h{site.head}<{site.name}>" if site.name in SLOTS else f"m{site.layer}"


def _of_cfg(cfg: Any, path: Path) -> Graph:
    lacking = [name for name in _SIZES if not isinstance(cfg, Mapping) or name not in cfg]
    if lacking:
        raise LoadError(f"{path.name} is no graph of EAP-IG: its 'cfg' lacks {', '.join(lacking)}")
    try:
        return Graph.like(int(cfg["n_layers"]), int(cfg["n_heads"]), parallel=bool(cfg["parallel_attn_mlp"]))
    except (EdgesError, ValueError) as error:
        raise LoadError(f"{path.name} is no graph of EAP-IG: {error}") from error


def _named(path: Path) -> _Theirs:
    """A JSON file, by the names of nodes and edges."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoadError(f"{path} cannot be read as JSON: {error}") from error
    lacking = [key for key in ("cfg", "nodes", "edges") if not isinstance(said, dict) or key not in said]
    if lacking:
        raise LoadError(f"{path.name} is no graph of EAP-IG: it lacks {', '.join(lacking)}")
    wide = _of_cfg(said["cfg"], path)
    if "neurons" in said or any("neurons" in node for node in said["nodes"].values()):
        raise InteropError(f"{path.name} {_OF_NEURONS}")
    senders = {_sender(site): number for number, site in enumerate(wide.whole)}
    receivers = {_receiver(site): number for number, site in enumerate(wide.reading)}
    ends = [name.partition("->")[::2] for name in said["edges"]]
    strange = next((f"{a}->{b}" for a, b in ends if a not in senders or b not in receivers), None)
    strange = strange or next((name for name in said["nodes"] if name not in senders and name != "logits"), None)
    missing = next((name for name in senders if name not in said["nodes"]), None)
    if strange or missing:
        raise InteropError(f"{path.name} {'has' if strange else 'lacks'} {strange or missing!r}, but is of {_described(wide)}")
    rows, columns = np.array([senders[a] for a, _ in ends]), np.array([receivers[b] for _, b in ends])
    there = np.zeros(wide.real.shape, bool)
    there[rows, columns] = True
    if (there != wide.real).any():
        a, b = np.argwhere(there != wide.real)[0]
        edge = f"{_sender(wide.whole[a])}->{_receiver(wide.reading[b])}"
        raise InteropError(
            f"{path.name} {'has' if there[a, b] else 'lacks'} the edge {edge}, but is of {_described(wide)}, which have "
            f"{len(wide):,} edges"
        )
    kept, scores = there & False, np.full(wide.real.shape, 0.0)
    kept[rows, columns] = [bool(one["in_graph"]) for one in said["edges"].values()]
    scores[rows, columns] = [one.get("score", np.nan) for one in said["edges"].values()]
    flags = np.array([bool(said["nodes"][name]["in_graph"]) for name in senders])
    own = [said["nodes"][name].get("score") for name in senders]
    nodes = None if all(one is None for one in own) else np.array([np.nan if one is None else one for one in own], float)
    return _Theirs(wide, kept, scores, flags, nodes)


def _tensors(path: Path) -> _Theirs:
    """A ``.pt`` file, by the numbers of nodes."""
    try:
        said = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, UnpicklingError) as error:
        raise LoadError(f"{path} cannot be read: {error}") from error
    lacking = [key for key in _TENSORS if not isinstance(said, dict) or key not in said]
    if lacking:
        raise LoadError(f"{path.name} is no graph of EAP-IG: it lacks {', '.join(lacking)}")
    wide = _of_cfg(said["cfg"], path)
    if "neurons_in_graph" in said:
        raise InteropError(f"{path.name} {_OF_NEURONS}")
    shapes = [tuple(said[name].shape) for name in ("edges_scores", "edges_in_graph")]
    if set(shapes) != {wide.real.shape} or len(said["nodes_in_graph"]) != len(wide.senders):
        raise InteropError(f"{path.name} has edges of shape {shapes[0]}; {_described(wide)} have {wide.real.shape}")
    kept = said["edges_in_graph"].bool().numpy() & wide.real
    scores = np.where(wide.real, said["edges_scores"].double().numpy(), 0.0)
    own = said.get("nodes_scores")
    nodes = None if own is None else own.double().numpy()
    return _Theirs(wide, kept, scores, said["nodes_in_graph"].bool().numpy(), nodes)


def _write_named(path: Path, wide: Graph, cfg: dict[str, Any], dense: dict[str, Any], inside: NDArray[np.bool_]) -> None:
    senders, receivers = [_sender(site) for site in wide.whole], [_receiver(site) for site in wide.reading]
    pairs = zip(wide.sender.tolist(), wide.receiver.tolist(), strict=True)
    edges = {
        f"{senders[a]}->{receivers[b]}": {"score": float(dense["scores"][a, b]), "in_graph": bool(dense["kept"][a, b])}
        for a, b in pairs
    }
    nodes = {name: {"in_graph": bool(there)} for name, there in zip(senders, inside, strict=True)}
    said = {"cfg": cfg, "nodes": nodes | {"logits": {"in_graph": True}}, "edges": edges}
    path.write_text(json.dumps(said), encoding="utf-8")


def _write_tensors(path: Path, wide: Graph, cfg: dict[str, Any], dense: dict[str, Any], inside: NDArray[np.bool_]) -> None:
    said = {
        "cfg": cfg,
        "src_nodes": [_sender(site) for site in wide.whole],
        "dst_nodes": [_receiver(site) for site in wide.reading],
        "edges_scores": torch.from_numpy(np.ascontiguousarray(dense["scores"])).float(),
        "edges_in_graph": torch.from_numpy(np.ascontiguousarray(dense["kept"])),
        "nodes_in_graph": torch.from_numpy(inside.copy()),
    }
    torch.save(said, path)
