"""Source values: the runs that give them, read once and shared by every cell of a sweep.

    >>> runs = Runs(model, encoded, base="corrupted")                                   # doctest: +SKIP
    >>> values = runs.values(change)                                                    # doctest: +SKIP
    >>> values.at(examples, slots)                                                      # doctest: +SKIP

Whatever the source – another run, a mean, a constant, noise – its values become one tensor ``[example, position, (head),
features]`` with two index maps: which of its examples serves which of ours, and which of its positions which of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp import axes
from interp.engine.batches import in_batches
from interp.engine.layout import LOGITS, canonical, indexed_axis
from interp.engine.readout import Reader
from interp.engine.shard import Shard, bytes_an_example, cat_keys_values
from interp.errors import HeadOutOfRangeError, ShapeMismatchError, UnequalLengthsError
from interp.interventions import Activation, Change, Constant, Noise
from interp.models import Encoded, Model, Tokens
from interp.models.taps import Write
from interp.pairs import Prompt
from interp.sites import Positions, Site

if TYPE_CHECKING:
    from interp.models.suffix import KeysValues


@dataclass(frozen=True, eq=False)
class Values:
    """Values of one source for one change."""

    tensor: Tensor
    """``[example, position, *rest]``, ``rest`` being (head), features."""
    example: Int[Tensor, " example"]
    """Which row of the tensor serves each example of the sweep."""
    columns: Int[Tensor, "example span"]
    """Which position of the tensor serves each token of the change, padded with −1."""
    index: int | None
    """Head or unit that is taken, None for all."""
    exact: bool = True
    """Whether the features must be the target's one by one; a constant may broadcast."""

    def at(self, examples: Tensor, slots: Tensor) -> Tensor:
        """Values ``[n, *features]`` of n tokens, each given by its example and its number within the change's positions."""
        found = self.tensor[self.example[examples], self.columns[examples, slots]]
        if self.index is None:
            return found
        return found[:, self.index] if found.ndim > 2 else found[:, self.index, None]


Writes = Callable[[Tensor], Mapping[Site, Write]]
"""Examples of a pass to its writes."""


@dataclass(frozen=True, eq=False)
class _Batch:
    """What one forward pass of prompts leaves."""

    found: dict[Site, Tensor]
    logits: Tensor | None
    before: list[KeysValues] | None


class Runs:
    """The runs of a sweep other than its rows, each done once: clean, corrupted, and other prompts and models.

    Args:
        base: which side of the pairs the sweep runs on, ``"clean"`` or ``"corrupted"``; the other one is the source.
        batch: examples in one forward pass.
        reader: says which logits of the pairs' prompts are kept.
    """

    def __init__(self, model: Model, encoded: Encoded, base: str, batch: int, reader: Reader) -> None:
        self.model, self.encoded, self.batch, self.reader = model, encoded, batch, reader
        self.side = {
            "base": base,
            "source": "clean" if base == "corrupted" else "corrupted",
            "clean": "clean",
            "corrupted": "corrupted",
        }
        self._wanted: dict[tuple[Any, ...], set[Site]] = {}
        self._tokens: dict[tuple[Any, ...], tuple[Model, Tokens]] = {}
        self._found: dict[tuple[Any, ...], dict[Site, Tensor]] = {}
        self._pooled: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}
        self._logits: dict[tuple[Any, ...], Tensor] = {}
        self._kept: list[KeysValues] | None = None
        self._keeping = False
        self._whole: Shard | None = None
        self.given: Writes | None = None
        """Changes in force on the base: a function of examples that gives the writes of a pass. Set once they are resolved."""

    @property
    def base(self) -> Tokens:
        return self.tokens("base")

    def tokens(self, which: str) -> Tokens:
        return getattr(self.encoded, self.side[which])

    # planning: say what will be needed, then run once

    def want(self, changes: Collection[Change]) -> None:
        """Announce changes whose sources will be asked for, so that each run is done once, with all its reads together."""
        for change in changes:
            if isinstance(change.source, Activation) and change.edit.reads_source:
                key = self._key(change.source)
                site = change.source.site_for(change.site)
                self._tokens[key][0].check(site)
                if site.tensor not in self._found.get(key, {}):
                    self._wanted.setdefault(key, set()).add(site.tensor)

    def _key(self, source: Activation) -> tuple[Any, ...]:
        model: Model = source.model if source.model is not None else self.model  # type: ignore[assignment]
        prompt = source.prompt
        if isinstance(prompt, str) and prompt in self.side:
            side = "given" if prompt == "base" and self.given is not None and model is self.model else self.side[prompt]
            key: tuple[Any, ...] = (id(model), side)
            if side == "given":
                self._tokens[key] = (model, self.base)
            elif key not in self._tokens:
                pairs = self.encoded if model is self.model else model.encode(self.encoded.pairs, bos=self.encoded.asked)
                self._tokens[key] = (model, getattr(pairs, self.side[prompt]))
        else:
            key = (id(model), "prompt", repr(prompt.spec() if isinstance(prompt, Prompt) else prompt))
            if key not in self._tokens:
                self._tokens[key] = (model, model.encode([prompt], bos=self.encoded.asked))
        return key

    def _read(self, change: Change, source: Activation) -> Tensor:
        """The whole tensor that a source reads, in the engine's order of axes; its run is made if it was not yet."""
        self.want([change])
        key = self._key(source)
        if key in self._wanted:
            self._run(key, self._wanted.pop(key))
        return self._found[key][source.site_for(change.site).tensor]

    def _run(self, key: tuple[Any, ...], sites: Collection[Site]) -> None:
        """Run some prompts once, in batches; the pairs' prompts leave their logits too."""
        model, tokens = self._tokens[key]
        with model.prepared(sites):
            parts = in_batches(len(tokens), self.batch, lambda chunk: self._batch(key, tokens, sites, chunk))
        found = {site: torch.cat([part.found.pop(site) for part in parts]) for site in sites}
        self._found.setdefault(key, {}).update({site: canonical(site, tensor) for site, tensor in found.items()})
        if parts[0].logits is not None:
            self._logits[key] = torch.cat([part.logits for part in parts if part.logits is not None])
        if parts[0].before is not None:
            self._kept = cat_keys_values([part.before for part in parts if part.before is not None])

    def _batch(self, key: tuple[Any, ...], tokens: Tokens, sites: Collection[Site], chunk: slice | Tensor) -> _Batch:
        """One forward pass of some prompts."""
        model, part = self._tokens[key][0], tokens.take(chunk)
        of_pair = len(key) == 2 and model is self.model
        keep = None if LOGITS in sites else self.reader.keep if of_pair else 1
        inputs: dict[str, Any] = model.inputs(part, keep)
        writes: Mapping[Site, Write] = {}
        if key == self._base_key and self.given is not None:
            writes = self.given(torch.arange(len(tokens), device=model.device)[chunk])
        cache = None
        if key == self._base_key and self._keeping:
            from interp.models.suffix import recorded, recording

            cache = recording()
            inputs |= {"past_key_values": cache, "use_cache": True}
        reads = {*sites, LOGITS} if of_pair else sites
        found = model.backend.run(inputs, reads=reads, writes=writes)
        logits = self.reader.logits(part, found[LOGITS]) if of_pair else None
        before = recorded(cache) if cache is not None else None
        return _Batch({site: found[site] for site in sites}, logits, before)

    # the runs themselves

    @property
    def _base_key(self) -> tuple[Any, ...]:
        return self._key(Activation("base"))

    def logits(self, which: str) -> Float[Tensor, "example position vocab"]:
        """Logits of ``"clean"``, ``"corrupted"`` or ``"base"`` prompts at the positions that the metrics read.

        The base's are those of the base run as it is, with what is given in force.
        """
        key = self._key(Activation(which))
        if key not in self._logits:
            self._run(key, self._wanted.pop(key, set()))
        return self._logits[key]

    def keep(self, sites: Collection[Site], columns: int, budget: int, besides: int = 0) -> None:
        """Keep the base run at some sites, with its keys and values, for rows that are resumed from it.

        Args:
            columns: number of positions.
            budget: most bytes to keep at once; a longer base run is made again, a shard at a time.
            besides: bytes that the caller keeps of each example.
        """
        self._resumed = set(sites)
        one = bytes_an_example(self.model, self._resumed, columns) + besides
        self._shard = max(1, budget // max(1, one))
        if self._shard >= len(self.encoded):
            self._keeping = self.model.stack is not None and self.model.stack.resumes
            self._wanted.setdefault(self._base_key, set()).update(sites)

    def shards(self) -> Iterator[Shard]:
        """The base run, as much of it at a time as was allowed to :meth:`keep`."""
        for examples in torch.arange(len(self.base), device=self.model.device).split(self._shard):
            yield self.shard_of(examples)

    def shard_of(self, examples: Int[Tensor, " example"]) -> Shard:
        """A part of the base run that holds some examples: all of it where it is kept whole, else these, run anew.

        Args:
            examples: ascending.
        """
        key = self._base_key
        if self._shard >= len(self.base):
            if self._whole is None:
                logits = self.logits("base")
                if key in self._wanted:
                    self._run(key, self._wanted.pop(key))
                everyone = torch.arange(len(self.base), device=self.model.device)
                self._whole = Shard(self.model, everyone, self.base, self._found.get(key, {}), self._kept, logits)
            return self._whole
        self._keeping = self.model.stack is not None and self.model.stack.resumes
        with self.model.prepared(self._resumed):
            part = self._batch(key, self.base, self._resumed, examples)
        found = {site: canonical(site, tensor) for site, tensor in part.found.items()}
        assert part.logits is not None
        return Shard(self.model, examples, self.base.take(examples), found, part.before, part.logits)

    # answers

    def values(self, change: Change, columns: Int[Tensor, "example span"]) -> Values | None:
        """The values that a change writes, for its resolved positions; None if its edit reads no source.

        Raises:
            ShapeMismatchError: the source's positions or features do not fit the target's.
        """
        if not change.edit.reads_source:
            return None
        n, source = len(self.encoded), change.source
        device = self.model.device
        everyone = torch.arange(n, device=device)
        if isinstance(source, Constant):
            value = torch.as_tensor(source.value, device=device).to(torch.promote_types(self.model.dtype, torch.float32))
            value = value if value.ndim else value[None]
            return Values(value[None, None], everyone * 0, torch.where(columns >= 0, 0, -1), None, exact=False)
        if isinstance(source, Noise):
            return self._noise(source, change.site, columns)
        assert isinstance(source, Activation)
        tensor = self._read(change, source)
        key, site = self._key(source), source.site_for(change.site)
        _, tokens = self._tokens[key]
        axis = indexed_axis(site)
        index = getattr(site, axis) if axis else None
        if index is not None and index >= tensor.shape[2]:
            raise HeadOutOfRangeError(
                f"{axis} {index} of {site!r} does not exist: there are {tensor.shape[2]}, 0 to {tensor.shape[2] - 1}"
            )
        if source.pool == "mean":
            return self._mean(source, key, site, tokens, columns, index)
        partner = everyone
        if source.pool == "resample":
            partner = _derangement(n, source.seed).to(device)
        elif len(tokens) == 1 != n:
            partner = everyone * 0
        if axes.SOURCE_POSITION in site.axes:
            self._refuse_other_layout(tokens, partner, site)
        own = self._own_columns(source, change, tokens)[partner]
        return Values(tensor, partner, _matched(own, columns, change), index)

    def _own_columns(self, source: Activation, change: Change, tokens: Tokens) -> Int[Tensor, "example span"]:
        """The source's positions, which are the target's unless it has its own; raw indices need prompts of equal length."""
        positions = source.own_positions or change.positions
        raw = positions.is_all or (positions.indices is not None and any(i >= 0 for i in positions.indices))
        if raw and source.own_positions is None and tokens is not self.base and self._is_pair(tokens):
            self.encoded.require_equal_lengths(f"{change.site!r}@{change.positions!r}")
        return tokens.columns(positions, what=f"source position of {change.site!r}")

    def _refuse_other_layout(self, tokens: Tokens, partner: Tensor, site: Site) -> None:
        """Patterns and scores are matched by the raw index of what is attended to, so prompts must lie alike."""
        base = self.base
        alike = tokens.ids.shape[1] == base.ids.shape[1] and bool((tokens.lengths[partner] == base.lengths).all())
        if not alike and self._is_pair(tokens):
            self.encoded.require_equal_lengths(f"{site.tensor!r}, along source_position,")
        if not alike:
            raise UnequalLengthsError(
                f"{site.tensor!r} is matched along source_position by raw index, but base and source prompts differ in length: "
                f"{base.lengths.tolist()} and {tokens.lengths[partner].tolist()} tokens"
            )

    def _is_pair(self, tokens: Tokens) -> bool:
        return tokens is self.encoded.clean or tokens is self.encoded.corrupted

    def _mean(
        self,
        source: Activation,
        key: tuple[Any, ...],
        site: Site,
        tokens: Tokens,
        columns: Int[Tensor, "example span"],
        index: int | None,
    ) -> Values:
        """Means over real tokens, positions counted from each prompt's first real token."""
        if axes.SOURCE_POSITION in site.axes:
            if axes.POSITION in source.over:
                raise ShapeMismatchError(
                    f"{source!r} of {site.tensor!r}: rows of different positions attend to different tokens"
                )
            lengths = torch.cat([tokens.lengths, self.base.lengths])
            if not bool((lengths == lengths[0]).all()):
                raise UnequalLengthsError(
                    f"a mean of {site.tensor!r} over examples needs prompts of one length, got {lengths.unique().tolist()}"
                )
        if source.by is not None and len(tokens) != len(self.encoded):
            raise ValueError(f"{source!r}: a mean by {source.by!r} is over the prompts of the pairs, not over one prompt")
        groups = self._groups(source.by)
        pooled = (*key, site.tensor, source.over, source.by)
        if pooled not in self._pooled:
            self._pooled[pooled] = _mean(self._found[key][site.tensor], tokens, source.over, groups[: len(tokens)])
        tensor, count = self._pooled[pooled]
        names = sorted(set(groups))
        group = torch.tensor([names.index(name) for name in groups], device=tensor.device)
        if axes.POSITION in source.over:
            return Values(tensor, group, torch.where(columns >= 0, 0, -1), index)
        positions = source.own_positions
        own = columns - self.base.first[:, None] if positions is None else tokens.columns(positions) - tokens.first[:, None]
        own = torch.where(columns >= 0, own.expand_as(columns), -1)
        counted = count[group[:, None], own.clamp(0, count.shape[1] - 1)]
        missing = (own >= 0) & ((own >= count.shape[1]) | (counted == 0))
        if bool(missing.any()):
            example = int(missing.any(-1).nonzero()[0])
            raise ShapeMismatchError(
                f"{source!r}: example {example} needs the mean at position {int(own[example].max())}, which no prompt of the "
                "source has; pool positions too, with over=('example', 'position')"
            )
        return Values(tensor, group, own, index)

    def _groups(self, by: str | None) -> list[str]:
        if by is None:
            return [""] * len(self.encoded)
        if by not in ("template", "entities"):
            raise ValueError(f"by={by!r}; a conditional mean groups examples by 'template' or 'entities'")
        return [str(getattr(pair, by)) for pair in self.encoded.pairs]

    def _noise(self, source: Noise, site: Site, columns: Int[Tensor, "example span"]) -> Values:
        base = self.base
        if axes.SOURCE_POSITION in site.axes:
            raise ShapeMismatchError(
                f"noise on {site!r} would not be a probability; use a site whose features are a fixed width"
            )
        axis = indexed_axis(site)
        own_values = Activation("base")  # they say how wide the site is
        widths = tuple(self._read(Change(site, source=own_values), own_values).shape[2:])
        drawn = ("noise", source.std, source.seed, *widths)
        if drawn not in self._pooled:
            dtype = torch.promote_types(self.model.dtype, torch.float32)
            draws = torch.stack([source.draw(e, (int(base.lengths.max()), *widths)) for e in range(len(base))])
            self._pooled[drawn] = draws.to(self.model.device, dtype), torch.arange(len(base), device=self.model.device)
        tensor, everyone = self._pooled[drawn]
        own = torch.where(columns >= 0, columns - base.first[:, None], -1)
        return Values(tensor, everyone, own, getattr(site, axis) if axis else None)


def _matched(
    own: Int[Tensor, "example own_span"], columns: Int[Tensor, "example span"], change: Change
) -> Int[Tensor, "example matched"]:
    """The source's columns beside the target's: as many in every example, or one, which then serves all."""
    target_span, own_span = (columns >= 0).sum(-1), (own >= 0).sum(-1)
    if bool((own_span == target_span).all()):
        return own[:, : columns.shape[1]]
    if bool((own_span == 1).all()):
        return torch.where(columns >= 0, own[:, :1], -1)
    example = int((own_span != target_span).nonzero()[0])
    counts = f"the target has {int(target_span[example])} tokens, the source {int(own_span[example])}"
    raise ShapeMismatchError(
        f"{change!r}: in example {example} {counts}; "
        "spans must be equally long, or the source one token, such as Activation(positions='subject[-1]')"
    )


def _mean(tensor: Tensor, tokens: Tokens, over: Sequence[str], groups: list[str]) -> tuple[Tensor, Tensor]:
    """Means ``[group, position or 1, *rest]`` in at least float32, and how many real tokens each is of."""
    names = sorted(set(groups))
    member = torch.tensor([names.index(g) for g in groups], device=tensor.device)
    columns = tokens.columns(Positions())
    real = (columns >= 0).to(torch.promote_types(tensor.dtype, torch.float32))
    rows = torch.arange(len(tokens), device=tensor.device)[:, None]
    aligned = tensor[rows, columns.clamp(min=0)].to(real.dtype)
    ones = tuple(1 for _ in tensor.shape[2:])
    total = torch.zeros(len(names), *aligned.shape[1:], dtype=real.dtype, device=tensor.device)
    total.index_add_(0, member, aligned * real.view(*real.shape, *ones))
    count = torch.zeros(len(names), real.shape[1], dtype=real.dtype, device=tensor.device).index_add_(0, member, real)
    if axes.POSITION in over:
        total, count = total.sum(1, keepdim=True), count.sum(1, keepdim=True)
    return total / count.clamp(min=1).view(*count.shape, *ones), count


def _derangement(n: int, seed: int) -> Tensor:
    """A random cyclic order: example i takes its values from another example, never from itself (but for n = 1)."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    partner = torch.empty_like(order)
    partner[order] = order.roll(-1)
    return partner
