"""A cache of keys and values that has room for what follows, and whose rows come and go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Tokens by which a buffer grows when it is full. Chosen by us."""

States = Float[Tensor, "rows heads tokens width"]


class Buffer(DynamicLayer):
    """Keys and values of one layer with room behind them, so that a further token copies nothing.

    All rows end at the same place. Where a row has no token its places hold finite numbers, which are masked.

    Args:
        keys: Those that are there.
        values: The same.
    """

    def __init__(self, keys: States, values: States) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._keys, self._values = keys, values
        self._rows, self._start = keys.shape[0], 0
        self._show(keys.shape[-2])

    @property
    def states(self) -> tuple[States, States]:
        """The keys and values that are there."""
        used = slice(self._start, self._stop)
        return self._keys[: self._rows, :, used], self._values[: self._rows, :, used]

    def update(self, key_states: States, value_states: States, *args: Any, **kwargs: Any) -> tuple[States, States]:
        """Put further tokens behind those that are there; all of them come back."""
        start = self._stop
        stop = start + key_states.shape[-2]
        if stop > self._keys.shape[-2]:
            self._move(self._keys.shape[0], stop - self._start + ROOM, 0)
            start, stop = self._stop, self._stop + key_states.shape[-2]
        rows = self._rows
        self._keys[:rows, :, start:stop], self._values[:rows, :, start:stop] = key_states, value_states
        return self._show(stop)

    def keep(self, rows: Tensor) -> None:
        """Keep these rows only."""
        self._keys, self._values = self._keys[rows], self._values[rows]
        self._rows = len(rows)
        self._show(self._stop)

    def remove(self, rows: Sequence[int]) -> None:
        """Take rows out, from the last to the first: each place is taken by the row that is then the last one."""
        used = slice(self._start, self._stop)
        for row in sorted(rows, reverse=True):
            self._rows -= 1
            if row < self._rows:
                for part in (self._keys, self._values):
                    part[row, :, used] = part[self._rows, :, used]
        self._show(self._stop)

    def trim(self, count: int) -> None:
        """Forget so many places in front."""
        self._start += count
        self._show(self._stop)

    def join(self, keys: States, values: States) -> None:
        """Put further rows below those that are there; all end at the same place."""
        rows, tokens = self._rows + keys.shape[0], keys.shape[-2]
        start = min(self._start, self._stop - tokens)
        if rows > self._keys.shape[0] or start < 0:
            width = max(self._stop - self._start, tokens)
            capacity = self._keys.shape[0]
            self._move(capacity if rows <= capacity else max(rows, 2 * capacity), width + ROOM, width)
            start = self._stop - width
        for part, more in ((self._keys, keys), (self._values, values)):
            part[: self._rows, :, start : self._start] = 0
            part[self._rows : rows, :, start : self._stop - tokens] = 0
            part[self._rows : rows, :, self._stop - tokens : self._stop] = more
        self._rows, self._start = rows, start
        self._show(self._stop)

    def _move(self, rows: int, places: int, stop: int) -> None:
        """Into a buffer of so many rows and places, the tokens ending at ``stop`` or, if they are more, beginning at 0.

        Places behind the tokens are written before they are read; those in front must be finite.
        """
        used = slice(self._start, self._stop)
        length = self._stop - self._start
        stop = max(stop, length)
        self._keys, self._values = (
            _moved(part, self._rows, used, part.new_zeros(rows, part.shape[1], places, part.shape[3]), stop)
            for part in (self._keys, self._values)
        )
        self._start = stop - length
        self._show(stop)

    def _show(self, stop: int) -> tuple[States, States]:
        self._stop = stop
        keys, values = self.states
        self.keys, self.values = keys, values
        return keys, values


def _moved(part: States, rows: int, used: slice, place: States, stop: int) -> States:
    place[:rows, :, stop - (used.stop - used.start) : stop] = part[:rows, :, used]
    return place
