"""Collects the pairs of a source and counts what is left out."""

from __future__ import annotations

from dataclasses import replace

from fedvpa.core.errors import DataError
from fedvpa.core.unicode import REPLACED
from fedvpa.data.messages import Skip
from fedvpa.data.report import DataReport
from fedvpa.data.schema import Pair, PairTable


class Tally:
    """Collects pairs and counts what is left out.

    Args:
        strict: Make the first row that would be left out an error.
        unit: What is taken in or left out: a row, or one of the several pairs that a row holds.
    """

    def __init__(self, strict: bool, unit: str = "row") -> None:
        self._report, self._unit = DataReport(strict=strict, counts=unit), unit
        self._pairs: list[Pair] = []
        self._places: dict[str, str] = {}

    def add(self, result: Pair | Skip, where: str, changed: int = 0) -> None:
        """Take a pair in, or count why there is none.

        Args:
            result: The pair, or why the row is left out.
            where: The row's place.
            changed: How many of the pair's texts were changed; see :mod:`fedvpa.core.unicode`.

        Raises:
            DataError: If the pair's id was seen before; under ``strict`` if the row is left out or was changed.
        """
        if isinstance(result, Skip):
            self._report = self._report.add(str(result), where, unit=self._unit)
            return
        if result.pair_id in self._places:
            raise DataError(
                f"the pair_id {result.pair_id!r} was given before, at {self._places[result.pair_id]}.",
                fix="Make the ids unique, or drop the column.",
                where=where,
            )
        if changed:
            self._report = self._report.add(REPLACED, where, effect="changed", unit="text", count=changed)
        self._places[result.pair_id] = where
        self._pairs.append(replace(result, place=where))

    def table(self, what: str) -> PairTable:
        """Everything taken in.

        Args:
            what: The name of the data, for the message of an error.

        Returns:
            The pairs in the order they came, and the report.

        Raises:
            DataError: If every row was left out.
        """
        report = replace(self._report, read=len(self._pairs) + sum(self._report.skipped.values()))
        if not self._pairs:
            first = report.examples
            reasons = "; ".join(
                f"{count} × {reason} (first: {first[reason]})" for reason, count in report.skipped.items()
            )
            raise DataError(f"none of the {report.read} {self._unit}s can be used: {reasons}.", where=what)
        return PairTable(tuple(self._pairs), report)
