"""Arrays that are filled while a forward pass runs: what is read is copied where it stays, and nothing else is kept.

>>> arrays = filled(asked, variables(model, ["resid_post", "L3.z"]))                       # doctest: +SKIP
>>> arrays[0].array.shape                            # example, layer, position, d_model     # doctest: +SKIP
(2, 30, 8, 576)

Positions are counted from the first real token of each prompt; shorter prompts end in NaN. Where some are named, they alone are
kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Shaped
from torch import Tensor

from interp.engine.batches import in_batches
from interp.engine.layout import LOGITS, canonical
from interp.engine.pieces import Placed
from interp.engine.precision import float32
from interp.engine.prompts import Changing, Columns, forward
from interp.engine.single.asked import Asked
from interp.engine.single.chosen import Chosen, said
from interp.engine.single.variables import Variable
from interp.errors import PositionError, ShapeMismatchError
from interp.models import Places, TorchHooks
from interp.models.taps import Write
from interp.sites import Site
from interp.sites.positions import parsed


class Filled:
    """The array of a variable, in the engine's order of axes: example, layer, position, and what else the site has."""

    def __init__(self, asked: Asked, variable: Variable, position: Any = None) -> None:
        self.variable, self.site, self.position = variable, variable.sites[0], position
        self.examples = len(asked.tokens)
        self.places = _places(asked, self.site, attended=False)
        self.main = self.places is asked.tokens
        """Whether the positions are those of the main stream, which may come in pieces."""
        self.attended = _places(asked, self.site, attended=True) if self.site.square else None
        self.chosen = None if self.places is None else Chosen.of(self.places, position)
        """The positions that are kept; None where they cannot be told."""
        self._runs = [] if self.chosen is None else list(map(_runs, self.chosen.columns.tolist()))
        self.array: np.ndarray[Any, Any] | None = None
        """None until the first tensor is seen."""
        self.positional = True
        """Whether the tensor has the positions of the prompts."""
        double = asked.model.dtype == torch.float64
        self._dtype = np.float64 if double else np.float32

    @property
    def whole(self) -> np.ndarray[Any, Any]:
        """The array, once everything ran."""
        assert self.array is not None
        return self.array

    @property
    def ragged(self) -> bool:
        """Whether some prompts have fewer numbers than others."""
        attended = self.attended is not None and bool((self.attended.lengths != self.attended.lengths[0]).any())
        return attended or (self.chosen is not None and self.chosen.ragged)

    def add(self, number: int, tensor: Shaped[Tensor, "example ..."], examples: range, columns: range) -> None:
        """Copy what one layer gives for some prompts at some columns.

        Args:
            tensor: in the engine's order of axes.

        Raises:
            ShapeMismatchError: layers differ in shape, or the first axis is not that of the examples.
        """
        if self.places is not None and not self.main:
            columns = range(self.places.width)  # those of another stream
        if self.variable.indices is not None:
            index = torch.tensor(self.variable.indices, device=tensor.device)
            tensor = tensor.index_select(2, index)
            tensor = tensor.squeeze(2) if self.variable.single else tensor
        if self.array is None:
            self._begin(tensor, examples, columns)
        assert self.array is not None
        array = torch.from_numpy(self.array)[:, number]
        expected = [len(examples), *(tensor.shape[1:2] if self.positional else ()), *array.shape[2 if self.positional else 1 :]]
        got = [*tensor.shape[:-1], expected[-1]] if self.attended is not None else [*tensor.shape]
        if got != expected:
            raise ShapeMismatchError(
                f"{self.variable.sites[number]!r} gave {tuple(tensor.shape)} for {len(examples)} prompts, where {self.site!r} "
                f"has {tuple(expected)}; name layers of one shape at a time"
            )
        if not self.positional:
            array[examples.start : examples.stop].copy_(tensor)
            return
        for (runs, *source), chosen in self._alike(examples).items():
            local = torch.tensor([e - examples.start for e in chosen], device=tensor.device)
            for slot, column, count in runs:
                start, stop = max(column, columns.start), min(column + count, columns.stop)
                if start >= stop:
                    continue
                part = tensor[:, start - columns.start : stop - columns.start]
                target = array[:, slot + start - column : slot + stop - column]
                if self.attended is not None:
                    part, target = self._attended(part, target, *source)
                if len(chosen) == self.examples == len(examples):
                    target.copy_(part)
                else:
                    target[torch.tensor(chosen)] = part[local].to(target)

    def _attended(self, part: Tensor, target: Tensor, first: int, length: int) -> tuple[Tensor, Tensor]:
        """Rows of attention at the real positions attended to; a piece of a long prompt ends where it does."""
        part = part[..., first : first + length]
        seen = part.shape[-1]
        if seen < length:
            least = torch.finfo(part.dtype).min if self.site.name.endswith("scores") else 0.0
            part = torch.nn.functional.pad(part, (0, length - seen), value=least)
        return part, target[..., :length]

    def _begin(self, tensor: Tensor, examples: range, columns: range) -> None:
        """Memory for all of it, by the shape of the first tensor."""
        self.positional = self.places is not None and tensor.ndim >= 2 and tensor.shape[1] == len(columns)
        if len(tensor) != len(examples):
            raise ShapeMismatchError(
                f"{self.site!r} has shape {tuple(tensor.shape)} for {len(examples)} prompts: its first axis is not theirs"
            )
        if not self.positional and self.ragged:
            raise ShapeMismatchError(
                f"{self.site!r} has shape {tuple(tensor.shape)}, which are not the positions of these prompts, and they differ "
                "in length; ask for one prompt at a time"
            )
        shape = [*tensor.shape]
        if self.positional and self.chosen is not None:
            shape[1] = len(self.chosen.names)
        elif not all(one.is_all for one in parsed(self.position)):
            raise PositionError(
                f"position={said(self.position)}: {self.site!r} of shape {tuple(tensor.shape)} has no positions of these "
                "prompts; leave position out for it"
            )
        if self.attended is not None:
            shape[-1] = int(self.attended.lengths.max())
        layered = (self.examples, len(self.variable.sites), *shape[1:])
        self.array = np.full(layered, np.nan, self._dtype) if self.ragged else np.empty(layered, self._dtype)

    def _alike(self, examples: range) -> dict[tuple[Any, ...], list[int]]:
        """Prompts by the columns that are kept, and by the first column and the number of those that are attended to."""
        groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        bounds = [] if self.attended is None else [t.tolist() for t in (self.attended.first, self.attended.lengths)]
        for example in examples:
            groups[(self._runs[example], *(each[example] for each in bounds))].append(example)
        return groups


def _runs(columns: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    """Consecutive columns: where they go, the first of them, and how many they are; −1 is none.

    >>> _runs([4, 5, 6, -1, 2])
    ((0, 4, 3), (4, 2, 1))
    """
    found: list[tuple[int, int, int]] = []
    for slot, column in enumerate(columns):
        if column < 0:
            continue
        first, start, count = found[-1] if found else (0, 0, 0)
        if count and (first + count, start + count) == (slot, column):
            found[-1] = (first, start, count + 1)
        else:
            found.append((slot, column, 1))
    return tuple(found)


def _places(asked: Asked, site: Site, *, attended: bool) -> Places | None:
    """Positions of the prompts at a site; None where they cannot be told and no prompt is padded."""
    try:
        return asked.model.places(asked.tokens, site, attended=attended)
    except PositionError:
        if not bool(asked.tokens.mask.all()):
            raise
        return None


class _Watched:
    """What is changed in a forward pass, with a look at some sites after the changes.

    A site is watched by a write that returns what it is given, which leaves the pass as it is.
    """

    def __init__(
        self, edits: Changing | None, looks: Mapping[Site, list[tuple[Filled, int]]], examples: range, width: int
    ) -> None:
        self.edits, self.looks, self.examples, self.width = edits, looks, examples, width

    @property
    def places(self) -> Sequence[Placed]:
        return self.edits.places if self.edits is not None else ()

    def sites(self) -> list[Site]:
        return list(dict.fromkeys([*(self.edits.sites() if self.edits is not None else ()), *self.looks]))

    def writes(self, columns: range | None = None) -> dict[Site, Write]:
        found: dict[Site, Write] = dict(self.edits.writes(columns)) if self.edits is not None else {}
        at = range(self.width) if columns is None else columns
        for site in self.looks:
            found[site] = self._look(site, found.get(site), at)
        return found

    def _look(self, site: Site, write: Write | None, columns: range) -> Write:
        def look(h: Tensor) -> Tensor:
            new = h if write is None else write(h)
            self.take(site, canonical(site, new), columns)
            return new

        return look

    def take(self, site: Site, tensor: Tensor, columns: range) -> None:
        """Copy what is seen to where it stays."""
        for array, number in self.looks[site]:
            array.add(number, tensor, self.examples, columns)


def filled(asked: Asked, wanted: Sequence[Variable], position: Any = None) -> list[Filled]:
    """Run the prompts once, as many at a time as memory allows, and keep what was named, at all positions or at some.

    Backends other than torch hooks give all that was read when a pass ends; it is let go one tensor after another.
    """
    model, tokens, runs = asked.model, asked.tokens, asked.start()
    asked.give(runs)
    arrays = [Filled(asked, variable, position) for variable in wanted]
    looks: dict[Site, list[tuple[Filled, int]]] = defaultdict(list)
    for array in arrays:
        for number, site in enumerate(array.variable.sites):
            looks[site].append((array, number))
    hooked = isinstance(model.backend, TorchHooks)
    none = torch.zeros(0, dtype=torch.long, device=model.device)
    reads: dict[Site, Columns] = {} if hooked else dict.fromkeys(looks)
    if LOGITS in looks or LOGITS in asked.changed:
        reads.setdefault(LOGITS, none)  # so that they are made at every position, though none of them is kept by the pass

    def run(part: slice) -> None:
        examples = range(part.start, part.stop)
        edits = None if runs.given is None else runs.given(torch.arange(part.start, part.stop, device=model.device))
        watched = _Watched(edits, looks, examples, tokens.width)
        ran = forward(model, tokens.take(list(examples)), reads, None, watched if hooked else edits)
        for site in () if hooked else tuple(looks):
            take = ran.found.pop(site).tensor
            watched.take(site, take, range(tokens.width))

    with float32(), torch.no_grad(), model.prepared({*looks, *asked.changed}):
        in_batches(len(tokens), runs.batch, run)
    return arrays


def own_order(site: Site, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A view in the site's own order of axes, from the engine's; the layer stays behind the example."""
    return rearrange(array, "e l p h s -> e l h p s") if site.square and array.ndim == len(site.axes) + 1 else array
