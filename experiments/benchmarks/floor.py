"""The least work that a sweep or a training step can be done with: matrix products only, from closed formulas.

    floor.sweep(question) / rate        # seconds that no program with these shortcuts can beat at that rate

Nothing here knows a planner. A product of [n × i] and [i × o] is 2·n·i·o FLOPs. With d the width of the stream, a = heads ×
head width, c = key/value heads × head width, m the MLP's units and g its matrices (2, gated 3), a block costs a token

    q 2·d·a    k and v 2·d·2c    output 2·a·d    MLP 2·d·m·g

and attention 4·a for every pair of a query and a key that it may see (2·a for the score, 2·a for the value). Three shortcuts
are exact in a causal model with a metric at the last token, and the floor takes all of them: a cell starts where it changes
the base run (one that writes what is there costs nothing), positions before that are the base run's, and the last block is
needed at the last token, except for the keys and values that this token reads. Norms, softmax, nonlinearities and the runs
that fill caches are not counted, which makes the floor lower, so a percentage of it is never flattered. (What the floor does
not take: in the block where a residual cell joins, queries, keys and values of the later positions are still the base run's.)
"""

from __future__ import annotations

from collections.abc import Collection

from contestants.networks import Shape
from contestants.question import Question


def pairs_seen(start: int, tokens: int) -> int:
    """Pairs of a query at ``start``, …, ``tokens − 1`` and a key at or before it: Σ (t + 1)."""
    return (tokens * (tokens + 1) - start * (start + 1)) // 2


def q(shape: Shape) -> int:
    """The query projection of one token."""
    return 2 * shape.width * shape.heads * shape.head_width


def kv(shape: Shape) -> int:
    """Key and value projections of one token."""
    return 2 * shape.width * 2 * shape.kv_heads * shape.head_width


def output(shape: Shape) -> int:
    """W_O of one token."""
    return 2 * shape.heads * shape.head_width * shape.width


def mlp(shape: Shape) -> int:
    """The MLP of one token: in and out, and the gate where there is one."""
    return 2 * shape.width * shape.mlp * (3 if shape.gated else 2)


def attention(shape: Shape, seen: int) -> int:
    """Scores and weighted values of ``seen`` pairs of query and key."""
    return 4 * shape.heads * shape.head_width * seen


def unembed(shape: Shape, columns: int) -> int:
    """``columns`` logits of one token."""
    return 2 * shape.width * columns


def blocks(shape: Shape, first: int, start: int, tokens: int, *, linear: int = 1, pairwise: int = 1) -> int:
    """Blocks ``first`` to the last, for positions from ``start`` on, the last block trimmed to the last token.

    Args:
        linear: how often the products with weights are counted; a backward pass through frozen weights makes one of each.
        pairwise: how often attention's are; a backward pass makes two of each.
    """
    if first >= shape.layers:
        return 0
    rest, seen = tokens - start, pairs_seen(start, tokens)
    whole = linear * rest * (q(shape) + kv(shape) + output(shape) + mlp(shape)) + pairwise * attention(shape, seen)
    last = linear * (rest * kv(shape) + q(shape) + output(shape) + mlp(shape)) + pairwise * attention(shape, tokens)
    return (shape.layers - 1 - first) * whole + last


def no_op(layer: int, position: int, differ: Collection[int]) -> bool:
    """Whether a cell of ``resid_pre`` writes the value that is there, because of the tokens in which base and source differ.

    In front of the first block that is so wherever the token is the same; later, where none up to the position differs.
    """
    return position not in differ if layer == 0 else position < min(differ)


def residual_cell(shape: Shape, layer: int, position: int, differ: Collection[int], tokens: int, columns: int) -> int:
    """``resid_pre`` of one layer patched at one position: that block and the later ones, from the position on."""
    if no_op(layer, position, differ):
        return 0
    return blocks(shape, layer, position, tokens) + unembed(shape, columns)


def z_cell(shape: Shape, layer: int, differ_from: int, tokens: int, columns: int) -> int:
    """z of one head patched at all positions: the block's MLP and the later blocks, from the first differing token on.

    The head's difference on its way through W_O is left out: the floor is lower without it.
    """
    rest = tokens - differ_from if layer < shape.layers - 1 else 1
    return rest * mlp(shape) + blocks(shape, layer + 1, differ_from, tokens) + unembed(shape, columns)


def sweep(question: Question) -> int:
    """Every cell on every pair."""
    total, tokens, columns = 0, question.tokens, question.read_columns
    for example in range(len(question.base)):
        differ = question.differ(example)
        for layer in question.layers:
            for place in question.where:
                if question.site == "z":
                    total += z_cell(question.shape, layer, differ[0], tokens, columns)
                else:
                    total += residual_cell(question.shape, layer, place, differ, tokens, columns)
    return total


def inert(question: Question) -> list[str]:
    """Names of the cells that cost nothing in every pair."""
    if question.site == "z":
        return []
    pairs = [question.differ(example) for example in range(len(question.base))]
    return [
        f"L{layer}.{question.site}@{place}"
        for layer in question.layers
        for place in question.where
        if all(no_op(layer, place, differ) for differ in pairs)
    ]


def forward(shape: Shape, tokens: int, logits: int | None = None) -> int:
    """A whole forward pass of one prompt as a dense program runs it: every position, attention over the full square.

    Args:
        logits: at how many positions logits are computed; at all of them if None.
    """
    block = tokens * (q(shape) + kv(shape) + output(shape) + mlp(shape)) + attention(shape, tokens * tokens)
    return shape.layers * block + (tokens if logits is None else logits) * unembed(shape, shape.vocab)


def naive(question: Question) -> int:
    """A whole forward pass for every cell and pair."""
    return question.cells * len(question.base) * forward(question.shape, question.tokens)


def das_step(shape: Shape, layer: int, position: int, tokens: int, rank: int) -> int:
    """One example in one step of DAS at ``block_output`` of one layer and position, loss over the whole vocabulary.

    Forward and backward through the later blocks, from the position on; weights are frozen, so the backward pass makes one
    product for every product with a weight, and two for every product of attention. The rotation [d × rank] takes 10·d·rank:
    source − base into the subspace and out again, and on the way back one product into the subspace and two for the rotation's
    own gradient. What keeps it orthogonal is not counted.
    """
    suffix = blocks(shape, layer + 1, position, tokens, linear=2, pairwise=3)
    return suffix + 2 * unembed(shape, shape.vocab) + 10 * shape.width * rank


def link(shape: Shape, kind: str, layer: int, differ_from: int, tokens: int, columns: int) -> int:
    """One edge of the stream's graph, from any writer, by who reads it.

    Args:
        kind: ``"attention"`` for a query, key or value of one head: its part of W_O, then the block's MLP and the later blocks;
            ``"mlp"``: that MLP and the later blocks; ``"logits"``: the readout alone.
        layer: the reader's.

    From the first differing token on, in the last block at the last token. What the reader itself makes of the moved stream (a
    head's projection and attention) can be shared by many edges in part, and is left out: the floor is lower without it.
    """
    if kind == "logits":
        return unembed(shape, columns)
    rest = tokens - differ_from if layer < shape.layers - 1 else 1
    own = rest * mlp(shape) + (rest * output(shape) // shape.heads if kind == "attention" else 0)
    return own + blocks(shape, layer + 1, differ_from, tokens) + unembed(shape, columns)


def writers(shape: Shape, layer: int) -> int:
    """Nodes that write to the stream before a block: the embedding, and the heads and the MLP of every earlier block."""
    return 1 + layer * (shape.heads + 1)


def every_link(shape: Shape, differ_from: int, tokens: int, columns: int) -> int:
    """All edges of a model with sequential blocks on one pair: 32,491 for GPT-2 small."""
    at = {"differ_from": differ_from, "tokens": tokens, "columns": columns}
    total = writers(shape, shape.layers) * link(shape, "logits", shape.layers, **at)
    for layer in range(shape.layers):
        slots, before = shape.heads + 2 * shape.kv_heads, writers(shape, layer)
        total += slots * before * link(shape, "attention", layer, **at)
        total += (before + shape.heads) * link(shape, "mlp", layer, **at)
    return total


def path(shape: Shape, layer: int, receivers: Collection[tuple[int, int]], tokens: int, columns: int) -> int:
    """One head's z at the last token, by way of some heads' queries there, MLPs live and other heads frozen.

    Args:
        layer: the sender's.
        receivers: layer and head of each; those in the sender's layer and before it stay the base's, and cost nothing.

    Everything is at the last token, where alone anything changes. Until the last receiver is reached: the sender's part of
    W_O, and the MLPs from its block to the one before the last receiver's; frozen heads take no product. Then, from the first
    receiver reached: queries of those in that block, their attention and their part of W_O, the block's MLP, the later blocks,
    and the readout. A later receiver's query is made in the frozen run in place of the later block's own, and counts there.
    """
    reached = sorted(at for at, _ in receivers if at > layer)
    if not reached:
        return 0
    first, last = reached[0], reached[-1]
    sent = output(shape) // shape.heads + (last - layer) * mlp(shape)
    joining = reached.count(first) * (q(shape) + attention(shape, tokens) + output(shape)) // shape.heads
    return sent + joining + mlp(shape) + blocks(shape, first + 1, tokens - 1, tokens) + unembed(shape, columns)


def gating_step(shape: Shape, tokens: int) -> int:
    """One example in one step of gates on every head, loss over the whole vocabulary after the last token.

    Gates act behind the first block's attention, which is the frozen model's: its MLP and the later blocks remain, forward and
    backward, at all positions. Weights are frozen, so the backward pass makes one product for every product with a weight, and
    two for every product of attention. The first block's W_O is left out: a gated head writes a multiple of what it wrote.
    """
    rest = tokens if shape.layers > 1 else 1
    suffix = blocks(shape, 1, 0, tokens, linear=2, pairwise=3)
    return 2 * rest * mlp(shape) + suffix + 2 * unembed(shape, shape.vocab)
