"""What edge contestants are asked: the effect of links of the residual stream's graph, each alone.

A link goes from who writes to the stream (the embedding, a head, an MLP) to who reads from it (a head's query, key or value, an
MLP, the unembedding). The prompt is the base; the reader sees the writer's contribution in the source instead, nobody else
does. An answer is a tensor ``[link, example]`` of the metric.

    question = random_links(GPT2_SMALL, count=300, least=3, pairs=2, tokens=15, differ=(3, 9))
    len(question.links), len(every(GPT2_SMALL))            # 300, 32491
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from contestants.networks import Shape
from contestants.question import Question, random_question

EMBED = ("embed", -1, -1)
LOGITS = ("logits", -1, -1)
Node = tuple[str, int, int]
"""Kind, layer and head, −1 where there is none. Writers are ``embed head mlp``, readers ``q k v mlp logits``."""


@dataclass(frozen=True)
class Link:
    sender: Node
    receiver: Node

    @property
    def stratum(self) -> str:
        """Links into the heads of one layer, into one MLP, or into the unembedding: they cost alike."""
        kind, layer, _ = self.receiver
        return kind if kind == "logits" else f"L{layer} {'mlp' if kind == 'mlp' else 'attention'}"


@dataclass(frozen=True)
class Links:
    """Some links on the pairs of a question."""

    question: Question
    links: tuple[Link, ...]

    @property
    def shape(self) -> Shape:
        return self.question.shape


def writers(shape: Shape, layer: int) -> list[Node]:
    """Who writes to the stream before a block."""
    found = [EMBED]
    for before in range(layer):
        found += [*heads(shape, before), ("mlp", before, -1)]
    return found


def heads(shape: Shape, layer: int) -> list[Node]:
    return [("head", layer, head) for head in range(shape.heads)]


def every(shape: Shape) -> list[Link]:
    """All links of a model with sequential blocks and as many key/value heads as heads, in the order of the network."""
    found = []
    for layer in range(shape.layers):
        for slot in "qkv":
            for head in range(shape.heads):
                found += [Link(sender, (slot, layer, head)) for sender in writers(shape, layer)]
        found += [Link(sender, ("mlp", layer, -1)) for sender in (*writers(shape, layer), *heads(shape, layer))]
    return found + [Link(sender, LOGITS) for sender in writers(shape, shape.layers)]


def strata(links: Iterable[Link]) -> dict[str, list[Link]]:
    found: dict[str, list[Link]] = defaultdict(list)
    for link in links:
        found[link.stratum].append(link)
    return dict(found)


def shares(sizes: dict[str, int], count: int, least: int) -> dict[str, int]:
    """How many of ``count`` each stratum gets: in proportion to its size, but ``least`` at least, or all it has.

    What is left over after rounding down goes to the largest remainders.
    """
    given: dict[str, int] = {}
    while True:
        open_ = {name: size for name, size in sizes.items() if name not in given}
        rest, total = count - sum(given.values()), sum(open_.values())
        exact = {name: rest * size / total for name, size in open_.items()}
        below = [name for name, share in exact.items() if share < least]
        if not below:
            break
        given |= {name: min(least, sizes[name]) for name in below}
    given |= {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: int(exact[name]) - exact[name])
    for name in by_remainder[: count - sum(given.values())]:
        given[name] += 1
    return given


def random_links(
    shape: Shape, *, count: int, least: int, pairs: int, tokens: int, differ: tuple[int, ...], seed: int = 1
) -> Links:
    """A sample without replacement, stratum by stratum, on random pairs that differ at the positions ``differ``."""
    draw = torch.Generator().manual_seed(seed)
    groups = strata(every(shape))
    taken = shares({name: len(group) for name, group in groups.items()}, count, least)
    links = []
    for name, group in groups.items():
        chosen = torch.randperm(len(group), generator=draw)[: taken[name]].sort().values
        links += [group[i] for i in chosen.tolist()]
    return Links(random_question(shape, "resid_pre", pairs=pairs, tokens=tokens, differ=differ, seed=seed), tuple(links))
