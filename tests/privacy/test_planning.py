"""What a plan says of a federation's size, cohorts and rounds."""

import numpy as np
import pytest

from fedvpa.core.errors import ConfigError
from fedvpa.privacy.accounting import epsilon_released, epsilon_server
from fedvpa.privacy.config import PrivacyConfig
from fedvpa.privacy.planning import most_active, plan_budget

pytestmark = pytest.mark.unit


def test_the_most_active_of_few_users_by_hand():
    """Two users, two rounds, coins of ½: the larger of two Binomial(2, ½) is 0, 1, 2 with 1/16, 8/16, 7/16: 1.375."""
    assert most_active(2, 0.5, 2) == 2
    assert most_active(1, 0.5, 2) == 1
    assert most_active(5, 1.0, 7) == 7


def test_the_most_active_user_is_the_one_of_a_simulation():
    taken = np.random.default_rng(3).binomial(50, 0.1, (400, 1000)).max(axis=1).mean()
    assert most_active(1000, 0.1, 50) - 1 < taken <= most_active(1000, 0.1, 50)


def test_epsilon_gives_noise_and_noise_gives_epsilon():
    wanted = plan_budget(1000, 100, 50, PrivacyConfig(epsilon=3.0, delta=1e-4))
    assert wanted.noise_multiplier == pytest.approx(1.21, rel=0.01)
    assert 2.99 < wanted.epsilon_released <= 3
    given = plan_budget(1000, 100, 50, PrivacyConfig(noise_multiplier=wanted.noise_multiplier, delta=1e-4))
    assert given == wanted
    assert wanted.epsilon_server == epsilon_server(wanted.noise_multiplier, wanted.participations, 1e-4)
    assert wanted.participations_average == 5
    assert wanted.epsilon_released < wanted.epsilon_server_average < wanted.epsilon_server
    assert wanted.relative_noise == pytest.approx(0.0121, rel=0.01)


def test_without_sampling_every_round_counts_for_everybody():
    plan = plan_budget(1000, 100, 50, PrivacyConfig(noise_multiplier=30.0, sampling="none"))
    assert (plan.rate, plan.participations, plan.participations_average) == (1.0, 50, 50)
    assert plan.epsilon_released == plan.epsilon_server == epsilon_released(30.0, 1.0, 50, plan.delta)
    assert plan.relative_noise == 0.3


@pytest.mark.parametrize(
    ("numbers", "privacy", "words"),
    [
        ((100, 101, 5), {"epsilon": 1.0}, r"A cohort of 101 cannot be drawn from 100 users. Give cohort from 1 to 100"),
        ((100, 0, 5), {"epsilon": 1.0}, "A cohort of 0"),
        ((100, 10, 0), {"epsilon": 1.0}, "0 rounds"),
        ((1, 1, 5), {"epsilon": 1.0}, "at least 2"),
        ((100, 10, 5), {"epsilon": 1.0, "delta": 0.01}, r"0.00631 \(N\^-1.1\)"),
        ((100, 10, 5), {}, "Neither ε nor a noise multiplier"),
    ],
)
def test_what_cannot_be_planned_is_one_message(numbers, privacy, words):
    with pytest.raises(ConfigError, match=words):
        plan_budget(*numbers, PrivacyConfig(**privacy))


def test_a_release_before_the_rounds_is_part_of_the_plan():
    section = {"noise_multiplier": 2.0, "scaling": "private", "scaling_noise": 4.0}
    plan = plan_budget(100, 10, 5, PrivacyConfig.parse(section))
    assert plan.scaling_noise == 4.0
    assert plan.epsilon_released == epsilon_released(2.0, 0.1, 5, plan.delta, once=4.0)
    assert plan.epsilon_server == epsilon_server(2.0, plan.participations, plan.delta, once=4.0)
