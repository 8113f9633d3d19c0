"""How far methods come on the way to whoever knows every user's true utility, and how they rank without label noise.

The row ``bayes`` of a comparison holds the results of that judge on the same labelled pairs as the methods, so that
everything here is paired.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from fedvpa.core.errors import DataError
from fedvpa.evaluation.client_sample import ClientSample
from fedvpa.evaluation.intervals import DEFAULT_BOOTSTRAP, Bootstrap, Estimate, estimate, gap_closed
from fedvpa.evaluation.scores import RESULTS, ClientScore, control_of
from fedvpa.evaluation.summaries import BAYES, GLOBAL, LOCAL, SHARE, Condition, JsonResult, by_condition

_OTHER_WAY = {"1": "0", "0": "1", "h": "h"}


@dataclass(frozen=True, slots=True)
class BayesRow(JsonResult):
    """One method beside the true utilities.

    Attributes:
        method: The algorithm's name, or ``bayes``.
        n_clients: How many clients the runs trained on.
        base: The better of ``global`` and ``local`` on the seen clients; None if neither was run.
        way: Share of the way from ``base`` (0) to ``bayes`` (1) that the method comes.
        noiseless: Share of the seen clients' test pairs that it orders as the user's utility does, whatever the label
            says; without pairs of equal utility, which no order is right about.
        expected: Of ``bayes`` alone: its accuracy on these pairs, on average over draws of their labels.
        unseen_base: ``unseen_`` repeats the keys above for clients that training never saw.
    """

    method: str
    n_clients: int
    base: str | None
    way: Estimate | None
    noiseless: Estimate | None
    expected: float | None
    unseen_base: str | None
    unseen_way: Estimate | None
    unseen_noiseless: Estimate | None
    unseen_expected: float | None


class _Part(NamedTuple):
    base: str | None
    way: Estimate | None
    noiseless: Estimate | None


def bayes_rows(
    scores: Iterable[ClientScore],
    expected: Mapping[int, tuple[float | None, float | None]],
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
    *,
    same_users: bool = False,
) -> tuple[BayesRow, ...]:
    """One row for each method at each number of clients that has scores of ``bayes``.

    Args:
        scores: Of all methods and of ``bayes``; controls are left out.
        expected: Number of clients → the expected accuracies of ``bayes``, of seen and of unseen clients.
        bootstrap: The level.
        same_users: As of :func:`fedvpa.evaluation.accuracy_tables.comparison`.

    Raises:
        DataError: If a method was tested on other pairs than ``bayes``.
    """
    methods = by_condition(score for score in scores if control_of(score.method)[1] is None)
    found = []
    for condition in methods:
        if Condition(BAYES, condition.n_clients) not in methods:
            continue
        seen, unseen = (_part(condition, methods, whose, bootstrap, same_users) for whose in (True, False))
        known = expected.get(condition.n_clients, (None, None)) if condition.method == BAYES else (None, None)
        found.append(
            BayesRow(
                *condition,
                base=seen.base,
                way=seen.way,
                noiseless=seen.noiseless,
                expected=known[0],
                unseen_base=unseen.base,
                unseen_way=unseen.way,
                unseen_noiseless=unseen.noiseless,
                unseen_expected=known[1],
            )
        )
    return tuple(found)


def _part(
    condition: Condition,
    methods: Mapping[Condition, Sequence[ClientScore]],
    seen: bool,
    bootstrap: Bootstrap,
    same_users: bool,
) -> _Part:
    """What a row says of the seen or of the unseen clients."""

    def of(scores: Iterable[ClientScore]) -> ClientSample | None:
        return ClientSample.of((score for score in scores if score.seen == seen), same_users=same_users)

    samples = {name: of(methods.get(Condition(name, condition.n_clients), ())) for name in (GLOBAL, LOCAL)}
    means = {name: sample.mean for name, sample in samples.items() if sample is not None}
    base = max(means, key=lambda name: means[name]) if means else None
    truth = methods[Condition(BAYES, condition.n_clients)]
    way = None
    if base is not None:
        way = gap_closed(of(methods[condition]), samples[base], of(truth), bootstrap)
    agreed = of(without_noise(methods[condition], truth))
    return _Part(base, way, None if agreed is None else estimate(agreed, bootstrap, SHARE))


def without_noise(scores: Iterable[ClientScore], truth: Iterable[ClientScore]) -> list[ClientScore]:
    """The scores against the order of the true utilities instead of the labels.

    Where ``bayes`` is wrong, the label is noise: whoever agrees with it is wrong too. Pairs of equal utility, where it
    has a tie, are left out, and so are clients that have no others.

    Args:
        scores: Of one method.
        truth: Those of ``bayes``.

    Raises:
        DataError: If a client was not tested on the same pairs under both.
    """
    known = {(score.seed, score.client_id): score for score in truth}
    found = [_against(score, known.get((score.seed, score.client_id))) for score in scores]
    return [score for score in found if score is not None]


def _against(score: ClientScore, truth: ClientScore | None) -> ClientScore | None:
    own, true = score.results or "", "" if truth is None else truth.results or ""
    if truth is None or score.items != truth.items or list(map(len, own.split())) != list(map(len, true.split())):
        raise DataError(
            f"client {score.client_id!r} (seed {score.seed}) was tested on other pairs under {score.method} than under "
            f"{BAYES}.",
            fix="Compare both in a new folder.",
        )
    words = [_agreement(*both) for both in zip(own.split(), true.split(), strict=True)]
    marks = "".join(words)
    if not marks:
        return None
    items = [item for item, word in zip((score.items or "").split(), words, strict=True) if word]
    return replace(
        score,
        results=" ".join(filter(None, words)),
        items=" ".join(items),
        correct=sum(RESULTS[mark] for mark in marks),
        total=len(marks),
    )


def _agreement(own: str, truth: str) -> str:
    """How a method's results of one item read if the labels were what the utilities say."""
    return "".join(
        mark if right == "1" else _OTHER_WAY[mark] for mark, right in zip(own, truth, strict=True) if right != "h"
    )
