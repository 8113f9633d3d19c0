"""From a kind and its settings to a judge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from fedvpa.core.errors import ConfigError, nearest
from fedvpa.evaluation.judges.base import Judge
from fedvpa.evaluation.judges.endpoint_config import EndpointConfig
from fedvpa.evaluation.judges.openai_compatible import OpenAICompatibleJudge
from fedvpa.evaluation.judges.reward_model import RewardModelJudge
from fedvpa.evaluation.judges.world import WorldJudge
from fedvpa.rewards.reward_model import RewardModelConfig

Kind = Literal["world", "reward-model", "openai-compatible"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SETTINGS = ("policy", "judging", "settings")
"""Where a judge's settings stand in a configuration."""


def make_judge(kind: str, settings: Mapping[str, Any] | None = None, cache: Path | None = None) -> Judge:
    """Make a judge.

    Args:
        kind: ``world``, ``reward-model`` or ``openai-compatible``.
        settings: The fields of :class:`RewardModelConfig` or of :class:`EndpointConfig`; the world has none.
        cache: Where an endpoint's answers are kept; the other two need no cache.

    Raises:
        ConfigError: For an unknown kind or setting.
    """
    values = settings or {}
    match kind:
        case "world":
            if values:
                raise ConfigError(f"The world's judge takes no settings, but was given {', '.join(sorted(values))}.")
            return WorldJudge()
        case "reward-model":
            return RewardModelJudge(RewardModelConfig.parse(values, *SETTINGS))
        case "openai-compatible":
            return OpenAICompatibleJudge(EndpointConfig.parse(values, *SETTINGS), cache)
    raise ConfigError(f"There is no judge of the kind {kind!r}.", fix=nearest(kind, KINDS))
