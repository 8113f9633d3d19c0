"""What the endpoints of one server share, and how a request finds it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from fedvpa.core.errors import DataError
from fedvpa.serving.bodies import AnyPair, Asked, rows_of
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
        ApiError: As :meth:`Catalogue.find` and :meth:`Catalogue.explicit`; 400 too for a z, or pairs, where the server
            takes none or another preference stands beside.
    """
    if body.z is None and body.pairs is None:
        # Profiles are read from a file.
        return await run_in_threadpool(state.catalogue.find, body.model, caller, body.metadata, body.user)
    given = "pairs" if body.z is None else "z"
    if not state.allow_z:
        raise ApiError(400, f"This server was started without --allow-z and takes no {given} here.", param=given)
    if (body.metadata or {}).get("profile") is not None or (body.z is not None and body.pairs is not None):
        other = "metadata.profile" if body.z is None or body.pairs is None else "pairs"
        raise ApiError(400, f"{given} and {other} are two preferences. Leave one of them out.", param=given)
    state.catalogue.check_explicit(body.model, caller, given)
    if body.z is not None:
        return state.catalogue.explicit(body.z)
    return state.catalogue.explicit(await run_in_threadpool(_inferred, state, body.pairs or ()))


def _inferred(state: State, pairs: Sequence[AnyPair]) -> list[float]:
    """The z of pairs of a request."""
    if state.profiles is None:
        raise ApiError(400, state.no_profiles, param="pairs", code="no_preferences")
    try:
        with state.reading():
            return state.profiles.z_of(rows_of(pairs))
    except DataError as error:
        raise ApiError(400, str(error), param="pairs") from error
