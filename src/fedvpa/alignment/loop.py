"""TODO."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from typing import Any

from fedvpa.alignment.stopping import Kept, Validation, good_enough
from fedvpa.core.seeds import Label
from fedvpa.policy.adapters import snapshot
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.dpo_trainer import Trainer
from fedvpa.policy.examples import Examples
from fedvpa.policy.model import Policy


@dataclass(frozen=True)
class Progress:
    """The state after a step: with the policy's weights and the trainer's state, all that is needed to go on."""

    kept: Kept | None
    line: dict[str, Any]


def align(
    policy: Policy,
    trainer: Trainer,
    examples: Examples,
    validation: Validation,
    config: PolicyConfig,
    seed: int,
    *path: Label,
    kept: Kept | None = None,
    refresh: Callable[[int], Examples] | None = None,
) -> Generator[Progress, None, None]:
    """DPO from the trainer's step on; yields after every step.

    Args:
        policy: Trained in place.
        trainer: Of this policy.
        examples: From the candidates of the base policy.
        validation: Chooses the stopping step, looking every ``evaluate_every`` steps and at the last one.
        config: Steps and how often to look and to refresh.
        seed: Names, with ``path``, the draws.
        *path: Labels.
        kept: From the run that is resumed.
        refresh: Step → examples from samples of the policy as it is at that step; a run that goes on from a later step
            asks for those of the last refresh again.
    """
    if refresh is not None and trainer.step % config.refresh_every:
        last = trainer.step - trainer.step % config.refresh_every
        examples = refresh(last) if last else examples
    while trainer.step < config.steps:
        if refresh is not None and trainer.step and trainer.step % config.refresh_every == 0:
            examples = refresh(trainer.step)
        done = next(trainer.run(examples, 1))
        line = asdict(done)
        if done.step % config.evaluate_every == 0 or done.step == config.steps:
            look = validation.look(policy, config, seed, *path, done.step)
            line["validation"] = asdict(look)
            if good_enough(look, kept):
                kept = Kept(look, snapshot(policy), max(look.win_rate, kept.best if kept else 0.0))
        yield Progress(kept, line)
