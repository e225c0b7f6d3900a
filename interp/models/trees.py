"""Arguments of modules: tensors in nested tuples, lists and dicts, and which of their dimensions is the batch.

>>> mapped(lambda a, b: a + b, {"x": (1, [2])}, {"x": (10, [20])})
{'x': (11, [22])}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Tree = Any
"""Tensors in nested tuples, lists and dicts, as modules take them."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The batch dimension of a tensor, and how many entries an example has along it (BLOOM's alibi: as many as heads)."""

    dimension: int
    multiple: int


def batch_of(two: Any, three: Any) -> Batch | None:
    """The dimension that grew with the batch from two examples to three."""
    if not isinstance(two, Tensor):
        return None
    grown = [i for i, (a, b) in enumerate(zip(two.shape, three.shape, strict=True)) if a != b and 3 * a == 2 * b]
    return Batch(grown[0], two.shape[grown[0]] // 2) if grown else None


def mapped(function: Callable[..., Any], tree: Tree, other: Tree) -> Tree:
    """A function on corresponding leaves of two trees, the first of which says what a leaf is.

    Raises:
        ValueError: a dict of the second tree has other keys than the first one's, so that something would be lost.
    """
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(mapped(function, *parts) for parts in zip(tree, other, strict=True)))
    if isinstance(tree, (tuple, list)):
        return type(tree)(mapped(function, *parts) for parts in zip(tree, other, strict=True))
    if isinstance(tree, dict):
        if tree.keys() != other.keys():
            raise ValueError(f"arguments {sorted(tree.keys() ^ other.keys())} are in one of two calls of a block, not in both")
        return {key: mapped(function, value, other[key]) for key, value in tree.items()}
    return function(tree, other)


def leaves(tree: Tree) -> Iterator[Tensor]:
    """The tensors of a tree."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for part in tree:
            yield from leaves(part)
    elif isinstance(tree, dict):
        yield from leaves(list(tree.values()))
