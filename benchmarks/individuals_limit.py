"""How far anybody could come with the pairs of an individual: the bundled world's population ``individuals``.

A learner is told what no method is: the attributes that utilities are made of, instead of features of a language
model, and the Gaussian that users' weights are drawn from. It finds the mode of each user's posterior from the training
pairs and is scored on as many other pairs as a client tests. What it lacks to Bayes accuracy is what labels of so few
pairs do not say. Prints JSON: accuracies over worlds, with standard errors.

    python benchmarks/individuals_limit.py
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.special import expit

from _machine import machine_facts
from fedvpa.core.seeds import numpy_generator
from fedvpa.world.attributes import attribute_grid
from fedvpa.world.users import RISKY_DEVIATION, User, find_population, make_users
from fedvpa.world.utility import features

POPULATION = find_population("individuals")
PHI = np.stack([features(attributes)[:6] for attributes in attribute_grid()])


def drawn(user: User, pairs: int, seed: int) -> Float[np.ndarray, "pairs 12"]:
    """Differences of φ of labelled pairs, the preferred response first."""
    rng = numpy_generator(seed, "individuals-limit", user.user_id)
    rows = np.stack([rng.choice(len(PHI), size=2, replace=False) for _ in range(pairs)])
    risky = rng.integers(2, size=(pairs, 1))
    delta = PHI[rows[:, 0]] - PHI[rows[:, 1]]
    both = np.hstack([delta, risky * delta])
    sign = np.where(rng.random(pairs) < expit(both @ true_weights(user)), 1.0, -1.0)
    return both * sign[:, None]


def true_weights(user: User) -> Float[np.ndarray, " 12"]:
    """A user's weights, and what risky prompts add to them."""
    return np.array([*user.utility.weights[:6], *user.utility.risky_weights[:6]])


def mode(
    delta: Float[np.ndarray, "pairs d"], mean: Float[np.ndarray, " d"], deviation: Float[np.ndarray, " d"]
) -> Float[np.ndarray, " d"]:
    """The mode of a user's weights under the prior N(mean, deviation²)."""

    def loss(u: Float[np.ndarray, " d"]) -> tuple[float, Float[np.ndarray, " d"]]:
        margins, off = delta @ u, (u - mean) / deviation
        return (
            float(np.logaddexp(0, -margins).sum() + 0.5 * off @ off),
            off / deviation - (expit(-margins)[:, None] * delta).sum(0),
        )

    return np.asarray(minimize(loss, mean, jac=True, method="L-BFGS-B").x)


def one_world(users: int, train: int, test: int, seed: int) -> tuple[float, float]:
    """Accuracy of the learner and of whoever knows the weights, over all users of a world."""
    members = make_users(POPULATION, users, seed)
    shared = np.asarray(POPULATION.shared)
    scale = np.mean([np.abs(true_weights(user)[:6]).mean() for user in members]) / np.mean(
        [np.abs(shared + numpy_generator(0, "spread", row).standard_normal(6)).mean() for row in range(2000)]
    )
    mean, deviation = scale * np.array([*shared, *np.zeros(6)]), scale * np.array([1.0] * 6 + [RISKY_DEVIATION] * 6)
    right, known = [], []
    for user in members:
        delta = drawn(user, train + test, seed)
        learned = mode(delta[:train], mean, deviation)
        right.append(np.mean(delta[train:] @ learned > 0))
        known.append(np.mean(delta[train:] @ true_weights(user) > 0))
    return float(np.mean(right)), float(np.mean(known))


def main() -> None:
    """Over worlds of 200 users."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=40, help="training pairs of a user")
    parser.add_argument("--test", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    found = np.array([one_world(options.users, options.pairs, options.test, seed) for seed in range(options.seeds)])
    error = found.std(0, ddof=1) / np.sqrt(len(found)) if len(found) > 1 else np.zeros(2)
    words = {"told the attributes and the prior": 0, "knows the weights": 1}
    print(
        json.dumps(
            {
                "machine": machine_facts(),
                "users": options.users,
                "pairs": options.pairs,
                **{
                    name: {"accuracy": round(float(found[:, place].mean()), 4), "error": round(float(error[place]), 4)}
                    for name, place in words.items()
                },
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
