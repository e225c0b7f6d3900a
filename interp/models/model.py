"""A model: a module, its tokenizer, and the map from sites to its tensors.

    >>> model = interp.load("zoo/language-4l")                                          # doctest: +SKIP
    >>> model.sizes["layer"], model.sizes["head"], Site.parse("L2.z") in model.sites()      # doctest: +SKIP
    (4, 4, True)

The module is the user's own: it is never moved, cast or rewired, and its hooks, training mode and attention implementation are
as they were after every call.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from interp import axes
from interp.errors import HeadOutOfRangeError, LoadError, UnknownSiteError
from interp.models import digest, examples
from interp.models.anatomy import Anatomy, dissect
from interp.models.encoding import Bos, Tokens, as_prompts
from interp.models.hooks import (
    Hooks,
    Left,
    eager_attention,
    evaluating,
    fused_activations,
    hooked,
    leave,
    refuse_compiled,
    shaped_experts,
    standing_in,
)
from interp.models.listing import Sites
from interp.models.origin import LIVE, Origin
from interp.models.placement import first_device
from interp.models.places import Places
from interp.models.prompting import Placing, reading_of, refuse_forced, refuse_strange
from interp.models.settings import Settings
from interp.models.stack import Stack
from interp.models.taps import Reads, Tap, Write
from interp.models.unpadded import unpadded
from interp.prompts import Pairs, Prompt
from interp.protocols import Tokenizer
from interp.sites import COMPONENTS, MAIN, SPELLINGS, Site, which_side
from interp.verbs import fulfil


@dataclass(frozen=True, slots=True)
class Probe:
    """What the probe run found."""

    causal: bool
    """Whether a later token leaves earlier positions of the stream untouched."""
    checked: int
    """Number of site tensors seen."""
    worst: float
    """Largest relative deviation of an identity."""


class Backend(Protocol):
    """What runs a forward pass. The one method that a backend implements."""

    def run(self, inputs: Mapping[str, Tensor], reads: Reads, writes: Mapping[Site, Write]) -> dict[Site, Tensor]:
        """One forward pass; returns every site of ``reads``, in the axes that it declares, after the writes.

        Of those that a mapping gives positions for, these alone are kept.

        What is returned may be a view or a copy of what the model goes on with: a gradient with respect to a site is taken with
        respect to an offset of zero that a write adds to it, not with respect to the tensor read.
        """
        ...


@dataclass(frozen=True)
class Peer:
    """Another library that runs a model's forward passes, and what it knows of the model better than the model itself."""

    backend: Callable[[Model], Backend]
    called: nn.Module | None = None
    """The module whose ``forward`` says what a forward pass takes, where it is not the model itself."""
    anatomy: Callable[[Mapping[str, Tensor]], Anatomy] | None = None
    """The map from sites to tensors, by keyword arguments of one forward pass, where structure does not give it."""
    device: torch.device | None = None
    """Where inputs go, where it is not where the weights are."""


class TorchHooks:
    """The default backend: hooks on any ``nn.Module``."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def run(self, inputs: Mapping[str, Tensor], reads: Reads, writes: Mapping[Site, Write]) -> dict[Site, Tensor]:
        taps = {site: self.model.anatomy.tap(site) for site in (*reads, *writes)}
        with Hooks(self.model.module, taps, reads, writes) as hooks, suppress(Left):
            self.model.module(**inputs)
        return hooks.found


_LISTING = "model.sites() lists them with their axes"

_FAILS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError)
"""What a forward that is called in an unforeseen way raises."""


class _State(NamedTuple):
    weights: int
    settings: int


_DIGESTS = 4
"""States of a model whose digests are kept: those of weights that are exchanged and put back."""


class Model:
    """A module with a map from sites to its tensors. Made by :func:`interp.load`."""

    def __init__(
        self,
        module: nn.Module,
        tokenizer: Tokenizer | None = None,
        *,
        processor: Any = None,
        missing: Mapping[str, str] | None = None,
        name: str | None = None,
        revision: str | None = None,
        files: Path | None = None,
        bos: Bos = "model",
        example: Mapping[str, Tensor] | None = None,
        anatomy: Anatomy | None = None,
        axes: Mapping[str, str] | None = None,
        peer: Peer | None = None,
    ) -> None:
        refuse_compiled(module)
        self.peer = peer or Peer(TorchHooks)
        self.module, self.tokenizer, self.bos = module, tokenizer, bos
        self.processor = processor
        """What makes images or sound into inputs of the module (an image processor, a feature extractor); None without one."""
        self.missing: Mapping[str, str] = dict(missing or {})
        """Why there is no ``tokenizer`` or no ``processor``, where a folder was asked for one."""
        self.name = name or type(self.called).__name__
        self.revision = revision
        self.origin: Origin = LIVE
        """What :func:`interp.load` was given, as far as it is data."""
        self._files = None if files is None else files.absolute()  # hashed later, maybe from another working directory
        self._settings = Settings(module)
        self._digests: dict[_State, str] = {}
        self.example: Mapping[str, Tensor] = {}
        """Keyword arguments of one forward pass of three examples, by which the sites were found and are proven."""
        self.unknown = ""
        """Why nothing is known of what its forward takes; empty if something is."""
        try:
            self.example = examples.example(self.called) if example is None else examples.given(example)
        except LoadError as error:
            if example is not None:
                raise
            self.unknown = str(error)
        try:
            with evaluating(module), eager_attention(module), shaped_experts(module):
                if anatomy is None and self.peer.anatomy and self.example:
                    anatomy = self.peer.anatomy(self.example)
                self.anatomy = anatomy or dissect(module, self.example or None)
        except _FAILS as error:
            reason = str(error).strip().split("\n")[0][:200]
            what = "random inputs" if example is None else f"example={examples.described(self.example)}"
            self.unknown = f"a forward pass on {what} failed ({type(error).__name__}: {reason})"
            self.example, self.anatomy = {}, dissect(module, None)
        self.axes: Mapping[str, str] = dict(axes or {})
        """Names that were given to the axes of tensors, by path."""
        self.anatomy = self.anatomy.with_axes(self.axes)
        self._settings.settle()
        self._loaded = self._state()
        self.reading = reading_of(self)
        """How prompts become what its forward is given."""
        self._placing = Placing(self)
        self._busy = threading.RLock()
        self.background: Any = None
        """Interventions that :meth:`edited` has put in force."""
        self.standing: Any = None
        """The hooks that make them where the module is called by others."""
        self.sessions = 0
        """How many :meth:`prepared` contexts are open: what runs then is run by this library."""
        self.backend: Backend = self.peer.backend(self)
        self.parts: Mapping[str, Model] = {}
        """Of a diffusion pipeline the models that one pass calls, by path; empty where the model is one."""
        self.probe: Probe | None = None
        """What the probe run found; None if it was not made."""
        self.stack: Stack | None = None
        """The blocks one by one, if the probe run found that they can be run so."""
        self.stack_refused = "it was loaded without its probe run"
        """Why there is no stack; empty if there is one."""
        self.beside_refused = "it was loaded without its probe run"
        """Why rows of attention cannot be computed beside fused attention; empty if they can (:mod:`interp.models.beside`)."""

    # what the model is

    @property
    def sizes(self) -> Mapping[str, int]:
        """Number of ``layer``, ``head``, ``kv_head`` and ``unit``, and the widths ``d_model`` and ``d_head``."""
        return self.anatomy.sizes

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self.peer.device or first_device(self.module)

    @property
    def called(self) -> nn.Module:
        """The module whose ``forward`` says what a forward pass takes."""
        return self.peer.called or self.module

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self.module.parameters()).dtype

    @property
    def causal(self) -> bool:
        """Whether the probe run found that a later token leaves earlier positions untouched; False if it was not run."""
        return self.probe is not None and self.probe.causal

    @property
    def digest(self) -> str:
        """sha256 of the weights and settings, 16 hexadecimal digits: what two models of one digest compute is the same.

        Weights are known by the files that were loaded, or by a live module's parameters and persistent buffers; settings are
        its configuration, and what was set on its parts (:mod:`interp.models.settings`). What was changed since, in whatever
        way, is hashed again as it is now. Of weights that are on a service the revision is all that is known.
        """
        if self.peer.device is not None:  # the weights are elsewhere
            return f"unverified-{self.revision or 'main'}"
        now = self._state()
        if now not in self._digests:
            files = self._files if now.weights == self._loaded.weights else None
            of_files = None if files is None else digest.of_files(files)
            rest = self._settings.changed(live=self.origin is LIVE)
            found = digest.of_all(of_files or digest.of_module(self.module), rest)
            self._digests = dict([*self._digests.items(), (now, found)][-_DIGESTS:])
        return self._digests[now]

    @property
    def unwritten(self) -> str:
        """Why :attr:`digest` does not say what it computes: a hook or a forward of the user's own; empty where it does."""
        return hooked(self.module)

    def _state(self) -> _State:
        """Changes whenever a weight or a setting does, and not when the module is moved."""
        return _State(digest.state_of(self.module), hash(tuple(self._settings.state().items())))

    def sites(self) -> Sites:
        """Every site that this model has, by layer, with its axes and their sizes when printed."""
        streams, names = list(self.anatomy.streams), list(COMPONENTS)

        def place(site: Site) -> tuple[int, int, int]:
            return (
                streams.index(site.stream) if site.stream in streams else -1,
                -1 if site.layer is None else site.layer,
                names.index(site.name),
            )

        return Sites.of(self.anatomy, sorted(self.anatomy.taps, key=place))

    def taps(self, site: Site) -> Tap:
        """Where the tensor of a site is seen."""
        return self.anatomy.tap(site)

    def sizes_at(self, site: Site) -> dict[str, int]:
        """Sizes of the axes that can be indexed at a site; of one with its layer left out, for the layers that have it."""
        self.check(site)
        times = self.anatomy.repeats(site if site.path is not None else self._somewhere(site))
        repeated = {axes.CALL: times.calls, axes.HALF: times.halves} if self.anatomy.repeated else {}
        if site.path is not None:
            units = self.anatomy.units(site)
            return {axes.LAYER: 1, **repeated} | ({axes.UNIT: units} if units is not None else {})
        sizes = {axis: self.anatomy.size(site, axis) for axis in site.component.selectable if axis != axes.POSITION}
        return {**sizes, **repeated, axes.LAYER: max(1, self.anatomy.size(site, axes.LAYER))}

    def _somewhere(self, site: Site) -> Site:
        """The site itself, or in the first layer that has it where it names none."""
        return self.each(site.tensor.at(call=None, half=None))[0]

    def each(self, site: Site) -> tuple[Site, ...]:
        """The site itself, or in every layer that has it where it leaves out which."""
        if site.path is not None or site.layer is not None or not site.component.per_layer:
            return (site,)
        layers = [s.layer for s in self.anatomy.taps if (s.name, s.stream) == (site.name, site.stream)]
        return tuple(site.at(layer=layer) for layer in sorted(layer for layer in layers if layer is not None))

    def has(self, site: Site) -> bool:
        """Whether the tensor of a site exists; layers may differ in what they have."""
        return site.path is not None or site.tensor.at(call=None, half=None) in self.anatomy.taps

    def site(self, word: str | Site) -> Site:
        """A site of this model by its name.

        Raises:
            UnknownSiteError, HeadOutOfRangeError: it does not have it; near matches are its own.
        """
        try:
            site = Site.parse(word)
        except UnknownSiteError as error:
            if word in dict(self.module.named_modules()):
                raise which_side(str(word)) from None
            if not error.known:
                raise
            raise UnknownSiteError(
                error.kind, error.name, self._names(MAIN), f"of {self.name}", aliases=SPELLINGS, listing=_LISTING
            ) from None
        self.check(site)
        return site

    def _names(self, stream: str) -> list[str]:
        """What the sites of a stream are called."""
        present = {site.name for site in self.anatomy.taps if site.stream == stream}
        return [name for name in COMPONENTS if name in present]

    def check(self, site: Site) -> None:
        """Raise if this model does not have the site.

        Raises:
            UnknownSiteError: no such component here, with the reason and the near matches.
            HeadOutOfRangeError: layer, head or unit beyond the model's.
        """
        if site.path is not None:
            try:
                self.module.get_submodule(site.path)
            except AttributeError:
                paths = [name for name, _ in self.module.named_modules() if name]
                raise UnknownSiteError("module path", site.path, paths) from None
            self._check_repeats(site)
            return
        if site.stream not in self.anatomy.streams and not self.has(site):
            raise UnknownSiteError("stream", site.stream, list(self.anatomy.streams), why=self._streams())
        absent = self.anatomy.why_absent(site)
        if absent is not None:
            why = f"{self.name} does not have it, because {self.unknown or absent}"
            raise UnknownSiteError("site", site.name, self._names(site.stream), why=why, listing=_LISTING)
        for axis in (axes.LAYER, *axes.INDEXED):
            index = getattr(site, axis)
            if index is None:
                continue
            n = self.anatomy.size(site, axis)
            if not 0 <= index < n:
                kind = "key/value head" if axis == axes.HEAD and site.name.removeprefix("cross_") in ("k", "v") else axis
                raise HeadOutOfRangeError(
                    f"{axis} {index} of {site!r} does not exist: {self.name} has {n} {kind}s there, 0 to {n - 1}"
                )
        if site.layer is not None and not self.has(site):
            layers = [s.layer for s in self.anatomy.taps if (s.name, s.stream) == (site.name, site.stream)]
            lacks = self.anatomy.streams[site.stream].lacks.get(site.tensor)
            why = f"only the layers {layers} of {self.name} have {site.name!r}" + (f", because {lacks}" if lacks else "")
            raise UnknownSiteError("site", site, [], why=why)
        self._check_repeats(site)

    def _check_repeats(self, site: Site) -> None:
        times = self.anatomy.repeats(site if site.path is not None else self._somewhere(site))
        for axis, n in ((axes.CALL, times.calls), (axes.HALF, times.halves)):
            index = getattr(site, axis)
            if index is not None and not 0 <= index < n:
                raise HeadOutOfRangeError(
                    f"{axis} {index} of {site!r} does not exist: one pass of {self.name} has {n} of them there, 0 to {n - 1}"
                )

    def _streams(self) -> str:
        names = [name for name in self.anatomy.streams if name != MAIN]
        if not names:
            return f"{self.name} has one stream; leave its name out"
        main = "and one that is written without a name" if MAIN in self.anatomy.streams else "each written with its name"
        return f"{self.name} has the streams {', '.join(names)}, {main}"

    # words to tensors

    def encode(
        self,
        prompts: Pairs | Prompt | Sequence[Any] | Tensor | Mapping[str, Any] | str,
        *,
        bos: Bos | None = None,
    ) -> Any:
        """Encode pairs (to :class:`Encoded`) or prompts (to :class:`Tokens`), padded on the left, on the model's device.

        A prompt is a text, a list of token ids, a chat (a list of messages, written by the tokenizer's own template) or a
        :class:`interp.Prompt`; a text, a chat or a Prompt may come alone. Token ids may come as a tensor,
        ``[example, position]``, all of them real, or as what a tokenizer of transformers returns, ``input_ids`` and
        ``attention_mask``, padded on either side.
        """
        bos = self.bos if bos is None else bos
        if isinstance(prompts, (Tensor, Mapping)):
            prompts = unpadded(prompts)
        if isinstance(prompts, Pairs):
            pairs = self.reading.pairs(prompts, bos)
            refuse_forced(self, pairs)
            every = (pairs.answers, pairs.wrong, *([pairs.later, pairs.later_wrong] if pairs.forced else []))
            alone = all(pair.clean is pair.corrupted for pair in prompts)  # prompts without another
            sides = [pairs.clean.ids, *([] if alone else [pairs.corrupted.ids])]
            sides += [tokens.ids for tokens in pairs.further.values()]
            both = [side for pair in prompts for side in ((pair.clean,) if alone else (pair.clean, pair.corrupted))]
            both += [pair.sources[name] for pair in prompts for name in pairs.further]
            words = [one for pair in prompts for one in (*pair.answers, *pair.wrong)]
            refuse_strange(self, both, *sides, answers=every, words=words)
            moved = pairs.to(self.device)
            clean, corrupted = (self._placing.placed(side) for side in (moved.clean, moved.corrupted))
            further = {name: self._placing.placed(side) for name, side in moved.further.items()}
            return replace(moved, clean=clean, corrupted=corrupted, further=further)
        many = as_prompts(prompts)
        tokens = self.reading.tokens(many, bos)
        refuse_strange(self, many, tokens.ids)
        return self._placing.placed(tokens.to(self.device))

    def placed(self, tokens: Tokens) -> Tokens:
        """The same prompts with the positions of a main stream that no token ids enter."""
        return self._placing.placed(tokens)

    def places(self, tokens: Tokens, site: Site, *, attended: bool = False) -> Places:
        """The positions of some prompts at a site, or those that are attended to there.

        A stream that token ids enter has theirs; how many another has is seen in one forward pass for each shape of input.

        Raises:
            PositionError: a role that ends behind the last position.
        """
        return self._placing.places(tokens, site.tensor, attended=attended)

    # what rooms above do with it, in a word

    def run(
        self,
        prompts: Any,
        interventions: Any = None,
        *,
        capture: Any = (),
        logits: str = "all",
        given: Any = None,
        hold: Any = (),
        patching: str = "denoising",
        bos: Bos | None = None,
        rows: int | None = None,
    ) -> Any:
        """What it says and holds for some prompts, as they are or under interventions: see :func:`interp.run`."""
        options = {"capture": capture, "logits": logits, "given": given, "hold": hold, "patching": patching}
        return fulfil("run")(self, prompts, interventions, **options, bos=bos, rows=rows)

    def edited(self, interventions: Any) -> AbstractContextManager[Model]:
        """Inside, everything runs under interventions: :func:`interp.edited`."""
        found: AbstractContextManager[Model] = fulfil("edited")(self, interventions)
        return found

    # forward passes

    def inputs(self, tokens: Tokens, keep: int | None = None) -> dict[str, Tensor]:
        """Keyword arguments of the module's forward for some tokens.

        Args:
            keep: compute the logits of the last ``keep`` positions only, where the model can.
        """
        return self.accepted(tokens.inputs() | ({} if keep is None else {"logits_to_keep": keep}))

    def accepted(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Those of ``inputs`` that the module's forward takes, without a cache."""
        return {name: value for name, value in {**inputs, "use_cache": False}.items() if name in self.arguments}

    @cached_property
    def arguments(self) -> frozenset[str]:
        """Keyword arguments of the module's forward."""
        return frozenset(inspect.signature(self.called.forward).parameters)

    @contextmanager
    def prepared(self, sites: Collection[Site] = (), *, beside: bool = False) -> Iterator[None]:
        """Inside: evaluation mode, activations in one piece, and eager attention if scores or patterns are among the sites.

        One sweep at a time.

        Args:
            beside: scores and patterns are read at given positions alone and written by what knows its queries
                (:class:`interp.models.queries.QueryWrite`); where :attr:`beside_refused` is empty, attention then stays as it
                is, and these rows are computed beside it.
        """
        refuse_compiled(self.module)
        rows = beside and not self.beside_refused
        whole = [s for s in sites if self.has(s) and self.taps(s.tensor).event in ("scores", "pattern")] if not rows else []
        attention = eager_attention(self.module) if whole else nullcontext()
        with self._busy, evaluating(self.module), fused_activations(self.module), attention:
            self.sessions += 1
            try:
                yield
            finally:
                self.sessions -= 1

    def leaving(self, sites: Collection[Site], *, keeping: bool) -> AbstractContextManager[None]:
        """Inside, forward passes are left once all of ``sites`` were seen, where the blocks are known to follow each other.

        Args:
            keeping: a cache keeps every block's keys and values; the last block is then left behind its attention.
        """
        last = self.sizes.get(axes.LAYER, 0) - 1
        layers = [self.anatomy.layer_of(site) for site in sites]
        if self.stack is None or not isinstance(self.backend, TorchHooks) or None in layers:
            return nullcontext()
        deepest = max((layer for layer in layers if layer is not None), default=-1)
        there = {site.name for site, layer in zip(sites, layers, strict=True) if layer == deepest}
        if keeping:
            if last not in self.anatomy.w_o or (deepest == last and not there <= _BEFORE_W_O):
                return nullcontext()
            end = self.anatomy.w_o[last]
        else:
            first = deepest if there == {"resid_pre"} else deepest + 1
            if first > last:
                return nullcontext()
            end = f"{self.anatomy.blocks}.{first}"
        return standing_in({self.module.get_submodule(end): leave})

    def __repr__(self) -> str:
        sizes = ", ".join(f"{axis} {n}" for axis, n in self.sizes.items() if axis != "kv_head")
        return f"Model({self.name}{': ' + sizes if sizes else ''}, {str(self.dtype).removeprefix('torch.')} on {self.device})"


_BEFORE_W_O = {"resid_pre", "q", "k", "v", "scores", "pattern", "z"}
"""What of a block has been seen when W_O is called."""
