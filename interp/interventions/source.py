"""With what value: the activation of a run, a constant, noise.

    >>> Activation()                                    # the source run's own value at the target's site and positions
    Activation(source)
    >>> Activation(site="L3.resid_post", positions="subject[-1]")
    Activation(source, L3.resid_post@subject[-1])
    >>> zero(), mean(), resample(seed=1), noise(std=0.3)
    (Constant(0.0), Activation(source, mean over example), Activation(source, resample seed=1), Noise(std=0.3, seed=0))

An activation has coordinates of its own – model, prompt, site, layer, positions – and each one left out is the target's. So one
word serves patching (all left out), Patchscopes (another layer and prompt) and cross-model patching (another model).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from interp import axes
from interp.errors import InputError
from interp.interventions.edit import spelt
from interp.prompts import NAMED, Prompt, Text
from interp.sites import Positions, PositionsLike, Site

Runs = Literal["source", "base", "clean", "corrupted"]
RUNS = ("source", "base", "clean", "corrupted")
Unequal = Literal["last", "mean", "refuse"]
UNEQUAL = ("last", "mean", "refuse")
TOKEN = "token"
"""Groups of a mean: prompts with the same token at a position."""
SPAN = "span"
"""In a mean, the tokens that the change's positions name, pooled."""


@runtime_checkable
class RunsPrompts(Protocol):
    """Whatever can run a prompt; :class:`interp.models.Model` is one. Interventions do not know more of a model."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def unwritten(self) -> str:
        """Why the digest does not say what it computes; empty where it does."""
        ...


@runtime_checkable
class InForce(Protocol):
    """An intervention or one change, of which sources know no more than this."""

    @property
    def sites(self) -> Sequence[Site]:
        """What it changes, and what it reads of other runs."""
        ...

    def spec(self) -> dict[str, Any]: ...


@dataclass(frozen=True, repr=False)
class Activation:
    """An activation of some run, and how examples are pooled.

    Args:
        prompt: which run: ``"source"`` (the other prompt of the pair than the base), ``"base"``, ``"clean"``, ``"corrupted"``,
            or any prompt (text, token ids or :class:`interp.prompts.Prompt`), whose one run then serves every example; or a
            list of prompts, of which ``pool="mean"`` takes the mean, each at its own positions. ``"source:NAME"`` is the
            further prompt of that name which every pair has (:attr:`interp.Pair.sources`).
        model: another model than the target's, with the same width at the site.
        site: another site; a component name keeps the target's layer and head.
        layer: another layer.
        positions: other positions; as many as the target's, or one, which then serves all of the target's.
        unequal: what is done where the spans of two roles are not equally long, pair by pair: ``"last"`` writes the last token
            of the source's span at the last token of the target's and leaves the others, ``"mean"`` writes the mean over the
            source's span at every token of the target's, ``"refuse"`` raises. Equal spans are matched token by token.
        pool: ``"none"`` takes the example's own value, ``"mean"`` the mean along ``over``, ``"resample"`` another example's. A
            mean with ``positions`` of its own is over the tokens that they name in each prompt; else tokens are counted from
            each prompt's first.
        over: for a mean, ``("example",)`` keeps positions apart, ``("example", "position")`` pools real tokens too, and
            ``("example", "span")`` pools the tokens that the positions name, in each prompt its own.
        by: for a mean, within which groups it is taken: ``"template"`` or ``"entities"`` of the pairs, or ``"token"``, those
            prompts that have the same token at the same position, counted from each prompt's first: what a state is given
            its token and place alone (context-aware mean ablation, arXiv 2509.09650).
        seed: for resampling, the draw; example i's partner depends on the seed and the number of examples alone.
        given: an intervention in force on that run, one of ``"source"``, ``"base"``, ``"clean"`` and ``"corrupted"``: what a
            site holds once something else was changed, of which paths are made (Wang et al., arXiv 2211.00593). Its own
            ``"base"`` is that run without it, so it may freeze parts there; of ``"base"``, with what is given on the base of
            the sweep.
    """

    prompt: Runs | Text | Prompt | Iterable[Text | Prompt] = "source"
    model: RunsPrompts | None = None
    site: Site | str | None = None
    layer: int | None = None
    positions: PositionsLike = None
    pool: Literal["none", "mean", "resample"] = "none"
    over: tuple[str, ...] = (axes.EXAMPLE,)
    by: str | None = None
    seed: int = 0
    unequal: Unequal = "last"
    given: InForce | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", _tupled(self.prompt))
        if self.given is not None and not isinstance(self.given, InForce):
            raise InputError(
                f"given of a source is of type {type(self.given).__name__}; expected an interp.Intervention or interp.Change"
            )
        if self.given is not None and (self.prompts or self.model is not None):
            raise InputError(
                "given of a source is in force on a run of the sweep's own model and pairs: prompt='base', 'source', 'clean' "
                "or 'corrupted', and no model="
            )
        if self.several and (self.pool != "mean" or self.by not in (None, TOKEN)):
            raise ValueError(
                f"prompt is a list of {len(self.prompts)} prompts, of which a mean is taken: pool='mean' without by= or by "
                f"'token', got pool={self.pool!r}, by={self.by!r}; one prompt is a text, its token ids or interp.Prompt"
            )
        if self.by == TOKEN and (self.over != (axes.EXAMPLE,) or self.positions is not None):
            raise ValueError(
                "by='token' is a mean over the prompts that have the same token at the same position: over=('example',) and no "
                f"positions, got over={self.over}, positions={self.positions!r}"
            )
        if self.pool not in ("none", "mean", "resample"):
            raise ValueError(f"pool={self.pool!r}; expected 'none', 'mean' or 'resample'")
        if self.pool != "mean" and (self.by is not None or self.over != (axes.EXAMPLE,)):
            raise ValueError(f"over={self.over} and by={self.by!r} are for pool='mean', but pool={self.pool!r}")
        if axes.EXAMPLE not in self.over or not set(self.over) <= {axes.EXAMPLE, axes.POSITION, SPAN}:
            raise ValueError(f"over={self.over}; a mean runs over ('example',), ('example', 'position') or ('example', 'span')")
        if self.unequal not in UNEQUAL:
            raise ValueError(f"unequal={self.unequal!r}; expected 'last', 'mean' or 'refuse'")

    @property
    def several(self) -> bool:
        """Whether it is a mean over a list of prompts."""
        return isinstance(self.prompt, tuple) and not all(isinstance(token, Integral) for token in self.prompt)

    @property
    def of_pairs(self) -> bool:
        """Whether it is a run of prompts that the pairs hold."""
        return isinstance(self.prompt, str) and (self.prompt in RUNS or self.prompt.startswith(NAMED))

    @property
    def prompts(self) -> tuple[Any, ...]:
        """The prompts that are run, where they are not those of the pairs."""
        if self.of_pairs:
            return ()
        return self.prompt if isinstance(self.prompt, tuple) and self.several else (self.prompt,)

    @property
    def own_positions(self) -> Positions | None:
        return None if self.positions is None else Positions.parse(self.positions)

    def site_for(self, target: Site) -> Site:
        """The site that is read for a target."""
        site = target
        if self.site is not None:
            own = Site.parse(self.site)
            inherited: dict[str, int | None] = {
                axis: getattr(target, axis) for axis in axes.INDEXED if axis in own.component.selectable
            }
            if own.component.per_layer:
                inherited["layer"] = target.layer
            inherited |= {"call": target.call, "half": target.half}
            site = own.at(**{axis: value for axis, value in inherited.items() if getattr(own, axis) is None})
        return site if self.layer is None else site.at(layer=self.layer)

    @property
    def is_counterpart(self) -> bool:
        """Whether this is the source run's own value at the target's own coordinates: the case of the no-effect rule."""
        return self.prompt == "source" and not self._moved

    @property
    def is_own(self) -> bool:
        """Whether this is what the base has at the target's own coordinates."""
        return self.prompt == "base" and not self._moved

    @property
    def _moved(self) -> bool:
        elsewhere = (self.model, self.site, self.layer, self.positions, self.given)
        return self.pool != "none" or any(coordinate is not None for coordinate in elsewhere)

    def spec(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "kind": "activation",
            "prompt": [_spec(one) for one in self.prompts] if self.several else _spec(self.prompt),
            "model": None if self.model is None else [self.model.name, self.model.digest],
            "site": None if self.site is None else repr(Site.parse(self.site)),
            "layer": self.layer,
            "positions": None if self.positions is None else repr(self.own_positions),
            "pool": self.pool,
            "over": list(self.over),
            "by": self.by,
            "seed": self.seed if self.pool == "resample" else None,
            "unequal": self.unequal if self.pool != "mean" else None,
        }
        found |= {} if self.given is None else {"given": self.given.spec()}
        return found | ({"function": None} if self.model is not None and self.model.unwritten else {})

    def __repr__(self) -> str:
        where = "" if self.site is None else repr(Site.parse(self.site))
        where += "" if self.layer is None else f"{' ' if where else ''}layer {self.layer}"
        where += "" if self.positions is None else f"@{self.own_positions!r}"
        pooled = {"none": "", "mean": f"mean over {'+'.join(self.over)}", "resample": f"resample seed={self.seed}"}[self.pool]
        pooled += "" if self.by is None else f" by {self.by}"
        prompt = f"{len(self.prompts)} prompts" if self.several else f"prompt {self.prompt!r}" if self.prompts else self.prompt
        model = "" if self.model is None else f"of {self.model.name}"
        unequal = "" if self.unequal == "last" else f"unequal={self.unequal}"
        given = "" if self.given is None else f"given {self.given!r}"
        return f"Activation({', '.join(part for part in (str(prompt), model, where, pooled, unequal, given) if part)})"


def _tupled(prompt: Any) -> Any:
    """Lists as tuples, which have a hash; a text or a prompt as it is."""
    if isinstance(prompt, str | Prompt | Integral):
        return prompt
    numbers = getattr(prompt, "tolist", None)  # ids in an array or a tensor
    if numbers is None and not isinstance(prompt, Iterable):
        raise InputError(
            f"prompt is or holds a {type(prompt).__name__}; expected 'source', 'base', 'clean', 'corrupted', a text, token "
            "ids, interp.Prompt, or a list of prompts, such as [pair.clean for pair in pairs]"
        )
    found = tuple(_tupled(one) for one in (prompt if numbers is None else numbers()))
    if not found:
        raise InputError("prompt is empty: no prompts, or one without tokens")
    return found


def _spec(prompt: Any) -> Any:
    if isinstance(prompt, Prompt):
        return prompt.spec()
    return [int(token) for token in prompt] if isinstance(prompt, tuple) else prompt


@dataclass(frozen=True, eq=False, repr=False)
class Constant:
    """One value for every row: a number, or a tensor that broadcasts to the site's features."""

    value: float | Tensor = 0.0

    def __post_init__(self) -> None:
        if not bool(torch.as_tensor(self.value).isfinite().all()):
            raise ValueError(f"a constant source is finite, got {self.value}")

    def spec(self) -> dict[str, Any]:
        value = self.value
        return {"kind": "constant", "value": value.tolist() if isinstance(value, Tensor) else float(value)}

    def __repr__(self) -> str:
        return f"Constant({tuple(self.value.shape) if isinstance(self.value, Tensor) else spelt(self.value)})"


@dataclass(frozen=True, repr=False)
class Noise:
    """Gaussian noise, drawn once an example and position and shared by every cell of a sweep.

    The draw depends on the seed, the example's index, the site's features and the position alone, so neither batching nor
    sharding changes it. Used with ``edit=Add()`` it corrupts an embedding as causal tracing does.
    """

    std: float
    seed: int = 0

    def __repr__(self) -> str:
        return f"Noise(std={spelt(self.std)}, seed={self.seed})"

    def spec(self) -> dict[str, Any]:
        return {"kind": "noise", "std": self.std, "seed": self.seed}

    def draw(self, example: int, shape: tuple[int, ...]) -> Tensor:
        """Noise of one example, float64, on the CPU. ``shape`` is ``[position, *features]``, the position counted from 0.

        A longer prompt only adds rows: the draw at a position does not depend on how many follow.
        """
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + example) % (1 << 63))
        rows = [torch.randn(shape[1:], generator=generator, dtype=torch.float64) for _ in range(shape[0])]
        return self.std * torch.stack(rows)


Source = Activation | Constant | Noise


def zero() -> Constant:
    """The zero vector (zero ablation).

    At ``v``, ``z`` and ``result`` where zero is depends on how the model is written: a value bias b_V may as well stand in b_O.
    Results and plans then say so in their attribute ``gauge`` and note; :func:`mean` does not depend on it.
    """
    return Constant(0.0)


def mean(prompt: Runs = "source", over: tuple[str, ...] = (axes.EXAMPLE,), by: str | None = None) -> Activation:
    """The mean over examples (mean ablation), position by position unless ``over`` pools positions too."""
    return Activation(prompt, pool="mean", over=over, by=by)


def resample(seed: int = 0, prompt: Runs = "source") -> Activation:
    """Another example's value (resample ablation)."""
    return Activation(prompt, pool="resample", seed=seed)


def noise(std: float, seed: int = 0) -> Noise:
    """Gaussian noise of standard deviation ``std`` in the activation's own units."""
    return Noise(std, seed)
