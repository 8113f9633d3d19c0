"""A server in a thread, with an engine that says what it was asked and profiles in memory: for tests of HTTP alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from fedvpa.policy.policy import Policy
from fedvpa.serving.app import make_app
from fedvpa.serving.catalogue import Catalogue, Served
from fedvpa.serving.generation import Generation
from fedvpa.serving.keys import Keys
from fedvpa.serving.lifecycle import Lifecycle
from fedvpa.serving.metrics import Metrics
from fedvpa.serving.profile_routes import ReadingGate
from fedvpa.serving.profile_store import ProfileExists, UnknownProfile
from fedvpa.serving.requests import GenerationRequest, Piece, QueueFull, TokenLogprob
from fedvpa.serving.server import Server, address_of, listen
from fedvpa.serving.state import State

WORDS = ("w3", " w1", " w4", " w1", " w5")
"""What the engine answers, a token each."""


class Watched(Generation):
    """A generation that tells when it is cancelled. It has one reader, the server."""

    def __init__(self, request: GenerationRequest) -> None:
        super().__init__(request)
        self.gone = threading.Event()

    def cancel(self) -> None:
        super().cancel()
        self.gone.set()


class EchoEngine:
    """Answers every request by the same words, and keeps what was asked."""

    def __init__(self) -> None:
        self.asked: list[GenerationRequest] = []
        self.begun: list[Watched] = []
        self.full = False
        self.holding = False
        self.submitted = threading.Event()

    def submit(self, request: GenerationRequest) -> Watched:
        if self.full:
            raise QueueFull(waiting=7, retry_after=2.5)
        self.asked.append(request)
        made = Watched(request)
        self.begun.append(made)
        if self.holding:
            made.put(self.piece(request, 0, 1))
        else:
            self.finish(made)
        self.submitted.set()
        return made

    def finish(self, made: Generation, start: int = 0) -> None:
        """Say the words that are left."""
        longest = made.request.sampling.max_new_tokens
        for number in range(start, min(longest, len(WORDS))):
            made.put(self.piece(made.request, number, number + 1))
        made.put(Piece("", (), (), "stop" if len(WORDS) < longest else "length"))

    def piece(self, request: GenerationRequest, start: int, stop: int) -> Piece:
        logprobs = [
            TokenLogprob(
                9 + place, WORDS[place], -0.5 * (place + 1), ((9 + place, WORDS[place], -0.5), (8, " w", -2.0))
            )
            for place in range(start, stop)
        ]
        told = (
            ()
            if request.top_logprobs is None
            else tuple(replace(one, top=one.top[: request.top_logprobs]) for one in logprobs)
        )
        return Piece("".join(WORDS[start:stop]), tuple(9 + place for place in range(start, stop)), told, None)


@contextmanager
def held(engine: EchoEngine) -> Iterator[None]:
    """While inside, answers begin and do not end."""
    engine.holding = True
    engine.submitted.clear()
    try:
        yield
    finally:
        engine.holding = False


@dataclass(frozen=True)
class Kept:
    """A profile as :class:`fedvpa.serving.profiles.Profile` has it."""

    name: str
    pairs: int
    ties: int
    mean: list[float]
    std: list[float]
    responsibilities: list[float]
    prototype: int = 0
    created: str = "2026-01-01T00:00:00+00:00"
    updated: str = "2026-01-01T00:00:00+00:00"
    selector: str = "0123"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class DictProfiles:
    """Profiles in a dictionary, whose z is told by their first pair."""

    latent: int
    kept: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def names(self) -> list[str]:
        return sorted(self.kept)

    def create(self, name: str, pairs: list[dict[str, Any]]) -> Kept:
        if name in self.kept:
            raise ProfileExists(f"There is a profile {name!r} already.")
        self.kept[name] = list(pairs)
        return self.get(name)

    def add(self, name: str, pairs: list[dict[str, Any]]) -> Kept:
        self.get(name)
        self.kept[name] += pairs
        return self.get(name)

    def get(self, name: str) -> Kept:
        if name not in self.kept:
            raise UnknownProfile(f"There is no profile {name!r}.", fix=f"Known: {', '.join(self.kept)}.")
        pairs = self.kept[name]
        ties = sum(pair["winner"] == "tie" for pair in pairs)
        return Kept(name, len(pairs), ties, self.z(name), [1.0] * self.latent, [0.5, 0.5])

    def z(self, name: str) -> list[float]:
        return [len(name) + place / 8 for place in range(self.latent)]

    def z_of(self, pairs: list[dict[str, Any]]) -> list[float]:
        return [float(len(pairs))] * self.latent

    def delete(self, name: str) -> None:
        self.get(name)
        del self.kept[name]

    def export(self, name: str) -> dict[str, Any]:
        return {**self.get(name).to_dict(), "judged": self.kept[name]}

    def next(self, name: str, *, skip: int = 0) -> None:
        self.get(name)

    def rewards(self, name: str, prompt: Any, responses: list[str]) -> list[float]:
        self.get(name)
        return [float(len(response)) for response in responses]


@dataclass
class Running:
    """A server that runs.

    Attributes:
        url: Its address.
        state: What it serves.
        engine: What it asks.
        server: Ends it.
        thread: In which it runs.
    """

    url: str
    state: State
    engine: EchoEngine
    server: Server
    thread: threading.Thread

    def http(self, key: str | None = None) -> httpx.Client:
        """A client without the SDK."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, verify=False)


def make_state(policy: Policy, keys: Path, engine: EchoEngine | None = None, **values: Any) -> State:
    """What a server of one policy serves."""
    served = {"": Served(policy, engine or EchoEngine())}
    catalogue = Catalogue("tiny", served, "fedeb", created=17)
    store = DictProfiles(policy.conditioner.latent) if catalogue.follows_z else None
    found: dict[str, Any] = {
        "catalogue": replace(catalogue, profiles=store),
        "profiles": store,
        "no_profiles": "" if store else catalogue.without_z(),
        "keys": Keys(keys),
        "metrics": Metrics(),
        "lifecycle": Lifecycle(),
        "reading": ReadingGate(),
    }
    return State(**(found | values))


@contextmanager
def running(state: State, *, drain_seconds: float = 5.0, **options: Any) -> Iterator[Running]:
    """A server on a free port of this machine."""
    listening, ready = listen("127.0.0.1", 0), threading.Event()
    server = Server(make_app(state, **options), state.lifecycle, drain_seconds, ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    url = address_of(listening)
    thread.start()
    try:
        assert ready.wait(30)
        yield Running(url, state, state.catalogue.one.engine, server, thread)
    finally:
        server.end()
        thread.join(30)
        assert not thread.is_alive()
