"""Tasks: generators of prompt pairs with answers, roles, templates and entities.

    >>> from interp import tasks
    >>> tasks.names()
    ('arithmetic', 'causal_gym', 'causal_sentences', 'facts', 'gender_bias', 'greater_than', 'induction', 'ioi')
    >>> tasks.make("ioi", 64, seed=0, corruption="abc") == tasks.ioi(64, seed=0, corruption="abc")
    True

The same arguments give the same pairs, bit for bit, on every machine; a larger ``n`` only adds pairs at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from interp.errors import UnknownNameError
from interp.prompts import Pairs
from interp.protocols import Tokenizer
from interp.tasks import causal_model, lexicon
from interp.tasks.algorithms import (
    and_or,
    attributes,
    binding,
    comparison,
    equality_of_vectors,
    hierarchical_equality,
    ioi_algorithm,
    price_tagging,
)
from interp.tasks.causal_gym import GYM, GYM_GROUPS, GymTask, causal_gym, gym_tasks, read_gym, read_gym_pairs
from interp.tasks.causal_model import CausalModel, CausalTask, Counterfactuals
from interp.tasks.causal_sentences import CAUSAL_TEMPLATES, causal_sentences, render_causal
from interp.tasks.circuits import (
    CIRCUITS,
    GREATER_THAN_HEADS,
    IOI_HEADS,
    docstring_circuit,
    greater_than_circuit,
    ioi_circuit,
)
from interp.tasks.facts import FACTS, facts, render_fact
from interp.tasks.gender_bias import GENDER_BIAS_TEMPLATES, OCCUPATIONS, gender_bias, render_gender_bias
from interp.tasks.indirect_object import IOI_TEMPLATES, ioi, render_ioi
from interp.tasks.known import RELATIONS
from interp.tasks.repeats import induction, render_induction
from interp.tasks.sums import ARITHMETIC_FORMS, arithmetic, render_arithmetic
from interp.tasks.template import Template
from interp.tasks.years import GREATER_THAN_TEMPLATES, greater_than, render_greater_than

#: Generators by name; each takes ``n, *, seed, tokenizer`` and arguments of its own.
TASKS: Mapping[str, Callable[..., Pairs]] = {
    "arithmetic": arithmetic,
    "causal_gym": causal_gym,
    "causal_sentences": causal_sentences,
    "facts": facts,
    "gender_bias": gender_bias,
    "greater_than": greater_than,
    "induction": induction,
    "ioi": ioi,
}


def names() -> tuple[str, ...]:
    """The names that :func:`make` knows."""
    return tuple(TASKS)


def make(name: str, /, n: int = 64, *, seed: int = 0, tokenizer: Tokenizer | None = None, **arguments: Any) -> Pairs:
    """Pairs of the task called ``name``; ``arguments`` are the generator's own.

    Raises:
        UnknownNameError: no such task, with the nearest names.
    """
    if name not in TASKS:
        raise UnknownNameError("task", name, TASKS)
    return TASKS[name](n, seed=seed, tokenizer=tokenizer, **arguments)


__all__ = [
    "ARITHMETIC_FORMS", "CAUSAL_TEMPLATES", "CIRCUITS", "FACTS", "GENDER_BIAS_TEMPLATES", "GREATER_THAN_HEADS",
    "GREATER_THAN_TEMPLATES", "GYM", "GYM_GROUPS", "IOI_HEADS", "IOI_TEMPLATES", "OCCUPATIONS", "RELATIONS", "TASKS",
    "CausalModel", "CausalTask", "Counterfactuals", "GymTask", "Template", "and_or", "arithmetic", "attributes", "binding",
    "causal_gym", "causal_model", "causal_sentences", "comparison", "docstring_circuit", "equality_of_vectors", "facts",
    "gender_bias", "greater_than", "greater_than_circuit", "gym_tasks", "hierarchical_equality", "induction", "ioi",
    "ioi_algorithm", "ioi_circuit", "lexicon", "make", "names", "price_tagging", "read_gym", "read_gym_pairs",
    "render_arithmetic", "render_causal", "render_fact", "render_gender_bias", "render_greater_than", "render_induction",
    "render_ioi",
]  # fmt: skip
