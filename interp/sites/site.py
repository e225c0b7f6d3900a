"""A place in the network, and how its name is written and read.

>>> Site("z", layer=9, head=6), Site.parse("a9.h6"), Site.parse("blocks.9.attn.hook_z")
(L9H6.z, L9H6.z, L9.z)
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from interp import axes, hook_names
from interp.errors import HeadOutOfRangeError, UnknownSiteError
from interp.sites.components import COMPONENTS, MODULE_SIDES, SPELLINGS, Component

_LENS = [(re.compile(re.escape(c.lens).replace(r"\{layer\}", r"(?P<layer>\d+)") + r"\Z"), c.name) for c in COMPONENTS.values()]
_OURS = re.compile(
    r"(?:(?P<stream>[a-z_]\w*):)?(?P<where>(?:L(?P<layer>\d+))?(?:H(?P<head>\d+)|E(?P<expert>\d+))?)(?P<dot>\.)?(?P<name>[a-z]\w*)?"
    r"(?:\[(?P<unit>\d+)\])?(?:#(?=.)(?P<call>\d+)?(?P<half>[uc])?)?\Z"
)
_HEAD = re.compile(r"(?:a(?P<al>\d+)\.h(?P<ah>\d+)|(?P<l>\d+)\.(?P<h>\d+))(?:\.(?P<name>[a-z_]+))?\Z")
_MLP = re.compile(r"m(?P<layer>\d+)\Z")
_MODULE = re.compile(r"(?P<path>\S+):(?P<side>input|output)(?:\[(?P<unit>\d+)\])?(?:#(?=.)(?P<call>\d+)?(?P<half>[uc])?)?\Z")
_PATH = re.compile(r"(?!L\d|.*\bhook_)[A-Za-z_]\w*(?:\.\w+){2,}")
"""What looks like a module's path without a side."""

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
            raise _unknown(self.name)
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
        text = _text(site)
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
        raise _unknown(text)

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


def _stream(name: str | None) -> str:
    """The decoder is the main stream wherever there is one, so both names mean it."""
    return MAIN if name in (None, "decoder") else name


def _text(site: Any) -> str:
    if not isinstance(site, str):
        why = f"its type is {type(site).__name__}; a site is one name, such as 'L3.z', or an interp.Site"
        raise UnknownSiteError("site", site, [], why=why)
    return site.strip()


def which_side(path: str) -> UnknownSiteError:
    """The error for a module's path that stands alone."""
    why = f"a module by its path says which side is meant, {path + ':output'!r} or {path + ':input'!r}"
    return UnknownSiteError("site", path, [], why=why)


def _unknown(text: str) -> UnknownSiteError:
    if _PATH.fullmatch(text):
        return which_side(text)
    return UnknownSiteError("site", text, COMPONENTS, aliases=SPELLINGS, listing="model.sites() lists a model's own")


def _half(letter: str | None) -> int | None:
    return None if letter is None else _HALVES.index(letter)
