"""The clients of a run that train a language model: one policy in this process, in which they take turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

from fedvpa.algorithms.client.text_client import AdapterSetting, TextClient
from fedvpa.core.errors import ConfigError, ModelError
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

    def packed(self) -> PackedTexts[DataT]:
        """What another process needs to hold the same clients.

        Raises:
            ConfigError: If the policy cannot be made anew there.
        """
        if self.policy.again is None:
            raise ConfigError(
                "Nothing says how Flower's workers can make this policy.",
                fix="Use engine loop.",
            )
        return PackedTexts(self.policy.again, self.policy.source.content(), self.data, self.setting, self.groups)


@dataclass(frozen=True, repr=False)
class PackedTexts(Generic[DataT]):
    """A :class:`TextFederation` on its way to another process: the data travel, and the language model is loaded there.

    Attributes:
        again: Makes the policy.
        content: The content of its base model; see :meth:`~fedvpa.models.locate.ModelSource.content`.
        data: Client id → what it holds.
        setting: As of :class:`TextFederation`.
        groups: As of :class:`TextFederation`.
    """

    again: Callable[[], Policy]
    content: str
    data: Mapping[str, DataT]
    setting: AdapterSetting
    groups: tuple[str, ...]

    __repr__ = short_repr

    def opened(self) -> TextFederation[DataT]:
        """The same clients in this process.

        Raises:
            ModelError: If the language model is not here, or another one.
        """
        policy = self.again()
        if policy.source.content() != self.content:
            raise ModelError(
                f"the language model {policy.source.name!r} is another one in this process than where the run was "
                "started.",
                fix="Do not change the model while a run lasts.",
                where=str(policy.source.folder),
            )
        return TextFederation(policy, self.data, self.setting, self.groups)
