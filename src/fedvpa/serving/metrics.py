"""What ``/metrics`` shows: numbers of requests, tokens and seconds. No name of a profile, a key or a text is in it."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The media type of Prometheus' text format."""

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Bounds of the histograms: those that Prometheus suggests for the web, and longer ones for long answers."""


class Metrics:
    """The counters of one server.

    Args:
        active: Gives how many answers run now.
        waiting: Gives how many wait.
        profiles: Gives how many profiles are stored.
    """

    def __init__(
        self,
        active: Callable[[], float] = lambda: 0,
        waiting: Callable[[], float] = lambda: 0,
        profiles: Callable[[], float] = lambda: 0,
    ) -> None:
        self._registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"fedvpa_{name}", text, labels, registry=self._registry)

        self.requests = counter("requests", "Requests by endpoint and status.", "endpoint", "status")
        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts.")
        self.generated = counter("generated_tokens", "Tokens of answers.")
        self.cancelled = counter("cancelled", "Requests whose client went away.")
        self.seconds = Histogram(
            "fedvpa_request_seconds",
            "From a request to the end of its answer.",
            ("endpoint",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self.first_token = Histogram(
            "fedvpa_first_token_seconds",
            "From a request to the first token of its answer.",
            buckets=SECONDS,
            registry=self._registry,
        )
        for name, text, read in (
            ("answers_running", "Answers that are being generated.", active),
            ("answers_waiting", "Answers that wait for their turn.", waiting),
            ("profiles", "Profiles that are stored.", profiles),
        ):
            Gauge(f"fedvpa_{name}", text, registry=self._registry).set_function(read)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)
