"""Which of pyvene's interventions say what the sentence says, and how: a featurizer, an edit and a source each.

    >>> described(pyvene.RotatedSpaceIntervention(embed_dim=768)).exact(None)               # doctest: +SKIP
    Exact(edit=Replace(), inner=Rotation(768 → 768), …)

pyvene need not be imported: its interventions are known by the names of their classes and by their tensors, so that what it
saved is read without it. A class with no entry in :data:`EXACT` runs its own code (:mod:`interp.interop.pyvene.calls`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from interp.errors import InteropError, ShapeMismatchError
from interp.interventions import Add, BoundlessMask, Edit, Featurizer, Mask, Replace, Rotation, Scale, Select

MODULE = "pyvene.models.interventions"
_PRECISE = (torch.float32, torch.float64)
COLLECT, SKIP = "CollectIntervention", "SkipIntervention"


@dataclass(frozen=True, eq=False)
class Described:
    """What there is to know of an intervention."""

    name: str
    """Of its class; with the module where that is not pyvene's own."""
    state: Mapping[str, Tensor] = field(default_factory=dict)
    dims: int | None = None
    """How many of the first coordinates are interchanged; None for all."""
    partition: Sequence[Sequence[int]] | None = None
    """Columns of each subspace, written out."""
    constant: Tensor | None = None
    """A source of its own."""
    live: Any = None

    @property
    def takes_source(self) -> bool:
        return self.constant is None and not getattr(self.live, "is_source_constant", False)

    @property
    def flattens(self) -> bool:
        """Whether pyvene makes one vector of all tokens that it changes."""
        names = {kind.__name__ for kind in type(self.live).__mro__}
        alone = {"LocalistRepresentationIntervention", "LambdaIntervention", "function"} & names
        return not (alone or getattr(self.live, "keep_last_dim", False))

    def columns(self, subspaces: Sequence[int] | None) -> list[int] | None:
        """Which coordinates are interchanged, None for all of them."""
        if subspaces is None:
            return None if self.dims is None else list(range(self.dims))
        if self.partition is None:
            return list(subspaces)
        beyond = [number for number in subspaces if not 0 <= number < len(self.partition)]
        if beyond:
            raise InteropError(f"subspace {beyond[0]} does not exist: the partition has {len(self.partition)}")
        return [column for number in subspaces for column in self.partition[number]]

    def exact(self, subspaces: Sequence[int] | None, width: int | None = None) -> Exact | None:
        """The same in our words; None if its own code has to run.

        Args:
            width: features of the site, needed where only some of them are interchanged.
        """
        return EXACT[self.name](self, subspaces, width) if self.name in EXACT else None


@dataclass(frozen=True, eq=False)
class Exact:
    """An intervention in our words."""

    edit: Edit
    inner: Featurizer | None = None
    flattens: bool = False
    """Whether it acts on one vector of all tokens that it changes."""
    vector: bool = False
    """Whether its edit names features one by one, in a single axis."""


def described(live: Any) -> Described:
    """What a live intervention, or a function, is."""
    if type(live).__name__ == "LambdaIntervention" and hasattr(live, "func"):
        live = live.func
    if not isinstance(live, nn.Module):
        if isinstance(live, type) or not callable(live):
            raise InteropError(
                f"{live!r} is no pyvene intervention: expected an instance of one, or a function of base and source"
            )
        return Described(getattr(live, "__qualname__", type(live).__name__), live=live)
    kind = type(live)
    dims, constant = getattr(live, "interchange_dim", None), getattr(live, "source_representation", None)
    return Described(
        kind.__name__ if kind.__module__ == MODULE else f"{kind.__module__}.{kind.__qualname__}",
        {name: tensor.detach() for name, tensor in live.state_dict().items()},
        None if dims is None else int(dims),
        getattr(live, "subspace_partition", None),
        constant,
        live,
    )


def written_out(partition: Sequence[Sequence[int]] | None) -> list[list[int]] | None:
    """A partition with pairs, which are the ends of ranges, written out as pyvene does."""
    if partition is None:
        return None
    return [list(range(*one)) if len(one) == 2 and isinstance(one[0], int) else list(one) for one in partition]


# ---------------------------------------------------------------------------------------- class by class

_Exactly = Callable[[Described, Sequence[int] | None, int | None], Exact | None]


def _swap(d: Described, subspaces: Sequence[int] | None, width: int | None) -> Exact | None:
    chosen = d.columns(subspaces)
    if chosen is None or (width is not None and len(set(chosen)) >= width):
        return Exact(Replace())
    return None if width is None else Exact(Select(_mask(chosen, width)), vector=True)


def _zero(d: Described, subspaces: Sequence[int] | None, width: int | None) -> Exact | None:
    chosen = d.columns(subspaces)
    if chosen is None or (width is not None and len(set(chosen)) >= width):
        return Exact(Scale(0.0))
    return None if width is None else Exact(Select(_mask(chosen, width), source=False), vector=True)


def _add(scale: float) -> _Exactly:
    def exactly(d: Described, subspaces: Sequence[int] | None, width: int | None) -> Exact | None:
        chosen = d.columns(subspaces)
        return Exact(Add(scale)) if chosen is None or (width is not None and len(set(chosen)) >= width) else None

    return exactly


def _rotated(d: Described, subspaces: Sequence[int] | None, width: int | None) -> Exact | None:
    if not d.takes_source:
        return None
    inner = rotation(d)
    chosen = d.columns(subspaces) if d.name == "RotatedSpaceIntervention" or subspaces is not None else None
    every = chosen is None or len(set(chosen)) >= inner.rank
    return Exact(Replace() if every else Select(_mask(chosen or [], inner.rank)), inner, flattens=True)


def _boundless(d: Described, subspaces: Sequence[int] | None, width: int | None) -> Exact | None:
    inner = rotation(d)
    start, temperature = float(d.state["intervention_boundaries"][0]), float(d.state["temperature"])
    return Exact(BoundlessMask(inner.width, form="two-sided", temperature=temperature, start=start), inner, flattens=True)


def _soft_rotated(d: Described, subspaces: Sequence[int] | None, width: int | None) -> Exact | None:
    inner, masks = rotation(d), d.state["masks"]
    return Exact(Mask(tuple(masks.shape), temperature=float(d.state["temperature"]), start=masks), inner, flattens=True)


def _soft(d: Described, subspaces: Sequence[int] | None, width: int | None) -> Exact | None:
    mask = d.state["mask"]
    return Exact(Mask(tuple(mask.shape), temperature=float(d.state["temperature"]), start=mask), vector=True)


EXACT: Mapping[str, _Exactly] = {
    "VanillaIntervention": _swap,
    SKIP: _swap,
    "ZeroIntervention": _zero,
    "AdditionIntervention": _add(1.0),
    "SubtractionIntervention": _add(-1.0),
    "RotatedSpaceIntervention": _rotated,
    "LowRankRotatedSpaceIntervention": _rotated,
    "BoundlessRotatedSpaceIntervention": _boundless,
    "SigmoidMaskRotatedSpaceIntervention": _soft_rotated,
    "SigmoidMaskIntervention": _soft,
}
"""The others of pyvene's run their own code: noise, PCA and autoencoders, and adding to some of the features only."""

TRAINABLE = frozenset(name for name in EXACT if "Rotated" in name or "Mask" in name)
"""Those of them that pyvene saves tensors for."""


def rotation(d: Described) -> Rotation:
    """The orthonormal columns of an intervention's rotate layer.

    Tall ones keep the parameters that they were trained through; square ones, which torch makes by the matrix exponential,
    begin at their value.
    """
    state = {name.removeprefix("rotate_layer."): t for name, t in d.state.items() if name.startswith("rotate_layer.")}
    original = state.get("parametrizations.weight.original")
    if original is None or original.ndim != 2:
        raise InteropError(f"{d.name} holds no orthogonal rotate_layer.weight; its tensors are {', '.join(d.state) or 'none'}")
    try:
        if original.shape[0] > original.shape[1] and original.dtype in _PRECISE:
            return Rotation.like_torch(d.live.rotate_layer if d.live is not None else state)
    except ShapeMismatchError:  # another of torch's maps
        if d.live is None:
            raise
    weight = (d.live.rotate_layer.weight if d.live is not None else _made(state)).detach()
    if original.dtype not in _PRECISE:  # the columns are orthonormal to three digits: take the nearest that are
        u, _, vh = torch.linalg.svd(weight.float(), full_matrices=False)
        weight = u @ vh
    return Rotation(*weight.shape, start=weight.clone()).to(weight.dtype)


def _made(state: Mapping[str, Tensor]) -> Tensor:
    """What torch's parametrization makes of saved parameters."""
    layer = nn.Module()
    layer.weight = nn.Parameter(torch.eye(*state["parametrizations.weight.original"].shape))
    nn.utils.parametrizations.orthogonal(layer)
    dtype = state["parametrizations.weight.original"].dtype
    layer.to(dtype if dtype in _PRECISE else torch.float32)
    try:
        layer.load_state_dict(dict(state))
    except RuntimeError as error:
        raise InteropError(f"a saved rotation is not one of torch's orthogonal parametrization: {error}") from None
    return layer.weight


def _mask(chosen: Sequence[int], width: int) -> Tensor:
    beyond = [column for column in chosen if not 0 <= column < width]
    if beyond:
        raise InteropError(f"coordinate {beyond[0]} of a subspace does not exist: there are {width}, 0 to {width - 1}")
    mask = torch.zeros(width, dtype=torch.bool)
    mask[list(chosen)] = True
    return mask


# ---------------------------------------------------------------------------------------- as they begin


def fresh(name: str, width: int, rank: int | None, partition: Any, seed: int) -> Described:
    """An intervention that nobody has trained: pyvene's first values, but for the rotation, which is drawn from a seed.

    Raises:
        InteropError: a low-rank rotation without its rank.
    """
    state: dict[str, Tensor] = {}
    if "Rotated" in name:
        if name.startswith("LowRank") and rank is None:
            raise InteropError(f"{name} needs low_rank_dimension")
        state = _started(width, rank if name.startswith("LowRank") and rank is not None else width, seed)
    if "Mask" in name or name.startswith("Boundless"):
        state["temperature"] = torch.tensor(0.01 if name == "SigmoidMaskIntervention" else 50.0)
    if name.startswith("Boundless"):
        state["intervention_boundaries"] = torch.tensor([0.5])
    if name == "SigmoidMaskRotatedSpaceIntervention":
        state["masks"] = torch.full((width,), 100.0)
    if name == "SigmoidMaskIntervention":
        state["mask"] = torch.zeros(width)
    return Described(name, state, width, partition)


def _started(width: int, rank: int, seed: int) -> dict[str, Tensor]:
    layer = nn.Module()
    layer.weight = nn.Parameter(Rotation(width, rank, seed=seed).basis.detach())
    nn.utils.parametrizations.orthogonal(layer)
    return {f"rotate_layer.{key}": tensor.detach() for key, tensor in layer.state_dict().items()}
