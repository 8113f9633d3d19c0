"""The server as an ASGI application."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from fedvpa.core.version import __version__
from fedvpa.serving import chat, completions, errors, page_routes, profile_routes, responses
from fedvpa.serving.gate import Gate
from fedvpa.serving.metrics import TYPE
from fedvpa.serving.state import State, caller_of, state_of

MAX_BODY = 1_000_000
"""Bytes of a request. Chosen by us: a thousand pairs of a paragraph each."""

router = APIRouter()


class Model(BaseModel):
    """What can be asked for under one name."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "fedvpa"


class ModelList(BaseModel):
    """What can be asked for."""

    object: Literal["list"] = "list"
    data: list[Model]


class Health(BaseModel):
    """Whether the server takes requests."""

    status: Literal["ok", "draining"]


@router.get("/v1/models", response_model=ModelList, responses=errors.responses(), tags=["models"])
def list_models(request: Request) -> ModelList:
    """The base and the preferences that the key may see."""
    catalogue = state_of(request).catalogue
    found = catalogue.visible(caller_of(request))
    return ModelList(data=[Model(id=name, created=catalogue.created) for name in found])


@router.get("/v1/models/{model}", response_model=Model, responses=errors.responses(404), tags=["models"])
def read_model(model: str, request: Request) -> Model:
    """Whether a name can be asked for."""
    catalogue = state_of(request).catalogue
    return Model(id=catalogue.find(model, caller_of(request)).name, created=catalogue.created)


@router.get("/health", response_model=Health, responses={503: {"model": Health}}, tags=["operation"])
async def health(request: Request) -> Response:
    """Whether the server takes requests; 503 while it drains. Needs no key."""
    draining = state_of(request).lifecycle.draining
    return JSONResponse(Health(status="draining" if draining else "ok").model_dump(), 503 if draining else 200)


@router.get("/metrics", response_class=Response, responses=errors.responses(), tags=["operation"])
async def metrics(request: Request) -> Response:
    """Counters for Prometheus. A key with one profile may not see them."""
    return Response(await run_in_threadpool(state_of(request).metrics.text), media_type=TYPE)


def make_app(
    state: State, *, max_body: int = MAX_BODY, needs_key: bool = False, origins: Sequence[str] = ()
) -> FastAPI:
    """The application.

    Args:
        state: What is served.
        max_body: Bytes that a request's body may have.
        needs_key: Whether a key is needed although there may be none.
        origins: Web pages of these origins may ask from a browser (CORS); none by default.
    """
    app = FastAPI(
        title="fedvpa",
        version=__version__,
        description="A policy that follows its users' preferences, behind OpenAI's API.",
        docs_url=None,  # both pages take scripts from elsewhere
        redoc_url=None,
        dependencies=[Depends(HTTPBearer(auto_error=False, description="A key of `fedvpa keys RUN add NAME`."))],
    )
    app.state.fedvpa = state
    errors.install(app)
    app.include_router(router)
    for part in (chat, completions, responses, profile_routes, page_routes):
        app.include_router(part.router)
    app.add_middleware(Gate, state=state, max_body=max_body, needs_key=needs_key)
    if origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST", "DELETE"], allow_headers=["*"]
        )
    return app
