"""The ε that a training with noise has spent after each of its rounds, for the lines of ``history.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedvpa.engines.private import Privacy
from fedvpa.privacy.accounting import epsilon_server, epsilons_released
from fedvpa.privacy.discreteness import FEWEST_STEPS, charged, excess


class Spending:
    """What one training spends, round by round.

    One more round is composed onto those before it, which takes milliseconds and gives what the accountant gives for
    all of them at once.

    Args:
        privacy: The mechanism.
        client_ids: The federation.
        released: How many rounds were released before. One whose sum the server unmasked twice, since it was run again,
            counts twice (:mod:`fedvpa.privacy.unmasked`).
    """

    def __init__(self, privacy: Privacy, client_ids: Sequence[str], released: int) -> None:
        self._privacy, self._ids, self._released = privacy, client_ids, released
        times, terms = privacy.unmasked.times(released), privacy.terms
        self._counts = participations(privacy, times, client_ids)
        self._epsilons = epsilons_released(
            terms.noise_multiplier, terms.rate, terms.delta, once=terms.once, released=sum(times)
        )

    def after_round(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """The line of the next round with what was spent in all rounds up to it.

        Args:
            line: As :meth:`fedvpa.engines.private.Privacy.line` gives it.

        Returns:
            The line, with ``epsilon_released`` and ``epsilon_server`` under ``privacy``; the latter is that of the user
            who took part most often so far, as in ``metrics.json``.
        """
        each = self._privacy.unmasked.times(self._released + 1)[-1]
        self._counts += each * takes_part(self._privacy, self._released, self._ids)
        self._released += 1
        found = {
            "epsilon_released": [next(self._epsilons) for _ in range(each)][-1],
            "epsilon_server": server_epsilon(self._privacy, self._counts),
        }
        return {**line, "privacy": {**line["privacy"], **found}}


def server_epsilon(privacy: Privacy, counts: NDArray[np.int64]) -> float:
    """``epsilon_server`` of the user who took part most often, in no round if nobody did."""
    most, terms = int(counts.max(initial=0)), privacy.terms
    found = partial(epsilon_server, terms.noise_multiplier, most, once=terms.once)
    return charged(found, terms.delta, distance(privacy, most))


def distance(privacy: Privacy, releases: int) -> float:
    """λ of so many releases with noise of integers (:mod:`fedvpa.privacy.discreteness`); 0 where the server adds it.

    It is far below what a line of the history rounds to, so that these leave it out.
    """
    return releases * excess(FEWEST_STEPS, privacy.terms.clients) if privacy.config.in_shares else 0.0


def participations(privacy: Privacy, times: Sequence[int], client_ids: Sequence[str]) -> NDArray[np.int64]:
    """In how many releases each client took part, shape [clients]; in all where cohorts are not sampled.

    Args:
        privacy: The mechanism.
        times: How often each of the first rounds counts.
        client_ids: The clients.
    """
    counts = np.zeros(len(client_ids), dtype=np.int64)
    for round_, each in enumerate(times):
        counts += each * takes_part(privacy, round_, client_ids)
    return counts


def takes_part(privacy: Privacy, round_: int, client_ids: Sequence[str]) -> NDArray[np.bool_]:
    """Which clients count as taking part in a round, shape [clients]."""
    if privacy.config.sampling != "poisson":
        return np.ones(len(client_ids), dtype=np.bool_)
    chosen: NDArray[np.bool_] = privacy.key.uniform(round_, client_ids) < privacy.terms.rate
    return chosen
