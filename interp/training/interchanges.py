"""Rows of interchanges as tensors, and forward passes with interchanges that have gradients in the network itself.

>>> rows = Interchanges.of_tensors(base, {"P": one, "Q": two}, swap, label, base_label)              # doctest: +SKIP
>>> rows = Interchanges.of(model, task.counterfactuals(1024, seed=0))                             # doctest: +SKIP
>>> logits = interchanged(model, rows, {"P": Change("act1:output", featurizer=Subspace(basis))})  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.engine.layout import LOGITS, canonical, indexed_axis
from interp.errors import InputError, ShapeMismatchError, UnknownNameError
from interp.interventions import Activation, Change, Intervention
from interp.models import Model, Tokens
from interp.models.taps import Write
from interp.sites import Site
from interp.tasks import Counterfactuals


@dataclass(frozen=True, eq=False, repr=False)
class Interchanges:
    """What enters a network, and what it should say to it once some variables have their values of other inputs."""

    base: Tokens
    sources: Mapping[str, Tokens]
    """By variable; what all variables have in common is one object."""
    swap: Bool[Tensor, "row variable"]
    """Which variables a row takes from their sources, in the order of these."""
    label: Int[Tensor, " row"]
    """Number of the output, or the answer's first token, that the causal model says then (y*)."""
    base_label: Int[Tensor, " row"]
    """What it says to the base as it is."""

    @classmethod
    def of_tensors(cls, base: Any, sources: Mapping[str, Any], swap: Tensor, label: Tensor, base_label: Tensor) -> Interchanges:
        """Of a network whose inputs are tensors: each a tensor, called ``x`` by its forward, or keyword arguments of it.

        Raises:
            ShapeMismatchError: another number of rows or of variables somewhere.
        """
        each = {id(one): _side(one) for one in (base, *sources.values())}
        named = {name: each[id(one)] for name, one in sources.items()}
        found = cls(each[id(base)], named, swap.bool(), label.long(), base_label.long())
        found.require()
        return found

    @classmethod
    def of(cls, model: Model, rows: Counterfactuals) -> Interchanges:
        """Of rows of a causal model, as prompts of their task.

        Raises:
            InputError: an answer of several tokens.
        """
        encoded = model.encode(rows.pairs())
        own = model.encode(rows.with_label("base").pairs())
        if encoded.forced or own.forced:
            raise InputError("answers are several tokens here; a network is trained to say one: give answers of one token")
        sources = {name: encoded.further.get(name, encoded.clean) for name in rows.variables}
        swap = torch.from_numpy(rows.swap).to(model.device)
        found = cls(encoded.corrupted, sources, swap, encoded.answers[:, 0], own.answers[:, 0])
        found.require()
        return found

    def require(self) -> None:
        """Raise unless all have one number of rows."""
        counts = {"base": len(self.base), **{f"source of {name}": len(one) for name, one in self.sources.items()}}
        counts |= {"swap": len(self.swap), "label": len(self.label), "base_label": len(self.base_label)}
        if len({*counts.values()}) > 1 or self.swap.shape[1:] != (len(self.sources),):
            said = ", ".join(f"{name} {n}" for name, n in counts.items())
            raise ShapeMismatchError(
                f"rows of interchanges: {said}; swap is {tuple(self.swap.shape)} for the variables {', '.join(self.sources)}"
            )

    @property
    def variables(self) -> tuple[str, ...]:
        return tuple(self.sources)

    @property
    def swapped(self) -> list[str]:
        """Names of the variables that each row swaps: ``"P+Q"``."""
        return ["+".join(name for name, there in zip(self.sources, row, strict=True) if there) for row in self.swap.tolist()]

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: Tensor) -> Interchanges:
        """Some of the rows, by number."""
        each = {id(one): one.take(rows) for one in self.sources.values()}
        sources = {name: each[id(one)] for name, one in self.sources.items()}
        picked = {"swap": self.swap[rows], "label": self.label[rows], "base_label": self.base_label[rows]}
        return Interchanges(self.base.take(rows), sources, **picked)

    def to(self, device: torch.device) -> Interchanges:
        """The same on a device."""
        each = {id(one): one.to(device) for one in self.sources.values()}
        sources = {name: each[id(one)] for name, one in self.sources.items()}
        moved = {name: getattr(self, name).to(device) for name in ("base", "swap", "label", "base_label")}
        return replace(self, sources=sources, **moved)

    def __repr__(self) -> str:
        return f"Interchanges({len(self)} rows, {', '.join(self.sources)})"


def _side(given: Any) -> Tokens:
    named = dict(given) if isinstance(given, Mapping) else {"x": given}
    first = next(iter(named.values()))
    return Tokens(mask=torch.ones(len(first), 1, dtype=torch.bool, device=first.device), others=named)


class Values(NamedTuple):
    """What a site holds at some positions: ``[row, slot, …]``, and the columns that they are at, −1 where there is none."""

    tensor: Tensor
    columns: Int[Tensor, "row slot"]

    def take(self, rows: Tensor) -> Values:
        return Values(self.tensor[rows], self.columns[rows])


class Swap(NamedTuple):
    """One change on some rows, with the values that are put there."""

    change: Change
    rows: Int[Tensor, " row"]
    """Numbers of the rows in the pass."""
    values: Values
    """Those of these rows."""


def plain(model: Model, tokens: Tokens, changes: Sequence[Change] = ()) -> tuple[Float[Tensor, "row vocab"], list[Values]]:
    """What the network says at the last position, and the values at the places of some changes."""
    sites = list(dict.fromkeys(change.site.tensor for change in changes))
    found = model.backend.run(model.inputs(tokens), [LOGITS, *sites], {})
    return last(found[LOGITS]), [held(model, tokens, change, found) for change in changes]


def values(model: Model, tokens: Tokens, changes: Sequence[Change]) -> list[Values]:
    """The values at the places of some changes; nothing behind them is run where that can be had."""
    sites = list(dict.fromkeys(change.site.tensor for change in changes))
    with model.leaving(sites, keeping=False):
        found = model.backend.run(model.inputs(tokens), sites, {})
    return [held(model, tokens, change, found) for change in changes]


def changed(model: Model, tokens: Tokens, swaps: Sequence[Swap]) -> Float[Tensor, "row vocab"]:
    """What the network says at the last position under changes, each of some rows, in their order."""
    by_site: dict[Site, list[Swap]] = {}
    for swap in swaps:
        by_site.setdefault(swap.change.site.tensor, []).append(swap)

    def write(site: Site, own: list[Swap]) -> Write:
        def made(h: Tensor) -> Tensor:
            h = h.clone()
            seen = canonical(site, h)
            for swap in own:
                _put(model, tokens, seen, swap)
            return h

        return made

    writes = {site: write(site, own) for site, own in by_site.items()}
    return last(model.backend.run(model.inputs(tokens), [LOGITS], writes)[LOGITS])


def interchanged(model: Model, rows: Interchanges, places: Mapping[str, Change]) -> Float[Tensor, "row vocab"]:
    """What the network says to the bases once every variable that a row swaps is taken from its source, at its place."""
    return changed(model, rows.base, swaps_of(model, rows, places))


def swaps_of(model: Model, rows: Interchanges, places: Mapping[str, Change], *, stopped: bool = False) -> list[Swap]:
    """The changes of all rows.

    Args:
        stopped: no gradient flows into the runs of the sources.
    """
    by_source: dict[int, list[str]] = {}
    for name, tokens in rows.sources.items():
        if name in places:
            by_source.setdefault(id(tokens), []).append(name)
    found: dict[str, Swap] = {}
    for names in by_source.values():
        tokens, changes = rows.sources[names[0]], [places[name] for name in names]
        needed = rows.swap[:, [rows.variables.index(name) for name in names]].any(-1).nonzero().flatten()
        if not len(needed):
            continue
        with torch.set_grad_enabled(torch.is_grad_enabled() and not stopped):
            each = values(model, tokens.take(needed), changes)
        for name, change, own in zip(names, changes, each, strict=True):
            there = rows.swap[needed, rows.variables.index(name)]
            found[name] = Swap(change, needed[there], own.take(there.nonzero().flatten()))
    return [found[name] for name in rows.variables if name in found]


def last(logits: Tensor) -> Float[Tensor, "row vocab"]:
    """Those at the last position, in single precision at least."""
    found = logits[:, -1] if logits.ndim == 3 else logits
    return found.to(torch.promote_types(found.dtype, torch.float32))


def held(model: Model, tokens: Tokens, change: Change, found: Mapping[Site, Tensor]) -> Values:
    """The values at the place of a change, of a pass's tensors."""
    columns = model.places(tokens, change.site).columns(change.positions).to(found[change.site.tensor].device)
    seen, index = canonical(change.site.tensor, found[change.site.tensor]), _index(change.site)
    rows = torch.arange(len(columns), device=columns.device)[:, None]
    return Values(seen[(rows, columns.clamp(min=0), *(() if index is None else (index,)))], columns)


def _index(site: Site) -> int | None:
    axis = indexed_axis(site)
    found: int | None = None if axis is None else getattr(site, axis)
    return found


def _put(model: Model, tokens: Tokens, seen: Tensor, swap: Swap) -> None:
    """Make one change in a tensor ``[row, position, …]``, in place."""
    change, given = swap.change, swap.values
    columns = model.places(tokens, change.site).columns(change.positions).to(seen.device)[swap.rows]
    if columns.shape != given.columns.shape or bool(((columns < 0) != (given.columns < 0)).any()):
        raise ShapeMismatchError(
            f"{change.site!r} at {change.positions!r} is {_counted(columns)} positions in the bases and "
            f"{_counted(given.columns)} in the sources; name positions that both have, such as -1 or a role of one token"
        )
    row, slot = (columns >= 0).nonzero(as_tuple=True)
    index = _index(change.site)
    at = (swap.rows.to(seen.device)[row], columns[row, slot], *(() if index is None else (torch.full_like(row, index),)))
    old, source = seen[at], given.tensor[row, slot].to(seen.device)
    alone = old.ndim == 1
    new = change(old[:, None], source[:, None])[:, 0] if alone else change(old, source)
    seen[at] = new.to(seen.dtype)


def _counted(columns: Tensor) -> str:
    counts = (columns >= 0).sum(-1)
    least, most = int(counts.min()), int(counts.max())
    return str(least) if least == most else f"{least} to {most}"


def checked(model: Model, places: Mapping[str, Any], variables: Sequence[str]) -> dict[str, Change]:
    """Places by variable, as changes that put in what another run holds.

    Raises:
        UnknownNameError: a variable without a place, or a place of none.
        InputError: what is no place.
    """
    for name in places:
        if name not in variables:
            raise UnknownNameError("variable", name, variables, "of the rows")
    for name in variables:
        if name not in places:
            raise UnknownNameError("place of the variable", name, list(places))
    return {name: as_place(model, places[name]) for name in variables}


def as_place(model: Model, given: Any) -> Change:
    """A change that takes the source's value at its own site and positions, of whatever stands for one."""
    [change] = Intervention.of(given).changes
    source = change.source
    if type(source) is not Activation or source != Activation() or change.square or not change.edit.reads_source:
        raise InputError(
            f"{change!r} is no place of a variable: expected a site, its positions and a featurizer, written in as they are in "
            "another run, and no scores or patterns"
        )
    model.check(change.site)
    return change
