"""Price tagging: does an amount lie between two bounds? One task, four algorithms (Wu et al., arXiv 2305.08809).

Prices are whole cents, so that comparing them is exact. ``left`` holds whether the amount is at least the lower bound; left
and right whether it is at least the one and at most the other; ``midpoint`` holds the middle and the width of the bounds;
``bracket`` holds both bounds as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from interp.errors import UnknownNameError
from interp.prompts import Prompt
from interp.tasks.causal_model import Boolean, CausalModel, CausalTask, Integer, Several
from interp.tasks.causal_model.kinds import Array, Kind, column, packed
from interp.tasks.template import Template

_BIT, _CENTS = Boolean(), Integer(0, 1000)
_WORDED = Template(
    "price_tagging",
    "Question: a shop asks between {lo} and {hi} dollars for it. Is {amount} dollars within that range? Answer with Yes or No."
    "\nAnswer:",
)


def price_tagging(form: Literal["numbers", "words"] = "numbers") -> CausalTask:
    """Whether lo ≤ amount ≤ hi.

    Args:
        form: ``"numbers"`` for networks whose input is ``x = [lo, hi, amount]`` in dollars and whose outputs are No and Yes;
            ``"words"`` for language models, all prices with two decimals, answers `` Yes`` and `` No``.

    Variables: ``L`` of model ``left``; ``L`` and ``R`` of ``left and right``; ``M`` and ``H`` of ``midpoint``, twice the middle
    and the width in cents; ``B`` of ``bracket``.

    Raises:
        UnknownNameError: another form.
    """
    if form not in ("numbers", "words"):
        raise UnknownNameError("form", form, ("numbers", "words"))
    sides = {"L": lambda lo, amount: lo <= amount, "R": lambda amount, hi: amount <= hi, "O": lambda L, R: L & R}
    inputs: dict[str, Kind] = {"lo": _CENTS, "hi": _CENTS, "amount": _CENTS}
    both: dict[str, Kind] = {**inputs, "L": _BIT, "R": _BIT, "O": _BIT}
    models = {
        "left": CausalModel(both, sides, output="O", name="left"),
        "left and right": CausalModel(both, sides, output="O", name="left and right"),
        "midpoint": CausalModel(
            {**inputs, "M": Integer(0, 2000), "H": _CENTS, "O": _BIT},
            {
                "M": lambda lo, hi: lo + hi,
                "H": lambda lo, hi: hi - lo,
                "O": lambda M, H, amount: np.abs(2 * amount - M) <= H,
            },
            output="O",
            name="midpoint",
        ),
        "bracket": CausalModel(
            {**inputs, "B": Several((_CENTS, _CENTS)), "O": _BIT},
            {
                "B": lambda lo, hi: packed([lo, hi]),
                "O": lambda B, amount: (column(B, 0) <= amount) & (amount <= column(B, 1)),
            },
            output="O",
            name="bracket",
        ),
    }
    return CausalTask(
        "price tagging",
        models,
        {"train": _prices, "test": _prices},
        _numbers if form == "numbers" else _words,
        int if form == "numbers" else lambda value: " Yes" if value else " No",
        variables={"left": ("L",), "left and right": ("L", "R"), "midpoint": ("M",), "bracket": ("B",)},
        template=None if form == "numbers" else lambda row: _WORDED.id,
    )


def _prices(n: int, draw: np.random.Generator) -> Mapping[str, Array]:
    """Widths uniform in 2.50 to 7.50, the lower bound in what is left of 0.05 to 9.95, the amount in 0.01 to 9.99."""
    width = draw.integers(250, 751, size=n)
    lo = np.round(draw.uniform(5, 995 - width)).astype(int)
    return {"lo": lo, "hi": lo + width, "amount": draw.integers(1, 1000, size=n)}


def _numbers(row: Mapping[str, Any]) -> Prompt:
    return Prompt(inputs={"x": np.array([row["lo"], row["hi"], row["amount"]], dtype=np.float32) / 100})


def _words(row: Mapping[str, Any]) -> Prompt:
    return _WORDED.render(**{name: f"{row[name] / 100:.2f}" for name in ("lo", "hi", "amount")})
