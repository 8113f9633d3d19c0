"""Rows that hold a prompt once and several responses to it: the prompt's part of the work is done once for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from fedvpa.core.short_repr import short_repr
from fedvpa.policy.rows import Flags, Ids, Layout, alike

PADDING = -1
"""The branch of padding; 0 is the prompt, and the responses are 1, 2, …"""


@dataclass(frozen=True, slots=True, repr=False)
class Trees:
    """Token rows of one shape: [bos], slots, prompt, then its responses one behind the other.

    Responses are numbered through all rows, in order; M is the number of their tokens.

    Attributes:
        ids: Token ids; at the slots and at padding, the padding token.
        branch: 0 at slots and prompt, 1 and on at the responses, ``PADDING`` behind them.
        positions: Of each token; every response counts on from the prompt.
        first: The first slot of each row.
        source: Row and column of the state that predicts each scored token.
        labels: The tokens that are scored.
        place: The number of the response of each scored token, and its place there.
        sure: As in :class:`~fedvpa.policy.rows.Batch`, for each response and place.
    """

    ids: Int[Tensor, "rows time"]
    branch: Int[Tensor, "rows time"]
    positions: Int[Tensor, "rows time"]
    first: Int[Tensor, " rows"]
    source: Int[Tensor, "2 M"]
    labels: Int[Tensor, " M"]
    place: Int[Tensor, "2 M"]
    sure: Bool[Tensor, "responses longest"]

    __repr__ = short_repr

    @property
    def prompt(self) -> Bool[Tensor, "rows time"]:
        """Which tokens are of a prompt, special ones and slots included."""
        return self.branch == 0

    def to(self, device: torch.device) -> Trees:
        """The same rows on another device."""
        return Trees(*(getattr(self, field.name).to(device) for field in fields(self)))

    def scored(self) -> Bool[Tensor, "responses longest"]:
        """Which of the log-probabilities of :meth:`PolicyModel.forward` belong to tokens."""
        return self.spread(torch.ones_like(self.labels, dtype=torch.bool))

    def marked(self) -> Bool[Tensor, "responses longest"]:
        """Which of them belong to tokens that the reference was sure of."""
        return self.sure

    def spread(self, values: Tensor) -> Tensor:
        """Values of the scored tokens by response: [M] → [responses, longest], 0 where there is no token."""
        return values.new_zeros(self.sure.shape).index_put((self.place[0], self.place[1]), values)


def trees(
    layout: Layout,
    prompts: Sequence[Ids],
    groups: Sequence[Sequence[Ids]],
    sure: Sequence[Sequence[Flags]] | None = None,
) -> Trees:
    """One row per prompt, with the responses to it.

    Args:
        layout: Where slots lie.
        prompts: Tokens.
        groups: The responses to each prompt.
        sure: Which tokens of each response the reference was sure of.
    """
    width = max(len(prompt) + sum(map(len, group)) for prompt, group in zip(prompts, groups, strict=True))
    shape = (len(prompts), width + layout.slots)
    ids, branch = np.full(shape, layout.pad, dtype=np.int64), np.full(shape, PADDING, dtype=np.int64)
    positions, first = np.zeros(shape, dtype=np.int64), np.zeros(len(prompts), dtype=np.int64)
    gap = np.full(layout.slots, layout.pad, np.int32)
    sources, labels, places = [], [], []
    number = 0
    for row, (prompt, group) in enumerate(zip(prompts, groups, strict=True)):
        head = layout.head(prompt)
        fork = len(prompt) + layout.slots
        ids[row, :fork] = np.concatenate([prompt[:head], gap, prompt[head:]])
        branch[row, :fork], positions[row, :fork], first[row] = 0, np.arange(fork), head
        start = fork
        for own, response in enumerate(group, start=1):
            stop = start + len(response)
            ids[row, start:stop], branch[row, start:stop] = response, own
            positions[row, start:stop] = np.arange(fork, fork + len(response))
            # The first token of every response follows the prompt, wherever it lies.
            before = np.concatenate([[fork - 1], np.arange(start, stop - 1)])[: len(response)]
            sources.append(np.stack([np.full(len(response), row), before]))
            labels.append(np.asarray(response, dtype=np.int64))
            places.append(np.stack([np.full(len(response), number), np.arange(len(response))]))
            start, number = stop, number + 1
    marked = np.zeros((number, max(map(len, labels))), dtype=bool)
    for place, flags in enumerate(flags for group in sure or () for flags in group):
        marked[place, : len(flags)] = flags
    joined = (np.concatenate(part, axis=-1) for part in (sources, labels, places))
    return Trees(*map(torch.from_numpy, (ids, branch, positions, first, *joined, marked)))


@dataclass(frozen=True, slots=True)
class Group:
    """Responses that one row holds.

    Attributes:
        responses: Their numbers.
        tokens: Of the row.
    """

    responses: list[int]
    tokens: int


def groups_of(prompts: Sequence[Ids], responses: Sequence[Ids], z: Tensor | None, room: int, slots: int) -> list[Group]:
    """Put responses to the same prompt under the same z together, in order, as many as fit into a row.

    Args:
        prompts: The prompt of each response.
        responses: Their tokens.
        z: The latent of each; None where there is none.
        room: The most tokens of a row that holds more than one response.
        slots: Virtual tokens of each row.
    """
    found: list[Group] = []
    open_groups: dict[bytes, int] = {}
    for number, (key, prompt, response) in enumerate(zip(alike(prompts, z), prompts, responses, strict=True)):
        place = open_groups.get(key)
        if place is not None and found[place].tokens + len(response) <= room:
            group = found[place]
            found[place] = Group([*group.responses, number], group.tokens + len(response))
        else:
            open_groups[key] = len(found)
            found.append(Group([number], len(prompt) + slots + len(response)))
    return found
