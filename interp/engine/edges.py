"""Exact edge patching: the effect of every edge of the residual stream's graph, as rows of the wave.

    >>> effects = interp.patch_edges(model, pairs, metric="logit_diff")                      # doctest: +SKIP
    >>> effects.sizes["cell"]                                                              # doctest: +SKIP
    32491

An edge's row sees the base run, except that one reader sees one writer's contribution from the source (Conmy et al., arXiv
2304.14997). What the reader then gives is all that changes, so a row joins behind it. For heads, one run of a block's attention
with a writer changed serves every head's query, and one more their keys and values each: only the heads' outputs differ from
row to row, and W_O takes them to the stream.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import xarray as xr
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from interp import axes, effects
from interp.engine import provenance
from interp.engine.batches import in_batches
from interp.engine.budget import Budget, memory
from interp.engine.cells import place
from interp.engine.graph import EMBED, LOGITS, SLOTS, Edge, check, node
from interp.engine.graph import edges as every_edge
from interp.engine.joins import refused
from interp.engine.measure import full_precision
from interp.engine.prepared import Patching
from interp.engine.readout import Reader
from interp.engine.runs import Runs
from interp.engine.shard import Shard
from interp.engine.sweep import encoded_pairs
from interp.engine.values import Sources
from interp.engine.wave import through
from interp.engine.wavefront import grouped, readout
from interp.errors import UnknownNameError, UserError
from interp.interventions import Activation, Change, Intervention, Source
from interp.metrics import MetricLike
from interp.metrics import resolve as resolve_metrics
from interp.models import Encoded, Model
from interp.models.hooks import Hooks
from interp.models.taps import in_out
from interp.pairs import Pair, Pairs
from interp.sites import Site

EMBED_STREAM = Site("resid_pre", layer=0)
"""Where the embedding is seen as the stream has it, with positions and whatever scales it."""


class EdgesError(UserError, ValueError):
    """A model whose edges cannot be swept."""


def patch_edges(
    model: Model,
    pairs: Pairs | Sequence[Pair] | Encoded,
    metric: MetricLike | Sequence[MetricLike] = "logit_diff",
    *,
    edges: Sequence[Edge] | None = None,
    patching: Patching = "noising",
    source: Source | None = None,
    rows: int | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """The effect of edges, each alone.

    Args:
        model: one whose blocks can be resumed (:func:`interp.explain` says why not).
        pairs: prompts of equal length in each pair.
        metric: one or several.
        edges: some of :func:`interp.engine.graph.edges`; all of them where left out.
        patching: ``"noising"`` runs on the clean prompt and lets the reader see the corrupted one's contribution;
            ``"denoising"`` the reverse.
        source: what the reader sees of the writer: by default the other prompt's contribution; a mean, another example's, or
            ``Constant(0.0)``, which takes the contribution away.
        rows: most rows in one pass; by default what a memory budget allows.

    Returns:
        Effects with dims ``(metric, cell, example)`` and, along ``cell``, the coordinates ``edge``, ``sender``, ``receiver``,
        ``slot`` and the layers and heads of both ends (−1 where there is none).

    Raises:
        EdgesError: the model's blocks cannot be resumed, or it is not causal.
        UnknownSiteError: an edge that the model does not have.
        UnequalLengthsError, AnswerError: see :func:`interp.patch`.
    """
    if patching not in effects.PATCHING:
        raise UnknownNameError("patching", patching, effects.PATCHING)
    reason = refused(model) or ("" if model.causal else "it is not causal")
    if reason:
        raise EdgesError(f"the edges of {model.name} cannot be swept: {reason}")
    wanted = every_edge(model) if edges is None else list(edges)
    for edge in () if edges is None else wanted:
        check(model, edge)
    if not wanted:
        raise ValueError("edges is an empty list; leave it out for all of them")
    encoded, metrics = encoded_pairs(model, pairs), resolve_metrics(metric)
    reader = Reader.of(model, encoded, metrics)
    budget = Budget(model, reader, encoded.clean.ids.shape[1], rows)
    runs = Runs(model, encoded, "corrupted" if patching == "denoising" else "clean", min(budget.whole_rows(), 256), reader)
    source = Activation() if source is None else source
    with torch.no_grad(), model.prepared(), full_precision():
        sweep = _Sweep(runs, wanted, source, budget)
        value = sweep.run(progress)
        reference = runs.logits("clean") if reader.needs_reference else None
        everyone = torch.arange(len(encoded), device=model.device)
        clean, corrupt = (reader.measure(runs.logits(side), everyone, reference) for side in ("clean", "corrupted"))
    return effects.assemble(
        value.cpu().numpy(),
        clean.cpu().numpy(),
        corrupt.cpu().numpy(),
        axes={axes.CELL: list(range(len(wanted)))},
        metrics=[m.name for m in metrics],
        coords=provenance.example_coordinates(encoded) | _coordinates(wanted),
        attrs=provenance.attributes(model, encoded, patching, metrics)
        | {
            "site": "edges",
            "positions": "all",
            "source": repr(source),
            "strategy": "wavefront",
            "rows": len(wanted) * len(encoded),
            "noise_floor": dict(zip([m.name for m in metrics], sweep.floor, strict=True)),
            "spec": provenance.spec(
                model,
                encoded,
                patching,
                metrics,
                {"edges": "all" if edges is None else [repr(e) for e in wanted], "source": source.spec()},
            ),
        },
    )


def _coordinates(wanted: Sequence[Edge]) -> dict[str, Any]:
    def number(site: Site, axis: str) -> int:
        found = getattr(site, axis)
        return -1 if found is None else int(found)

    ends = {
        f"{end}_{axis}": [number(getattr(edge, end), axis) for edge in wanted]
        for end in ("sender", "receiver")
        for axis in (axes.LAYER, axes.HEAD)
    }
    names = {
        "edge": [repr(e) for e in wanted],
        "sender": [node(e.sender) for e in wanted],
        "receiver": [node(e.receiver) for e in wanted],
        "slot": [e.receiver.name if e.receiver.name in SLOTS else "" for e in wanted],
    }
    return {name: (axes.CELL, values) for name, values in (names | ends).items()}


@dataclass(frozen=True, eq=False)
class _Part:
    """Examples of a shard that are carried from one column on."""

    shard: Shard
    examples: Int[Tensor, " carried"]
    """Where they are in the shard."""
    start: int
    tail: int
    moved: Float[Tensor, "sender example position d_model"]
    """What the source's contribution would change, for all examples of the shard; the last sender changes nothing."""

    def base(self, site: Site, column: int) -> Tensor:
        """The base run's tensor at a site, from a column on."""
        return self.shard.found[site][self.examples, column:]


class _Sweep:
    """The edges that are wanted, by the block and the slot that reads them."""

    def __init__(self, runs: Runs, wanted: Sequence[Edge], source: Source, budget: Budget) -> None:
        self.runs, self.budget, self.model, self.reader = runs, budget, runs.model, runs.reader
        self.sources = Sources(runs)
        assert self.model.stack is not None
        self.stack, self.anatomy = self.model.stack, self.model.anatomy
        self.last = len(self.stack) - 1
        self.writers = list(dict.fromkeys(edge.sender for edge in wanted))
        number = {site: i for i, site in enumerate(self.writers)}
        self.readers: dict[Site, list[tuple[int, int, int]]] = defaultdict(list)
        """For each tensor that reads: number of the edge, of the sender, and the head."""
        for i, edge in enumerate(wanted):
            self.readers[edge.receiver.tensor].append((i, number[edge.sender], edge.receiver.head or 0))
        # One more row an example: a reader in the middle that sees what it would have seen. What it moves is rounding.
        middle = list(self.readers)[len(self.readers) // 2]
        self.readers[middle].append((len(wanted), len(self.writers), self.readers[middle][0][2]))
        self.cells = len(wanted)
        self.changes = {site: Change(EMBED_STREAM if site == EMBED else site.tensor, source=source) for site in self.writers}

    def run(self, progress: bool | None) -> Float[Tensor, "metric cell example"]:
        """Every edge on every example."""
        runs, n = self.runs, len(self.runs.base)
        columns = runs.base.ids.shape[1]
        per_sender = (len(self.writers) + 1) * self.model.sizes["d_model"] * columns * self.model.dtype.itemsize
        runs.keep(self._sites(), columns, memory(self.model) // 2, besides=per_sender)
        placed = place([Intervention((change,)) for change in dict.fromkeys(self.changes.values())], runs)
        runs.want([cell.places[0].change for cell in placed])
        first = torch.stack([cell.first for cell in placed]).amin(0)
        reference = runs.logits("clean") if self.reader.needs_reference else None
        value = torch.zeros(len(self.reader.metrics), self.cells + 1, n, dtype=self.reader.dtype, device=self.model.device)
        bar = {"disable": progress is False, "delay": 0 if progress else 1, "leave": False}
        with tqdm(total=(self.cells + 1) * n, unit="row", **bar) as shown:
            for shard in runs.shards():
                moved = self._moved(shard)
                read = self.reader.positions_of(shard.tokens).amin(-1)
                begins = torch.minimum(first[shard.examples], read)
                for column, order in grouped(self.model, begins, read, torch.zeros_like(begins)):
                    part = _Part(shard, order, column, int(read[order].min()), moved)
                    for site, edges in self.readers.items():
                        self._receive(part, site, edges, reference, value, shown.update)
        base = self.reader.measure(runs.logits("base"), torch.arange(n, device=self.model.device), reference)
        self.floor = (value[:, -1] - base).abs().amax(-1).tolist()
        return value[:, :-1]

    def _sites(self) -> set[Site]:
        """What of the base run the rows begin from."""
        sites = {Site("resid_post", layer=self.last)} if LOGITS in self.readers else set()
        for layer in {site.layer for site in self.readers if site.layer is not None}:
            sites |= {Site("resid_pre", layer=layer), Site("output", path=self.anatomy.attention[layer])}
            sites |= {Site(name, layer=layer) for name in ("z", *SLOTS)}
        for sender in self.writers:
            sites.add(EMBED_STREAM if sender == EMBED else sender.tensor)
            if sender.name == "z" and sender.layer is not None:
                sites.add(Site("output", path=self.anatomy.attention[sender.layer]))
        return sites

    # what writers would write

    def _moved(self, shard: Shard) -> Tensor:
        """How the stream would change if each writer wrote what the source says; a last one changes nothing."""
        base = shard.found[next(iter(shard.found))]
        width = self.model.sizes["d_model"]
        moved = torch.zeros(
            len(self.writers) + 1, len(shard.examples), shard.tokens.ids.shape[1], width, dtype=base.dtype, device=base.device
        )
        known: dict[Site, Tensor] = {}
        for i, sender in enumerate(self.writers):
            change = self.changes[sender]
            if change.site not in known:
                known = {change.site: self._difference(change, shard)}  # heads of a layer follow each other
            difference = known[change.site]
            moved[i] = difference if sender.name != "z" else self._through_w_o(sender, difference, shard)
        return moved

    def _difference(self, change: Change, shard: Shard) -> Tensor:
        """Source less base at every real token; 0 at padding."""
        columns = self.runs.base.columns(change.positions)
        values = self.sources.values(change, columns)
        assert values is not None
        own = columns[shard.examples]
        example, slot = (own >= 0).nonzero(as_tuple=True)
        base = shard.found[change.site]
        difference = torch.zeros_like(base)
        column = own[example, slot]
        here, source = base[example, column], values.at(shard.examples[example], slot).to(base)
        # A constant has one number for all features: its axes come behind those of the heads.
        source = source.reshape(len(source), *(1 for _ in range(here.ndim - source.ndim)), *source.shape[1:])
        difference[example, column] = source - here
        return difference

    def _through_w_o(self, sender: Site, difference: Tensor, shard: Shard) -> Tensor:
        """A head's change as the stream sees it: behind W_O, and behind the norm that follows it in some models."""
        assert sender.layer is not None
        assert sender.head is not None
        moved = difference[:, :, sender.head] @ self._w_o(sender.layer)[sender.head]
        tap, path = self.anatomy.taps.get(Site("attn_out", layer=sender.layer)), self.anatomy.attention[sender.layer]
        if tap is None or f"{tap.path}.".startswith(f"{path}."):
            return moved
        norm, given = self.model.module.get_submodule(tap.path), shard.found[Site("output", path=path)]
        return norm(given + moved) - norm(given)

    def _w_o(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        weight = in_out(self.model.module.get_submodule(self.anatomy.w_o[layer]))
        return rearrange(weight, "(head d_head) d_model -> head d_head d_model", head=self.model.sizes["head"])

    # what readers make of it

    def _receive(
        self,
        part: _Part,
        site: Site,
        edges: Sequence[tuple[int, int, int]],
        reference: Tensor | None,
        value: Tensor,
        shown: Any,
    ) -> None:
        """Every edge into one tensor, on the examples of a part."""
        n, examples = len(part.examples), part.shard.examples[part.examples]
        layer = self.last if site.layer is None else site.layer

        def run(chunk: slice) -> None:
            numbers, senders, heads = (torch.tensor(column, device=value.device) for column in zip(*edges[chunk], strict=True))
            if site == LOGITS:
                hidden = self._at_logits(part, senders)
            elif site.name in SLOTS:
                hidden = self._at_heads(part, site, senders, heads)
            else:
                hidden = self._at_mlp(part, layer, senders)
            rows = part.examples.repeat(len(numbers))
            for following in range(layer + 1, len(self.stack)):
                hidden = through(part.shard, following, hidden, rows, part.start, part.tail)
            found = readout(self.reader, part.shard, hidden, examples.repeat(len(numbers)), part.tail, reference)
            value[:, numbers[:, None], examples] = rearrange(found, "metric (cell example) -> metric cell example", example=n)

        columns = part.shard.tokens.ids.shape[1] - (part.tail if layer == self.last else part.start)
        in_batches(len(edges), lambda: max(1, self.budget.rows(columns) // n), run, lambda done: shown(done * n))

    def _at_logits(self, part: _Part, senders: Tensor) -> Tensor:
        base = part.base(Site("resid_post", layer=self.last), part.tail)
        return (base + part.moved[senders][:, part.examples, part.tail :]).flatten(0, 1)

    def _at_mlp(self, part: _Part, layer: int, senders: Tensor) -> Tensor:
        """The block's own MLP reads the changed stream, which is then taken out of what leaves the block."""
        column = part.tail if layer == self.last else part.start
        moved = part.moved[senders][:, part.examples, column:]
        stream = (part.base(Site("resid_pre", layer=layer), column) + moved).flatten(0, 1)
        path = self.anatomy.attention[layer]
        given = part.base(Site("output", path=path), column).expand(len(senders), -1, -1, -1).flatten(0, 1)
        tap = self.anatomy.taps.get(Site("attn_out", layer=layer))
        if tap is not None and tap.path.startswith(f"{path}."):  # attention adds to the stream itself
            given = given + moved.flatten(0, 1)
        rows = part.examples.repeat(len(senders))
        return self.stack.run(layer, stream, part.shard.arguments(column), rows, attention=given) - moved.flatten(0, 1)

    def _at_heads(self, part: _Part, site: Site, senders: Tensor, heads: Tensor) -> Tensor:
        """One run of attention a writer gives every head's output with that writer changed; each row takes one head's."""
        layer = site.layer
        assert layer is not None
        every, which = senders.unique(return_inverse=True)
        changed = self._heads_reading(part, site, every)
        column = part.tail if layer == self.last else part.start
        moved = changed[:, :, column - part.start :] - part.base(Site("z", layer=layer), column)
        w_o = self._w_o(layer)
        group = len(w_o) // self.model.anatomy.size(site, "head")
        given = part.base(Site("output", path=self.anatomy.attention[layer]), column)
        outputs = given.expand(len(senders), -1, -1, -1).clone()
        for head in heads.unique().tolist():
            of = (heads == head).nonzero().flatten()
            served = slice(head * group, (head + 1) * group)
            outputs[of] += torch.einsum("cephd,hdm->cepm", moved[which[of]][:, :, :, served], w_o[served])
        stream = part.base(Site("resid_pre", layer=layer), column).expand(len(senders), -1, -1, -1).flatten(0, 1)
        rows = part.examples.repeat(len(senders))
        return self.stack.run(layer, stream, part.shard.arguments(column), rows, attention=outputs.flatten(0, 1))

    def _heads_reading(self, part: _Part, site: Site, senders: Tensor) -> Float[Tensor, "sender example position head d_head"]:
        """Z of every head when all of them see a writer changed in one slot and the base in the other two."""
        layer, rows = site.layer, part.examples.repeat(len(senders))
        assert layer is not None
        base = part.base(Site("resid_pre", layer=layer), part.start)
        stream = (base + part.moved[senders][:, part.examples, part.start :]).flatten(0, 1)
        others = [Site(slot, layer=layer) for slot in SLOTS if slot != site.name]
        repeated = {other: part.base(other, part.start).expand(len(senders), -1, -1, -1, -1).flatten(0, 1) for other in others}
        z, taps = Site("z", layer=layer), self.anatomy.taps
        writes = {other: partial(_instead, tensor) for other, tensor in repeated.items()}
        hooks = Hooks(self.model.module, {s: taps[s] for s in (z, *others)}, [z], writes)
        output = self.model.module.get_submodule(self.anatomy.w_o[layer])
        self.stack.heads(layer, stream, part.shard.arguments(part.start), rows, hooks, output)
        return rearrange(hooks.found[z], "(s e) p h d -> s e p h d", s=len(senders))


def _instead(tensor: Tensor, h: Tensor) -> Tensor:
    return tensor
