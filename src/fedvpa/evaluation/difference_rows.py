"""Paired differences as rows of a table, their p-values adjusted over the whole of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeVar

from fedvpa.evaluation.accuracy_results import DifferenceRow
from fedvpa.evaluation.client_sample import ClientSample
from fedvpa.evaluation.holm import holm, holm_of_known
from fedvpa.evaluation.intervals import Bootstrap, Difference, difference, estimate
from fedvpa.evaluation.scores import ClientScore
from fedvpa.evaluation.summaries import GLOBAL, SHARE, SHARE_DIFFERENCE, YARDSTICKS, Condition

Found = tuple[int, str, str, Difference]
"""(number of clients, one method, the other, the first less the second)"""


def difference_rows(found: Sequence[Found]) -> tuple[DifferenceRow, ...]:
    """One row for each difference; Holm's correction is over all of them, for these models and for the methods."""
    adjusted = holm([gain.p_value for *_, gain in found])
    over_seeds = holm_of_known([gain.method_p_value for *_, gain in found])
    return tuple(
        DifferenceRow(
            n_clients,
            first,
            second,
            gain.estimate.value,
            gain.estimate.interval,
            gain.estimate.method,
            gain.p_value,
            p_holm,
            gain.method_p_value,
            method_p_holm,
            clients=gain.units,
            seeds=gain.seeds,
        )
        for (n_clients, first, second, gain), p_holm, method_p_holm in zip(found, adjusted, over_seeds, strict=True)
    )


class AgainstGlobal(Protocol):
    """A row that says how a method stands against ``global``: a frozen data class."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def method(self) -> str:
        """The algorithm's name."""

    @property
    def p_value(self) -> float | None:
        """Of these trained models."""

    @property
    def method_p_value(self) -> float | None:
        """Over training seeds too."""


RowT = TypeVar("RowT", bound=AgainstGlobal)


def gains_over_global(
    found: Mapping[Condition, Sequence[ClientScore]], bootstrap: Bootstrap, *, same_users: bool
) -> Iterator[tuple[Condition, dict[str, Any]]]:
    """The accuracy of each method and what it is above ``global``, as the last fields of a row.

    Args:
        found: Scores of each method and number of clients.
        bootstrap: How intervals are computed.
        same_users: As of :func:`fedvpa.evaluation.accuracy_tables.comparison`.

    Raises:
        DataError: If two methods were scored on different clients.
    """
    samples = {condition: ClientSample.of(some, same_users=same_users) for condition, some in found.items()}
    for condition, sample in samples.items():
        if sample is None:
            continue
        base = samples.get(Condition(GLOBAL, condition.n_clients)) if condition.method != GLOBAL else None
        gain, own = difference(sample, base, bootstrap, bounds=SHARE_DIFFERENCE), estimate(sample, bootstrap, SHARE)
        yield (
            condition,
            {
                "clients": sample.units,
                "mean": own.value,
                "ci95": own.interval,
                "method_ci95": own.method,
                "difference": None if gain is None else gain.estimate,
                "p_value": None if gain is None else gain.p_value,
                "p_holm": None,
                "method_p_value": None if gain is None else gain.method_p_value,
                "method_p_holm": None,
            },
        )


def adjusted_over_methods(rows: Sequence[RowT]) -> tuple[RowT, ...]:
    """The rows with ``p_holm`` and ``method_p_holm``: Holm's correction over methods. A yardstick is no claim."""
    claims = [
        (place, row.p_value)
        for place, row in enumerate(rows)
        if row.method not in YARDSTICKS and row.p_value is not None
    ]
    places = [place for place, _ in claims]
    adjusted = dict(zip(places, holm([p_value for _, p_value in claims]), strict=True))
    over_seeds = dict(zip(places, holm_of_known([rows[place].method_p_value for place in places]), strict=True))
    return tuple(
        replace(row, p_holm=adjusted.get(place), method_p_holm=over_seeds.get(place)) for place, row in enumerate(rows)
    )
