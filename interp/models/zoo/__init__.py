"""Small models that ship with the package: trained ones with their cards, and networks whose weights are formulas.

    >>> names()
    ('induction-2l', 'language-4l')
    >>> interp.load("zoo/induction-2l")            # the folder path("induction-2l"), loaded like any other
    Model(zoo/induction-2l: layer 2, d_model 128, head 4, d_head 32, float32 on cpu)
    >>> series()
    ('induction-forming',)
    >>> checkpoints("induction-forming")[["seed", "step"]].head(2)   # name and path beside them: what interp.over takes
       seed  step
    0     0     0
    1     0    20

    >>> KNOWN["reverse"]()             # a network whose circuit is known edge by edge, with its prompts
    reverse: 11 of 94 edges, 102 pairs
    >>> interp.load("zoo/reverse")     # the network alone
    Model(zoo/reverse: layer 4, d_model 29, head 1, d_head 8, unit 6, float64 on cpu)
    >>> VERIFIED["induction-2l"]()     # a trained one, whose circuit was found and verified exactly
    induction-2l: 5 of 81 edges, 64 pairs

Importing this room makes transformers' Auto classes know the zoo's architecture (``register``), so ``AutoModelForCausalLM``
opens the folders too.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from interp.errors import UnknownNameError
from interp.models.zoo.backup import BACKUP, INTERFERING, PRIMARY, backup_construction, backup_prompts
from interp.models.zoo.compiled import Compiler, Variable
from interp.models.zoo.handmade import (
    INDUCTION_HEADS,
    EqualityRows,
    HierarchicalEquality,
    hierarchical_equality,
    induction_construction,
    induction_sequences,
    induction_tokenizer,
)
from interp.models.zoo.known import KNOWN, KnownCircuit
from interp.models.zoo.mlp import MLP
from interp.models.zoo.modeling import ZooConfig, ZooForCausalLM, register
from interp.models.zoo.rules import AndOr, PriceRows, PriceTagging, ThinEquality, and_or, price_tagging, thin_equality
from interp.models.zoo.verified import VERIFIED, WEIGHTS, VerifiedCircuit

__all__ = [
    "BACKUP",
    "INDUCTION_HEADS",
    "INTERFERING",
    "KNOWN",
    "MLP",
    "PRIMARY",
    "VERIFIED",
    "AndOr",
    "Compiler",
    "EqualityRows",
    "HierarchicalEquality",
    "KnownCircuit",
    "PriceRows",
    "PriceTagging",
    "ThinEquality",
    "Variable",
    "VerifiedCircuit",
    "ZooConfig",
    "ZooForCausalLM",
    "and_or",
    "backup_construction",
    "backup_prompts",
    "checkpoints",
    "hierarchical_equality",
    "induction_construction",
    "induction_sequences",
    "induction_tokenizer",
    "names",
    "path",
    "price_tagging",
    "series",
    "thin_equality",
]

register()


def names() -> tuple[str, ...]:
    """The trained models that ship with the package; for models stored while they were trained, see :func:`series`."""
    return tuple(sorted(folder.parent.name for folder in WEIGHTS.glob("*/config.json")))


def series() -> tuple[str, ...]:
    """What ships as many checkpoints of one training, from several seeds."""
    return tuple(sorted({folder.parents[2].name for folder in WEIGHTS.glob("*/seed*/step*/config.json")}))


def checkpoints(name: str) -> pd.DataFrame:
    """Every checkpoint of a series, by seed and step: a row each.

    Columns: ``seed`` and ``step`` (updates made, 0 = before the first) as integers, ``name`` as :func:`interp.load` takes it,
    and ``path`` of the folder. Rows may be dropped before the table goes to ``interp.over``.

    Raises:
        UnknownNameError: no such series.
    """
    found = name.removeprefix("zoo/")
    if found not in series():
        raise UnknownNameError("series of zoo models", name, series())
    rows = []
    for config in (WEIGHTS / found).glob("seed*/step*/config.json"):
        step, seed = config.parent, config.parents[1]
        numbers = (int(seed.name.removeprefix("seed")), int(step.name.removeprefix("step")))
        rows.append((*numbers, f"zoo/{found}/{seed.name}/{step.name}", step))
    return pd.DataFrame(sorted(rows, key=lambda row: row[:2]), columns=["seed", "step", "name", "path"])


def path(name: str) -> Path:
    """The folder of a shipped model: configuration, weights, tokenizer and card; ``zoo/`` before the name is allowed.

    Of a series the name goes on to the checkpoint: ``induction-forming/seed0/step0400``.

    Raises:
        UnknownNameError: no such model, with the near matches, or one of :data:`KNOWN`, which has no folder.
    """
    found = name.removeprefix("zoo/")
    first = found.split("/")[0]
    if first in series():
        return _checkpoint(found, first)
    if found not in names():
        why = f"it is made by formulas and has no folder; interp.load('zoo/{found}') makes it" if found in KNOWN else ""
        made = f"made by formulas, and without a folder: {', '.join(KNOWN)}"
        raise UnknownNameError("zoo model", found, (*names(), *series()), aliases=KNOWN, why=why, listing=made)
    return WEIGHTS / found


def _checkpoint(found: str, first: str) -> Path:
    table = checkpoints(first)
    if f"zoo/{found}" in set(table["name"]):
        return WEIGHTS / found
    seeds, steps = (", ".join(map(str, table[column].unique())) for column in ("seed", "step"))
    last = table["name"].iloc[-1]
    why = f"{first} is a series of {len(table)} checkpoints, seeds {seeds} at steps {steps}; write {last!r}"
    raise UnknownNameError("zoo model", found, [], why=why)
