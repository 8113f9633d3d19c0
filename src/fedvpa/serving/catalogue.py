"""The names under which a run's policy can be asked: the base, public preferences, and users' profiles.

``NAME`` is what answers without a preference: the base model where the policy follows z or there is one for each group,
and the policy itself where it is the same for everybody (FedDPO); the base is then ``NAME:base``. ``NAME:helpful`` is a
group, ``NAME:0`` a prototype, ``NAME:0.3`` one between two, and ``NAME:ana`` a profile that is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from fedvpa.core.errors import ConfigError
from fedvpa.core.short_repr import short_repr
from fedvpa.models.encoding import TextEncoder
from fedvpa.policy.policy import Policy
from fedvpa.policy.preference import GROUP, PROTOTYPE, USER, as_number, latent_of
from fedvpa.serving.errors import ApiError
from fedvpa.serving.generation import Generation
from fedvpa.serving.keys import Caller
from fedvpa.serving.requests import GenerationRequest

BASE = "base"
"""The preference that stands for none, where the policy itself has the plain name."""

SHOWN = 20
"""Names that a message lists."""


class Engine(Protocol):
    """What answers; see :class:`fedvpa.serving.engine.BatchEngine`."""

    def submit(self, request: GenerationRequest) -> Generation:
        """Begin an answer."""


class Stored(Protocol):
    """A profile that is kept; see :class:`fedvpa.serving.profiles.Profile`."""

    @property
    def mean(self) -> Sequence[float]:
        """Its z."""


class Store(Protocol):
    """What keeps profiles; see :class:`fedvpa.serving.profiles.Profiles`."""

    def names(self) -> list[str]:
        """The names of all."""

    def get(self, name: str) -> Stored:
        """One of them."""


@dataclass(frozen=True, eq=False)
class Served:
    """A policy and what runs it.

    Attributes:
        policy: Tokenizer, sampling and the preferences that it knows by name.
        engine: What answers.
    """

    policy: Policy
    engine: Engine

    @cached_property
    def plain(self) -> TextEncoder:
        """Reads a text as it is, also where the policy was trained on conversations."""
        encoder = self.policy.tokenizer.encoder
        if encoder.renderer.kind != "chat":
            return encoder
        return replace(encoder, renderer=replace(encoder.renderer, kind="plain"))


@dataclass(frozen=True, eq=False, repr=False)
class Target:
    """What a name stands for.

    Attributes:
        name: As models are listed.
        served: The policy.
        z: The preference, shape [k]; None where it follows none.
        base: Whether the base model is meant, without adapter.
    """

    name: str
    served: Served
    z: Tensor | None = None
    base: bool = False

    __repr__ = short_repr


@dataclass(frozen=True, eq=False)
class Catalogue:
    """All that can be asked.

    Attributes:
        name: What the model is called.
        policies: Group → its policy where there is one for each, otherwise the only one under an empty name.
        method: What trained it, for messages.
        profiles: Where users' profiles are kept; None where the policy can follow none.
    """

    name: str
    policies: Mapping[str, Served]
    method: str
    profiles: Store | None = None
    created: int = field(default=0)

    @property
    def one(self) -> Served:
        """The only policy, or the first one."""
        return next(iter(self.policies.values()))

    @property
    def by_group(self) -> bool:
        """Whether there is one policy for each group."""
        return "" not in self.policies

    @property
    def follows_z(self) -> bool:
        """Whether the policy reads a preference."""
        return not self.by_group and self.one.policy.conditioner is not None

    def public(self) -> list[str]:
        """The preferences that everybody may ask for, as they are listed."""
        if self.by_group:
            return list(self.policies)
        if not self.follows_z:
            return [BASE]
        policy = self.one.policy
        return [*policy.preferences, *map(str, range(len(policy.prototypes)))]

    def is_public(self, preference: str) -> bool:
        """Whether a name is taken by the policy itself, listed or not, so that no profile can have it."""
        if preference in (BASE, *self.public()) or preference.startswith((GROUP, PROTOTYPE, USER)):
            return True
        return as_number(preference) is not None

    def visible(self, caller: Caller) -> Iterator[str]:
        """The names of the models that a caller may see."""
        if caller.profile is None:
            yield self.name
        own = [] if self.profiles is None else self.profiles.names()
        yield from (f"{self.name}:{name}" for name in (*self.public(), *own) if caller.may(name))

    def find(
        self, model: str, caller: Caller, metadata: Mapping[str, str] | None = None, user: str | None = None
    ) -> Target:
        """What a request asks for.

        Args:
            model: ``NAME`` or ``NAME:preference``.
            caller: Who asks.
            metadata: Of the request; ``profile`` names a preference where ``model`` names none.
            user: A profile where neither does.

        Raises:
            ApiError: 404 for an unknown model or preference, or one that the caller may not see; 400 where two are
                asked for, or the policy follows none.
        """
        name, colon, preference = model.partition(":")
        if name != self.name:
            raise self._unknown(model, caller)
        named = (metadata or {}).get("profile")
        if colon:
            if named is not None and named != preference:
                message = f"model asks for {preference!r} and metadata.profile for {named!r}."
                raise ApiError(400, f"{message} Leave one of them out.", param="metadata.profile")
            return self._preferred(preference, caller, model, "model")
        if named is not None:
            return self._preferred(named, caller, f"{name}:{named}", "metadata.profile")
        if user is not None and (self.follows_z or self.by_group):
            return self._preferred(user, caller, f"{name}:{user}", "user")
        if caller.profile is not None:
            raise self._unknown(model, caller)
        return Target(self.name, self.one, base=self.follows_z or self.by_group)

    def check_explicit(self, model: str, caller: Caller, param: str) -> None:
        """Whether a request may bring its own z.

        Args:
            model: What it asks for.
            caller: Who asks.
            param: The field that brings it, for messages.

        Raises:
            ApiError: 404 for an unknown model, 403 for a caller with one profile, 400 where ``model`` names a
                preference too, or the policy follows none.
        """
        if model.partition(":")[0] != self.name:
            raise self._unknown(model, caller)
        if caller.profile is not None:
            raise ApiError(403, "This key follows its own profile and no other z.", param=param)
        if ":" in model:
            message = f"{param} and the model {model!r} are two preferences. Leave one of them out."
            raise ApiError(400, message, param=param)
        if not self.follows_z:
            raise ApiError(400, self.without_z(), param=param, code="no_preferences")

    def explicit(self, z: Sequence[float]) -> Target:
        """The policy at a z that a request brings.

        Raises:
            ApiError: 400 where z has another size than the policy's.
        """
        conditioner = self.one.policy.conditioner
        if conditioner is None or len(z) != conditioner.latent:
            wanted = 0 if conditioner is None else conditioner.latent
            raise ApiError(400, f"z has {len(z)} numbers, and this policy reads {wanted}.", param="z")
        return Target(self.name, self.one, torch.tensor(z, dtype=torch.float32))

    def without_z(self) -> str:
        """Why there are no profiles here."""
        if self.by_group:
            known = ", ".join(f"{self.name}:{group}" for group in self.policies)
            return f"This run has one policy for each group and follows no other preference. Ask for {known}."
        return (
            f"The policy of {self.method!r} is the same for everybody and follows no preference. Ask for {self.name}."
        )

    def _preferred(self, preference: str, caller: Caller, model: str, param: str) -> Target:
        """The target of a preference that was asked for by name."""
        if not caller.may(preference):
            raise self._unknown(model, caller, param)
        if self.by_group:
            if preference not in self.policies:
                raise self._unknown(model, caller, param)
            return Target(f"{self.name}:{preference}", self.policies[preference])
        if not self.follows_z:
            if preference == BASE:
                return Target(f"{self.name}:{BASE}", self.one, base=True)
            raise ApiError(400, self.without_z(), param=param, code="no_preferences")
        z = self._public_z(preference)
        if z is None and self.profiles is not None and preference in self.profiles.names():
            z = torch.as_tensor(self.profiles.get(preference).mean, dtype=torch.float32)
        if z is None:
            raise self._unknown(model, caller, param)
        return Target(f"{self.name}:{preference}", self.one, z)

    def _public_z(self, preference: str) -> Tensor | None:
        """The z of a preference that the policy knows by itself; None if it knows none of this name."""
        policy = self.one.policy
        if not (preference in policy.preferences or self.is_public(preference)):
            return None
        try:
            return latent_of(preference, policy.preferences, policy.prototypes)
        except ConfigError:
            return None

    def _unknown(self, model: str, caller: Caller, param: str = "model") -> ApiError:
        """The one answer about what is not there and what the caller may not see."""
        known = list(self.visible(caller))
        more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
        listed = f"Known: {', '.join(known[:SHOWN])}{more}." if known else "There is none yet that this key may see."
        return ApiError(404, f"There is no model {model!r}. {listed}", param=param, code="model_not_found")
