"""Where in a network: sites, positions and grids of them.

>>> from interp.sites import Site, Positions, grid
>>> Site.parse("blocks.3.attn.hook_z")
L3.z
>>> Site.parse("9.6"), Site.parse("a9.h6"), Site.parse("L9H6.q")
(L9H6.z, L9H6.z, L9H6.q)
>>> Positions.parse(-1), Positions.parse("subject[-1]"), Positions.parse(...)
(-1, subject[-1], all)
>>> grid("z", layer=..., head=...)
grid(z, layer=all, head=all)

A site names a tensor by the role that it plays, the same in every architecture; the model says where that tensor is. Heads
of ``k`` and ``v`` are key/value heads. ``q k v`` are projection outputs, before q/k norms and rotary embedding, as
TransformerLens' ``hook_q``; ``z`` is a head's output before W_O and ``result`` after it. A ``…_scale`` is the number by which
a norm divides a token's features, as TransformerLens' ``hook_scale``: written, or held, the norm is an affine map.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from numbers import Integral
from operator import index
from types import EllipsisType
from typing import Any, SupportsIndex

from interp import axes, hook_names
from interp.errors import HeadOutOfRangeError, PositionError, UnknownSiteError


@dataclass(frozen=True, slots=True)
class Component:
    """A kind of activation: its axes, batch first, and the name that TransformerLens gives it."""

    name: str
    axes: tuple[str, ...]
    lens: str
    """TransformerLens' hook name; ``{layer}`` stands for the block's number."""
    meaning: str

    @property
    def per_layer(self) -> bool:
        return "{layer}" in self.lens

    @property
    def selectable(self) -> tuple[str, ...]:
        """The axes that a site, its positions or a grid may index."""
        return tuple(a for a in self.axes if a in (axes.POSITION, *axes.INDEXED))


_STREAM = (axes.EXAMPLE, axes.POSITION, "d_model")
_HEADS = (axes.EXAMPLE, axes.POSITION, axes.HEAD, "d_head")
_RESULTS = (axes.EXAMPLE, axes.POSITION, axes.HEAD, "d_model")
_MEMORY = (axes.EXAMPLE, axes.SOURCE_POSITION, axes.HEAD, "d_head")
_ATTENTION = (axes.EXAMPLE, axes.HEAD, axes.POSITION, axes.SOURCE_POSITION)
_UNITS = (axes.EXAMPLE, axes.POSITION, axes.UNIT)
_ROUTING = (axes.EXAMPLE, axes.POSITION, axes.EXPERT)
_EXPERTS = (axes.EXAMPLE, axes.POSITION, axes.EXPERT, "d_model")
_TOKEN = (axes.EXAMPLE, axes.POSITION)

COMPONENTS: Mapping[str, Component] = {
    c.name: c
    for c in (
        Component("embed", _STREAM, "hook_embed", "token embedding"),
        Component("pos_embed", _STREAM, "hook_pos_embed", "position embedding, where it is added to the stream"),
        Component("resid_pre", _STREAM, "blocks.{layer}.hook_resid_pre", "residual stream entering the block"),
        Component("resid_mid", _STREAM, "blocks.{layer}.hook_resid_mid", "residual stream between attention and MLP"),
        Component("resid_post", _STREAM, "blocks.{layer}.hook_resid_post", "residual stream leaving the block"),
        Component("ln1_scale", _TOKEN, "blocks.{layer}.ln1.hook_scale", "what the norm before attention divides by"),
        Component("ln1_post_scale", _TOKEN, "blocks.{layer}.ln1_post.hook_scale", "what a norm of attn_out divides by"),
        Component("ln2_scale", _TOKEN, "blocks.{layer}.ln2.hook_scale", "what the norm before the MLP divides by"),
        Component("ln2_post_scale", _TOKEN, "blocks.{layer}.ln2_post.hook_scale", "what a norm of mlp_out divides by"),
        Component("attn_out", _STREAM, "blocks.{layer}.hook_attn_out", "what attention adds to the stream"),
        Component("mlp_out", _STREAM, "blocks.{layer}.hook_mlp_out", "what the MLP adds to the stream"),
        Component("q", _HEADS, "blocks.{layer}.attn.hook_q", "query projection, before norms and rotary"),
        Component("k", _HEADS, "blocks.{layer}.attn.hook_k", "key projection, before norms and rotary"),
        Component("v", _HEADS, "blocks.{layer}.attn.hook_v", "value projection"),
        Component("latent", _UNITS, "blocks.{layer}.attn.hook_latent", "what keys and values are unfolded from"),
        Component("k_rotary", _UNITS, "blocks.{layer}.attn.hook_k_rotary", "rotary part of the keys that all heads share"),
        Component("scores", _ATTENTION, "blocks.{layer}.attn.hook_attn_scores", "masked scores before the softmax"),
        Component("pattern", _ATTENTION, "blocks.{layer}.attn.hook_pattern", "attention probabilities"),
        Component("z", _HEADS, "blocks.{layer}.attn.hook_z", "head output before W_O"),
        Component("result", _RESULTS, "blocks.{layer}.attn.hook_result", "head output after W_O, without b_O"),
        Component("resid_cross", _STREAM, "blocks.{layer}.hook_resid_mid_cross", "residual stream before cross-attention"),
        Component("cross_out", _STREAM, "blocks.{layer}.hook_cross_attn_out", "what cross-attention adds to the stream"),
        Component("cross_q", _HEADS, "blocks.{layer}.cross_attn.hook_q", "query projection of cross-attention"),
        Component("cross_k", _MEMORY, "blocks.{layer}.cross_attn.hook_k", "key projection of what is attended to"),
        Component("cross_v", _MEMORY, "blocks.{layer}.cross_attn.hook_v", "value projection of what is attended to"),
        Component("cross_scores", _ATTENTION, "blocks.{layer}.cross_attn.hook_attn_scores", "scores of cross-attention"),
        Component("cross_pattern", _ATTENTION, "blocks.{layer}.cross_attn.hook_pattern", "probabilities of cross-attention"),
        Component("cross_z", _HEADS, "blocks.{layer}.cross_attn.hook_z", "head output of cross-attention before W_O"),
        Component(
            "cross_result", _RESULTS, "blocks.{layer}.cross_attn.hook_result", "head output of cross-attention after W_O"
        ),
        Component("mixer_out", _STREAM, "blocks.{layer}.hook_mixer_out", "what a state-space mixer adds to the stream"),
        Component("mixer_post", _UNITS, "blocks.{layer}.mixer.hook_post", "units of a mixer, as its output map reads them"),
        Component("mlp_pre", _UNITS, "blocks.{layer}.mlp.hook_pre", "MLP (gate) before its nonlinearity"),
        Component("mlp_up", _UNITS, "blocks.{layer}.mlp.hook_pre_linear", "linear branch of a gated MLP"),
        Component("mlp_post", _UNITS, "blocks.{layer}.mlp.hook_post", "MLP units, as W_out reads them"),
        Component("routing", _ROUTING, "blocks.{layer}.mlp.hook_expert_weights", "weight of every expert, 0 where not chosen"),
        Component("expert_out", _EXPERTS, "blocks.{layer}.mlp.hook_expert_out", "what every expert adds, times its weight"),
        Component("ln_final_scale", _TOKEN, "ln_final.hook_scale", "what the norm behind the last block divides by"),
        Component("logits", (axes.EXAMPLE, axes.POSITION, axes.VOCAB), "unembed.hook_out", "unnormalised output"),
    )
}

#: Sides of a module named by its path, for models and places that no role names.
MODULE_SIDES = ("input", "output")

_LENS = [(re.compile(re.escape(c.lens).replace(r"\{layer\}", r"(?P<layer>\d+)") + r"\Z"), c.name) for c in COMPONENTS.values()]
_OURS = re.compile(
    r"(?:(?P<stream>[a-z_]\w*):)?(?P<where>(?:L(?P<layer>\d+))?(?:H(?P<head>\d+)|E(?P<expert>\d+))?)(?P<dot>\.)?(?P<name>[a-z]\w*)?"
    r"(?:\[(?P<unit>\d+)\])?(?:#(?=.)(?P<call>\d+)?(?P<half>[uc])?)?\Z"
)
_HEAD = re.compile(r"(?:a(?P<al>\d+)\.h(?P<ah>\d+)|(?P<l>\d+)\.(?P<h>\d+))(?:\.(?P<name>[a-z_]+))?\Z")
_MLP = re.compile(r"m(?P<layer>\d+)\Z")
_MODULE = re.compile(r"(?P<path>\S+):(?P<side>input|output)(?:\[(?P<unit>\d+)\])?(?:#(?=.)(?P<call>\d+)?(?P<half>[uc])?)?\Z")
_INDICES = re.compile(r"-?\d+(,-?\d+)*\Z")

_HALVES = "uc"
"""How a half of the batch is written: unconditional, conditional."""

MAIN = "main"
"""The stream of a site that names none: the decoder of a model that has one, the only stack of blocks of others."""


@dataclass(frozen=True, slots=True, repr=False)
class Site:
    """A place in the network.

    ``Site("z", layer=9, head=6)`` prints as ``L9H6.z``. A head or unit left out means all of them together. ``stream`` names
    the stack of blocks where it is not the main one (``encoder:L3.z``), ``call`` the number of the call where the module is
    called several times in one pass (a diffusion step), ``half`` the half of the batch where guidance runs two, 0 without and
    1 with the prompt: ``L3.attn_out#4c`` is at step 4, with the prompt. What is left out means all of them. ``path`` names
    a module of an arbitrary network instead of a role; the name is then its ``"output"`` or ``"input"``.
    """

    name: str
    layer: int | None = None
    head: int | None = None
    unit: int | None = None
    stream: str = MAIN
    call: int | None = None
    path: str | None = None
    expert: int | None = None
    half: int | None = None

    def __post_init__(self) -> None:
        if self.half not in (None, 0, 1):
            raise HeadOutOfRangeError(f"half={self.half}; 0 is without the prompt, 1 with it, None both")
        if self.path is not None:
            if self.name not in MODULE_SIDES:
                raise UnknownSiteError("side of a module", self.name, MODULE_SIDES)
            if (self.layer, self.head, self.expert) != (None, None, None):
                raise HeadOutOfRangeError(
                    f"{self.path}:{self.name} is one module, without layers and heads; its last axis is unit"
                )
            return
        if self.name not in COMPONENTS:
            raise UnknownSiteError("site", self.name, COMPONENTS)
        for axis in axes.INDEXED:
            index = getattr(self, axis)
            if index is not None and axis not in self.component.selectable:
                raise HeadOutOfRangeError(
                    f"site {self.name!r} has no {axis} axis (its axes are {', '.join(self.component.axes)}), "
                    f"but {axis}={index} was given"
                )
        if self.layer is not None and not self.component.per_layer:
            raise HeadOutOfRangeError(f"site {self.name!r} exists once, not per layer, but layer={self.layer} was given")

    @property
    def component(self) -> Component:
        if self.path is not None:
            return Component(self.name, (axes.EXAMPLE, axes.POSITION, axes.UNIT), self.path, f"{self.name} of {self.path}")
        return COMPONENTS[self.name]

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes of the whole tensor at this site, batch first."""
        return self.component.axes

    @property
    def square(self) -> bool:
        """Whether it has rows of attention: a position's, over all that it attends to."""
        return {axes.POSITION, axes.SOURCE_POSITION} <= {*self.axes}

    @property
    def tensor(self) -> Site:
        """The site of the whole tensor: this one without head, expert and unit."""
        if self.head is None and self.expert is None and self.unit is None:
            return self
        return replace(self, head=None, expert=None, unit=None)

    @property
    def lens(self) -> str:
        """The tensor's name in TransformerLens' style: ``Site.parse("L3.z").lens == "blocks.3.attn.hook_z"``.

        :func:`hook_name` gives the name that TransformerLens itself uses, or says why it has none.
        """
        return self.component.lens.format(layer="{layer}" if self.layer is None else self.layer)

    def at(self, **changes: object) -> Site:
        """The same site with some coordinates changed: ``site.at(layer=4)``."""
        return replace(self, **changes)  # type: ignore[arg-type]

    @classmethod
    def parse(cls, site: str | Site) -> Site:
        """A site from its short name, a TransformerLens hook name, or a head as ``9.6``, ``L9H6``, ``a9.h6``.

        A head without a component means its ``z``, an expert (``L2E5``) its ``expert_out``; ``m3`` is the output of MLP 3. A
        module is named by its path and side:
        ``"encoder.fc1:output"``.

        Raises:
            UnknownSiteError: with the near matches.
        """
        if isinstance(site, Site):
            return site
        text = site.strip()
        for pattern, name in _LENS:
            if found := pattern.match(text):
                layer = found.groupdict().get("layer")
                return cls(name, layer=int(layer) if layer is not None else None)
        if (hook := hook_names.read(text)) is not None:
            return cls(hook[0], layer=hook[1], stream=hook[2])
        if found := _HEAD.match(text):
            layer, head = found["al"] or found["l"], found["ah"] or found["h"]
            return cls(found["name"] or "z", layer=int(layer), head=int(head))
        if found := _MLP.match(text):
            return cls("mlp_out", layer=int(found["layer"]))
        if found := _MODULE.match(text):
            unit, call = (int(found[k]) if found[k] is not None else None for k in ("unit", "call"))
            return cls(found["side"], path=found["path"], unit=unit, call=call, half=_half(found["half"]))
        found = _OURS.match(text)
        if (
            found
            and bool(found["where"]) == bool(found["dot"] or not found["name"])
            and (found["name"] or found["head"] or found["expert"])
        ):
            name = found["name"] or ("z" if found["head"] else "expert_out")
            written = (*axes.INDEXED, axes.LAYER, axes.CALL)
            number: dict[str, Any] = {k: int(found[k]) for k in written if found[k] is not None}
            return cls(name, stream=_stream(found["stream"]), half=_half(found["half"]), **number)
        spellings = [c.lens for c in COMPONENTS.values()]
        raise UnknownSiteError("site", text, COMPONENTS, aliases=spellings)

    def __repr__(self) -> str:
        stream = "" if self.stream == MAIN else f"{self.stream}:"
        numbers = (("L", self.layer), ("H", self.head), ("E", self.expert))
        where = "".join(f"{letter}{number}" for letter, number in numbers if number is not None)
        unit = "" if self.unit is None else f"[{self.unit}]"
        call = ("" if self.call is None else str(self.call)) + ("" if self.half is None else _HALVES[self.half])
        call = f"#{call}" if call else ""
        if self.path is not None:
            return f"{self.path}:{self.name}{unit}{call}"
        return f"{stream}{where}{'.' if where else ''}{self.name}{unit}{call}"


def hook_name(site: str | Site, *, crossed: bool = False) -> str:
    """The name of a site's tensor in TransformerLens; ``Site.parse`` reads it back.

    >>> hook_name("L3.z"), hook_name("L3H2.z"), hook_name("embed")
    ('blocks.3.attn.hook_z', 'blocks.3.attn.hook_z', 'hook_embed')

    Args:
        crossed: whether the main stream is a decoder with cross-attention, whose blocks TransformerLens names otherwise.

    Raises:
        UnknownSiteError: TransformerLens has no name for it, with the reason.
    """
    site = Site.parse(site)
    try:
        if site.path is not None:
            raise LookupError("it is a module by its path")
        return hook_names.spell(site.name, site.layer, site.stream, crossed=crossed)
    except LookupError as reason:
        raise UnknownSiteError("hook of TransformerLens for", site, hook_names.NAMES, why=str(reason)) from None


@dataclass(frozen=True, slots=True, repr=False)
class Positions:
    """At which tokens: all of them, raw indices, or a role of the task.

    Indices count from the first real token (BOS included where there is one), negative ones from the end; padding never
    shows. A role is a span that the task names (``"subject"``); ``pick`` takes one of its tokens, so
    ``Positions(role="subject", pick=-1)``, written ``subject[-1]``, is its last token.
    """

    indices: tuple[int, ...] | None = None
    role: str | None = None
    pick: int | None = None

    def __post_init__(self) -> None:
        if self.indices is not None and self.role is not None:
            raise PositionError(f"positions are either indices or a role, not both: indices={self.indices}, role={self.role!r}")
        if self.pick is not None and self.role is None:
            raise PositionError(f"pick={self.pick} needs a role to pick from")
        if self.indices is not None and len(self.indices) == 0:
            raise PositionError("positions are an empty tuple; leave them out to mean all of them")
        if self.indices is not None and len(set(self.indices)) < len(self.indices):
            raise PositionError(f"positions {self.indices} name one token twice")

    @property
    def is_all(self) -> bool:
        return self.indices is None and self.role is None

    @property
    def is_one(self) -> bool:
        """Whether they are one token of every prompt, as far as they say; a role may span several."""
        return self.pick is not None or (self.indices is not None and len(self.indices) == 1)

    @classmethod
    def parse(cls, positions: PositionsLike) -> Positions:
        """From ``...`` or ``"all"``, ``"last"``, an index, several of them, or a role: ``"subject"``, ``"subject[-1]"``."""
        if isinstance(positions, Positions):
            return positions
        if positions is ... or positions is None:
            return cls()
        if isinstance(positions, str):
            if positions in ("all", "last"):
                return cls() if positions == "all" else cls(indices=(-1,))
            if _INDICES.match(positions):
                return cls(indices=tuple(map(int, positions.split(","))))
            found = re.fullmatch(r"(?P<role>[^\[\]@]+)(?:\[(?P<pick>-?\d+)\])?", positions)
            if not found:
                raise PositionError(
                    f"positions {positions!r} are neither 'all', 'last', a role nor a picked role like 'subject[-1]'"
                )
            return cls(role=found["role"], pick=int(found["pick"]) if found["pick"] is not None else None)
        if isinstance(positions, Integral):
            return cls(indices=(int(positions),))
        return cls(indices=_numbers(positions))

    def __repr__(self) -> str:
        if self.is_all:
            return "all"
        if self.role is not None:
            return self.role if self.pick is None else f"{self.role}[{self.pick}]"
        assert self.indices is not None
        return ",".join(map(str, self.indices))


Numbers = Iterable[SupportsIndex]
"""Several indices: a list, a range, an array."""

PositionsLike = Positions | str | SupportsIndex | Numbers | EllipsisType | None

ALL = Positions()
LAST = Positions(indices=(-1,))


@dataclass(frozen=True, slots=True)
class Cell:
    """One place of a grid: a site, the positions at it, and its coordinates along the swept axes."""

    site: Site
    positions: Positions
    coords: Mapping[str, int | str]


@dataclass(frozen=True, slots=True, repr=False)
class Grid:
    """A rectangular family of sites; made by :func:`grid`, laid out by :meth:`cells` once the sizes are known."""

    site: Site
    positions: Positions
    swept: tuple[tuple[str, tuple[int | str, ...] | None], ...]
    """Swept axes in the order of ``axes.SWEPT``, each with its values; None stands for every value that exists."""
    attended: Positions = ALL
    """Of scores and patterns, the attended positions that every cell changes."""

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.swept)

    def values(self, sizes: Mapping[str, int]) -> dict[str, tuple[int | str, ...]]:
        """The values along each swept axis, once the model and the prompts say how many there are.

        Args:
            sizes: number of layers, heads, units and positions, by axis name.

        Raises:
            HeadOutOfRangeError: an index beyond ``sizes``.
        """
        found: dict[str, tuple[int | str, ...]] = {}
        for axis, given in self.swept:
            if given is None and axis in (axes.CALL, axes.HALF) and axis not in sizes:
                raise HeadOutOfRangeError(f"{axis}=...: one forward pass of this model calls {self.site!r} once; leave it out")
            if given is None and axis not in sizes:
                raise HeadOutOfRangeError(
                    f"how many {axis}s {self.site!r} has is not known before it runs; give a list of them"
                )
            found[axis] = tuple(range(sizes[axis])) if given is None else given
        fixed = {a: getattr(self.site, a) for a in (axes.LAYER, *axes.INDEXED, axes.CALL, axes.HALF)}
        for axis in fixed:
            chosen = found.get(axis, () if fixed[axis] is None else (fixed[axis],))
            beyond = [v for v in chosen if isinstance(v, int) and not 0 <= v < sizes.get(axis, v + 1)]
            if beyond:
                raise HeadOutOfRangeError(
                    f"{axis} {beyond[0]} of {self.site.name!r} does not exist: this model has {sizes[axis]} {axis}s "
                    f"there, 0 to {sizes[axis] - 1}"
                )
        return found

    def cells(self, sizes: Mapping[str, int]) -> Iterator[Cell]:
        """Every cell, the last axis running fastest."""
        values = self.values(sizes)
        for combination in product(*values.values()):
            coords = dict(zip(values, combination, strict=True))
            site = self.site.at(**{a: v for a, v in coords.items() if a != axes.POSITION})
            positions = Positions.parse(coords[axes.POSITION]) if axes.POSITION in coords else self.positions
            yield Cell(site, positions, coords)

    def spec(self) -> dict[str, object]:
        """JSON that says which grid this is."""
        return {
            "site": repr(self.site),
            "positions": repr(self.positions),
            "axes": {axis: "all" if given is None else list(given) for axis, given in self.swept},
            **({} if self.attended.is_all else {"attended": repr(self.attended)}),
        }

    def __repr__(self) -> str:
        swept = [f"{axis}={'all' if given is None else list(given)}" for axis, given in self.swept]
        at = [] if self.positions.is_all or axes.POSITION in self.axes else [f"position={self.positions!r}"]
        at += [] if self.attended.is_all else [f"attended={self.attended!r}"]
        return f"grid({', '.join([repr(self.site), *swept, *at])})"


def _stream(name: str | None) -> str:
    """The decoder is the main stream wherever there is one, so both names mean it."""
    return MAIN if name in (None, "decoder") else name


def grid(
    site: str | Site,
    *,
    layer: SupportsIndex | Numbers | EllipsisType | None = None,
    head: SupportsIndex | Numbers | EllipsisType | None = None,
    expert: SupportsIndex | Numbers | EllipsisType | None = None,
    unit: SupportsIndex | Numbers | EllipsisType | None = None,
    call: SupportsIndex | Numbers | EllipsisType | None = None,
    half: SupportsIndex | Numbers | EllipsisType | None = None,
    position: PositionsLike | Iterable[SupportsIndex | str] = None,
    attended: PositionsLike | Iterable[str] = None,
) -> Grid:
    """A grid of single-site interventions, one cell for every combination of the swept axes.

    >>> grid("resid_pre", position=...)
    grid(resid_pre, layer=all, position=all)
    >>> grid("z", layer=[8, 9], head=..., position=-1)
    grid(z, layer=[8, 9], head=all, position=-1)
    >>> grid("mlp_out", layer=..., position=["S1", "S2", "END"]).axes
    ('layer', 'position')

    Args:
        site: a component name (``"z"``), or a site with some coordinates already fixed (``"L9.z"``).
        layer, head, expert, unit, call, half: ``...`` sweeps all of them, a sequence sweeps those, a number fixes one, None
            leaves the site's own. Without a layer all of them are swept.
        position: ``...`` sweeps every raw index; a list of indices or roles sweeps those; a single index or role (or several,
            as ``Positions``) fixes them; None means all positions together.
        attended: of scores and patterns, the attended positions at which every cell is changed; None means whole rows.

    Raises:
        UnknownSiteError: no such component.
        HeadOutOfRangeError: the component has no such axis.
        PositionError: ``attended`` of a component without attended positions, or positions that are none.
    """
    base = Site.parse(site)
    if base.path is None and layer is None and base.layer is None and base.component.per_layer:
        layer = ...
    asked = {"layer": layer, "head": head, "expert": expert, "unit": unit, "call": call, "half": half}
    swept: dict[str, tuple[int | str, ...] | None] = {}
    for axis, given in asked.items():
        if given is None:
            continue
        if isinstance(given, Integral):
            base = base.at(**{axis: int(given)})
            continue
        values = None if given is ... else _numbers(given)
        if values is not None:
            _refuse_empty_or_repeated(axis, values)
        base.at(**{axis: values[0] if values else 0})  # refuses an axis that the component does not have
        swept[axis] = values
    positions = ALL
    if position is ...:
        swept[axes.POSITION] = None
    elif isinstance(position, Iterable) and not isinstance(position, str | Positions):
        places = tuple(p if isinstance(p, str) else index(p) for p in position)
        _refuse_empty_or_repeated(axes.POSITION, places, PositionError)
        swept[axes.POSITION] = places
    else:
        positions = Positions.parse(position)
    ordered = tuple((axis, swept[axis]) for axis in axes.SWEPT if axis in swept)
    where: Any = attended
    if isinstance(where, Sequence) and not isinstance(where, str) and any(isinstance(p, str) for p in where):
        raise PositionError(f"attended={list(where)} is not swept: give one role or indices, and a grid for each span")
    span = Positions.parse(where)
    if not span.is_all and not base.square:
        raise PositionError(f"attended={span!r} of {base!r}: only scores and patterns have rows of attended positions")
    return Grid(base, positions, ordered, span)


def _half(letter: str | None) -> int | None:
    return None if letter is None else _HALVES.index(letter)


def _numbers(given: Any) -> tuple[int, ...]:
    """Several whole numbers; one that stands in a 0-dimensional array or tensor counts as several of one."""
    return tuple(index(v) for v in (given if isinstance(given, Iterable) and getattr(given, "ndim", None) != 0 else (given,)))


def _refuse_empty_or_repeated(axis: str, values: Sequence[int | str], error: type[Exception] = HeadOutOfRangeError) -> None:
    if len(values) == 0:
        raise error(f"{axis} is an empty list; give at least one value, or ... for all of them")
    if len(set(values)) < len(values):
        raise error(f"{axis} names a value twice: {list(values)}")
