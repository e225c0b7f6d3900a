"""Subspaces fitted to activations in closed form: principal components, partial least squares, class means, discriminants.

    >>> acts, labels = torch.randn(200, 16), torch.arange(200) % 2
    >>> pca(acts, 4), mean_difference(acts, labels)
    (Fitted(pca, 16 → 4), Fitted(mean difference, 16 → 1))
    >>> Intervention.of("L9.resid_post@END", featurizer=lda(acts, labels))                   # doctest: +SKIP

Each takes activations ``[row, width]``, centres them, computes in float64 and gives orthonormal columns, with what it found in
``fit``. No column is scaled. What is fitted on rows flatters on these rows: give rows that nothing is judged by. Where a
whole sweep is fitted, ``each(lda, acts, labels)`` takes ``[site, row, width]``. Probes and clusters are in
:mod:`interp.interventions.probes`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError, ShapeMismatchError
from interp.interventions.featurizer import Subspace
from interp.interventions.rotation import Rotation

RIDGE = 1e-3
"""Of a covariance's mean eigenvalue, what discriminants add to each."""
TINY = 1e-24
"""The share of squares that counts as rounding."""
LARGEST = "each column's largest entry is positive"


@dataclass(frozen=True)
class Fit:
    """How a subspace was found."""

    method: str
    rows: int
    """How many it was fitted to."""
    sign: str
    """Which of a column and its negative was taken; no interchange depends on it."""
    explained: tuple[float, ...] | None = None
    """The share of the activations' variance that each column's coordinates hold."""
    accuracy: float | None = None
    """Of held-out rows, by a fit to the others."""
    r2: float | None = None
    """Of held-out rows, by a fit to the others."""
    penalty: float | None = None
    seed: int | None = None

    def spec(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


class Fitted(Subspace):
    """A subspace that says in ``fit`` how it was found. Coordinates are float32 at least, as a rotation's are."""

    def __init__(self, basis: Float[Tensor, "width rank"], fit: Fit) -> None:
        super().__init__(basis)
        self.fit = fit

    def encode(self, h: Float[Tensor, "*row width"]) -> Float[Tensor, "*row rank"]:
        return super().encode(_precise(h))

    def decode(self, f: Float[Tensor, "*row rank"]) -> Float[Tensor, "*row width"]:
        return super().decode(_precise(f))

    def interchange(self, h: Float[Tensor, "*row width"], s: Float[Tensor, "*row width"]) -> Float[Tensor, "*row width"]:
        return super().interchange(_precise(h), s)

    def spec(self) -> dict[str, Any]:
        return super().spec() | {"fit": self.fit.spec()}

    def options(self) -> dict[str, Any]:
        return super().options() | {"fit": self.fit}

    def __repr__(self) -> str:
        return f"Fitted({self.fit.method}, {self.basis.shape[0]} → {self.basis.shape[1]})"


# ---------------------------------------------------------------------------------------- of activations alone


def pca(acts: Float[Tensor, "row width"], rank: int) -> Fitted:
    """The first principal components, by singular values of the centred activations.

    Raises:
        ShapeMismatchError: there are fewer directions in which the activations differ.
    """
    return _pca(acts[None], rank)[0]


def _pca(acts: Float[Tensor, "site row width"], rank: int) -> list[Fitted]:
    x = _centred(acts)
    _, values, components = torch.linalg.svd(x, full_matrices=False)
    _refuse_above(rank, _ranks(values, x.shape[1:]))
    return _all(_upward(components[:, :rank].mT), x, acts.dtype, method="pca", sign=LARGEST)


def random_subspace(width: int, rank: int, seed: int) -> Fitted:
    """Columns drawn from Haar's measure, where no direction is likelier than another: the control for a rank."""
    return Fitted(Rotation(width, rank, seed=seed).basis.detach(), Fit("random", 0, "drawn", seed=seed))


# ---------------------------------------------------------------------------------------- of labels


def mean_difference(acts: Float[Tensor, "row width"], labels: Any) -> Fitted:
    """The direction from one class's mean to the other's; of several classes, the span of their means about their average.

    Args:
        labels: one a row, numbers or texts. The sign is from the first to the second in sorted order.
    """
    return _mean_difference(acts[None], labels)[0]


def _mean_difference(acts: Float[Tensor, "site row width"], labels: Any) -> list[Fitted]:
    x, of = _centred(acts), classes(labels, acts.shape[1])
    means = _contrasts(x, of)
    return _all(_spans(means), x, acts.dtype, method="mean difference", sign=_sign(means))


def lda(acts: Float[Tensor, "row width"], labels: Any, which: str = "direction") -> Fitted:
    """Fisher's discriminant (Σ + λ)⁻¹ Δμ, or the pattern Σ (Σ + λ)⁻¹ Δμ along which its reading varies.

    Σ is the covariance within classes and λ = 1e-3 of its mean eigenvalue. The direction is what best reads the class; as a
    direction to write along the pattern differs from it wherever Σ is not a multiple of the identity. Of several classes, the
    span for their centred means.
    """
    return _lda(acts[None], labels, which)[0]


def _lda(acts: Float[Tensor, "site row width"], labels: Any, which: str = "direction") -> list[Fitted]:
    if which not in ("direction", "pattern"):
        raise InputError(f"which={which!r}; expected 'direction' or 'pattern'")
    x, of = _centred(acts), classes(labels, acts.shape[1])
    means, within = _contrasts(x, of), x - _means(x, of)[:, of.to(x.device)]
    freedom = len(of) - (int(of.max()) + 1)
    trace = within.square().sum((1, 2)) / max(freedom, 1)
    if (still := trace <= TINY * x.square().sum((1, 2))).any() or freedom < 1:
        raise InputError(f"{_place(still)}activations do not vary within a class, so that they have no discriminant")
    ridge = RIDGE * trace[:, None, None] / x.shape[2]
    solved = _solved(within / freedom**0.5, ridge, means.mT)
    if which == "pattern":
        solved = means.mT - ridge * solved  # Σ (Σ + λ)⁻¹ = 1 − λ (Σ + λ)⁻¹
    return _all(_spans(solved.mT), x, acts.dtype, method=f"lda {which}", sign=_sign(means))


# ---------------------------------------------------------------------------------------- of values


def pls(acts: Float[Tensor, "row width"], values: Any, rank: int, *, seed: int = 0, groups: Any = None) -> Fitted:
    """Partial least squares: directions whose coordinates covary most with values, each after the ones before are taken out.

    The columns are the weights of the NIPALS algorithm, which are orthonormal and span what the rotations of other
    conventions do. Nothing is scaled. The first is the gradient of the covariance, Xᵀy; of two classes their mean difference.

    Args:
        values: numbers, ``[row]`` or ``[row, target]``.
        seed: of which fifth of the rows is held out for ``fit.r2``, which a fit to the others predicts. The columns are fitted
            to all.
        groups: one a row: which rows are held out together, such as those of one entity.
    """
    return _pls(acts[None], values, rank, seed=seed, groups=groups)[0]


def _pls(acts: Float[Tensor, "site row width"], values: Any, rank: int, *, seed: int = 0, groups: Any = None) -> list[Fitted]:
    raw, targets = _checked(acts), numbers(values, acts.shape[1]).to(acts.device)
    bases, _ = _nipals(raw, targets, rank)
    kept, held = held_out(len(targets), seed, groups)
    r2: list[float | None] = [None] * len(raw)
    if len(kept) > rank and len(held) > 1:
        _, slopes = _nipals(raw[:, kept], targets[kept], rank)
        guessed = (raw[:, held] - raw[:, kept].mean(1, keepdim=True)) @ slopes + targets[kept].mean(0)
        r2 = [r_squared(one, targets[held]) for one in guessed]
    fitted = _all(bases, raw - raw.mean(1, keepdim=True), acts.dtype, method="pls", sign="values rise along it")
    return [Fitted(one.basis, replace(one.fit, r2=score, seed=seed)) for one, score in zip(fitted, r2, strict=True)]


def _nipals(acts: Tensor, targets: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Weights ``[site, width, rank]``, and the regression's slopes ``[site, width, target]``."""
    x, y = acts - acts.mean(1, keepdim=True), targets - targets.mean(0)
    _refuse_above(rank, torch.full((len(x),), min(x.shape[1] - 1, x.shape[2])))
    size = x.square().sum((1, 2)).sqrt() * y.square().sum().sqrt()
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for column in range(rank):
        covariance = x.mT @ y
        if y.shape[1] > 1:
            left, value, right = torch.linalg.svd(covariance, full_matrices=False)
            w, norm = left[..., :1] * torch.where(right[:, :1, :1] < 0, -1.0, 1.0), value[:, :1, None]
        else:
            norm = covariance.norm(dim=1, keepdim=True)
            w = covariance / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        if (gone := norm[:, 0, 0] <= 1e-12 * size).any():
            raise ShapeMismatchError(
                f"rank={rank}; {_place(gone)}nothing in the activations covaries with the values after {column} columns"
            )
        score = x @ w
        energy = score.square().sum(1, keepdim=True)
        loading = x.mT @ score / energy
        parts.append((w, loading, y.mT @ score / energy))
        x = x - score @ loading.mT
    w, p, q = (torch.cat(part, dim=2) for part in zip(*parts, strict=True))
    rotations = w @ torch.linalg.inv(p.mT @ w)
    return _tidied(w), rotations @ q.mT


# ---------------------------------------------------------------------------------------- at many sites


def each(method: Callable[..., Fitted], acts: Tensor, *args: Any, **options: Any) -> list[Fitted]:
    """A method at every site of a sweep, with the same labels: ``each(lda, acts, labels)``.

    The closed forms are computed for all sites at once; anything else that takes activations, for one after the other.
    """
    if acts.ndim != 3:
        raise ShapeMismatchError(f"acts has shape {tuple(acts.shape)}; expected [site, row, width]")
    batched = _BATCHED.get(method)
    return [method(one, *args, **options) for one in acts] if batched is None else batched(acts, *args, **options)


_BATCHED: dict[Callable[..., Fitted], Callable[..., list[Fitted]]] = {
    pca: _pca,
    pls: _pls,
    mean_difference: _mean_difference,
    lda: _lda,
}


# ---------------------------------------------------------------------------------------- rows, labels, values


def classes(labels: Any, rows: int) -> Int[Tensor, " row"]:
    """Labels as numbers from 0, in sorted order.

    Raises:
        ShapeMismatchError: there is not one a row.
        InputError: they are all the same.
    """
    given = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if given.shape != (rows,):
        raise ShapeMismatchError(f"labels have shape {given.shape}; expected one for each of {rows} rows of activations")
    found, of = np.unique(given, return_inverse=True)
    if len(found) < 2:
        raise InputError(f"all labels are {found[0]!r}; expected at least two classes")
    return torch.from_numpy(of.reshape(-1))


def numbers(values: Any, rows: int) -> Float[Tensor, "row target"]:
    """Values as float64.

    Raises:
        ShapeMismatchError: there is not one a row.
        InputError: they are no finite numbers, or all the same.
    """
    given = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if given.ndim not in (1, 2) or len(given) != rows:
        raise ShapeMismatchError(f"values have shape {given.shape}; expected [row] or [row, target] with {rows} rows")
    if not (np.issubdtype(given.dtype, np.number) or given.dtype == bool) or not np.isfinite(given).all():
        raise InputError(f"values are of {given.dtype} or not finite; expected numbers")
    wanted = torch.from_numpy(given.astype(np.float64)).reshape(rows, -1)
    if (wanted == wanted[0]).all():
        raise InputError(f"all values are {given[0]}; expected some that differ")
    return wanted


def held_out(rows: int, seed: int, groups: Any = None, share: float = 0.2) -> tuple[Int[Tensor, " kept"], Int[Tensor, " held"]]:
    """Rows to fit and rows to judge by, whole groups on one side."""
    given = np.arange(rows) if groups is None else np.asarray(groups)
    if given.shape != (rows,):
        raise ShapeMismatchError(f"groups have shape {given.shape}; expected one for each of {rows} rows of activations")
    found, of = np.unique(given, return_inverse=True)
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
    away = torch.isin(torch.from_numpy(of.reshape(-1)), order[: round(share * len(found))])
    return (~away).nonzero()[:, 0], away.nonzero()[:, 0]


def r_squared(guessed: Float[Tensor, "row target"], values: Float[Tensor, "row target"]) -> float | None:
    """Of all targets together; none where they do not vary."""
    total = (values - values.mean(0)).square().sum().item()
    return 1 - (guessed - values).square().sum().item() / total if total else None


def checked(acts: Float[Tensor, "row width"]) -> Float[Tensor, "row width"]:
    """Activations in float64, centred.

    Raises:
        ShapeMismatchError: they are not ``[row, width]`` with at least two rows.
        InputError: they are not finite, or all the same.
    """
    return _centred(acts[None])[0]


def spanned(columns: Float[Tensor, "width column"]) -> Float[Tensor, "width rank"]:
    """An orthonormal basis of what columns span.

    One column keeps its sign; of several the signs are those that make every largest entry positive.
    """
    return _spans(columns.mT[None])[0]


def shares(basis: Float[Tensor, "width rank"], centred: Float[Tensor, "row width"]) -> tuple[float, ...]:
    """The share of variance that each column's coordinates hold."""
    return tuple(((centred @ basis).square().sum(0) / centred.square().sum()).tolist())


def kept(basis: Float[Tensor, "width rank"], dtype: torch.dtype) -> Float[Tensor, "width rank"]:
    """In the precision that is kept for activations of a dtype: float32, or theirs if that is more."""
    return basis.to(torch.promote_types(dtype, torch.float32)).contiguous()


def _all(bases: Any, centred: Tensor, dtype: torch.dtype, *, method: str, sign: str) -> list[Fitted]:
    rows = centred.shape[1]
    return [
        Fitted(kept(basis, dtype), Fit(method, rows, sign, explained=shares(basis, own)))
        for basis, own in zip(bases, centred, strict=True)
    ]


def _sign(contrasts: Tensor) -> str:
    return "from the first class to the second" if contrasts.shape[1] == 1 else LARGEST


def _checked(acts: Tensor) -> Float[Tensor, "site row width"]:
    if acts.ndim != 3 or acts.shape[1] < 2:
        raise ShapeMismatchError(f"acts has shape {tuple(acts.shape[1:])}; expected [row, width] with at least two rows")
    exact = acts.detach().double()
    if not exact.isfinite().all():
        raise InputError(f"{_place(~exact.isfinite().all(-1).all(-1))}activations are not finite")
    same = (exact == exact[:, :1]).all(-1).all(-1)
    if same.any():
        raise InputError(f"{_place(same)}activations are the same in all {acts.shape[1]} rows: there is nothing to fit")
    return exact


def _centred(acts: Tensor) -> Float[Tensor, "site row width"]:
    exact = _checked(acts)
    return exact - exact.mean(1, keepdim=True)


def _contrasts(centred: Tensor, of: Tensor) -> Float[Tensor, "site contrast width"]:
    """Of two classes the difference of their means; of more, each mean less their average."""
    means = _means(centred, of)
    found = means[:, 1:] - means[:, :1] if means.shape[1] == 2 else means - means.mean(1, keepdim=True)
    if (same := found.square().sum((1, 2)) <= TINY * centred.square().sum((1, 2))).any():
        raise InputError(f"{_place(same)}the classes have one mean: there is no difference to take")
    return found


def _means(acts: Tensor, of: Tensor) -> Float[Tensor, "site class width"]:
    one_hot = torch.nn.functional.one_hot(of).to(acts)
    return torch.einsum("rc,srw->scw", one_hot / one_hot.sum(0), acts)


def _solved(x: Tensor, ridge: Tensor, right: Tensor) -> Tensor:
    """(xᵀx + λ)⁻¹ right, by a system as small as the rows or the width."""
    rows, width = x.shape[1:]
    eye = torch.eye(min(rows, width), dtype=x.dtype, device=x.device)
    if width <= rows:
        return torch.linalg.solve(x.mT @ x + ridge * eye, right)
    return (right - x.mT @ torch.linalg.solve(x @ x.mT + ridge * eye, x @ right)) / ridge


def _spans(rows: Float[Tensor, "site vector width"]) -> list[Float[Tensor, "width rank"]]:
    """Orthonormal columns that span vectors, as many as they have dimensions."""
    if rows.shape[1] == 1:
        return list((rows / rows.norm(dim=-1, keepdim=True)).mT)
    _, values, components = torch.linalg.svd(rows, full_matrices=False)
    ranks = _ranks(values, rows.shape[1:])
    return [_upward(one[:rank].mT) for one, rank in zip(components, ranks.tolist(), strict=True)]


def _ranks(values: Float[Tensor, "site value"], shape: Sequence[int]) -> Int[Tensor, " site"]:
    """How many singular values are more than float64's rounding."""
    return (values > values[:, :1] * max(shape) * torch.finfo(torch.float64).eps).sum(1)


def _refuse_above(rank: int, most: Tensor) -> None:
    least = int(most.min())
    if not 1 <= rank <= least:
        raise ShapeMismatchError(
            f"rank={rank}; {_place(most < rank)}expected 1 to {least}, the dimensions that the centred activations span"
        )


def _upward(columns: Tensor) -> Tensor:
    largest = columns.gather(-2, columns.abs().argmax(-2, keepdim=True))
    return columns * torch.where(largest < 0, -1.0, 1.0)


def _tidied(columns: Tensor) -> Tensor:
    """Orthonormal to rounding, what was so to the errors of deflation; no sign changes."""
    q, r = torch.linalg.qr(columns)
    return q * torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)[..., None, :]


def _precise(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _place(wrong: Tensor) -> str:
    """Where, if there is more than one site."""
    return f"at site {int(wrong.nonzero()[0])} of {len(wrong)}, " if len(wrong) > 1 and wrong.any() else ""
