"""``/v1/profiles`` and ``/v1/rewards``: users' preferences, inferred from pairs that they judged."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from fedvpa.core.errors import DataError
from fedvpa.data.schema import Text
from fedvpa.serving.asking import too_busy
from fedvpa.serving.bodies import MOST_PAIRS, AnyPair, Body, PromptField, ResponseText, prompt_of, rows_of
from fedvpa.serving.errors import ApiError, responses
from fedvpa.serving.keys import Caller
from fedvpa.serving.profile_store import ProfileExists, UnknownProfile, plain
from fedvpa.serving.state import State, caller_of, state_of

if TYPE_CHECKING:
    from fedvpa.serving.profiles import Profile, Profiles

router = APIRouter(tags=["profiles"])

MOST_WAITING = 8
"""Requests that wait for the language model to read pairs. Chosen by us."""

RETRY_SECONDS = 5.0
"""When to come again where too many of them wait. Chosen by us: what a few pairs take."""

Skip = Annotated[int, Query(ge=0, le=1_000_000, description="Leave out so many of the pairs that say most.")]


class PairsBody(Body):
    """Pairs of a profile."""

    pairs: Annotated[list[AnyPair], Field(min_length=1, max_length=MOST_PAIRS)]


class ProfileBody(Body):
    """A new profile; without pairs it is what is known of anybody."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    pairs: Annotated[list[AnyPair], Field(max_length=MOST_PAIRS)] = Field(default_factory=list)


class RewardBody(Body):
    """Responses whose worth to a profile is asked for."""

    profile: str
    prompt: PromptField
    responses: Annotated[list[ResponseText], Field(min_length=1, max_length=64)]


class ProfileObject(BaseModel):
    """What a profile says of its user."""

    object: Literal["profile"] = "profile"
    name: str
    model: str = Field(description="What to ask for to follow it.")
    pairs: int
    ties: int
    z: list[float]
    std: list[float]
    responsibilities: list[float]
    prototype: int
    created: str
    updated: str
    selector: str


class ExportedProfile(ProfileObject):
    """All that is kept of a user."""

    judged: list[dict[str, Any]] = Field(description="The pairs, as POST /v1/profiles takes them.")


class NextPair(BaseModel):
    """The pair whose label is expected to say most."""

    object: Literal["question"] = "question"
    prompt: str | list[dict[str, str]]
    response_a: str
    response_b: str
    information: float = Field(description="What the answer is expected to say about z, in nats; at most log 2.")
    left: int = Field(description="Pairs that were not asked yet, this one included.")


class ProfileList(BaseModel):
    """The profiles that the caller may see."""

    object: Literal["list"] = "list"
    data: list[ProfileObject]


class Deleted(BaseModel):
    """A profile is gone, and its pairs with it."""

    object: Literal["profile.deleted"] = "profile.deleted"
    name: str
    deleted: Literal[True] = True


class Rewards(BaseModel):
    """One reward for each response; only their differences mean something."""

    object: Literal["list"] = "list"
    profile: str
    data: list[float]


class ReadingGate:
    """Lets one request at a time have the language model read pairs, and turns away what would wait too long."""

    def __init__(self) -> None:
        self._places = threading.BoundedSemaphore(1 + MOST_WAITING)
        self._turn = threading.Lock()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """While inside, nobody else is.

        Raises:
            ApiError: 429 if too many wait.
        """
        if not self._places.acquire(blocking=False):
            raise too_busy(RETRY_SECONDS)
        try:
            with self._turn:
                yield
        finally:
            self._places.release()


def _said(text: Text) -> str:
    """A response as it is shown."""
    return text if isinstance(text, str) else "\n".join(turn.content for turn in text)


def unknown(name: str) -> ApiError:
    """The one answer about a profile that is not there, and one that the caller may not see."""
    return ApiError(404, f"There is no profile {name!r} that may be seen here.", code="profile_not_found")


@contextmanager
def _finding(state: State, caller: Caller, name: str) -> Iterator[Profiles]:
    """The profiles of a server, for a request about one of them.

    Raises:
        ApiError: 400 where there can be none, 404 for one that is not there or not to be seen, 409 for one that is.
    """
    if not caller.may(name):
        raise unknown(name)
    if state.profiles is None:
        raise ApiError(400, state.no_profiles, code="no_preferences")
    try:
        yield state.profiles
    except UnknownProfile:
        raise unknown(name) from None
    except ProfileExists as error:
        raise ApiError(409, str(error), param="name", code="profile_exists") from None
    except DataError as error:
        raise ApiError(400, str(error), param="pairs") from error


def _shown(state: State, profile: Profile) -> ProfileObject:
    """A profile as it is answered."""
    return ProfileObject(**_fields(state, profile.to_dict()))


def _fields(state: State, profile: Mapping[str, Any]) -> dict[str, Any]:
    """Our names of what a profile holds."""
    named = dict(profile)
    return {"model": f"{state.catalogue.name}:{profile['name']}", "z": named.pop("mean"), **named}


@router.post("/v1/profiles", status_code=201, response_model=ProfileObject, responses=responses(404, 409, 429))
def create_profile(body: ProfileBody, request: Request) -> ProfileObject:
    """Infer a preference from pairs, and keep both under a name."""
    state = state_of(request)
    with _finding(state, caller_of(request), body.name) as profiles:
        if state.catalogue.is_public(body.name):
            message = f"{body.name!r} is a preference that the policy knows by itself. Choose another name."
            raise ApiError(409, message, param="name", code="profile_exists")
        if body.pairs and all(pair.winner == "tie" for pair in body.pairs):
            message = f"All {len(body.pairs)} pairs are ties, which prefer nothing. Give a pair that has a winner."
            raise ApiError(400, message, param="pairs")
        with state.reading():
            return _shown(state, profiles.create(body.name, rows_of(body.pairs)))


@router.get("/v1/profiles", response_model=ProfileList, responses=responses())
def list_profiles(request: Request) -> ProfileList:
    """The profiles that the key may see; all without keys."""
    state, caller = state_of(request), caller_of(request)
    found = []
    for name in [] if state.profiles is None else state.profiles.names():
        if caller.may(name):
            with suppress(UnknownProfile):  # deleted meanwhile
                found.append(_shown(state, state.profiles.get(name)))  # type: ignore[union-attr]
    return ProfileList(data=found)


@router.get("/v1/profiles/{name}", response_model=ProfileObject, responses=responses(404))
def read_profile(name: str, request: Request) -> ProfileObject:
    """A profile: z, how sure it is, and how many pairs it has."""
    state = state_of(request)
    with _finding(state, caller_of(request), name) as profiles:
        return _shown(state, profiles.get(name))


@router.get("/v1/profiles/{name}/export", response_model=ExportedProfile, responses=responses(404))
def export_profile(name: str, request: Request) -> ExportedProfile:
    """All that is kept of a user, their pairs included."""
    state = state_of(request)
    with _finding(state, caller_of(request), name) as profiles:
        return ExportedProfile(**_fields(state, profiles.export(name)))


@router.delete("/v1/profiles/{name}", response_model=Deleted, responses=responses(404))
def delete_profile(name: str, request: Request) -> Deleted:
    """Delete a profile and its pairs, on the disk too."""
    with _finding(state_of(request), caller_of(request), name) as profiles:
        profiles.delete(name)
        return Deleted(name=name)


@router.post("/v1/profiles/{name}/pairs", response_model=ProfileObject, responses=responses(404, 429))
def add_pairs(name: str, body: PairsBody, request: Request) -> ProfileObject:
    """Add pairs to a profile and infer it again."""
    state = state_of(request)
    with _finding(state, caller_of(request), name) as profiles, state.reading():
        return _shown(state, profiles.add(name, rows_of(body.pairs)))


@router.get("/v1/profiles/{name}/next", response_model=NextPair | None, responses=responses(404, 429))
def next_pair(name: str, request: Request, skip: Skip = 0) -> NextPair | None:
    """The pair to ask next; null if all that there are were asked, or are skipped."""
    state = state_of(request)
    with _finding(state, caller_of(request), name) as profiles, state.reading():
        found = profiles.next(name, skip=skip)
    if found is None:
        return None
    return NextPair(
        prompt=plain(found.prompt),
        response_a=_said(found.first),
        response_b=_said(found.second),
        information=found.information,
        left=found.left,
    )


@router.post("/v1/rewards", response_model=Rewards, responses=responses(404, 429))
def score(body: RewardBody, request: Request) -> Rewards:
    """What responses to a prompt are worth to a profile."""
    state = state_of(request)
    with _finding(state, caller_of(request), body.profile) as profiles, state.reading():
        return Rewards(
            profile=body.profile, data=profiles.rewards(body.profile, prompt_of(body.prompt), body.responses)
        )
