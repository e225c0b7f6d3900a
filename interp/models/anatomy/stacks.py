"""The stacks of blocks in a module tree, and what their streams are called.

>>> [stack.name for stack in stacks(module)]                                                   # doctest: +SKIP
['encoder', 'main']
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from interp.models.anatomy import roles
from interp.sites import MAIN


@dataclass(frozen=True)
class Found:
    """A stack of blocks."""

    name: str
    blocks: tuple[str, ...]
    """Path of every block, in the order of the network."""


def child(module: nn.Module, names: Iterable[str]) -> str | None:
    """The first of some relative paths at which there is a module; ``../`` is looked up by whoever knows the parent."""
    return next((name for name in names if has(module, name)), None)


def has(module: nn.Module, path: str) -> bool:
    """Whether there is a module at a relative path."""
    found: nn.Module | None = module
    for part in path.split("."):
        found = found._modules.get(part) if found is not None else None
    return found is not None


def stacks(module: nn.Module, order: Sequence[str] = ()) -> tuple[Found, ...]:
    """Every stack of blocks, the main one first.

    Args:
        order: paths of modules in the order in which a forward pass called them; by default that of the module tree.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for path, container in module.named_modules():
        children = list(container.named_children())
        if isinstance(container, (nn.ModuleList, nn.Sequential)) and children and all(is_block(c) for _, c in children):
            groups[_pattern(path)] += [f"{path}.{name}" if path else name for name, _ in children]
    called = {path: i for i, path in enumerate(order)}
    found = [tuple(sorted(paths, key=lambda p: called.get(p, -1))) for paths in groups.values()]
    names = _names(module, list(groups), found)
    return tuple(sorted((Found(n, b) for n, b in zip(names, found, strict=True)), key=lambda stack: stack.name != MAIN))


def is_block(module: nn.Module) -> bool:
    """Whether a module holds what makes a block: attention, a mixer, or a shortcut beside its layers."""
    return child(module, (*roles.ATTENTION, *roles.CROSS, *roles.MIXER, *roles.SHORTCUT)) is not None


def _pattern(path: str) -> str:
    """The path without numbers, and without the part of a U-Net that it is in."""
    parts = [part for part in path.split(".") if not part.isdigit() and part not in roles.IN_A_ROW]
    return ".".join(parts)


def _names(module: nn.Module, patterns: list[str], found: list[tuple[str, ...]]) -> list[str]:
    """What the streams are called: the main one :data:`interp.sites.MAIN`, others by a part of their path."""
    names = [_name(pattern) for pattern in patterns]
    main = _main(module, names, found)
    names = [MAIN if i == main else name for i, name in enumerate(names)]
    for i, name in enumerate(names):  # two stacks of one name are called by their paths
        if names.count(name) > 1:
            names[i] = re.sub(r"\W", "_", patterns[i])
    return names


def _name(pattern: str) -> str:
    parts = pattern.split(".")
    known = (name for name, words in roles.STREAMS.items() if any(part in words for part in parts))
    return next(known, parts[-1] or "blocks")


def _main(module: nn.Module, names: list[str], found: list[tuple[str, ...]]) -> int | None:
    """The stack that a site without a stream belongs to: the only one, the decoder, or the only one with attention."""
    if len(found) == 1:
        return 0
    if names.count("decoder") == 1:
        return names.index("decoder")
    attending = [
        i for i, blocks in enumerate(found) if all(child(module.get_submodule(b), roles.ATTENTION) is not None for b in blocks)
    ]
    return attending[0] if len(attending) == 1 else None
