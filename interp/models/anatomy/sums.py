"""What a block's parts add to the stream, and the stream in between: the sums that come out right.

    stream      resid_pre + attn_out = resid_mid,  resid_mid + mlp_out = resid_post      (a norm may follow either sum)
    parallel    resid_pre + attn_out + mlp_out = resid_post

Candidates are what a part gives, what its last linear map gives, and what a norm behind it gives; the stream inside the block
is looked for among what its modules take.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from interp.models.anatomy import roles
from interp.models.anatomy.evidence import Block, Evidence, missed
from interp.models.anatomy.stacks import child, has
from interp.models.deviation import deviation
from interp.models.norms import is_norm


class _Sum(NamedTuple):
    """One sum that may be the stream, and by how much it misses."""

    deviation: float
    what: str
    """The module whose output is added."""
    norm: str | None
    """The norm that follows."""
    state: str | None
    """The module that takes the sum; None for what leaves the block."""


class Sums:
    """The sums of one block.

    Args:
        pre: the stream that enters it.
        post: the stream that leaves it.
    """

    def __init__(self, evidence: Evidence, block: Block, pre: Tensor, post: Tensor) -> None:
        self.evidence, self.block, self.pre, self.post = evidence, block, pre, post
        self.seen, self.part = evidence.seen, evidence.part(block.path)
        self.states = [*self._states()]

    def decide(self) -> None:
        """Note what is added to the stream, and the stream in between."""
        block = self.block
        mixed = child(self.part, roles.ATTENTION) is None and child(self.part, roles.MIXER) is not None
        parts = [
            ("mixer_out" if mixed else "attn_out", list(self._given(block.attention, block.w_o, roles.AFTER_ATTENTION))),
            ("cross_out", list(self._given(*self._cross(), ()))),
            ("mlp_out", list(self._given(block.mlp, block.w_out, roles.AFTER_MLP))),
        ]
        there = [(name, candidates) for name, candidates in parts if candidates]
        if not there:
            return
        chain, by = self._chain(self.pre, [candidates for _, candidates in there])
        if len(chain) < len(there):
            if len(there) == 2 and self._parallel([candidates for _, candidates in there]):
                return
            name = there[len(chain)][0]
            block.absent[name] = missed("the stream before + it = the stream after", by, block.path)
        names = [name for name, _ in there]
        self._keep([*zip(names, chain, strict=False)], complete=len(chain) == len(there), following=names[1:])

    # the laws

    def _chain(self, stream: Tensor, candidates: list[list[str]]) -> tuple[list[_Sum], float]:
        """The longest row of sums from a stream to what leaves the block, and by how much the next one missed."""
        ends = [(None, self.post)] if len(candidates) == 1 else self.states
        longest: list[_Sum] = []
        nearest = float("inf")
        for option in self._sums(stream, candidates[0], ends):
            if option.deviation > self.evidence.tolerance:
                nearest = min(nearest, option.deviation)
                continue
            if len(candidates) == 1:
                return [option], 0.0
            assert option.state is not None
            following = _as_stream(self.seen.inputs[option.state][0], stream)
            assert following is not None
            rest, by = self._chain(following, candidates[1:])
            if len(rest) == len(candidates) - 1:
                return [option, *rest], 0.0
            if 1 + len(rest) > len(longest):
                longest, nearest = [option, *rest], by
        return longest, nearest

    def _sums(self, stream: Tensor, candidates: list[str], ends: Sequence[tuple[str | None, Tensor]]) -> Iterator[_Sum]:
        """How far each candidate, added to the stream, perhaps by way of a norm, is from each of ``ends``."""
        norms: list[str | None] = [None, *self._norms()]
        for norm in norms:
            for what in candidates:
                given = _as_stream(self.seen.output(what), stream)
                if given is None:
                    continue
                total = stream + given
                if norm is not None:
                    with torch.no_grad():
                        total = self.evidence.part(norm)(total)
                for state, end in ends:
                    same = _as_stream(end, total)
                    if same is not None:
                        yield _Sum(deviation(total, same), what, norm, state)

    def _parallel(self, candidates: list[list[str]]) -> bool:
        """Note two parts that read the same stream and are added to it together, if there are."""
        for attention, mlp in product(*candidates):
            one, other = (_as_stream(self.seen.output(path), self.pre) for path in (attention, mlp))
            if (
                one is not None
                and other is not None
                and deviation(self.pre + one + other, self.post) <= self.evidence.tolerance
            ):
                given = {"attn_out": attention, "mlp_out": mlp}
                self.block.taps |= {name: self.evidence.given(path, self.block) for name, path in given.items()}
                self.block.absent["resid_mid"] = f"attention and MLP of {self.block.path} both read the block's input"
                self.block.order = "parallel"
                return True
        return False

    def _keep(self, found: list[tuple[str, _Sum]], *, complete: bool, following: list[str]) -> None:
        for (name, best), after in zip(found, [*following, None], strict=False):
            self.block.taps[name] = self.evidence.given(best.what, self.block)
            if best.norm is not None:
                self.block.norms[name] = best.norm
            if best.state is not None:
                state = "resid_mid" if after == "mlp_out" else "resid_cross"
                self.block.taps[state] = replace(self.evidence.tap(best.state, "input", self.block), in_place=True)
        if complete:
            self.block.order = "sequential"

    # candidates

    def _given(self, part: str | None, linear: str | None, after: tuple[str, ...]) -> Iterator[str]:
        """Modules whose output may be what a part adds: a norm behind it, the part, what holds it, its last map."""
        if part is None:
            return
        yield from (f"{self.block.path}.{name}" for name in after if has(self.part, name))
        while part != self.block.path:
            yield part
            part = part.rpartition(".")[0]
        if linear is not None:
            yield linear

    def _cross(self) -> tuple[str | None, str | None]:
        name = child(self.part, roles.CROSS)
        path = f"{self.block.path}.{name}" if name is not None else None
        return (None, None) if path is None or not self.seen.inputs[path] else (path, self.evidence.beside(path, roles.W_O))

    def _states(self) -> Iterator[tuple[str, Tensor]]:
        """Tensors that may be the stream inside a block: what norms, MLPs and whole parts take behind its first part."""
        called = {path: i for i, path in enumerate(self.seen.order)}
        begun = called.get(self.block.attention or "", -1)
        for name, part in self.part.named_modules():
            path = f"{self.block.path}.{name}"
            seen = self.seen.input(path) if name and called.get(path, -1) > begun else None
            if seen is not None and (is_norm(part) or part._modules or name in (*roles.W_IN, *roles.GATE_AND_UP)):
                yield path, seen

    def _norms(self) -> Iterator[str]:
        for name, part in self.part.named_modules():
            path = f"{self.block.path}.{name}"
            if name and is_norm(part) and path in self.seen.alone:
                yield path


def _as_stream(tensor: Tensor | None, like: Tensor) -> Tensor | None:
    """A tensor in the shape of the stream, if it is the stream's size: some models put all tokens into one axis."""
    if tensor is None or tensor.shape[-1] != like.shape[-1] or tensor.numel() != like.numel():
        return None
    return tensor.reshape(like.shape)
