"""What runs a cohort: the one signature that every engine has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fedvpa.algorithms.base import Algorithm, Broadcast, Private
from fedvpa.algorithms.robust import Part
from fedvpa.core.short_repr import short_repr
from fedvpa.engines.federation import Federation

CohortResult = tuple[list[Part], dict[str, Private]]
"""The updates of a cohort, and the new private state of the clients that reported."""


@dataclass(frozen=True, repr=False)
class CohortTask:
    """One round of local training.

    Attributes:
        algorithm: What each client does.
        broadcast: What the server sends to the cohort, encoded and decoded as it would travel.
        federation: Who holds what. A runner whose clients are on other machines does not read it.
        cohort: The clients asked.
        reporting: Those of them that answer; the others dropped out and nothing of theirs changes.
        private: The private state of every client that has one.
        seed: The run's seed.
    """

    algorithm: Algorithm
    broadcast: Broadcast
    federation: Federation
    cohort: Sequence[str]
    reporting: Sequence[str]
    private: Mapping[str, Private]
    seed: int

    __repr__ = short_repr


class CohortRunner(Protocol):
    """Runs one round of local training; the server's part of a round is in ``engines/training.py``."""

    def __call__(self, task: CohortTask) -> CohortResult:
        """Train the clients that report.

        Returns:
            The updates, in the order of the cohort, and the new private state of the clients that reported.

        Raises:
            FedvpaError: If a runner over a network has too few answers to go on.
        """
