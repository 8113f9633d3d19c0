"""The one currency of every table: how many pairs of a client a method ordered as the client did.

A control of a method (another group's z, the prior mean as z, permuted contexts) is scored under the name
``method:control``, e.g. ``fedvpa_gp:swapped_z``; see :func:`control_of`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fedvpa.core.errors import DataError
from fedvpa.core.short_repr import short_repr
from fedvpa.evaluation.records import load_records, save_records

CONTROL_SEPARATOR = ":"

SWAPPED_Z = "swapped_z"
"""Each client is scored with the z of another group."""
PRIOR_MEAN_Z = "prior_mean_z"
"""Every client is scored with the prior's mean as z."""
PERMUTED_CONTEXTS = "permuted_contexts"
"""Each client is scored with the z that another client's context gives."""

CONTROLS = {
    SWAPPED_Z: "must fall",
    PRIOR_MEAN_Z: "must be about global",
    PERMUTED_CONTEXTS: "must fall",
}
"""The controls of the evaluation protocol, and what the accuracy of a sound method does under each."""


RESULTS = {"1": 1.0, "h": 0.5, "0": 0.0}
"""How the result of one pair is written: right, a tie, wrong."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ItemResults:
    """What a client was tested on.

    Attributes:
        items: [n] a number for each item; the same pairs of one prompt have the same wherever they are tested.
        values: [n] the share of its pairs that was right.
        counts: [n] how many pairs it has.
    """

    items: NDArray[np.int64]
    values: NDArray[np.float64]
    counts: NDArray[np.float64]

    __repr__ = short_repr

    @classmethod
    def single(cls, item: int, value: float) -> Self:
        """One item with one number."""
        return cls(np.array([item], dtype=np.int64), np.array([value]), np.ones(1))

    def same(self, other: ItemResults | None) -> bool:
        """Whether two methods were tested on the same items and pairs, in the same order."""
        return (
            other is not None and np.array_equal(self.items, other.items) and np.array_equal(self.counts, other.counts)
        )


@dataclass(frozen=True, slots=True)
class ClientScore:
    """What one method got right on one client's test pairs in one run.

    Attributes:
        method: The algorithm's name, or ``method:control``.
        n_clients: How many clients the run trained on.
        seed: The run's seed.
        client_id: The client.
        group: The client's true preference group; None where the data do not say.
        seen: Whether the client took part in training; an unseen client only ever gave context pairs.
        correct: Test pairs whose chosen response got the higher reward; a tie counts one half.
        total: Test pairs of the client, at least 1. A client without test pairs has no score.
        holdout_correct: The same on further pairs that nobody saw; None without hold-out.
        holdout_total: How many hold-out pairs; None without hold-out.
        results: The result of each test pair, ``1``, ``h`` (a tie) or ``0``, pairs of one item together and items
            apart by spaces; None where they are not kept.
        items: The name of each item of ``results``, apart by spaces: what :func:`item_name` makes of a prompt, or of a
            pair. Pairs that other clients or seeds are tested on too are known by it.
        holdout_results: As ``results``, of the hold-out. The n-th item of a group is the same for all of its clients.

    Raises:
        DataError: For counts that cannot be.
    """

    method: str
    n_clients: int
    seed: int
    client_id: str
    group: str | None
    seen: bool
    correct: float
    total: int
    holdout_correct: float | None = None
    holdout_total: int | None = None
    results: str | None = None
    items: str | None = None
    holdout_results: str | None = None

    def __post_init__(self) -> None:
        _check_counts(self, "correct", self.correct, self.total)
        if (self.holdout_correct is None) != (self.holdout_total is None):
            raise DataError(
                f"{self._name()} has only one of holdout_correct and holdout_total.", fix="Give both or neither."
            )
        if self.holdout_correct is not None and self.holdout_total is not None:
            _check_counts(self, "holdout_correct", self.holdout_correct, self.holdout_total)
        if self.results is not None:
            _check_results(self, self.results, self.correct, self.total)
            if len((self.items or "").split()) != len(self.results.split()):
                raise DataError(f"{self._name()} names other items than it has results.", fix="Give one name each.")
        if self.holdout_results is not None:
            _check_results(self, self.holdout_results, self.holdout_correct, self.holdout_total)

    @classmethod
    def of_pairs(
        cls,
        method: str,
        n_clients: int,
        seed: int,
        client_id: str,
        group: str | None,
        seen: bool,
        *,
        right: Sequence[float],
        names: Sequence[str],
    ) -> Self:
        """The score of a client without hold-out.

        Args:
            method: As of the class; so the next five.
            n_clients: How many clients the run trained on.
            seed: The run's seed.
            client_id: The client.
            group: Its true preference group.
            seen: Whether it took part in training.
            right: 1, ½ or 0 for each test pair.
            names: What each pair is about; see :func:`item_name`.

        Raises:
            DataError: If there is no pair.
        """
        results, items = results_by_item(right, names)
        told = (method, n_clients, seed, client_id, group, seen)
        return cls(*told, correct=sum(right), total=len(right), results=results, items=items)

    @property
    def accuracy(self) -> float:
        """The fraction of test pairs ordered as the client did."""
        return self.correct / self.total

    @property
    def holdout_accuracy(self) -> float | None:
        """The same on the hold-out; None without one."""
        if self.holdout_correct is None or self.holdout_total is None:
            return None
        return self.holdout_correct / self.holdout_total

    def tested(self) -> ItemResults | None:
        """The items of the test pairs; None where they are not known."""
        if self.results is None or self.items is None:
            return None
        return _tested([_as_number(name) for name in self.items.split()], self.results)

    def holdout_tested(self) -> ItemResults | None:
        """The items of the hold-out; None where they are not known."""
        if self.holdout_results is None:
            return None
        words = len(self.holdout_results.split())
        first = _as_number(item_name(f"hold-out of {self.group}"))
        return _tested([first ^ place for place in range(words)], self.holdout_results)

    def _name(self) -> str:
        return f"The score of client {self.client_id!r} ({self.method}, N = {self.n_clients}, seed {self.seed})"


def _check_counts(score: ClientScore, name: str, correct: float, total: int) -> None:
    if total < 1:
        raise DataError(f"{score._name()} counts {total} pairs.", fix="Leave out clients without pairs to test on.")
    if not 0 <= correct <= total or (2 * correct) % 1:
        raise DataError(
            f"{score._name()} has {name} = {correct} of {total}.",
            fix="Correct pairs are whole or half: a tie is one half.",
        )


def item_name(text: str) -> str:
    """A short name for what a pair is about, such as its prompt: 16 hexadecimal digits."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def results_by_item(results: Sequence[float], names: Sequence[str]) -> tuple[str, str]:
    """``results`` and ``items`` of a :class:`ClientScore`.

    Args:
        results: 1, ½ or 0 for each pair.
        names: The item of each pair.
    """
    marks = {value: mark for mark, value in RESULTS.items()}
    words: dict[str, str] = {}
    for result, name in zip(results, names, strict=True):
        words[name] = words.get(name, "") + marks[result]
    return " ".join(words.values()), " ".join(words)


def _as_number(name: str) -> int:
    """63 of its bits, so that numbers below zero are free for items without a name."""
    return int(name, 16) >> 1


def _tested(items: Sequence[int], results: str) -> ItemResults:
    words = results.split()
    return ItemResults(
        np.array(items, dtype=np.int64),
        np.array([sum(RESULTS[mark] for mark in word) / len(word) for word in words]),
        np.array([len(word) for word in words], dtype=np.float64),
    )


def _check_results(score: ClientScore, results: str, correct: float | None, total: int | None) -> None:
    marks = results.replace(" ", "")
    known = all(mark in RESULTS for mark in marks)
    if not known or len(marks) != total or sum(RESULTS[mark] for mark in marks) != correct:
        raise DataError(
            f"{score._name()} has results that do not add up to {correct} of {total}.",
            fix=f"Give {', '.join(RESULTS)} for each pair.",
        )


def control_of(method: str) -> tuple[str, str | None]:
    """Split ``method:control`` into its two parts; the control is None for the method itself."""
    base, separator, control = method.partition(CONTROL_SEPARATOR)
    return (base, control) if separator else (base, None)


def control_name(method: str, control: str) -> str:
    """The name under which a control of ``method`` is scored."""
    return f"{method}{CONTROL_SEPARATOR}{control}"


def save_scores(path: Path, scores: Iterable[ClientScore]) -> None:
    """Write one JSON object per score and line to ``path``, atomically."""
    save_records(path, scores)


def load_scores(path: Path) -> list[ClientScore]:
    """Read what :func:`save_scores` wrote.

    Raises:
        DataError: For a missing file, broken JSON, a missing or unknown key, a value of the wrong type or counts that
            cannot be; with file and row.
    """
    return load_records(path, ClientScore, "score")
