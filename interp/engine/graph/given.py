"""Edges on a base that is changed already: what is given, and what is held, stays in force in every row.

>>> standing = Standing(model, cell, writers)                                             # doctest: +SKIP
>>> standing.arriving(part, 5, senders)                 # what a reader of block 5 sees of them   # doctest: +SKIP

Between a writer and a reader the stream is no plain sum where something is given in it, so what a writer adds is carried on:
each block in between runs with all that it adds held at the base's values, and with the given changes in force. A reader in
a block in which something is given is read first, as it is before what is given of it; then the block runs on the base's stream
with that in its place. Norms that divide the stream itself (OPT-350m's) are treated alike.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.engine.additive import WRITERS
from interp.engine.behind import FINAL, AtRead, behind
from interp.engine.cells import Cell
from interp.engine.edits import Edits
from interp.engine.filling import fill
from interp.engine.graph.edges import LOGITS, SLOTS
from interp.engine.joins import begin, inside
from interp.engine.readout import Reader
from interp.engine.runs import Runs
from interp.engine.shard import Shard
from interp.engine.strategies import Measured
from interp.engine.wavefront import readout
from interp.errors import EdgesError
from interp.interventions import Change, Free, Intervention
from interp.models import Model
from interp.models.hooks import Hooks
from interp.models.taps import Write
from interp.sites import Site

_OF_HEADS = (*SLOTS, "scores", "pattern", "z")
_BEHIND_HEADS = ("result", "ln1_post_scale", "attn_out")
"""What is between a head's output and what attention adds to the stream."""


@dataclass(frozen=True, eq=False)
class Part:
    """Examples of a shard that are carried from one column on."""

    shard: Shard
    examples: Int[Tensor, " carried"]
    """Where they are in the shard."""
    start: int
    tail: int
    moved: Float[Tensor, "sender example position d_model"]
    """What the source's contribution would change, for all examples of the shard; the last sender changes nothing."""
    written: Mapping[int, Tensor]
    """By sender, the source's value itself, for all examples of the shard, where the sender's own block has to run with it."""
    _edits: dict[int, Edits] = field(default_factory=dict, repr=False)

    def base(self, site: Site, column: int) -> Tensor:
        """The base run's tensor at a site, from a column on."""
        return self.shard.base(site, self.from_(column))[self.examples]

    def from_(self, column: int) -> range:
        """A column and those behind it."""
        return range(column, self.shard.tokens.width)

    def edits(self, cell: Cell, times: int) -> Edits:
        """A cell's changes on every example, so many times."""
        if times not in self._edits:
            examples = self.shard.examples[self.examples].repeat(times)
            self._edits[times] = Edits.of(cell, examples)
        return self._edits[times]


def refuse(model: Model, beside: Intervention) -> None:
    """Raise unless a sweep of edges can run with some changes in force.

    Raises:
        EdgesError: one of them is not met where the rows of edges run, or goes by another name than its tensor has as a site.
    """
    for change in beside.changes:
        reason = _reason(model, change)
        if reason:
            raise EdgesError(f"{change!r} cannot be in force in a sweep of edges: {reason}")


def _reason(model: Model, change: Change) -> str:
    """Why a change cannot be in force in every row; empty if it can."""
    site, anatomy = change.site.tensor, model.anatomy
    if site in (FINAL, LOGITS):
        if change.together and not change.positions.is_one:
            return "it is changed at several tokens together, and rows are read at those that the metrics read"
        return ""
    first = begin(model, site)
    if isinstance(first, str):
        return first
    tap = model.taps(site)
    if site.path is not None:
        same = [repr(one) for one in model.sites() if (model.taps(one).path, model.taps(one).event) == (tap.path, tap.event)]
        if same:
            return f"it is seen in the same tensor as {', '.join(same)}; go by that name"
    layer = anatomy.block_of(tap.path)
    for block in (layer, None if layer is None or site.name != "resid_pre" else layer - 1):
        for name, paths in (("attn_out", anatomy.attention), ("mlp_out", anatomy.mlp)):
            if block in paths and not model.has(Site(name, layer=block)):
                return f"what block {block} adds to the stream has to be held, and {model.name} has no L{block}.{name}"
    return ""


class Standing:
    """What is in force in every row, or what else makes the stream no plain sum: norms behind what is added to it.

    Args:
        cell: what is given and what is held; None if nothing is.
        writers: the senders, by their numbers.
    """

    def __init__(self, model: Model, cell: Cell | None, writers: Sequence[Site]) -> None:
        assert model.stack is not None
        self.model, self.stack = model, model.stack
        self.cell = Cell(Intervention(()), ()) if cell is None else cell
        self.last = len(self.stack) - 1
        sites = list(dict.fromkeys(place.tensor for place in self.cell.places))
        self.inside = {layer: [s for s in sites if inside(model, s, layer)] for layer in range(self.last + 1)}
        """Where something is given in each block, its input and output excepted."""
        ends = {layer: (Site("resid_post", layer=layer - 1), Site("resid_pre", layer=layer)) for layer in range(self.last + 2)}
        self.between = {layer: [site for site in both if site in sites] for layer, both in ends.items()}
        """The same in front of each block, and behind the last."""
        norms = {site.layer for site in model.anatomy.main.norms}
        self.whole = {layer: bool(some) or layer in norms for layer, some in self.inside.items()}
        """Whether each block has to run as a whole, because something is given there or norms divide the stream itself."""
        self.turned = {
            layer: layer in norms
            or bool(self.between[layer + 1])
            or any(s.name == "resid_mid" or s.path is not None for s in some)
            for layer, some in self.inside.items()
        }
        """Whether the stream itself is changed in a block or right behind it."""
        bent = {layer for layer, some in self.inside.items() if any(site.name in _BEHIND_HEADS for site in some)}
        self.crossed = [layer for layer in self.inside if layer in bent or self.turned[layer]]
        """Blocks behind which some sender's contribution is not what it wrote."""
        self.late = bool(self.whole[self.last] or self.between[self.last + 1])
        """Whether the last block needs columns that are not read."""
        self.mixed = {
            layer
            for layer, some in self.inside.items()
            for place in self.cell.places
            if place.tensor in some and isinstance(place.change.edit, Free)
        }
        """Blocks in which a function may make a head's value of those of others."""
        self.writers = writers
        layers = [-1 if site.layer is None else site.layer for site in writers]
        device = model.device
        self.layer = torch.tensor([*layers, -1], device=device)
        """Each sender's own block; −1 for the embedding, and for the last, which changes nothing."""
        self.is_head = torch.tensor([*(site.name == "z" for site in writers), False], device=device)

    def fill(self, runs: Runs, known: Sequence[Cell]) -> None:
        """Find what is written; asked for once it is said what is kept of the base run.

        Args:
            known: what is given, filled.
        """
        self.cell = fill([self.cell], runs, known)[0]

    def sites(self) -> set[Site]:
        """What of the base run is needed for blocks that run with something in force."""
        found: set[Site] = set()
        for layer in self.inside:
            if layer not in self.crossed and not self.whole[layer]:
                continue
            found |= {Site("resid_pre", layer=layer), self.entering(layer + 1)}
            found |= {site for name in WRITERS if self.model.has(site := Site(name, layer=layer))}
        return found

    def entering(self, layer: int) -> Site:
        """The stream in front of a block, or behind the last."""
        return Site("resid_pre", layer=layer) if layer <= self.last else Site("resid_post", layer=self.last)

    def runs_own(self, sender: Site) -> bool:
        """Whether a sender's own block has to run with the source's value, to see what it adds."""
        return sender.layer is not None and (sender.layer in self.crossed or self.whole[sender.layer])

    # from writers to readers

    def arriving(
        self, part: Part, layer: int, senders: Int[Tensor, " sender"]
    ) -> Float[Tensor, "sender example position d_model"]:
        """How the stream in front of a block, or behind the last, changes with each sender, all that blocks add being held."""
        moved = part.moved[senders][:, part.examples, part.start :]
        own, heads = self.layer[senders], self.is_head[senders]
        for crossed in [one for one in self.crossed if one < layer]:
            turned = torch.full_like(heads, self.turned[crossed])
            which = (((own < crossed) & turned) | ((own == crossed) & (heads | turned))).nonzero().flatten()
            if len(which):
                moved[which] = self._across(part, crossed, senders[which], moved[which])
        return moved

    def _across(self, part: Part, layer: int, senders: Tensor, moved: Tensor) -> Tensor:
        """The same behind a block, from what it was in front of it, or from what senders in the block write."""
        hidden = self._stream(part, layer, senders, moved)
        left, _ = self.run(part, layer, hidden, after=self._only(part, layer, senders))
        left = self.restreamed(part, layer + 1, left)
        return rearrange(left, "(s e) p d -> s e p d", s=len(senders)) - part.base(self.entering(layer + 1), part.start)

    def _stream(self, part: Part, layer: int, senders: Tensor, moved: Tensor) -> Float[Tensor, "row position d_model"]:
        """What enters a block; senders in the block itself have not written yet."""
        before = (self.layer[senders] < layer)[:, None, None, None]
        return (part.base(Site("resid_pre", layer=layer), part.start) + moved * before).flatten(0, 1)

    def _only(self, part: Part, layer: int, senders: Tensor) -> dict[Site, Write]:
        """Writes that leave a block to its senders: what they do not change of what it adds is the base's."""
        n, own = len(part.examples), self.layer[senders] == layer
        of_heads = (own & self.is_head[senders]).repeat_interleave(n)
        writes: dict[Site, Write] = {}
        for name in WRITERS:
            site = Site(name, layer=layer)
            if self.model.has(site):
                known = repeat(part.base(site, part.start), "e p d -> (s e) p d", s=len(senders)).clone()
                rows_held = torch.ones_like(of_heads) if name == "mlp_out" else ~of_heads
                writes[site] = partial(_where, rows_held[:, None, None], known)
                for rows, sender in self._within(n, senders, site) if name == "mlp_out" else ():
                    known[rows] = part.written[sender][part.examples, part.start :]
        z = Site("z", layer=layer)
        values = [
            (rows, self.writers[sender].head, part.written[sender][part.examples, part.start :])
            for rows, sender in self._within(n, senders, z)
        ]
        return writes | ({z: partial(_with_heads, values)} if values else {})

    def _within(self, n: int, senders: Tensor, site: Site) -> list[tuple[slice, int]]:
        """Rows and number of each sender that writes at a site."""
        return [
            (slice(i * n, (i + 1) * n), sender)
            for i, sender in enumerate(senders.tolist())
            if sender < len(self.writers) and self.writers[sender].tensor == site
        ]

    # readers

    def received(
        self, part: Part, site: Site, senders: Int[Tensor, " edge"], heads: Int[Tensor, " edge"]
    ) -> Float[Tensor, "row position d_model"]:
        """What leaves a block that runs as a whole, with a sender changed for one reader alone."""
        layer, n = site.layer, len(part.examples)
        assert layer is not None
        stream = repeat(part.base(Site("resid_pre", layer=layer), part.start), "e p d -> (s e) p d", s=len(senders))
        every, which = senders.unique(return_inverse=True)

        def by_edge(read: Tensor) -> Tensor:
            return rearrange(read, "(s e) ... -> s e ...", e=n)[which].flatten(0, 1)

        if site.name not in SLOTS:
            out = Site("mlp_out", layer=layer)
            return self.run(part, layer, stream, before={out: partial(_instead, by_edge(self._mlp(part, layer, every)))})[0]
        mixed = layer in self.mixed
        target = site if mixed else Site("z", layer=layer)
        read = by_edge(self._heads(part, site, every, target))
        group = read.shape[2] // self.model.anatomy.size(site, "head")
        served = heads.repeat_interleave(n)[:, None] == torch.arange(read.shape[2], device=heads.device) // group
        write = {target: partial(_where, served[:, None, :, None], read)}
        return self.run(part, layer, stream, before=write if mixed else None, after=None if mixed else write)[0]

    def _heads(self, part: Part, site: Site, senders: Tensor, target: Site) -> Float[Tensor, "row position head d_head"]:
        """What heads give, or one of their inputs before what is given of it, when all of them see each sender in one input.

        Args:
            target: ``z``, with what is given, or ``site`` itself, without.
        """
        layer = site.layer
        assert layer is not None
        hidden = self._stream(part, layer, senders, self.arriving(part, layer, senders))
        names = ("ln1_scale",) if target == site else ("ln1_scale", *_OF_HEADS)
        writes = self._writes(part, [s for s in self.inside[layer] if s.name in names or s.path is not None], hidden)
        for other in (Site(slot, layer=layer) for slot in SLOTS if slot != site.name and target != site):
            writes[other] = partial(_instead, repeat(part.base(other, part.start), "e p h d -> (s e) p h d", s=len(senders)))
        call, rows = part.shard.arguments(part.from_(part.start)), part.examples.repeat(len(senders))
        hooks = Hooks(self.model.module, {s: self.model.taps(s) for s in (target, *writes)}, [target], writes)
        self.stack.heads(layer, hidden, call, rows, hooks, self.model.module.get_submodule(self.model.anatomy.w_o[layer]))
        return hooks.found[target]

    def _mlp(self, part: Part, layer: int, senders: Tensor) -> Float[Tensor, "row position d_model"]:
        """What an MLP gives, before what is given of it, with each sender changed."""
        hidden, out = self._stream(part, layer, senders, self.arriving(part, layer, senders)), Site("mlp_out", layer=layer)
        after = {site: write for site, write in self._only(part, layer, senders).items() if site != out}
        return self.run(part, layer, hidden, after=after, without=[out], reads=[out])[1][out]

    # blocks with something in force

    def run(
        self,
        part: Part,
        layer: int,
        hidden: Float[Tensor, "row position d_model"],
        *,
        before: Mapping[Site, Write] | None = None,
        after: Mapping[Site, Write] | None = None,
        without: Collection[Site] = (),
        reads: Collection[Site] = (),
    ) -> tuple[Float[Tensor, "row position d_model"], dict[Site, Tensor]]:
        """A block on rows, and what is read inside it.

        Args:
            before: writes made before what is in force at the same site.
            after: writes made after it.
            without: where nothing is in force.
        """
        standing = self._writes(part, [site for site in self.inside[layer] if site not in without], hidden)
        writes = dict(before or {})
        for more in (standing, after or {}):
            writes |= {site: _then(writes.get(site), write) for site, write in more.items()}
        call, rows = part.shard.arguments(part.from_(part.start)), part.examples.repeat(len(hidden) // len(part.examples))
        hooks = Hooks(self.model.module, {site: self.model.taps(site) for site in (*writes, *reads)}, reads, writes)
        with hooks:
            left = self.stack.run(layer, hidden, call, rows)
        return left, hooks.found

    def restreamed(
        self, part: Part, layer: int, hidden: Float[Tensor, "row column d_model"]
    ) -> Float[Tensor, "row column d_model"]:
        """The stream in front of a block, or behind the last, as what is given there leaves it."""
        for write in self._writes(part, self.between[layer], hidden).values():
            hidden = write(hidden)
        return hidden

    def readout(
        self,
        part: Part,
        reader: Reader,
        hidden: Float[Tensor, "row column d_model"],
        rows: Int[Tensor, " row"],
        reference: Float[Tensor, "example position vocab"] | None,
    ) -> Measured:
        """Every metric of rows that left the last block, with what is in force behind it.

        Args:
            rows: where each row's example is in the shard.
        """
        at, everyone = reader.positions_of(part.shard.tokens)[rows], torch.arange(len(rows), device=rows.device)
        edits = part.edits(self.cell, len(rows) // len(part.examples))
        logits = AtRead(LOGITS, edits, len(rows), everyone, at) if LOGITS in edits.sites() else None
        with behind(self.model, edits, len(rows), everyone, at):
            return readout(reader, part.shard, hidden, part.shard.examples[rows], part.tail, reference, logits)

    def _writes(self, part: Part, sites: Sequence[Site], hidden: Tensor) -> dict[Site, Write]:
        """What is in force at some sites, for rows and columns that are carried."""
        width = part.shard.tokens.width
        edits = part.edits(self.cell, len(hidden) // len(part.examples))
        return {site: edits.write(site, column=width - hidden.shape[1], until=width) for site in sites}


def _then(first: Write | None, second: Write) -> Write:
    return second if first is None else lambda h: second(first(h))


def _instead(tensor: Tensor, h: Tensor) -> Tensor:
    return tensor


def _where(mask: Bool[Tensor, "row ..."], tensor: Tensor, h: Tensor) -> Tensor:
    return torch.where(mask, tensor.to(h), h)


def _with_heads(values: Sequence[tuple[slice, int | None, Tensor]], h: Tensor) -> Tensor:
    """The same with one head of some rows."""
    h = h.clone()
    for rows, head, tensor in values:
        h[rows, :, head] = tensor.to(h)
    return h
