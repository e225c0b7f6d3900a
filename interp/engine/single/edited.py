"""A model that is changed for a while: what runs inside runs under interventions, whoever calls it.

    >>> with interp.edited(model, interp.Change("L2H1.z", edit=interp.Scale(0.0))):          # doctest: +SKIP
    ...     interp.patch(model, pairs, where)               # on the edited model, as with given=
    ...     interp.generate(model, "The Eiffel Tower")
    ...     model.module(input_ids)                         # and whatever else calls the module

Calls of this library take the interventions as given (:mod:`interp.engine.background`). Calls of the module itself pass hooks
that resolve positions in every call anew; one that continues a cache continues the prompt of the call that began it, whose
positions negative indices stay, as in :func:`interp.generate`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from interp.engine.asked import listed
from interp.engine.cells import Cell, check, expanded, place
from interp.engine.edits import Edits
from interp.engine.filling import fill
from interp.engine.growing import Growing
from interp.errors import InputError, SiteNotFiredError
from interp.interventions import Activation, Change, Intervention
from interp.models import Encoded, Model, Places, Tokens
from interp.models.encoding import mask_of, position_ids_of
from interp.models.hooks import eager_attention
from interp.models.model import TorchHooks
from interp.models.stepping import Stepping, Window
from interp.models.taps import Write
from interp.sites import Site


@contextmanager
def edited(model: Model, interventions: Intervention | Change | Sequence[Intervention | Change]) -> Iterator[Model]:
    """Put interventions in force for everything that runs inside.

    Nested, they add up, the outer ones first. A model that another backend than torch hooks runs is changed for calls of this
    library alone.

    Args:
        interventions: one or several. Their sources say themselves whose values they are (a constant, noise, the activation of
            a prompt), because what runs inside has no other prompt.

    Raises:
        InputError: a source is the other prompt of a pair, or the base.
        UnknownSiteError, HeadOutOfRangeError, OrderError: what does not fit.
        SiteNotFiredError: on leaving, an edit was never made: nothing ran inside, or nothing reached its positions.
    """
    many = listed(interventions, "interventions")
    added = Intervention(tuple(change for one in many for change in one.changes), ordered=len(many) > 1 or many[0].ordered)
    for change in added.changes:
        if isinstance(change.source, Activation) and change.edit.reads_source and change.source.of_pairs:
            raise InputError(
                f"{change!r} takes its value from the run {change.source.prompt!r}, and what runs inside has none; name a "
                "prompt, as in Activation('another text', positions=-1), or give a constant"
            )
    check([expanded(added, model)], model)
    outer, before = model.standing, model.background
    standing = _Standing(model, added if before is None else before.then(added), len(expanded(added, model).changes), outer)
    square = any(change.square for change in added.changes)
    model.background, model.standing = standing.whole, standing
    try:
        with eager_attention(model.module) if square else nullcontext():
            with standing if isinstance(model.backend, TorchHooks) else nullcontext():
                yield model
            standing.require_made()
    finally:
        model.background, model.standing = before, outer


class _Standing(Stepping):
    """Hooks for calls of the module that this library does not make.

    Args:
        whole: everything that is in force, inside of other contexts too.
        added: how many of its changes, the last ones, are this context's own.
        outer: the context around it, whose hooks rest meanwhile.
    """

    def __init__(self, model: Model, whole: Intervention, added: int, outer: _Standing | None) -> None:
        self.model, self.whole, self.added, self.outer = model, whole, added, outer
        self._changes = expanded(whole, model).changes
        sites = list(dict.fromkeys(change.site.tensor for change in self._changes))
        main = model.reading.main
        elsewhere = [site for site in sites if main is None or model.anatomy.stream_of(site) not in (None, "main")]
        taps = {site: model.taps(site) for site in sites}
        super().__init__(model.module, taps, main or "", changed=sites, whole=elsewhere)
        self._names = list(inspect.signature(model.called.forward).parameters)
        self._prompt: Tokens | None = None
        """Of the call that began what the next ones continue."""
        self._others: tuple[dict[Any, Any], dict[Any, Any]] = ({}, {})
        """Other prompts and what was read of their runs, made once."""
        self._made: set[int] = set()
        """Numbers of the changes that were made somewhere."""
        self._ran = self._active = False
        self.used = False
        """Whether a call of this library took the interventions as given."""

    def use(self) -> None:
        """Note that a call of this library takes what is in force."""
        self.used = True
        if self.outer is not None:
            self.outer.use()

    def _make(self, number: int) -> None:
        """Note that a change was made, here and in the contexts around that have it: theirs are the first ones."""
        self._made.add(number)
        self._ran = True
        if self.outer is not None and number < len(self.outer._changes):
            self.outer._make(number)

    def require_made(self) -> None:
        """Raise if one of the context's own changes was made nowhere."""
        first = len(self._changes) - self.added
        never = [change for number, change in enumerate(self._changes) if number >= first and number not in self._made]
        if never and not self.used:
            why = "no call reached its positions" if self._ran else "nothing ran inside"
            raise SiteNotFiredError(f"{never[0]!r} was never made while the model was edited: {why}")

    # hooks

    def _resting(self) -> bool:
        """Whether a call is this library's own, or an inner context's business."""
        return self.model.sessions > 0 or self.model.standing is not self

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._resting():
            return
        if self._active:  # the call before raised
            self.fired.clear()
            self._calls.clear()
        self._close(whole=True)
        given = dict(zip(self._names, args, strict=False)) | kwargs
        ids, window = given.get(self._argument), Window(0, 0)
        if isinstance(ids, Tensor):
            if not self._continues(given):
                self.windows.clear()
                self._seen.clear()
            start = self._start(given, ids.shape[1])
            window = Window(start, start + ids.shape[1])
        elif self._argument:
            raise InputError(f"{type(module).__name__} was called without {self._argument}: positions cannot be told")
        if window.start == 0:
            self._prompt = self._tokens(given)
        self.windows.append(window)
        self.writes = {site: self._fitted(site, write, window) for site, write in self._resolved(window).items()}
        self._ran = self._active = True

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._active and not self._resting():
            self._active = False
            self._close()
            self.writes = {}

    def _now(self, sites: list[Site]) -> list[Site]:
        if self._resting():
            return []
        if not self._active:
            raise SiteNotFiredError(
                f"{sites[0]!r} was met outside of a call of {type(self.module).__name__}, where its positions cannot be told; "
                "call the model itself while it is edited"
            )
        return super()._now(sites)

    def _check_fired(self) -> None:
        """Every call was checked when it ended."""

    def _continues(self, given: Mapping[str, Any]) -> bool:
        """Whether a call goes on where the one before it ended."""
        cache = next((given[name] for name in ("past_key_values", "cache_params") if given.get(name) is not None), None)
        if cache is None or given.get("use_cache") is False:
            return False
        try:
            return int(cache.get_seq_length()) > 0
        except ValueError:  # a recurrent model's cache counts nothing
            return bool(self.windows)

    # positions

    def _tokens(self, given: Mapping[str, Any]) -> Tokens:
        """What a call is of."""
        reading, tensors = self.model.reading, {name: value for name, value in given.items() if isinstance(value, Tensor)}
        streams = {
            stream: Places(mask=_mask(tensors, argument)) for stream, argument in reading.texts.items() if argument in tensors
        }
        if reading.main is None:
            batch = len(next(iter(tensors.values())))
            alone = Tokens(mask=torch.ones(batch, 1, dtype=torch.bool), others=tensors, streams=streams)
            return self.model.placed(alone.to(self.model.device))
        own = {reading.main, mask_of(reading.main), position_ids_of(reading.main)}
        others = {name: tensor for name, tensor in tensors.items() if name not in own}
        mask, ids = _mask(tensors, reading.main), tensors[reading.main]
        return Tokens(ids=ids, mask=mask, argument=reading.main, others=others, streams=streams)

    @torch.no_grad()
    def _resolved(self, window: Window) -> dict[Site, Write]:
        """The writes of a call."""
        tokens = self._prompt
        assert tokens is not None
        runs = Growing(self.model, Encoded.alone(tokens), "clean", self._ahead(tokens, window))
        runs.prompts, runs.found = self._others
        cell: Cell = fill(place([Intervention(self._changes, ordered=self.whole.ordered)], runs), runs)[0]
        self._others = _kept(runs.prompts), _kept(runs.found)
        rows = torch.arange(len(tokens), device=tokens.mask.device)
        edits = Edits.of(cell, rows)
        found: dict[Site, Write] = {}
        for number, where in enumerate(cell.places):
            site, grows = where.tensor, runs.grows(where.tensor)
            columns = where.columns[where.columns >= 0]
            here = (columns >= window.start) & (columns < window.stop) if grows else columns >= 0
            if bool(here.any()):
                self._make(number)
                found[site] = edits.write(site, column=window.start, until=window.stop) if grows else edits.write(site)
        return found

    def _ahead(self, tokens: Tokens, window: Window) -> int:
        """Positions behind the prompt, up to the last that a change names, which may be reached by a later call."""
        if self.model.reading.main is None:
            return 0
        named = [index for change in self._changes for index in change.positions.indices or ()]
        needed = max(named, default=0) + 1 - int(tokens.lengths.min())
        return max(0, window.stop - tokens.width, needed)


def _mask(tensors: Mapping[str, Tensor], argument: str) -> Tensor:
    """Which tokens of an argument are real."""
    mask, ids = tensors.get(mask_of(argument)), tensors[argument]
    real = mask is not None and mask.shape == ids.shape
    return mask.bool() if mask is not None and real else torch.ones_like(ids, dtype=torch.bool)


def _kept(by_run: Mapping[Any, Any]) -> dict[Any, Any]:
    """What is known of other prompts; what was a call's own is not the next one's."""
    return {key: value for key, value in by_run.items() if key[1] == "prompt"}
