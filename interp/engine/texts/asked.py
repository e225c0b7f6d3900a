"""What is asked of texts, in whatever form: prompts or pairs as tensors, one or several interventions as a list.

>>> several(None), several([None, change])                                  # doctest: +SKIP
([None], [None, Intervention(L2.z ← Activation(source))])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from interp.engine.families import encoded_pairs, given_changes, listed
from interp.errors import InputError
from interp.interventions import Change, Intervention
from interp.models import Encoded, Model, Tokens
from interp.models.encoding import as_prompt
from interp.models.unpadded import unpadded
from interp.prompts import Pair, Pairs, Prompt

Asked = Intervention | Change | Sequence[Intervention | Change | None] | None
InForce = Intervention | Change | Sequence[Intervention | Change] | None


def several(given: Any) -> list[Intervention | None]:
    many = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    found = iter(listed([one for one in many if one is not None], "interventions") if many != [None] * len(many) else [])
    if not many:
        raise ValueError("interventions is an empty list; None is the model as it is")
    return [None if one is None else next(found) for one in many]


def as_pairs(model: Model, prompts: Any) -> tuple[Encoded, bool]:
    """Prompts or pairs as pairs, and whether they are pairs."""
    many = [prompts] if isinstance(prompts, str | Prompt | Pair) else prompts
    if isinstance(many, Encoded | Pairs) or (isinstance(many, Sequence) and many and isinstance(many[0], Pair)):
        return encoded_pairs(model, many), True
    if isinstance(many, Mapping) and isinstance(many.get("input_ids"), list) and isinstance(many["input_ids"][0], int):
        many = [many["input_ids"]]  # what a tokenizer returns for one text
    if isinstance(many, Tensor | Mapping):
        many = unpadded(many)
    if isinstance(many, Tokens) or not isinstance(many, Sequence):
        raise InputError(f"prompts is {type(prompts).__name__}; expected texts, token ids, interp.Prompt or interp.Pair")
    if any(isinstance(prompt, Mapping) for prompt in many):
        raise InputError(
            "prompts are chat messages; make a prompt of them first, with "
            "model.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)"
        )
    alone = tuple(Pair(prompt, prompt) for prompt in map(as_prompt, many))
    return encoded_pairs(model, Pairs(alone, "prompts")), False


def in_force(given: InForce) -> Intervention | None:
    """What is given, as one intervention of changes of its own: the same may be asked for again, at other positions."""
    found = given_changes(given)
    return None if found is None else replace(found, changes=tuple(map(replace, found.changes)))


def named(one: Intervention | None, given: Any) -> str:
    """What an intervention is called in a result."""
    if one is None:
        return "as it is" if given is None else "what is given"
    return repr(one)[len("Intervention(") : -1]
