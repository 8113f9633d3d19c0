"""What runs a cohort: who holds what, and the one signature that every engine has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from fedvpa.algorithms.base import Algorithm, Broadcast, ClientUpdate, CohortUpdate, Transform
from fedvpa.algorithms.server.limits import limited
from fedvpa.algorithms.server.robust import Part
from fedvpa.core.short_repr import short_repr
from fedvpa.core.tree import Tree
from fedvpa.privacy.quantised import Layout
from fedvpa.privacy.shares import Shares

HeldT = TypeVar("HeldT", covariant=True)

CohortResult = tuple[list[Part], dict[str, Tree]]
"""The updates of a cohort, and the new private state of the clients that reported."""


@runtime_checkable
class Members(Protocol):
    """Who takes part in a training, and what a method has to know of them before the first round."""

    @property
    def client_ids(self) -> tuple[str, ...]:
        """The clients that train; more may join between rounds."""

    @property
    def setting(self) -> Any:
        """What ``Algorithm.init`` is given."""


@runtime_checkable
class Holder(Members, Protocol[HeldT]):
    """Who holds what, where the clients are on this machine."""

    def held(self, client_id: str) -> HeldT:
        """What a client trains on."""

    def size(self, client_id: str) -> int:
        """How many pairs or prompts that are."""

    def group_one_hot(self, client_ids: Sequence[str]) -> Tensor:
        """True groups, one-hot, shape [clients, groups]; asked for only by a method that reads them."""


@runtime_checkable
class Packed(Protocol):
    """A holder of clients on its way to another process."""

    def opened(self) -> Holder[Any]:
        """The same clients in this process."""


@runtime_checkable
class Packs(Protocol):
    """A holder that cannot travel as it is: a language model is loaded where it is used."""

    def packed(self) -> Packed:
        """What another process needs to hold the same clients."""


def nothing() -> None:
    """There is nothing to do."""


@dataclass(frozen=True, repr=False)
class CohortTask:
    """One round of local training.

    Attributes:
        algorithm: What each client does.
        broadcast: What the server sends to the cohort, encoded and decoded as it would travel.
        holder: Who holds what. A runner whose clients are on other machines does not read it.
        cohort: The clients asked.
        reporting: Those of them that answer; the others dropped out and nothing of theirs changes.
        private: The private state of every client that has one.
        seed: The run's seed.
        transform: What is done to each client's update before it leaves the client.
        single: Whether the server needs each client's update by itself, and no sum over several.
        layout: With secure aggregation, how updates become integers, and which noise is on them; None without.
        before_unmasking: With secure aggregation, called before the sum can be read.
        hidden: Whether no message may tell who, or how many, took part.
    """

    algorithm: Algorithm[Any, Any]
    broadcast: Broadcast
    holder: Holder[Any]
    cohort: Sequence[str]
    reporting: Sequence[str]
    private: Mapping[str, Tree]
    seed: int
    transform: Transform
    single: bool = True
    layout: Layout | Shares | None = None
    before_unmasking: Callable[[], None] = nothing
    hidden: bool = False

    __repr__ = short_repr

    def sent(self, update: ClientUpdate, received: Tree, client_id: str) -> ClientUpdate:
        """What leaves a client of its update: kept to the limits that it was told, then transformed."""
        return self.transform(limited(update, received), self.broadcast.round, client_id)


@runtime_checkable
class CohortRunner(Protocol):
    """Runs one round of local training; the server's part of a round is in ``engines/training.py``."""

    def __call__(self, task: CohortTask) -> CohortResult:
        """Train the clients that report.

        Returns:
            The updates, in the order of the cohort, and the new private state of the clients that reported.

        Raises:
            FedvpaError: If a runner over a network has too few answers to go on.
        """


@runtime_checkable
class Metered(Protocol):
    """A runner that sends more than updates, and counts what the last cohort cost."""

    uplink_bytes: int
    """All that the clients sent."""

    downlink_bytes: int
    """What they were sent beside the broadcast."""


def unchanged(update: ClientUpdate, round_: int, client_id: str) -> ClientUpdate:
    """The transform that does nothing."""
    return update


def one_by_one(ids: Sequence[str], update: ClientUpdate) -> list[ClientUpdate]:
    """A stacked update as the updates of its clients, in the order of ``ids``."""
    return [
        ClientUpdate(
            {name: leaf[row] for name, leaf in update.sums.items()},
            {name: leaf[row] for name, leaf in update.own.items()},
        )
        for row in range(len(ids))
    ]


def alone(client_id: str, update: ClientUpdate) -> CohortUpdate:
    """The update of a cohort of one."""
    return CohortUpdate(update.sums, {client_id: update.own} if update.own else {})
