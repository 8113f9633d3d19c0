"""A server under mixed load: chats, completions and responses, streamed and whole, profiles, aborts, wrong requests.

Each client sends one request after the other, chosen by a seed: a tenth goes away in the middle, a twentieth is wrong.
Memory of the server is read after a warm-up, which fills caches, and at the end. Prints JSON: requests by what was
expected and what came, seconds (median and 95th percentile), tokens per second, memory, and what was not as it should.
Exits with 1 if an answer was wrong, the server logged an error, or memory grew by more than 5%.

    python benchmarks/serving_load.py RUN --seconds 600 --clients 16
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from _machine import machine_facts
from _server import Started, started

ABORTED, WRONG = 0.10, 0.05
GROWTH = 0.05
PROMPTS = ("How do I plan a picnic?", "Hello!", "What is a good way to join two boards? " * 3)
PAIRS = [
    {"prompt": PROMPTS[0], "chosen": "Bring a rug.", "rejected": "No."},
    {"prompt": PROMPTS[1], "response_a": "Hello!", "response_b": "Good day to you.", "winner": "B"},
]
MISTAKES: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("/v1/chat/completions", {"model": "served", "messages": []}, 400),
    ("/v1/chat/completions", {"model": "served:nobody", "messages": [{"role": "user", "content": "a"}]}, 404),
    ("/v1/chat/completions", {"model": "served", "messages": [{"role": "user", "content": "a " * 2000}]}, 400),
    ("/v1/completions", {"model": "served", "prompt": "a", "echo": True}, 400),
    ("/v1/responses", {"model": "served", "input": "a", "tools": [{"type": "web_search"}]}, 400),
    ("/v1/profiles", {"name": "0", "pairs": PAIRS}, 409),
    ("/v1/profiles", {"name": "a" * 2_000_000}, 413),
)
"""(endpoint, body, status)."""


@dataclass
class Seen:
    """What came back.

    Attributes:
        counts: What was asked and what came → how often.
        seconds: Of requests that were answered whole.
        wrong: What should not have come.
        tokens: Of answers.
    """

    counts: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    tokens: int = 0

    def note(self, what: str, status: int, expected: tuple[int, ...], text: str = "") -> None:
        """Count an answer."""
        self.counts[f"{what} {status}"] += 1
        if status not in expected:
            self.wrong.append(f"{what}: {status} {text[:300]}")


def chat_of(draw: random.Random, own: str) -> tuple[str, dict[str, Any]]:
    """An endpoint and a body that can be answered."""
    model = draw.choice(["served", "served:0", "served:0.5", f"served:{own}", f"served:{own}"])
    prompt, most = draw.choice(PROMPTS), draw.choice([4, 16, 64])
    body: dict[str, Any] = {"model": model, "temperature": draw.choice([0, 0.7, 1.0])}
    match draw.randrange(4):
        case 0:
            return "/v1/completions", body | {"prompt": prompt, "max_tokens": most, "logprobs": draw.choice([None, 2])}
        case 1:
            return "/v1/responses", body | {"input": prompt, "max_output_tokens": most}
        case _:
            body |= {"messages": [{"role": "user", "content": prompt}], "max_tokens": most, "n": draw.choice([1, 1, 2])}
            return "/v1/chat/completions", body


async def talk(server: Started, http: httpx.AsyncClient, until: float, number: int, seen: Seen) -> None:
    """One client, until a time."""
    draw, own = random.Random(number), f"user-{number}"
    await make(http, own, seen)
    while time.monotonic() < until:
        kind = draw.random()
        if kind < WRONG:
            path, body, status = draw.choice(MISTAKES)
            told = await http.post(path, json=body)
            seen.note("wrong", told.status_code, (status,), told.text)
            continue
        if kind > 0.95:
            await about_a_profile(http, draw, own, seen)
            continue
        path, body = chat_of(draw, own)
        body["stream"] = draw.random() < 0.6
        began, aborted = time.monotonic(), kind < WRONG + ABORTED
        if aborted:
            await abort(http, path, body, draw.random(), seen)
            continue
        async with http.stream("POST", path, json=body) as told:
            text = (await told.aread()).decode()
        seen.note("answer", told.status_code, (200, 429), text)
        if told.status_code != 200:
            await asyncio.sleep(float(told.headers.get("Retry-After", 0)))
            continue
        seen.seconds.append(time.monotonic() - began)
        if body["stream"] and path != "/v1/responses" and not text.endswith("data: [DONE]\n\n"):
            seen.wrong.append(f"a stream of {path} did not end: {text[-200:]}")


async def make(http: httpx.AsyncClient, own: str, seen: Seen) -> None:
    """Make a profile, however often one has to come again."""
    while True:
        told = await http.post("/v1/profiles", json={"name": own, "pairs": PAIRS})
        seen.note("make a profile", told.status_code, (201, 409, 429), told.text)
        if told.status_code != 429:
            return
        await asyncio.sleep(float(told.headers["Retry-After"]))


async def about_a_profile(http: httpx.AsyncClient, draw: random.Random, own: str, seen: Seen) -> None:
    """Something that is asked of a profile."""
    match draw.randrange(4):
        case 0:
            told = await http.post(f"/v1/profiles/{own}/pairs", json={"pairs": PAIRS[:1]})
        case 1:
            told = await http.post("/v1/rewards", json={"profile": own, "prompt": PROMPTS[0], "responses": ["a", "b"]})
        case 2:
            told = await http.get(f"/v1/profiles/{own}")
        case _:
            await http.delete(f"/v1/profiles/{own}")
            await make(http, own, seen)
            return
    seen.note("profile", told.status_code, (200, 429), told.text)


async def abort(http: httpx.AsyncClient, path: str, body: dict[str, Any], when: float, seen: Seen) -> None:
    """Go away before the answer, or in the middle of it."""
    try:
        async with asyncio.timeout(0.5 * when):
            async with http.stream("POST", path, json=body) as told:
                async for _ in told.aiter_bytes():
                    if when < 0.5:
                        break
        seen.counts["aborted in the middle"] += 1
    except TimeoutError:
        seen.counts["aborted before"] += 1


async def load(server: Started, seconds: float, clients: int, first: int) -> Seen:
    """All clients for some seconds."""
    seen, until = Seen(), time.monotonic() + seconds
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=300, limits=limits) as http:
        await asyncio.gather(*(talk(server, http, until, first + number, seen) for number in range(clients)))
        for _ in range(100):  # what was aborted last may still be drawn
            told = (await http.get("/metrics")).text
            lines = dict(line.rsplit(" ", 1) for line in told.splitlines() if not line.startswith("#"))
            if not float(lines["fedvpa_answers_running"]):
                break
            await asyncio.sleep(0.1)
    seen.tokens = int(float(lines["fedvpa_generated_tokens_total"]))
    for gauge in ("fedvpa_answers_running", "fedvpa_answers_waiting"):
        seen.counts[f"{gauge} at the end"] = int(float(lines[gauge]))
    return seen


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--warm-up", type=float, default=60.0, help="seconds before memory is read for the first time")
    parser.add_argument("--clients", type=int, default=16)
    given = parser.parse_args()
    with started(given.run) as server:
        fresh = server.memory()
        warm = asyncio.run(load(server, given.warm_up, given.clients, 0))
        before, load_before = server.memory(), os.getloadavg()[0]
        began = time.monotonic()
        seen = asyncio.run(load(server, given.seconds, given.clients, 0))
        taken, after = time.monotonic() - began, server.memory()
        tracebacks = server.tracebacks()
    growth = after / before - 1
    found = {
        "machine": machine_facts(),
        "load": {"before": load_before, "after": os.getloadavg()[0]},
        "clients": given.clients,
        "seconds": round(taken, 1),
        "counts": dict(sorted(seen.counts.items())),
        "answers_per_second": round(len(seen.seconds) / taken, 2),
        "tokens_per_second": round((seen.tokens - warm.tokens) / taken, 1),
        "seconds_per_answer": {
            "median": round(float(np.median(seen.seconds)), 3),
            "p95": round(float(np.quantile(seen.seconds, 0.95)), 3),
        },
        "memory_mb": {"started": fresh, "warm": before, "end": after},
        "growth": round(growth, 4),
        "tracebacks": tracebacks,
        "wrong": (warm.wrong + seen.wrong)[:20],
    }
    print(json.dumps(found, indent=2))
    sys.exit(1 if found["wrong"] or tracebacks or growth > GROWTH else 0)


if __name__ == "__main__":
    main()
