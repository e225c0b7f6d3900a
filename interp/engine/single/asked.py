"""Prompts of one run, and what is in force on them: the one place where prompts and ``given=`` become writes.

>>> asked = ask(model, ["Hello there", "Hi"], given=Intervention.of("L1H3.z", source=Constant(0.0)))   # doctest: +SKIP
>>> runs = asked.start()                                                                               # doctest: +SKIP
>>> asked.give(runs)                                                                                   # doctest: +SKIP
>>> runs.logits("base").shape                                                                          # doctest: +SKIP
torch.Size([2, 1, 49152])
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from interp.engine import provenance
from interp.engine.asked import as_pairs, prompts_alone, refuse_other_side, require_model, said
from interp.engine.background import give, given_changes
from interp.engine.budget import Budget
from interp.engine.cells import Cell, check, expanded, place
from interp.engine.precision import computed, float32
from interp.engine.readout import Reader
from interp.engine.runs import Runs
from interp.errors import UnknownNameError
from interp.interventions import Intervention
from interp.models import Encoded, Model, Tokens
from interp.prompts import Pairs
from interp.sites import LAST, Positions, Site

SIDES = ("clean", "corrupted")


@dataclass(frozen=True, eq=False)
class Asked:
    """Prompts as tensors, and what is in force on them."""

    model: Model
    encoded: Encoded
    """The prompts as pairs: those that came alone are paired with themselves."""
    side: str
    """Which of each pair is run."""
    paired: bool
    """Whether they came as pairs."""
    given: Intervention | None
    """With one change for each call of a module that has several."""

    @property
    def tokens(self) -> Tokens:
        """The prompts that are run."""
        found: Tokens = getattr(self.encoded, self.side)
        return found

    @property
    def changed(self) -> list[Site]:
        """Every tensor that is changed."""
        return [] if self.given is None else [change.site.tensor for change in self.given.changes]

    @property
    def prompts(self) -> list[str]:
        """What every prompt says; ids are decoded where there is a tokenizer."""
        return [said(self.model, getattr(pair, self.side)) for pair in self.encoded.pairs]

    def start(self, positions: Positions = LAST, *, whole: bool = False, rows: int | None = None) -> Runs:
        """Runs of these prompts, with nothing in force yet.

        Args:
            positions: where logits are read.
            whole: the logits of every position are needed.
            rows: most prompts in one pass; by default what a memory budget allows.
        """
        reader = Reader(self.model, self.encoded, (), positions, whole=whole, columns=None)
        budget = Budget(self.model, reader, self.tokens.width, rows)
        return Runs(self.model, self.encoded, self.side, budget.batch, reader, budget)

    def give(self, runs: Runs) -> list[Cell]:
        """Put what is given in force on the base of such runs; see :func:`interp.engine.background.give`."""
        with float32(), torch.no_grad():
            return give(runs, None if self.given is None else place([self.given], runs)[0])

    def attrs(self) -> dict[str, Any]:
        """Where numbers of this run come from."""
        with float32():
            precision = computed()
        return provenance.identity(self.model, self.encoded) | {
            "task": self.encoded.pairs.task if self.paired else None,
            "side": self.side if self.paired else None,
            "given": None if self.given is None else repr(self.given),
            "device": str(self.model.device),
            "float32_precision": precision,
            "versions": provenance.versions(),
        }


def ask(
    model: Model,
    prompts: Any,
    *,
    given: Any = None,
    bos: Any = None,
    side: str = "clean",
    answered: Pairs | None = None,
) -> Asked:
    """Encode prompts and check what is in force on them; nothing is run.

    Args:
        prompts: a text, token ids, a :class:`interp.Prompt`, a list of such, what a tokenizer returns, or pairs.
        given: interventions in force, as in :func:`interp.patch`; one that reads the other prompt needs pairs.
        bos: how texts begin, ``"model"``, True or False; by default as the model was loaded.
        side: of pairs, ``"clean"`` or ``"corrupted"``.
        answered: the same prompts with other answers, which take the place of their own.

    Raises:
        InputError: prompts of another kind, or another prompt's values without one.
        UnknownNameError: another side, another way to begin.
        UnknownSiteError, HeadOutOfRangeError, OrderError: what does not fit of ``given``.
    """
    if side not in SIDES:
        raise UnknownNameError("side", side, SIDES)
    if bos not in (None, "model", True, False):
        raise UnknownNameError("bos", bos, ("model", "True", "False"))
    require_model(model)
    pairs, paired = as_pairs(prompts)
    if answered is not None:
        pairs, bos = answered, pairs.asked if isinstance(pairs, Encoded) else bos
    whole = pairs if isinstance(pairs, Encoded) else model.encode(pairs, bos=bos)
    encoded = replace(prompts_alone(model, whole), answers=whole.answers)
    intervention = given_changes(model, given)
    intervention = None if intervention is None else expanded(intervention, model)
    if intervention is not None:
        check([intervention], model)
        for change in intervention.changes:
            refuse_other_side(change, paired)
    return Asked(model, encoded, side, paired, intervention)
