import pytest

from fedvpa.core.errors import ConfigError
from fedvpa.rewards.registry import REWARDS
from fedvpa.rewards.reward_model import RewardModelReward
from fedvpa.rewards.world import WorldReward


@pytest.mark.unit
def test_rewards_are_made_by_name_and_an_unknown_name_lists_them():
    assert isinstance(REWARDS.get("world")({}), WorldReward)
    assert isinstance(REWARDS.get("reward-model")({"models": {"helpful": "folder"}}), RewardModelReward)
    with pytest.raises(ConfigError, match=r"no reward 'zzz'\. Known: .*reward-model.*world"):
        REWARDS.get("zzz")


@pytest.mark.unit
def test_an_unknown_setting_is_named_with_its_place_in_the_configuration():
    with pytest.raises(ConfigError, match=r"'policy.judging.settings.modells': is not known\. Did you mean 'models'\?"):
        REWARDS.get("reward-model")({"models": {"helpful": "folder"}, "modells": {}})
