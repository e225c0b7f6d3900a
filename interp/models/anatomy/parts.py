"""One anatomy of a model that is made of several: each part found by itself, under its own name.

>>> composed({"unet": unet, "text_encoder": text}, {"unet": "main", "text_encoder": "text"}, {})      # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from interp.models.anatomy.description import Anatomy, Repeated, Stream
from interp.models.anatomy.record import Shapes
from interp.models.layouts import IMAGE
from interp.models.taps import Tap
from interp.sites import MAIN, Site


def composed(parts: Mapping[str, Anatomy], names: Mapping[str, str], repeated: Mapping[str, Repeated]) -> Anatomy:
    """The anatomies of parts as one.

    Args:
        parts: by the path of each part.
        names: what the main stream of a part is called; its other streams are called by both names.
        repeated: how one pass of the whole calls its parts.
    """
    streams: dict[str, Stream] = {}
    taps: dict[Site, Tap] = {Site("logits"): Tap("", "output", IMAGE)}
    modules: dict[tuple[str, str], Tap] = {}
    shapes: Shapes = {}
    for path, anatomy in parts.items():
        called = {name: names[path] if name == MAIN else f"{names[path]}_{name}" for name in anatomy.streams}
        streams |= {called[name]: _under(stream, path, called) for name, stream in anatomy.streams.items() if stream.blocks}
        for site, tap in anatomy.taps.items():
            if site != Site("logits"):
                taps[site.at(stream=called[site.stream])] = _moved(tap, path)
        modules |= {(_join(path, of), side): _moved(tap, path) for (of, side), tap in anatomy.modules.items()}
        shapes |= {(_join(path, of), side): shape for (of, side), shape in anatomy.shapes.items()}
    main = next(iter(parts.values()))
    return Anatomy(streams, taps, modules, 0, shapes, main.batch, repeated)


def _under(stream: Stream, path: str, called: Mapping[str, str]) -> Stream:
    def sites(of: Mapping[Site, str]) -> dict[Site, str]:
        return {site.at(stream=called[site.stream]): what for site, what in of.items()}

    def paths(of: Mapping[int, str]) -> dict[int, str]:
        return {layer: _join(path, module) for layer, module in of.items()}

    return replace(
        stream,
        name=called[stream.name],
        blocks=tuple(_join(path, block) for block in stream.blocks),
        lacks=sites(stream.lacks),
        attention=paths(stream.attention),
        mlp=paths(stream.mlp),
        w_o=paths(stream.w_o),
        w_out=paths(stream.w_out),
        norms={site: _join(path, norm) for site, norm in sites(stream.norms).items()},
        attends=None if stream.attends is None else called[stream.attends],
        reads=stream.reads if called[stream.name] != MAIN else None,
    )


def _moved(tap: Tap, path: str) -> Tap:
    return replace(tap, path=_join(path, tap.path), within=None if tap.within is None else _join(path, tap.within))


def _join(path: str, inside: str) -> str:
    return f"{path}.{inside}" if inside else path
