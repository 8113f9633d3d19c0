"""The split of each client's pairs into train, validation and test, for all clients at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

UNDECIDED, TRAIN, VALIDATION, TEST, UNUSED = -1, 0, 1, 2, 3
"""Codes of a pair's part. They are ordered: where pairs of one prompt differ, the undecided ones follow the highest."""


@dataclass(frozen=True, slots=True)
class SplitRule:
    """How the pairs of a client are split.

    Attributes:
        test_fraction: Share of the undecided pairs that becomes test pairs, to the nearest whole number.
        validation_fraction: Share of all pairs that becomes validation pairs, taken from the training ones.
        min_test: Test pairs that a client gets even where the fraction gives fewer.
        train_cap: Most train pairs of a client; None for no cap.
    """

    test_fraction: float
    validation_fraction: float
    min_test: int
    train_cap: int | None


def draw_splits(owner: Ints, prompt_key: NDArray[np.uint64], prescribed: Ints, clients: int, rule: SplitRule) -> Ints:
    """Decide the part of every pair.

    Pairs of one client with the same key (the same prompt) stay together, so that no prompt straddles train and test,
    unless the data prescribe it. The order of the keys is the order of the draw: the first prompts become test
    pairs, until the count is as near to the fraction as whole prompts allow; the next ones validation pairs. A
    prompt with more pairs than the whole part may have is passed over.

    Args:
        owner: Client number of each pair.
        prompt_key: Random number of each pair, a function of client and prompt.
        prescribed: ``TRAIN``, ``VALIDATION``, ``TEST``, or ``UNDECIDED`` where the data do not say.
        clients: The number of clients.
        rule: Fractions and bounds.

    Returns:
        ``TRAIN``, ``VALIDATION``, ``TEST``, or ``UNUSED`` for train pairs above the cap, for each pair.
    """
    order = np.lexsort((prompt_key, owner))
    owner, keys, given = owner[order], prompt_key[order], prescribed[order]
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (owner[1:] != owner[:-1]) | (keys[1:] != keys[:-1])
    starts = np.flatnonzero(is_first)
    prompt = np.cumsum(is_first) - 1
    prompts = _Prompts(owner[starts], np.diff(np.append(starts, len(order))), clients)
    part = np.maximum.reduceat(given, starts) if len(order) else given

    undecided = part == UNDECIDED
    free = prompts.count(undecided)
    least = np.maximum(rule.min_test - np.bincount(owner[given == TEST], minlength=clients), 0)
    target = np.where(free > 0, np.maximum(np.rint(rule.test_fraction * free), least), 0)
    part = np.where(undecided, np.where(prompts.first(undecided, target), TEST, TRAIN), part)
    if not (given == VALIDATION).any():
        target = np.rint(rule.validation_fraction * np.bincount(owner, minlength=clients))
        part = np.where(prompts.first(part == TRAIN, target), VALIDATION, part)

    parts = part[prompt]
    settled = (given != UNDECIDED) & ~((given == TRAIN) & (parts == VALIDATION))
    parts = np.where(settled, given, parts)
    if rule.train_cap is not None:
        rank = _running((parts == TRAIN).astype(np.int64), owner)
        parts = np.where((parts == TRAIN) & (rank >= rule.train_cap), UNUSED, parts)
    result = np.empty_like(parts)
    result[order] = parts
    return result


@dataclass(frozen=True)
class _Prompts:
    """The distinct prompts of each client, in the order of the draw."""

    owner: Ints
    pairs: Ints
    clients: int

    def count(self, chosen: NDArray[np.bool_]) -> Ints:
        """Pairs of the chosen prompts, for each client."""
        return np.bincount(self.owner, weights=self.pairs * chosen, minlength=self.clients).astype(np.int64)

    def first(self, eligible: NDArray[np.bool_], target: NDArray[np.float64]) -> NDArray[np.bool_]:
        """The first eligible prompts of each client whose pairs come nearest to the client's target."""
        limit = target[self.owner]
        eligible = eligible & (self.pairs <= limit)
        before = _running(self.pairs * eligible, self.owner)
        return eligible & (before + self.pairs / 2 <= limit)


def _running(values: Ints, owner: Ints) -> Ints:
    """The sum of each client's earlier values. ``owner`` is sorted."""
    before: Ints = np.cumsum(values) - values
    if not len(before):
        return before
    is_first = np.ones(len(owner), dtype=bool)
    is_first[1:] = owner[1:] != owner[:-1]
    return before - before[is_first][np.cumsum(is_first) - 1]
