"""What a method whose clients train the policy may read of a run."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from fedvpa.algorithms.policy_method import PolicyTask
from fedvpa.alignment.stage1 import Stage1, reward_of
from fedvpa.features.backbone import LoadedOnce
from fedvpa.rewards.objectives import ResponseReader
from fedvpa.runs.config import RunConfig
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.stage1 import open_selector


def task_of_run(run: RunFolder, config: RunConfig) -> PolicyTask:
    """Of a run directory; its selector is opened when a method asks for it.

    Args:
        run: The run directory.
        config: Of the run; says where its data and language model are now.
    """

    @cache
    def selector() -> ResponseReader:
        reward = reward_of(open_selector(run, config), config.features, config.policy)
        return ResponseReader(reward, LoadedOnce(config.features), config.features)

    return _task(config, selector)


def task_of_config(config: RunConfig) -> PolicyTask:
    """Of a deployment, whose server and nodes have no selector."""
    return _task(config, None)


def task_of_stage(stage: Stage1, config: RunConfig) -> PolicyTask:
    """Of a training in memory."""
    reader = ResponseReader(stage.reward, LoadedOnce(stage.features, lambda: stage.backbone), stage.features)
    return _task(config.model_copy(update={"features": stage.features, "policy": stage.policy}), lambda: reader)


def _task(config: RunConfig, selector: Callable[[], ResponseReader] | None) -> PolicyTask:
    return PolicyTask(
        settings=config.policy,
        config=config.method_config,
        features=config.features,
        seed=config.seed,
        population=config.data.population if config.data.source == "world" else None,
        selector=selector,
    )
