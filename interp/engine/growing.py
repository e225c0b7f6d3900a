"""Runs whose base goes on behind its prompts: text that is being written, or calls that continue a cache.

>>> runs = Growing(model, encoded, "clean", ahead=5)                                         # doctest: +SKIP
"""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from interp.engine.readout import Reader
from interp.engine.runs import Runs
from interp.models import Encoded, Model, Places
from interp.models.places import Scope
from interp.sites import LAST, Site


class Growing(Runs):
    """Runs whose base goes on behind its prompts.

    Args:
        ahead: how many positions more there are.
        scope: what all positions mean.
    """

    def __init__(self, model: Model, encoded: Encoded, base: str, ahead: int, scope: Scope = "all", *, batch: int = 64) -> None:
        reader = Reader(model, encoded, (), LAST, whole=False, columns=None)
        super().__init__(model, encoded, base, batch=batch, reader=reader)
        self._growing = self.base.growing(ahead, scope)

    def places(self, which: str, site: Site, *, attended: bool = False) -> Places:
        found = super().places(which, site, attended=attended)
        return self._growing if which == "base" and found is self.base else found

    def ids(self, places: Places) -> Int[Tensor, "example position"] | None:
        return self.base.ids if places is self._growing else super().ids(places)

    def grows(self, site: Site) -> bool:
        """Whether later positions have a place at a site."""
        return super().places("base", site) is self.base
