"""Rewards by name: those of fedvpa, of installed packages (``fedvpa.rewards``), and those that a program registers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fedvpa.core.registry import Registry
from fedvpa.rewards.base import Reward

MakeReward = Callable[[Mapping[str, Any]], Reward]
"""Makes a reward from its settings; raises ConfigError for a setting that it does not know or cannot use."""

REWARDS: Registry[MakeReward] = Registry(
    "reward",
    {
        "held-out": "fedvpa.rewards.held_out:make_held_out_reward",
        "reward-model": "fedvpa.rewards.reward_model:make_reward_model_reward",
        "styles": "fedvpa.rewards.styles:make_styles_reward",
        "world": "fedvpa.rewards.world:make_world_reward",
    },
)
