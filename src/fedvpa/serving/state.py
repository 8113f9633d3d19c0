"""What the endpoints of one server share, and how a request finds it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from fedvpa.serving.bodies import Asked
from fedvpa.serving.catalogue import Catalogue, Target
from fedvpa.serving.errors import ApiError
from fedvpa.serving.keys import Caller, Keys
from fedvpa.serving.metrics import Metrics

if TYPE_CHECKING:
    from fedvpa.serving.lifecycle import Lifecycle
    from fedvpa.serving.profiles import Profiles


@dataclass(frozen=True, eq=False)
class State:
    """What one server serves.

    Attributes:
        catalogue: What can be asked.
        profiles: Where users' profiles are kept; None where the policy follows none.
        no_profiles: Why there are none, for messages.
        keys: Who may ask.
        metrics: What is counted.
        lifecycle: How many requests there are, and whether the server is about to stop.
        reading: Holds the language model while it reads pairs.
        allow_z: Whether a request may bring a z of its own.
    """

    catalogue: Catalogue
    profiles: Profiles | None
    no_profiles: str
    keys: Keys
    metrics: Metrics
    lifecycle: Lifecycle
    reading: Callable[[], AbstractContextManager[None]]
    allow_z: bool = False


def state_of(request: Request) -> State:
    """The state of the server that has a request."""
    return cast(State, request.app.state.fedvpa)


def caller_of(request: Request) -> Caller:
    """Who sent a request, as the gate found out."""
    return cast(Caller, request.scope["fedvpa.caller"])


async def target_of(state: State, body: Asked, caller: Caller) -> Target:
    """What a request for generation asks for.

    Raises:
        ApiError: As :meth:`Catalogue.find` and :meth:`Catalogue.explicit`; 400 for a z where the server takes none.
    """
    if body.z is None:
        # Profiles are read from a file.
        return await run_in_threadpool(state.catalogue.find, body.model, caller, body.metadata, body.user)
    if not state.allow_z:
        raise ApiError(400, "This server takes no z of a request: it was started without --allow-z.", param="z")
    if (body.metadata or {}).get("profile") is not None:
        raise ApiError(400, "z and metadata.profile are two preferences. Leave one of them out.", param="z")
    return state.catalogue.explicit(body.model, body.z, caller)
