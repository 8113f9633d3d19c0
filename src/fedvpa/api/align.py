"""``fedvpa align``: stage 2 of a run, from its frozen selector (or, for FedDPO, its pairs) to a policy.

The way: :mod:`fedvpa.runs.stage1` opens the selector and its users, :mod:`fedvpa.alignment` makes candidates, pairs and
steps of DPO, :mod:`fedvpa.policy` is the language model that follows z.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedvpa.core.errors import ConfigError, nearest
from fedvpa.core.schema import VERSIONS
from fedvpa.core.short_repr import short_repr
from fedvpa.runs.folder import RunFolder

if TYPE_CHECKING:
    from fedvpa.alignment.job import AlignmentJob
    from fedvpa.runs.config import RunConfig
    from fedvpa.runs.policies import Inputs

FEDDPO = "feddpo"
"""The method that needs no selector; see :mod:`fedvpa.algorithms.feddpo`."""


@dataclass(frozen=True, repr=False)
class AlignedPolicy:
    """One policy that ``align`` trained.

    Attributes:
        folder: Where it lies; ``fedvpa.Policy.from_pretrained`` loads it.
        notes: What ``metrics.json`` says about it.
    """

    folder: Path
    notes: Mapping[str, Any]

    __repr__ = short_repr

    @property
    def validation_win_rate(self) -> float | None:
        """How often the selector prefers it to the base policy on validation prompts; None for FedDPO."""
        return float(self.notes["stopped"]["win_rate"]) if "stopped" in self.notes else None


@dataclass(frozen=True, repr=False)
class AlignResult:
    """The policies of a run.

    Attributes:
        run: The run directory.
        method: What trained them.
        policies: Name → policy: ``""`` for all users, or the name of a true group.
    """

    run: Path
    method: str
    policies: Mapping[str, AlignedPolicy]

    __repr__ = short_repr

    @property
    def policy(self) -> AlignedPolicy:
        """The one for all users.

        Raises:
            ConfigError: If there is one for each group.
        """
        from fedvpa.alignment.stage1 import ONE

        if ONE not in self.policies:
            raise ConfigError(
                f"{self.method!r} has a policy for each of {', '.join(self.policies)}.", fix="Take one of .policies."
            )
        return self.policies[ONE]

    def to_dict(self) -> dict[str, Any]:
        """What ``policy/metrics.json`` holds."""
        notes = {name: dict(policy.notes) for name, policy in self.policies.items()}
        return {"schema_version": VERSIONS["policy metrics"], "method": self.method, "policies": notes}


def align(
    run: str | PathLike[str],
    *,
    overrides: Sequence[str] = (),
    method: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
) -> AlignResult:
    """Align the policy of a run and leave it in ``run/policy``.

    Args:
        run: A run directory with a trained selector; for FedDPO any, since it reads nothing but the run's pairs.
        overrides: Such as ``policy.steps=200``.
        method: ``feddpo``, or by default the method of the run.
        overwrite: Replace a policy that is there, once the new one is known to be trainable.
        resume: Go on from the last checkpoint of an ``align`` that was stopped.

    Raises:
        InputError: If the run or the configuration cannot be used, or another program writes to the run.
        Interrupted: After SIGINT or SIGTERM; a checkpoint was saved.
    """
    folder = RunFolder.open(run)
    config = folder.config(overrides)
    method = method or config.method
    if method not in (config.method, FEDDPO):
        raise ConfigError(
            f"--method {method!r} cannot align this run, which was trained with {config.method!r}.",
            fix=nearest(method, (config.method, FEDDPO)),
        )
    from fedvpa.runs.policies import check_place, restore_compute

    check_place(folder, overwrite=overwrite, resume=resume)
    if resume:
        restore_compute(folder)
    chosen = ["--method", method] if method != config.method else []
    command = shlex.join(["fedvpa", "align", str(folder), *overrides, *chosen, "--resume"])
    if method == FEDDPO:
        return _by_clients(folder, config, command, resume=resume)
    return _by_selector(folder, config, command, resume=resume)


def _by_selector(folder: RunFolder, config: RunConfig, command: str, *, resume: bool) -> AlignResult:
    """One policy for all, or one per group, by DPO on pairs that the run's selector orders."""
    from fedvpa.alignment.dpo_job import DPOJob
    from fedvpa.core.files import write_json
    from fedvpa.models.locate import hash_files
    from fedvpa.policy.files import PREFERENCES
    from fedvpa.runs.identity import data_fingerprint
    from fedvpa.runs.policies import Inputs
    from fedvpa.runs.stage1 import open_stage1

    stage = open_stage1(folder, config)
    data = data_fingerprint(stage.pairs.table, stage.pairs.partition)
    inputs = Inputs(config, hash_files(folder.selector.iterdir()), data, len(stage.seen.ids))
    policies: dict[str, AlignedPolicy] = {}
    for name in stage.policies:
        job = DPOJob(stage, name, refresh_folder=folder.checkpoint.parent)
        fresh = not resume and not policies
        policies[name] = _train(folder, job, inputs, command, resume=resume, fresh=fresh)
    if job.is_main:
        write_json(folder.policy / PREFERENCES, stage.named_preferences())
    return _finish(folder, job, config.method, policies)


def _by_clients(folder: RunFolder, config: RunConfig, command: str, *, resume: bool) -> AlignResult:
    """One policy for all, by FedDPO on the training pairs of the run's clients."""
    from fedvpa.alignment.feddpo_job import FedDPOJob
    from fedvpa.core.files import write_json
    from fedvpa.policy.files import PREFERENCES
    from fedvpa.runs.identity import data_fingerprint
    from fedvpa.runs.policies import Inputs
    from fedvpa.runs.stage1 import open_pairs

    pairs = open_pairs(folder, config)
    job = FedDPOJob(config.policy, config.features, pairs.of_seen("train"), config.seed)
    inputs = Inputs(config, "", data_fingerprint(pairs.table, pairs.partition), len(pairs.partition.seen))
    policies = {job.name: _train(folder, job, inputs, command, resume=resume, fresh=not resume)}
    if job.is_main:
        write_json(folder.policy / PREFERENCES, {})
    return _finish(folder, job, FEDDPO, policies)


def _train(
    folder: RunFolder, job: AlignmentJob, inputs: Inputs, command: str, *, resume: bool, fresh: bool
) -> AlignedPolicy:
    """Train one policy; ``fresh`` removes those that are there, now that this one is known to be trainable."""
    from fedvpa.runs.policies import remove_policies, train_in_run

    with folder.locked() if job.is_main else nullcontext():
        if fresh and job.is_main:
            remove_policies(folder)
        notes = train_in_run(folder, job, inputs, command, resume=resume)
    return AlignedPolicy(folder.policy / job.name, notes)


def _finish(folder: RunFolder, job: AlignmentJob, method: str, policies: Mapping[str, AlignedPolicy]) -> AlignResult:
    from fedvpa.core.files import write_json

    result = AlignResult(folder.path, method, policies)
    if job.is_main:
        write_json(folder.policy / "metrics.json", result.to_dict())
    return result
