"""The rows of an edge sweep: what writers would write, and what readers make of it.

>>> sweep = EdgeRows(runs, graph(model), edges(model), Activation(), budget)           # doctest: +SKIP
>>> sweep.open()                                                                        # doctest: +SKIP
{'logit_diff': 0.0}
>>> sweep.values(range(32491), range(64), print).shape           # metric, edge, example   # doctest: +SKIP
torch.Size([1, 32491, 64])
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from interp.circuits import At, Graph, Node, bare
from interp.engine.batches import in_batches
from interp.engine.budget import Budget
from interp.engine.cells import Cell
from interp.engine.graph.apart import Tokens
from interp.engine.graph.edges import LOGITS, SLOTS, Edge
from interp.engine.graph.given import Part, Standing
from interp.engine.graph.said import Said
from interp.engine.graph.writers import Writers
from interp.engine.measure import noise_floor
from interp.engine.runs import Runs
from interp.engine.shard import Shard
from interp.engine.strategies import Progress
from interp.engine.wave import through
from interp.engine.wavefront import grouped, readout
from interp.errors import EdgesError
from interp.interventions import Intervention, Source
from interp.models.hooks import Hooks
from interp.sites import Site


class EdgeRows:
    """The edges that are wanted, by the block and the slot that reads them.

    Args:
        graph: whose edges they are.
        given: what is given on the base.
        known: the same as a cell, filled, in a list; empty if nothing is given.
        beside: that with what is held; None if nothing is.
    """

    def __init__(
        self,
        runs: Runs,
        graph: Graph,
        wanted: Sequence[Edge],
        source: Source,
        budget: Budget,
        given: Intervention | None = None,
        known: Sequence[Cell] = (),
        beside: Cell | None = None,
    ) -> None:
        self.runs, self.budget, self.model, self.reader = runs, budget, runs.model, runs.reader
        assert self.model.stack is not None
        self.stack, self.anatomy = self.model.stack, self.model.anatomy
        self.last = len(self.stack) - 1
        self.graph, self.apart = graph, bool(graph.coordinates or graph.spans)
        self.writers: list[Node | At] = list(dict.fromkeys(edge.sender for edge in wanted))
        number = {site: i for i, site in enumerate(self.writers)}
        self.readers: dict[Site, list[tuple[int, int, int]]] = defaultdict(list)
        """For each tensor that reads: number of the edge, of the sender, and the head."""
        for i, edge in enumerate(wanted):
            reader = bare(edge.receiver)
            assert isinstance(reader, Site)
            self.readers[reader.tensor].append((i, number[edge.sender], reader.head or 0))
        # One more row an example: a reader in the middle that sees what it would have seen. What it moves is rounding.
        middle = list(self.readers)[len(self.readers) // 2]
        self.readers[middle].append((len(wanted), len(self.writers), self.readers[middle][0][2]))
        self.cells = len(wanted)
        self.known = known
        plain = beside is None and not self.anatomy.main.norms
        if not plain and self.apart:
            raise EdgesError(
                "something is given or held, or norms divide the stream itself: edges of nodes that are told apart cannot be "
                "swept beside it; take the graph whose nodes are whole"
            )
        whole = [site for site in self.writers if isinstance(site, Site)]
        self.standing = None if plain else Standing(self.model, beside, whole)
        self._last: tuple[Shard, Tensor, dict[int, Tensor]] | None = None
        roots = [site for site in graph.whole if site.layer is None]
        embedded = roots if graph.split_embed and not set(roots).isdisjoint(self.writers) else ()
        if embedded and self.standing is not None and self.standing.between[0]:
            raise EdgesError(
                f"{self.standing.between[0][0]!r} is given or held, where tokens and positions have come together: edges out "
                "of either of them cannot be swept; take the graph whose embedding is not split"
            )
        self.said = Writers(runs, graph.written if self.apart else list(dict.fromkeys([*whole, *embedded])), source, given)
        self.tokens = Tokens(runs, graph)

    def open(self) -> dict[str, float]:
        """Make the base run and the sources', so that edges can be measured; returns the noise floor."""
        runs = self.runs
        per_sender = (len(self.writers) + 1) * self.model.sizes["d_model"] * runs.base.width * self.model.dtype.itemsize
        runs.keep(dict.fromkeys(self._sites()), self.budget, besides=per_sender)
        if self.standing is not None:
            self.standing.fill(runs, self.known)
        self.said.place()
        everyone = torch.arange(len(runs.base), device=self.model.device)
        written_back = self.values(range(self.cells, self.cells + 1), range(len(everyone)), lambda n: None)[:, 0]
        base = self.reader.measure(runs.logits("base"), everyone, runs.reference)
        return noise_floor(written_back, base, self.model, self.reader.metrics)

    def values(self, cells: range, examples: range, progress: Progress) -> Float[Tensor, "metric cell example"]:
        """Some edges on some examples."""
        runs, reference = self.runs, self.runs.reference
        value = torch.zeros(
            len(self.reader.metrics), self.cells + 1, len(runs.base), dtype=self.reader.dtype, device=self.model.device
        )
        readers = {site: own for site, edges in self.readers.items() if (own := [edge for edge in edges if edge[0] in cells])}
        wanted = torch.arange(examples.start, examples.stop, device=self.model.device)
        for shard in runs.shards(wanted):
            moved, written = self._moving(shard)
            mine = torch.isin(shard.examples, wanted).nonzero().flatten()
            read = self.reader.positions_of(shard.tokens).amin(-1)
            begins = torch.minimum(self.said.first[shard.examples], read)
            for column, order in grouped(self.model, begins[mine], read[mine], torch.zeros_like(mine)):
                for some in mine[order].split(self.budget.rows(runs.base.width - column)):
                    late = self.standing is not None and self.standing.late
                    part = Part(shard, some, column, column if late else int(read[some].min()), moved, written)
                    for site, edges in readers.items():
                        self._receive(part, site, edges, reference, value, progress)
        return value[:, cells.start : cells.stop, examples.start : examples.stop]

    def _moving(self, shard: Shard) -> tuple[Tensor, dict[int, Tensor]]:
        """What writers move in a shard; that of the last one is kept, since edges of one shard follow each other."""
        if self._last is None or self._last[0] is not shard:
            self._last = None  # its memory goes before more is taken
            self._last = (shard, *self._moved(shard))
        return self._last[1:]

    def _sites(self) -> set[Site]:
        """What of the base run the rows begin from."""
        sites = {Site("resid_post", layer=self.last)} if LOGITS in self.readers else set()
        for layer in {site.layer for site in self.readers if site.layer is not None}:
            sites |= {Site("resid_pre", layer=layer), Site("output", path=self.anatomy.attention[layer])}
            sites |= {Site(name, layer=layer) for name in ("z", *SLOTS)}
        for sender in self.said.changes:
            if sender.name == "z" and sender.layer is not None:
                sites.add(Site("output", path=self.anatomy.attention[sender.layer]))
        sites |= self.said.sites()
        return sites if self.standing is None else sites | self.standing.sites()

    # what writers would write

    def _moved(self, shard: Shard) -> tuple[Tensor, dict[int, Tensor]]:
        """How the stream would change if each writer wrote what the source says; a last one changes nothing.

        Of those whose own block has to run with it, what they would write too.
        """
        base = next(iter(shard.found.values())).tensor
        width = self.model.sizes["d_model"]
        moved = torch.zeros(
            len(self.writers) + 1, len(shard.examples), shard.tokens.width, width, dtype=base.dtype, device=base.device
        )
        if self.apart:
            moved[:-1] = self._told_apart(shard)
            return moved, {}
        known: dict[Site, Tensor] = {}
        written: dict[int, Tensor] = {}
        for i, sender in enumerate(self.writers):
            assert isinstance(sender, Site)
            site = self.said.changes[sender].site
            if site not in known:
                known = {site: self.said.difference(sender, shard)}  # a layer's heads follow each other
            difference = known[site]
            moved[i] = difference if sender.name != "z" else self._through_w_o(sender, difference, shard)
            if self.standing is not None and self.standing.runs_own(sender):
                new = shard.found[site].tensor + difference
                written[i] = new if sender.name != "z" else new[:, :, sender.head]
        return moved, written

    def _told_apart(self, shard: Shard) -> Float[Tensor, "sender example position d_model"]:
        """The same of nodes that are told apart."""
        gaps, masks, base = Said(self.said, self.graph.base, shard).gaps, self.tokens.masks, self.graph.base
        found = gaps[[base.node(bare(sender)) for sender in self.writers]]
        if masks is None:
            return found
        spans = [self.graph.spans.index(sender.span) for sender in self.writers if isinstance(sender, At)]
        return found * masks[spans][:, shard.examples, :, None]

    def _through_w_o(self, sender: Site, difference: Tensor, shard: Shard) -> Tensor:
        """A head's change as the stream sees it: behind W_O, and behind the norm that follows it in some models."""
        assert sender.layer is not None
        assert sender.head is not None
        moved = difference[:, :, sender.head] @ self.said.w_o(sender.layer)[sender.head]
        path = self.said.normed_behind(sender.layer)
        if path is None:
            return moved
        norm = self.model.module.get_submodule(path)
        given = shard.found[Site("output", path=self.anatomy.attention[sender.layer])].tensor
        return norm(given + moved) - norm(given)

    # what readers make of it

    def _receive(
        self,
        part: Part,
        site: Site,
        edges: Sequence[tuple[int, int, int]],
        reference: Tensor | None,
        value: Tensor,
        shown: Any,
    ) -> None:
        """Every edge into one tensor, on the examples of a part."""
        n, examples = len(part.examples), part.shard.examples[part.examples]
        layer, standing = self.last if site.layer is None else site.layer, self.standing

        def run(chunk: slice) -> None:
            numbers, senders, heads = (torch.tensor(column, device=value.device) for column in zip(*edges[chunk], strict=True))
            if site == LOGITS:
                hidden = self._at_logits(part, senders)
            elif standing is not None and standing.whole[layer]:
                hidden = standing.received(part, site, senders, heads)
            elif site.name in SLOTS:
                hidden = self._at_heads(part, site, senders, heads)
            else:
                hidden = self._at_mlp(part, layer, senders)
            rows = part.examples.repeat(len(numbers))
            for following in range(layer + 1, len(self.stack)):
                hidden = hidden if standing is None else standing.restreamed(part, following, hidden)
                if standing is not None and standing.inside[following]:
                    hidden, _ = standing.run(part, following, hidden)
                else:
                    hidden = through(part.shard, following, hidden, rows, part.from_(part.start), part.tail)
            if standing is not None and site != LOGITS:
                hidden = standing.restreamed(part, len(self.stack), hidden)
            if standing is not None:
                found = standing.readout(part, self.reader, hidden, rows, reference)
            else:
                found = readout(self.reader, part.shard, hidden, examples.repeat(len(numbers)), part.tail, reference)
            value[:, numbers[:, None], examples] = rearrange(found, "metric (cell example) -> metric cell example", example=n)

        columns = part.shard.tokens.width - (part.tail if layer == self.last else part.start)
        in_batches(len(edges), lambda: self.budget.rows(columns, n), run, lambda done: shown(done * n))

    def _arriving(
        self, part: Part, layer: int, senders: Tensor, column: int
    ) -> Float[Tensor, "sender example position d_model"]:
        """How the stream that a reader in some block sees changes with each sender, from a column on."""
        if self.standing is not None:
            return self.standing.arriving(part, layer, senders)[:, :, column - part.start :]
        return part.moved[senders][:, part.examples, column:]

    def _at_logits(self, part: Part, senders: Tensor) -> Tensor:
        base = part.base(Site("resid_post", layer=self.last), part.tail)
        return (base + self._arriving(part, len(self.stack), senders, part.tail)).flatten(0, 1)

    def _at_mlp(self, part: Part, layer: int, senders: Tensor) -> Tensor:
        """The block's own MLP reads the changed stream, which is then taken out of what leaves the block."""
        column = part.tail if layer == self.last else part.start
        moved = self._arriving(part, layer, senders, column)
        stream = (part.base(Site("resid_pre", layer=layer), column) + moved).flatten(0, 1)
        path = self.anatomy.attention[layer]
        given = part.base(Site("output", path=path), column).expand(len(senders), -1, -1, -1).flatten(0, 1)
        if self.said.adds_itself(layer):
            given = given + moved.flatten(0, 1)
        rows = part.examples.repeat(len(senders))
        left = self.stack.run(layer, stream, part.shard.arguments(part.from_(column)), rows, attention=given)
        return left - moved.flatten(0, 1)

    def _at_heads(self, part: Part, site: Site, senders: Tensor, heads: Tensor) -> Tensor:
        """One run of attention a writer gives every head's output with that writer changed; each row takes one head's."""
        layer = site.layer
        assert layer is not None
        every, which = senders.unique(return_inverse=True)
        changed = self._heads_reading(part, site, every)
        column = part.tail if layer == self.last else part.start
        moved = changed[:, :, column - part.start :] - part.base(Site("z", layer=layer), column)
        w_o = self.said.w_o(layer)
        group = len(w_o) // self.model.anatomy.size(site, "head")
        given = part.base(Site("output", path=self.anatomy.attention[layer]), column)
        outputs = given.expand(len(senders), -1, -1, -1).clone()
        for head in heads.unique().tolist():
            of = (heads == head).nonzero().flatten()
            served = slice(head * group, (head + 1) * group)
            outputs[of] += torch.einsum("cephd,hdm->cepm", moved[which[of]][:, :, :, served], w_o[served])
        stream = part.base(Site("resid_pre", layer=layer), column).expand(len(senders), -1, -1, -1).flatten(0, 1)
        rows = part.examples.repeat(len(senders))
        return self.stack.run(layer, stream, part.shard.arguments(part.from_(column)), rows, attention=outputs.flatten(0, 1))

    def _heads_reading(self, part: Part, site: Site, senders: Tensor) -> Float[Tensor, "sender example position head d_head"]:
        """Z of every head when all of them see a writer changed in one slot and the base in the other two."""
        layer, rows = site.layer, part.examples.repeat(len(senders))
        assert layer is not None
        base = part.base(Site("resid_pre", layer=layer), part.start)
        stream = (base + self._arriving(part, layer, senders, part.start)).flatten(0, 1)
        others = [Site(slot, layer=layer) for slot in SLOTS if slot != site.name]
        repeated = {other: part.base(other, part.start).expand(len(senders), -1, -1, -1, -1).flatten(0, 1) for other in others}
        z, taps = Site("z", layer=layer), self.anatomy.taps
        writes = {other: partial(_instead, tensor) for other, tensor in repeated.items()}
        hooks = Hooks(self.model.module, {s: taps[s] for s in (z, *others)}, [z], writes)
        output = self.model.module.get_submodule(self.anatomy.w_o[layer])
        self.stack.heads(layer, stream, part.shard.arguments(part.from_(part.start)), rows, hooks, output)
        return rearrange(hooks.found[z], "(s e) p h d -> s e p h d", s=len(senders))


def _instead(tensor: Tensor, h: Tensor) -> Tensor:
    return tensor
