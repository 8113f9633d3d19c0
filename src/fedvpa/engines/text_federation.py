"""The clients of a run that train a language model: one policy in this process, in which they take turns."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

from fedvpa.algorithms.text_client import AdapterSetting, TextClient
from fedvpa.core.short_repr import short_repr
from fedvpa.policy.policy import Policy

DataT = TypeVar("DataT", bound=Sized, covariant=True)


@dataclass(frozen=True, repr=False)
class TextFederation(Generic[DataT]):
    """A holder of clients (``engines/runner.py``) whose data are texts.

    Attributes:
        policy: Where all of them train.
        data: Client id → what it holds.
        setting: The adapter that training starts from, and its shape.
        groups: The distinct true groups, for methods that read them.
    """

    policy: Policy
    data: Mapping[str, DataT]
    setting: AdapterSetting
    groups: tuple[str, ...] = ()

    __repr__ = short_repr

    @classmethod
    def of(cls, policy: Policy, data: Mapping[str, DataT], groups: tuple[str, ...] = ()) -> TextFederation[DataT]:
        """Clients who start from the adapter that the policy has now."""
        return cls(policy, data, AdapterSetting.of(policy), groups)

    @cached_property
    def client_ids(self) -> tuple[str, ...]:
        """The clients that train."""
        return tuple(self.data)

    def held(self, client_id: str) -> TextClient[DataT]:
        """What one of them holds."""
        return TextClient(self.policy, self.data[client_id])

    def size(self, client_id: str) -> int:
        """How many pairs (or prompts) that is."""
        return len(self.data[client_id])
