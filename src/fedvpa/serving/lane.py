"""Rows that are drawn together: they join when their prompts are computed, and leave when their answers end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedvpa.policy.prefill import Cached, next_logits, prefilled
from fedvpa.serving.draws import draw, no_numbers
from fedvpa.serving.readers import Reader, Signals
from fedvpa.serving.row import Left, Row


class Lane:
    """Rows that are drawn together.

    Args:
        reader: Of the policy.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.rows: list[Row] = []
        self._state: Cached | None = None
        self._signals: Signals | None = None

    @property
    def tokens(self) -> int:
        """Places of the cache that the rows hold, padding included."""
        return 0 if self._state is None else self._state.attention.numel()

    def join(self, rows: Sequence[Row]) -> list[Left]:
        """Compute the prompts of further rows, all of the policy or all of the base model, and take them in."""
        base = rows[0].base
        with self._reader.prefilling(base) as network:
            latents = [row.request.z for row in rows if row.request.z is not None]
            z = torch.stack(latents).to(network.device) if latents else None
            state = prefilled(network, [row.request.prompt for row in rows], z)
        signals = self._reader.signals(base, z, len(rows))
        self.rows += rows
        if self._state is None or self._signals is None:
            self._state, self._signals = state, signals
            return []
        mine = self._state
        for layer, more in zip(mine.layers, state.layers, strict=True):
            layer.join(*more.states)
        width = mine.layers[0].get_seq_length()
        mine.attention = torch.cat([_padded(mine.attention, width), _padded(state.attention, width)])
        mine.logits = torch.cat([mine.logits, state.logits])
        self._signals = torch.cat([self._signals, signals])
        return []

    def drop_cancelled(self) -> list[Left]:
        """Take out the rows that nobody waits for."""
        places = [place for place, row in enumerate(self.rows) if row.generation.cancelled]
        left: list[Left] = [(self.rows[place], None) for place in places]
        self._remove(places)
        return left

    def step(self) -> list[Left]:
        """Draw a token for each row, take out those that are done, and compute what follows for the others."""
        assert self._state is not None
        tokens, failed = draw(self.rows, self._state.logits)
        places = [place for place, row in enumerate(self.rows) if row.finished or place in failed]
        left: list[Left] = [(self.rows[place], no_numbers() if place in failed else None) for place in places]
        going = self._remove(places)
        if self.rows:
            self._forward(tokens[going])
        return left

    def _remove(self, places: Sequence[int]) -> Tensor | slice:
        """Take rows out; what now stands where comes back, as an index into the former rows."""
        if not places or self._state is None or self._signals is None:
            return slice(None)
        state, order = self._state, list(range(len(self.rows)))
        for place in sorted(places, reverse=True):  # as the buffers do
            order[place] = order[-1]
            order.pop()
        self.rows = [self.rows[place] for place in order]
        kept = torch.tensor(order, dtype=torch.long, device=state.attention.device)
        if not order:
            self._state = self._signals = None
            return kept
        for layer in state.layers:
            layer.remove(places)
        state.attention, state.logits = state.attention[kept], state.logits[kept]
        self._signals = self._signals[kept]
        empty = int(state.attention.any(0).to(torch.uint8).argmax())
        if empty:
            state.attention = state.attention[:, empty:]
            for layer in state.layers:
                layer.trim(empty)
        return kept

    def _forward(self, tokens: Tensor) -> None:
        assert self._state is not None
        assert self._signals is not None
        state = self._state
        positions = state.attention.sum(1, keepdim=True)
        state.attention = torch.cat([state.attention, state.attention.new_ones(len(tokens), 1)], 1)
        with self._reader.stepping(all(row.base for row in self.rows), self._signals) as network:
            state.logits = next_logits(network, state.cache, state.attention, positions, input_ids=tokens[:, None])


def _padded(attention: Tensor, width: int) -> Tensor:
    """With further empty places in front."""
    return torch.nn.functional.pad(attention, (width - attention.shape[1], 0))
