"""``/``: a page on which a person teaches the model a preference, talks to it, and manages profiles.

It asks the public API alone.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel

from fedvpa.serving.errors import ApiError, responses
from fedvpa.serving.latent_map import latent_map
from fedvpa.serving.page_files import FILES, HEADERS, PAGE
from fedvpa.serving.state import caller_of, state_of

router = APIRouter()


class LandmarkObject(BaseModel):
    """A prototype of the policy."""

    name: str
    z: list[float]


class MapObject(BaseModel):
    """A projection of z to a plane: (axes[0]·(z − centre), axes[1]·(z − centre))."""

    centre: list[float]
    axes: list[list[float]]
    prototypes: list[LandmarkObject]


class MapAnswer(BaseModel):
    """The map, or null for a policy without prototypes that could be told apart."""

    map: MapObject | None


@router.get("/", include_in_schema=False)
def page() -> Response:
    """The page."""
    return page_file("index.html")


@router.get(PAGE + "{name}", include_in_schema=False)
def page_file(name: str) -> Response:
    """A file of the page."""
    if name not in FILES:
        raise ApiError(404, f"The page has no file {name!r}.")
    content, kind = FILES[name]
    return Response(content, media_type=kind, headers=HEADERS)


@router.get("/v1/map", response_model=MapAnswer, responses=responses(), tags=["profiles"])
def read_map(request: Request) -> MapAnswer:
    """Where the prototypes are, and the plane in which they lie farthest apart."""
    catalogue, caller = state_of(request).catalogue, caller_of(request)
    policy = catalogue.one.policy
    groups = {name: z for name, z in policy.preferences.items() if caller.may(name)}
    found = latent_map(policy.prototypes, groups) if catalogue.follows_z else None
    if found is None:
        return MapAnswer(map=None)
    prototypes = [LandmarkObject(name=one.name, z=list(one.z)) for one in found.prototypes]
    return MapAnswer(map=MapObject(centre=list(found.centre), axes=list(map(list, found.axes)), prototypes=prototypes))
