"""pyvene's own code as an edit: whatever an intervention's ``forward`` does with base and source.

    >>> edit = Calls(pyvene.AdditionIntervention(embed_dim=768))                        # doctest: +SKIP

The tensors that it is given have the axes that pyvene would give them; the featurizer beside it,
:class:`interp.interventions.Joint`, sees to that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from interp.errors import ShapeMismatchError
from interp.interventions.digest import digest

OWN = "pyvene.models."
"""Modules of pyvene's own classes, which its version identifies."""


class Calls(nn.Module):
    """An edit that calls a pyvene intervention, or a function of base and source as pyvene takes it.

    Args:
        intervention: an instance, whose parameters are shared and can be trained here, or a function.
        subspaces: numbers of the subspaces that it acts in, for every row alike.
        reads_source: whether it is given the source's value; None otherwise, as pyvene does for what brings its own.
    """

    kind = "pyvene"
    commutes = False

    def __init__(
        self,
        intervention: nn.Module | Callable[..., Any],
        *,
        subspaces: Sequence[int] | None = None,
        reads_source: bool = True,
    ) -> None:
        super().__init__()
        self.intervention = intervention
        self.subspaces = None if subspaces is None else list(subspaces)
        self.reads_source = reads_source

    def forward(self, h: Tensor, s: Tensor) -> Tensor:
        base = h.clone()  # most of them write into what they are given
        source = s.expand_as(h).to(h.dtype).clone() if self.reads_source else None
        given = () if self.subspaces is None and not isinstance(self.intervention, nn.Module) else (self._each(len(h)),)
        try:
            found = self.intervention(base, source, *given)
        except Exception as error:  # code of others, and pyvene's own checks are assertions
            shape = None if source is None else tuple(source.shape)
            raise ShapeMismatchError(
                f"{self!r} raised {type(error).__name__} for base {tuple(h.shape)}, source {shape} and subspaces "
                f"{self.subspaces}: {str(error).strip() or 'no reason given'}"
            ) from error
        output = found if isinstance(found, Tensor) else getattr(found, "output", None)
        return h if output is None else output.to(h.dtype)

    def _each(self, rows: int) -> list[list[int]] | None:
        return None if self.subspaces is None else [self.subspaces] * rows

    def spec(self) -> dict[str, Any]:
        """A class or function that is not pyvene's own has no canonical description, so its runs are anonymous."""
        if not isinstance(self.intervention, nn.Module) or not type(self.intervention).__module__.startswith(OWN):
            return {"kind": self.kind, "function": None}
        dims = getattr(self.intervention, "interchange_dim", None)
        return {
            "kind": self.kind,
            "class": type(self.intervention).__name__,
            "interchange_dim": dims.tolist() if isinstance(dims, Tensor) else dims,
            "subspace_partition": getattr(self.intervention, "subspace_partition", None),
            "subspaces": self.subspaces,
            "sha256": digest(self.state_dict()),
        }

    def __repr__(self) -> str:
        name = getattr(self.intervention, "__name__", type(self.intervention).__name__)
        return f"Calls({name}{'' if self.subspaces is None else f', subspaces={self.subspaces}'})"
