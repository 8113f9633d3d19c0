"""Server-sent events."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator
from typing import Any

from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from fedvpa.core.errors import TrainingError
from fedvpa.serving.errors import ApiError, undrawable
from fedvpa.serving.requests import ServingError


class EventStream(StreamingResponse):
    """Server-sent events. They end, and what makes them is closed, when the client goes away.

    Args:
        events: Each with its ``data:``.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[str]) -> None:
        super().__init__(_guarded(events), headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send what comes."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()


async def _guarded(events: AsyncGenerator[str]) -> AsyncGenerator[str]:
    """The events, and one that says that no more come if the server fails: its status has been sent by then."""
    try:
        async for one in events:
            yield one
    except ApiError as error:
        yield event(error.body())
    except TrainingError as error:
        yield event(undrawable(error).body())
    except ServingError as error:
        yield event(ApiError(503, str(error), code="unavailable").body())
    except Exception:
        logging.getLogger(__name__).exception("a stream failed")
        yield event(ApiError(500, "The server failed at this request; its log says why.").body())


def event(data: BaseModel | dict[str, Any] | str, name: str = "") -> str:
    """One server-sent event.

    Args:
        data: An object for JSON, or text as it is.
        name: Of the event; without one it has only data.
    """
    if isinstance(data, BaseModel):
        data = data.model_dump_json(exclude_unset=True)
    said = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, allow_nan=False)
    return f"{f'event: {name}' + chr(10) if name else ''}data: {said}\n\n"


DONE = event("[DONE]")
"""What ends a stream of OpenAI's API."""
