"""A cache of keys and values that has room for what follows."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Tokens by which a buffer grows when it is full. Chosen by us."""

States = Float[Tensor, "rows heads tokens width"]


class Buffer(DynamicLayer):
    """Keys and values of one layer with room behind them, so that a further token copies nothing.

    Args:
        keys: Those that are there.
        values: The same.
    """

    def __init__(self, keys: States, values: States) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._keys, self._values, self._length = keys, values, 0
        self._show(keys.shape[-2])

    def update(self, key_states: States, value_states: States, *args: Any, **kwargs: Any) -> tuple[States, States]:
        """Put further tokens behind those that are there; all of them come back."""
        start = self._length
        stop = start + key_states.shape[-2]
        if stop > self._keys.shape[-2]:
            self._keys, self._values = (_longer(part, start, stop + ROOM) for part in (self._keys, self._values))
        self._keys[:, :, start:stop], self._values[:, :, start:stop] = key_states, value_states
        return self._show(stop)

    def keep(self, rows: Tensor) -> None:
        """Keep these rows only."""
        self._keys, self._values = self._keys[rows], self._values[rows]
        self._show(self._length)

    def _show(self, length: int) -> tuple[States, States]:
        self._length = length
        keys, values = self._keys[:, :, :length], self._values[:, :, :length]
        self.keys, self.values = keys, values
        return keys, values


def _longer(part: States, used: int, length: int) -> States:
    rows, heads, _, width = part.shape
    found = part.new_empty(rows, heads, length, width)
    found[:, :, :used] = part[:, :, :used]
    return found
