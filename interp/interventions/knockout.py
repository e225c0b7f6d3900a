"""Attention knockout: some queries no longer attend to some tokens, in chosen layers and heads.

    >>> attention_knockout("END", "subject", layers=[3, 4], heads=[0])
    Intervention(L3H0.pattern@END attended=subject Scale(factor=0.0); L4H0.pattern@END attended=subject Scale(factor=0.0))

Two interventions go by that name. One sets probabilities to 0 after the softmax and leaves the rest of the row as it is, so the
head adds less (Yan and Jia, "Promote, Suppress, Iterate", arXiv 2502.20475). The other sets scores to −∞ before the
softmax, so the row renormalises and the head attends to the other tokens the more (Geva et al., "Dissecting Recall of Factual
Associations", arXiv 2304.14767). For one head the second is the first, divided by the probability that is left. Later layers
see what follows in both; what is measured is a total effect.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from operator import index
from typing import Any, SupportsIndex

from interp.errors import HeadOutOfRangeError, PositionError
from interp.interventions.edit import Cut, Scale
from interp.interventions.intervention import Change, Intervention
from interp.sites import MAIN, Positions, PositionsLike, Site
from interp.sites.positions import grouped


def attention_knockout(
    query: PositionsLike,
    attended: PositionsLike,
    *,
    layers: SupportsIndex | Iterable[SupportsIndex],
    heads: SupportsIndex | Iterable[SupportsIndex] | None = None,
    renormalise: bool = False,
    own: bool = True,
    cross: bool = False,
    stream: str = MAIN,
) -> Intervention:
    """Cut the edges of attention from ``query`` tokens to ``attended`` ones, in all of the layers and heads together.

    Args:
        query: the tokens that no longer attend: a role, an index, several.
        attended: the tokens that are no longer attended to, which may lie elsewhere in every prompt.
        layers: one or several.
        heads: one or several, the same in every layer; None for all heads.
        renormalise: False multiplies probabilities by 0, and rows then sum to less than 1: what a value bias adds goes too (see
            the attribute ``gauge`` of results). True sets scores to −∞, and rows sum to 1; a row of which nothing is left is
            refused (``PositionError``) when it is met.
        own: whether a token among ``attended`` is cut from itself as well; False leaves it that.
        cross: cut cross-attention; ``attended`` are then positions of the stream that it attends to.
        stream: whose layers, where not the main stream's.

    Raises:
        HeadOutOfRangeError: no layer or no head.
        PositionError: ``own=False`` of cross-attention, in which no token attends to itself.
    """
    where = _several("layers", layers)
    which = (None,) if heads is None else _several("heads", heads)
    site, edit = knockout_site(renormalise, cross, stream), Cut() if renormalise else Scale(0.0)
    sites = [site.at(layer=layer, head=head) for layer, head in product(where, which)]
    positions, span = Positions.parse(query), Positions.parse(attended)
    return Intervention(tuple(Change(site, positions, edit=edit, attended=span, own=own) for site in sites))


def knockout_site(renormalise: bool, cross: bool, stream: str) -> Site:
    """What a knockout changes, of every layer and head."""
    return Site(("cross_" if cross else "") + ("scores" if renormalise else "pattern"), stream=stream)


def some_tokens(given: Any, argument: str) -> dict[int | str, list[Positions]]:
    """Queries, or what they attend to, by name.

    Raises:
        PositionError: what names no positions, or a group without any.
    """
    found = grouped(given, argument)
    if empty := [name for name, some in found.items() if not some]:
        raise PositionError(f"{argument}[{empty[0]!r}] names no tokens: there is nothing to cut")
    return found


def cut_between(
    query: Sequence[Positions], tokens: Sequence[Positions], layers: Any, heads: Any, **options: Any
) -> Intervention:
    """All edges from one group of tokens to another; the options are those of :func:`attention_knockout`."""
    parts = [attention_knockout(one, other, layers=layers, heads=heads, **options) for one, other in product(query, tokens)]
    return Intervention(tuple(change for part in parts for change in part.changes))


def _several(argument: str, given: Any) -> tuple[int, ...]:
    try:
        numbers = tuple(map(index, [given] if isinstance(given, SupportsIndex) else given))
    except TypeError:  # a word, ...
        numbers = ()
    if not numbers or len(set(numbers)) < len(numbers) or min(numbers) < 0:
        raise HeadOutOfRangeError(
            f"{argument}={given!r}; expected a number from 0 on, or several different ones such as range(model.sizes["
            f"'{argument.removesuffix('s')}'])"
        )
    return numbers
