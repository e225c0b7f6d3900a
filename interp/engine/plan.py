"""What a sweep will do, before it does it: rows, passes, operations, time and memory of every strategy.

>>> print(interp.explain(model, pairs, interp.grid("resid_pre", layer=..., position=...)))        # doctest: +SKIP
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from interp import kernels
from interp.engine import gauge
from interp.engine.background import words
from interp.engine.costs import Costs, rate
from interp.engine.joins import NEVER, Point, depth, inside
from interp.engine.pieces import divided
from interp.engine.prepared import Prepared
from interp.engine.shard import bytes_an_example
from interp.engine.spans import note
from interp.engine.wavefront import grouped
from interp.interventions import Free

_INSIDE_ATTENTION = {"q", "k", "v", "scores", "pattern"}
_OVERHEAD_SECONDS = {"cpu": 0.02, "cuda": 0.03}
"""Python and launches of one pass, roughly."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """One way of running a sweep."""

    strategy: str
    passes: int
    most_rows: int
    """In one pass."""
    flops: float
    seconds: float
    bytes: float
    """At the peak, besides the model."""


@dataclass(frozen=True, eq=False)
class Plan:
    """How a sweep will be run, and what other ways would cost."""

    model: str
    cells: int
    examples: int
    by_rule: int
    """Cell-examples whose value is the base's by rule."""
    asked: Sequence[int]
    """Which cells were asked for; the others measure rounding, or are what several share."""
    begins: Sequence[int | str]
    chosen: tuple[Estimate, ...]
    """What will be run: the wave, whole passes, or some rows in each."""
    others: tuple[Estimate, ...]
    naive: float
    """Operations of one whole forward pass a cell and example, with all logits."""
    shards: int
    """Parts in which the base run is kept, one after another."""
    merged: int
    """Groups of rows that start at one column."""
    readout: str
    kernels: dict[str, str]
    """What each kernel that is used runs as."""
    notes: tuple[str, ...]
    given: str = ""
    """What is in force on the base, in words."""
    held: tuple[str, ...] = ()
    """What is frozen at the base's values."""

    @classmethod
    @torch.no_grad()  # rows without gradients are planned
    def of(cls, prepared: Prepared) -> Plan:
        """The plan of a sweep that was prepared. Runs nothing."""
        return _Planning(prepared).plan()

    @property
    def passes(self) -> int:
        return sum(estimate.passes for estimate in self.chosen)

    @property
    def flops(self) -> float:
        return sum(estimate.flops for estimate in self.chosen)

    @property
    def fraction(self) -> float:
        """Operations over those of one forward pass a patch."""
        return self.flops / self.naive if self.naive else 1.0

    def strategy(self, cells: Sequence[int] | None = None) -> str:
        """Which strategies run some cells, or all that were asked for."""
        if self.chosen and self.chosen[0].strategy == "serial":
            return "serial"
        ran = {"wavefront" if isinstance(begin, int) else "batched" for begin in self._begins(cells)}
        return "+".join(sorted(ran, reverse=True))

    def fallback(self, cells: Sequence[int] | None = None) -> dict[str, int]:
        """Why cells run whole forward passes, and how many of them for each reason."""
        return dict(Counter(begin for begin in self._begins(cells) if isinstance(begin, str)))

    def _begins(self, cells: Sequence[int] | None) -> list[int | str]:
        return [self.begins[number] for number in (self.asked if cells is None else cells)]

    def __repr__(self) -> str:
        total = self.cells * self.examples
        lines = [
            f"{_many(self.cells, 'cell')} × {_many(self.examples, 'example')} = {_many(total, 'row')} on {self.model}",
            f"  by rule     {self.by_rule:,} cannot have an effect and are the base's value, without a forward pass",
        ]
        lines += [f"  given       {self.given}"] if self.given else []
        lines += [f"  held        {', '.join(self.held)}"] if self.held else []
        lines += [f"  {e.strategy:<10}  {_described(e)}" for e in self.chosen]
        lines += [f"  whole pass  {_many(count, 'cell')}, because {reason}" for reason, count in self.fallback().items()]
        if any(e.strategy == "wavefront" for e in self.chosen):
            lines.append(
                f"              {_many(self.merged, 'group')} by first position; the base run is kept in "
                f"{_many(self.shards, 'part')}"
            )
        lines.append(f"  readout     {self.readout}; kernels: {_listed(self.kernels)}")
        baselines = "; the two prompts of each pair are run as well" if self.fraction > 1 else ""
        lines.append(
            f"  operations  {_flops(self.flops)}, {self.fraction:.1%} of the {_flops(self.naive)} that one whole forward pass "
            f"for each row would take{baselines}"
        )
        lines += [f"  instead     {e.strategy}: {_described(e)}" for e in self.others]
        lines += [f"  note        {note}" for note in self.notes]
        return "\n".join(lines)

    def __str__(self) -> str:
        return repr(self)


class _Planning:
    def __init__(self, prepared: Prepared) -> None:
        self.p, self.costs = prepared, Costs.of(prepared.model)
        self.columns = prepared.encoded.clean.width
        self.rate = rate(str(prepared.model.device), prepared.model.dtype, prepared.model.sizes.get("d_model", 512))
        self.overhead = _OVERHEAD_SECONDS.get(prepared.model.device.type, 0.03)
        self.rows = prepared.rows
        self.depths = prepared.depths[self.rows[:, 0]]
        self.shards = self.merged = 1

    def plan(self) -> Plan:
        p = self.p
        cells = sum(len(family) - 1 for family in p.families)
        patched = [n for family in p.families for n in family[:-1]]
        naive = cells * len(p.encoded) * self.costs.whole(self.columns)
        whole, resumed = int((self.depths == NEVER).sum()), self.depths != NEVER
        wave = p.options.strategy != "serial" and bool(resumed.any())
        serial = self._serial(len(self.rows))
        if p.options.strategy == "serial":
            chosen: tuple[Estimate, ...] = (serial,)
            others: tuple[Estimate, ...] = (self._batched(len(self.rows)),)
        else:
            chosen = tuple(
                estimate
                for estimate, there in ((self._wave(resumed), bool(resumed.any())), (self._batched(whole), whole > 0))
                if there
            )
            others = (*((self._batched(len(self.rows)),) if bool(resumed.any()) else ()), serial)
        return Plan(
            p.model.name,
            cells,
            len(p.encoded),
            int(p.by_rule[patched].sum()),
            patched,
            p.begins if p.options.strategy != "serial" else ["strategy='serial' was asked for"] * len(p.begins),
            chosen,
            others,
            naive,
            self.shards,
            self.merged,
            p.reader.describe(self.costs.vocabulary, wave=wave),
            self._kernels(wave=wave),
            self._notes(),
            "" if p.options.given is None else p.options.given.in_words,
            () if p.options.hold is None else tuple(words(p.model, p.options.hold)),
        )

    def _wave(self, resumed: Tensor) -> Estimate:
        p, costs = self.p, self.costs
        rows, depths = self.rows[resumed], self.depths[resumed]
        first = torch.stack([cell.first for cell in p.cells])[rows[:, 0], rows[:, 1]]
        per = bytes_an_example(p.model, p.kept, self.columns)
        size = p.budget.examples(per)
        self.shards = -(-len(p.encoded) // size)
        read = p.reader.positions_of(p.runs.base)
        logits = read.shape[1] * p.reader.products(costs.vocabulary)
        lines, tail, last = p.lines, int(read.amin()), p.model.sizes.get("layer", 0) - 1
        within = [any(inside(p.model, place.tensor, last) for place in cell.places) for cell in p.cells]
        in_last, runs_last = torch.tensor(within, device=rows.device), depth(last, Point.PRE)
        passes = most = self.merged = 0
        flops = peak = 0.0
        for shard in range(self.shards):
            mine = rows[:, 1] // size == shard
            for column, order in grouped(p.model, first[mine], read.amin(-1)[rows[mine, 1]], depths[mine]):
                self.merged += 1
                carried, asked = self.columns - column, rows[mine][order]
                asked = asked[lines.arranged(asked)]
                for part in asked.split(p.budget.rows(carried, lines.share(asked))):
                    run = lines.complete(part)
                    passes, most = passes + 1, max(most, len(run.rows))
                    peak = max(peak, len(run.rows) * p.budget.taken(carried))
                    values, counts = run.depths.unique(return_counts=True)
                    # Rows that run the last block beside one that is changed inside it run it at all carried positions.
                    whole = bool(in_last[run.rows[run.depths <= runs_last, 0]].any())
                    flops += len(part) * logits * costs.column
                    for at, count in zip(values.tolist(), counts.tolist(), strict=True):
                        left = column if whole and at <= runs_last else tail
                        flops += count * costs.resumed(at, column, left, self.columns, 0)
        base = self._base(read.shape[1])
        kept = min(size, len(p.encoded)) * per
        return self._estimate("wavefront", passes, most, flops + base, peak + kept)

    def _batched(self, rows: int) -> Estimate:
        limit = self.p.budget.whole_rows()
        flops = rows * self.costs.whole(self.columns, self.p.reader.keep) + self._base(self.p.reader.keep)
        return self._estimate("batched", -(-rows // limit), min(limit, rows), flops, min(limit, rows) * self.p.budget.whole)

    def _serial(self, rows: int) -> Estimate:
        cells = len(self.rows[:, 0].unique())
        flops = rows * self.costs.whole(self.columns, self.p.reader.keep) + self._base(self.p.reader.keep)
        most = len(self.p.encoded)
        return self._estimate("serial", cells, most, flops, most * self.p.budget.whole)

    def _base(self, read: int | None) -> float:
        """Runs of the clean and the corrupted prompts, and of the base with what is given."""
        runs = 2 if self.p.options.given is None else 3
        return runs * len(self.p.encoded) * self.costs.whole(self.columns, read)

    def _estimate(self, strategy: str, passes: int, rows: int, flops: float, taken: float) -> Estimate:
        # Half of a matrix product's rate is what blocks reach between norms and nonlinearities.
        return Estimate(strategy, passes, rows, flops, flops / (0.5 * self.rate) + passes * self.overhead, taken)

    def _kernels(self, *, wave: bool) -> dict[str, str]:
        """Every kernel that a row or the base runs through, and what it runs as."""
        p = self.p
        ran = [p.interventions[cell] for cell in self.rows[:, 0].unique().tolist()]
        ran += [one for one in (p.options.corruption, p.options.given) if one is not None]
        names = sorted({name for intervention in ran for change in intervention.changes for name in change.kernels})
        used = {name: kernels.implementation(name, p.model.device) for name in names}
        return (p.reader.implementations if wave else {}) | used

    def _notes(self) -> tuple[str, ...]:
        notes = [f"attention {self.p.attention}"] if self.p.attention != "as in the model" else []
        least, most = self.p.encoded.answered.span
        if most > 1:
            notes.append(
                f"answers are {f'{least} to {most}' if least < most else most} tokens: both prompts carry up to {most - 1} "
                f"forced ones behind them, and the metrics read up to {_many(self.p.reader.steps, 'token')} of an answer"
            )
        if not self.p.model.causal and any(isinstance(begin, int) for begin in self.p.begins):
            notes.append("the model is not causal: rows resume at their layer, at all positions")
        notes += note([self.p.cells[number] for family in self.p.families for number in family[:-1]], len(self.p.encoded))
        names = sorted({place.tensor.name for cell in self.p.cells for place in cell.places} & _INSIDE_ATTENTION)
        if names and any(isinstance(begin, int) for begin in self.p.begins):
            notes.append(f"rows that change {', '.join(names)} run the attention of that block again, for all of its heads")
        if len(cut := divided(self.p.model, range(self.columns))) > 1:
            notes.append(f"prompts of {self.columns:,} positions run in pieces of {len(cut[0]):,}, one after another")
        edits = [place.change.edit for cell in self.p.cells for place in cell.places]
        if free := sorted({edit.name for edit in edits if isinstance(edit, Free)}):
            notes.append(
                f"free function {', '.join(free)}: every strategy gives its rows; runs are anonymous, so they are not resumed"
            )
        if self.p.model.dtype in (torch.bfloat16, torch.float16):
            notes.append("in half precision strategies agree within the spread of batch sizes, not exactly")
        flagged = gauge.flag(self.p.model, [*self.p.interventions, *([self.p.options.given] if self.p.options.given else [])])
        notes += [flagged] if flagged else []
        return tuple(notes)


def _described(e: Estimate) -> str:
    return (
        f"{_many(e.passes, 'pass', 'passes')} of at most {_many(e.most_rows, 'row')}, {_flops(e.flops)}, "
        f"about {_seconds(e.seconds)}, {e.bytes / 2**20:,.0f} MiB"
    )


def _listed(used: dict[str, str]) -> str:
    return ", ".join(f"{name} ({chosen})" for name, chosen in used.items()) or "none"


def _many(n: int, one: str, many: str = "") -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _flops(flops: float) -> str:
    for size, unit in ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP")):
        if flops >= size:
            return f"{flops / size:,.3g} {unit}"
    return f"{flops / 1e6:,.3g} MFLOP"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 100 else f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
