"""Paired differences as rows of a table, their p-values adjusted over the whole of it."""

from __future__ import annotations

from collections.abc import Sequence

from fedvpa.evaluation.accuracy_results import DifferenceRow
from fedvpa.evaluation.holm import holm, holm_of_known
from fedvpa.evaluation.intervals import Difference

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
