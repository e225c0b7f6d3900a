"""The sites of a model, to work with and to read.

>>> model.sites()                                                                     # doctest: +SKIP
embed            example, position, d_model 128
resid_pre  L0–3  example, position, d_model 128
…
>>> Site.parse("L2.z") in model.sites()                                               # doctest: +SKIP
True
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from interp import axes
from interp.models.anatomy import Anatomy
from interp.sites import COMPONENTS, MAIN, Site

OF_A_PROMPT = (axes.EXAMPLE, axes.POSITION, axes.SOURCE_POSITION, axes.VOCAB)
"""Axes whose size a model does not fix, and the vocabulary's, which is no place to intervene."""


@dataclass(frozen=True)
class Listed:
    """The sites of one name in one stream that have the same axes and sizes."""

    stream: str
    name: str
    layers: tuple[int, ...]
    """Empty for what exists once."""
    sizes: Mapping[str, int | None]
    """Size of every named axis; None for what is the prompt's."""


class Sites(tuple[Site, ...]):
    """The sites of a model by layer: a tuple, which prints a line for all layers where they are alike."""

    anatomy: Anatomy

    @classmethod
    def of(cls, anatomy: Anatomy, sites: Iterable[Site]) -> Sites:
        found = cls(sites)
        found.anatomy = anatomy
        return found

    @property
    def listed(self) -> tuple[Listed, ...]:
        """By stream and role; a name more than once where sizes differ from layer to layer."""
        alike: dict[tuple[str, str, tuple[tuple[str, int | None], ...]], list[int]] = {}
        for site in self:
            layers = alike.setdefault((site.stream, site.name, tuple(self._sizes(site).items())), [])
            layers += [] if site.layer is None else [site.layer]
        found = [Listed(stream, name, tuple(layers), dict(sizes)) for (stream, name, sizes), layers in alike.items()]
        streams, names = list(dict.fromkeys(site.stream for site in self)), list(COMPONENTS)
        return tuple(sorted(found, key=lambda one: (streams.index(one.stream), bool(one.layers), names.index(one.name))))

    def _sizes(self, site: Site) -> dict[str, int | None]:
        times = self.anatomy.repeats(site)
        repeated = {axis: n for axis, n in ((axes.CALL, times.calls), (axes.HALF, times.halves)) if n > 1}
        sizes = {axis: None if axis in OF_A_PROMPT else self.anatomy.size(site, axis) for axis in site.axes}
        return {axes.EXAMPLE: sizes.pop(axes.EXAMPLE), **repeated, **sizes}

    def __repr__(self) -> str:
        listed = described(self.listed)
        by_path = "and any module by its path: 'PATH:output', 'PATH:input'"
        return listed if any(one.layers for one in self.listed) else f"{listed}\n{by_path}"


def described(listed: Sequence[Listed]) -> str:
    """A line for each, under the names of the streams where there are more than the main one."""
    streams = tuple(dict.fromkeys(one.stream for one in listed))
    indent, lines = "" if streams == (MAIN,) else "  ", []
    for stream in streams:
        lines += [stream] if indent else []
        lines += _aligned([_line(one) for one in listed if one.stream == stream], indent)
    return "\n".join(lines)


def _line(listed: Listed) -> tuple[str, str, str]:
    sizes = ", ".join(axis if size is None else f"{axis} {size}" for axis, size in listed.sizes.items())
    return listed.name, _ranges(listed.layers), sizes


def _ranges(layers: Sequence[int]) -> str:
    """``L0–2, L5``."""
    parts: list[list[int]] = []
    for layer in layers:
        if parts and parts[-1][-1] == layer - 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return ", ".join(f"L{p[0]}" if len(p) == 1 else f"L{p[0]}–{p[-1]}" for p in parts)


def _aligned(rows: Sequence[tuple[str, ...]], indent: str) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [indent + "  ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
