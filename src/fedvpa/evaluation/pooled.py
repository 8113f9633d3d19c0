"""Pooled accuracy: each seen client on the test pairs of all seen clients of its true group.

A client's own few test pairs say little of its model; those of its whole group say the same at much less noise, because
members of a true group order pairs alike (pooled accuracy of the evaluation protocol). What clients share enters the
intervals once, as everywhere: here all clients of a group are tested on the same pairs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fedvpa.data.partition import ClientRows
from fedvpa.data.splits import Ints
from fedvpa.engines.federation import Federation
from fedvpa.evaluation.accuracy import mark_pairs
from fedvpa.evaluation.client_sample import ClientSample
from fedvpa.evaluation.intervals import DEFAULT_BOOTSTRAP, Bootstrap, estimate, gap_closed
from fedvpa.evaluation.records import load_records, save_records
from fedvpa.evaluation.scores import RESULTS, ClientScore
from fedvpa.evaluation.student import Interval
from fedvpa.evaluation.summaries import (
    GLOBAL,
    INFORMED,
    ORACLE,
    SHARE,
    Condition,
    JsonResult,
    by_condition,
    ends_of,
    method_ends_of,
    value_of,
)
from fedvpa.selector.posterior import Posterior
from fedvpa.selector.selector import Selector

MOST_ANSWERS = 100_000
"""Most clients × pairs of one group in one run: of a larger group, evenly many of each client's pairs are taken. Chosen
by us: intervals then take seconds, and the pairs are still hundreds."""

AT_ONCE = 64
"""Clients that are scored together: bounds memory. Chosen by us."""


@dataclass(frozen=True)
class PooledScore:
    """What the clients of one group got right on the same pairs.

    Attributes:
        method: The algorithm's name.
        n_clients: How many clients the run trained on.
        seed: The run's seed.
        group: The true group.
        clients: The ids of its seen clients, a JSON list.
        items: What each pair is about, apart by spaces; see :func:`fedvpa.evaluation.scores.item_name`.
        results: For each client a word with a mark for each pair: ``1``, ``h`` (a tie) or ``0``.
    """

    method: str
    n_clients: int
    seed: int
    group: str
    clients: str
    items: str
    results: str

    def client_scores(self) -> list[ClientScore]:
        """A score for each client."""
        items, found = self.items.split(), []
        for client, word in zip(json.loads(self.clients), self.results.split(), strict=True):
            right = [RESULTS[mark] for mark in word]
            told = (self.method, self.n_clients, self.seed, client, self.group, True)
            found.append(ClientScore.of_pairs(*told, right=right, names=items))
        return found


def pooled_scores(
    selector: Selector,
    federation: Federation,
    clients: Sequence[ClientRows],
    posterior: Posterior,
    *,
    method: str,
    seed: int,
    items: Sequence[str],
) -> list[PooledScore]:
    """One score for each true group with a test pair; arguments as of ``score_clients``."""
    found, marks = [], {value: mark for mark, value in RESULTS.items()}
    for group in sorted({client.group for client in clients if client.group is not None}):
        members = [place for place, client in enumerate(clients) if client.group == group]
        rows = some_of([clients[place].test for place in members], MOST_ANSWERS // len(members))
        if not len(rows):
            continue
        pairs, words = federation.read(rows), []
        for start in range(0, len(members), AT_ONCE):
            part = posterior[torch.tensor(members[start : start + AT_ONCE])]
            words += ["".join(marks[value] for value in own) for own in mark_pairs(selector, part, pairs)]
        names = json.dumps([clients[place].client_id for place in members])
        about = " ".join(items[row] for row in rows)
        found.append(PooledScore(method, len(federation.client_ids), seed, group, names, about, " ".join(words)))
    return found


def some_of(tests: Sequence[Ints], most: int) -> Ints:
    """All rows, or of each client its first ones where there are more than ``most``; at least one of each."""
    if sum(map(len, tests)) <= most:
        return np.concatenate(tests)
    return np.concatenate([rows[: max(1, most // len(tests))] for rows in tests])


def save_pooled(path: Path, scores: Iterable[PooledScore]) -> None:
    """Write one JSON object per score and line, atomically."""
    save_records(path, scores)


def load_pooled(path: Path) -> list[ClientScore]:
    """The scores of clients in what :func:`save_pooled` wrote; raises as ``load_scores``."""
    return [score for group in load_records(path, PooledScore, "pooled score") for score in group.client_scores()]


@dataclass(frozen=True, slots=True)
class PooledRow(JsonResult):
    """One method at one number of clients.

    Attributes:
        method: The algorithm's name.
        n_clients: How many clients the runs trained on.
        mean: Pooled accuracy, mean over clients, then over seeds.
        ci95: Its interval, of these trained models.
        method_ci95: Its interval over training seeds too.
        gap_closed: As of the summary, of pooled accuracies; with its two intervals.
        informed_share: Likewise.
    """

    method: str
    n_clients: int
    mean: float
    ci95: Interval | None
    method_ci95: Interval | None
    gap_closed: float | None
    gap_closed_ci95: Interval | None
    gap_closed_method_ci95: Interval | None
    informed_share: float | None
    informed_share_ci95: Interval | None
    informed_share_method_ci95: Interval | None


def pooled_rows(
    scores: Iterable[ClientScore], bootstrap: Bootstrap = DEFAULT_BOOTSTRAP, *, same_users: bool = False
) -> tuple[PooledRow, ...]:
    """One row for each method and number of clients.

    Args:
        scores: As of :func:`load_pooled`.
        bootstrap: How intervals are computed.
        same_users: As of :func:`fedvpa.evaluation.accuracy_tables.comparison`.

    Raises:
        DataError: If methods were scored on different clients.
    """
    samples: Mapping[Condition, ClientSample | None] = {
        condition: ClientSample.of(found, same_users=same_users) for condition, found in by_condition(scores).items()
    }
    rows = []
    for condition, sample in samples.items():
        if sample is None:
            continue
        low, informed, high = (samples.get(Condition(name, condition.n_clients)) for name in (GLOBAL, INFORMED, ORACLE))
        own = estimate(sample, bootstrap, SHARE)
        ratios = [gap_closed(sample, low, top, bootstrap) for top in (high, informed)]
        parts = [part for one in ratios for part in (value_of(one), ends_of(one), method_ends_of(one))]
        rows.append(PooledRow(*condition, own.value, own.interval, own.method, *parts))  # type: ignore[arg-type]
    return tuple(rows)
