"""Prompts of one run, and what is in force on them: the one place where prompts and ``given=`` become writes.

>>> asked = ask(model, ["Hello there", "Hi"], given=Intervention.of("L1H3.z", source=Constant(0.0)))   # doctest: +SKIP
>>> forward(model, asked.tokens, reads, None, asked.edits(torch.arange(2)))                            # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp.engine import provenance
from interp.engine.background import given_changes
from interp.engine.budget import Budget
from interp.engine.cells import Cell, check, fill, place
from interp.engine.edits import Edits
from interp.engine.precision import computed, float32
from interp.engine.prepared import expanded
from interp.engine.readout import Reader
from interp.engine.runs import Runs
from interp.errors import InputError, UnknownNameError
from interp.interventions import Activation, Change, Intervention
from interp.models import Encoded, Model, Tokens
from interp.models.encoding import as_prompt
from interp.models.unpadded import unpadded
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import LAST, Site

SIDES = ("clean", "corrupted")


@dataclass(frozen=True, eq=False)
class Asked:
    """Prompts as tensors, with the changes in force on them resolved."""

    model: Model
    encoded: Encoded
    """The prompts as pairs: those that came alone are paired with themselves."""
    side: str
    """Which of each pair is run."""
    paired: bool
    """Whether they came as pairs."""
    given: Intervention | None
    cells: Sequence[Cell]
    """What is given, with its values; empty if nothing is."""
    batch: int
    """Most prompts in one forward pass."""

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
        return [self._said(getattr(pair, self.side)) for pair in self.encoded.pairs]

    def edits(self, examples: Int[Tensor, " example"]) -> Edits | None:
        """The writes of some prompts; None if nothing is given."""
        if not self.cells:
            return None
        return Edits(self.cells, torch.stack([torch.zeros_like(examples), examples], dim=-1))

    def attrs(self) -> dict[str, Any]:
        """Where numbers of this run come from."""
        with float32():
            precision = computed()
        return provenance.identity(self.model, self.encoded) | {
            "side": self.side if self.paired else None,
            "given": None if self.given is None else repr(self.given),
            "device": str(self.model.device),
            "float32_precision": precision,
            "versions": provenance.versions(),
        }

    def _said(self, prompt: Prompt) -> str:
        if isinstance(prompt.text, str):
            return prompt.text
        words = self.model.tokenizer
        return " ".join(map(str, prompt.text)) if words is None else str(words.decode(list(prompt.text)))


def ask(
    model: Model,
    prompts: Any,
    *,
    given: Any = None,
    bos: Any = None,
    side: str = "clean",
    answers: Sequence[str | int] | None = None,
) -> Asked:
    """Encode prompts and resolve what is in force on them.

    Args:
        prompts: a text, token ids, a :class:`interp.Prompt`, a list of such, what a tokenizer returns, or pairs.
        given: interventions in force, as in :func:`interp.patch`; one that reads the other prompt needs pairs.
        bos: how texts begin, ``"model"``, True or False; by default as the model was loaded.
        side: of pairs, ``"clean"`` or ``"corrupted"``.
        answers: one token an example, or one for all, in place of the pairs' own.

    Raises:
        InputError: prompts of another kind, answers that are not one an example, or another prompt's values without one.
        UnknownNameError: another side, another way to begin.
        UnknownSiteError, HeadOutOfRangeError, OrderError, PositionError, ShapeMismatchError: what does not fit of ``given``.
    """
    if side not in SIDES:
        raise UnknownNameError("side", side, SIDES)
    if bos not in (None, "model", True, False):
        raise UnknownNameError("bos", bos, ("model", "True", "False"))
    pairs, paired = _pairs(prompts)
    if answers is not None:
        pairs = _answered(pairs.pairs if isinstance(pairs, Encoded) else pairs, answers)
    encoded = pairs if isinstance(pairs, Encoded) else model.encode(pairs, bos=bos)
    tokens: Tokens = getattr(encoded, side)
    reader = Reader(model, encoded, (), LAST, whole=False, columns=None)
    batch = min(Budget(model, reader, tokens.width).whole_rows(), 256)
    intervention = given_changes(model, given)
    intervention = None if intervention is None else expanded(intervention, model)
    cells: Sequence[Cell] = ()
    if intervention is not None:
        check([intervention], model)
        if not paired:
            for change in intervention.changes:
                _refuse_unpaired(change)
        runs = Runs(model, encoded, side, batch, reader)
        with float32(), torch.no_grad():
            cells = fill(place([intervention], runs), runs)
    return Asked(model, encoded, side, paired, intervention, cells, batch)


def _pairs(prompts: Any) -> tuple[Pairs | Encoded, bool]:
    """Prompts as pairs, and whether they came as pairs."""
    many: Any = [prompts] if isinstance(prompts, str | Prompt | Pair) else prompts
    if isinstance(many, Encoded | Pairs):
        return many, True
    if isinstance(many, Mapping) and isinstance(many.get("input_ids"), list) and isinstance(many["input_ids"][0], int):
        many = [many["input_ids"]]  # what a tokenizer returns for one text
    if isinstance(many, Tensor | Mapping):
        many = unpadded(many)
    if isinstance(many, Tokens) or not isinstance(many, Sequence) or not many:
        what = "empty" if isinstance(many, Sequence) else type(prompts).__name__
        raise InputError(f"prompts is {what}; expected a text, token ids, interp.Prompt, interp.Pair or a list of such")
    if all(isinstance(one, Pair) for one in many):
        return Pairs(tuple(many)), True
    if any(isinstance(one, Pair) for one in many):
        raise InputError("prompts holds pairs and prompts; give either")
    if any(isinstance(one, Mapping) for one in many):
        raise InputError(
            "prompts are chat messages; make a prompt of them first, with "
            "model.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)"
        )
    return Pairs(tuple(Pair(one, one) for one in map(as_prompt, many)), "prompts"), False


def _answered(pairs: Pairs, answers: Sequence[str | int]) -> Pairs:
    """The same pairs with one answer each."""
    if len(answers) not in (1, len(pairs)):
        raise InputError(f"{len(answers)} targets for {len(pairs)} prompts; give one, or one for each")
    every = list(answers) * (len(pairs) if len(answers) == 1 else 1)
    items = tuple(replace(pair, answers=(one,), wrong=()) for pair, one in zip(pairs, every, strict=True))
    return replace(pairs, items=items)


def _refuse_unpaired(change: Change) -> None:
    source = change.source if isinstance(change.source, Activation) and change.edit.reads_source else None
    of = source.prompt if source is not None else None
    if isinstance(of, str) and of in ("source", *SIDES):
        raise InputError(
            f"given: {change!r} takes its values from the {of} prompt, but these are no pairs: pass interp.Pair(clean, "
            "corrupted), or say whose values they are, as in Activation('another text'), Activation('base') or Constant(0.0)"
        )
