"""Masks: where, between the site's own value and the source's, each coordinate ends up; learned, annealed, then made hard.

    >>> mask = Mask((16,), temperature=1.0)                             # in the coordinates of a rotation of rank 16
    >>> mask.temperature = 0.01
    >>> mask.hard()
    Select(0 of 16)

A mask m replaces, h + m·(s − h); see :mod:`interp.interventions.learned` for shapes and precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.interventions.learned import Select, Shape, Soft, started

_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(64)
_NODES = (_POINTS + 1) / 2, _WEIGHTS / 2
"""Gauss and Legendre's, of (0, 1)."""


class Annealed(Soft):
    """A value that sharpens as the temperature falls. A trainer sets ``temperature``; no optimiser sees it."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    @property
    def temperature(self) -> float:
        return self._temperature

    @temperature.setter
    def temperature(self, temperature: float) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature={temperature}; expected more than 0")
        self._temperature = float(temperature)


class Mask(Annealed):
    """``h + m · (s − h)`` with m = σ(logits / temperature): differential binary masking (arXiv 2004.14992, 2307.03637)."""

    def __init__(self, shape: Shape, *, temperature: float = 1.0, start: float | Tensor = 0.0) -> None:
        super().__init__(temperature)
        self.logits = nn.Parameter(started(shape, start))

    @property
    def value(self) -> Float[Tensor, "*shape"]:
        """1 replaces."""
        return (self.logits / self.temperature).sigmoid()

    def hard(self, count: int | None = None) -> Select:
        """Replace where the logit is positive; or at the ``count`` highest."""
        return Select(_highest(self.logits, count))

    def options(self) -> dict[str, Any]:
        return {"shape": list(self.logits.shape), "temperature": self.temperature}


class BoundlessMask(Annealed):
    """The first coordinates of a rotation, up to a learned boundary β = θ · width: Boundless DAS (arXiv 2305.08809).

    Args:
        width: coordinates.
        form: ``"one-sided"``, m_i = σ((β − i) / T), whose sum tends to ⌈β⌉ as T falls; or ``"two-sided"``, the published
            σ(i / T) · σ((β − i) / T), which never replaces more than half of coordinate 0.
        start: the first θ, which is kept within [1e-3, 1] when used.
        temperature: T, in coordinates.
    """

    def __init__(
        self,
        width: int,
        *,
        form: Literal["one-sided", "two-sided"] = "one-sided",
        temperature: float = 50.0,
        start: float = 0.5,
    ) -> None:
        super().__init__(temperature)
        if form not in ("one-sided", "two-sided"):
            raise ValueError(f"form={form!r}; expected 'one-sided' or 'two-sided'")
        self.width, self.form = width, form
        self.fraction = nn.Parameter(torch.tensor(float(start)))

    @property
    def boundary(self) -> Float[Tensor, ""]:
        """β, in coordinates."""
        return self.fraction.clamp(1e-3, 1.0) * self.width

    @property
    def rank(self) -> int:
        """How many coordinates ``hard()`` replaces: ⌈β⌉."""
        return math.ceil(self.boundary.item())

    @property
    def value(self) -> Float[Tensor, " width"]:
        """1 replaces."""
        index = torch.arange(self.width, dtype=self.fraction.dtype, device=self.fraction.device)
        upper = ((self.boundary - index) / self.temperature).sigmoid()
        return upper if self.form == "one-sided" else (index / self.temperature).sigmoid() * upper

    def hard(self) -> Select:
        """Replace the first ⌈β⌉ coordinates."""
        return Select(torch.arange(self.width, device=self.fraction.device) < self.rank)

    def options(self) -> dict[str, Any]:
        return {"width": self.width, "form": self.form, "temperature": self.temperature}


class HardConcrete(Annealed):
    """A mask that is exactly 0 or 1 with positive probability: z = clamp(low + (high − low) · σ((noise + logits) / T), 0, 1).

    The noise is logistic, ln u − ln(1 − u), one draw an entry, and 0 until :meth:`resample` is called (Louizos et al., arXiv
    1712.01312; with ``keep`` as Edge Pruning uses it, arXiv 2406.16778; without as DiffMask+ does, arXiv 2310.12611).

    Args:
        shape: of the logits.
        temperature: T.
        stretch: low < 0 and high ≥ 1; with high = 1 exactly, z = 1 has no probability and appears by rounding alone.
        start: the first logits.
        keep: whether 1 keeps the site's own value rather than taking the source's.
    """

    noise: Tensor

    def __init__(
        self,
        shape: Shape,
        *,
        temperature: float = 2 / 3,
        stretch: Sequence[float] = (-0.1, 1.1),
        start: float | Tensor = 0.0,
        keep: bool = False,
    ) -> None:
        super().__init__(temperature)
        low, high = stretch
        if not low < 0 < 1 <= high:
            raise ValueError(f"stretch={tuple(stretch)}; expected (low, high) with low < 0 and high ≥ 1")
        self.low, self.high, self.keep = low, high, keep
        self.logits = nn.Parameter(started(shape, start))
        self.register_buffer("noise", torch.zeros_like(self.logits))

    def resample(self, generator: torch.Generator) -> None:
        """Draw the noise of the next step."""
        u = torch.rand(self.noise.shape, generator=generator, dtype=torch.float64, device=generator.device)
        self.noise = u.logit(eps=1e-6).to(self.noise)

    def settle(self) -> None:
        """Noise 0 again: the value of the median draw."""
        self.noise = torch.zeros_like(self.noise)

    @property
    def value(self) -> Float[Tensor, "*shape"]:
        soft = ((self.noise + self.logits) / self.temperature).sigmoid()
        return (self.low + (self.high - self.low) * soft).clamp(0, 1)

    @property
    def taken(self) -> Float[Tensor, "*shape"]:
        return 1 - self.value if self.keep else self.value

    @property
    def probability(self) -> Float[Tensor, "*shape"]:
        """P(z > 0) = σ(logits − T · ln(−low / high))."""
        return (self.logits - self.temperature * math.log(-self.low / self.high)).sigmoid()

    @property
    def expectation(self) -> Float[Tensor, "*shape"]:
        """E[z] over the noise: the mean over t in (0, 1) of P(z > t) = σ(logits − T · ln((t − low) / (high − t)))."""
        t, weights = (torch.from_numpy(part).to(self.logits) for part in _NODES)
        beyond = self.temperature * ((t - self.low) / (self.high - t)).log()
        return ((self.logits[..., None] - beyond).sigmoid() * weights).sum(-1)

    @property
    def expected_l0(self) -> Float[Tensor, ""]:
        """How many entries are expected to be more than 0."""
        return self.probability.sum()

    def hard(self, count: int | None = None) -> Select:
        """An entry is 1 where the logit is positive, or at the ``count`` highest; 0 elsewhere."""
        ones = _highest(self.logits, count)
        return Select(~ones if self.keep else ones)

    def options(self) -> dict[str, Any]:
        stretch = [self.low, self.high]
        return {"shape": list(self.logits.shape), "temperature": self.temperature, "stretch": stretch, "keep": self.keep}


def _highest(logits: Tensor, count: int | None) -> Tensor:
    if count is None:
        return logits.detach() > 0
    if not 0 <= count <= logits.numel():
        raise ValueError(f"count={count}; expected between 0 and {logits.numel()}")
    flat = torch.zeros(logits.numel(), dtype=torch.bool, device=logits.device)
    flat[logits.detach().flatten().topk(count).indices] = True
    return flat.view(logits.shape)
