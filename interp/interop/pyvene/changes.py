"""One of pyvene's interventions as a change of ours, or as a read.

>>> change(model, pyvene.VanillaIntervention(), "L2.resid_post", 3)                     # doctest: +SKIP
L2.resid_post@3 ← Activation(source)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from interp import axes
from interp.errors import InteropError, ShapeMismatchError
from interp.interop.pyvene.calls import Calls
from interp.interop.pyvene.components import heads_at, input_of
from interp.interop.pyvene.kinds import COLLECT, SKIP, Described, described
from interp.interventions import Activation, Change, Constant, Identity, Joint, Source
from interp.models import Model
from interp.sites import ALL, Positions, PositionsLike, Site


@dataclass(frozen=True)
class Read:
    """What a ``CollectIntervention`` collects."""

    site: Site
    positions: Positions = ALL
    heads: tuple[int, ...] | None = None
    """In their order; None where the site is not split by head."""
    by_head: bool = False
    """Whether heads keep an axis of their own; they are one vector otherwise."""
    columns: tuple[int, ...] | None = None
    """Of the features; None for all of them."""


@dataclass(frozen=True)
class Target:
    """Where an intervention acts, and on how much at once."""

    site: Site
    """The whole tensor, or one head of it."""
    positions: Positions
    by_head: bool
    """Whether pyvene keeps heads apart there."""
    heads: tuple[int, ...] | None
    """Which heads are taken together, of a site with heads that names none."""
    of: int
    """How many heads there are; 0 where there are none."""
    width: int
    """Features of one token: of the heads taken, together."""
    tokens: int
    """How many tokens pyvene hands over at once."""


def change(
    model: Model,
    intervention: Any,
    site: str | Site,
    positions: PositionsLike = ALL,
    *,
    heads: int | Sequence[int] | None = None,
    source: Source | None = None,
    subspaces: Sequence[int] | None = None,
    exact: bool = True,
) -> Change:
    """A change that does what a pyvene intervention does, to run with :func:`interp.patch`, train, or combine with others.

    Args:
        intervention: an instance of any of pyvene's classes or of your own subclass of one, or a function of base and source.
            pyvene is not imported.
        site: one of ours, ``"L2.resid_post"``, ``"L2H1.z"``, or a module, ``"transformer.h.2.mlp:output"``. ``"L2.z"`` without
            a head is pyvene's ``attention_value_output``: one vector of all heads.
        positions: at which tokens. Where they are indices, pyvene is handed all of them at once, and a class that makes one
            vector of them, such as a rotation, must be as wide as that. Where they are all tokens or a role, each by itself.
        heads: which heads of the site, as one vector where the class makes one (pyvene's unit ``"h.pos"``).
        source: of the values; by default the source run at the same place. An intervention with a ``source_representation`` of
            its own, or that needs no source, leaves it out.
        subspaces: the numbers of the subspaces to act in, for every row alike.
        exact: say it in our words where they say the same: rows are then resumed, and learned parts are copies. False always
            runs pyvene's own ``forward``, with the instance's own parameters.

    Raises:
        InteropError: a ``CollectIntervention``, which changes nothing; a skip of no module; a source that it would ignore.
        ShapeMismatchError, UnknownSiteError, HeadOutOfRangeError, PositionError: what does not fit.
    """
    d = described(intervention)
    if d.name == COLLECT:
        raise InteropError(
            "a CollectIntervention reads and changes nothing: collect(model, from_config(…), pairs) gives what it reads"
        )
    model.check(parsed := Site.parse(site))
    by_head = heads is not None or parsed.head is not None
    target = targeted(model, parsed, positions, by_head=by_head, heads=heads)
    return translated(model, d, target, source=source, subspaces=subspaces, exact=exact)


def targeted(
    model: Model,
    site: Site,
    positions: PositionsLike,
    *,
    by_head: bool,
    heads: int | Sequence[int] | None = None,
    units: int = 1,
) -> Target:
    """Where an intervention acts.

    Args:
        units: pyvene's ``max_number_of_units``, by which spans of a role count as one.
    """
    where, of = Positions.parse(positions), heads_at(model, site)
    if axes.SOURCE_POSITION in site.axes:
        raise InteropError(
            f"{site!r} has no place in pyvene, which keeps no axis of what is attended to; use a change of ours there"
        )
    if by_head and not of:
        raise InteropError(f"heads={heads} for {site!r}, which has no heads")
    if site.head is not None and heads is not None:
        raise InteropError(f"{site!r} names its head already; leave heads={heads} out")
    wanted = None
    if of and site.head is None:
        wanted = tuple(range(of)) if heads is None else (heads,) if isinstance(heads, int) else tuple(heads)
        if by_head and len(wanted) == 1:
            site, wanted = site.at(head=wanted[0]), None
    model.check(site)
    width = _width(model, site) * (len(wanted) if wanted else 1)
    tokens = len(where.indices) if where.indices is not None else 1 if by_head else units
    return Target(site, where, by_head, wanted, of, width, tokens)


def translated(
    model: Model, d: Described, target: Target, *, source: Source | None, subspaces: Sequence[int] | None, exact: bool = True
) -> Change:
    """The change that a described intervention makes at a target."""
    source = _source(model, d, target, source)
    found = d.exact(subspaces, target.width) if exact else None
    if found is None:
        if d.live is None:
            raise InteropError(f"{d.name} has no equal here, and no instance of it is at hand to run")
        edit = Calls(d.live, subspaces=subspaces, reads_source=d.takes_source and source is not None)
        flat = d.flattens
        there = "b t (h d)" if target.heads and (flat or not target.by_head) else "b h t d" if target.heads else "b t d"
        if target.by_head:
            there = there if flat or target.heads else "b 1 t d"
        elif flat:
            there = "b (t h d)" if target.heads else "b (t d)"
        joint = _joint(target, there, tokens=target.tokens)
        return Change(target.site, target.positions, source or Constant(0.0), edit, joint)
    inner = found.inner or Identity()
    tokens = target.tokens if found.flattens and not target.by_head else 1
    one_vector = found.flattens or found.vector
    if (target.heads and (target.by_head or one_vector)) or tokens > 1:
        there = ("b (t h d)" if tokens > 1 else "(b t) (h d)") if target.heads else "b (t d)"
        inner = _joint(target, there, tokens=tokens, inner=found.inner)
    width, needed = tokens * target.width, getattr(found.inner, "width", None)
    if needed is not None and needed != width:
        raise ShapeMismatchError(
            f"{d.name} is {needed} wide, but {target.site!r}@{target.positions!r} gives it {width}: {tokens} tokens of "
            f"{target.width} features"
        )
    return Change(target.site, target.positions, source or Activation(), found.edit, inner)


def read(d: Described, target: Target, subspaces: Sequence[int] | None) -> Read:
    """What a ``CollectIntervention`` reads.

    One that is as wide as a token reads each of several whole; pyvene cuts their common vector off at that width.

    Raises:
        InteropError: a part of one vector of several tokens or heads.
    """
    columns, there = d.columns(subspaces), target.width * (1 if target.by_head else target.tokens)
    every = columns is None or len(set(columns)) >= there or columns == list(range(target.width))
    if not every and (there > target.width or (target.by_head and target.heads)):
        raise InteropError(
            f"{d.name} at {target.site!r} reads {len(columns or [])} of {there} features of several tokens or heads as one"
        )
    return Read(target.site, target.positions, target.heads, target.by_head, None if every else tuple(columns or ()))


def _joint(target: Target, there: str, *, tokens: int, inner: Any = None) -> Joint:
    here = "(b t) h d" if target.heads else "(b t) d"
    return Joint(f"{here} -> {there}", tokens=tokens, heads=target.heads or None, of=target.of, inner=inner)


def _source(model: Model, d: Described, target: Target, source: Source | None) -> Source | None:
    """Where the values come from; None where none is asked for."""
    if d.constant is not None:
        if source is not None:
            raise InteropError(f"{d.name} brings a source_representation of its own; leave source={source!r} out")
        value, each = (
            d.constant.detach(),
            target.width // len(target.heads) if target.heads and target.by_head else target.width,
        )
        if value.numel() != each:
            raise ShapeMismatchError(
                f"{d.name} has a source_representation of shape {tuple(value.shape)}, but {target.site!r} has {each} features"
                f"{' a head' if target.by_head else ''}; one vector for every row is expected"
            )
        value = value.reshape(-1)
        return Constant(value.reshape(target.of, -1) if target.heads and not target.by_head else value)
    if not d.takes_source:
        return None
    if d.name == SKIP:
        return _entering(model, target.site, source or Activation())
    return source or Activation()


def _entering(model: Model, site: Site, source: Source) -> Activation:
    """What went into the module at whose input or output a site is."""
    if not isinstance(source, Activation):
        raise InteropError(f"{SKIP} takes what goes into its module from a run; source={source!r} is none")
    if site.name == "mlp_post" and site.path is None:
        raise InteropError(
            f"{SKIP} at {site!r}: name the module that it skips by its path, such as 'transformer.h.0.mlp.act:output'"
        )
    if model.taps(site.tensor).event == "input":
        return source
    entering = input_of(model, site)
    if entering is None:
        raise InteropError(f"{SKIP} at {site!r}: it takes what goes into a module, and this is a part of what comes out of one")
    return replace(source, site=entering)


def _width(model: Model, site: Site) -> int:
    """Features of a token, or of one head."""
    if site.path is None:
        last = site.axes[-1]
        return model.anatomy.size(site, axes.UNIT if last == axes.UNIT else last)
    with torch.no_grad(), model.prepared([site]):
        return model.backend.run(model.example, [site], {})[site].shape[-1]
