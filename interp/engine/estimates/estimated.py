"""Effects of every cell estimated from gradients on the base: what attribution patching and its relatives share.

>>> def begin(sweep):                                                                    # doctest: +SKIP
...     def first_order(part):
...         found = part.graph(sweep.cells.sites).slopes()
...         return Moved(found.value, sweep.cells.moved(part.examples, found))
...     return first_order
>>> estimated("attribute", arguments, begin, {"estimate": "first order"})                # doctest: +SKIP

A method says how much every cell moves the base on some examples; here are the passes in batches, the baselines, the names of
the result and its place in a store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from interp.engine import provenance, recipe
from interp.engine.asked import together
from interp.engine.background import given_changes, held, in_force
from interp.engine.batches import halvings, in_batches
from interp.engine.cells import Cell
from interp.engine.edits import Edits
from interp.engine.estimates.cells import Cells
from interp.engine.estimates.slopes import Graph, Slopes, chained, differentiable, examples_a_pass, graph
from interp.engine.families import asked, check_words, labelled, sourced
from interp.engine.filling import fill
from interp.engine.layout import LOGITS
from interp.engine.measure import Measured, require_finite, sources, warn_of_nan
from interp.engine.prepared import Options, Prepared, start
from interp.engine.spans import recorded
from interp.engine.stored import Into, Result, whole
from interp.engine.swept import bare, joined
from interp.errors import GradientError
from interp.interventions import Cut
from interp.models import Tokens
from interp.models.taps import Write
from interp.sites import MAIN, Site


class Moved(NamedTuple):
    """What a method says of some examples."""

    base: Float[Tensor, "metric example"]
    """With what is given in force."""
    moved: Float[Tensor, "metric cell example"]
    """By how much each cell moves the base, estimated."""
    score: Float[Tensor, "metric cell example"] | None = None
    """By what cells are ranked, where it is something else."""


class Found(NamedTuple):
    """The same of all examples, beside the two baselines."""

    clean: Float[Tensor, "metric example"]
    corrupt: Float[Tensor, "metric example"]
    base: Float[Tensor, "metric example"]
    moved: Float[Tensor, "metric cell example"]
    score: Float[Tensor, "metric cell example"] | None
    facts: dict[str, Any]
    """What is true of every family's result."""


Begin = Callable[["Estimating"], Callable[["Part"], Moved]]
"""A method: what it prepares once, then what it says of some examples."""


def estimated(
    call: str,
    arguments: Mapping[str, Any],
    begin: Begin,
    facts: dict[str, Any],
    *,
    needs: Callable[[Prepared], Collection[Site]] = lambda prepared: (),
    check: Callable[[Prepared, Found], None] = lambda prepared, found: None,
) -> Result:
    """The result of a method.

    Args:
        call: the function that was called.
        arguments: what it was called with: those of :func:`interp.attribute`, and maybe more.
        begin: the method.
        facts: what results say of the method beside ``method``; part of what they are known by in a store.
        needs: sites that are read or written besides those of the cells.
        check: looks at what was found.
    """
    said, model = arguments, arguments["model"]
    check_words(said["patching"], precision=said["precision"])
    into = Into.of(said["store"], said["name"], said["tags"])
    words = (said[word] for word in ("rows", "skip_inert", "progress", "precision"))
    background = (given_changes(model, said["given"]), held(model, said["hold"]))
    options = Options(said["patching"], "batched", *background, *words)
    options = replace(options, corruption=together(said["corruption"], "corruption"))
    change = {"source": sourced(said["source"], said["unequal"])} | {w: said[w] for w in ("edit", "featurizer", "keep_error")}
    prepared, families = asked(model, said["pairs"], said["where"], said["metric"], change, options)
    _refuse_cuts(change for family in families.values() for one in family.interventions for change in one.changes)
    families = {key: replace(family, spec=family.spec | facts) for key, family in families.items()}
    tree = isinstance(said["where"], Mapping)
    further = needs(prepared)

    def make() -> Result:
        began = time.perf_counter()
        found = passes(prepared, begin, further)
        require_finite(
            {"clean prompt": found.clean, "corrupted prompt": found.corrupt, "base prompt": found.base}, prepared.metrics
        )
        check(prepared, found)
        known = found.facts | {"method": call, "wall_seconds": time.perf_counter() - began} | facts
        each = zip(_by_family(prepared, found, known), families.values(), strict=True)
        return joined([labelled(prepared, measured, family) for measured, family in each], families, {}, tree=tree)

    if into is None:
        return make()
    written = partial(recipe.recorded, call, model, prepared.encoded, **recipe.others(said))
    return whole(into, bare(prepared, families, {}, tree=tree), make, beside=written)


def _refuse_cuts(changes: Iterable[Any]) -> None:
    cut = next((change for change in changes if isinstance(change.edit, Cut)), None)
    if cut is not None:
        raise GradientError(
            f"{cut!r}: −∞ has no first-order estimate; set probabilities to 0 (Scale(0.0) of a pattern), or patch"
        )


def _by_family(prepared: Prepared, found: Found, known: Mapping[str, Any]) -> list[Measured]:
    options, value = prepared.options, found.base[:, None] + found.moved
    measured = []
    for family in prepared.families:
        own = slice(family.start, family.stop - 1)
        interventions = prepared.interventions[own]
        facts = {
            "source": sources(interventions, options.patching),
            "edit": repr(interventions[0].changes[0].edit),
            **in_force(prepared.model, options.given, options.hold, options.corruption),
            "strategy": "attribution",
            "rows": int((~prepared.by_rule[own]).sum()),
            "rows_by_rule": int(prepared.by_rule[own].sum()),
            "noise_floor": {metric.name: 0.0 for metric in prepared.metrics},
            **known,
            **recorded(prepared.cells[own]),
            "rows_not_a_number": warn_of_nan(value[:, own], prepared.cells[own]),
        }
        measured.append(
            Measured(
                value[:, own].cpu().numpy(),
                found.clean.cpu().numpy(),
                found.corrupt.cpu().numpy(),
                found.base.cpu().numpy() if options.given is not None else None,
                prepared.by_rule[own].cpu().numpy(),
                facts,
                None if found.score is None else found.score[:, own].cpu().numpy(),
            )
        )
    return measured


# ------------------------------------------------------------------------------------------------------------ passes


def passes(prepared: Prepared, begin: Begin, further: Collection[Site] = ()) -> Found:
    """Source runs, then what the method does on the base, a batch of examples at a time."""
    model, encoded, runs, reader, options = (
        *(prepared.model, prepared.encoded, prepared.runs, prepared.reader, prepared.options),
    )
    everyone = torch.arange(len(encoded), device=model.device)
    limit = examples_a_pass(model, encoded, reader, options.rows)
    bar = {"disable": options.progress is False, "delay": 0 if options.progress else 1, "leave": False}
    with differentiable(model, [*prepared.sites, *further], options.precision), halvings() as halved:
        with torch.no_grad():
            sides = [side for side in ("clean", "corrupted") if options.given is not None or side != runs.side["base"]]
            runs.want_logits(*sides)
            known = start(prepared)
            cells = Cells(prepared, known)
            beside = fill([prepared.held], runs, known)[0] if prepared.held is not None else None
            sweep = Estimating(prepared, known, cells, beside, runs.reference)
            alone = {side: reader.measure(runs.logits(side), everyone, sweep.reference) for side in sides}
            method = begin(sweep)

        with tqdm(total=len(encoded), unit="example", **bar) as progress:
            parts = in_batches(len(encoded), limit, lambda chunk: method(Part.of(sweep, chunk)), progress.update)
        facts = provenance.attributes(prepared.subject, options.patching, prepared.metrics)
        facts |= {"passes": len(parts), "out_of_memory": len(halved)}
    base, moved = torch.cat([part.base for part in parts], dim=-1), torch.cat([part.moved for part in parts], dim=-1)
    scores = [part.score for part in parts if part.score is not None]
    alone.setdefault(runs.side["base"], base)
    return Found(alone["clean"], alone["corrupted"], base, moved, torch.cat(scores, dim=-1) if scores else None, facts)


@dataclass(frozen=True, eq=False)
class Estimating:
    """A sweep under way, with the values that its cells write."""

    prepared: Prepared
    known: Sequence[Cell]
    """What is given, filled."""
    cells: Cells
    beside: Cell | None
    """What is given and what is held, filled."""
    reference: Float[Tensor, "example position vocab"] | None


@dataclass(frozen=True, eq=False)
class Part:
    """Some of its examples."""

    sweep: Estimating
    examples: Int[Tensor, " row"]
    tokens: Tokens
    """Of the base."""
    frozen: Mapping[Site, Write]
    """What is given and what is held."""

    @classmethod
    def of(cls, sweep: Estimating, chunk: slice) -> Part:
        prepared = sweep.prepared
        examples = torch.arange(len(prepared.encoded), device=prepared.model.device)[chunk]
        frozen = {} if sweep.beside is None else Edits.of(sweep.beside, examples).writes()
        return cls(sweep, examples, prepared.runs.base.take(chunk), frozen)

    def graph(
        self, sites: Sequence[Site], writes: Mapping[Site, Write] | None = None, behind: Mapping[Site, Write] | None = None
    ) -> Graph:
        """A forward pass of which gradients are taken, with further writes in front of the places where they are, or behind."""
        p, given = self.sweep.prepared, chained(self.frozen, writes or {})
        return graph(p.model, p.reader, self.tokens, self.examples, sites, self.sweep.reference, given, behind)

    @torch.no_grad()
    def read(self, sites: Sequence[Site], writes: Mapping[Site, Write] | None = None) -> Slopes:
        """A forward pass alone: the metrics, and what it holds at some sites behind all writes."""
        p = self.sweep.prepared
        inputs = p.model.inputs(self.tokens, p.reader.keep)
        found = p.model.backend.run(inputs, [LOGITS, *sites], chained(self.frozen, writes or {}))
        logits = p.reader.logits(self.tokens, found[LOGITS])
        return Slopes(p.reader.measure(logits, self.examples, self.sweep.reference), {site: found[site] for site in sites}, ())


def reached(prepared: Prepared) -> set[str]:
    """The streams that the prompts enter, among them those of a tower of its own (pictures) only where it is the main one."""
    return {MAIN, *prepared.encoded.clean.streams}
