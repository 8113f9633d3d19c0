"""What a client holds whose language model is trained where it is: the node's policy, and what the method reads."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass
from typing import Generic, TypeVar

from fedvpa.core.short_repr import short_repr
from fedvpa.core.tree import Tree
from fedvpa.policy.adapters import snapshot
from fedvpa.policy.lora import adapts_experts
from fedvpa.policy.policy import Policy

DataT = TypeVar("DataT", bound=Sized, covariant=True)


@dataclass(frozen=True, repr=False)
class TextClient(Generic[DataT]):
    """One client of a method that trains a language model.

    Attributes:
        policy: The node's language model. All clients of a node take turns in it, so what its adapter holds when a
            client begins is of no account: a client starts from what it received.
        data: What the method reads, such as :class:`~fedvpa.policy.examples.Examples`. Its length is the number of
            pairs (or prompts) that the client holds.
    """

    policy: Policy
    data: DataT

    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.data)


@dataclass(frozen=True)
class ClientStream:
    """The names of a client's random streams in one round.

    Attributes:
        seed: The run's seed.
        client_id: The client.
        round: The round, from 0.
    """

    seed: int
    client_id: str
    round: int


@dataclass(frozen=True, repr=False)
class AdapterSetting:
    """What the server needs to know of the language model before the first round.

    Attributes:
        start: The initial LoRA factors, under PEFT's names and in the order of the model's layers.
        experts: Whether it sits on the experts of a mixture, whose change is no product of its two factors.
    """

    start: Tree
    experts: bool = False

    __repr__ = short_repr

    @classmethod
    def of(cls, policy: Policy) -> AdapterSetting:
        """That of a policy as it is now; a copy, which training does not move."""
        return cls({name: leaf.cpu() for name, leaf in snapshot(policy).items()}, adapts_experts(policy))
