"""Whether a model does a task at all, before anything is patched: tokens, accuracy, margins, failures.

    >>> found = interp.check(model, pairs)                                                    # doctest: +SKIP
    >>> found                                                                                 # doctest: +SKIP
    17 of 20 correct …
    >>> interp.patch(model, found.kept, interp.grid("resid_post", layer=...))                 # doctest: +SKIP

Printed, it is a page; what it says is in its attributes too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from interp.engine.asked import encoded_pairs
from interp.engine.background import refuse_background
from interp.engine.budget import Budget
from interp.engine.precision import float32
from interp.engine.readout import Reader
from interp.engine.runs import Runs
from interp.engine.side_by_side import aligned, counts
from interp.errors import AnswerError, UnknownNameError
from interp.metrics import FromLogits, resolve
from interp.models import Encoded, Model
from interp.models.encoding import Bos
from interp.prompts import Answer, Pairs
from interp.stats import bootstrap_mean

By = Literal["margin", "top1"]
_SHOWN = 5
"""Failures that are printed."""


@dataclass(frozen=True, eq=False, repr=False)
class Check:
    """What a model does on some pairs. Values are by example, of the prompts without intervention."""

    model: Model
    encoded: Encoded
    by: By
    clean: dict[str, np.ndarray[Any, Any]]
    """On the clean prompts: ``margin`` (logit of the answer minus the wrong one's), ``top1``, ``logprob``, ``says``."""
    corrupted: dict[str, np.ndarray[Any, Any]]
    """The same on the counterfactual ones."""

    @property
    def pairs(self) -> Pairs:
        return self.encoded.pairs

    @property
    def n(self) -> int:
        """How many pairs there are."""
        return len(self.pairs)

    @property
    def right(self) -> np.ndarray[Any, Any]:
        """``[example]``, whether the model gets the clean prompt right."""
        return self.clean["margin"] > 0 if self.by == "margin" else self.clean["top1"] > 0

    @property
    def passed(self) -> int:
        """How many of them the model gets right."""
        return int(self.right.sum())

    @cached_property
    def kept(self) -> Pairs:
        """The pairs that the model gets right, which remember how many of how many these are: ``made_by["check"]``."""
        how = {
            "correct": self.passed,
            "of": self.n,
            "by": _BY[self.by],
            "model": self.model.name,
            "model_digest": self.model.digest,
        }
        items = tuple(pair for pair, right in zip(self.pairs, self.right, strict=True) if right)
        return replace(self.pairs, items=items, made_by={**self.pairs.made_by, "check": how})

    @cached_property
    def answer_tokens(self) -> list[tuple[str, ...]]:
        """The tokens of each pair's first answer, as they follow its prompt."""
        return [spelt[0] if spelt else () for spelt in self.encoded.answered.right_strings]

    @cached_property
    def wrong_tokens(self) -> list[tuple[str, ...]]:
        """The same of its first wrong answer."""
        return [spelt[0] if spelt else () for spelt in self.encoded.answered.wrong_strings]

    @property
    def several(self) -> list[int]:
        """Examples whose answer is several tokens."""
        return [i for i, tokens in enumerate(self.answer_tokens) if len(tokens) > 1]

    @property
    def alike(self) -> list[int]:
        """Examples whose answer and wrong answer begin with the same token."""
        both = zip(self.answer_tokens, self.wrong_tokens, strict=True)
        return [i for i, (answer, wrong) in enumerate(both) if answer[:1] and answer[:1] == wrong[:1]]

    @property
    def unequal(self) -> list[int]:
        """Examples whose two prompts differ in their number of tokens."""
        both = zip(counts(self.encoded.clean), counts(self.encoded.corrupted), strict=True)
        return [i for i, (clean, corrupted) in enumerate(both) if clean != corrupted]

    def says(self, example: int, side: Literal["clean", "corrupted"] = "clean") -> str:
        """The most likely next token."""
        return _decoded(self.model, [int(getattr(self, side)["says"][example])])[0]

    def table(self) -> Any:
        """A row for each pair, as a data frame of pandas."""
        import pandas as pd

        pairs, lengths = self.pairs, {side: counts(getattr(self.encoded, side)) for side in ("clean", "corrupted")}
        columns: dict[str, Any] = {
            "template": [pair.template for pair in pairs],
            "clean": [_text(pair.clean.text) for pair in pairs],
            "counterfactual": [_text(pair.corrupted.text) for pair in pairs],
            "answer": [_listed(pair.answers) for pair in pairs],
            "wrong": [_listed(pair.wrong) for pair in pairs],
            "right": self.right,
            "says": [self.says(i) for i in range(self.n)],
            "says_counterfactual": [self.says(i, "corrupted") for i in range(self.n)],
        }
        for name in self.clean:
            if name != "says":
                columns |= {name: self.clean[name], f"{name}_counterfactual": self.corrupted[name]}
        columns |= {"tokens": lengths["clean"], "tokens_counterfactual": lengths["corrupted"]}
        columns |= {"answer_tokens": [len(tokens) for tokens in self.answer_tokens]}
        return pd.DataFrame(columns).rename_axis("example")

    def __repr__(self) -> str:
        lines = [f"{self.pairs!r} on {self.model.name}: {self.passed} of {self.n} correct ({_BY[self.by]} on the clean prompt)"]
        pair, says = self.pairs[0], [self.says(0, "clean"), self.says(0, "corrupted")]
        closing = f"  answer {_listed(pair.answers)}{f', wrong {_listed(pair.wrong)}' if pair.wrong else ''}; "
        closing += f"the model says {says[0]!r}, and {says[1]!r} to the counterfactual"
        shown = [*aligned(self.encoded), closing]
        return "\n".join([*lines, *self._numbers(), *self._lengths(), *self._failures(), "", *shown])

    def _numbers(self) -> list[str]:
        sides = (("clean", self.clean), ("counterfactual", self.corrupted))
        width = max(len(name) for name, _ in sides)
        templates = [pair.template for pair in self.pairs]
        lines = []
        for name, values in sides:
            said = []
            if "margin" in values:
                mean, low, high = bootstrap_mean(values["margin"], templates)[:3]
                said.append(f"answer above wrong {(values['margin'] > 0).mean():4.0%}")
                interval = "" if np.isnan(low) else f" [{float(low):+.2f}, {float(high):+.2f}]"
                said.append(f"margin {float(mean):+.2f}{interval} logits")
            mean = bootstrap_mean(values["logprob"], templates).mean
            said += [f"answer on top {values['top1'].mean():4.0%}", f"log-probability {float(mean):.2f} nats"]
            lines.append(f"  {name:{width}}  {', '.join(said)}")
        return lines

    def _lengths(self) -> list[str]:
        lengths = {*counts(self.encoded.clean), *counts(self.encoded.corrupted)}
        spread = f"{min(lengths)} to {max(lengths)}" if len(lengths) > 1 else f"{min(lengths)}"
        lines = [f"  prompts of {spread} tokens; {_bos(self.encoded, self.model)}"]
        if self.unequal:
            lines.append(
                f"  {len(self.unequal)} of {self.n} pairs differ in their number of tokens ({_few(self.unequal)}): sweep roles "
                "or negative positions, not raw ones"
            )
        if self.several:
            tokens = " + ".join(map(repr, self.answer_tokens[self.several[0]]))
            lines.append(f"  {len(self.several)} answers are several tokens ({_few(self.several)}), such as {tokens}")
        if self.alike:
            lines.append(
                f"  {len(self.alike)} answers begin with the same token as the wrong one ({_few(self.alike)}), such as "
                f"{self.answer_tokens[self.alike[0]][0]!r}"
            )
        return lines

    def _failures(self) -> list[str]:
        failed = np.flatnonzero(~self.right).tolist()
        lines = [f"  not correct: {_few(failed)}"] if failed else []
        for i in failed[:_SHOWN]:
            pair, prompt = self.pairs[i], _text(self.pairs[i].clean.text)
            margin = f", margin {self.clean['margin'][i]:+.2f}" if "margin" in self.clean else ""
            lines.append(f"    {i:>3}  …{prompt[-40:]!r} says {self.says(i)!r}, not {_listed(pair.answers)}{margin}")
        return lines


_BY = {"margin": "the answer's logit above the wrong one's", "top1": "the answer the most likely token"}


def check(model: Model, pairs: Any, *, by: By | None = None, bos: Bos | None = None) -> Check:
    """Run a model on both prompts of every pair and say how well it does.

    Args:
        pairs: :class:`interp.Pairs`, a pair or a list of them, or what ``model.encode`` made of them.
        by: what counts as right on the clean prompt: ``"margin"``, that the answer's logit is above the wrong one's, the
            default where all pairs have a wrong answer; or ``"top1"``, that the answer is the most likely token of all.
        bos: as in :func:`interp.load`; by default the model's own.

    Raises:
        AnswerError: pairs without answers, or ``by="margin"`` of pairs without wrong ones.
        OrderError: the model is edited.
    """
    refuse_background(model, "interp.check")
    encoded = encoded_pairs(model, pairs, bos)
    if lacking := [i for i, pair in enumerate(encoded.pairs) if not pair.answers]:
        raise AnswerError(
            f"{len(lacking)} of {len(encoded)} pairs have no answer (examples {_few(lacking)}), so nothing is right"
        )
    contrasted = all(pair.wrong for pair in encoded.pairs)
    if by not in (None, *_BY):
        raise UnknownNameError("by", by, _BY)
    if by == "margin" and not contrasted:
        raise AnswerError("by='margin' compares with a wrong answer, which some pairs lack; by='top1' needs none")
    names = ["top1", "logprob", *(["logit_diff"] if contrasted else [])]
    measured = _measured(model, encoded, names)
    clean, corrupted = ({("margin" if k == "logit_diff" else k): v for k, v in side.items()} for side in measured)
    return Check(model, encoded, by or ("margin" if contrasted else "top1"), clean, corrupted)


def _measured(model: Model, encoded: Encoded, names: Sequence[str]) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Metrics of the clean and of the corrupted prompts, by example, with the most likely token's id."""

    def says(logits: Tensor) -> Tensor:
        return logits.argmax(-1)

    metrics = (*resolve(list(names)), FromLogits(says, "says"))
    reader = Reader.of(model, encoded, metrics)
    runs = Runs(model, encoded, "clean", Budget(model, reader, encoded.clean.width).batch, reader)
    everyone = torch.arange(len(encoded), device=model.device)
    with torch.no_grad(), model.prepared(), float32():
        runs.want_logits("clean", "corrupted")
        sides = [reader.measure(runs.logits(side), everyone, runs.reference).cpu().numpy() for side in ("clean", "corrupted")]
    return [{metric.name: values for metric, values in zip(metrics, side, strict=True)} for side in sides]


def _decoded(model: Model, ids: Sequence[Any]) -> tuple[str, ...]:
    """Token ids as text, or as numbers where there is no tokenizer; an answer may be several of them."""
    flat = [token for one in ids for token in (one if isinstance(one, tuple) else (one,))]
    return tuple(str(token if model.tokenizer is None else model.tokenizer.decode([token])) for token in flat)


def _bos(encoded: Encoded, model: Model) -> str:
    """Whether the prompts begin with BOS, and what could be otherwise."""
    if model.tokenizer is None:
        return "no tokenizer, so no BOS"
    token = model.tokenizer.bos_token_id
    if token is None:
        return "no BOS, which the tokenizer does not have"
    begins = [
        bool(first)
        for side in (encoded.clean, encoded.corrupted)
        if side.ids is not None
        for first in side.ids[torch.arange(len(side)), side.first] == token
    ]
    how = "all" if begins and all(begins) else "only some" if any(begins) else "none"
    mend = "" if how == "all" else "; bos=True puts it in front"
    return f"{how} begin with BOS {model.tokenizer.decode([token])!r} (bos={encoded.asked!r}{mend})"


def _text(text: str | tuple[int, ...]) -> str:
    return text if isinstance(text, str) else " ".join(map(str, text))


def _listed(answers: Sequence[Answer]) -> str:
    return " / ".join(map(repr, answers[:3])) + (f" / … ({len(answers)})" if len(answers) > 3 else "")


def _few(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (", …" if len(numbers) > 8 else "")
