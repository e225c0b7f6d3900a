"""Hooks that live through all forward passes of a generation and know which positions each of them carries.

    >>> with Stepping(module, taps, "input_ids", reads=[site], changed=[other], writes=plan) as hooks:     # doctest: +SKIP
    ...     module.generate(input_ids)
    >>> hooks.found[site].shape[1], hooks.windows[:3]         # five tokens of prompt, three new ones      # doctest: +SKIP
    (7, [Window(start=0, stop=5), Window(start=5, stop=6), Window(start=6, stop=7)])

With a cache, a pass carries what is new: the prompt, or a chunk of it, then one token after the other. Without, every pass
carries everything from the beginning. Sites whose positions are another stream's – an encoder's, a picture's, keys and values
of cross-attention – are computed whole, before the first pass or in it, and may then be kept in the cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from interp.errors import GenerationError, ShapeMismatchError, SiteNotFiredError
from interp.models.encoding import mask_of
from interp.models.hooks import Hooks
from interp.models.taps import Tap, Write, position_axis
from interp.sites import Site


class Window(NamedTuple):
    """The columns of the main stream that a pass carries."""

    start: int
    stop: int


Plan = Callable[[Window], Mapping[Site, Write]]
"""A window to the writes of the pass that carries it, each of the columns of this window alone."""

CACHES = ("past_key_values", "cache_params")
"""What forwards call their cache."""


class Stepping(Hooks):
    """Reads and writes of every forward pass of one generation.

    Args:
        argument: what the module's forward calls the token ids of the main stream.
        reads: sites kept in :attr:`found`, the positions of all passes in one tensor, as far as tokens were fed to the model.
        changed: every site that ``writes`` ever names.
        writes: asked before the first pass, with an empty window, for the writes of what runs before it, and then once a pass.
        whole: those of the sites whose positions are not the main stream's.
        rows: how many there are, for what runs before the module's own forward tells.
    """

    def __init__(
        self,
        module: nn.Module,
        taps: Mapping[Site, Tap],
        argument: str,
        *,
        reads: Collection[Site] = (),
        changed: Collection[Site] = (),
        writes: Plan = lambda window: {},
        whole: Collection[Site] = (),
        rows: int = 1,
    ) -> None:
        super().__init__(module, taps, reads, dict.fromkeys(changed, _unchanged))
        self._examples = {taps[site].within or "": rows for site in (*reads, *changed)}
        self.windows: list[Window] = []
        """What each pass carried."""
        self._argument, self._plan, self._whole = argument, writes, frozenset(whole)
        self._planned = frozenset({*reads, *changed})
        self._kept: dict[Site, list[Tensor]] = {}
        self._seen: Counter[Site] = Counter()
        """How often each site has fired in all passes that have ended."""

    def __enter__(self) -> Self:
        super().__enter__()
        begin, end = self._begin, self._end
        self._handles.append(self.module.register_forward_pre_hook(begin, with_kwargs=True, prepend=True))
        self._handles.append(self.module.register_forward_hook(end))
        self.writes = dict(self._plan(Window(0, 0)))
        return self

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._close(whole=True)
        ids = kwargs.get(self._argument, args[0] if args else None)
        if not isinstance(ids, Tensor):
            raise GenerationError(
                f"{type(module).__name__} was called without {self._argument}: no telling what a pass carries"
            )
        start = self._start(kwargs, ids.shape[1])
        window = Window(start, start + ids.shape[1])
        mask = kwargs.get(mask_of(self._argument))
        if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] != window.stop:
            raise GenerationError(f"a pass carries positions {start} to {window.stop - 1}, but its mask has {mask.shape[1]}")
        self.windows.append(window)
        self.writes = {site: self._fitted(site, write, window) for site, write in self._plan(window).items()}

    def _start(self, kwargs: Mapping[str, Any], width: int) -> int:
        """The first column of a pass, from what is in the cache; a cache that does not count holds what was carried so far."""
        cache = next((kwargs[name] for name in CACHES if kwargs.get(name) is not None), None)
        carried = self.windows[-1].stop if self.windows else 0
        if cache is None or kwargs.get("use_cache") is False:
            if width < carried:
                raise GenerationError(f"a pass carries {width} positions after {carried}, without a cache: no telling which")
            return 0
        try:
            held = int(cache.get_seq_length())
        except ValueError:  # a recurrent model's cache counts nothing
            return carried
        if held != carried:
            raise GenerationError(
                f"the cache holds {held} positions, but {carried} were carried: absolute positions cannot be told"
            )
        return carried

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        self._close()

    def _close(self, *, whole: bool = False) -> None:
        """Check and collect what fired since a pass began, or between passes, where only what has all its positions may."""
        for site in self._planned:
            times = self.fired[site]
            wanted = times <= 1 if site in self._whole else times == (0 if whole else 1)
            never = not whole and not times and not self._seen[site]
            if not wanted or never:
                raise SiteNotFiredError(
                    f"{site!r} (module {self.taps[site].path or type(self.module).__name__!r}, {self.taps[site].event}) fired "
                    f"{times} times {'outside a' if whole else f'in {self.windows[-1]}, one'} forward pass of a generation; "
                    "nothing of it is returned"
                )
        self._seen.update(self.fired)
        for site, tensor in self.found.items():
            self._keep(site, tensor)
        self.fired.clear()
        self._calls.clear()
        self._written.clear()
        self.found = {}

    def _keep(self, site: Site, tensor: Tensor) -> None:
        window = self.windows[-1] if self.windows else Window(0, 0)
        if site in self._whole:
            self._kept[site] = [tensor]
            return
        _check_width(site, tensor, window)
        kept = self._kept.setdefault(site, [])
        if window.start == 0:
            kept.clear()
        kept.append(_all_columns(site, tensor, window.stop))

    def _fitted(self, site: Site, write: Write, window: Window) -> Write:
        """A write of columns, held to the columns that there are; what is attended to is all of it, also behind a window."""
        if site in self._whole:
            return write

        def fitted(h: Tensor) -> Tensor:
            _check_width(site, h, window)
            if not is_square(site):
                return write(h)
            old = _all_columns(site, h, window.stop)
            new = torch.where(self._unborn(window).to(h.device), old, write(old))
            _refuse_dropped(site, new[..., : -h.shape[-1]])
            return new[..., -h.shape[-1] :]

        return fitted

    def _unborn(self, window: Window) -> Bool[Tensor, "position source_position"]:
        """Columns that a row did not have when its position was carried first: an edit cannot let it attend to them later."""
        position, column = torch.arange(window.start, window.stop), torch.arange(window.stop)
        return column >= (position + 1).clamp(min=self.windows[0].stop)[:, None]

    def _check_fired(self) -> None:
        """At the end: put together what was kept."""
        if not self.windows:
            raise SiteNotFiredError(f"the forward of {type(self.module).__name__} was never called")
        stop = self.windows[-1].stop
        self.found = {
            site: torch.cat([_all_columns(site, part, stop, behind=True) for part in parts], dim=position_axis(site, parts[0]))
            if site not in self._whole
            else parts[0]
            for site, parts in self._kept.items()
        }


def _unchanged(h: Tensor) -> Tensor:
    return h


def _check_width(site: Site, tensor: Tensor, window: Window) -> None:
    held = tensor.shape[position_axis(site, tensor)]
    if held != window.stop - window.start:
        raise ShapeMismatchError(
            f"{site!r} holds {held} positions in a pass that carries {window.stop - window.start}, {window.start} to "
            f"{window.stop - 1}: which of them are meant cannot be told"
        )


def is_square(site: Site) -> bool:
    """Whether a site has attention's own two axes of positions."""
    return site.square and not site.name.startswith("cross_")


def _refuse_dropped(site: Site, new: Tensor) -> None:
    """Raise if an edit attends to what a cache has dropped behind a window, whose keys and values are gone."""
    nothing = torch.finfo(new.dtype).min / 2 if site.name == "scores" else 0.0
    if bool((new > nothing).any()):
        raise GenerationError(
            f"the edit of {site!r} attends to positions behind the window, which the cache has dropped; pass use_cache=False"
        )


def _all_columns(site: Site, tensor: Tensor, stop: int, *, behind: bool = False) -> Tensor:
    """Scores or a pattern over all columns, where a cache has dropped those before a window; other sites as they are.

    Args:
        behind: fill up with columns that a pass did not have yet; else with those before its first one.
    """
    missing = stop - tensor.shape[-1] if is_square(site) else 0
    if missing < 0:
        raise GenerationError(f"{site!r} has {tensor.shape[-1]} columns of {stop}: a static cache; use a dynamic one")
    if not missing:
        return tensor
    filler = torch.finfo(tensor.dtype).min if site.name == "scores" else 0.0
    return nn.functional.pad(tensor, (0, missing) if behind else (missing, 0), value=filler)
