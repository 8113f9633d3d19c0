"""Who draws the running rows: all of them in one batch, or one after the other where the architecture wants it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

from fedvpa.core.errors import FedvpaError
from fedvpa.policy.policy import Policy
from fedvpa.serving.alone import answer_alone
from fedvpa.serving.lane import Lane
from fedvpa.serving.readers import reader_of
from fedvpa.serving.requests import as_error, closed
from fedvpa.serving.row import Left, Row


class Worker(Protocol):
    """Draws the running rows."""

    @property
    def rows(self) -> Sequence[Row]:
        """The running ones."""

    @property
    def tokens(self) -> int:
        """Places for keys and values in use, padding included."""

    def turn(self, new: Sequence[Row]) -> list[Left]:
        """Take new rows in, and draw a token for everybody; the rows that left come back."""

    def close(self) -> None:
        """Leave the policy as it was."""


class BatchWorker:
    """All rows in one batch, or in two where the base model's cannot be mixed with the policy's.

    Args:
        policy: In evaluation mode.
    """

    def __init__(self, policy: Policy) -> None:
        self._reader = reader_of(policy)
        self._lanes: dict[int, Lane] = {}

    @property
    def rows(self) -> Sequence[Row]:
        """See :class:`Worker`."""
        return [row for lane in self._lanes.values() for row in lane.rows]

    @property
    def tokens(self) -> int:
        """See :class:`Worker`."""
        return sum(lane.tokens for lane in self._lanes.values())

    def turn(self, new: Sequence[Row]) -> list[Left]:
        """See :class:`Worker`."""
        left: list[Left] = []
        for number, lane in list(self._lanes.items()):
            left += self._guarded(number, lane.rows, lane.drop_cancelled)
        for base in (False, True):
            rows = [row for row in new if row.base is base]
            if rows:
                number = self._reader.lane(base)
                lane = self._lanes.setdefault(number, Lane(self._reader))
                left += self._guarded(number, [*lane.rows, *rows], partial(lane.join, rows))
        for number, lane in list(self._lanes.items()):
            if lane.rows:
                left += self._guarded(number, lane.rows, lane.step)
        return left

    def close(self) -> None:
        """See :class:`Worker`."""
        self._lanes.clear()
        self._reader.close()

    def _guarded(self, number: int, rows: Iterable[Row], work: Callable[[], list[Left]]) -> list[Left]:
        """Work that takes all rows of its lane with it if it breaks: their cache is then in no known state."""
        rows = list(rows)
        try:
            return work()
        except Exception as error:  # told to every reader whose row is lost
            del self._lanes[number]
            return [(row, as_error(error)) for row in rows]


class SingleWorker:
    """One row after the other, each drawn to its end in one turn.

    Args:
        policy: In evaluation mode.
        stopping: Whether the engine stops.
    """

    def __init__(self, policy: Policy, stopping: Callable[[], bool]) -> None:
        self._policy, self._stopping = policy, stopping
        self.rows: Sequence[Row] = ()
        self.tokens = 0

    def turn(self, new: Sequence[Row]) -> list[Left]:
        """See :class:`Worker`."""
        left: list[Left] = []
        for row in new:
            error: FedvpaError | None
            try:
                error = answer_alone(self._policy, row, partial(self._unwanted, row))
            except Exception as broken:  # told to the reader
                error = as_error(broken)
            if row.finished or row.generation.cancelled or error is not None:
                left.append((row, error))
            else:
                left.append((row, closed()))
        return left

    def close(self) -> None:
        """See :class:`Worker`."""

    def _unwanted(self, row: Row) -> bool:
        return row.generation.cancelled or self._stopping()
