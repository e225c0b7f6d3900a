"""A sweep before anything is run: its cells and rows, which of them are known by rule, and where the others begin."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.engine.asked import BASE
from interp.engine.background import Given, Hold, both, give, given_changes, held
from interp.engine.budget import Budget
from interp.engine.cells import Cell, check, expanded, place
from interp.engine.edits import Rows
from interp.engine.filling import corrupt
from interp.engine.forks import Forks, forked
from interp.engine.joins import NEVER, join, refused, resumes, unresumed
from interp.engine.lines import Lines
from interp.engine.precision import Precision
from interp.engine.prompts import Columns
from interp.engine.provenance import Subject
from interp.engine.readout import Reader
from interp.engine.runs import Runs
from interp.engine.wavefront import left
from interp.interventions import Activation, Change, Intervention, Replace, Scale
from interp.metrics import Metric
from interp.models import Encoded, Model
from interp.sites import Site

Patching = Literal["denoising", "noising"]
Strategy = Literal["auto", "wavefront", "batched", "serial"]
Family = Sequence[Intervention]


@dataclass(frozen=True, slots=True)
class Options:
    """How a sweep is run; see :func:`interp.engine.sweep.patch`."""

    patching: Patching = "denoising"
    strategy: Strategy = "auto"
    given: Intervention | None = None
    hold: Intervention | None = None
    rows: int | None = None
    skip_inert: bool = True
    progress: bool | None = None
    precision: Precision = "full"
    corruption: Intervention | None = None
    """What makes the corrupted run of the clean prompts, in place of other prompts."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """What will be run. Every family of interventions is followed by its self-patch, whose effect is rounding."""

    model: Model
    encoded: Encoded
    metrics: tuple[Metric, ...]
    options: Options
    families: tuple[range, ...]
    """Numbers of each family's cells, its self-patch the last of them."""
    interventions: Sequence[Intervention]
    sites: frozenset[Site]
    """Every site that is changed or read as a source."""
    reader: Reader
    runs: Runs
    budget: Budget
    cells: Sequence[Cell]
    """Resolved, without the values that they write; behind those of the families, what several of them begin with."""
    corruption: Cell | None
    """What is in force on the corrupted run."""
    given: Cell | None
    """What is in force on the base of every cell; where the base is the corrupted run, the corruption first."""
    held: Cell | None
    """That and what is held at the base's values, which a cell without changes of its own would be."""
    begins: Sequence[int | str]
    """The depth at which each cell's rows join the wave, or why they run whole forward passes."""
    parents: Int[Tensor, " cell"]
    """The cell that each cell's rows leave there; −1 where they begin with the base run."""
    by_rule: Bool[Tensor, "cell example"]
    eager: str
    """Why attention is the model's eager one, which forms whole scores and patterns; empty if it is not."""

    @cached_property
    def subject(self) -> Subject:
        """What the numbers are of."""
        return Subject(self.model, self.encoded)

    @property
    def attention(self) -> str:
        """How attention runs: as it is in the model, with changed rows computed beside it, or eager."""
        if self.eager:
            return f"eager, because {self.eager}"
        changed = any(
            place.change.square for cell in (*self.cells, *([self.held] if self.held else [])) for place in cell.places
        )
        return "as in the model, changed rows beside it" if changed else "as in the model"

    def session(self) -> AbstractContextManager[None]:
        """The model as the sweep needs it."""
        return self.model.prepared(self.sites, beside=not self.eager)

    @property
    def rows(self) -> Rows:
        """What runs, cell by cell."""
        return (~self.by_rule).nonzero()

    @property
    def depths(self) -> Tensor:
        """Where each cell joins; :data:`interp.engine.joins.NEVER` for those that run whole forward passes."""
        numbers = [begin if isinstance(begin, int) else NEVER for begin in self.begins]
        return torch.tensor(numbers, device=self.by_rule.device)

    @property
    def lines(self) -> Lines:
        """Which cells leave which, and where."""
        return Lines(self.parents, self.depths)

    @property
    def carried(self) -> range:
        """From the first column at which a row can begin to the last."""
        width = self.encoded.clean.width
        if not resumes(self.model):
            return range(width)
        first = torch.stack([cell.first for cell in self.cells]).min()
        return range(int(torch.minimum(first, self.reader.positions_of(self.runs.base).min())), width)

    @cached_property  # planning asks, and so does the run
    def kept(self) -> dict[Site, Columns]:
        """Tensors of the base run from which rows begin."""
        joined = [(cell, start) for cell, start in zip(self.cells, self.begins, strict=True) if isinstance(start, int)]
        return left(self.model, [cell for cell, _ in joined], [start for _, start in joined], self.carried)


def prepare(
    model: Model, encoded: Encoded, families: Sequence[Family], metrics: tuple[Metric, ...], options: Options
) -> Prepared:
    """Check and resolve a sweep.

    Raises:
        ValueError: fewer than one row a pass, or a strategy that the model or the interventions do not allow.
        AnswerError, UnknownSiteError, HeadOutOfRangeError, PositionError, OrderError: what does not fit.
    """
    corruption = None if options.corruption is None else expanded(options.corruption, model)
    given = None if options.given is None else expanded(options.given, model)
    if options.patching == "denoising":
        given = both(corruption, given)
    hold = None if options.hold is None else expanded(options.hold, model)
    beside = both(given, hold)
    check([*(i for family in families for i in family), *(one for one in (corruption, beside) if one is not None)], model)
    spans: list[range] = []
    interventions: list[Intervention] = []
    for family in families:
        spans.append(range(len(interventions), len(interventions) + len(family) + 1))
        own = [expanded(intervention, model) for intervention in family]
        interventions += [*own, _self_patch(own[len(own) // 2])]
    sites = frozenset(
        site for i in (*interventions, corruption, beside) if i is not None for change in i.changes for site in change.sites
    )
    reader = Reader.of(model, encoded, metrics, whole=any(site.name == "logits" for site in sites))
    budget = Budget(model, reader, encoded.clean.width, options.rows)
    resumed = budget if options.strategy in ("auto", "wavefront") else None
    runs = Runs(model, encoded, BASE[options.patching], budget.batch, reader, resumed)
    corrupted = None if corruption is None else place([corruption], runs.seen_from("clean"))[0]
    runs.corrupted_from = None if corrupted is None else corrupted.first
    streams = beside is not None and any(change.site.name == "resid_pre" for change in beside.changes)
    cells, begins = place(interventions, runs, given, hold), _begins(model, interventions, options, beside, unresumed(encoded))
    # What is given or held between two blocks comes between a row's change before and its change after: no row forks there.
    found = Forks(cells, begins, [-1] * len(cells)) if streams else forked(model, cells, begins)
    by_rule = torch.stack([cell.inert for cell in found.cells]) & options.skip_inert
    by_rule[[span[-1] for span in spans]] = False
    by_rule[len(interventions) :] = True  # what cells share is not read
    known, held = standing(runs, given, hold)
    return Prepared(
        model,
        encoded,
        metrics,
        options,
        families=tuple(spans),
        interventions=interventions,
        sites=sites,
        reader=reader,
        runs=runs,
        budget=budget,
        cells=found.cells,
        corruption=corrupted,
        given=known,
        held=held,
        begins=found.begins,
        parents=torch.tensor(found.parents, device=by_rule.device),
        by_rule=by_rule,
        eager=_eager(model, [*cells, *([held] if held else [])], runs, options),
    )


def beside(model: Model, given: Given, hold: Hold) -> tuple[Intervention | None, Intervention | None, Intervention | None]:
    """What is given, what is held, and both, checked, with a change for each call of a module.

    Raises:
        UnknownSiteError, HeadOutOfRangeError, OrderError: what does not fit.
    """
    one, other = (None if some is None else expanded(some, model) for some in (given_changes(model, given), held(model, hold)))
    together = both(one, other)
    check([together] if together is not None else [], model)
    return one, other, together


def standing(runs: Runs, given: Intervention | None, hold: Intervention | None) -> tuple[Cell | None, Cell | None]:
    """What is given, and that with what is held, as cells; None where nothing is."""
    known = place([given], runs)[0] if given else None
    if not hold:
        return known, known
    frozen = place([hold], runs, given, hold)[0]
    return known, Cell(frozen.intervention, tuple(where for where in frozen.places if where.given))


def start(prepared: Prepared) -> list[Cell]:
    """Put the given changes in force on the base run, and say what of it will be kept; returns what is given, filled.

    Raises:
        PositionError, ShapeMismatchError, UnequalLengthsError: a source does not fit its target.
    """
    first = [] if prepared.corruption is None else [corrupt(prepared.runs, prepared.corruption)]
    if first and prepared.options.given is None:
        known = first if prepared.options.patching == "denoising" else []
        prepared.runs.standing = known[0] if known else None
    else:
        known = give(prepared.runs, prepared.given, first)
    if bool((prepared.depths != NEVER).any()):
        prepared.runs.keep(prepared.kept, prepared.budget)
    return known


def _begins(
    model: Model, interventions: Sequence[Intervention], options: Options, beside: Intervention | None, why: str
) -> list[int | str]:
    """Where the rows of each intervention join the wave, or why they run whole forward passes.

    Args:
        beside: what is given and what is held.
        why: the reason why the prompts cannot be resumed; empty if they can.
    """
    if options.strategy in ("serial", "batched"):
        return [f"strategy={options.strategy!r} was asked for"] * len(interventions)
    reason = refused(model) or why
    begins = [reason or join(model, intervention, beside) for intervention in interventions]
    cannot = next(((begin, i) for begin, i in zip(begins, interventions, strict=True) if isinstance(begin, str)), None)
    if options.strategy == "wavefront" and cannot is not None:
        raise ValueError(f"strategy='wavefront' cannot run {cannot[1]!r}: {cannot[0]}; strategy='auto' runs it batched")
    return begins


def _eager(model: Model, cells: Sequence[Cell], runs: Runs, options: Options) -> str:
    """Why a sweep forms whole scores and patterns; empty if it does not.

    Rows of the queries that are changed, and of those that are read from other runs, are computed beside the model's attention
    where that is proven, and where no change is made at more than half of a prompt's queries: all rows cost little more then.
    """
    places = [one for cell in cells for one in cell.places if one.change.square]
    if not places:
        return ""
    if options.strategy == "serial":
        return "strategy='serial' changes whole tensors"
    if model.beside_refused:
        return model.beside_refused
    for source in {id(one.change.source): one.change.source for one in places if one.change.edit.reads_source}.values():
        if isinstance(source, Activation) and source.pool == "mean":
            return f"{source!r} is of whole tensors"
    for one in {id(one.columns): one for one in places}.values():  # cells share their columns
        lengths = runs.places("base", one.tensor).lengths
        if bool((2 * (one.columns >= 0).sum(-1) > lengths).any()):
            return f"{one.tensor!r} is changed at more than half of a prompt's queries ({one.change.positions!r})"
    return ""


def _self_patch(intervention: Intervention) -> Intervention:
    """The same places with the base's own values: what it moves is rounding, the noise floor of the sweep."""
    own = Activation("base")

    def back(c: Change) -> Change:
        reads = isinstance(c.source, Activation) and c.edit.reads_source
        if c.square and not reads:  # rows of attention are read from no run for its sake
            return Change(c.site, c.positions, None, Scale(1.0), c.featurizer, attended=c.attended, own=c.own)
        return Change(c.site, c.positions, own, Replace(), c.featurizer, attended=c.attended, own=c.own)

    return replace(intervention, changes=tuple(map(back, intervention.changes)), ordered=True)
