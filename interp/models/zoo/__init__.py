"""Small models that ship with the package: trained ones with their cards, and networks whose weights are formulas.

    >>> names()
    ('induction-2l', 'language-4l')
    >>> interp.load("zoo/induction-2l")            # the folder path("induction-2l"), loaded like any other

Importing this room makes transformers' Auto classes know the zoo's architecture (``register``), so ``AutoModelForCausalLM``
opens the folders too.
"""

from __future__ import annotations

from pathlib import Path

from interp.errors import UnknownNameError
from interp.models.zoo.backup import BACKUP, PRIMARY, backup_construction, backup_prompts
from interp.models.zoo.handmade import (
    INDUCTION_HEADS,
    EqualityRows,
    HierarchicalEquality,
    hierarchical_equality,
    induction_construction,
    induction_sequences,
    induction_tokenizer,
)
from interp.models.zoo.modeling import ZooConfig, ZooForCausalLM, register

__all__ = [
    "BACKUP",
    "INDUCTION_HEADS",
    "PRIMARY",
    "EqualityRows",
    "HierarchicalEquality",
    "ZooConfig",
    "ZooForCausalLM",
    "backup_construction",
    "backup_prompts",
    "hierarchical_equality",
    "induction_construction",
    "induction_sequences",
    "induction_tokenizer",
    "names",
    "path",
]

_WEIGHTS = Path(__file__).parent / "weights"

register()


def names() -> tuple[str, ...]:
    """The trained models that ship with the package."""
    return tuple(sorted(folder.parent.name for folder in _WEIGHTS.glob("*/config.json")))


def path(name: str) -> Path:
    """The folder of a shipped model: configuration, weights, tokenizer and card; ``zoo/`` before the name is allowed.

    Raises:
        UnknownNameError: no such model, with the near matches.
    """
    found = name.removeprefix("zoo/")
    if found not in names():
        raise UnknownNameError("zoo model", found, names())
    return _WEIGHTS / found
