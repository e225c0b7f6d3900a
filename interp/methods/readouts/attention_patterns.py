"""Attention patterns with tokens on both axes, and the usual numbers that say what a head attends to.

    >>> ds = interp.attention(model, "one two three one two", layers=[3, 4])                   # doctest: +SKIP
    >>> ds.induction.isel(example=0).to_series().nlargest(3)                                # doctest: +SKIP
    >>> interp.views.attention(ds)                                                          # doctest: +SKIP

With A[p, q] what position p of a prompt of n tokens t attends to q:

- entropy[p] = −Σ_q A[p, q] log A[p, q], in nats;
- previous_token = mean over p ≥ 1 of A[p, p−1];
- first_token = mean over p ≥ 1 of A[p, 0] (position 0 can attend to nothing else);
- duplicate_token = mean, over p whose token occurred before, of Σ A[p, q] over q < p with t_q = t_p;
- induction = mean, over p whose token occurred before p−1, of Σ A[p, q+1] over q < p−1 with t_q = t_p: attention to what
  followed an earlier occurrence (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; Olsson et al. 2022,
  "In-context Learning and Induction Heads").

A mean over no positions is NaN. Padding is no position, and neither is one that ``position`` leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import index
from typing import Any

import numpy as np
import xarray as xr

from interp import axes
from interp.engine.single.asked import Asked
from interp.engine.single.cache import ask_checked, cached
from interp.engine.single.chosen import Chosen
from interp.errors import HeadOutOfRangeError, InputError
from interp.methods.registry import Method
from interp.models import Bos, Model

METHOD = Method(
    id="attention_patterns",
    name="attention patterns and scores of heads",
    paper="Elhage et al. 2021, A Mathematical Framework for Transformer Circuits, "
    "https://transformer-circuits.pub/2021/framework/index.html; "
    "Olsson et al. 2022, In-context Learning and Induction Heads, arXiv 2209.11895",
    mediator="attention patterns of heads, by query and key",
    search="reading",
    cost="one forward pass",
    function="interp.attention",
)

PATTERN = "pattern"
_BY_HEAD = (axes.EXAMPLE, axes.LAYER, axes.HEAD)


def attention(
    model: Model,
    prompts: Any,
    layers: int | Iterable[int] | None = None,
    heads: int | Iterable[int] | None = None,
    *,
    position: Any = None,
    given: Any = None,
    bos: Bos | None = None,
    side: str = "clean",
) -> xr.Dataset:
    """Attention patterns of some heads, with what they mostly attend to.

    Args:
        prompts: as in :func:`interp.cache`.
        layers: one or several; None for all that have attention.
        heads: one or several, the same in every layer; None for all.
        position: which positions attend, as in :func:`interp.cache`; by default all. Means are over these alone.
        given: interventions in force, as in :func:`interp.patch`.
        bos: how texts begin; by default as the model was loaded.
        side: of pairs, which prompts are run; :func:`interp.run` runs the corrupted ones by default.

    Returns:
        ``pattern`` (example, layer, head, position, source_position), ``entropy`` (example, layer, head, position), and by
        (example, layer, head) ``previous_token``, ``first_token``, ``duplicate_token`` and ``induction``, the last two where
        the prompts are token ids. Formulas are in the module's docstring. ``token`` and ``source_token`` say what is at
        positions; behind the end of shorter prompts are NaN.

    Raises:
        UnknownSiteError: the model has no patterns, or not in a layer, with the reason.
        HeadOutOfRangeError: a layer or head beyond the model's.
        PositionError, UnknownNameError: ``position`` is past the end of a prompt, or no role of it.
    """
    sites = _sites(layers, heads)
    asked = ask_checked(model, prompts, sites, given=given, bos=bos, side=side)
    ds = cached(asked, sites, position)
    pattern = ds[PATTERN].values
    ds["entropy"] = ((*_BY_HEAD, axes.POSITION), _entropy(pattern))
    for name, numbers in _scores(pattern, asked, Chosen.of(asked.tokens, position)).items():
        ds[name] = (_BY_HEAD, numbers, {key: ds.attrs[key] for key in ("model", "task", "given")})
    return ds.assign_attrs(method="attention patterns")


def _sites(layers: Any, heads: Any) -> list[str]:
    """Names of the patterns that were asked for."""
    where = ["" if layer is None else f"L{layer}" for layer in _numbers("layers", layers)]
    which = ["" if head is None else f"H{head}" for head in _numbers("heads", heads)]
    return [f"{layer}{head}{'.' if layer or head else ''}{PATTERN}" for layer in where for head in which]


def _numbers(name: str, given: Any) -> list[int | None]:
    if given is None or given is ...:
        return [None]
    try:
        found: list[int | None] = [index(n) for n in (given if isinstance(given, Iterable) else (given,))]
    except TypeError:
        raise InputError(f"{name}={given!r}; expected a number, several, or None for all of them") from None
    if not found:
        raise InputError(f"{name} is empty; expected a number, several, or None for all of them")
    if negative := [n for n in found if n is not None and n < 0]:
        raise HeadOutOfRangeError(f"{name} names {negative[0]}; they are counted from 0")
    return list(dict.fromkeys(found))


def _entropy(pattern: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Of every row, NaN behind a prompt's end; a layer at a time, so that nothing as large as all patterns is made."""
    found = np.full(pattern.shape[:-1], np.nan, pattern.dtype)
    for layer in range(pattern.shape[1]):
        rows = pattern[:, layer]
        logs = np.log(rows, where=rows > 0, out=np.zeros_like(rows))
        found[:, layer] = 0 - np.einsum("ehpq,ehpq->ehp", np.nan_to_num(rows), logs)
        found[:, layer][np.isnan(rows).all(-1)] = np.nan
    return found


def _scores(pattern: np.ndarray[Any, Any], asked: Asked, chosen: Chosen) -> dict[str, np.ndarray[Any, Any]]:
    """The numbers of every head ``[example, layer, head]``, over the positions that are chosen."""
    tokens = asked.tokens
    names = ["previous_token", "first_token", *(["duplicate_token", "induction"] if tokens.ids is not None else [])]
    found = {name: np.full(pattern.shape[:3], np.nan, pattern.dtype) for name in names}
    for example, (first, length) in enumerate(zip(tokens.first.tolist(), tokens.lengths.tolist(), strict=True)):
        at = chosen.at[example].numpy()
        (slots,) = np.nonzero(at >= 0)
        own, at = pattern[example][..., slots, :length], at[slots]
        later = at > 0
        if later.any():
            found["previous_token"][example] = own[..., later, at[later] - 1].mean(-1)
            found["first_token"][example] = own[..., later, 0].mean(-1)
        if tokens.ids is None:
            continue
        ids = tokens.ids[example, first : first + length].cpu().numpy()
        same = np.tril(ids[:, None] == ids[None, :], -1)
        followed = np.zeros_like(same)
        followed[:, 1:] = np.tril(same, -2)[:, :-1]  # an occurrence right before has the token itself behind it
        for name, mask in (("duplicate_token", same[at]), ("induction", followed[at])):
            rows = mask.any(-1)
            if rows.any():
                found[name][example] = np.einsum("lhpq,pq->lh", own, mask.astype(own.dtype)) / rows.sum()
    return found
