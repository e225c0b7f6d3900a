"""The runs of a sweep other than its rows: of the pairs' prompts, other prompts, other models; each done once.

    >>> runs.want(changes)            # what their sources will ask for                          # doctest: +SKIP
    >>> runs.read(change, change.source).shape                                              # doctest: +SKIP

The base run can be kept with its keys and values, so that rows resume from it (:mod:`interp.engine.wave`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine.batches import in_batches
from interp.engine.budget import Budget
from interp.engine.layout import LOGITS, canonical
from interp.engine.readout import Reader
from interp.engine.shard import Shard, bytes_an_example, cat_keys_values
from interp.interventions import Activation, Change
from interp.models import Encoded, Model, Places, Tokens
from interp.models.taps import Write
from interp.pairs import Prompt
from interp.sites import Site

if TYPE_CHECKING:
    from interp.models.suffix import KeysValues

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
        self.prompts: dict[tuple[Any, ...], tuple[Model, Tokens]] = {}
        self.found: dict[tuple[Any, ...], dict[Site, Tensor]] = {}
        self._logits: dict[tuple[Any, ...], Tensor] = {}
        self._read = {"clean"} if reader.needs_reference else set()
        """The prompts whose logits are read: clean, corrupted, base."""
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

    def places(self, which: str, site: Site, *, attended: bool = False) -> Places:
        """Positions of one side of the pairs at a site, or those that are attended to there."""
        return self.model.places(self.tokens(which), site, attended=attended)

    def require_equal_lengths(self, why: str, site: Site, *, attended: bool = False) -> None:
        """Raise ``UnequalLengthsError`` unless both prompts of every pair have as many positions at a site."""
        clean, corrupted = (self.places(side, site, attended=attended) for side in ("clean", "corrupted"))
        self.encoded.require_equal_lengths(why, clean, corrupted)

    # planning: say what will be needed, then run once

    def want(self, changes: Collection[Change]) -> None:
        """Announce changes whose sources will be asked for, so that each run is done once, with all its reads together."""
        for change in changes:
            if isinstance(change.source, Activation) and change.edit.reads_source:
                key = self.key(change.source)
                site = change.source.site_for(change.site)
                self.prompts[key][0].check(site)
                if site.tensor not in self.found.get(key, {}):
                    self._wanted.setdefault(key, set()).add(site.tensor)

    def want_logits(self, *sides: str) -> None:
        """Announce that :meth:`logits` will be asked for, so that they come from the run that is made anyway."""
        self._read.update(sides)

    def key(self, source: Activation) -> tuple[Any, ...]:
        model: Model = source.model if source.model is not None else self.model  # type: ignore[assignment]
        prompt = source.prompt
        if isinstance(prompt, str) and prompt in self.side:
            side = "given" if prompt == "base" and self.given is not None and model is self.model else self.side[prompt]
            key: tuple[Any, ...] = (id(model), side)
            if side == "given":
                self.prompts[key] = (model, self.base)
            elif key not in self.prompts:
                pairs = self.encoded if model is self.model else model.encode(self.encoded.pairs, bos=self.encoded.asked)
                self.prompts[key] = (model, getattr(pairs, self.side[prompt]))
        else:
            key = (id(model), "prompt", repr(prompt.spec() if isinstance(prompt, Prompt) else prompt))
            if key not in self.prompts:
                self.prompts[key] = (model, model.encode([prompt], bos=self.encoded.asked))
        return key

    def read(self, change: Change, source: Activation) -> Tensor:
        """The whole tensor that a source reads, in the engine's order of axes; its run is made if it was not yet."""
        self.want([change])
        key = self.key(source)
        if key in self._wanted:
            self._run(key, self._wanted.pop(key))
        return self.found[key][source.site_for(change.site).tensor]

    def _run(self, key: tuple[Any, ...], sites: Collection[Site]) -> None:
        """Run some prompts once, with their logits if somebody will read them."""
        tokens = self.prompts[key][1]
        ran = self._batches(key, tokens, sites, torch.arange(len(tokens), device=tokens.mask.device))
        self.found.setdefault(key, {}).update({site: canonical(site, tensor) for site, tensor in ran.found.items()})
        if ran.logits is not None:
            self._logits[key] = ran.logits
        if ran.before is not None:
            self._kept = ran.before

    def _batches(self, key: tuple[Any, ...], tokens: Tokens, sites: Collection[Site], examples: Tensor) -> _Batch:
        """Some prompts, as many at a time as memory allows."""
        with self.prompts[key][0].prepared(sites):
            parts = in_batches(len(examples), self.batch, lambda part: self._batch(key, tokens, sites, examples[part]))
        logits, before = [part.logits for part in parts], [part.before for part in parts]
        return _Batch(
            {site: torch.cat([part.found.pop(site) for part in parts]) for site in sites},
            None if logits[0] is None else torch.cat([logit for logit in logits if logit is not None]),
            None if before[0] is None else cat_keys_values([keys for keys in before if keys is not None]),
        )

    def _batch(self, key: tuple[Any, ...], tokens: Tokens, sites: Collection[Site], chunk: Tensor) -> _Batch:
        """One forward pass of some prompts."""
        model, part = self.prompts[key][0], tokens.take(chunk)
        read = any(key == self.key(Activation(side)) for side in self._read)
        keep = None if LOGITS in sites else self.reader.keep if read else 1
        inputs: dict[str, Any] = model.inputs(part, keep)
        writes: Mapping[Site, Write] = {}
        if key == self._base_key and self.given is not None:
            writes = self.given(chunk.to(model.device))
        cache = None
        if key == self._base_key and self._keeping:
            from interp.models.suffix import recorded, recording

            cache = recording()
            inputs |= {"past_key_values": cache, "use_cache": True}
        reads = {*sites, LOGITS} if read else {*sites}
        with model.leaving({*reads, *writes}, keeping=cache is not None):
            found = model.backend.run(inputs, reads=reads, writes=writes)
        logits = self.reader.logits(part, found[LOGITS]) if read else None
        before = recorded(cache) if cache is not None else None
        return _Batch({site: found[site] for site in sites}, logits, before)

    # the runs themselves

    @property
    def _base_key(self) -> tuple[Any, ...]:
        return self.key(Activation("base"))

    def logits(self, which: str) -> Float[Tensor, "example position vocab"]:
        """Logits of ``"clean"``, ``"corrupted"`` or ``"base"`` prompts at the positions that the metrics read.

        The base's are those of the base run as it is, with what is given in force.
        """
        key = self.key(Activation(which))
        if key not in self._logits:
            self.want_logits(which)
            self._run(key, self._wanted.pop(key, set()))
        return self._logits[key]

    @property
    def reference(self) -> Float[Tensor, "example position vocab"] | None:
        """Logits of the clean prompts, where a metric compares with them."""
        return self.logits("clean") if self.reader.needs_reference else None

    def keep(self, sites: Collection[Site], columns: int, budget: Budget, besides: int = 0) -> None:
        """Keep the base run at some sites, with its keys and values, for rows that are resumed from it.

        Args:
            columns: number of positions.
            budget: how many examples to keep at once; a longer base run is made again, a shard at a time.
            besides: bytes that the caller keeps of each example.
        """
        self._resumed = set(sites)
        self._shard = budget.examples(bytes_an_example(self.model, self._resumed, columns) + besides)
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
                if key in self._wanted:
                    self._run(key, self._wanted.pop(key))
                everyone = torch.arange(len(self.base), device=self.model.device)
                self._whole = Shard(self.model, everyone, self.base, self.found.get(key, {}), self._kept)
            return self._whole
        self._keeping = self.model.stack is not None and self.model.stack.resumes
        part = self._batches(key, self.base, self._resumed, examples)
        found = {site: canonical(site, tensor) for site, tensor in part.found.items()}
        return Shard(self.model, examples, self.base.take(examples), found, part.before)
