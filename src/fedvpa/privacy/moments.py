"""Mean and scale of features from one noised sum over everybody: how features are standardised without public pairs.

Each user gives one vector, from all their training pairs together, so that every user counts alike:

    v = (m / B, √d s / B²)        m and s: means of h and of h² over the user's responses, h shortened to length B

Both halves are shortened to length 1 (the first is no longer by itself), so v is no longer than √2 = S. The sum over
all users gets N(0, (σ S)² I), once: a Gaussian release in which everybody takes part, paid for beside the rounds
(:func:`fedvpa.privacy.accounting.epsilon_released`, ``once``). The number of users is what ε is stated for, and no
release. √d, since a vector of d squares is about 1/√d as long as the square of the vector's length.

What follows costs nothing more. The size of the noise is known, and a variance in one direction may be drowned in it
while their mean over directions is not: variances are drawn to their mean, and the mean vector to 0, by as much as
noise explains of how they differ (James and Stein, 1961, with the positive part).
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from numpy.random import Generator

from fedvpa.features.standardise import Standardiser

SENSITIVITY = math.sqrt(2)
"""S, the longest vector of one user."""

LEAST_VARIANCE = 0.1
"""The least variance of a direction, over their mean: below, noise alone would decide. Chosen by us."""


def user_vector(
    features: Float[np.ndarray, "n d"], weights: Float[np.ndarray, " n"], clip: float
) -> Float[np.ndarray, " two_d"]:
    """The vector v of one user: no longer than √2, whatever the features are; zeros of a user without pairs.

    Args:
        features: Of all responses of the user's training pairs, chosen and rejected.
        weights: How often each counts.
        clip: B.
    """
    exact = np.asarray(features, dtype=np.float64)
    often = np.asarray(weights, dtype=np.float64)
    if not often.sum() > 0:
        return np.zeros(2 * exact.shape[1])
    often = often / often.sum()
    short = exact * np.minimum(1.0, clip / np.maximum(np.linalg.norm(exact, axis=1), 1e-300))[:, None] / clip
    mean, squares = often @ short, math.sqrt(exact.shape[1]) * (often @ short**2)
    return np.concatenate([_within(mean), _within(squares)])


def released(
    total: Float[np.ndarray, " two_d"], noise_multiplier: float, generator: Generator
) -> Float[np.ndarray, " two_d"]:
    """The sum over all users with its noise.

    Args:
        total: Σ v.
        noise_multiplier: σ.
        generator: From a secret key.
    """
    noised: Float[np.ndarray, " two_d"] = total + noise_multiplier * SENSITIVITY * generator.standard_normal(len(total))
    return noised


def standardiser(
    noised: Float[np.ndarray, " two_d"], clients: int, noise_multiplier: float, clip: float
) -> Standardiser:
    """Mean and scale of each direction from the released sum.

    Args:
        noised: As of :func:`released`.
        clients: N.
        noise_multiplier: σ.
        clip: B.
    """
    mean, squares = np.split(noised / clients, 2)
    dimension, deviation = len(mean), noise_multiplier * SENSITIVITY / clients
    mean, squares = mean * clip, squares * clip**2 / math.sqrt(dimension)
    of_mean, of_squares = (deviation * clip) ** 2, (deviation * clip**2) ** 2 / dimension
    variance = squares - mean**2 + of_mean  # the mean's own noise would be taken for signal
    middle = float(variance.mean())
    if middle <= 0:  # drowned altogether: all directions alike
        return Standardiser(np.zeros(dimension), np.ones(dimension))
    noise = of_squares + float((4 * mean**2 * of_mean).mean())
    kept = max(0.0, 1 - noise / max(float(variance.var()), 1e-300))
    variance = np.maximum(middle + kept * (variance - middle), LEAST_VARIANCE * middle)
    kept_mean = max(0.0, 1 - dimension * of_mean / max(float(mean @ mean), 1e-300))
    return Standardiser(kept_mean * mean, np.sqrt(variance))


def _within(vector: Float[np.ndarray, " d"]) -> Float[np.ndarray, " d"]:
    """A vector no longer than 1."""
    return vector / max(1.0, float(np.linalg.norm(vector)))
