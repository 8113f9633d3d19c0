"""Holm's correction of several p-values."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (Scandinavian Journal of Statistics 6, 1979).

    The i-th smallest of m values is multiplied by m - i + 1 and made monotone; comparing the results with α keeps the
    probability of any false claim in the whole family below α, under any dependence.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(largest, 1.0)
    return adjusted


def holm_of_known(p_values: Sequence[float | None]) -> list[float | None]:
    """:func:`holm` over those that are known; the others stay None."""
    adjusted = iter(holm([value for value in p_values if value is not None]))
    return [None if value is None else next(adjusted) for value in p_values]
