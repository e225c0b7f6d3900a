"""What comes before the first block of a stream and after the last: embeddings, the last norm, the model's output.

    >>> [tap.path for tap in of_stream(evidence, stack, []).taps.values()]                     # doctest: +SKIP
    ['transformer.wte', 'transformer.wpe', 'transformer.ln_f']

A stream's embedding is the nearest one in the modules that hold its stack and no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from interp.models.anatomy import norms, roles
from interp.models.anatomy.evidence import Evidence
from interp.models.anatomy.record import shapes
from interp.models.anatomy.stacks import Found
from interp.models.layouts import IMAGE, Flat, Layout, Own, Pooled, Shared, Whole
from interp.models.taps import Tap
from interp.sites import MAIN


class Ends(NamedTuple):
    """What is outside the blocks of one stream."""

    taps: dict[str, Tap]
    absent: dict[str, str]
    """Why there is no ``embed``, ``pos_embed`` or ``ln_final_scale``."""


def of_stream(evidence: Evidence, stack: Found, others: Sequence[Found]) -> Ends:
    """What enters the first block, and the norm behind the last.

    Args:
        others: the model's other stacks.
    """
    ends = Ends({}, {})
    first = evidence.seen.input(stack.blocks[0])
    around = _around(stack.blocks[0], [block for other in others for block in other.blocks])
    own = _embedding(evidence.module, around) or (_input_embedding(evidence.module) if stack.name == MAIN else None)
    for name, path in (("embed", own), ("pos_embed", _positions(evidence.module, around))):
        out = evidence.seen.output(path) if path is not None else None
        if path is not None and out is not None and first is not None and out.shape[-1] == first.shape[-1]:
            ends.taps[name] = _entry(evidence, path, out, first)
        else:
            ends.absent[name] = _NOT_THERE[name]
    final = norms.last(evidence, stack.blocks)
    if isinstance(final, Tap):
        ends.taps["ln_final_scale"] = final
    else:
        ends.absent["ln_final_scale"] = final
    return ends


def output(evidence: Evidence, inputs: Mapping[str, Tensor]) -> Tap:
    """What the model says in the end: its logits, or those of the part that has some, or whatever it gives."""
    seen, batch = evidence.seen, evidence.batch
    path = "" if "" in seen.heads or not seen.heads else seen.heads[-1]
    shape = seen.shapes.get((path, "output"), ())
    if shape == (batch, batch) and _compares(evidence, inputs, path):
        return Tap(path, "output", Own())
    layouts: dict[int, Layout] = {2: Pooled(), 4: IMAGE}
    return Tap(path, "output", layouts.get(len(shape), Whole()))


_NOT_THERE = {
    "embed": "no embedding of its own enters the stream",
    "pos_embed": "no position embedding is added to the stream",
}


def _compares(evidence: Evidence, inputs: Mapping[str, Tensor], path: str) -> bool:
    """Whether a matrix compares every example with every other: it has fewer columns for fewer examples."""
    fewer = {name: tensor[: len(tensor) * 2 // evidence.batch] for name, tensor in inputs.items()}
    shape = shapes(evidence.module, lambda: evidence.module(**fewer))[0].get((path, "output"))
    return shape == (2, 2) and evidence.batch != 2


def _entry(evidence: Evidence, path: str, out: Tensor, stream: Tensor) -> Tap:
    """An embedding: of every example's own tokens, of all of them in one axis, or one for all examples."""
    copied = path in evidence.seen.overwritten
    if out.ndim == 4:
        return Tap(path, "output", IMAGE, copied=copied)
    if out.ndim == 3 and len(out) == evidence.batch:
        return Tap(path, "output", copied=copied)
    layout: Layout = Flat() if out.numel() == stream.numel() else Shared()
    return Tap(path, "output", layout, copied=copied, within="")


def _around(block: str, others: Sequence[str]) -> list[str]:
    """Modules that hold a stack, from the inside, and no other stack."""
    found, path = [], block
    while path:
        path = path.rpartition(".")[0]
        if any(not path or other.startswith(f"{path}.") for other in others):
            break
        found.append(path)
    return found


def _input_embedding(module: Any) -> str | None:
    """What the model calls its input embedding."""
    try:
        embedding = module.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return next((path for path, part in module.named_modules() if part is embedding), None)


def _embedding(module: nn.Module, around: Sequence[str]) -> str | None:
    """The embedding that is nearest to a stack."""
    for path in around:
        part = module.get_submodule(path)
        inside = {n for n, p in part.named_modules() if isinstance(p, (nn.ModuleList, nn.Sequential))}
        near = [
            n
            for n, p in part.named_modules()
            if (isinstance(p, nn.Embedding) or n.rpartition(".")[2] in roles.EMBEDDING)
            and n.rpartition(".")[2] not in (*roles.POSITION_EMBEDDING, *roles.OTHER_EMBEDDING)
            and not any(n.startswith(f"{container}.") for container in inside)
        ]
        tokens = [n for n in near if isinstance(part.get_submodule(n), nn.Embedding)]
        if near:
            nearest = (tokens or near)[0]
            return f"{path}.{nearest}" if path else nearest
    return None


def _positions(module: nn.Module, around: Sequence[str]) -> str | None:
    for path in around:
        near = [n for n, _ in module.get_submodule(path).named_modules() if n.rpartition(".")[2] in roles.POSITION_EMBEDDING]
        if near:
            return f"{path}.{near[0]}" if path else near[0]
    return None
