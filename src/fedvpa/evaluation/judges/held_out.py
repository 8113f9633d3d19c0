"""The judge that ``fedvpa judge`` trained, or in its place a language model behind an endpoint, where one can be asked.

With ``policy.judging.settings.base_url`` the same configuration asks the endpoint and leaves the trained judge alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedvpa.core.progress import say
from fedvpa.evaluation.judges.base import Judge
from fedvpa.evaluation.judges.by_reward import RewardJudge
from fedvpa.evaluation.judges.endpoint_config import EndpointConfig
from fedvpa.evaluation.judges.registry import JUDGES
from fedvpa.rewards.held_out_config import HeldOutConfig
from fedvpa.rewards.registry import REWARDS

ENDPOINT = "base_url"


def make_held_out_judge(settings: Mapping[str, Any], cache: Path | None) -> Judge:
    """The judge of a folder; with ``base_url`` among the settings, the endpoint.

    Args:
        settings: The fields of :class:`~fedvpa.rewards.held_out_config.HeldOutConfig`; with ``base_url`` also those of
            :class:`~fedvpa.evaluation.judges.endpoint_config.EndpointConfig`.
        cache: The file that keeps an endpoint's answers.

    Raises:
        ConfigError: For an unknown or unusable setting, or a folder without a judge.
    """
    if not settings.get(ENDPOINT):
        return RewardJudge(REWARDS.get("held-out")({key: value for key, value in settings.items() if key != ENDPOINT}))
    say(f"policy.judging.settings.base_url is set: {settings[ENDPOINT]} judges, and the trained judge does not")
    own = HeldOutConfig.model_fields.keys() - EndpointConfig.model_fields.keys()
    return JUDGES.get("openai-compatible")({key: value for key, value in settings.items() if key not in own}, cache)
