"""Interventions on text that is still to be written: prompts with positions to come behind them, and edits that reach there.

>>> runs = Ahead(model, encoded, "clean", ahead=19, scope="new", rows=None)              # doctest: +SKIP
>>> *cells, as_it_is = resolved([None, intervention], runs, paired=False)                # doctest: +SKIP
>>> cells[1].places[0].columns[0]             # of a prompt of five tokens, every column from 5 to 23   # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from interp import axes
from interp.engine.asked import refuse_other_side
from interp.engine.budget import Budget
from interp.engine.cells import Cell, check, place
from interp.engine.edits import Edits
from interp.engine.filling import fill
from interp.engine.growing import Growing
from interp.engine.readout import Reader
from interp.errors import GenerationError, PositionError, ShapeMismatchError
from interp.interventions import Activation, Change, Intervention
from interp.models import Encoded, Model
from interp.models.places import Scope
from interp.models.stepping import is_square
from interp.models.taps import Write
from interp.sites import LAST, Site

_MOST = ("max_position_embeddings", "max_target_positions")
"""What configs call the number of positions of a decoder."""


class Ahead(Growing):
    """Runs whose base goes on behind its prompts.

    Args:
        ahead: how many new tokens are fed to the model at most.
        scope: what all positions mean.
        rows: most rows in one batch, whatever the memory.
        whole: the logits of every position are needed.
    """

    def __init__(
        self,
        model: Model,
        encoded: Encoded,
        base: str,
        ahead: int,
        scope: Scope,
        rows: int | None,
        *,
        whole: bool = False,
    ) -> None:
        reader = Reader(model, encoded, (), LAST, whole=whole, columns=None)
        budget = Budget(model, reader, encoded.clean.width + ahead, rows)
        kept = budget.whole + model.sizes.get(axes.LAYER, 1) * budget.row  # a row's pass, and its keys and values
        super().__init__(model, encoded, base, ahead, scope, batch=budget.batch, reader=reader)
        self.rows = max(1, int(budget.bytes / kept)) if rows is None else rows
        self.ahead, self.scope = ahead, scope

    def refuse_too_long(self, what: str) -> None:
        """Learned positions are as many as were learned; rotary ones go on, though the model may not know them.

        Args:
            what: takes the positions, after the number of tokens of the longest prompt.

        Raises:
            PositionError: a prompt with all that comes behind it takes more.
        """
        config = getattr(self.model.module, "config", None)
        most = next((m for name in _MOST if (m := getattr(config, name, None)) is not None), None)
        longest = int(self.base.lengths.max()) + self.ahead
        if isinstance(most, int) and longest > most and self.model.has(Site("pos_embed")):
            raise PositionError(
                f"a {what.format(longest - self.ahead)} takes {longest} positions, but {self.model.name} has learned {most}"
            )

    def refuse_padding_behind(self) -> None:
        """Raise ``GenerationError`` unless every prompt ends where new tokens begin."""
        if not self.base.flush:
            raise GenerationError(
                f"prompts of unequal length are padded on the right in {self.model.name}, and text goes on behind their end; "
                "generate from prompts of one length together"
            )


class _OfPrompts:
    """Changes of a text that grows, in the run of its prompt alone."""

    def __init__(self, edits: Edits, runs: Ahead) -> None:
        self._edits, self._runs = edits, runs
        self.places, self.sites = edits.places, edits.sites

    def writes(self, columns: range | None = None) -> dict[Site, Write]:
        columns = range(self._runs.base.width) if columns is None else columns
        whole = {site: self._edits.write(site) for site in self.sites() if not self._runs.grows(site)}
        return {**{site: write for site, write in self._edits.writes(columns).items() if self._runs.grows(site)}, **whole}


def resolved(
    asked: Sequence[Intervention | None],
    runs: Ahead,
    paired: bool,
    *,
    chunked: bool = False,
    given: Intervention | None = None,
) -> list[Cell]:
    """Interventions resolved, with what they write, and behind them the model as it is, with nothing but what is given.

    Args:
        given: in force in every cell, before its own changes; all positions are all of them there, whatever the scope.
    """
    if given is not None:  # changes of its own: the same may be asked for again, at other positions
        given = replace(given, changes=tuple(map(replace, given.changes)))
    real = [one for one in (*asked, given) if one is not None]
    check(real, runs.model)
    for change in (change for one in real for change in one.changes):
        _refuse(change, runs, paired, given=given is not None and any(change is one for one in given.changes))
    placed = place([one or Intervention(()) for one in (*asked, None)], runs, given)
    for where in (where for cell in placed for where in cell.places):
        split = chunked or int(where.columns.max()) >= runs.base.width
        if where.change.joint > 1 and runs.grows(where.tensor) and split:
            raise PositionError(f"{where.change!r} changes tokens as one that come in different passes; use the prompt's")
    known = [_widened(cell, runs) for cell in fill(placed[-1:], runs)]
    if given is not None:
        runs.given = lambda examples: _OfPrompts(Edits.of(known[0], examples), runs)
    return [*(_widened(cell, runs) for cell in fill(placed[:-1], runs, known)), *known]


def _refuse(change: Change, runs: Ahead, paired: bool, *, given: bool) -> None:
    """What cannot be meant of a text that grows, or of prompts without another."""
    refuse_other_side(change, paired)
    source = change.source if isinstance(change.source, Activation) and change.edit.reads_source else None
    scope = "all" if given else runs.scope
    if not change.positions.is_everywhere or scope == "prompt":
        return
    if not runs.grows(change.site):
        if scope == "new":
            raise PositionError(f"scope='new', but {change.site!r} has the positions of another stream, where nothing is new")
    elif source is not None and source.pool != "mean" and source.own_positions is None and runs.ahead:
        raise ShapeMismatchError(
            f"{change!r} takes a value for every position, but other prompts have none at new tokens: "
            + ("name positions of the prompt, or " if given else "pass scope='prompt', or ")
            + "a source of one token, such as Activation(positions=-1)"
        )


def _widened(cell: Cell, runs: Ahead) -> Cell:
    """Scores and patterns of other runs, which attend to their prompts alone, with nothing at what is still to come."""
    places = []
    for where in cell.places:
        values, site = where.values, where.tensor
        if values is not None and values.exact and is_square(site) and runs.ahead:
            filler = torch.finfo(values.tensor.dtype).min if site.name == "scores" else 0.0
            tensor = torch.nn.functional.pad(values.tensor, (0, runs.ahead), value=filler)
            where = replace(where, values=replace(values, tensor=tensor))
        places.append(where)
    return replace(cell, places=tuple(places))
