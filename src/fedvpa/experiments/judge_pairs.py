"""What a judge was trained on: refused where a method saw it too, and how good it is where none did."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from fedvpa.core.errors import ConfigError
from fedvpa.core.progress import say
from fedvpa.data.load import load
from fedvpa.data.schema import Pair
from fedvpa.evaluation.judges.base import Judge
from fedvpa.rewards.base import LearnedReward
from fedvpa.rewards.held_out import seen_pairs
from fedvpa.runs.config import RunConfig
from fedvpa.runs.folder import RunFolder


def check_judge_pairs(judge: Judge, pairs: Iterable[Pair]) -> None:
    """Refuse a judge that was trained on pairs of a run, whoever labelled them and under whatever preference.

    Pairs are known again by what they say; see :func:`fedvpa.data.reserve.pair_identity`.

    Args:
        judge: Any judge; one that was not trained on pairs passes.
        pairs: All pairs of the run's data, those that test included.

    Raises:
        ConfigError: If it was; says on how many.
    """
    reward = learned_reward_of(judge)
    if reward is None:
        return
    seen = seen_pairs(reward.pairs, pairs)
    if seen:
        raise ConfigError(
            f"{seen:,} of the {len(reward.pairs):,} pairs that the judge was trained on are pairs of the run, so that "
            "it would judge methods by what they saw.",
            fix="Leave pairs aside when runs are trained (data.reserved=0.3), and train the judge on these: fedvpa "
            "judge with the same data section.",
            where="configuration key 'policy.judging.settings.path'",
        )


def learned_reward_of(judge: Judge) -> LearnedReward | None:
    """The reward that a judge decides by, if it was trained on labelled pairs and knows them; else None."""
    reward = getattr(judge, "reward", None)
    return reward if isinstance(reward, LearnedReward) else None


def accuracy_of(judge: Judge) -> dict[str, dict[str, Any]]:
    """Preference → how good a trained judge is on held-out pairs, as JSON; empty for another judge."""
    reward = learned_reward_of(judge)
    return {} if reward is None else {name: asdict(found) for name, found in reward.accuracy.items()}


def pairs_of_run(run: RunFolder, config: RunConfig) -> tuple[Pair, ...]:
    """All pairs of a run's data.

    Those of a deployment are on the machines of its users: then none are known here, which is said.

    Raises:
        ConfigError: If the data section names no data.
        DataError: If the data are not there; ``data.path`` says where they are now.
    """
    if not run.users.is_file():
        say(f"the pairs of {run} are on other machines: whether its judge was trained on them cannot be checked")
        return ()
    return load(config.resolved_data()).pairs
