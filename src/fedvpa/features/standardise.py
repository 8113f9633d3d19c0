"""Standardisation of features from statistics that add up across clients.

A client sends ``Moments.of(its features)``; the server adds them and derives a :class:`Standardiser`. No feature vector
leaves a client, and the sum over clients is exactly the statistic of their union, so that streaming sums and secure
aggregation give the same standardiser as pooling the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from fedvpa.core.errors import DataError
from fedvpa.core.short_repr import short_repr

RELATIVE_EPS = 1e-6
"""A dimension whose deviation is below this fraction of its root mean square is constant: chosen by us because it
lies above the cancellation error of float64 sums (about 1e-8 of the root mean square), below float16's resolution."""


@dataclass(frozen=True, slots=True, repr=False)
class Moments:
    """Count, sum and sum of squares of feature vectors, per dimension.

    Law: ``Moments.of(a) + Moments.of(b) == Moments.of(concatenate([a, b]))`` up to float64 rounding, and a vector of
    weight 2 is that vector twice.

    Attributes:
        count: Number of vectors, each as often as it counts.
        sum: Sum of the vectors, shape [d], float64.
        sum_of_squares: Sum of their squares, shape [d], float64.
    """

    count: float
    sum: Float[np.ndarray, " d"]
    sum_of_squares: Float[np.ndarray, " d"]

    __repr__ = short_repr

    @classmethod
    def of(cls, features: Float[np.ndarray, "*n d"], weights: Float[np.ndarray, " n"] | None = None) -> Moments:
        """The moments of ``features``, accumulated in float64 whatever their own precision is.

        Args:
            features: A vector in each row.
            weights: How often each counts; once if not given.

        Raises:
            DataError: If ``features`` is not a matrix, or holds a value that is not finite.
        """
        if features.ndim != 2:
            raise DataError(f"Moments need a matrix of features [n, d]; got shape {features.shape}.")
        exact = np.asarray(features, dtype=np.float64)
        if not np.isfinite(exact).all():
            row = int(np.flatnonzero(~np.isfinite(exact).all(axis=1))[0])
            raise DataError(f"Feature row {row} holds a value that is not finite.", fix="Extract the features again.")
        often = np.ones(len(exact)) if weights is None else np.asarray(weights, dtype=np.float64)
        return cls(float(often.sum()), often @ exact, np.einsum("n,nd,nd->d", often, exact, exact))

    @classmethod
    def zero(cls, dimension: int) -> Moments:
        """The moments of no vectors: what a client without pairs sends, and where a sum starts."""
        return cls(0.0, np.zeros(dimension), np.zeros(dimension))

    def __add__(self, other: Moments) -> Moments:
        """The moments of the union.

        Raises:
            DataError: If the dimensions differ.
        """
        if self.sum.shape != other.sum.shape:
            raise DataError(f"Cannot add moments of {len(self.sum)} and of {len(other.sum)} dimensions.")
        return Moments(self.count + other.count, self.sum + other.sum, self.sum_of_squares + other.sum_of_squares)


@dataclass(frozen=True, slots=True, repr=False)
class Standardiser:
    """The map h ↦ (h − mean) / scale.

    Attributes:
        mean: Shape [d], float64.
        scale: Shape [d], float64, positive.
    """

    mean: Float[np.ndarray, " d"]
    scale: Float[np.ndarray, " d"]

    __repr__ = short_repr

    @classmethod
    def from_moments(cls, moments: Moments) -> Standardiser:
        """Mean and population deviation: scale = √(E[h²] − E[h]²), and 1 where the dimension is constant.

        A dimension is constant where E[h²] − E[h]² ≤ RELATIVE_EPS² · E[h²]; it is then mapped to about 0.

        Args:
            moments: Of responses' features, chosen and rejected pooled.

        Raises:
            DataError: If the moments count no vector.
        """
        if not moments.count > 0:
            raise DataError("No client holds a feature vector, so there is nothing to standardise by.")
        mean = moments.sum / moments.count
        mean_square = moments.sum_of_squares / moments.count
        variance = mean_square - mean**2
        constant = variance <= RELATIVE_EPS**2 * mean_square
        return cls(mean, np.sqrt(np.where(constant, 1.0, variance)))

    @classmethod
    def identity(cls, dimension: int) -> Standardiser:
        """Features as they are."""
        return cls(np.zeros(dimension), np.ones(dimension))

    def apply(self, features: Float[np.ndarray, "*batch d"]) -> NDArray[np.float32]:
        """Standardised responses' features, float32, same shape."""
        return self.exact(features).astype(np.float32)

    def exact(self, features: Float[np.ndarray, "*batch d"]) -> NDArray[np.float64]:
        """The same in float64."""
        standardised: NDArray[np.float64] = (np.asarray(features, dtype=np.float64) - self.mean) / self.scale
        return standardised

    def to_dict(self) -> dict[str, list[float]]:
        """Mean and scale as plain JSON."""
        return {"mean": self.mean.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Sequence[float]]) -> Standardiser:
        """What :meth:`to_dict` gave, bit for bit."""
        return cls(np.array(saved["mean"], dtype=np.float64), np.array(saved["scale"], dtype=np.float64))
