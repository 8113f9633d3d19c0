"""How well a user's true group is guessed from a vector that somebody sees of the user.

The attacker knows the groups of half of the users and learns from them to guess the others': principal components of
the vectors, then logistic regression. Each half is guessed once, by what the other half taught. That is a simple
attacker; what it cannot guess a better one may.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedvpa.privacy.audit import auc_interval, auc_of

COMPONENTS = 32
"""Principal components that are kept of each block of a vector, at most one for ten users. Chosen by us."""

LEAST = 20
"""Users of each group without whom nothing is learned. Chosen by us: ten to learn from and ten to guess."""

Blocks = Mapping[str, NDArray[np.float64]]
"""Block → a row for each user."""


@dataclass(frozen=True)
class Guessed:
    """How well groups were guessed; 0.5 is chance.

    Attributes:
        auc: The probability that of two users of different groups the right one has the higher score; with more than
            two groups the mean over them, one against the rest.
        ci95: Its interval over users (Hanley and McNeil, 1982), of the smallest group against the rest.
        users: How many were guessed.
    """

    auc: float
    ci95: tuple[float, float]
    users: int


def guess_groups(blocks: Blocks, groups: Sequence[str], seed: int) -> Guessed | None:
    """How well each half of the users is guessed by an attacker who knows the other half.

    Args:
        blocks: What is seen of each user.
        groups: Their true groups.
        seed: Deals the halves.

    Returns:
        None where there are no two groups, or one has fewer than 20 users.
    """
    labels = np.asarray(groups)
    names, counts = np.unique(labels, return_counts=True)
    if len(names) < 2 or counts.min() < LEAST:
        return None
    half = _halves(labels, np.random.default_rng(seed))
    found = [_auc(_scores(blocks, labels, known, ~known), labels[~known], names) for known in (half, ~half)]
    auc, smallest = float(np.mean(found)), int(counts.min())
    return Guessed(auc, auc_interval(auc, smallest, len(labels) - smallest), len(labels))


def guess_others(known: Blocks, groups: Sequence[str], others: Blocks, truth: Sequence[str]) -> Guessed | None:
    """How well users are guessed by an attacker who knows the groups of all of ``known``; None as above."""
    labels, wanted = np.asarray(groups), np.asarray(truth)
    names, counts = np.unique(labels, return_counts=True)
    sizes = np.array([(wanted == name).sum() for name in names])
    if len(names) < 2 or min(counts.min(), sizes.min()) < LEAST / 2:
        return None
    both = {name: np.concatenate([known[name], others[name]]) for name in known}
    told = np.arange(len(labels) + len(wanted)) < len(labels)
    scores = _scores(both, np.concatenate([labels, wanted]), told, ~told)
    auc, smallest = _auc(scores, wanted, names), int(sizes.min())
    return Guessed(auc, auc_interval(auc, smallest, len(wanted) - smallest), len(wanted))


def _halves(labels: NDArray[np.str_], generator: np.random.Generator) -> NDArray[np.bool_]:
    """Half of the users of each group."""
    found = np.zeros(len(labels), dtype=bool)
    for name in np.unique(labels):
        rows = generator.permutation((labels == name).nonzero()[0])
        found[rows[: len(rows) // 2]] = True
    return found


def _scores(
    blocks: Blocks, labels: NDArray[np.str_], known: NDArray[np.bool_], asked: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Of the users asked about, the log-odds of each group, shape [users, groups]."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    table = np.concatenate([_reduced(block) for block in blocks.values()], axis=1)
    table = StandardScaler().fit(table[known]).transform(table)
    learned = LogisticRegression(max_iter=1000).fit(table[known], labels[known])
    scores = np.asarray(learned.decision_function(table[asked]), dtype=np.float64)
    return np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores


def _reduced(block: NDArray[np.float64]) -> NDArray[np.float64]:
    """Principal components of all users' vectors, which takes no groups; a narrow block as it is."""
    from sklearn.decomposition import PCA

    kept = min(COMPONENTS, max(1, len(block) // 10))
    if block.shape[1] <= kept:
        return block
    found: NDArray[np.float64] = PCA(kept, svd_solver="randomized", random_state=0).fit_transform(block)
    return found


def _auc(scores: NDArray[np.float64], labels: NDArray[np.str_], names: NDArray[np.str_]) -> float:
    return float(
        np.mean([auc_of(scores[labels == name, row], scores[labels != name, row]) for row, name in enumerate(names)])
    )


def guess_from_sums(
    sums: NDArray[np.float64], cohorts: Sequence[Sequence[str]], groups: Mapping[str, str], seed: int
) -> Guessed | None:
    """How well groups are guessed from sums over cohorts, by counting: what half of the users adds is known.

    The attacker learns along which direction a sum says how many of the users it knows are of a group, by regression
    on the sums' principal components. What it then finds in the sums beyond the users it knows, on average over the
    rounds of a user whom it does not know, is that user's score. Even a sum that tells nothing but the number of users
    of each group gives some of them away, if there are many rounds and small cohorts.

    Args:
        sums: Of each round, as one vector.
        cohorts: Who took part in each round.
        groups: Client id → true group.
        seed: Deals the halves.

    Returns:
        None where there are no two groups, one has fewer than 20 users, or there are fewer than 10 rounds.
    """
    ids = sorted({name for cohort in cohorts for name in cohort} & groups.keys())
    labels = np.asarray([groups[name] for name in ids], dtype=np.str_)
    names, counts = np.unique(labels, return_counts=True)
    if len(sums) < 10 or len(names) < 2 or counts.min() < LEAST:
        return None
    place = {name: row for row, name in enumerate(ids)}
    there = np.zeros((len(sums), len(ids)))
    for round_, cohort in enumerate(cohorts):
        there[round_, [place[name] for name in cohort if name in place]] = 1.0
    half, found = _halves(labels, np.random.default_rng(seed)), []
    for known in (half, ~half):
        scores = np.stack([_counted(sums, there, labels == name, known) for name in names], axis=1)
        found.append(_auc(scores[~known], labels[~known], names))
    auc, smallest = float(np.mean(found)), int(counts.min())
    return Guessed(auc, auc_interval(auc, smallest, len(labels) - smallest), len(labels))


def _counted(
    sums: NDArray[np.float64], there: NDArray[np.float64], member: NDArray[np.bool_], known: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """For each user, how many more users of a group its rounds have than those that are known."""
    from sklearn.linear_model import LinearRegression

    sign = np.where(member, 1.0, -1.0) * known
    count = there @ (sign - sign[known].mean() * known)
    table = _standard(sums)
    told = np.asarray(LinearRegression().fit(table, count).predict(table))
    slope = np.cov(told, count)[0, 1] / max(count.var(ddof=1), 1e-12)
    beyond = told - slope * count
    beyond -= beyond.mean()
    return np.asarray((there * beyond[:, None]).sum(0) / there.sum(0).clip(1))


def _standard(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Few principal components of the rounds: one for five rounds at most, so that a count is not learned by heart."""
    from sklearn.decomposition import PCA

    spread = sums.std(0)
    table = (sums - sums.mean(0)) / np.where(spread > 0, spread, 1.0)
    kept = min(len(sums) // 5, sums.shape[1])
    found: NDArray[np.float64] = PCA(kept, svd_solver="full").fit_transform(table)
    return found
