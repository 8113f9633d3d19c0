"""What goes wrong on the server, in the form of OpenAI's API: ``{"error": {message, type, param, code}}``."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from fedvpa.core.errors import InputError, StorageError, TrainingError
from fedvpa.core.unicode import storable
from fedvpa.serving.requests import ServingError

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "unavailable_error",
}
"""Status → OpenAI's word for the kind of error; ``server_error`` for all others."""

GONE = 499
"""The status of a request whose client went away before it was answered, as nginx counts it. Nobody receives it."""

_TAGS = re.compile(r"[A-Z]|.*[\[\]()-]|(str|int|float|bool|none|dict|list)$")
"""What pydantic puts into the place of an error beside names of fields: the kind that it tried."""


class ApiError(Exception):
    """A request that cannot be met.

    Args:
        status: Of HTTP.
        message: What was given, why it cannot be, what to do.
        param: The field of the request that is meant, such as ``messages[0].role``.
        code: A word for programs, such as ``model_not_found``.
        headers: Of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """For JSON."""
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        # What a client sent may be in it, and half a surrogate pair has no UTF-8.
        message, param = (None if text is None else storable(text) for text in (self.message, self.param))
        return {"error": {"message": message, "type": kind, "param": param, "code": self.code}}

    def response(self) -> JSONResponse:
        """As it is sent."""
        return JSONResponse(self.body(), self.status, headers=self.headers)


class ErrorDetail(BaseModel):
    """What is wrong with a request."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of every answer whose status is not 2xx."""

    error: ErrorDetail


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of an endpoint, for its entry in ``/openapi.json``; those of every endpoint are in."""
    found: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorBody} for status in sorted({400, 401, 403, 413, 503, *statuses})
    }
    return found | {"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}}


def install(app: FastAPI) -> None:
    """Let an application answer errors in this form."""
    app.add_exception_handler(ApiError, _own)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(InputError, _input)
    app.add_exception_handler(StorageError, _storage)
    app.add_exception_handler(ServingError, _unavailable)
    app.add_exception_handler(TrainingError, _undrawable)
    app.add_exception_handler(Exception, _unexpected)


async def _own(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return invalid(error.errors()).response()


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = f"{request.method} {request.url.path}"
    messages = {
        404: f"There is no {path} here; /openapi.json lists what there is.",
        405: f"{path} is not allowed.",
    }
    return ApiError(error.status_code, messages.get(error.status_code, error.detail), headers=error.headers).response()


async def _input(request: Request, error: Exception) -> Response:
    return ApiError(400, str(error)).response()


async def _unavailable(request: Request, error: Exception) -> Response:
    return ApiError(503, str(error), code="unavailable").response()


async def _undrawable(request: Request, error: Exception) -> Response:
    return undrawable(error).response()


def undrawable(error: Exception) -> ApiError:
    """The answer where the policy gives no numbers to draw by, as far from its prototypes as a request may ask."""
    return ApiError(400, str(error), code="no_numbers")


async def _storage(request: Request, error: Exception) -> Response:
    logging.getLogger(__name__).error("%s", error)
    return ApiError(503, "The server cannot write to its disk.", code="storage").response()


async def _unexpected(request: Request, error: Exception) -> Response:
    """Starlette raises the error again once this is sent, and the server logs it."""
    return ApiError(500, "The server failed at this request; its log says why.").response()


def invalid(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """What pydantic found in a request, as one error about the first field that it names."""
    first = max((error for error in errors if _field(error) == _field(errors[0])), key=lambda error: len(error["loc"]))
    param = place(first["loc"])
    same = [error for error in errors if error["loc"][:-1] == first["loc"][:-1] and place(error["loc"]) == param]
    match first["type"]:
        case _ if not param and first["type"] != "json_invalid":
            return ApiError(400, "The body is no JSON object, or its header no Content-Type: application/json.")
        case "missing":
            return ApiError(400, f"{param} is required.", param=param, code="missing_required_parameter")
        case "extra_forbidden":
            message = f"{param} is not supported by this server; /openapi.json lists what is."
            return ApiError(400, message, param=param, code="unsupported_parameter")
        case "json_invalid":
            return ApiError(400, f"The body is no JSON: {(first.get('ctx') or {}).get('error', first['msg'])}.")
    said = _sentences(error["msg"] for error in same)
    return ApiError(400, f"{param}: {said}.", param=param, code="invalid_value")


def place(loc: Iterable[str | int]) -> str:
    """The place of an error as OpenAI writes it: ``messages[0].content``."""
    found = ""
    for part in list(loc)[1:]:
        if isinstance(part, int):
            found += f"[{part}]" if found else ""
        elif not _TAGS.match(part):
            found += f".{part}" if found else part
    return found


def _field(error: Mapping[str, Any]) -> Any:
    """The field of the body that an error is about."""
    return error["loc"][1:2]


def _sentences(messages: Iterable[str]) -> str:
    cleaned = (re.sub(r"^Value error, ", "", message).rstrip(".") for message in messages)
    return "; or ".join(list(dict.fromkeys(cleaned))[:3])
