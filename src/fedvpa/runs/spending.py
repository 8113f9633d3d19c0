"""The ε that a training with noise has spent after each of its rounds, for the lines of ``history.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedvpa.engines.private import Privacy
from fedvpa.privacy.accounting import epsilon_server, epsilons_released


class Spending:
    """What one training spends, round by round.

    One more round is composed onto those before it, which takes milliseconds and gives what the accountant gives for
    all of them at once.

    Args:
        privacy: The mechanism.
        client_ids: The federation.
        released: How many rounds were released before.
    """

    def __init__(self, privacy: Privacy, client_ids: Sequence[str], released: int) -> None:
        self._privacy, self._ids, self._released = privacy, client_ids, released
        self._counts = participations(privacy, released, client_ids)
        terms = privacy.terms
        self._epsilons = epsilons_released(terms.noise_multiplier, terms.rate, terms.delta, released=released)

    def after_round(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """The line of the next round with what was spent in all rounds up to it.

        Args:
            line: As :meth:`fedvpa.engines.private.Privacy.line` gives it.

        Returns:
            The line, with ``epsilon_released`` and ``epsilon_server`` under ``privacy``; the latter is that of the user
            who took part most often so far, as in ``metrics.json``.
        """
        self._counts += takes_part(self._privacy, self._released, self._ids)
        self._released += 1
        found = {
            "epsilon_released": next(self._epsilons),
            "epsilon_server": server_epsilon(self._privacy, self._counts),
        }
        return {**line, "privacy": {**line["privacy"], **found}}


def server_epsilon(privacy: Privacy, counts: NDArray[np.int64]) -> float:
    """``epsilon_server`` of the user who took part most often; 0 if nobody did."""
    return epsilon_server(privacy.terms.noise_multiplier, int(counts.max(initial=0)), privacy.terms.delta)


def participations(privacy: Privacy, rounds: int, client_ids: Sequence[str]) -> NDArray[np.int64]:
    """In how many of the first rounds each client took part, shape [clients]; all where cohorts are not sampled."""
    counts = np.zeros(len(client_ids), dtype=np.int64)
    for round_ in range(rounds):
        counts += takes_part(privacy, round_, client_ids)
    return counts


def takes_part(privacy: Privacy, round_: int, client_ids: Sequence[str]) -> NDArray[np.bool_]:
    """Which clients count as taking part in a round, shape [clients]."""
    if privacy.config.sampling != "poisson":
        return np.ones(len(client_ids), dtype=np.bool_)
    chosen: NDArray[np.bool_] = privacy.key.uniform(round_, client_ids) < privacy.terms.rate
    return chosen
