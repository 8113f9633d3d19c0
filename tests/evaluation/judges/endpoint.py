"""A local server that speaks chat completions, answers by a rule, and misbehaves by another one."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fedvpa.evaluation.judges.base import Duel, Verdict
from fedvpa.evaluation.judges.endpoint_config import EndpointConfig

KEY = "k-secret"
QUESTION = re.compile(
    r"<conversation>\n(?P<prompt>.*)\n</conversation>.*<response_A>\n(?P<a>.*)\n</response_A>.*"
    r"<response_B>\n(?P<b>.*)\n</response_B>",
    re.DOTALL,
)


@dataclass(frozen=True)
class Asked:
    """One request as the server saw it; ``turn`` counts the requests of the same order of the same duel from 0."""

    body: dict[str, Any]
    headers: dict[str, str]
    prompt: str
    a: str
    b: str
    turn: int


@dataclass(frozen=True)
class Status:
    """Answer with an error."""

    code: int
    message: str = "no"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Raw:
    """Answer 200 with these bytes; ``announced`` is the length that the header claims."""

    body: bytes
    announced: int | None = None


class Silence:
    """Accept the request and say nothing."""


Reaction = str | Status | Raw | Silence | dict[str, Any]


def longer(asked: Asked) -> str:
    """A judge without a bias for a place: the longer response."""
    return "A" if len(asked.a) > len(asked.b) else "B"


class Endpoint:
    """The server; ``react`` decides on every request."""

    def __init__(self) -> None:
        self.react: Callable[[Asked], Reaction] = longer
        self.asked: list[Asked] = []
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        self.released = threading.Event()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # header and body in one packet: two would wait for a delayed acknowledgement

            def do_POST(self) -> None:
                endpoint.serve(self)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64  # a full queue drops connections, which come back a second later

            def handle_error(self, *_: Any) -> None:  # a client that went away is part of the tests
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        found = QUESTION.search(body["messages"][1]["content"])
        assert found is not None
        with self.lock:
            turn = sum((each.prompt, each.a, each.b) == found.group("prompt", "a", "b") for each in self.asked)
            asked = Asked(
                body,
                {name.lower(): value for name, value in handler.headers.items()},
                *found.group("prompt", "a", "b"),
                turn,
            )
            self.asked.append(asked)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        reaction: Reaction = self.react(asked) if handler.path == "/v1/chat/completions" else Status(404)
        with self.lock:
            self.in_flight -= 1
        if isinstance(reaction, Silence):
            self.released.wait(30)
            handler.close_connection = True
            return
        code, headers, announced = 200, {}, None
        match reaction:
            case str():
                content = json.dumps(completion(reaction)).encode()
            case dict():
                content = json.dumps(reaction).encode()
            case Status():
                code, headers = reaction.code, reaction.headers
                content = json.dumps({"error": {"message": reaction.message}}).encode()
            case Raw():
                content, announced = reaction.body, reaction.announced
        handler.send_response(code)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(announced or len(content)))
        handler.end_headers()
        handler.wfile.write(content)
        handler.close_connection = announced is not None

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def completion(text: str | None, finish: str = "stop") -> dict[str, Any]:
    """A chat completion of 101 tokens in and 3 out."""
    return {
        "id": "c",
        "object": "chat.completion",
        "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 101, "completion_tokens": 3, "total_tokens": 104},
    }


SHORT, LONG = "tiny", "a good deal longer"
DUELS = [Duel(f"question {n}?", *((LONG, SHORT) if n % 2 else (SHORT, LONG)), "helpful") for n in range(5)]
SCORES = [0.0, 1.0, 0.0, 1.0, 0.0]
"""What the judge :func:`longer` says about the duels."""


def said(score: float) -> Verdict:
    """The verdict of a judge that named the same response in both orders."""
    return Verdict(score, first_seat=0.5)


SAID = [said(score) for score in SCORES]
"""The verdicts of the judge :func:`longer` on the duels."""


def config(endpoint: Endpoint, **changes: Any) -> EndpointConfig:
    """Asks the endpoint at once and again, without pauses."""
    return EndpointConfig.parse({"base_url": endpoint.url, "model": "m", "backoff_s": 0.0, "retries": 2, **changes})


def scores(verdicts: list[Verdict]) -> list[float | None]:
    return [verdict.score for verdict in verdicts]
