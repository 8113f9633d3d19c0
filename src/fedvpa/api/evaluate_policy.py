"""``fedvpa evaluate RUN --policy``: the policy of a run against its base policy, as often and by whom one likes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedvpa.core.errors import ConfigError
from fedvpa.core.processes import lead
from fedvpa.core.short_repr import short_repr
from fedvpa.core.signals import interrupting
from fedvpa.runs.folder import RunFolder

if TYPE_CHECKING:
    from fedvpa.experiments.results import PoliciesComparison
    from fedvpa.runs.config import RunConfig

JUDGED = (
    *(
        "policy.judging",
        "policy.model",
        "policy.loading",
        "policy.precision",
        "policy.candidates.batch",
        "policy.candidates.prompt_file",
    ),
    *("data", "features"),
)
"""What an evaluation may be told: how to judge, where things are now, and how they are computed."""


@dataclass(frozen=True, repr=False)
class EvaluatePolicyResult:
    """The policies of a run, judged.

    Attributes:
        run: The run directory.
        judge: The judge's name.
        policies: Win rates against the base policy, and switching.
    """

    run: Path
    judge: str
    policies: PoliciesComparison

    __repr__ = short_repr

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the keys about policies of ``comparison.json``, the run and the judge."""
        return {"run": str(self.run), "policy_judge": self.judge, **self.policies.to_dict()}


def evaluate_policy(run: str | PathLike[str], *, overrides: Sequence[str] = ()) -> EvaluatePolicyResult:
    """Judge the policy of a run against its base policy, on prompts that no training saw.

    Every step is kept, so that it can be repeated and extended: with another judge or rubric the same answers are
    judged again, with more prompts only those that are new are answered, and what a paid judge said is not asked again.
    Leaves ``outcomes.jsonl`` and ``judging.json`` in ``RUN/policy`` and the result in ``RUN/policy/metrics.json``.

    Args:
        run: A run directory with both stages.
        overrides: How to judge, such as ``policy.judging.prompts=500``, and where data and language models are now.

    Raises:
        ConfigError: For an override of what the policy was trained with, or a judge that cannot be.
        RunError: If the run holds no policy, or another program writes to it.
        JudgeError: If the judge gives no verdicts, or too few; answers and what was judged before are kept.
        Interrupted: After SIGINT or SIGTERM; answers and a paid judge's verdicts are kept.

    Of several processes that a launcher started (:mod:`fedvpa.core.processes`), the first one judges, and the others
    help with the answers; all return the same result.
    """
    return lead(lambda: _evaluate(run, overrides))


def _evaluate(run: str | PathLike[str], overrides: Sequence[str]) -> EvaluatePolicyResult:
    folder = RunFolder.open(run)
    folder.config(overrides)  # which overrides a run takes at all
    _check(overrides)
    from fedvpa.experiments.run_judging import judge_run
    from fedvpa.runs.policies import aligned_config

    config: RunConfig = aligned_config(folder, overrides)
    stopped = f"judging stopped. Its answers and verdicts are kept in {folder}, and the same command goes on."
    with interrupting(stopped), folder.locked():
        judge, policies = judge_run(folder, config)
    return EvaluatePolicyResult(folder.path, judge, policies)


def _check(overrides: Sequence[str]) -> None:
    for override in overrides:
        key = override.partition("=")[0]
        if not any(key == known or key.startswith(f"{known}.") for known in JUDGED):
            raise ConfigError(
                f"{key} cannot be changed: the policy was trained with what it says.",
                fix="Leave it out, or align again. What can be said here: policy.judging.*, and where things are now.",
            )
