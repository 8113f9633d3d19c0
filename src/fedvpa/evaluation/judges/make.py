"""From a name and settings to a judge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedvpa.core.errors import ConfigError
from fedvpa.evaluation.judges.base import Judge
from fedvpa.evaluation.judges.budget import LIMIT_KEY
from fedvpa.evaluation.judges.by_reward import RewardJudge
from fedvpa.evaluation.judges.planning import PaidJudge
from fedvpa.evaluation.judges.registry import JUDGES, check_judge
from fedvpa.rewards.registry import REWARDS


def make_judge(
    kind: str, settings: Mapping[str, Any] | None = None, cache: Path | None = None, max_calls: int | None = None
) -> Judge:
    """Make a judge.

    Args:
        kind: The name of a judge, such as ``world`` or ``openai-compatible``; or that of a reward, such as
            ``reward-model``, for the judge that prefers the response of higher reward.
        settings: The judge's or the reward's own: the fields of
            :class:`~fedvpa.evaluation.judges.endpoint_config.EndpointConfig` or of
            :class:`~fedvpa.rewards.reward_model.RewardModelConfig`; the world has none.
        cache: The file that keeps an endpoint's answers; judges by reward need none.
        max_calls: The most calls that judging into this cache may make, those of earlier programs included; None for
            any number. Judges by reward make none.

    Raises:
        ConfigError: For an unknown name or setting, or a limit of calls for a judge that does not count them.
    """
    check_judge(kind)
    judge = (
        JUDGES.get(kind)(settings or {}, cache) if kind in JUDGES else RewardJudge(REWARDS.get(kind)(settings or {}))
    )
    if max_calls is not None:
        if isinstance(judge, PaidJudge):
            judge.limit_calls(max_calls)
        elif not isinstance(judge, RewardJudge):
            raise ConfigError(
                f"The judge {kind!r} does not count its calls, so that they cannot be limited to {max_calls}.",
                fix=f"Leave {LIMIT_KEY} out, or give the judge the methods of PaidJudge (docs/plugins.md).",
                where=f"configuration key '{LIMIT_KEY}'",
            )
    return judge
