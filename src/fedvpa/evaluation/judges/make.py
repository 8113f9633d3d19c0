"""From a name and settings to a judge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedvpa.evaluation.judges.base import Judge
from fedvpa.evaluation.judges.by_reward import RewardJudge
from fedvpa.evaluation.judges.registry import JUDGES, check_judge
from fedvpa.rewards.registry import REWARDS


def make_judge(kind: str, settings: Mapping[str, Any] | None = None, cache: Path | None = None) -> Judge:
    """Make a judge.

    Args:
        kind: The name of a judge, such as ``world`` or ``openai-compatible``; or that of a reward, such as
            ``reward-model``, for the judge that prefers the response of higher reward.
        settings: The judge's or the reward's own: the fields of
            :class:`~fedvpa.evaluation.judges.endpoint_config.EndpointConfig` or of
            :class:`~fedvpa.rewards.reward_model.RewardModelConfig`; the world has none.
        cache: The file that keeps an endpoint's answers; judges by reward need none.

    Raises:
        ConfigError: For an unknown name or setting.
    """
    check_judge(kind)
    if kind in JUDGES:
        return JUDGES.get(kind)(settings or {}, cache)
    return RewardJudge(REWARDS.get(kind)(settings or {}))
