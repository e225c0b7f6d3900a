"""Edges of a graph of heads and MLPs, as views draw them: their ends, their numbers, and what is said of them.

Anything will do that has, along ``cell``, the layers and heads of both ends as :func:`interp.patch_edges` gives them: its
results, or scores of edges. Where there is ``in_circuit`` along ``cell`` too, only edges for which it is true are drawn. What a
search for circuits gives, ``in_circuit`` along ``cell`` and ``edge``, is drawn a circuit at a time. Nodes that are told apart,
in coordinates or by tokens, are drawn at one place; the names of their edges say which they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from interp import axes as names
from interp import effects as fx
from interp import stats
from interp.errors import InputError
from interp.views import labels
from interp.views import prompts as of
from interp.views.heatmap import default_quantity

KV, HEAD, MLP = 0, 1, 2
"""Kinds of node, in the order in which a layer runs them; embedding and logits are of the kind of heads."""
POSITIVE, NEGATIVE = "#4393c3", "#d6604d"
"""Ends of ``RdBu`` that are seen on white and on black."""
KEPT, EDGE = "in_circuit", "edge"

_EMBEDDINGS = ("embed", "pos_embed")
ENDS = ("sender_layer", "sender_head", "receiver_layer", "receiver_head")
Ints = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Nodes:
    """Nodes in the order of the network."""

    layer: Ints
    """−1 of the embedding, ``depth`` of the logits."""
    kind: Ints
    index: Ints
    """Of the head, or of the keys and values; 1 of the embedding of positions, where it is apart from that of tokens."""
    serves: Ints
    """How many heads share these keys and values."""
    depth: int

    def __len__(self) -> int:
        return len(self.layer)

    def name(self, i: int) -> str:
        """``embed``, ``pos_embed``, ``L3H0``, ``m3``, ``L3KV1``, ``logits``."""
        layer, kind, index = int(self.layer[i]), self.kind[i], self.index[i]
        if layer in (-1, self.depth):
            return "logits" if layer >= 0 else _EMBEDDINGS[index]
        return f"m{layer}" if kind == MLP else f"L{layer}{'KV' if kind == KV else 'H'}{index}"

    def heads(self, i: int) -> range:
        """The heads that share the keys and values of a node."""
        return range(self.index[i] * self.serves[i], (self.index[i] + 1) * self.serves[i])

    def told(self, i: int) -> str:
        """The name, and of shared keys and values whose they are."""
        if self.kind[i] != KV:
            return self.name(i)
        first, last = self.heads(i)[0], self.heads(i)[-1]
        return f"{self.name(i)}, keys and values of L{self.layer[i]}H{first} to H{last}"


@dataclass(frozen=True)
class Edges:
    """Edges with one number each."""

    results: xr.Dataset | xr.DataArray
    """Along ``cell``, and ``example`` where there is one; the metric is chosen."""
    quantity: str
    sender: Ints
    """Places in ``nodes``."""
    receiver: Ints
    nodes: Nodes
    """Of all edges that there were."""
    mean: NDArray[np.float64]
    level: float
    seed: int
    left_out: list[str] = field(default_factory=list)
    """What is not drawn, and why."""

    def __len__(self) -> int:
        return len(self.mean)

    def at(self, where: NDArray[np.integer] | NDArray[np.bool_]) -> Edges:
        """Some of them."""
        where = np.flatnonzero(where) if where.dtype == bool else where
        results, sender, receiver = self.results.isel({names.CELL: where}), self.sender[where], self.receiver[where]
        return replace(self, results=results, mean=self.mean[where], sender=sender, receiver=receiver)

    def strongest(self, most: int) -> Edges:
        """The ``most`` of largest size, the largest first."""
        return self.at(np.argsort(-np.abs(self.mean), kind="stable")[:most])

    @property
    def slots(self) -> list[str]:
        """``q``, ``k`` or ``v`` of each; "" where an edge is not into one of them."""
        return [str(s) for s in self.results["slot"].values] if "slot" in self.results.coords else [""] * len(self)

    @cached_property
    def table(self) -> xr.Dataset:
        """Means with their intervals."""
        if isinstance(self.results, xr.Dataset):
            found = fx.summary(self.results, self.quantity, level=self.level, seed=self.seed)
            return found.isel({names.METRIC: 0})
        if names.EXAMPLE not in self.results.dims:
            alone = np.full(len(self), np.nan)
            columns, n = (self.mean, alone, alone), 0
        else:
            numbers = self.results.transpose(names.CELL, names.EXAMPLE).values.astype(float)
            around = stats.t_interval(numbers, clusters=fx.clusters_of(self.results).labels, level=self.level)
            columns, n = around[:3], len(numbers[0])
        data = {name: (names.CELL, column) for name, column in zip(("mean", "low", "high"), columns, strict=True)}
        return xr.Dataset(data | {"n": (names.CELL, np.full(len(self), n))})

    @property
    def unsure(self) -> NDArray[np.bool_]:
        """Of which the interval covers 0."""
        return np.asarray((self.table["low"] <= 0) & (self.table["high"] >= 0))

    def hover(self) -> list[str]:
        """``L0H3 → L1H2.k 0.31 ± 0.02 (n=100)``, and what stands behind it."""
        mean, low, high, n = (self.table[c].values for c in ("mean", "low", "high", "n"))
        sweep = isinstance(self.results, xr.Dataset)
        clusters = labels.clusters(self.table) if sweep and len(self) else ""
        raw = [""] * len(self)
        if isinstance(self.results, xr.Dataset) and self.quantity in ("recovery", "damage"):
            metric = labels.escape(self.results[names.METRIC].item())
            raw = [f"<br>effect on {metric} {e:+.3g}" for e in fx.value_of(self.results, "effect").values]
        found = []
        for i, name in enumerate(self.names):
            if not np.isfinite(low[i]):
                found.append(f"<b>{name}</b> {mean[i]:.4g}{f' (n={n[i]})' if n[i] else ''}{raw[i]}")
                continue
            ends = f"{self.level:.0%} interval {low[i]:.3g} to {high[i]:.3g}"
            found.append(f"<b>{name}</b> {labels.interval(mean[i], low[i], high[i])} (n={n[i]}{clusters})<br>{ends}{raw[i]}")
        return found

    @property
    def names(self) -> list[str]:
        """``L0H3 → L1H2.k`` of each; shared keys and values by their own number, what is told apart of a node by its name."""
        known, found = self.results.coords, list[str]()
        said = known["edge"].values.tolist() if "edge" in known else [""] * len(self)
        for s, r, slot, own in zip(self.sender.tolist(), self.receiver.tolist(), self.slots, said, strict=True):
            whole = f"{self.nodes.name(s)} → {self.nodes.name(r)}{f'.{slot}' if slot else ''}"
            found.append(labels.escape(own if {"[", "@"} & {*own} else whole))
        return found

    @property
    def called(self) -> str:
        """What the numbers are, for a heading."""
        if isinstance(self.results, xr.Dataset):
            nowhere = xr.Dataset(attrs={})  # the title says edges or paths in place of a site
            return labels.headline(nowhere, self.quantity, str(self.results[names.METRIC].item()))
        return labels.escape(self.quantity)

    @property
    def size(self) -> str:
        """What a width is: ``|damage|``."""
        return f"|{labels.escape(self.quantity)}|"

    @property
    def provenance(self) -> str:
        """What stands under the title: where the numbers come from, and which edges are not drawn."""
        if not isinstance(self.results, xr.Dataset):
            n = [f"n={self.results.sizes[names.EXAMPLE]}"] if names.EXAMPLE in self.results.dims else []
            return " · ".join([part for part in (of.under(self.results, *n), *self.left_out) if part])
        known = self.table.attrs if len(self) else {"templates": 0, "resampled": "example"}
        return " · ".join([labels.provenance(self.results, xr.Dataset(attrs=known)), *self.left_out])


def of_search(results: xr.Dataset | xr.DataArray) -> bool:
    """Whether it is what a search for circuits gives: edges along an axis of their own."""
    return EDGE in results.dims and all(name in results.coords and results[name].dims == (EDGE,) for name in ENDS)


def one_circuit(results: xr.Dataset | xr.DataArray, what: str) -> xr.Dataset | xr.DataArray:
    """The edges of the one circuit of a search, along ``cell``.

    Raises:
        InputError: several circuits.
    """
    if results.sizes.get(names.CELL, 1) != 1:
        called = [str(one) for one in results["circuit"].values[:3]] if "circuit" in results.coords else []
        said = f" ({', '.join(called)} …)" if called else ""
        raise InputError(
            f"{what} draws one circuit, and this result has {results.sizes[names.CELL]} along 'cell'{said}; choose one, e.g. "
            "results.isel(cell=0)"
        )
    one = results.isel({names.CELL: 0}) if names.CELL in results.dims else results
    if isinstance(one, xr.Dataset):
        one = one[[name for name, v in one.data_vars.items() if v.dims == (EDGE,)]]
    bare = one.drop_vars([EDGE, names.CELL], errors="ignore").rename({EDGE: names.CELL})
    return bare.assign_coords({EDGE: (names.CELL, one[EDGE].values)})


def read(
    results: xr.Dataset | xr.DataArray, quantity: str | None, metric: str | None, what: str, *, level: float, seed: int
) -> Edges:
    """The edges that can be drawn.

    Raises:
        InputError: not edges, none of them, or more axes than theirs.
        UnknownNameError: a metric, quantity or variable that is not there.
    """
    results = one_circuit(results, what) if of_search(results) else results
    if lacking := [name for name in ENDS if name not in results.coords or results[name].dims != (names.CELL,)]:
        raise InputError(
            f"{what} draws edges, such as interp.patch_edges gives, and this result has no {', '.join(lacking)} along 'cell'"
        )
    if not results.sizes[names.CELL]:
        raise InputError(f"{what} was given a result with no edge in it")
    one: xr.Dataset | xr.DataArray
    if isinstance(results, xr.Dataset) and {"value", "by_rule"} <= set(map(str, results.data_vars)):
        one = fx.choose_metric(results, metric)
    else:
        one = of.chosen(results, quantity, metric, lambda v: names.CELL in v.dims, "'cell'")
    there = one["value"] if isinstance(one, xr.Dataset) else one
    if more := [str(d) for d in there.dims if d not in (names.CELL, names.EXAMPLE)]:
        raise InputError(
            f"{what} draws one number an edge, and this result has the axes {', '.join(more)} too; select, e.g. "
            f"results.isel({more[0]}=0)"
        )
    if isinstance(one, xr.Dataset):
        quantity = quantity or default_quantity(one)
        mean = fx.value_of(one, quantity)
    else:
        quantity = labels.name_of(one, "score")
        mean = one.mean(names.EXAMPLE, skipna=False) if names.EXAMPLE in one.dims else one
    nodes, sender, receiver = _ends(one)
    edges = Edges(one, quantity, sender, receiver, nodes, mean.values.astype(float), level, seed)
    return _drawable(edges, results, there)


def senders_by_receivers(results: xr.Dataset | xr.DataArray, quantity: str | None = None) -> xr.DataArray:
    """The mean over examples of every edge, ``[sender, receiver]``, NaN where there is no edge.

    Args:
        results: of a sweep with one metric, or scores, along ``cell`` with the coordinates ``sender`` and ``receiver``; or an
            array that has these axes already.
        quantity: of a sweep: recovery, damage, effect or value.
    """
    if isinstance(results, xr.Dataset):
        quantity = quantity or default_quantity(results)
        mean = fx.value_of(results, quantity)
        mean = mean.rename(f"{quantity} of {results[names.METRIC].item()}")
    else:
        mean = results.mean(names.EXAMPLE, skipna=False, keep_attrs=True) if names.EXAMPLE in results.dims else results
    if names.CELL not in mean.dims:
        return mean.transpose("sender", "receiver")
    (rows, senders), (columns, receivers) = (pd.factorize(results[end].values) for end in ("sender", "receiver"))
    found = np.full((len(senders), len(receivers)), np.nan)
    found[rows, columns] = mean.values
    return xr.DataArray(found, {"sender": senders, "receiver": receivers}, ("sender", "receiver"), mean.name, results.attrs)


def _ends(one: xr.Dataset | xr.DataArray) -> tuple[Nodes, Ints, Ints]:
    """The nodes, and where among them each edge begins and ends."""
    sender, sender_head, receiver, receiver_head = (one[name].values.astype(np.int64) for name in ENDS)
    depth = int(max(sender.max(), receiver.max())) + 1
    slot = one["slot"].values if "slot" in one.coords else np.full(len(sender), "")
    serves = one["receiver_heads"].values.astype(np.int64) if "receiver_heads" in one.coords else np.ones_like(receiver)
    shared = (serves > 1) & np.isin(slot, ("k", "v"))
    layers = np.concatenate([sender, np.where(receiver < 0, depth, receiver)])
    apart = one["sender"].values == _EMBEDDINGS[1] if "sender" in one.coords else np.zeros_like(sender)
    sender_head = np.where(sender < 0, apart, sender_head)
    heads = np.concatenate([sender_head, receiver_head])
    outer = (layers < 0) | (layers == depth)
    kinds = np.where(np.concatenate([np.zeros_like(shared), shared]), KV, np.where((heads < 0) & ~outer, MLP, HEAD))
    heads = np.maximum(heads, 0)
    code = ((layers + 1) * 3 + kinds) * (int(heads.max()) + 1) + heads
    _, first, where = np.unique(code, return_index=True, return_inverse=True)
    many = np.concatenate([np.ones_like(serves), np.where(shared, serves, 1)])
    nodes = Nodes(layers[first], kinds[first], heads[first], many[first], depth)
    return nodes, where[: len(sender)], where[len(sender) :]


def _drawable(edges: Edges, results: xr.Dataset | xr.DataArray, there: xr.DataArray) -> Edges:
    """Those of the circuit that have a number beyond the run's noise, with a word about the others."""
    kept, said = np.ones(len(edges), bool), []
    if KEPT in results.coords or (isinstance(results, xr.Dataset) and KEPT in results):
        kept = results[KEPT].values.astype(bool)
        name = labels.escape(results["circuit"].item()) if "circuit" in results.coords and not results["circuit"].ndim else ""
        said.append(f"circuit {name}{': ' if name else 'of '}{kept.sum():,} of {len(kept):,} edges")
    lacking = there.isnull()
    missing = (lacking.any(names.EXAMPLE) if names.EXAMPLE in lacking.dims else lacking).values
    undefined = np.isnan(edges.mean) & ~missing & kept
    quiet = np.zeros(len(edges), bool)
    if isinstance(edges.results, xr.Dataset) and edges.quantity != "value":
        effect = np.abs(fx.value_of(edges.results, "effect").values)
        quiet = (effect <= float(fx.noise_floor(edges.results))) & ~undefined & kept
    for which, word in ((missing & kept, "not computed"), (undefined, "undefined: clean ≈ corrupted"), (quiet, "within noise")):
        said += [f"{which.sum():,} edges {word}"] if which.any() else []
    return replace(edges.at(kept & ~missing & ~undefined & ~quiet), left_out=said)
