"""Batches: every row once, little padding, bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

from fedvpa.models.batching import batches, processing_order

LENGTHS = np.array([7, 31, 7, 2, 97, 13, 31, 5])
ALL = np.ones(len(LENGTHS), dtype=bool)


@pytest.mark.unit
def test_longest_first_and_ties_by_row():
    assert processing_order(LENGTHS, ALL).tolist() == [4, 1, 6, 5, 0, 2, 7, 3]


@pytest.mark.unit
@pytest.mark.parametrize("budget", [1, 20, 62, 1000])
def test_batches_hold_every_row_once_within_the_budget(budget):
    found = [rows.tolist() for rows in batches(LENGTHS, ALL, budget)]
    assert [row for rows in found for row in rows] == processing_order(LENGTHS, ALL).tolist()
    assert all(len(rows) == 1 or len(rows) * LENGTHS[rows].max() <= budget for rows in found)
    if budget == 62:
        assert found == [[4], [1, 6], [5, 0, 2, 7], [3]]


@pytest.mark.unit
def test_a_batch_never_mixes_ways():
    shared = LENGTHS < 31
    found = [rows.tolist() for rows in batches(LENGTHS, shared, 10_000)]
    assert found == [[5, 0, 2, 7, 3], [4, 1, 6]]
