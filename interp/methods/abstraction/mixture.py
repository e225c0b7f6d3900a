"""The mixture of mechanisms by which bound words are found in context, fitted to what a network says.

>>> found = interp.mixing_mechanisms(model, rows)                                                     # doctest: +SKIP
>>> fitted = interp.fit_mixture(found.sel(layer=[18]))                                                # doctest: +SKIP
>>> fitted.js.sel(split="test")                                                                       # doctest: +SKIP

1. Y[p, k, i, group]: the network's distribution over the groups, averaged over the rows whose source has its place at p, its
   key in the base's group k and its answer in the base's group i.
2. It is fitted by a mixture of a positional, a lexical and a reflexive term,
   ℓ(a | p, k, i) = w exp(−(a − p)² / 2σ(p)²) + γ[k] 1{a = k} + γ'[i] 1{a = i}, σ(p) a quadratic in p/n, and softmax over a,
   by the Jensen–Shannon divergence in bits, on part of the cells.
3. Terms are left out to see which are needed.

Of σ the sign says nothing; w, γ and γ' are determined where the network is not certain.

Gur-Arieh, Geva and Geiger, "Mixing Mechanisms", arXiv 2510.06182.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from interp import axes, effects
from interp.errors import InputError, UnknownNameError, require_whole
from interp.methods.registry import Method

METHODS = (
    Method(
        id="mixture_of_mechanisms",
        name="the fitted mixture of binding mechanisms",
        paper="Gur-Arieh et al. 2025, Mixing Mechanisms: How Language Models Retrieve Bound Entities In-Context, "
        "arXiv 2510.06182",
        mediator="what was measured of streams at the last token",
        search="training of a formula",
        cost="no forward pass",
        function="interp.fit_mixture",
    ),
)

MECHANISMS = ("positional", "lexical", "reflexive")
VARIANTS: Mapping[str, tuple[bool, bool, bool]] = {
    "mixture": (True, True, True),
    "without positional": (False, True, True),
    "without lexical": (True, False, True),
    "without reflexive": (True, True, False),
    "positional": (True, False, False),
    "lexical": (False, True, False),
    "reflexive": (False, False, True),
    "uniform": (False, False, False),
}
"""Which terms the formula has, in the order of :data:`MECHANISMS`."""
SPLITS = ("train", "validation", "test")
_SHARES = (0.7, 0.15, 0.15)
_LEAST = 1e-6
"""What is added to σ."""


class _Cells(NamedTuple):
    """The cells that have rows."""

    at: Int[Tensor, "cell 3"]
    """p, k and i."""
    y: Float[Tensor, "place cell group"]
    split: NDArray[np.intp]
    """``[cell]``, which of :data:`SPLITS`."""
    many: NDArray[np.intp]
    """Rows."""


class _Terms:
    """Parameters of every variant and place, float64."""

    def __init__(self, variants: Sequence[str], places: int, groups: int) -> None:
        shape, zeros = (len(variants), places), torch.zeros
        self.on = torch.tensor([VARIANTS[name] for name in variants], dtype=torch.float64)[:, None]
        self.w = torch.ones(shape, dtype=torch.float64)
        self.sigma = torch.cat([torch.full((*shape, 1), 3.0), zeros(*shape, 2)], -1).double()
        self.lexical, self.reflexive = (zeros(*shape, groups, dtype=torch.float64) for _ in range(2))

    @property
    def all(self) -> list[Tensor]:
        return [self.w, self.sigma, self.lexical, self.reflexive]

    def width(self, p: Tensor, groups: int) -> Float[Tensor, "variant place p"]:
        """σ(p)."""
        x = p.double() / groups
        return self.sigma @ torch.stack([torch.ones_like(x), x, x * x]) + _LEAST

    def log(self, at: Tensor, groups: int) -> Float[Tensor, "variant place cell group"]:
        """Log-probabilities of the groups."""
        p, k, i = at.T
        a = torch.arange(groups)
        width = self.width(p, groups)[..., None]
        bump = self.w[..., None, None] * torch.exp(-((a - p[:, None]) ** 2) / (2 * width**2))
        gates = [own[..., where, None] * (a == where[:, None]) for own, where in ((self.lexical, k), (self.reflexive, i))]
        on = self.on[..., None, None]
        logits = on[:, :, 0] * bump + on[:, :, 1] * gates[0] + on[:, :, 2] * gates[1]
        return logits.log_softmax(-1)


def fit_mixture(
    found: xr.Dataset,
    variants: Sequence[str] = tuple(VARIANTS),
    *,
    epochs: int = 5000,
    patience: int = 500,
    lr: float = 5e-2,
    fewest: int = 1,
    seed: int = 0,
) -> xr.Dataset:
    """The mixture that says what the network says, and how near it comes, beside parts of it.

    All variants and places are fitted together; each keeps the parameters that were best on its validation cells.

    Args:
        found: of :func:`interp.mixing_mechanisms`, best of a few places: ``found.sel(layer=[18])``; or any Dataset with
            ``probability [place, example, group]`` and ``prediction [mechanism, example]``.
        variants: some of :data:`VARIANTS`.
        epochs, lr: of Adam, at most.
        patience: epochs without a better fit to any variant's validation cells, after which it stops.
        fewest: rows of a cell that counts.
        seed: of the split of cells, 70/15/15.

    Returns:
        ``js [variant, place, split]`` in bits, means over cells, and ``similarity`` = 1 − js; ``kl [direction, variant, place,
        split]`` in bits; ``w``, ``sigma [.., p]``, ``gate_lexical [.., k]``, ``gate_reflexive [.., i]``, each undefined where
        a variant lacks the term; ``Y [place, p, k, i, group]``, ``fitted`` likewise by variant; ``rows [p, k, i]`` and
        ``part [p, k, i]``, in which part of the split a cell is.

    Raises:
        InputError: fewer cells than one for every part of the split, or a Dataset without what is needed.
        UnknownNameError: no such variant.
    """
    for name in variants:
        if name not in VARIANTS:
            raise UnknownNameError("variant", name, VARIANTS)
    require_whole("epochs", epochs, "how many steps are taken at most")
    require_whole("patience", patience, "how many steps without a better fit end it")
    place, cells = _cells(found, fewest, seed)
    groups = cells.y.shape[-1]
    terms = _Terms(variants, len(cells.y), groups)
    _descend(terms, cells, epochs, patience, lr)
    with torch.no_grad():
        log = terms.log(cells.at, groups)
        divergence = _js(cells.y, log).clamp(min=0)  # rounding
        forward, backward = _kl(cells.y, log), _kl_back(cells.y, log)
        sigma = terms.width(torch.arange(groups), groups)
    by_split = [torch.from_numpy(cells.split == number) for number in range(len(SPLITS))]

    def means(of: Tensor) -> NDArray[np.float64]:
        return torch.stack([of[..., own].mean(-1) for own in by_split], -1).numpy()

    on = terms.on[:, 0].bool().numpy()

    def where(number: int, of: Tensor) -> NDArray[np.float64]:
        mask = on[:, number].reshape(-1, *(1 for _ in of.shape[1:]))
        return np.where(mask, of.numpy(), np.nan)

    js, size = means(divergence), (groups,) * 3
    data: dict[str, Any] = {
        "js": (("variant", place, "split"), js, {"units": "bits"}),
        "similarity": (("variant", place, "split"), 1 - js),
        "kl": (("direction", "variant", place, "split"), np.stack([means(forward), means(backward)]), {"units": "bits"}),
        "w": (("variant", place), where(0, terms.w)),
        "sigma": (("variant", place, "p"), where(0, sigma.abs())),
        "gate_lexical": (("variant", place, "k"), where(1, terms.lexical)),
        "gate_reflexive": (("variant", place, "i"), where(2, terms.reflexive)),
        "Y": ((place, "p", "k", "i", "group"), _dense(cells.y.numpy(), cells.at, size)),
        "fitted": (("variant", place, "p", "k", "i", "group"), _dense(log.exp().numpy(), cells.at, size)),
        "rows": (("p", "k", "i"), _dense(cells.many[:, None], cells.at, size, 0)[..., 0]),
        "part": (("p", "k", "i"), _dense(np.array(SPLITS)[cells.split][:, None], cells.at, size, "")[..., 0]),
    }
    coords: dict[str, Any] = {
        "variant": [*variants],
        "split": [*SPLITS],
        "direction": ["network to mixture", "mixture to network"],
    }
    coords |= {place: found[place].values} if place in found.coords else {}
    attrs = {name: value for name, value in found.attrs.items() if name not in ("digest_of_result", "spec")}
    facts = {
        "method": "mixture_of_mechanisms",
        "epochs": epochs,
        "patience": patience,
        "lr": lr,
        "seed": seed,
        "fewest": fewest,
    }
    return effects.stamped(xr.Dataset(data, coords, attrs | facts | {"spec": None}))


def _cells(found: Any, fewest: int, seed: int) -> tuple[str, _Cells]:
    lacking = [name for name in ("probability", "prediction") if name not in found]
    if lacking:
        raise InputError(f"found lacks {', '.join(lacking)}; expected what interp.mixing_mechanisms returns")
    swept = [str(dim) for dim in found["probability"].dims if dim not in (axes.EXAMPLE, "group")]
    if len(swept) != 1:
        raise InputError(f"probability runs along {swept}; expected one axis besides example and group, such as layer")
    y = found["probability"].transpose(swept[0], axes.EXAMPLE, "group").values.astype(np.float64)
    at = found["prediction"].sel(mechanism=list(MECHANISMS)).transpose(axes.EXAMPLE, "mechanism").values
    own, of, count = np.unique(at, axis=0, return_inverse=True, return_counts=True)
    sums = np.zeros((len(own), len(y), y.shape[-1]))
    np.add.at(sums, of.reshape(-1), y.transpose(1, 0, 2))
    kept = count >= fewest
    many = int(kept.sum())
    sizes = [round(many * share) for share in _SHARES[:2]]
    sizes.append(many - sum(sizes))
    if min(sizes) < 1:
        raise InputError(f"{many} cells have {fewest} rows or more; expected enough for {', '.join(SPLITS)}, 7 at least")
    split = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(SPLITS)), sizes))
    mean = (sums / count[:, None, None])[kept].transpose(1, 0, 2)
    return swept[0], _Cells(torch.from_numpy(own[kept].astype(np.int64)), torch.from_numpy(mean), split, count[kept])


def _descend(terms: _Terms, cells: _Cells, epochs: int, patience: int, lr: float) -> None:
    """Adam; of every variant and place what was best on validation cells."""
    train, held = (torch.from_numpy(cells.split == number) for number in (0, 1))
    groups = cells.y.shape[-1]
    best = torch.full(terms.w.shape, torch.inf, dtype=torch.float64)
    kept = [one.clone() for one in terms.all]
    with torch.enable_grad():
        parameters = [one.requires_grad_() for one in terms.all]
        optimizer, since = torch.optim.Adam(parameters, lr=lr), 0
        for _ in range(epochs + 1):
            divergence = _js(cells.y, terms.log(cells.at, groups))
            now = divergence.detach()[..., held].mean(-1)
            better = now < best
            best = torch.where(better, now, best)
            for own, one in zip(kept, parameters, strict=True):
                own[better] = one.detach()[better]
            since = 0 if bool(better.any()) else since + 1
            if since >= patience:
                break
            optimizer.zero_grad()
            divergence[..., train].mean(-1).sum().backward()
            optimizer.step()
    for own, one in zip(kept, parameters, strict=True):
        one.requires_grad_(False).copy_(own)


def _kl(y: Tensor, log: Tensor) -> Tensor:
    """D(y ‖ mixture) in bits, ``[…, cell]``; 0 log 0 is 0."""
    return (torch.xlogy(y, y) - y * torch.where(y > 0, log, 0.0)).sum(-1) / np.log(2)


def _kl_back(y: Tensor, log: Tensor) -> Tensor:
    """D(mixture ‖ y) in bits; infinite where the network never says what the mixture does."""
    q = log.exp()
    return torch.where(q > 0, q * (log - y.log()), 0.0).sum(-1) / np.log(2)


def _js(y: Tensor, log: Tensor) -> Tensor:
    """Jensen–Shannon divergence in bits, in [0, 1]."""
    q = log.exp()
    middle = (y + q) / 2
    at = torch.where(middle > 0, middle, 1.0).log()
    both = torch.xlogy(y, y) - y * at + q * (torch.where(q > 0, log, 0.0) - at)
    return both.sum(-1) / (2 * np.log(2))


def _dense(values: NDArray[Any], at: Tensor, size: tuple[int, ...], empty: Any = np.nan) -> NDArray[Any]:
    """``[…, cell, own]`` laid out as ``[…, p, k, i, own]``."""
    found = np.full((*values.shape[:-2], *size, values.shape[-1]), empty, dtype=values.dtype)
    p, k, i = at.numpy().T
    found[..., p, k, i, :] = values
    return found
