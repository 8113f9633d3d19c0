"""DPO step by step: refreshed candidates, validation, and the best weights so far.

What the DPO is (Rafailov et al., arXiv 2305.18290), stands in ``objectives/dpo.py`` and ``policy/dpo_trainer.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from fedvpa.alignment.stopping import BestWeights, Validation
from fedvpa.core.processes import current
from fedvpa.core.seeds import Label
from fedvpa.core.short_repr import short_repr
from fedvpa.policy.adapters import snapshot
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.dpo_trainer import DPOTrainer
from fedvpa.policy.examples import Examples
from fedvpa.policy.policy import Policy


@dataclass(frozen=True, repr=False)
class StepResult:
    """The state after a step: with the policy's weights and the trainer's state, all that is needed to go on.

    Attributes:
        best: The weights to use, if training stopped here; those of the base policy before the first look.
        line: What the history says about the step.
    """

    best: BestWeights
    line: dict[str, Any]

    __repr__ = short_repr


def dpo_steps(
    policy: Policy,
    trainer: DPOTrainer,
    examples: Examples,
    validation: Validation,
    config: PolicyConfig,
    seed: int,
    *path: Label,
    best: BestWeights | None = None,
    refresh: Callable[[int], Examples] | None = None,
) -> Generator[StepResult, None, None]:
    """DPO from the trainer's step on; yields after every step.

    Args:
        policy: Trained in place.
        trainer: Of this policy.
        examples: From the candidates of the base policy.
        validation: Chooses the stopping step; runs every ``evaluate_every`` steps and at the last one.
        config: Steps and how often to validate and to refresh.
        seed: Names, with ``path``, the draws.
        *path: Labels.
        best: From the run that is resumed; a new one begins with the base policy.
        refresh: Step → examples from samples of the policy as it is at that step; a run that goes on from a later step
            asks for those of the last refresh again.
    """
    best = best or BestWeights(validation.start(config), snapshot(policy), 0.0)
    if refresh is not None and trainer.step % config.refresh_every:
        last = trainer.step - trainer.step % config.refresh_every
        examples = refresh(last) if last else examples
    while trainer.step < config.steps:
        if refresh is not None and trainer.step and trainer.step % config.refresh_every == 0:
            examples = refresh(trainer.step)
        done = next(trainer.run(examples, 1))
        line = asdict(done)
        if done.step == 1:
            line["start"] = asdict(best.result)
        if done.step % config.evaluate_every == 0 or done.step == config.steps:
            result = current().told(validation.run(policy, config, seed, *path, done.step))
            line["validation"] = asdict(result)
            best = best.after(result, partial(snapshot, policy))
        yield StepResult(best, line)
