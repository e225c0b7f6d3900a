"""The sentence of the workbench, as a value.

    h' = h + F⁻¹(edit(F(h), F(s))) − F⁻¹(F(h))          at a Site, for chosen Positions

A :class:`Change` is one such sentence; an :class:`Intervention` is an ordered list of changes, made in one forward pass.

    >>> Change("L9H6.z", "END")
    L9H6.z@END ← Activation(source)
    >>> Intervention.of("L9H6.z@END") & Intervention.of("L10H0.z@END")
    Intervention(L9H6.z@END ← Activation(source); L10H0.z@END ← Activation(source))

A change of attention scores or patterns is made in whole rows, or at the attended positions that it names:

    >>> Change("L9H6.pattern", "END", edit=Scale(0.0), attended="S2")
    L9H6.pattern@END attended=S2 Scale(factor=0.0)

An edit may be any function of the values and their context (:mod:`interp.interventions.free`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.axes import FEATURE
from interp.errors import InputError, PositionError, ShapeMismatchError, UnknownNameError, UnknownSiteError
from interp.interventions.digest import told
from interp.interventions.edit import Cut, Edit, Replace
from interp.interventions.featurizer import Featurizer, Identity, Interchanging
from interp.interventions.free import Context, Free, Function
from interp.interventions.source import Activation, Constant, Source
from interp.sites import ALL, Positions, PositionsLike, Site

IDENTITY = Identity()
EditLike = Edit | Function
"""An edit, or a function ``(h, ctx) -> h`` in its place."""


@dataclass(frozen=True, eq=False, repr=False)
class Change:
    """One edit of one site: where, at which tokens, with what value, doing what, in which basis."""

    site: Site
    positions: Positions = ALL
    source: Source = field(default_factory=Activation)
    edit: Edit = field(default_factory=Replace)
    featurizer: Featurizer = IDENTITY
    keep_error: bool = True
    """Add back what a lossy featurizer does not encode; False drops it on purpose."""
    attended: Positions = ALL
    """Of attention scores and patterns, the positions that are attended to (``source_position``) at which it is made: those of
    the stream that is attended to, the other one in cross-attention. The edit sees the whole row."""
    own: bool = True
    """Whether this is made where a token attends to itself as well: ``Change("L3.scores", edit=Cut(), attended="all but 0",
    own=False)`` has every token attend to the first and to itself alone."""

    def __init__(
        self,
        site: str | Site,
        positions: PositionsLike = ALL,
        source: Source | Tensor | NDArray[np.floating[Any]] | None = None,
        edit: EditLike | None = None,
        featurizer: Featurizer = IDENTITY,
        keep_error: bool = True,
        attended: PositionsLike = ALL,
        own: bool = True,
    ) -> None:
        set_ = object.__setattr__
        set_(self, "site", Site.parse(site))
        set_(self, "positions", Positions.parse(positions))
        set_(self, "source", _source(self.site, source))
        set_(self, "edit", _edit(edit, source))
        set_(self, "featurizer", _featurizer(self.site, featurizer))
        set_(self, "keep_error", keep_error)
        set_(self, "attended", Positions.parse(attended))
        set_(self, "own", own)
        if not self.attended.is_all and not self.square:
            raise PositionError(
                f"attended={self.attended!r} of {self.site!r}: only scores and patterns have rows of attended positions, "
                f"{self.site.name} has the axes {', '.join(self.site.axes)}"
            )
        if not own and (not self.square or self.site.name.startswith("cross_")):
            raise PositionError(
                f"own=False of {self.site!r}: only in scores and patterns of self-attention does a token attend to itself"
            )
        if isinstance(self.edit, Cut) and not (self.square and self.site.name.endswith("scores")):
            why = "−∞ is for scores; elsewhere Scale(0.0) knocks out"
            raise UnknownSiteError("site for Cut()", self.site, ["scores", "cross_scores"], why=why)

    def __call__(self, h: Tensor, s: Tensor) -> Tensor:
        """The changed value of ``h`` given the source value ``s``, both ``[..., width]``."""
        return apply(self.edit, self.featurizer, h, s, keep_error=self.keep_error, where=repr(self.site))

    @property
    def square(self) -> bool:
        """Whether it changes rows of attention: what has both positions and attended positions."""
        return self.site.square

    @property
    def joint(self) -> int:
        """How many tokens are changed as one: the new value of each depends on the old ones of all of them."""
        return getattr(self.featurizer, "tokens", 1)

    @property
    def sites(self) -> list[Site]:
        """What it changes, and what it reads of another run."""
        return [self.site, *([self.source.site_for(self.site)] if isinstance(self.source, Activation) else [])]

    @property
    def together(self) -> bool:
        """Whether the new value of a token may depend on others of the change: a free function sees all of a row's."""
        return self.joint > 1 or isinstance(self.edit, Free)

    @property
    def kernels(self) -> frozenset[str]:
        """Which kernels make this change (:mod:`interp.kernels`)."""
        if _interchanging(self.edit, self.featurizer, self.keep_error) is not None:
            return frozenset({"subspace_interchange"})
        used = getattr(self.edit, "kernel", None)
        return frozenset() if used is None else frozenset({used})

    def spec(self) -> dict[str, Any]:
        return {
            "site": repr(self.site),
            "positions": repr(self.positions),
            "source": told(self.source),
            "edit": told(self.edit),
            "featurizer": told(self.featurizer),
            "keep_error": self.keep_error,
            **({} if self.attended.is_all else {"attended": repr(self.attended)}),
            **({} if self.own else {"own": False}),
        }

    def __repr__(self) -> str:
        at = "" if self.positions.is_all else f"@{self.positions!r}"
        at += "" if self.attended.is_all else f" attended={self.attended!r}"
        at += "" if self.own else " own=False"
        source = f" ← {self.source!r}" if self.edit.reads_source else ""
        edit = "" if isinstance(self.edit, Replace) else f" {self.edit!r}"
        basis = "" if isinstance(self.featurizer, Identity) else f" in {self.featurizer!r}"
        return f"{self.site!r}{at}{source}{edit}{basis}"


def _source(site: Site, source: Any) -> Source:
    """A tensor is the constant that it is; a number is none by itself: it would be easy to mistake for a scale."""
    if source is None:
        return Activation()
    if isinstance(source, Source):
        return source
    if isinstance(source, Tensor | np.ndarray):
        return Constant(torch.as_tensor(source))
    hint = "this is an edit: pass it as edit=" if callable(source) else "a number is written Constant(value)"
    raise InputError(
        f"source of the change of {site!r} is of type {type(source).__name__}; expected Activation(…), Constant(…), "
        f"Noise(…) or a tensor: {hint}"
    )


def _featurizer(site: Site, featurizer: Any) -> Featurizer:
    if isinstance(featurizer, Featurizer):
        return featurizer
    raise InputError(
        f"featurizer of the change of {site!r} is of type {type(featurizer).__name__}; expected encode, decode and spec: "
        "a matrix with orthonormal columns is written Subspace(matrix)"
    )


def _takes_two(function: Any) -> bool:
    """Whether a function can be called with values and their context, as far as can be told."""
    try:
        signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # builtins without a signature
        return True
    return True


def _edit(edit: Any, source: object) -> Edit:
    """Any function stands for the edit that it makes."""
    if edit is None:
        return Replace()
    if isinstance(edit, type):
        raise InputError(f"edit is the class {edit.__name__}; give one of it, as in {edit.__name__}(…)")
    if isinstance(edit, Edit):
        return edit
    if not callable(edit):
        raise UnknownNameError("edit", edit, ["Replace()", "Add()", "Scale()", "Interpolate()", "a function (h, ctx) -> h"])
    if not _takes_two(edit):
        name = getattr(edit, "__name__", type(edit).__name__)
        raise InputError(f"edit {name}{signature(edit)} cannot be called with (h, ctx), the values and their context")
    return Free(edit, reads_source=source is not None)


def apply(edit: Edit, featurizer: Featurizer, h: Tensor, s: Tensor, *, keep_error: bool = True, where: str = "") -> Tensor:
    """The sentence itself, on tensors ``[..., width]``.

    In the identity basis the error term cancels and is not computed, so that ``Replace`` is exact to the bit. Replacing the
    coordinates along orthonormal columns R is h + (s − h) R Rᵀ.

    Raises:
        ShapeMismatchError: source and site have different widths, or the edit returned another shape.
    """
    if edit.reads_source and not _fits(s, h):
        raise ShapeMismatchError(
            f"the source of {where} has features {tuple(s.shape[1:])}, but the site has {tuple(h.shape[1:])}"
        )
    if isinstance(featurizer, Identity):
        return _same_shape(edit(h, s), h, edit, where)
    interchanging = _interchanging(edit, featurizer, keep_error)
    if interchanging is not None:
        return interchanging.interchange(h, s.expand_as(h))
    if edit.reads_source:
        f, read = _both(featurizer.encode, h, s.expand_as(h), featurizer)
    else:
        f = read = featurizer.encode(h)
    edited = _same_shape(edit(f, read), f, edit, where)
    if not keep_error:
        return featurizer.decode(edited)
    decoded, own = _both(featurizer.decode, edited, f, featurizer)
    return h + (decoded - own)


def _both(way: Callable[[Tensor], Tensor], one: Tensor, other: Tensor, featurizer: Featurizer) -> tuple[Tensor, Tensor]:
    """Two tensors there or back: at once through a featurizer that says ``by_row``, that each row goes by itself."""
    if not getattr(featurizer, "by_row", False) or one.dtype != other.dtype or one.device != other.device:
        return way(one), way(other)
    first, second = way(torch.cat([one, other])).split([len(one), len(other)])
    return first, second


def freely(
    edit: Free, featurizer: Featurizer, h: Tensor, s: Tensor | None, context: Context, *, keep_error: bool = True
) -> Tensor:
    """The sentence with a free function, on values ``[row, position, …]`` in the axes of the context."""
    if s is not None and not _fits(s, h):
        raise ShapeMismatchError(
            f"the source of {context.site!r} has the shape {tuple(s.shape)}, but the values have {tuple(h.shape)}"
        )
    s = None if s is None else s.expand_as(h)
    if isinstance(featurizer, Identity):
        return edit.told(h, replace(context, source=s))
    axes = (*context.axes[:-1], FEATURE)
    f = featurizer.encode(h)
    edited = edit.told(f, replace(context, axes=axes, source=None if s is None else featurizer.encode(s)))
    decoded = featurizer.decode(edited)
    return h + (decoded - featurizer.decode(f)) if keep_error else decoded


def _interchanging(edit: Edit, featurizer: Featurizer, keep_error: bool) -> Interchanging | None:
    """The featurizer, if what is to be done is an interchange in a subspace and it can do that at once.

    One that inherits ``interchange`` but encodes or decodes in a way of its own may mean something else by it.
    """
    if not (isinstance(edit, Replace) and keep_error and isinstance(featurizer, Interchanging)):
        return None
    owner: Any = next((kind for kind in type(featurizer).__mro__ if "interchange" in vars(kind)), None)
    own = owner is not None and all(
        getattr(type(featurizer), name, None) is getattr(owner, name, None) for name in ("encode", "decode")
    )
    return featurizer if own else None


def _same_shape(edited: Tensor, value: Tensor, edit: Edit, where: str) -> Tensor:
    if edited.shape != value.shape:
        raise ShapeMismatchError(
            f"edit {edit!r} at {where} returned shape {tuple(edited.shape)} for a value of shape {tuple(value.shape)}"
        )
    return edited


def _fits(s: Tensor, h: Tensor) -> bool:
    """Whether ``s`` broadcasts to the shape of ``h``."""
    return s.ndim <= h.ndim and all(a in (1, b) for a, b in zip(reversed(s.shape), reversed(h.shape), strict=False))


@dataclass(frozen=True, eq=False, repr=False)
class Intervention:
    """Changes made together in one forward pass.

    Two changes of one coordinate must commute (adding and adding, scaling and scaling), or the order must be stated with
    :meth:`then`; the engine refuses anything else.
    """

    changes: tuple[Change, ...]
    ordered: bool = False

    def __post_init__(self) -> None:
        given: Any = self.changes
        if isinstance(given, str | Change) or not all(isinstance(change, Change) for change in given):
            raise InputError(
                f"an Intervention holds a tuple of changes, but here is {given!r}; write "
                "Intervention.of('L9H6.z', source=…), or Change('L9H6.z', source=…) alone"
            )

    @classmethod
    def of(cls, *changes: Change | str | Site, **options: Any) -> Intervention:
        """From changes, or from targets written ``"L9H6.z@END"`` with one set of options (source, edit, …)."""
        return cls(tuple(c if isinstance(c, Change) else _change(c, options) for c in changes))

    def __and__(self, other: Intervention) -> Intervention:
        """Both, in no particular order."""
        return replace(self, changes=self.changes + other.changes, ordered=self.ordered or other.ordered)

    def then(self, other: Intervention) -> Intervention:
        """This first, the other after it where they meet in one tensor; between tensors the network's own order holds."""
        return Intervention(self.changes + other.changes, ordered=True)

    @property
    def sites(self) -> list[Site]:
        """What it changes, and what it reads of other runs."""
        return list(dict.fromkeys(site for change in self.changes for site in change.sites))

    def spec(self) -> dict[str, Any]:
        return {"changes": [change.spec() for change in self.changes], "ordered": self.ordered}

    @property
    def in_words(self) -> str:
        """Its changes one after the other, as in a table."""
        return "; ".join(map(repr, self.changes))

    def __repr__(self) -> str:
        return f"Intervention({self.in_words})"


def _change(target: str | Site, options: dict[str, Any]) -> Change:
    if isinstance(target, Site):
        return Change(target, **options)
    site, _, positions = target.partition("@")
    return Change(site, positions or ALL, **options)
