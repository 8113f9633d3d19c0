"""What a history tells of a training towards several objectives."""

import pytest

from evaluation.policies import objective_lines
from fedvpa.evaluation.objective_curves import curve, objectives_of, summarise_objectives

pytestmark = pytest.mark.unit


def test_a_history_is_summed_up_by_hand():
    lines = objective_lines()
    assert objectives_of(lines) == ["world:helpful", "world:harmless"]
    found = summarise_objectives(lines)
    helpful = found.objectives["world:helpful"]
    assert (helpful.first, helpful.last) == (-1.0, 2.0)
    assert helpful.weight == pytest.approx(0.65)
    assert helpful.roughness == pytest.approx(0.0)
    assert found.objectives["world:harmless"].roughness == pytest.approx(2.0)
    assert found.disagreement == pytest.approx(0.25)
    assert found.drift is None
    assert found.vertex == pytest.approx(0.125)
    assert found.kl == 3.0
    assert (found.uplink_bytes, found.downlink_bytes, found.rounds) == (40, 80, 4)


def test_a_round_in_which_nobody_reported_has_no_value():
    lines = objective_lines()
    lines[1] = {**lines[1], "reward.after.world:helpful": None, "disagreement": None}
    assert curve(lines, "reward.after.world:helpful")[0] == [1, 3, 4]
    assert summarise_objectives(lines).disagreement == pytest.approx((0.1 + 0.3 + 0.4) / 3)


def test_a_training_towards_one_loss_tells_of_no_objective():
    assert summarise_objectives([{"round": 1, "loss": 0.5, "uplink_bytes": 1, "downlink_bytes": 1}]) is None
