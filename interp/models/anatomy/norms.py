"""The norms of a stream: before attention and MLP, behind what they give, and behind the last block.

    >>> of_block(evidence, block)                                                             # doctest: +SKIP
    >>> block.taps["ln1_scale"].path, block.taps["ln1_scale"].layout.norm.centred             # doctest: +SKIP
    ('transformer.h.0.ln_1', True)

Which norm is which is told by what passes: the norm whose output is, number by number, what attention or the MLP takes; the
norm whose output is what they add; the norm that takes what leaves the last block. What each one divides by is held to its
form (:class:`interp.models.norms.Norm`); a norm of another form leaves its site out, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from interp.models.anatomy import roles
from interp.models.anatomy.evidence import Block, Evidence
from interp.models.anatomy.stacks import child
from interp.models.norms import Norm, Scale, is_norm
from interp.models.taps import Tap

_BEFORE = {"ln1_scale": "attention", "ln2_scale": "the MLP"}
_BEHIND = {"ln1_post_scale": "attn_out", "ln2_post_scale": "mlp_out"}


def of_block(evidence: Evidence, block: Block) -> None:
    """Note where the scales of a block's norms are seen, or why they are not."""
    known: dict[str, str] = {}
    for name, part in _BEFORE.items():
        reader = _reader(evidence, block, name)
        path = None if reader is None else _read_by(evidence, block, reader)
        if reader is None:
            block.absent[name] = f"{block.path} has no module that is known to be {part}"
        elif path is None:
            block.absent[name] = f"what {reader} takes is not what a norm of {block.path} gives"
        elif path in block.norms.values():
            block.absent[name] = f"{reader} takes the stream itself, which {path} gives"
        elif path in known:
            block.absent[name] = f"attention and MLP read one norm, {path}: it is {known[path]}"
        else:
            known[path] = name
            _keep(evidence, block, name, path)
    for name, added in _BEHIND.items():
        tap = block.taps.get(added)
        if tap is not None and is_norm(evidence.part(tap.path)):
            _keep(evidence, block, name, tap.path)
        else:
            block.absent[name] = f"no norm stands between {added} and the stream"


def last(evidence: Evidence, blocks: Sequence[str]) -> Tap | str:
    """Where the scale of the norm behind the last block is seen, or why it is not."""
    left = evidence.seen.output(blocks[-1])
    if left is None or left.ndim != 3:
        return "what leaves the last block is not a tensor of tokens"
    path = next((path for path in _outside(evidence.module, blocks) if _same(evidence.seen.input(path), left)), None)
    if path is None:
        return "no norm takes what leaves the last block as it is"
    return _tap(evidence, path)


def _keep(evidence: Evidence, block: Block, name: str, path: str) -> None:
    found = _tap(evidence, path)
    if isinstance(found, str):
        block.absent[name] = found
    else:
        assert isinstance(found.layout, Scale)
        block.taps[name] = evidence.tap(path, "output", block, found.layout)


def _tap(evidence: Evidence, path: str) -> Tap | str:
    x, out = evidence.seen.input(path), evidence.seen.output(path)
    if x is None or out is None:
        return f"{path} is called {len(evidence.seen.inputs[path])} times in one pass"
    with torch.no_grad():
        form = Norm.of(evidence.part(path), x, out, evidence.tolerance)
    return f"{path}: {form}" if isinstance(form, str) else Tap(path, "output", Scale(form))


def _reader(evidence: Evidence, block: Block, name: str) -> str | None:
    """The module that takes what a norm gives: attention or a mixer, the MLP, or the first map of an MLP without a module."""
    part = evidence.part(block.path)
    if name == "ln1_scale":
        own = child(part, (*roles.ATTENTION, *roles.MIXER))
        return None if own is None else f"{block.path}.{own}"
    own = child(part, roles.MLP)
    if own is not None:
        return f"{block.path}.{own}"
    into = block.taps.get("mlp_pre")
    return None if into is None else into.path


def _read_by(evidence: Evidence, block: Block, reader: str) -> str | None:
    """The last norm of a block whose output a module takes."""
    taken, called = evidence.seen.input(reader), {path: i for i, path in enumerate(evidence.seen.order)}
    names = [name for name, part in evidence.part(block.path).named_modules() if name and is_norm(part)]
    before = [path for name in names if called.get(path := f"{block.path}.{name}", len(called)) < called.get(reader, -1)]
    before.sort(key=lambda path: -called[path])
    return next((path for path in before if _same(evidence.seen.output(path), taken)), None)


def _outside(module: nn.Module, blocks: Sequence[str]) -> Iterator[str]:
    """Norms that are in no block of a stack."""
    inside = tuple(f"{path}." for path in blocks)
    return (path for path, part in module.named_modules() if is_norm(part) and not path.startswith(inside))


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two tensors hold the same numbers, the tokens of all examples perhaps in one axis."""
    if one is None or other is None or one.is_meta or one.numel() != other.numel() or one.shape[-1] != other.shape[-1]:
        return False
    return torch.equal(one, other.reshape(one.shape).to(one.dtype))
