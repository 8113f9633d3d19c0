"""Named variants of one method beside the method itself, on the same clients and pairs."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from fedvpa.evaluation.accuracy_results import DifferenceRow
from fedvpa.evaluation.client_sample import ClientSample
from fedvpa.evaluation.difference_rows import Found, difference_rows
from fedvpa.evaluation.intervals import DEFAULT_BOOTSTRAP, Bootstrap, difference
from fedvpa.evaluation.scores import ClientScore
from fedvpa.evaluation.summaries import SHARE_DIFFERENCE, Condition, by_condition


def ablation_rows(
    scores: Iterable[ClientScore],
    method: str,
    variants: Collection[str],
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
    *,
    same_users: bool = False,
) -> tuple[DifferenceRow, ...]:
    """Each variant less the method, seen clients on their own test pairs, adjusted over all variants and sizes.

    Args:
        scores: Of a comparison; others than the method and its variants are ignored.
        method: What the variants are of.
        variants: Their names, which are the methods of their scores.
        bootstrap: How intervals are computed.
        same_users: As of :func:`fedvpa.evaluation.accuracy_tables.comparison`.

    Raises:
        DataError: If a variant was scored on other clients than the method.
    """
    samples = {
        condition: ClientSample.of((score for score in found if score.seen), same_users=same_users)
        for condition, found in by_condition(scores).items()
    }
    found: list[Found] = []
    for condition, sample in samples.items():
        if condition.method not in variants:
            continue
        own = samples.get(Condition(method, condition.n_clients))
        gain = difference(sample, own, bootstrap, bounds=SHARE_DIFFERENCE)
        if gain is not None:
            found.append((condition.n_clients, condition.method, method, gain))
    return difference_rows(found)
