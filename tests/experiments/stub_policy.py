"""Policies, users and judges made by hand: what is sampled and judged can be read off the texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from fedvpa.alignment.stage1 import Users
from fedvpa.evaluation.judges.base import Duel, Verdict
from fedvpa.experiments.contests import Served
from fedvpa.selector.posterior import Posterior


class StubTokenizer:
    """Texts are their own bytes."""

    def prompts(self, texts: Sequence[Any]) -> list[np.ndarray]:
        return [np.frombuffer(str(text).encode(), np.uint8).astype(np.int32) for text in texts]

    def text(self, ids: np.ndarray) -> str:
        return bytes(ids.astype(np.uint8)).decode()


class StubPolicy:
    """Answers with its name, the prompt, z, the temperature and its random stream. ``calls`` are the prompts asked."""

    def __init__(self, name: str, calls: list[tuple[str, int]] | None = None) -> None:
        self.name, self.calls, self.tokenizer = name, [] if calls is None else calls, StubTokenizer()
        self.again = None

    def sample(
        self, prompts: Sequence[np.ndarray], z: Any, sampling: Any, seed: int, *path: Any, kept: Any = None
    ) -> list[np.ndarray]:
        self.calls.append((self.name, len(prompts)))
        stream = ".".join(map(str, (seed, *path)))
        texts = [
            f"{self.name} to {self.tokenizer.text(ids)} at {None if z is None else z[row].tolist()} "
            f"with {sampling.temperature}, {sampling.top_p}, {sampling.max_new_tokens} by {stream}"
            for row, ids in enumerate(prompts)
        ]
        return self.tokenizer.prompts(texts)

    @contextmanager
    def reference(self) -> Iterator[StubPolicy]:
        yield StubPolicy("base", self.calls)


class PrefersPolicy:
    """A judge that knows the policy's answers by their first word, and keeps what it was asked."""

    name = "stub"

    def __init__(self, policy: str = "policy", missing: int = 0) -> None:
        self.policy, self.missing, self.asked = policy, missing, list[Duel]()

    def compare(self, duels: Sequence[Duel]) -> list[Verdict]:
        self.asked += duels
        scores = [float(duel.first.startswith(self.policy)) for duel in duels]
        found = [Verdict(score, first_seat=0.5) for score in scores]
        return [Verdict(None, "no reply")] * self.missing + found[self.missing :]


def users(groups: Sequence[str | None], first: float, prefix: str) -> Users:
    """A user for each group, with z = (first, 0), (first + 1, 0), …"""
    means = torch.tensor([[[first + row, 0.0]] for row in range(len(groups))]).view(-1, 1, 2)
    posterior = Posterior(torch.ones(len(groups), 1), means, torch.zeros_like(means)) if groups else None
    return Users(tuple(f"{prefix}{row}" for row in range(len(groups))), tuple(groups), posterior)


def served(**changes: Any) -> Served:
    """Three seen users of ``a``, one of ``b`` between them; one unseen user of each."""
    values: dict[str, Any] = {
        "method": "fedvpa_gp",
        "n_clients": 4,
        "seed": 5,
        "policies": ("",),
        "personal": True,
        "seen": users(["a", "b", "a", "a"], 10, "s"),
        "unseen": users(["b", "a"], 20, "u"),
        "latents": {"a": [1.0, 0.0], "b": [0.0, 1.0]},
    }
    return Served(**{**values, **changes})
