"""What the laws decide by, and what they find: one recorded pass of a model, and the parts of one block.

>>> evidence = Evidence(module, seen, batch=3, tolerance=1e-4)                            # doctest: +SKIP
>>> evidence.beside("h.0.attn", roles.W_O), evidence.width("h.0.mlp.c_fc")                 # doctest: +SKIP
('h.0.attn.c_proj', 128)

:class:`Evidence` is the model, what was seen in it, and how a tensor lies that a module took or gave. Every law writes into a
:class:`Block` which tensor plays a role, or why none does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from interp.models.anatomy.record import Seen
from interp.models.anatomy.stacks import has
from interp.models.calls import Call
from interp.models.layouts import IMAGE, Flat, Layout, Whole
from interp.models.taps import Tap


@dataclass
class Block:
    """What was found in one block."""

    path: str
    taps: dict[str, Tap] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    attention: str | None = None
    """The module whose output is what attention gives, before a norm that may follow it."""
    mlp: str | None = None
    w_o: str | None = None
    w_out: str | None = None
    order: str = "unknown"
    """How its parts follow each other: ``"sequential"``, ``"parallel"``, or ``"unknown"``."""
    within: str = ""
    """A module whose input has the examples in front: the block, or the model where the block's has not."""
    norms: dict[str, str] = field(default_factory=dict)
    """Path of the norm of the whole stream that follows the sum with ``"attn_out"``, ``"cross_out"`` or ``"mlp_out"``."""


class Evidence:
    """A model and what passed in it.

    Args:
        batch: number of examples of the recorded pass.
        tolerance: largest deviation from a law, relative to the largest number.
    """

    def __init__(self, module: nn.Module, seen: Seen, batch: int, tolerance: float) -> None:
        self.module, self.seen, self.batch, self.tolerance = module, seen, batch, tolerance
        self.flat: dict[tuple[str, str], Tap] = {}
        """Taps of modules that see the tokens of all examples in one axis."""

    def part(self, path: str) -> nn.Module:
        return self.module.get_submodule(path)

    def beside(self, path: str, names: Iterable[str]) -> str | None:
        """The first of some modules in a module, or beside it where the name says so."""
        for name in names:
            base = path.rpartition(".")[0] if name.startswith("../") else path
            if has(self.part(base), name.removeprefix("../")):
                return f"{base}.{name.removeprefix('../')}"
        return None

    def width(self, path: str, side: str = "output") -> int:
        """How many numbers a module takes or gives at a position."""
        seen = self.seen.output(path) if side == "output" else self.seen.input(path)
        return seen.shape[-1] if seen is not None else 0

    def tap(self, path: str, event: Any, block: Block, layout: Layout | None = None) -> Tap:
        """A tensor that a module takes or gives, with the examples in front."""
        seen = self.seen.input(path) if event == "input" else self.seen.output(path)
        layout = Whole() if layout is None else layout
        if seen is None or seen.ndim == 3:
            return Tap(path, event, layout)
        if seen.ndim == 4 and seen.shape[1] != 1:
            return Tap(path, event, IMAGE)
        tap = Tap(path, event, Flat(layout), within=block.within)
        self.flat[path, event] = replace(tap, layout=Flat())
        return tap

    def given(self, path: str, block: Block) -> Tap:
        """What a module gives, as it was before somebody wrote into it."""
        return replace(self.tap(path, "output", block), copied=path in self.seen.overwritten)

    def read(self, tap: Tap) -> Tensor | None:
        """What a module gave, in a site's canonical axes."""
        seen = self.seen.output(tap.path)
        call = Call(self.part(tap.path), (), {}, self.batch)
        return tap.layout.read(seen, call) if seen is not None else None


def missed(law: str, by: float, path: str) -> str:
    """Why a role is not there of which no candidate obeys the law."""
    return f"of no module of {path} is it true that {law}; the nearest is off by {by:.1e} of the largest number"
