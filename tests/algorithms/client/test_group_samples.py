"""Samples in groups, their rewards, and what happens to those without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedvpa.algorithms.client.group_samples import reward_matrix, sample_and_score
from fedvpa.objectives.policy_gradient import rloo_advantages, whiten
from firm_fixtures import OBJECTIVES, SEED, Constant, policy_of, prompts_of


@pytest.mark.unit
def test_a_missing_score_becomes_the_mean_of_its_group_or_of_the_batch():
    scores = [1.0, "no", 4.0, "no", "no", "no", 7.0, 7.0, 7.0]
    values, there = reward_matrix(scores, 3)
    assert there.sum(1).tolist() == [2, 0, 3]
    torch.testing.assert_close(values, torch.tensor([[1, 2.5, 4], [5.2, 5.2, 5.2], [7, 7, 7]], dtype=torch.float64))
    advantages = rloo_advantages(whiten(values)[0])
    assert advantages[0, 1].item() == pytest.approx(0)
    assert advantages[1].tolist() == pytest.approx([0, 0, 0])


@pytest.mark.unit
def test_scores_that_are_all_missing_are_zeros_that_do_not_vary():
    values, there = reward_matrix(["no"] * 4, 2)
    assert not there.any()
    assert values.tolist() == [[0, 0], [0, 0]]
    assert not whiten(values)[1]


@pytest.mark.unit
def test_samples_of_a_prompt_stand_together_and_their_rewards_are_means_of_those_that_are_there(base_folder: Path):
    policy = policy_of(base_folder)
    plain = prompts_of(policy, ["w1 w2", "w3", "w1 w2", "w4"])
    first = sample_and_score(policy, plain, (2, 0), 7, 5, SEED, "x").responses[0]
    word = policy.tokenizer.text(first).split()[0]
    data = prompts_of(policy, ["w1 w2", "w3", "w1 w2", "w4"], (*OBJECTIVES, Constant("partly", unreadable=word)))
    assert data.texts == ["w1 w2", "w3", "w4"]
    found = sample_and_score(policy, data, (2, 0), 7, 5, SEED, "x")
    assert [tuple(ids) for ids in found.prompts] == [tuple(data.ids[2])] * 7 + [tuple(data.ids[0])] * 7
    texts = [policy.tokenizer.text(ids) for ids in found.responses]
    items = [("w4", text) for text in texts[:7]] + [("w1 w2", text) for text in texts[7:]]
    scores = [float(score) for score in OBJECTIVES[1].score(items)]
    assert found.rewards[1].item() == pytest.approx(sum(scores) / 14)
    assert found.rewards[2].item() == pytest.approx(0.7)
    assert found.scored.tolist() == [14, 14, sum(word not in text.split() for text in texts)]
    assert found.scored[2] < 14
    torch.testing.assert_close(found.advantages.view(3, 2, 7).sum(2), torch.zeros(3, 2), atol=1e-5, rtol=0)
    again = sample_and_score(policy, data, (2, 0), 7, 5, SEED, "x")
    assert all(map(torch.equal, map(torch.from_numpy, found.responses), map(torch.from_numpy, again.responses)))
    other = sample_and_score(policy, data, (2, 0), 7, 5, SEED, "y")
    assert [ids.tolist() for ids in found.responses] != [ids.tolist() for ids in other.responses]
