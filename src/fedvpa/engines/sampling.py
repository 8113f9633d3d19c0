"""Which clients a round asks, and which of them drop out: decided by client id, never by position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedvpa.core.progress import say
from fedvpa.core.seeds import entropy

_MASK = (1 << 64) - 1


def identities(client_ids: Sequence[str]) -> NDArray[np.uint64]:
    """A 64-bit number for each id, computed once a run."""
    return np.array([entropy(0, "client-id", name) & _MASK for name in client_ids], dtype=np.uint64)


def scores(hashed: NDArray[np.uint64], seed: int, purpose: str, round_: int) -> NDArray[np.uint64]:
    """A pseudo-random number per client that depends on (seed, purpose, round, its id) only: splitmix64 of id ⊕ key."""
    value = hashed ^ np.uint64(entropy(seed, purpose, round_) & _MASK)
    with np.errstate(over="ignore"):
        value = value + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def say_if_all(size: int, clients: int, key: str) -> None:
    """Say it where a cohort is larger than the federation, so that nobody believes that so many were asked.

    Args:
        size: Clients per round, as configured.
        clients: How many there are.
        key: The configuration key of ``size``.
    """
    if size > clients:
        say(f"{key}={size}, and there are {clients} clients: each round asks all of them")


def draw_cohort(client_ids: Sequence[str], hashed: NDArray[np.uint64], size: int, seed: int, round_: int) -> list[str]:
    """The ``size`` clients with the smallest scores, ordered by score; all of them if there are no more.

    Adding a client changes a cohort only by that client entering it in place of the last one.
    """
    score = scores(hashed, seed, "cohort", round_)
    size = min(size, len(client_ids))
    rows = np.argpartition(score, size - 1)[:size]
    return [client_ids[row] for row in rows[np.argsort(score[rows], kind="stable")]]


def draw_dropouts(cohort: Sequence[str], rate: float, seed: int, round_: int) -> frozenset[str]:
    """The clients of a cohort that fall silent this round, each with probability ``rate``."""
    if not rate:
        return frozenset()
    score = scores(identities(cohort), seed, "dropout", round_).astype(np.float64) / 2.0**64
    return frozenset(name for name, value in zip(cohort, score, strict=True) if value < rate)
