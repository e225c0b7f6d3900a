"""A normal distribution fitted to vectors, also to fewer than they have numbers, and how far others are from it.

>>> import numpy as np
>>> fitted = Normal.fit(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
>>> fitted.shrinkage, fitted.distance(np.array([[0.0, 0.0], [0.0, 2.0]]))
(1.0, array([0.        , 2.82842712]))
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Normal:
    """A mean and a covariance, the latter shrunk towards a multiple of the identity.

    Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices" (Journal of Multivariate Analysis
    88, 2004, https://doi.org/10.1016/S0047-259X(03)00096-4). It is kept as its leading directions and one variance for all
    others, so that no matrix of features by features is formed.
    """

    mean: Float[NDArray[np.float64], " feature"]
    directions: Float[NDArray[np.float64], "direction feature"]
    variances: Float[NDArray[np.float64], " direction"]
    """Along the directions."""
    elsewhere: float
    """Across them."""
    shrinkage: float
    """0 is the sample's own covariance, 1 a multiple of the identity."""

    @classmethod
    def fit(cls, sample: Float[NDArray[np.float64], "vector feature"], noise: float = 0.0) -> Normal:
        """Fit to a sample.

        Args:
            noise: a standard deviation that is added in every direction, such as of rounding.
        """
        n, features = sample.shape
        mean = sample.mean(0)
        centred = sample - mean
        singular, directions = np.linalg.svd(centred, full_matrices=False)[1:]
        own = singular**2 / n
        average = own.sum() / features
        spread = (own**2).sum() - features * average**2  # ‖S − μ·I‖²
        error = max(0.0, (((centred**2).sum(1) ** 2).sum() - n * (own**2).sum()) / n**2)  # of S, likewise
        shrinkage = 1.0 if spread <= error else float(error / spread)
        added = max(noise**2, np.finfo(np.float64).tiny ** 0.5)
        variances = (1 - shrinkage) * own + shrinkage * average + added
        return cls(mean, directions, variances, float(shrinkage * average + added), shrinkage)

    def distance(self, vectors: Float[NDArray[np.float64], "vector feature"]) -> Float[NDArray[np.float64], " vector"]:
        """The Mahalanobis distance of each."""
        centred = vectors - self.mean
        along = centred @ self.directions.T
        across = np.maximum(0.0, (centred**2).sum(1) - (along**2).sum(1))
        if len(self.directions) >= self.mean.shape[0]:
            across[:] = 0.0  # nothing is left but rounding
        squared = (along**2 / self.variances).sum(1) + across / self.elsewhere
        found: NDArray[np.float64] = np.sqrt(squared)
        return found
