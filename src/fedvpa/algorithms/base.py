"""The contract between an algorithm and an engine.

An algorithm is pure: state in, (state, diagnostics) out. It never knows who runs it. What it computes for a client it
computes for any leading axes, so an engine may call it with one client at a time or with a whole cohort stacked.

    init ──► ServerState ──broadcast──► Broadcast ──client_update──► ClientUpdate ──┐
                 ▲                                   (on the client)                │ engine adds them up
                 └──────────────── server_update ◄── CohortUpdate ◄─────────────────┘
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.draws import Draws
from fedvpa.core import tree
from fedvpa.core.short_repr import short_repr
from fedvpa.core.tree import Tree
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.posterior import Posterior
from fedvpa.selector.selector import Selector

Gaussian = tuple[Tensor, Tensor]
"""Mean and log-variance, each of shape [*clients, k]."""


@dataclass(frozen=True, repr=False)
class ServerState:
    """All that the server knows.

    Attributes:
        round: Rounds completed.
        params: The current weights.
        average: Mean of the weights over the rounds of the averaging tail; empty before it starts.
        averaged: How many rounds ``average`` holds.
        log_prior: log π over the prototypes, shape [m].
        evidence: Running mean square of the clients' centred log-likelihoods at the prototypes; NaN before the first.
        posteriors: Client id → the posterior that it uploaded last; the most recent ``MEMORY`` clients, oldest first.
            For ``fedbiscuit``, of every client, its losses and the selector that it trains.
        components: Ids of the last cohort, whose posteriors are the components of the mixture prior.
    """

    params: Tree
    log_prior: Tensor
    evidence: Tensor
    round: int = 0
    average: Tree = field(default_factory=dict)
    averaged: int = 0
    posteriors: Mapping[str, Gaussian] = field(default_factory=dict)
    components: tuple[str, ...] = ()

    __repr__ = short_repr

    @property
    def final(self) -> Tree:
        """The weights to use after training: the average of the tail, or the current ones before it starts."""
        return self.average if self.averaged else self.params


@dataclass(frozen=True, repr=False)
class Broadcast:
    """What leaves the server for one cohort.

    Attributes:
        shared: Tensors that every client of the cohort gets, by name: ``params.*`` and what the algorithm adds.
        own: Tensors with a leading axis over the cohort: what each client alone gets.
        components: Ids of the mixture prior's components, in the order of their tensors in ``shared``.
        round: The number of this round, from 0.
    """

    shared: Tree
    own: Tree
    components: tuple[str, ...]
    round: int

    __repr__ = short_repr

    def client(self, position: int) -> Tree:
        """All that the client at ``position`` of the cohort receives."""
        return self.shared | {name: leaf[position] for name, leaf in self.own.items()}

    def cohort(self, count: int) -> Tree:
        """The same for the whole cohort, with a leading axis."""
        return tree.expand(self.shared, count) | self.own


@dataclass(frozen=True, repr=False)
class ClientUpdate:
    """What a client sends back, or a cohort of them along a leading axis.

    Attributes:
        sums: Statistics with a law: adding the sums of two cohorts gives the sums of their union. ``weight`` is the
            number of training pairs (for ``fedbiscuit`` 1), ``delta.*`` the weighted change of each parameter, the rest
            is the algorithm's.
        posterior: The client's Gaussian posterior: not additive, small (8k bytes), and handled apart. For
            ``fedbiscuit`` the losses of its U selectors and, one-hot, the one that it trained. None for methods that
            upload neither.
    """

    sums: Tree
    posterior: Gaussian | None

    __repr__ = short_repr


@dataclass(frozen=True, repr=False)
class CohortUpdate:
    """The sum of the updates of a cohort, and the posteriors by client id."""

    sums: Tree
    posteriors: Mapping[str, Gaussian]

    __repr__ = short_repr

    def __add__(self, other: CohortUpdate) -> CohortUpdate:
        """The update of the union of two disjoint cohorts."""
        if not self.sums or not other.sums:
            return CohortUpdate(self.sums or other.sums, {**self.posteriors, **other.posteriors})
        return CohortUpdate(tree.combine(torch.add, self.sums, other.sums), {**self.posteriors, **other.posteriors})


def one_by_one(ids: Sequence[str], update: ClientUpdate) -> list[CohortUpdate]:
    """A stacked update as the updates of its clients."""
    return [
        CohortUpdate(
            {name: leaf[row] for name, leaf in update.sums.items()},
            {} if update.posterior is None else {client: (update.posterior[0][row], update.posterior[1][row])},
        )
        for row, client in enumerate(ids)
    ]


@dataclass(frozen=True, repr=False)
class Private:
    """What never leaves a client.

    Attributes:
        logits: Component's client id → log π, the mixture weights that this client has learned.
        posterior: Its own posterior, as last inferred.
    """

    logits: Mapping[str, float] = field(default_factory=dict)
    posterior: Gaussian | None = None

    __repr__ = short_repr


class NothingPrivate:
    """The private side of a method whose clients keep nothing from one round to the next."""

    def load_private(self, client_id: str, private: Private, components: Sequence[str]) -> Tree:
        """Nothing; an engine adds ``group`` [m] if groups are read."""
        return {}

    def store_private(self, private: Private, tensors: Tree, components: Sequence[str]) -> Private:
        """The same as before."""
        return private


@runtime_checkable
class Algorithm(Protocol):
    """One method. Frozen: configuration only."""

    @property
    def config(self) -> MethodConfig:
        """Its hyper-parameters."""

    @property
    def name(self) -> str:
        """What the method is called in tables and on the command line."""

    @property
    def reads_groups(self) -> bool:
        """Whether training sees the true groups: only the ``oracle`` yardstick does."""

    @property
    def personal(self) -> bool:
        """Whether it infers a latent for each user: such methods have controls, and a policy that follows z."""

    @property
    def has_prototypes(self) -> bool:
        """Whether its prototypes mean preferences, rather than nothing."""

    @property
    def rounds(self) -> int:
        """How many rounds it wants; 0 if it needs no federation."""

    def init(self, dimension: int, groups: Sequence[str], seed: int) -> ServerState:
        """The state before the first round."""

    def broadcast(self, state: ServerState, client_ids: Sequence[str]) -> Broadcast:
        """What leaves the server for this cohort."""

    def draw(self, seed: int, round_: int, client_id: str, pairs: int, components: int) -> Draws:
        """All randomness of one client in one round."""

    def load_private(self, client_id: str, private: Private, components: Sequence[str]) -> Tree:
        """The private tensors that ``client_update`` needs, in the order of ``components``."""

    def store_private(self, private: Private, tensors: Tree, components: Sequence[str]) -> Private:
        """The private state after ``client_update`` returned ``tensors``."""

    def client_update(self, received: Tree, data: Pairs, private: Tree, draws: Draws) -> tuple[ClientUpdate, Tree]:
        """Local training, for any leading client axes.

        Args:
            received: ``Broadcast.client`` or ``Broadcast.cohort``.
            data: The training pairs.
            private: From :meth:`load_private`.
            draws: From :meth:`draw`.
        """

    def server_update(self, state: ServerState, update: CohortUpdate) -> tuple[ServerState, dict[str, float]]:
        """Aggregate. Without any client that reported, only the round advances."""

    def selector(self, state: ServerState) -> Selector:
        """The trained preference model: ``infer`` and ``score`` of the contract."""


__all__ = [
    "Algorithm",
    "Broadcast",
    "ClientUpdate",
    "CohortUpdate",
    "Draws",
    "Gaussian",
    "Pairs",
    "Posterior",
    "Private",
    "Selector",
    "ServerState",
    "one_by_one",
    "replace",
]
