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

from interp.sites.components import COMPONENTS, MODULE_SIDES, SPELLINGS
from interp.sites.grids import Grid, grid
from interp.sites.positions import ALL, LAST, Positions, PositionsLike
from interp.sites.site import MAIN, Site, hook_name, which_side

__all__ = [
    "ALL", "COMPONENTS", "LAST", "MAIN", "MODULE_SIDES", "SPELLINGS", "Grid", "Positions", "PositionsLike", "Site", "grid",
    "hook_name", "which_side",
]  # fmt: skip
