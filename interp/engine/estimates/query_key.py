"""Queries and keys that are replaced, followed exactly through the softmax, from two runs for all cells.

>>> saturated = QueryKey.of_sweep(sweep)                                                 # doctest: +SKIP
>>> moved = saturated.of(part)                         # one run with queries, one with keys  # doctest: +SKIP
>>> moved(part.graph(saturated.patterns).slopes()).shape                                 # doctest: +SKIP
torch.Size([1, 64, 12])

A row of a pattern depends on the query at its own position and head alone, and a score on one query and one key alone (unless a
norm is taken over all heads together; that is looked for, and every head has a run of its own then). So one run in which every
cell's queries are replaced at once, while what attention adds to the stream is held at the base's values, gives every cell its
own pattern p'; one with keys gives the difference δ that every key makes to every score. With G = ∂M/∂p:

- a query moves the metric by Σ ⟨p' − p, G⟩ over its rows;
- one key j makes p'_ij = p_ij e^δ / (r + p_ij e^δ) of its weight, r = 1 − p_ij being the rest of the row, which shrinks by a
  common factor; so row i moves the metric by p_ij (e^δ − 1) / (r + p_ij e^δ) · Σ_l p_il (G_ij − G_il), l ≠ j;
- several keys together make a softmax of the row with their δ added.

Scores are taken behind rotary phases, soft caps and masks, so nothing is known here of how a model makes them; a sink takes its
share of the rest. Kramár et al., "AtP*", arXiv 2403.00745.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from einops import reduce
from jaxtyping import Bool, Float
from torch import Tensor

from interp.engine.cells import Cell, Place
from interp.engine.estimates.bundles import difference
from interp.engine.estimates.cells import apart, covered, joint_writes
from interp.engine.estimates.estimated import Estimating, Part
from interp.engine.estimates.slopes import Slopes, chained
from interp.engine.layout import canonical
from interp.engine.prepared import Prepared
from interp.models.taps import Write
from interp.sites import Site

Rows = Float[Tensor, "row position head source_position"]
Effect = Callable[[Float[Tensor, "metric row position head source_position"], Place], Float[Tensor, "metric row head"]]
"""What a change at some place moves every metric by, head by head of its tensor, for gradients of the pattern."""


def is_query(site: Site) -> bool:
    return site.name in ("q", "cross_q")


def is_key(site: Site) -> bool:
    return site.name in ("k", "cross_k")


def inside(site: Site) -> tuple[Site, Site, Site]:
    """Of queries or keys the scores and the pattern of their attention, and what it adds to the stream."""
    prefix = site.name[:-1]
    return site.at(name=f"{prefix}scores"), site.at(name=f"{prefix}pattern"), site.at(name=f"{prefix or 'attn_'}out")


def needed(prepared: Prepared) -> list[Site]:
    """What is read and written of attention beside the queries and keys that are changed.

    Raises:
        UnknownSiteError: a layer has queries or keys, but no scores or pattern, with the reason.
    """
    changed = dict.fromkeys(change.site.tensor for one in prepared.interventions for change in one.changes)
    found = [one for site in changed if is_query(site) or is_key(site) for one in inside(site)]
    for site in found:
        prepared.model.check(site)
    return list(dict.fromkeys(found))


@dataclass(frozen=True, eq=False)
class QueryKey:
    """The changes of queries and keys in the cells of a sweep."""

    sweep: Estimating
    queries: list[dict[int, Cell]]
    """Cells by number, their changes of queries alone; in groups that are made in one pass."""
    keys: list[dict[int, Cell]]

    @classmethod
    @torch.no_grad()
    def of_sweep(cls, sweep: Estimating) -> QueryKey:
        groups = []
        for kind, which in ((is_query, 1), (is_key, 0)):
            own = {n: tuple(place for place in cell.places if kind(place.tensor)) for n, cell in sweep.cells.each.items()}
            cells = {n: replace(sweep.cells.each[n], places=places) for n, places in own.items() if places}
            found = [{n: cells[n] for n in numbers} for numbers in apart(cells)]
            if found and _coupled(Part.of(sweep, slice(0, 1)), found[0], which):
                found = [one for group in found for one in _by_head(group)]
            groups.append(found)
        return cls(sweep, *groups)

    @property
    def sites(self) -> list[Site]:
        """Queries and keys that are changed."""
        every = (cell for group in (*self.queries, *self.keys) for cell in group.values())
        return list(dict.fromkeys(place.tensor for cell in every for place in cell.places))

    @property
    def patterns(self) -> list[Site]:
        """At which gradients are taken."""
        return list(dict.fromkeys(inside(site)[1] for site in self.sites))

    def of(self, part: Part) -> Callable[[Slopes], Float[Tensor, "metric cell row"]]:
        """What every cell moves some examples by, as a function of slopes at the patterns."""
        made: list[tuple[dict[int, Cell], dict[Site, Effect]]] = []
        if self.sites:
            base = part.read(list(dict.fromkeys(one for site in self.sites for one in inside(site)))).activation
            made += [(group, self._of_queries(part, group, base)) for group in self.queries]
            made += [(group, self._of_keys(part, group, base)) for group in self.keys]

        def moved(found: Slopes) -> Tensor:
            many, cells = len(found.gradient), self.sweep.cells
            total = torch.zeros(many, len(cells.by_rule), len(part.examples), dtype=cells.dtype, device=part.examples.device)
            gradient = {
                site: torch.stack([canonical(site, one[site]) for one in found.gradient]).double() for site in self.patterns
            }
            for group, effects in made:
                for number, cell in group.items():
                    for place in cell.places:
                        effect = effects[place.tensor](gradient[inside(place.tensor)[1]], place)
                        own = effect.sum(-1) if place.index is None else effect[..., place.index]
                        total[:, number] += own.to(total)
            return total.masked_fill(cells.by_rule[:, part.examples], 0.0)

        return moved

    def _of_queries(self, part: Part, group: Mapping[int, Cell], base: Mapping[Site, Tensor]) -> dict[Site, Effect]:
        found = {}
        for site, new in _run(part, group, base, 1).items():
            pattern = inside(site)[1]
            step = difference(canonical(pattern, new), canonical(pattern, base[pattern]), torch.float64)
            found[site] = _of_rows(step, part.examples)
        return found

    def _of_keys(self, part: Part, group: Mapping[int, Cell], base: Mapping[Site, Tensor]) -> dict[Site, Effect]:
        found = {}
        for site, new in _run(part, group, base, 0).items():
            scores, pattern, _ = inside(site)
            old, p = canonical(scores, base[scores]), canonical(pattern, base[pattern])
            row = AttentionRow.of(old.double(), p)
            delta = difference(canonical(scores, new), old, torch.float64)
            heads = self.sweep.prepared.model.anatomy.size(site, "head")
            found[site] = _of_columns(row, delta, part.examples, heads)
        return found


def _run(part: Part, group: Mapping[int, Cell], base: Mapping[Site, Tensor], which: int) -> dict[Site, Tensor]:
    """What attention holds in a pass in which the changes of a group are made and nothing behind attention moves.

    Args:
        which: scores or patterns, as :func:`inside` gives them.
    """
    sites = list(dict.fromkeys(place.tensor for cell in group.values() for place in cell.places))
    hold: dict[Site, Write] = {inside(site)[2]: _constant(base[inside(site)[2]]) for site in sites}
    found = part.read([inside(site)[which] for site in sites], chained(joint_writes(group.values(), part.examples), hold))
    return {site: found.activation[inside(site)[which]] for site in sites}


def _by_head(group: Mapping[int, Cell]) -> list[dict[int, Cell]]:
    """The cells of a group head by head; of those of several changes the first one's counts."""
    heads = dict.fromkeys(cell.places[0].index for cell in group.values())
    return [{n: cell for n, cell in group.items() if cell.places[0].index == head} for head in heads]


def _coupled(part: Part, group: Mapping[int, Cell], which: int) -> bool:
    """Whether a head's attention depends on the queries or keys of other heads, as behind a norm over all of them."""
    alone = _by_head(group)[0]
    site, head = alone[min(alone)].places[0].tensor, alone[min(alone)].places[0].index
    if head is None or len(alone) == len(group):
        return False
    base = part.read([inside(place.tensor)[2] for cell in group.values() for place in cell.places]).activation
    all_, own = (_run(part, some, base, which)[site] for some in (group, alone))
    each = all_.shape[1] // part.sweep.prepared.model.anatomy.size(site, "head")
    heads = slice(head * each, (head + 1) * each)
    apart = difference(all_[:, heads], own[:, heads], torch.float64).abs().max()
    finite = own[:, heads].abs()
    most = finite[finite < torch.finfo(own.dtype).max / 2].max()
    return bool(apart > 64 * torch.finfo(own.dtype).eps * (1 + most))


def _constant(value: Tensor) -> Write:
    return lambda h: value


def _of_rows(step: Rows, examples: Tensor) -> Effect:
    """Of queries: whole rows of the pattern move by a step."""
    known: dict[int, tuple[Tensor, Tensor]] = {}

    def effect(gradient: Tensor, place: Place) -> Tensor:
        if id(gradient) not in known:
            known.clear()  # those of other slopes are done with
            known[id(gradient)] = gradient, (gradient * step).sum(-1)
        at = covered(place)[examples].to(step)
        return torch.einsum("mrih,ri->mrh", known[id(gradient)][1], at)

    return effect


def _of_columns(row: AttentionRow, delta: Rows, examples: Tensor, heads: int) -> Effect:
    """Of keys: scores of some columns move by δ, in all rows."""
    alone = row.shares(delta)
    steps: dict[int, tuple[Tensor, Tensor]] = {}
    known: dict[int, tuple[Tensor, Tensor]] = {}

    def effect(gradient: Tensor, place: Place) -> Tensor:
        columns = place.columns[examples]
        at = covered(place)[examples]
        if columns.shape[1] == 1:
            if id(gradient) not in known:
                known.clear()
                known[id(gradient)] = gradient, (alone * row.against(gradient)).sum(2)
            found = torch.einsum("mrhj,rj->mrh", known[id(gradient)][1], at.to(delta))
        else:
            if id(place.columns) not in steps:
                steps[id(place.columns)] = place.columns, row.moved(delta, at)
            found = torch.einsum("mrihj,rihj->mrh", gradient, steps[id(place.columns)][1])
        return reduce(found, "m r (kv group) -> m r kv", "sum", kv=heads)

    return effect


@dataclass(frozen=True, eq=False)
class AttentionRow:
    """Rows of an attention pattern, in float64, so that what is next to nothing is still a number."""

    p: Rows
    log_p: Rows
    sink: Float[Tensor, "row position head"]
    """What a sink takes of each."""
    top: Bool[Tensor, "row position head source_position"]
    """The largest of each row."""

    @classmethod
    def of(cls, scores: Rows, pattern: Rows) -> AttentionRow:
        """The pattern that scores have, with a sink where the model's own falls short of 1 by more than rounding.

        A sink whose share is less is not seen, and takes nothing either where a key is changed.
        """
        most = pattern.argmax(-1, keepdim=True)
        largest = scores.gather(-1, most)
        known = largest - pattern.double().gather(-1, most).log()
        whole = scores.logsumexp(-1, keepdim=True)
        short = 1 - (whole - known).exp() > 16 * torch.finfo(pattern.dtype).eps * largest.abs().clamp(min=1.0)
        log_p = (scores - torch.where(short, known, whole)).clamp(max=0.0)
        p = log_p.exp()
        sink = torch.where(short[..., 0], 1 - p.sum(-1), 0.0)
        return cls(p, log_p, sink, torch.zeros_like(p, dtype=torch.bool).scatter(-1, most, True))

    @property
    def rest(self) -> Rows:
        """1 − p, the largest's as the sum of the others."""
        others = torch.where(self.top, 0.0, self.p).sum(-1, keepdim=True) + self.sink[..., None]
        return torch.where(self.top, others, 1 - self.p)

    def shares(self, delta: Rows) -> Rows:
        """The change of a weight over the rest, p (e^δ − 1) / (1 − p + p e^δ), where that score alone moves by δ."""
        raised = (self.log_p + delta).clamp(min=0.0)  # both halves are divided by its exponential, which may be beyond numbers
        small = (-raised).exp()
        gained = torch.where(
            delta < 1, self.p * delta.clamp(max=1.0).expm1() * small, (self.log_p + delta - raised).exp() - self.p * small
        )
        found = gained / (self.rest * small + (self.log_p + delta - raised).exp())
        return torch.where(found.isfinite(), found, 0.0)  # rows of padding may have nothing to share

    def against(self, gradient: Tensor) -> Tensor:
        """Σ p_l (G_j − G_l) over the others, for every j; a sink has no value, and no gradient."""
        weighed = self.p * gradient
        others = torch.where(self.top, 0.0, weighed).sum(-1, keepdim=True)
        return self.rest * gradient - torch.where(self.top, others, weighed.sum(-1, keepdim=True) - weighed)

    def moved(self, delta: Rows, at: Bool[Tensor, "row source_position"]) -> Rows:
        """By how much the pattern moves where the scores of some columns move by δ together."""
        raised = self.log_p + torch.where(at[:, None, None], delta, 0.0)
        total = torch.logaddexp(raised.logsumexp(-1), self.sink.log())
        found = (raised - total[..., None]).exp() - self.p
        return torch.where(found.isfinite(), found, 0.0)
