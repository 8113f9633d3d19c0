"""Requests that schemathesis makes from ``/openapi.json``, right and wrong ones: does ``fedvpa serve`` ever say 500?

Half of the requests for generation name a model that is there, and half of those about profiles a profile, since chance
would hardly do so. Prints JSON: requests by endpoint and status, what came back with a status of 500 or more, and what
was not as ``/openapi.json`` says. Exits with 1 if there is any. Needs ``pip install schemathesis``, which is no
dependency of fedvpa, not even for its development.

    python benchmarks/serving_fuzz.py RUN --examples 60
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from _machine import machine_facts
from _server import Started, started

if TYPE_CHECKING:
    from schemathesis import GenerationMode

PROFILE = "ana"
PAIRS = [
    {"prompt": "How do I plan a picnic?", "chosen": "Bring a rug.", "rejected": "No."},
    {"prompt": "How do I plan a picnic?", "response_a": "Why?", "response_b": "Bring bread.", "winner": "B"},
]


def likely(case: Any, number: int, name: str) -> None:
    """Let every second request be about something that is there."""
    if number % 2:
        return
    if isinstance(case.body, dict) and "model" in case.body:
        case.body["model"] = (name, f"{name}:{PROFILE}", f"{name}:0")[number // 2 % 3]
        # Without what a chance value makes wrong: names that are not there, limits, fields that need others.
        if number % 4:
            for field in ("user", "metadata", "z", "stream_options", "top_logprobs", "max_completion_tokens"):
                case.body.pop(field, None)
            limit = "max_output_tokens" if "input" in case.body else "max_tokens"
            case.body[limit] = 5
    if isinstance(case.body, dict) and "profile" in case.body:
        case.body["profile"] = PROFILE
    if case.path_parameters:
        for field, value in (("name", PROFILE), ("model", f"{name}:{PROFILE}")):
            if field in case.path_parameters:
                case.path_parameters[field] = value


class Found:
    """What came back.

    Args:
        server: Who is asked.
        http: Asks about the profile beside.
    """

    def __init__(self, server: Started, http: httpx.Client) -> None:
        self.counts: Counter[str] = Counter()
        self.broken: list[dict[str, Any]] = []
        self.strange: dict[str, str] = {}
        self._server, self._http = server, http

    def ask(self, case: Any, mode: str) -> None:
        """Send a request and judge the answer."""
        if self._http.get(f"/v1/profiles/{PROFILE}").status_code == 404:  # an earlier request has deleted it
            self._http.post("/v1/profiles", json={"name": PROFILE, "pairs": PAIRS}).raise_for_status()
        likely(case, self.counts.total(), self._server.name)
        told = case.call(timeout=120)
        label = case.operation.label
        self.counts[f"{label} {mode} {told.status_code}"] += 1
        if told.status_code >= 500:
            sent = {"body": repr(case.body)[:2000], "path": repr(case.path_parameters)}
            self.broken.append({"endpoint": label, "status": told.status_code, **sent, "told": told.text[:500]})
        elif "event-stream" not in told.headers.get("content-type", [""])[0]:
            try:
                case.operation.validate_response(told)
            except AssertionError as error:
                self.strange.setdefault(f"{label} {told.status_code}", str(error)[:500])

    def fuzz(self, operation: Any, mode: GenerationMode, examples: int, number: int) -> None:
        """Ask one endpoint many times."""
        from hypothesis import HealthCheck, Phase, given, seed, settings

        @seed(number)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def one(case: Any) -> None:
            self.ask(case, mode.value)

        one()


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--examples", type=int, default=60, help="of each endpoint, right ones and wrong ones each")
    parser.add_argument("--seed", type=int, default=0)
    given_ = parser.parse_args()
    import schemathesis
    from hypothesis.errors import Unsatisfiable
    from schemathesis import GenerationMode

    began = time.monotonic()
    with (
        started(given_.run, "--allow-z") as server,
        httpx.Client(base_url=server.url, trust_env=False, timeout=120) as http,
    ):
        found = Found(server, http)
        for operation in schemathesis.openapi.from_url(f"{server.url}/openapi.json").get_all_operations():
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                with contextlib.suppress(Unsatisfiable):  # some have nothing that could be wrong
                    found.fuzz(operation.ok(), mode, given_.examples, given_.seed)
        tracebacks = server.tracebacks()
    print(
        json.dumps(
            {
                "machine": machine_facts(),
                "seconds": round(time.monotonic() - began, 1),
                "requests": found.counts.total(),
                "tracebacks": tracebacks,
                "counts": dict(sorted(found.counts.items())),
                "server_errors": found.broken,
                "not_as_described": found.strange,
            },
            indent=2,
        )
    )
    sys.exit(1 if found.broken or tracebacks else 0)


if __name__ == "__main__":
    main()
