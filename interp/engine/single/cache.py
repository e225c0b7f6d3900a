"""What a model's activations are on some prompts: only what was named is kept, with names on every axis.

    >>> ds = interp.cache(model, "The Eiffel Tower is in", ["resid_post", "L3.z"])             # doctest: +SKIP
    >>> ds.resid_post.sel(layer=5, position=2), ds.token.values[0].tolist()                  # doctest: +SKIP
    >>> interp.cache(model, pairs, "resid_post", position=["subject[-1]", "last"])            # doctest: +SKIP

The forward is left behind the deepest site, and prompts of thousands of tokens run in pieces.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from interp import axes
from interp.engine.single.asked import Asked, ask
from interp.engine.single.chosen import Chosen, said
from interp.engine.single.filled import Filled, filled, own_order
from interp.engine.single.variables import variables
from interp.models import Bos, Model, Places
from interp.sites import MAIN, Site

KV_HEAD = "kv_head"
"""The axis of k and v where several heads share theirs."""
_OF_PATH = {1: (axes.UNIT,), 2: (axes.POSITION, axes.UNIT)}
"""Axes of a tensor behind the example's, where no role says them."""


def cache(
    model: Model,
    prompts: Any,
    sites: Any = None,
    *,
    position: Any = None,
    given: Any = None,
    bos: Bos | None = None,
    side: str = "clean",
) -> xr.Dataset:
    """Activations of some prompts at some sites.

    Args:
        prompts: a text, token ids, a :class:`interp.Prompt`, a list of such, what a tokenizer returns, or pairs.
        sites: a name or several: ``"resid_post"`` is that component in every layer that has it, ``"L3.z"`` one layer,
            ``"L2H1.z"`` one head, ``"encoder:L0.z"`` another stream, ``"features.3:output"`` a module by its path.
        position: keep these alone: an index, ``"last"``, a role (``"subject"``, ``"subject[-1]"``), or a list of such; by
            default all. Of scores and patterns they are the positions that attend. Each stream has its own.
        given: interventions in force, as in :func:`interp.patch`.
        bos: how texts begin: ``"model"``, True or False; by default as the model was loaded.
        side: of pairs, which prompts are run; :func:`interp.run` runs the corrupted ones by default.

    Returns:
        A variable a component (``z``, ``encoder:z``, a module's path), float32, or float64 where the model is, with the site's
        own axes and ``layer`` behind ``example``. Sites of one component that make no rectangle of layers and heads are
        variables of their own (``L9H6.z``) without these axes. Coordinates: ``layer``, ``head``, ``position`` (counted
        from each prompt's first real token, or as ``position`` names them; shorter prompts end in NaN), ``token`` (example,
        position; "" behind the end), ``prompt``. Axes of another stream carry its name (``encoder_position``), keys and
        values that heads share have ``kv_head``, and an axis whose numbers differ from those of an earlier variable carries
        its variable's name.

    Raises:
        ValueError: no site was named.
        UnknownSiteError, HeadOutOfRangeError: the model does not have it.
        ShapeMismatchError: a component that differs in shape between layers.
        PositionError, UnknownNameError: ``position`` is past the end of a prompt, no role of it, or the site has none.
    """
    return cached(ask_checked(model, prompts, sites, given=given, bos=bos, side=side), sites, position)


def ask_checked(model: Model, prompts: Any, sites: Any, **options: Any) -> Asked:
    """As :func:`interp.engine.single.asked.ask`, but a wrong site is told before anything runs."""
    variables(model, sites)
    return ask(model, prompts, **options)


def cached(asked: Asked, sites: Any, position: Any = None) -> xr.Dataset:
    """See :func:`cache`; of prompts that are encoded already."""
    arrays = filled(asked, variables(asked.model, sites), position)
    named = _Named(asked)
    data = {array.variable.name: named.labelled(array) for array in arrays}
    coords = named.coords | {"prompt": (axes.EXAMPLE, asked.prompts)}
    attrs = {"method": "cache", "sites": [array.variable.name for array in arrays], "position": said(position)}
    return xr.Dataset(data, coords, asked.attrs() | attrs)


class _Named:
    """The names of axes, and their coordinates as they come up."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.coords: dict[str, Any] = {axes.EXAMPLE: np.arange(len(asked.tokens))}
        self._sizes: dict[str, int] = {}

    def labelled(self, array: Filled) -> tuple[tuple[str, ...], np.ndarray[Any, Any], dict[str, Any]]:
        """Axes, numbers and attributes of a variable."""
        variable, site = array.variable, array.site
        numbers = own_order(site, array.whole)
        if variable.layers is None:
            numbers = numbers[:, 0]
        own = list(site.axes[1:])
        if variable.single and variable.indices is not None:
            own.remove(next(axis for axis in axes.INDEXED if axis in own))
        held = numbers.shape[1:] if variable.layers is None else numbers.shape[2:]
        if len(held) != len(own) or not array.positional:
            own = list(_OF_PATH.get(len(held), ())) if array.positional or len(held) == 1 else []
            own = own or [f"{variable.name}_axis_{i}" for i in range(1, len(held) + 1)]
        dims = [axes.EXAMPLE]
        if variable.layers is not None:
            dims.append(self._axis(array, axes.LAYER, np.array(variable.layers)))
        for axis, size in zip(own, held, strict=True):
            dims.append(self._axis(array, axis, self._numbers(array, axis, size)))
        return tuple(dims), numbers, {"site": variable.name}

    def _numbers(self, array: Filled, axis: str, size: int) -> np.ndarray[Any, Any] | int:
        """The numbers along an axis, or its length, where the numbers would say nothing more."""
        if axis in (axes.HEAD, axes.EXPERT, axes.UNIT) and array.variable.indices is not None:
            return np.array(array.variable.indices)
        if axis == axes.POSITION and array.chosen is not None:
            return np.array(array.chosen.names)
        return np.arange(size) if axis in (axes.HEAD, axes.EXPERT, axes.POSITION, axes.SOURCE_POSITION) else size

    def _axis(self, array: Filled, axis: str, values: np.ndarray[Any, Any] | int) -> str:
        """The name of an axis, with its coordinates noted."""
        places = array.attended if axis == axes.SOURCE_POSITION and array.site.square else array.places
        positions = axis in (axes.POSITION, axes.SOURCE_POSITION)
        name = self._stream_axis(array.site, axis, places) if positions else self._component_axis(array.site, axis)
        if not self._fits(name, values):
            name = f"{array.variable.name}_{axis}"
        self._sizes[name] = values if isinstance(values, int) else len(values)
        if not isinstance(values, int) and name not in self.coords:
            self.coords[name] = (name, values)
            if positions and places is not None:
                self.coords |= _of_positions(name, places, None if axis == axes.SOURCE_POSITION else array.chosen)
        return name

    def _fits(self, name: str, values: np.ndarray[Any, Any] | int) -> bool:
        if name not in self._sizes:
            return True
        if isinstance(values, int) or name not in self.coords:
            return self._sizes[name] == (values if isinstance(values, int) else len(values)) and name not in self.coords
        return np.array_equal(self.coords[name][1], values)

    def _component_axis(self, site: Site, axis: str) -> str:
        model = self.asked.model
        if axis == axes.HEAD and site.name.removeprefix("cross_") in ("k", "v"):
            query = site.at(name=site.name[:-1] + "z")
            if model.has(query) and model.anatomy.size(query, axis) != model.anatomy.size(site, axis):
                axis = KV_HEAD
        return axis if site.stream == MAIN or site.path is not None else f"{site.stream}_{axis}"

    def _stream_axis(self, site: Site, axis: str, places: Places | None) -> str:
        """Positions are those of a stream: what is attended to in another one has that one's axis."""
        attended = axis == axes.SOURCE_POSITION
        stream = self.asked.model.anatomy.stream_of(site, attended=attended)
        if places is self.asked.tokens:
            stream = MAIN
        if stream is None:
            return f"{repr(site) if site.path is not None else site.name}_{axis}"
        own = attended and stream == site.stream
        name = axis if own else axes.POSITION
        return name if stream == MAIN else f"{stream}_{name}"


def _of_positions(axis: str, places: Places, chosen: Chosen | None) -> dict[str, Any]:
    """The token at every position of every prompt, or the row and the column."""
    word, chosen = axis.removesuffix(axes.POSITION), Chosen.of(places, None) if chosen is None else chosen
    tokens = chosen.tokens()
    if tokens is not None:
        roles = chosen.roles(places)
        return {f"{word}token": ((axes.EXAMPLE, axis), tokens)} | ({f"{word}role": (axis, roles)} if any(roles) else {})
    lattice = places.coordinates().items()
    return {f"{word}{name}": (axis, [at[p] for p in chosen.at[0].tolist()]) for name, at in lattice}
