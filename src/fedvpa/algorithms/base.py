"""The contract between an algorithm and an engine: one for every federated method.

An algorithm is pure: state in, (state, diagnostics) out. It never knows who runs it. It owns three things, which
engines store and send without reading them: the server's state, the update of a client, and what a client keeps to
itself. What a client *holds* is a type parameter: pairs of features for methods that train a selector, texts and a
language model for methods whose clients train a policy.

    init ──► State ──broadcast──► Broadcast ──client_update──► ClientUpdate ──transform──┐
               ▲                              (on the client)                            │ engine adds them up
               └──────────────── server_update ◄── CohortUpdate ◄──── validation ◄───────┘

A method that trains a selector computes for any leading axes what it computes for one client, so an engine may call it
with one client at a time or with a whole cohort stacked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import torch

from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.server.validation import Expected
from fedvpa.core import tree
from fedvpa.core.short_repr import short_repr
from fedvpa.core.tree import Tree
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.posterior import Posterior
from fedvpa.selector.selector import Selector

Holds = Literal["features", "texts"]
"""What a client of a method holds: features of its pairs, or its texts and a language model."""


@runtime_checkable
class State(Protocol):
    """All that the server knows: a frozen data class of the algorithm's own.

    :mod:`fedvpa.core.frozen` makes named tensors of it and back, so a method writes no code for its checkpoints.
    """

    @property
    def round(self) -> int:
        """Rounds completed."""

    @property
    def params(self) -> Tree:
        """The current weights, by name: every ``delta.*`` of an update moves one of them."""


@dataclass(frozen=True)
class FeatureSetting:
    """What a method needs to know of clients that hold features, before the first round.

    Attributes:
        dimension: D, the size of a feature.
        groups: The distinct true groups; only the yardsticks ``oracle``, ``informed`` and ``fedgd`` read them.
        clients: N, how many clients there are; 0 where nobody knows.
        spectrum: Mean squares of the differences of public pairs, shape [D], relative to their mean; empty where
            nothing is public.
    """

    dimension: int
    groups: tuple[str, ...] = ()
    clients: int = 0
    spectrum: tuple[float, ...] = ()


@dataclass(frozen=True, repr=False)
class Broadcast:
    """What leaves the server for one cohort. It names no client.

    Attributes:
        shared: Tensors that every client of the cohort gets, by name: ``params.*`` and what the algorithm adds.
        own: Tensors with a leading axis over the cohort: what each client alone gets.
        round: The number of this round, from 0.
    """

    shared: Tree
    own: Tree
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
        sums: Statistics with a law: adding the sums of two cohorts gives the sums of their union. ``weight`` is how
            much the client counts, mostly its number of training pairs; ``delta.*`` the change of each parameter, times
            the weight; the rest is the algorithm's.
        own: What is not additive, by name: small, and never sent to another client.
    """

    sums: Tree
    own: Tree = field(default_factory=dict)

    __repr__ = short_repr


@dataclass(frozen=True, repr=False)
class CohortUpdate:
    """The sum of the updates of a cohort, and what is not additive by client id."""

    sums: Tree
    own: Mapping[str, Tree] = field(default_factory=dict)

    __repr__ = short_repr

    def __add__(self, other: CohortUpdate) -> CohortUpdate:
        """The update of the union of two disjoint cohorts.

        Raises:
            ValueError: If their sums have not the same names: one of them would be dropped without a word.
        """
        own = {**self.own, **other.own}
        if not self.sums or not other.sums:
            return CohortUpdate(self.sums or other.sums, own)
        if self.sums.keys() != other.sums.keys():
            odd = sorted(self.sums.keys() ^ other.sums.keys())
            raise ValueError(f"only one of two updates has {', '.join(odd)}")
        return CohortUpdate(tree.combine(torch.add, self.sums, other.sums), own)


Transform = Callable[[ClientUpdate, int, str], ClientUpdate]
"""(update, round, client id) → what of it leaves the client: the one place between a client and the sum."""

StateT = TypeVar("StateT", bound=State)
HeldT = TypeVar("HeldT", contravariant=True)


@runtime_checkable
class Algorithm(Protocol[StateT, HeldT]):
    """One method. Frozen: configuration only. :class:`Plain` has what most methods have in common."""

    @property
    def config(self) -> MethodConfig:
        """Its hyper-parameters."""

    @property
    def name(self) -> str:
        """What the method is called in tables and on the command line."""

    @property
    def holds(self) -> Holds:
        """What its clients hold."""

    @property
    def state_type(self) -> type[Any]:
        """The class of its state."""

    @property
    def reads_groups(self) -> bool:
        """Whether training sees the true groups: only the yardsticks ``oracle``, ``informed`` and ``fedgd`` do."""

    @property
    def rounds(self) -> int:
        """How many rounds it wants; 0 if it needs no federation."""

    @property
    def learning_rates(self) -> Mapping[str, float]:
        """Configuration key → value of what to lower when a training diverges."""

    def init(self, setting: Any, seed: int) -> StateT:
        """The state before the first round.

        Args:
            setting: What the holder of the clients says about them: a :class:`FeatureSetting`, or what the clients of a
                method on texts have.
            seed: The run's seed.
        """

    def asks_everyone(self, state: StateT) -> bool:
        """Whether all clients are asked next, instead of the round's cohort."""

    def broadcast(self, state: StateT, client_ids: Sequence[str]) -> Broadcast:
        """What leaves the server for this cohort."""

    def expected(self, state: StateT) -> Expected:
        """What the update of one client must look like, when it answers the broadcast of this state."""

    def draw(self, seed: int, broadcast: Broadcast, client_id: str, size: int) -> Any:
        """All randomness of one client in one round.

        Args:
            seed: The run's seed.
            broadcast: What the cohort was sent.
            client_id: The client.
            size: How many pairs or prompts it trains on.
        """

    def load_private(self, private: Tree, received: Tree) -> Tree:
        """The private tensors that ``client_update`` needs, from what the client kept: nothing at first."""

    def store_private(self, private: Tree, tensors: Tree, received: Tree) -> Tree:
        """What a client keeps after ``client_update`` returned ``tensors``."""

    def client_update(self, received: Tree, held: HeldT, private: Tree, draws: Any) -> tuple[ClientUpdate, Tree]:
        """Local training; for any leading client axes where clients hold features.

        Args:
            received: ``Broadcast.client`` or ``Broadcast.cohort``.
            held: What the client trains on.
            private: From :meth:`load_private`; with ``group`` [m] if groups are read.
            draws: From :meth:`draw`.
        """

    def server_update(self, state: StateT, update: CohortUpdate) -> tuple[StateT, dict[str, float]]:
        """Aggregate; the new state, and means for the history.

        A round is over once the state's ``round`` has advanced. Until then the engine asks again: the same cohort, or
        everybody where :meth:`asks_everyone` says so. Without any client that reported, the round advances.
        """


@runtime_checkable
class SelectorAlgorithm(Algorithm[StateT, Pairs], Protocol[StateT]):
    """A method that trains a selector on features."""

    @property
    def personal(self) -> bool:
        """Whether it infers a latent for each user: such methods have controls, and a policy that follows z."""

    @property
    def has_prototypes(self) -> bool:
        """Whether its prototypes mean preferences, rather than nothing."""

    def selector(self, state: StateT) -> Selector:
        """The trained preference model: ``infer`` and ``score`` of the contract."""


@runtime_checkable
class InfersMembers(Protocol):
    """A selector algorithm whose clients infer z from more than their pairs: from what they know of their training.

    Such a client knows, for example, what it added to the server's sums, and can take it out again.
    """

    def infer_members(self, state: Any, context: Pairs, private: Sequence[Tree]) -> Posterior:
        """The posterior over z of several clients.

        Args:
            state: The server's, after training.
            context: The labelled pairs of each, shape [clients, n, ...].
            private: What each kept (:meth:`Algorithm.store_private`); empty of a client that never answered.
        """


def placed_by_group(algorithm: SelectorAlgorithm[Any]) -> bool:
    """Whether users are put on the prototype of their true group: ``oracle`` does, and nothing infers.

    ``fedgd`` reads groups and has one model for all of them; ``informed`` infers who is in which.
    """
    return algorithm.reads_groups and algorithm.has_prototypes and not isinstance(algorithm, InfersMembers)


class Plain:
    """What most methods have in common: clients keep nothing, and a round asks one cohort once."""

    holds: Holds = "features"
    config: MethodConfig

    @property
    def rounds(self) -> int:
        """Rounds in all: those of the server."""
        return self.config.server.rounds

    @property
    def learning_rates(self) -> Mapping[str, float]:
        """Those of local training on features."""
        local = self.config.local
        return {"local.head_lr": local.head_lr, "local.encoder_lr": local.encoder_lr}

    def asks_everyone(self, state: Any) -> bool:
        """Never."""
        return False

    def load_private(self, private: Tree, received: Tree) -> Tree:
        """Nothing."""
        return {}

    def store_private(self, private: Tree, tensors: Tree, received: Tree) -> Tree:
        """The same as before."""
        return private
