"""What a text is worth to somebody: weighed properties, less what it lacks of language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit

from fedvpa.core.errors import ConfigError
from fedvpa.styles.fluency import DEGENERATE, readable
from fedvpa.styles.properties import NAMES
from fedvpa.styles.standard import Standard

GAP = 2.7
"""Root mean square of the difference of utility between two samples of one prompt, for every user: labels are then as
noisy for all of them. It is that of the individuals of the bundled world; at temperature 1 the Bayes accuracy is 0.82
for differences that are normally distributed."""

FLUENCY_COST = 2.0
"""What a shortfall of language costs, in units of the sum of absolute weights: all of it costs as much as from best
to worst taste. Chosen by us."""

WORST_MARGIN = 1.0
"""By how much a text that cannot be read is worse than the worst one that can, as in the bundled world."""


@dataclass(frozen=True)
class StyleUtility:
    """How much somebody likes a text: u(y) = Σ w·tanh((x(y) − mean)/deviation) − FLUENCY_COST·Σ|w|·shortfall(y).

    Attributes:
        weights: Property → its weight w, in units of utility.
        standard: The base model's scale.
    """

    weights: Mapping[str, float]
    standard: Standard

    @property
    def span(self) -> float:
        """Σ|w|: no taste is further from 0."""
        return float(sum(map(abs, self.weights.values())))

    @property
    def worst(self) -> float:
        """What a text that cannot be read is worth."""
        return -(1.0 + FLUENCY_COST * DEGENERATE) * self.span - WORST_MARGIN

    def values(self, texts: Sequence[str]) -> tuple[Float[np.ndarray, " texts"], Bool[np.ndarray, " texts"]]:
        """The utilities of texts, and whether each can be read."""
        short = self.standard.fluency.shortfall(texts)
        fluent = readable(short)
        taste = self.standard.tastes(texts) @ as_vector(self.weights)
        return np.where(fluent, taste - FLUENCY_COST * self.span * short, self.worst), fluent


def as_vector(weights: Mapping[str, float]) -> Float[np.ndarray, " properties"]:
    """Weights in the order of :data:`NAMES`; 0 of a property that is not named."""
    return np.array([weights.get(name, 0.0) for name in NAMES])


def scaled(weights: Mapping[str, float], samples: Sequence[Sequence[str]], standard: Standard) -> dict[str, float]:
    """Weights of the same proportions, under which pairs of samples of one prompt differ by :data:`GAP`.

    Args:
        weights: Property → its relative weight.
        samples: For each prompt its samples.
        standard: Their scale.

    Raises:
        ConfigError: If no two samples of one prompt differ in anything that is weighed.
    """
    vector, squares = as_vector(weights), []
    for own in samples:
        tastes = standard.tastes(own) @ vector
        squares += [float(first - second) ** 2 for first, second in combinations(tastes, 2)]
    size = float(np.sqrt(np.mean(squares))) if squares else 0.0
    if not size > 0:
        raise ConfigError(
            f"No two samples of one prompt differ in what is weighed: {', '.join(weights) or 'nothing'}.",
            fix="Weigh properties that vary.",
        )
    return {name: weight * GAP / size for name, weight in weights.items()}


def preferred(gap: Float[np.ndarray, "*batch"], temperature: float) -> Float[np.ndarray, "*batch"]:
    """P(first preferred) = σ(gap/temperature), the Bradley–Terry law.

    Args:
        gap: Utility of the first text less that of the second.
        temperature: Positive; in units of utility.
    """
    return expit(np.asarray(gap, dtype=np.float64) / temperature)
