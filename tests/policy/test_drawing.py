"""A token is where its number falls among the probabilities; streams are named by prompt and sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedvpa.policy import drawing
from fedvpa.policy.drawing import pick, sample_numbers, uniforms
from fedvpa.policy.sampling import Sampling
from policy_fixtures import ids

SHARES = torch.tensor([0.1, 0.2, 0.3, 0.4])


def picked(numbers: list[float], shares: torch.Tensor = SHARES, **how: float) -> list[int]:
    logits = shares.log().repeat(len(numbers), 1)
    return pick(logits, torch.tensor(numbers, dtype=torch.float64), Sampling(**how)).tolist()


@pytest.mark.unit
def test_a_number_falls_into_the_share_of_its_token():
    assert picked([0.0, 0.05, 0.11, 0.29, 0.31, 0.59, 0.61, 1 - 2**-53]) == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.unit
def test_a_token_without_a_share_is_never_picked():
    assert picked([0.0, 0.29, 0.31, 1 - 2**-53], torch.tensor([0.0, 0.3, 0.7, 0.0])) == [1, 1, 2, 2]


@pytest.mark.unit
def test_a_temperature_sharpens_the_shares_and_zero_takes_the_largest():
    squares = (SHARES**2 / (SHARES**2).sum()).cumsum(0)
    number = float(squares[2]) - 1e-3
    assert picked([number, number + 2e-3], temperature=0.5) == [2, 3]
    assert picked([0.0], temperature=0.0) == [3]


@pytest.mark.unit
@pytest.mark.parametrize("likely", [2, 1024])
def test_a_nucleus_holds_the_likeliest_tokens_until_their_share_is_reached(monkeypatch, likely: int):
    """0.4 + 0.3 reach 0.65, and 0.4 + 0.3 + 0.2 reach 0.75: what is left is drawn by its own shares."""
    monkeypatch.setattr(drawing, "LIKELY", likely)
    assert picked([0.0, 0.42, 0.44, 0.99], top_p=0.65) == [2, 2, 3, 3]
    assert picked([0.0, 0.21, 0.23, 0.99], top_p=0.75) == [1, 1, 2, 3]
    assert picked([0.0, 0.99], top_p=1e-6) == [3, 3]
    assert picked([0.0, 0.99], top_p=5e-324) == [3, 3]


@pytest.mark.unit
def test_samples_of_equal_prompts_are_counted():
    assert sample_numbers([ids(1, 2), ids(3), ids(1, 2), ids(1), ids(1, 2)]) == [0, 0, 1, 0, 2]


@pytest.mark.unit
def test_streams_are_named_by_prompt_sample_seed_and_labels_and_not_by_place_or_length():
    whole = uniforms([ids(1, 2), ids(3), ids(1, 2)], [0, 0, 1], 7, 5, "a")
    assert uniforms([ids(1, 2), ids(3)], [1, 0], 3, 5, "a").tolist() == [whole[2, :3].tolist(), whole[1, :3].tolist()]
    others = [uniforms([ids(1, 2)], [0], 7, 6, "a"), uniforms([ids(1, 2)], [0], 7, 5, "b")]
    assert len({row.tobytes() for row in (*whole, *(other[0] for other in others))}) == 5
    assert np.all((whole >= 0) & (whole < 1))
