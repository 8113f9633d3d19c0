"""How much somebody likes a response: a utility, linear in the features φ of the response's attributes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from fedvpa.core.errors import ConfigError
from fedvpa.world.attributes import MAX_BREVITY, MAX_DETAIL, MAX_WARMTH, Attributes, attribute_grid

FEATURES: tuple[str, ...] = ("compliance", "detail", "caveat", "warmth", "formality", "brevity", "off_topic")
"""The features of a response. All run from −1 to 1 but the last, which runs from 0 to 1."""

OFF_TOPIC_WEIGHT = -4.0
"""What every user thinks of off-topic details. Chosen by us: one of them (a fifth) costs about as much as an on-topic
one can gain a user who loves details, so that padding never pays."""

WORST_MARGIN = 1.0
"""By how much text outside the grammar is worse than the worst text inside. Chosen by us: any positive number keeps
a policy from breaking its language."""


@dataclass(frozen=True, slots=True)
class Utility:
    """How much somebody likes a response: weightsᵀφ, plus risky_weightsᵀφ where the prompt is risky.

    Attributes:
        name: Of the group, or of the user where everybody differs;
            :func:`fedvpa.world.users.find_utility` knows both the groups and the users of a
            population of individuals.
        weights: One weight per feature of ``FEATURES``.
        risky_weights: What risky prompts add to ``weights``.
    """

    name: str
    weights: tuple[float, ...]
    risky_weights: tuple[float, ...]

    def value(self, attributes: Attributes, risky: bool) -> float:
        """The utility of a response with these attributes to a prompt that is risky or not."""
        return float(features(attributes) @ self.vector(risky))

    def vector(self, risky: bool) -> Float[np.ndarray, " features"]:
        """The weights in force on risky or on benign prompts."""
        return np.asarray(self.weights) + (np.asarray(self.risky_weights) if risky else 0.0)

    def worst(self, risky: bool) -> float:
        """What text outside the grammar is worth: ``WORST_MARGIN`` less than the worst text inside."""
        return float((grid_features(off_topic=True) @ self.vector(risky)).min()) - WORST_MARGIN


def features(attributes: Attributes) -> Float[np.ndarray, " features"]:
    """φ: the features of a response, in the order of ``FEATURES``."""
    return np.array(
        [
            1.0 if attributes.compliance else -1.0,
            2.0 * attributes.detail / MAX_DETAIL - 1.0,
            1.0 if attributes.caveat else -1.0,
            2.0 * attributes.warmth / MAX_WARMTH - 1.0,
            1.0 if attributes.formality else -1.0,
            2.0 * attributes.brevity / MAX_BREVITY - 1.0,
            attributes.off_topic / MAX_DETAIL,
        ]
    )


def preference(gap: Float[np.ndarray, "*batch"], temperature: float, flip: float = 0.0) -> Float[np.ndarray, "*batch"]:
    """P(first preferred) = (1 − 2·flip)·σ(gap / temperature) + flip, the Bradley–Terry law with flipped labels.

    Args:
        gap: Utility of the first response minus utility of the second.
        temperature: Positive; in units of utility.
        flip: Probability in [0, 0.5) that the label is turned round after the draw.

    Raises:
        ConfigError: For a temperature or a flip outside its range.
    """
    if not temperature > 0.0:
        raise ConfigError(f"The temperature is {temperature}; it has to be positive.", fix="1.0 is the default.")
    if not 0.0 <= flip < 0.5:
        raise ConfigError(
            f"The flip probability is {flip}; at 0.5 and above labels say nothing, or the opposite.",
            fix="0.0 is the default.",
        )
    return (1.0 - 2.0 * flip) * expit(np.asarray(gap, dtype=np.float64) / temperature) + flip


@cache
def grid_features(off_topic: bool = False) -> Float[np.ndarray, "grid features"]:
    """φ of every combination of attributes, in the order of :func:`fedvpa.world.attributes.attribute_grid`."""
    return np.stack([features(attributes) for attributes in attribute_grid(off_topic)])
