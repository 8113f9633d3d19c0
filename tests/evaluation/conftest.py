"""Synthetic scores with known structure: no file here calls the code under test to make its expectations."""

import numpy as np
import pytest

from fedvpa.evaluation.scores import ClientScore

LEVELS = {
    "global": (0.62, 0.60),
    "local": (0.66, 0.65),
    "fedvpl": (0.72, 0.70),
    "fedvpa_gp": (0.80, 0.78),
    "oracle": (0.83, 0.81),
}
SEEDS = (0, 1, 2, 3, 5)
GROUPS = ("harmless", "helpful")


@pytest.fixture(scope="session")
def make_scores():
    """Scores of five methods whose clients share their luck: methods differ by their level, not by their clients."""

    def make(sizes=(11,), seeds=SEEDS, levels=LEVELS, pairs=41, unseen=0, holdout=True):
        scores = []
        for n_clients in sizes:
            for seed in seeds:
                rng = np.random.default_rng([n_clients, seed])
                for client in range(n_clients + unseen):
                    luck = rng.normal(0, 0.03)
                    for method, level in levels.items():
                        rate = level[client % 2] + luck - 0.02 * (client >= n_clients)
                        scores.append(
                            ClientScore(
                                method,
                                n_clients,
                                seed,
                                f"c{client:03}",
                                GROUPS[client % 2],
                                client < n_clients,
                                round(2 * rate * pairs) / 2,
                                pairs,
                                round(2 * (rate - 0.01) * 53) / 2 if holdout else None,
                                53 if holdout else None,
                            )
                        )
        return scores

    return make
