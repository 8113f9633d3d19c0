"""What a request passes before any endpoint sees it: who sends it, how long it is, whether there is time for it."""

from __future__ import annotations

import ipaddress
import json
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedvpa.serving.errors import ApiError
from fedvpa.serving.keys import Caller
from fedvpa.serving.page_files import PAGE
from fedvpa.serving.state import State

OPEN = ("/", "/health", "/openapi.json")
"""What needs no key, as the files of the page: it tells nothing of anybody."""

UNCOUNTED = ("/health", "/metrics", "/openapi.json")
"""What is answered while the server drains, and what a drain does not wait for."""

WHOLE = ("/metrics",)
"""What a key with one profile may not see."""

PATIENCE = 16_000_000
"""Bytes over the limit that are read and forgotten: a client whose connection is closed while it sends sees no answer.
Chosen by us."""

KEY_HELP = "Send a key: Authorization: Bearer KEY. The server's operator makes one with: fedvpa keys RUN add NAME"


class Gate:
    """Middleware of one server.

    Args:
        app: What is behind it.
        state: Of the server.
        max_body: Bytes that a request's body may have.
        needs_key: Whether a key is needed although there may be none; with keys there one always is.
    """

    def __init__(self, app: ASGIApp, state: State, max_body: int, needs_key: bool) -> None:
        self._app, self._state, self._max_body = app, state, max_body
        self._needs_key = needs_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        metrics, began, status = self._state.metrics, time.monotonic(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._pass(scope, receive, sending)
        finally:
            endpoint = getattr(scope.get("route"), "path", "none")
            metrics.requests.labels(endpoint, str(status or 500)).inc()
            metrics.seconds.labels(endpoint).observe(time.monotonic() - began)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, headers = scope["path"], Headers(scope=scope)
        try:
            scope["fedvpa.caller"] = self._caller(path, headers)
            if path in UNCOUNTED:
                await self._app(scope, receive, send)
                return
            if self._state.lifecycle.draining:
                raise ApiError(
                    503,
                    "The server is about to stop and takes no new requests.",
                    code="draining",
                    headers={"Retry-After": "5", "Connection": "close"},
                )
            with self._state.lifecycle.request():
                body = await self._body(headers, receive)
                check_letters(body)
                await self._app(scope, _replayed(body, receive), send)
        except ApiError as error:
            await error.response()(scope, receive, send)

    def _caller(self, path: str, headers: Headers) -> Caller:
        """Who sends a request.

        Raises:
            ApiError: 401 without a right key where one is needed; 403 for a key that may not see this, and for a page
                of another host that a browser was led to ask from.
        """
        self._needs_key = self._needs_key or bool(self._state.keys.all())  # once needed, needed until the end
        if not self._needs_key:
            host = headers.get("host", "")
            if not is_loopback(_name_of(host)):
                message = f"Without keys this server answers to 127.0.0.1 and localhost only, and not to {host!r}."
                raise ApiError(403, f"{message} Make a key: fedvpa keys RUN add NAME", code="foreign_host")
            return Caller()
        if path in OPEN or path.startswith(PAGE):
            return Caller()
        scheme, _, token = headers.get("authorization", "").partition(" ")
        caller = self._state.keys.caller(token.strip()) if scheme.lower() == "bearer" else None
        if caller is None:
            said = "This key is not known." if token else "A key is needed, and none was sent."
            raise ApiError(401, f"{said} {KEY_HELP}", code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        if caller.profile is not None and path in WHOLE:
            raise ApiError(403, "This key is for one profile.", code="bound_key")
        return caller

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body of a request.

        Raises:
            ApiError: 413 if it is too long; 400 if the client goes away in the middle of it.
        """
        said = headers.get("content-length", "")
        hopeless = said.isascii() and said.isdigit() and int(said[:20]) > self._max_body + PATIENCE
        parts, length, more = list[bytes](), 0, not hopeless
        while more and length <= self._max_body + PATIENCE:
            part = await receive()
            if part["type"] == "http.disconnect":
                raise ApiError(400, "The body ended early.")
            length, more = length + len(part.get("body", b"")), part.get("more_body", False)
            if length <= self._max_body:
                parts.append(part.get("body", b""))
        if hopeless or length > self._max_body:
            message = f"The body has more than {self._max_body:,} bytes."
            raise ApiError(413, message, code="body_too_large", headers={"Connection": "close"})
        return b"".join(parts)


def check_letters(body: bytes) -> None:
    """Refuse a body with half a surrogate pair, which JSON can write and nothing else can hold.

    Raises:
        ApiError: 400 if there is one.
    """
    if b"\\ud" not in body.lower():
        return
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        message = "A text holds half a surrogate pair, which UTF-8 cannot hold."
        raise ApiError(400, f"{message} Send whole letters.", code="invalid_value") from error
    except (ValueError, RecursionError):
        return  # no JSON, as the endpoint will say


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A body that was read, to be read once more; what comes behind it is the connection's."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _name_of(host: str) -> str:
    """The name in a ``Host`` header, without its port; empty if there is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether a name or an address stands for this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
