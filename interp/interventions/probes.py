"""Directions that a classifier, a regression or a clustering finds, through scikit-learn.

    >>> acts, labels = torch.randn(200, 16), torch.arange(200) % 2
    >>> probe = linear_probe(acts, labels)
    >>> probe, 0 <= probe.fit.accuracy <= 1
    (Fitted(logistic probe, 16 → 1), True)

That a probe reads a variable from a direction does not say that the network does: write along it and see.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from interp.errors import InputError
from interp.interventions.fitted import (
    LARGEST,
    Fit,
    Fitted,
    checked,
    classes,
    held_out,
    kept,
    numbers,
    r_squared,
    shares,
    spanned,
)

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)


def linear_probe(
    acts: Float[Tensor, "row width"],
    labels: Any,
    kind: str = "logistic",
    *,
    penalties: Sequence[float] = PENALTIES,
    seed: int = 0,
    groups: Any = None,
) -> Fitted:
    """The weights of a linear probe with an L2 penalty; of several classes the span of their centred weights.

    A fifth of the rows is held out; of the others a fifth chooses the penalty, and a fit to both judges it by the fifth held
    out: ``fit.accuracy``, or ``fit.r2``. The columns are then fitted to all rows with that penalty.

    Args:
        labels: ``"logistic"``: classes, one a row, numbers or texts. ``"ridge"``: numbers to regress on, ``[row]`` or
            ``[row, target]``.
        penalties: to choose from: what multiplies half the squared weights beside the mean loss, of activations divided by
            one number, their root mean squared distance to the mean, so that it means the same at every site.
        seed: of which rows are held out.
        groups: one a row: which rows are held out together, such as those of one entity.

    Raises:
        InputError: another kind, a penalty that is not positive, or labels that are all the same, also where rows are held
            out.
    """
    if kind not in ("logistic", "ridge"):
        raise InputError(f"kind={kind!r}; expected 'logistic' or 'ridge'")
    if not penalties or not all(penalty > 0 for penalty in penalties):
        raise InputError(f"penalties={tuple(penalties)}; expected numbers above 0")
    centred = checked(acts)
    scale = (centred.square().sum() / len(centred)).sqrt()
    x = (centred / scale).cpu()
    y = classes(labels, len(x)) if kind == "logistic" else numbers(labels, len(x))
    rest, test = held_out(len(x), seed, groups)
    inner, choosing = held_out(len(rest), seed + 1, None if groups is None else np.asarray(groups)[rest.numpy()])
    train, validation = rest[inner], rest[choosing]
    _refuse_few(kind, y, train, validation, test)

    def score(penalty: float, fitted_to: Tensor, of: Tensor) -> float:
        weights, bias = _probe(kind, x[fitted_to], y[fitted_to], penalty)
        guess = x[of] @ weights + bias
        if kind == "ridge":
            return r_squared(guess, y[of]) or 0.0
        return (_decided(guess) == y[of]).double().mean().item()

    # Of equal ones the largest penalty: it chooses between directions that read the rows equally well.
    penalty = max(sorted(penalties, reverse=True), key=lambda one: score(one, train, validation))
    judged = score(penalty, rest, test)
    weights, _ = _probe(kind, x, y, penalty)
    basis = spanned(weights - weights.mean(1, keepdim=True) if weights.shape[1] > 1 and kind == "logistic" else weights)
    rising = "from the first class to the second" if kind == "logistic" else "values rise along it"
    fit = Fit(
        f"{kind} probe",
        len(x),
        rising if basis.shape[1] == 1 else LARGEST,
        explained=shares(basis, x),
        accuracy=judged if kind == "logistic" else None,
        r2=judged if kind == "ridge" else None,
        penalty=penalty,
        seed=seed,
    )
    return Fitted(kept(basis, acts.dtype).to(acts.device), fit)


class Classifier(NamedTuple):
    """A logistic probe whole, with its posterior."""

    classes: tuple[Any, ...]
    """In sorted order."""
    centre: Float[Tensor, " width"]
    weights: Float[Tensor, "width class"]
    bias: Float[Tensor, " class"]

    def posterior(self, acts: Float[Tensor, "row width"]) -> Float[Tensor, "row class"]:
        """The probability of every class, float64."""
        return ((acts.double().cpu() - self.centre) @ self.weights + self.bias).softmax(-1)


def classifier(acts: Float[Tensor, "row width"], labels: Any, *, penalty: float = 1e-2) -> Classifier:
    """A logistic probe that says how sure it is, fitted to all rows.

    >>> acts = torch.tensor([[-1.0, 0.0], [-1.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> classifier(acts, ["no", "no", "yes", "yes"]).posterior(acts).argmax(-1)
    tensor([0, 0, 1, 1])

    Args:
        acts: what it reads.
        labels: classes, one a row, numbers or texts.
        penalty: as for :func:`linear_probe`.

    Raises:
        InputError: a penalty that is not positive, or labels that are all the same.
    """
    if not penalty > 0:
        raise InputError(f"penalty={penalty}; expected a number above 0")
    centred = checked(acts)
    scale = (centred.square().sum() / len(centred)).sqrt()
    of = classes(labels, len(acts))
    weights, bias = _probe("logistic", (centred / scale).cpu(), of, penalty)
    if weights.shape[1] == 1:  # of two classes one score, that of the second
        weights, bias = (torch.cat([torch.zeros_like(one), one], -1) for one in (weights, bias))
    given = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    return Classifier(tuple(sorted({*given})), acts.double().cpu().mean(0), weights / scale.cpu(), bias)


def kmeans(acts: Float[Tensor, "row width"], clusters: int = 2, *, seed: int = 0) -> Fitted:
    """The direction between the centres of two clusters, or the span of several about their average.

    Args:
        seed: of the ten starts, of which the tightest clustering is taken.
    """
    from sklearn.cluster import KMeans

    x = checked(acts)
    distinct = len(torch.unique(x, dim=0))
    if not 2 <= clusters <= distinct:
        raise InputError(f"clusters={clusters}; expected 2 to {distinct}, the number of different rows")
    centres = KMeans(clusters, n_init=10, random_state=seed).fit(x.cpu().numpy()).cluster_centers_
    found = torch.from_numpy(centres)
    contrasts = found[1:] - found[:1] if clusters == 2 else found - found.mean(0)
    basis = spanned(contrasts.mT)
    basis = basis * torch.where(basis.gather(0, basis.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0)
    fit = Fit("k-means", len(x), LARGEST, explained=shares(basis, x.cpu()), seed=seed)
    return Fitted(kept(basis, acts.dtype).to(acts.device), fit)


def _probe(kind: str, x: Tensor, y: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Weights ``[width, target]`` and biases; of two classes one target."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge

    rows = len(x)
    if kind == "ridge":
        model: Any = Ridge(alpha=penalty * rows).fit(x.numpy(), y.numpy())
    else:
        with warnings.catch_warnings():
            # Separable rows under a weak penalty: the weights still grow, their direction no longer turns.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(C=1 / (penalty * rows), max_iter=1000, tol=1e-6).fit(x.numpy(), y.numpy())
    weights: NDArray[np.float64] = np.atleast_2d(model.coef_)
    return torch.from_numpy(weights.T.copy()), torch.from_numpy(np.atleast_1d(model.intercept_))


def _decided(scores: Tensor) -> Tensor:
    return (scores[:, 0] > 0).long() if scores.shape[1] == 1 else scores.argmax(1)


def _refuse_few(kind: str, y: Tensor, train: Tensor, validation: Tensor, test: Tensor) -> None:
    """Raise where the parts are too small to fit and to judge."""
    missing = set(y.unique().tolist()) - set(y[train].unique().tolist()) if kind == "logistic" else set()
    if missing or min(len(validation), len(test)) < 1 or len(train) < 2:
        raise InputError(
            f"of {len(y)} rows {len(train)} are left to fit, {len(validation)} to choose the penalty by and {len(test)} to "
            f"judge by{', and a class has none of the first' if missing else ''}; give more rows, or another seed"
        )
