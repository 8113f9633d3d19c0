"""The Bayes yardstick where utilities are known: whoever knows each user's, on the same test pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fedvpa.core.errors import DataError
from fedvpa.data.partition import ClientRows
from fedvpa.evaluation.scores import ClientScore
from fedvpa.evaluation.summaries import BAYES
from fedvpa.runs.config import RunConfig
from fedvpa.runs.prepare import Prepared
from fedvpa.runs.scores import item_names
from fedvpa.runs.truth import Truth, own_margins, truth_of
from fedvpa.world.utility import preference


@dataclass(frozen=True, slots=True)
class Bayes:
    """What whoever knows the utilities gets right.

    Attributes:
        n_clients: How many clients are seen.
        scores: On the test pairs of every client, as they are labelled; two texts of equal utility are a tie.
        expected: The mean over seen clients of what it would get right on average over draws of these pairs' labels:
            the mean of max(p, 1 − p). None without a test pair.
        unseen_expected: The same of unseen clients.
    """

    n_clients: int
    scores: tuple[ClientScore, ...]
    expected: float | None
    unseen_expected: float | None


def bayes(config: RunConfig, prepared: Prepared) -> Bayes:
    """Score the users' own utilities on the clients of a run on the bundled world, or on a simulated table.

    Args:
        config: The run.
        prepared: Its clients.

    Raises:
        DataError: If nobody knows the utilities of the run's users.
    """
    truth = truth_of(config)
    if truth is None:
        raise DataError(f"Nobody knows the utilities of users in data of the source {config.data.source!r}.")
    margins = own_margins(truth, prepared.table)
    names, partition = item_names(prepared), prepared.federation.partition
    scores = [
        _score(config, client, len(partition.seen), margins[client.test], [names[row] for row in client.test])
        for client in partition.clients
        if len(client.test)
    ]
    return Bayes(
        len(partition.seen),
        tuple(scores),
        _expected(truth, partition.seen, margins),
        _expected(truth, partition.unseen, margins),
    )


def _score(
    config: RunConfig, client: ClientRows, n_clients: int, margins: Float[np.ndarray, " test"], names: Sequence[str]
) -> ClientScore:
    right = [0.5 if margin == 0 else float(margin > 0) for margin in margins]
    told = (BAYES, n_clients, config.seed, client.client_id, client.group, client.seen)
    return ClientScore.of_pairs(*told, right=right, names=names)


def _expected(truth: Truth, clients: Sequence[ClientRows], margins: Float[np.ndarray, " pairs"]) -> float | None:
    tested = [margins[client.test] for client in clients if len(client.test)]
    own = [float(preference(np.abs(gaps), truth.temperature, truth.flip).mean()) for gaps in tested]
    return float(np.mean(own)) if own else None
