"""Judges by name: those of fedvpa, of installed packages (``fedvpa.judges``), and those that a program registers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import field_validator

from fedvpa.core.config import Config
from fedvpa.core.errors import ConfigError, nearest
from fedvpa.core.registry import Registry
from fedvpa.evaluation.judges.base import Judge
from fedvpa.evaluation.judges.endpoint_config import EndpointConfig
from fedvpa.rewards.held_out_config import HeldOutConfig
from fedvpa.rewards.registry import REWARDS
from fedvpa.rewards.reward_model_config import RewardModelConfig
from fedvpa.rewards.styles_config import StylesConfig

MakeJudge = Callable[[Mapping[str, Any], Path | None], Judge]
"""Makes a judge from its settings and the file, if any, that may keep what it said; raises ConfigError for a setting
that it does not know or cannot use."""

JUDGES: Registry[MakeJudge] = Registry(
    "judge",
    {
        "held-out": "fedvpa.evaluation.judges.held_out:make_held_out_judge",
        "openai-compatible": "fedvpa.evaluation.judges.openai_compatible:make_openai_compatible_judge",
        "world": "fedvpa.evaluation.judges.by_reward:make_world_judge",
    },
)


class HeldOutOrEndpoint(EndpointConfig, HeldOutConfig):
    """What ``held-out`` may be told: where the trained judge is, and where an endpoint is that takes its place.

    Attributes:
        base_url: As of an endpoint; empty for none.
        model: The endpoint's; empty for none.
    """

    base_url: str = ""
    model: str = ""

    @field_validator("base_url")
    @classmethod
    def _address(cls, value: str) -> str:
        """Checked where the endpoint is made, since there may be none."""
        return value


def judge_names() -> list[str]:
    """What a judge can be called: the names of all judges and of all rewards, which can be judged by; sorted."""
    return sorted({*JUDGES.names(), *REWARDS.names()})


def how_to_set_a_judge() -> str:
    """Which judges there are and what each needs, as the advice of an error."""
    ours = ("held-out", "openai-compatible", "reward-model", "styles", "world")
    others = [name for name in judge_names() if name not in ours]
    added = f" Added by packages or this program: {', '.join(others)}." if others else ""
    return (
        "Set policy.judging.judge to openai-compatible (a language model behind an endpoint; it needs "
        "policy.judging.settings.base_url and policy.judging.settings.model), to held-out (what fedvpa judge trained; "
        "it needs policy.judging.settings.path) or to reward-model (it needs "
        "policy.judging.settings.models.PREFERENCE=FOLDER for each preference); styles judges simulated users (it "
        "needs policy.judging.settings.path=DIR of fedvpa simulate), and world the bundled world only."
        f"{added}"
    )


def check_judge(name: str) -> str:
    """The name itself; checked without importing the judge.

    Raises:
        ConfigError: If there is neither a judge nor a reward of that name; says what there is and how to add one.
    """
    if name not in JUDGES and name not in REWARDS:
        raise ConfigError(
            f"There is no judge of the kind {name!r}.",
            fix=f"{nearest(name, judge_names())} Others are added by fedvpa.register('judge', {name!r}, …) or "
            f"fedvpa.register('reward', {name!r}, …), or by an installed package with an entry point of the group "
            f"{JUDGES.group!r} or {REWARDS.group!r}.",
        )
    return name


def settings_section(name: str) -> type[Config] | None:
    """The section that declares a judge's settings, so that texts are read as texts; None of judges that others add."""
    sections: dict[str, type[Config]] = {
        "held-out": HeldOutOrEndpoint,
        "openai-compatible": EndpointConfig,
        "reward-model": RewardModelConfig,
        "styles": StylesConfig,
    }
    return sections.get(name)
