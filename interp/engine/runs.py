"""The runs of a sweep other than its rows: of the pairs' prompts, other prompts, other models; each done once.

    >>> runs.want(Activation(), Site("z", layer=3), columns)                                  # doctest: +SKIP
    >>> runs.read(Activation(), Site("z", layer=3), columns).tensor.shape                     # doctest: +SKIP
    torch.Size([64, 2, 12, 64])

The base run can be kept with its keys and values, so that rows resume from it (:mod:`interp.engine.wave`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine.batches import in_batches
from interp.engine.budget import Budget
from interp.engine.prompts import Changing, Columns, Kept, Ran, Wanted, all_of, forward
from interp.engine.readout import Reader
from interp.engine.shard import Shard, bytes_an_example, cat_keys_values
from interp.interventions import Activation
from interp.models import Encoded, Model, Places, Tokens
from interp.models.keys_values import KeysValues
from interp.sites import Site

Given = Callable[[Tensor], Changing]
"""Examples of a pass to what is changed in it."""

Key = tuple[Any, ...]
"""Which run: of which model, which prompts, and with what in force."""

_Cell = TypeVar("_Cell")


class Runs:
    """The runs of a sweep other than its rows, each done once: clean, corrupted, and other prompts and models.

    Args:
        base: which side of the pairs the sweep runs on, ``"clean"`` or ``"corrupted"``; the other one is the source.
        batch: examples in one forward pass.
        reader: says which logits of the pairs' prompts are kept.
        budget: how many rows fit in a pass, where runs with something in force may be rows of the wave
            (:mod:`interp.engine.passing`); None where they are whole forward passes.
    """

    def __init__(
        self, model: Model, encoded: Encoded, base: str, batch: int, reader: Reader, budget: Budget | None = None
    ) -> None:
        self.model, self.encoded, self.batch, self.reader, self.budget = model, encoded, batch, reader, budget
        self.side = {
            "base": base,
            "source": "clean" if base == "corrupted" else "corrupted",
            "clean": "clean",
            "corrupted": "corrupted",
        }
        self._wanted: dict[Key, dict[Site, list[Wanted]]] = {}
        self.prompts: dict[Key, tuple[Model, Tokens]] = {}
        self.found: dict[Key, dict[Site, Kept]] = {}
        self._logits: dict[Key, Tensor] = {}
        self._read = {"clean"} if reader.needs_reference else set()
        """The prompts whose logits are read: clean, corrupted, base."""
        self._kept: list[KeysValues] | None = None
        self._keeping = False
        self._resumed: dict[Site, Columns] = {}
        """What of the base run is kept for rows that are resumed from it."""
        self._besides = 0
        self._whole: Shard | None = None
        self._part: Shard | None = None
        self._others: dict[str, Runs] = {}
        self._held: dict[int, Any] = {}
        """What is in force on runs, held so that no other object gets its id."""
        self._forced: dict[Key, Given] = {}
        """What is changed in a run, by its key."""
        self._base_given = False
        self.standing: Any = None
        """What is given on the base, resolved and filled; None where nothing is."""
        self.corrupted_from: Int[Tensor, " example"] | None = None
        """First columns at which a corruption changes the corrupted run; None where it is of other prompts."""

    @property
    def given(self) -> Given | None:
        """Changes in force on the base. Set once they are resolved."""
        return self._forced.get((id(self.model), "given")) if self._base_given else None

    @given.setter
    def given(self, given: Given) -> None:
        self._forced[id(self.model), "given"], self._base_given = given, True

    def force(self, key: Key, cell: _Cell, made: Callable[[_Cell, Tensor], Changing]) -> None:
        """Put a resolved intervention in force on a run.

        Args:
            made: makes its changes of some examples.
        """
        self._forced[key] = lambda examples: made(cell, examples)

    def forced(self, key: Key) -> bool:
        """Whether something is in force on a run, or will be by what was announced."""
        return key in self._forced

    def seen_from(self, side: str) -> Runs:
        """The same runs with another base, on which nothing is given."""
        other = copy(self)
        other.side = self.side | {"base": side, "source": "clean" if side == "corrupted" else "corrupted"}
        other._base_given, other.standing, other._keeping, other._resumed = False, None, False, {}
        other._kept = other._whole = other._part = None
        return other

    def under(self, source: Activation) -> Runs:
        """Those of whose base the run of a source is, apart from what is in force on it."""
        return self if source.prompt == "base" else self._seen(self.side.get(str(source.prompt), str(source.prompt)))

    def _seen(self, side: str) -> Runs:
        if side not in self._others:
            self._others[side] = self.seen_from(side)
        return self._others[side]

    @property
    def base(self) -> Tokens:
        return self.tokens("base")

    def tokens(self, which: str) -> Tokens:
        return self.encoded.side(self.side.get(which, which))

    def places(self, which: str, site: Site, *, attended: bool = False) -> Places:
        """Positions of one side of the pairs at a site, or those that are attended to there."""
        return self.model.places(self.tokens(which), site, attended=attended)

    def places_of(self, key: Key, site: Site, *, attended: bool = False) -> Places:
        """Positions of a run's prompts at a site."""
        model, tokens = self.prompts[key]
        return model.places(tokens, site, attended=attended)

    def changed_places(self, site: Site, *, given: bool) -> Places:
        """Positions of the base at a site that a change means by its words.

        Args:
            given: the change is in force on the base of every cell.
        """
        return self.places("base", site)

    def ids(self, places: Places) -> Int[Tensor, "example position"] | None:
        """Token ids at some positions of the base; None where no tokens enter."""
        return self.base.ids if places is self.base else None

    def require_equal_lengths(self, why: str, site: Site, *, attended: bool = False, hint: str = "") -> None:
        """Raise ``UnequalLengthsError`` unless both prompts of every pair have as many positions at a site.

        Args:
            hint: what to do instead; by default to name a role.
        """
        clean, corrupted = (self.places(side, site, attended=attended) for side in ("clean", "corrupted"))
        self.encoded.require_equal_lengths(why, clean, corrupted, hint=hint)

    # planning: say what will be needed, then run once

    def want(self, source: Activation, target: Site, columns: Wanted = None) -> None:
        """Announce what will be asked for, so that each run is done once, with all its reads together.

        Args:
            target: the site that is changed.
            columns: of the source's prompts.
        """
        key, site = self.key(source), source.site_for(target)
        self.prompts[key][0].check(site)
        self._want(key, site.tensor, columns)

    def _want(self, key: Key, site: Site, columns: Wanted) -> None:
        kept = self.found.get(key, {}).get(site)
        if kept is None or not kept.has(columns):
            wanted = self._wanted.setdefault(key, {}).setdefault(site, [])
            if not any(columns is one for one in wanted):
                wanted += [columns] if kept is None else [columns, kept.columns]

    def wanted(self, key: Key) -> dict[Site, Columns]:
        """What was announced of a run and is not there yet."""
        return {site: all_of(columns) for site, columns in self._wanted.get(key, {}).items()}

    def serve(self, key: Key, found: Mapping[Site, Kept]) -> None:
        """Give a run all that was announced of it, which was made elsewhere."""
        self.found.setdefault(key, {}).update(found)
        self._wanted.pop(key, None)

    def forget(self, source: Activation) -> None:
        """Let go of a run that is not read any more."""
        key = self.key(source)
        for known in (self.found, self._wanted, self._forced, self._logits):
            known.pop(key, None)
        self._held.pop(id(source.given), None)

    def want_logits(self, *sides: str) -> None:
        """Announce that :meth:`logits` will be asked for, so that they come from the run that is made anyway."""
        self._read.update(sides)

    def key(self, source: Activation) -> Key:
        model: Model = source.model if source.model is not None else self.model  # type: ignore[assignment]
        prompt = source.prompt
        if isinstance(prompt, str) and source.of_pairs:
            of_base = prompt == "base" and self._base_given and model is self.model
            side = "given" if of_base else self.side.get(prompt, prompt)
            key: Key = (id(model), side)
            if side == "given":
                self.prompts[key] = (model, self.base)
            elif key not in self.prompts:
                pairs = self.encoded if model is self.model else model.encode(self.encoded.pairs, bos=self.encoded.asked)
                self.prompts[key] = (model, pairs.side(side))
            if source.given is not None:
                self._held[id(source.given)] = source.given
                tokens, key = self.prompts[key], (*key, id(source.given))
                self.prompts[key] = tokens
        else:
            key = (id(model), "prompts", repr(source.spec()["prompt"]))
            if key not in self.prompts:
                self.prompts[key] = (model, model.encode(list(source.prompts), bos=self.encoded.asked))
        return key

    def read(self, source: Activation, target: Site, columns: Wanted = None) -> Kept:
        """The tensor that a source reads, at least at some columns; its run is made if it was not yet."""
        self.want(source, target, columns)
        key = self.key(source)
        if key in self._wanted:
            self._run(key)
        return self.found[key][source.site_for(target).tensor]

    def _run(self, key: Key) -> None:
        """Run some prompts for what was announced, with their logits if somebody will read them."""
        tokens, reads = self.prompts[key][1], self.wanted(key)
        self._wanted.pop(key, None)
        ran = self._batches(key, tokens, reads, torch.arange(len(tokens), device=tokens.mask.device))
        self.found.setdefault(key, {}).update(ran.found)
        if ran.logits is not None:
            self._logits[key] = ran.logits
        if ran.before is not None:
            self._kept = ran.before

    def _batches(self, key: Key, tokens: Tokens, reads: Mapping[Site, Columns], examples: Tensor) -> Ran:
        """Some prompts, as many at a time as memory allows."""
        rows = all(columns is not None for site, columns in reads.items() if site.square)
        changed: Sequence[Site] = ()
        if key in self._forced and key != self._base_key:  # what is given on the base, the sweep has prepared the model for
            changed = self._forced[key](examples[:1].to(self.model.device)).sites()
            rows = rows and not any(site.square for site in changed)
        with self.prompts[key][0].prepared({*reads, *changed}, beside=rows):
            parts = in_batches(len(examples), self.batch, lambda part: self._batch(key, tokens, reads, examples[part]))
        if len(parts) == 1:
            return parts[0]
        logits, before = [part.logits for part in parts], [part.before for part in parts]
        return Ran(
            {site: Kept(torch.cat([part.found.pop(site).tensor for part in parts]), reads[site]) for site in reads},
            None if logits[0] is None else torch.cat([logit for logit in logits if logit is not None]),
            None if before[0] is None else cat_keys_values([keys for keys in before if keys is not None]),
        )

    def _batch(self, key: Key, tokens: Tokens, reads: Mapping[Site, Columns], chunk: Tensor) -> Ran:
        """One forward pass of some prompts."""
        model = self.prompts[key][0]
        read = any(key == self.key(Activation(side)) for side in self._read)
        edits = self._forced[key](chunk.to(model.device)) if key in self._forced else None
        keeping = key == self._base_key and self._keeping
        return forward(model, tokens.take(chunk), reads, self.reader if read else None, edits, keeping=keeping)

    # the runs themselves

    @property
    def _base_key(self) -> Key:
        return self.key(Activation("base"))

    def logits(self, which: str) -> Float[Tensor, "example position vocab"]:
        """Logits of ``"clean"``, ``"corrupted"`` or ``"base"`` prompts at the positions that the metrics read.

        The base's are those of the base run as it is, with what is given in force.
        """
        key = self.key(Activation(which))
        if key not in self._logits:
            self.want_logits(which)
            self._run(key)
        return self._logits[key]

    @property
    def reference(self) -> Float[Tensor, "example position vocab"] | None:
        """Logits of the clean prompts, where a metric compares with them."""
        return self.logits("clean") if self.reader.needs_reference else None

    def keep(self, sites: Mapping[Site, Columns], budget: Budget, besides: int = 0) -> None:
        """Keep the base run at some columns of some sites, with its keys and values, for rows that are resumed from it.

        Args:
            budget: how many examples to keep at once; a longer base run is made again, a shard at a time.
            besides: bytes that the caller keeps of each example.
        """
        for site, columns in sites.items():
            self._resumed[site] = all_of([self._resumed.get(site, columns), columns])
        self._besides = max(self._besides, besides)
        self._whole = self._part = None
        self._shard = budget.examples(bytes_an_example(self.model, self._resumed, self.base.width) + self._besides)
        if self._shard >= len(self.encoded):
            self._keeping = self.model.stack is not None and self.model.stack.resumes
            for site, columns in self._resumed.items():
                self._want(self._base_key, site, columns)

    def shards(self, examples: Tensor | None = None) -> Iterator[Shard]:
        """The base run, as much of it at a time as was allowed to :meth:`keep`.

        Args:
            examples: ``[example]``, ascending; those that are needed, by default all.
        """
        if examples is None or self._shard >= len(self.base):
            examples = torch.arange(len(self.base), device=self.model.device)
        for some in examples.split(self._shard) if len(examples) else ():
            yield self.shard_of(some)

    def shard_of(self, examples: Int[Tensor, " example"]) -> Shard:
        """A part of the base run that holds some examples: all of it where it is kept whole, else these; the last is kept.

        Args:
            examples: ascending.
        """
        key = self._base_key
        if self._shard >= len(self.base):
            if self._whole is None:
                if key in self._wanted or (self._keeping and self._kept is None):
                    self._run(key)
                everyone = torch.arange(len(self.base), device=self.model.device)
                self._whole = Shard(self.model, everyone, self.base, self.found.get(key, {}), self._kept)
            return self._whole
        if self._part is None or not torch.equal(self._part.examples, examples):
            self._part = None  # its memory goes before more is taken
            self._keeping = self.model.stack is not None and self.model.stack.resumes
            part = self._batches(key, self.base, self._resumed, examples)
            self._part = Shard(self.model, examples, self.base.take(examples), part.found, part.before)
        return self._part
