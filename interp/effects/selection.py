"""In sample: whether a result was measured on the examples that selected it.

    >>> found = effects.top(first)                                                                     # doctest: +SKIP
    >>> second = interp.patch(model, pairs, cells_of(found))                                        # doctest: +SKIP
    >>> effects.mark_in_sample(second, selected_on=found).attrs["in_sample"]                         # doctest: +SKIP
    True

Cells, circuits and trained interventions are chosen for what they do on some examples, and do less on others. A result that is
marked carries ``attrs["in_sample"]``, and every figure of it says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import pandas as pd
import xarray as xr

from interp.effects.schema import EffectsError

Result = TypeVar("Result", xr.Dataset, xr.DataArray)
_PROMPTS = ("clean_prompt", "corrupted_prompt")
_TEMPLATE = "template"


def examples_of(source: xr.Dataset | xr.DataArray) -> dict[str, Any]:
    """Which examples a result is of, JSON: ``pairs_digest``, a digest of each example, and ``templates``; None where it does
    not say.
    """
    there = all(name in source.coords for name in _PROMPTS)
    templates = sorted({str(one) for one in source[_TEMPLATE].values.ravel()} - {""}) if _TEMPLATE in source.coords else []
    return {
        "pairs_digest": source.attrs.get("pairs_digest"),
        "examples": digests(*(source[name].values.ravel().tolist() for name in _PROMPTS)) if there else None,
        "templates": templates or None,
    }


def digests(clean: Iterable[str], corrupted: Iterable[str]) -> list[str]:
    """A short digest of each pair of prompts."""
    return [hashlib.sha256("\0".join(map(str, pair)).encode()).hexdigest()[:12] for pair in zip(clean, corrupted, strict=True)]


def mark_in_sample(result: Result, selected_on: xr.Dataset | xr.DataArray | pd.DataFrame | Mapping[str, Any]) -> Result:
    """``result`` with ``attrs["in_sample"]``: whether any of its examples took part in selecting what was measured.

    Examples are compared by their prompts, so halves of the same pairs are told apart; where one side has no prompts, the pairs
    are compared as a whole. ``attrs["in_sample_examples"]`` says how many they are, and ``attrs["in_sample_templates"]``, where
    both sides name theirs, how many of its templates took part. What is in sample already stays so.

    Args:
        result: what was measured.
        selected_on: what the selection was made on: the table of :func:`top`, the result that it was read from, or
            anything with ``attrs["selected_on"]``, such as the ``loss`` of a training; or that mapping itself.

    Raises:
        EffectsError: the two cannot be compared.
    """
    here: Mapping[str, Any] = examples_of(result)
    there: Mapping[str, Any] = _asked(selected_on)
    if here["examples"] is not None and there.get("examples") is not None:
        seen = set(there["examples"])
        count: int | None = sum(example in seen for example in here["examples"])
    elif here["pairs_digest"] is not None and there.get("pairs_digest") is not None:
        count = None if here["pairs_digest"] == there["pairs_digest"] else 0
    else:
        raise EffectsError(
            "whether this result is in sample cannot be told: neither the prompts (coordinates clean_prompt and "
            "corrupted_prompt) nor attrs['pairs_digest'] are there on both sides; give selected_on= the table of "
            "interp.top(…), or the result that the selection was read from"
        )
    before = bool(result.attrs.get("in_sample"))
    attrs: dict[str, Any] = {"in_sample": before or count != 0}
    if count is not None and not before:
        attrs["in_sample_examples"] = count
    if here["templates"] is not None and there.get("templates") is not None:
        attrs["in_sample_templates"] = len({*here["templates"]} & {*there["templates"]})
    return result.assign_attrs(attrs)


def _asked(source: Any) -> Mapping[str, Any]:
    if isinstance(source, Mapping) and not isinstance(source, xr.Dataset):
        return source
    found = getattr(source, "attrs", {}).get("selected_on")
    if isinstance(found, Mapping):
        return found
    if isinstance(source, xr.Dataset | xr.DataArray):
        return examples_of(source)
    raise EffectsError(
        f"selected_on says which examples made the selection: the table of interp.top(…), or a result; got "
        f"{type(source).__name__}"
    )
