"""How well anybody could predict the labels of users whose utilities are known; exact, nothing is estimated.

Users label pairs by Bradley–Terry draws, so the best accuracy that any model can reach (the Bayes accuracy) is a sum
over the attribute grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from fedvpa.world.config import DEFAULT_TEMPERATURE
from fedvpa.world.users import User
from fedvpa.world.utility import Utility, grid_features, preference


def bayes_accuracy(utility: Utility, temperature: float = DEFAULT_TEMPERATURE, flip: float = 0.0) -> float:
    """The accuracy of whoever knows ``utility``, on the world's pairs: exactly E[max(p, 1 − p)].

    The expectation is over all ordered pairs of different attributes, and over benign and risky prompts in equal
    shares, which is how ``generate_world`` draws them. For a population, average over its users.
    """
    return expected_accuracy(utility, utility, temperature, flip)


def expected_accuracy(
    scorer: Utility, labeller: Utility, temperature: float = DEFAULT_TEMPERATURE, flip: float = 0.0
) -> float:
    """The exact accuracy of ranking the world's pairs by one utility when another one labels them.

    A tie of the scorer counts one half. With both equal this is the Bayes accuracy.
    """
    total = 0.0
    for risky in (False, True):
        p = preference(_gaps(labeller, risky), temperature, flip)
        guess = _gaps(scorer, risky)
        total += float(np.where(guess > 0, p, np.where(guess < 0, 1.0 - p, 0.5)).mean())
    return total / 2.0


def population_bayes_accuracy(
    users: Sequence[User], temperature: float = DEFAULT_TEMPERATURE, flip: float = 0.0
) -> float:
    """The mean Bayes accuracy of these users, each exact."""
    utilities = [user.utility for user in users]
    exact = {utility: bayes_accuracy(utility, temperature, flip) for utility in set(utilities)}
    return float(np.mean([exact[utility] for utility in utilities]))


def conflict_share(first: Utility, second: Utility) -> float:
    """The share of the world's pairs that two utilities rank in opposite ways; exact."""
    shares = [(_gaps(first, risky) * _gaps(second, risky) < 0).mean() for risky in (False, True)]
    return float(np.mean(shares))


def _gaps(utility: Utility, risky: bool) -> Float[np.ndarray, " pairs"]:
    """Utility differences of all ordered pairs of different attributes, cleaned of rounding so that ties are ties."""
    values = grid_features() @ utility.vector(risky)
    gaps = np.round(values[:, None] - values[None, :], 9)
    return gaps[~np.eye(len(values), dtype=bool)]
