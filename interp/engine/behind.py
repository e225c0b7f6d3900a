"""Changes of the last norm's scale, or of logits, made where rows that left the last block are read: at these positions alone.

>>> with behind(model, edits, 12, rows, read):                                           # doctest: +SKIP
...     reader.read(hidden, examples, None)
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from interp.engine.edits import Edits
from interp.models import Model
from interp.models.hooks import Hooks
from interp.sites import Site

FINAL = Site("ln_final_scale")


def behind(
    model: Model, edits: Edits, many: int, rows: Int[Tensor, " row"], read: Int[Tensor, "row position"]
) -> AbstractContextManager[object]:
    """Inside, the last norm of what is read has the scale that the rows' changes give it.

    Args:
        edits: of all rows of a pass.
        many: how many these are.
        rows: which of them are read.
        read: at which columns of their prompts.
    """
    if FINAL not in edits.sites():
        return nullcontext()
    return Hooks(model.module, {FINAL: model.taps(FINAL)}, (), {FINAL: AtRead(FINAL, edits, many, rows, read)})


@dataclass(frozen=True, eq=False)
class AtRead:
    """A write that sees the read positions of some rows, and is made as if it saw whole prompts."""

    site: Site
    edits: Edits
    many: int
    rows: Int[Tensor, " row"]
    read: Int[Tensor, "row position"]

    def __call__(self, seen: Float[Tensor, "row position ..."]) -> Float[Tensor, "row position ..."]:
        first, last = int(self.read.min()), int(self.read.max())
        at = (self.rows.to(seen.device)[:, None], (self.read - first).to(seen.device))
        whole = seen.new_ones(self.many, last - first + 1, *seen.shape[2:]).index_put(at, seen)
        return self.edits.write(self.site, 0, self.many, first, until=last + 1)(whole)[at]
