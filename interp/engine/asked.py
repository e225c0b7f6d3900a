"""What is asked for, in whatever form: pairs, prompts, interventions.

>>> listed(Change("L1.z"))
[Intervention(L1.z ← Activation(source))]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from interp.errors import InputError
from interp.interventions import Activation, Change, Intervention
from interp.models import Encoded, Model, Tokens
from interp.models.encoding import Bos, as_prompts
from interp.models.unpadded import unpadded
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import Grid

Asked = Intervention | Change | Sequence[Intervention | Change | None] | None
"""What is run: None is the model as it is."""
BASE = {"denoising": "corrupted", "noising": "clean"}
"""Which prompts of the pairs are the base."""


def require_model(model: Any) -> None:
    """Raise if it was not loaded by this library."""
    if not isinstance(model, Model):
        what = f"the text {model!r}" if isinstance(model, str) else f"a {type(model).__name__}"
        raise InputError(f"model is {what}; pass what interp.load(…) returns, which takes a name, a folder or a live module")


def encoded_pairs(model: Model, pairs: Any, bos: Bos | None = None) -> Encoded:
    """Pairs in whatever form they were given, as tensors."""
    require_model(model)
    return pairs if isinstance(pairs, Encoded) else model.encode(_pairs(pairs), bos=bos)


def prompts_alone(model: Model, encoded: Encoded) -> Encoded:
    """The same prompts without tokens of answers behind them, for what goes on with them otherwise."""
    if not encoded.forced:
        return encoded
    bare = Pairs(tuple(replace(pair, answers=(), wrong=()) for pair in encoded.pairs))
    return replace(model.encode(bare, bos=encoded.asked), pairs=encoded.pairs)


def _pairs(pairs: Any) -> Pairs:
    if isinstance(pairs, Pairs):
        return pairs
    many = one_or_more(pairs)
    if not many or not all(isinstance(pair, Pair) for pair in many):
        raise ValueError(
            f"pairs is {type(pairs).__name__ if many else 'empty'}; expected interp.Pairs from a task such as "
            "interp.tasks.ioi(64), interp.pairs(clean, counterfactual, answer, wrong), interp.Pair or a list of them, or "
            "model.encode(pairs)"
        )
    return Pairs(tuple(many))


def one_or_more(given: Any) -> list[Any]:
    """One or several of something, as a list; a word is one."""
    return list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]


def listed(where: Any, argument: str = "where") -> list[Intervention]:
    """Interventions from one or several, changes being interventions of one change."""
    grids = (
        "a grid such as interp.grid('resid_pre', layer=...), a mapping of names to grids, or " if argument == "where" else ""
    )
    many = one_or_more(where)
    for one in many:
        if isinstance(one, Grid) and argument == "where":
            raise ValueError(f"where holds {one!r} in a list; several grids are given by name: {{'first': interp.grid(…), …}}")
        if not isinstance(one, Intervention | Change):
            raise ValueError(
                f"{argument} holds {one!r} of type {type(one).__name__}; expected {grids}interventions such as "
                "interp.Change('L9H6.z', -1, edit=interp.Scale(0.0))"
            )
    if not many:
        raise ValueError(f"{argument} is an empty list; give at least one intervention")
    return [one if isinstance(one, Intervention) else Intervention((one,)) for one in many]


def several(interventions: Any) -> list[Intervention | None]:
    """One or several, of which None is the model as it is."""
    many = one_or_more(interventions)
    if not many:
        raise ValueError("interventions is an empty list; None is the model as it is")
    real = [one for one in many if one is not None]
    found = iter(listed(real, "interventions") if real else [])
    return [None if one is None else next(found) for one in many]


def named(one: Intervention | None, given: Any) -> str:
    """What an intervention is called in a result."""
    if one is None:
        return "as it is" if given is None else "what is given"
    return one.in_words


def asked_pairs(model: Model, pairs: Any) -> tuple[Encoded, bool]:
    """Pairs or prompts with their answers behind them, and whether they are pairs."""
    found, paired = as_pairs(pairs, "pairs")
    return encoded_pairs(model, found), paired


def contrasted(encoded: Encoded) -> bool:
    """Whether any prompt has a counterfactual; those that came alone are paired with themselves."""
    return any(one.clean is not one.corrupted and one.clean.spec() != one.corrupted.spec() for one in encoded.pairs)


def asked_prompts(model: Model, prompts: Any, bos: Bos | None = None) -> tuple[Encoded, bool]:
    """Prompts or pairs as pairs without answers behind them, and whether they are pairs."""
    pairs, paired = as_pairs(prompts)
    return prompts_alone(model, encoded_pairs(model, pairs, bos)), paired


def as_pairs(prompts: Any, argument: str = "prompts") -> tuple[Pairs | Encoded, bool]:
    """Prompts or pairs as pairs, a prompt that came alone with itself; and whether they are pairs.

    Args:
        argument: what the caller's user calls them.

    Raises:
        InputError: prompts of another kind, none, or pairs and prompts together.
    """
    many: Any = [prompts] if isinstance(prompts, str | Prompt | Pair) else prompts
    if isinstance(many, Encoded | Pairs):
        return many, True
    if isinstance(many, Mapping) and isinstance(many.get("input_ids"), list) and isinstance(many["input_ids"][0], int):
        many = [many["input_ids"]]  # what a tokenizer returns for one text
    if isinstance(many, Tensor | Mapping):
        many = unpadded(many)
    if isinstance(many, Tokens) or not isinstance(many, Sequence) or not many:
        what = "empty" if isinstance(many, Sequence) else type(prompts).__name__
        raise InputError(
            f"{argument} is {what}; expected a text, token ids, chat messages, interp.Prompt, interp.Pair, or a list of such, "
            "or pairs as interp.pairs(…) or a task makes them, interp.tasks.ioi(64)"
        )
    if all(isinstance(one, Pair) for one in many):
        return Pairs(tuple(many)), True
    if any(isinstance(one, Pair) for one in many):
        raise InputError(f"{argument} holds pairs and prompts; give either")
    return Pairs(tuple(Pair(prompt, prompt) for prompt in as_prompts(many)), "prompts"), False


def said(model: Model, prompt: Prompt) -> str:
    """A prompt as text."""
    return prompt.text if isinstance(prompt.text, str) else in_text(model, prompt.text)


def in_text(model: Model, ids: Sequence[int]) -> str:
    """Token ids as text, or as numbers where there is no tokenizer."""
    return " ".join(map(str, ids)) if model.tokenizer is None else str(model.tokenizer.decode(list(ids)))


def side_in_words(side: str | None, n: int) -> str:
    """Which prompts of n pairs were run; empty if they were no pairs.

    >>> side_in_words("corrupted", 16), side_in_words(None, 16)
    ('corrupted prompts of 16 pairs', '')
    """
    return "" if side is None else f"{side} prompts of {n} pairs" if n > 1 else f"{side} prompt of 1 pair"


def alone(model: Model, encoded: Encoded) -> Encoded:
    """The clean prompts of pairs, each paired with itself."""
    pairs = encoded.pairs
    if all(pair.clean is pair.corrupted for pair in pairs):
        return encoded
    each = tuple(replace(pair, corrupted=pair.clean) for pair in pairs)
    return model.encode(replace(pairs, items=each), bos=encoded.asked)


def together(given: Any, argument: str) -> Intervention | None:
    """One or several interventions or changes as one, in their order; None of none."""
    if given is None or (isinstance(given, Sequence) and not given):
        return None
    many = listed(given, argument)
    return Intervention(tuple(change for one in many for change in one.changes), ordered=len(many) > 1 or many[0].ordered)


def refuse_circle(corruption: Intervention) -> None:
    """Raise if what makes the corrupted run takes its values from there."""
    for change in corruption.changes:
        source = change.source
        if isinstance(source, Activation) and change.edit.reads_source and source.prompt in ("source", "corrupted"):
            raise InputError(
                f"corruption: {change!r} takes its values from the {source.prompt} run, which the corruption itself makes; "
                "take them from the clean one, Activation('clean'), from other prompts, a mean or noise"
            )


def refuse_other_side(change: Change, paired: bool) -> None:
    """Raise if a change takes its values from the other prompt of a pair, and there is none."""
    source = change.source if isinstance(change.source, Activation) and change.edit.reads_source else None
    of = source.prompt if source is not None else None
    if not paired and source is not None and source.of_pairs and of != "base":
        raise InputError(
            f"{change!r} takes its values from the {of} prompt, but these are no pairs: pass interp.Pair(clean, corrupted), "
            "or say whose values they are, as in Activation('another text'), Activation('base') or Constant(0.0)"
        )
    if source is not None and source.given is not None:
        for inner in (one for intervention in listed(source.given, "given") for one in intervention.changes):
            refuse_other_side(inner, paired)
