"""pyvene's names of places, and ours.

    >>> resolve(model, "head_attention_value_output", 2)                               # doctest: +SKIP
    Located(site=L2.z, by_head=True)
    >>> name_of(model, Site.parse("L2.z"), by_head=False)                              # doctest: +SKIP
    ('attention_value_output', 2)

pyvene keeps a table of module paths for every class of model; here a name is looked up by what it means in the anatomy that was
found when the model was loaded, so that it serves models which pyvene has no table for. A path with a side is a module
(``h[1].mlp.output``), and goes by its role's name where it is exactly that role's tensor, because rows can then be resumed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from interp import axes
from interp.errors import HeadOutOfRangeError, InteropError, UnknownNameError, UnknownSiteError
from interp.models import Model
from interp.models.layouts import Whole
from interp.models.taps import Tap
from interp.sites import MODULE_SIDES, Site


class Located(NamedTuple):
    """Where a component is."""

    site: Site
    by_head: bool
    """Whether pyvene splits it into heads; a site with heads that is not split is one vector of all of them."""


class _Module(NamedTuple):
    """A side of a module that has a role in a block."""

    role: str
    side: str


COMPONENTS: Mapping[str, _Module | Located] = {
    "block_input": _Module("block", "input"),
    "block_output": _Module("block", "output"),
    "attention_input": _Module("attention", "input"),
    "attention_output": _Module("attention", "output"),
    "mlp_input": _Module("mlp", "input"),
    "mlp_output": _Module("mlp", "output"),
    "mlp_activation": _Module("nonlinearity", "output"),
    "attention_value_output": Located(Site("z"), by_head=False),
    "query_output": Located(Site("q"), by_head=False),
    "key_output": Located(Site("k"), by_head=False),
    "value_output": Located(Site("v"), by_head=False),
    "head_attention_value_output": Located(Site("z"), by_head=True),
    "head_query_output": Located(Site("q"), by_head=True),
    "head_key_output": Located(Site("k"), by_head=True),
    "head_value_output": Located(Site("v"), by_head=True),
}
"""What pyvene's names mean; with heads, ``k`` and ``v`` have the key/value heads."""

_REFUSED = {
    "attention_weight": (
        "pyvene 0.1.8 hooks a dropout that no longer sees the pattern and changes nothing; here it is the site 'pattern'"
    )
}
_NONLINEARITIES = ("act_fn", "act", "activation_fn", "activation", "intermediate_act_fn")


def resolve(model: Model, component: str, layer: int = 0, *, by_module: bool = False) -> Located:
    """Where a component of pyvene's is in a model.

    Args:
        component: a name of :data:`COMPONENTS`, or a module's path and side, ``"transformer.h[1].mlp.output"``.
        layer: the block; of no account for a path.
        by_module: name the very module that pyvene hooks, also where a role is the same tensor seen by the next one.

    Raises:
        UnknownNameError: neither a known name nor a module of this model.
        UnknownSiteError, HeadOutOfRangeError: the model does not have it, or not so many layers.
    """
    if "." in component:
        return Located(_by_path(model, component), by_head=False)
    if component in _REFUSED:
        raise InteropError(f"component {component!r}: {_REFUSED[component]}")
    if component not in COMPONENTS:
        raise UnknownNameError(
            "pyvene component", component, COMPONENTS, "(or a module's path and side, as in 'h[1].mlp.output')"
        )
    blocks = len(model.anatomy.main.blocks)
    if not 0 <= layer < blocks:
        raise HeadOutOfRangeError(f"layer {layer} of {component!r} does not exist: {model.name} has {blocks} layers")
    meant = COMPONENTS[component]
    if isinstance(meant, Located):
        site = meant.site.at(layer=layer)
        model.check(site)
        return Located(site, meant.by_head)
    if meant.role == "nonlinearity" and not by_module and not model.has(Site("mlp_up", layer=layer)):
        site = Site("mlp_post", layer=layer)  # nothing comes between the nonlinearity and the output map
        model.check(site)
        return Located(site, by_head=False)
    return Located(at_module(model, _path(model, meant.role, component, layer), meant.side), by_head=False)


def at_module(model: Model, path: str, side: str) -> Site:
    """The site at one side of a module: a role that is exactly this tensor, or the module by its path."""
    for site, tap in model.anatomy.taps.items():
        if (tap.path, tap.event) == (path, side) and isinstance(tap.layout, Whole):
            return site
    return Site(side, path=path)


def input_of(model: Model, site: Site) -> Site | None:
    """The input of the module whose output a site is; None if it is anything else."""
    tap: Tap = model.taps(site.tensor)
    return at_module(model, tap.path, "input") if tap.event == "output" and isinstance(tap.layout, Whole) else None


def name_of(model: Model, site: Site, *, by_head: bool) -> tuple[str, int]:
    """What pyvene calls a site, and its layer.

    Raises:
        InteropError: pyvene has no name for it.
    """
    layer = model.anatomy.layer_of(site)
    if layer is not None and 0 <= layer < len(model.anatomy.main.blocks):
        for name in COMPONENTS:
            try:
                found = resolve(model, name, layer)
            except (UnknownSiteError, UnknownNameError):
                continue
            if found == Located(site.tensor, by_head):
                return name, layer
    tap = model.taps(site.tensor)
    if tap.event not in MODULE_SIDES or not isinstance(tap.layout, Whole) or by_head:
        raise InteropError(
            f"{site!r} has no name in pyvene: it is neither one of its components nor what goes in or out of a module"
        )
    if not tap.path:
        raise InteropError(f"{site!r} has no name in pyvene: it is what goes in or out of the whole model")
    indexed = re.sub(r"[.](\d+)(?=[.]|$)", r"[\1]", tap.path)
    return f"{indexed}.{tap.event}", max(layer or 0, 0)


def heads_at(model: Model, site: Site) -> int:
    """How many heads a site has; 0 where it has no such axis."""
    return model.anatomy.size(site, axes.HEAD) if axes.HEAD in site.axes else 0


def _by_path(model: Model, component: str) -> Site:
    path, _, side = component.rpartition(".")
    path = re.sub(r"\[(\d+)\]", r".\1", path)
    if side not in MODULE_SIDES:
        raise UnknownNameError("side of a module", side, MODULE_SIDES, f"in the pyvene component {component!r}")
    model.check(Site(side, path=path))
    return at_module(model, path, side)


def _path(model: Model, role: str, component: str, layer: int) -> str:
    """The module of a block that plays a role."""
    main = model.anatomy.main
    if role == "block":
        return main.blocks[layer]
    known = main.attention if role == "attention" else main.mlp
    if layer not in known:
        raise UnknownSiteError(
            "pyvene component", component, [], f"in layer {layer}", why=f"{model.name} has no such module there"
        )
    if role != "nonlinearity":
        return known[layer]
    children = dict(model.module.get_submodule(known[layer]).named_children())
    name = next((name for name in _NONLINEARITIES if name in children), None)
    if name is None:
        why = f"{known[layer]} has no module named {' or '.join(_NONLINEARITIES)}, but {', '.join(children) or 'none'}"
        raise UnknownSiteError("pyvene component", component, [], f"in layer {layer}", why=why)
    return f"{known[layer]}.{name}"
