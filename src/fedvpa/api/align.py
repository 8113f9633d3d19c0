"""``fedvpa align``: stage 2 of a run, from its frozen selector, or by its clients, to a policy.

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

from fedvpa.core.errors import ConfigError, RunError, nearest
from fedvpa.core.options import option
from fedvpa.core.processes import together
from fedvpa.core.progress import speaks
from fedvpa.core.schema import VERSIONS
from fedvpa.core.short_repr import short_repr
from fedvpa.runs.config import with_overrides
from fedvpa.runs.folder import RunFolder

if TYPE_CHECKING:
    from fedvpa.alignment.job import AlignmentJob
    from fedvpa.runs.config import RunConfig
    from fedvpa.runs.policies import Inputs
    from fedvpa.runs.policy_checkpoints import Stopped
    from fedvpa.runs.policy_noise import PolicyNoise


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
        """How often the selector prefers it to the base policy on validation prompts; None if clients trained it."""
        return float(self.notes["stopped"]["win_rate"]) if "stopped" in self.notes else None


@dataclass(frozen=True, repr=False)
class AlignResult:
    """The policies of a run.

    Attributes:
        run: The run directory.
        method: What trained them.
        policies: Name → policy: ``""`` for all users, or the name of a true group.
        data: What of the run's data was left out, cut or changed, as the run's ``metrics.json`` has it; None if it is
            of an earlier release.
        alarms: What of the run's latents is alarming; see :mod:`fedvpa.evaluation.latent_alarms`.
    """

    run: Path
    method: str
    policies: Mapping[str, AlignedPolicy]
    data: Mapping[str, Any] | None = None
    alarms: Sequence[str] = ()

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
        version = VERSIONS["policy metrics"]
        told = {"schema_version": version, "method": self.method, "policies": notes, "data": self.data}
        return told | ({"alarms": list(self.alarms)} if self.alarms else {})


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
        run: A run directory with a trained selector; for methods whose clients train the policy any, since they read
            the run's pairs, and its selector only where an objective is one of its prototypes.
        overrides: Such as ``policy.steps=200``.
        method: One whose clients train the policy (``POLICY_METHODS``), such as ``feddpo`` or ``firm``; by default the
            method of the run.
        overwrite: Replace a policy that is there, once the new one is known to be trainable.
        resume: Go on from the last checkpoint of an ``align`` that was stopped, with its method and settings.

    Raises:
        InputError: If the run or the configuration cannot be used, or another program writes to the run.
        RunError: If what is resumed would be made from something else now; said before anything is sampled.
        AlignmentError: If the labels of its pairs fail the check before the first step; or if a policy collapsed, after
            the run was left whole, with the base policy in its place; of a method whose clients train the policy, with
            that policy.
        Interrupted: After SIGINT or SIGTERM; a checkpoint was saved.
        ProcessLost: If a launcher started several processes (see :mod:`fedvpa.core.processes`) and one has ended.
    """
    folder = RunFolder.open(run)
    config = folder.config(overrides)  # which overrides a run takes at all
    from fedvpa.algorithms.registry import POLICY_METHODS

    if method not in (None, config.method) and method not in POLICY_METHODS:
        raise ConfigError(
            f"{option('method', repr(method))} cannot align this run, which was trained with {config.method!r}.",
            fix=nearest(str(method), (config.method, *POLICY_METHODS.names())),
        )
    from fedvpa.runs.policies import check_place
    from fedvpa.runs.policy_checkpoints import stopped_at

    # Of several processes of one align, the first holds the run for all of them.
    with together() as team, folder.locked() if team.main else nullcontext():
        check_place(folder, overwrite=overwrite, resume=resume)
        team.wait()  # all have looked before one writes
        stopped = stopped_at(folder) if resume else None
        if stopped is not None:
            begun = {"policy": stopped.settings, "firm": stopped.firm or folder.config().firm}
            config = with_overrides(folder.config().model_copy(update=begun), overrides)
        method, config = method or (stopped.method if stopped else config.method), config.located()
        chosen = ["--method", method] if method != config.method else []
        command = shlex.join(["fedvpa", "align", str(folder), *overrides, *chosen, "--resume"])
        if method in POLICY_METHODS and team.count > 1:
            raise ConfigError(
                f"{method!r} trains its clients one after another, which {team.count} processes do not share out.",
                fix="Start it without a launcher.",
            )
        if method in POLICY_METHODS:
            return _by_clients(folder, config, method, command, stopped)
        return _by_selector(folder, config, command, stopped)


def _by_selector(folder: RunFolder, config: RunConfig, command: str, stopped: Stopped | None) -> AlignResult:
    """One policy for all, or one per group, by DPO on pairs that the run's selector orders."""
    from fedvpa.alignment.dpo_job import DPOJob
    from fedvpa.core.content import hash_files
    from fedvpa.core.files import write_json
    from fedvpa.policy.files import PREFERENCES
    from fedvpa.runs.released import released
    from fedvpa.runs.scores import say_alarms
    from fedvpa.runs.stage1 import open_stage1

    stage = open_stage1(folder, config)
    if config.data != folder.config().data:
        _ = stage.pairs  # whoever says where the data are now is told at once if they are others
    clients = len(stage.seen.ids) or folder.clients_trained()
    stage = released(stage, config)
    if not stage.policies:
        raise RunError(
            f"{config.method!r} has a policy for each true group, and no user of the run has a group.",
            fix="Align a run of another method.",
            where=str(folder),
        )
    made_from = {
        "data": stage.data,
        "selector": hash_files(folder.selector.iterdir()),
        "users": hash_files([folder.users] if folder.users.is_file() and not config.privacy.on else []),
    }
    inputs = _inputs(config, config.method, clients, made_from, stopped)
    alarms = (folder.metrics().get("latents") or {}).get("alarms", ()) if stage.personal else ()
    say_alarms(alarms, config.method)  # before hours are spent on a z that says nothing
    policies: dict[str, AlignedPolicy] = {}
    for name in stage.policies:
        job = DPOJob(stage, name, refresh_folder=folder.checkpoint.parent)
        policies[name] = _train(folder, job, inputs, command, resume=stopped is not None, first=not policies)
    if speaks():
        write_json(folder.policy / PREFERENCES, stage.named_preferences())
    return _finish(folder, config.method, policies, alarms)


def _by_clients(
    folder: RunFolder, config: RunConfig, method: str, command: str, stopped: Stopped | None
) -> AlignResult:
    """One policy for all, trained by the run's clients on the texts that they hold."""
    from fedvpa.algorithms.registry import POLICY_METHODS
    from fedvpa.alignment.federated_job import FederatedJob
    from fedvpa.core.content import hash_files
    from fedvpa.core.files import write_json
    from fedvpa.engines.flower.simulation import require_flower
    from fedvpa.policy.files import PREFERENCES
    from fedvpa.runs.identity import data_fingerprint
    from fedvpa.runs.policy_noise import check_policy, key_of_policy, policy_noise, selector_released
    from fedvpa.runs.policy_task import task_of_run
    from fedvpa.runs.stage1 import open_pairs

    if config.policy.clients.engine == "flower":
        require_flower()
    task, entry = task_of_run(folder, config), POLICY_METHODS.get(method)
    check_policy(config, method, task)
    entry.algorithm(task)  # what it has against its settings, before anything is loaded
    pairs = open_pairs(folder, config)
    selector = hash_files(folder.selector.iterdir()) if entry.reads_selector(task) else ""
    made_from = {"data": data_fingerprint(pairs.table, pairs.partition), "selector": selector, "users": ""}
    inputs = _inputs(config, method, len(pairs.partition.seen), made_from, stopped)
    noise, held = None, pairs.policy_training()
    if config.privacy.on:
        key = None if stopped is None else key_of_policy(config, folder)
        selector_spent = selector_released(config, len(held), folder.metrics().get("privacy"))
        noise = policy_noise(config, method, task, len(held), selector_spent, key)
    job = FederatedJob(method, task, held, strict=pairs.table.report.strict, noise=noise)
    policies = {job.name: _train(folder, job, inputs, command, resume=stopped is not None, first=True, noise=noise)}
    if speaks():
        write_json(folder.policy / PREFERENCES, {})
    return _finish(folder, method, policies)


def _inputs(
    config: RunConfig, method: str, clients: int, made_from: Mapping[str, str], stopped: Stopped | None
) -> Inputs:
    """What a policy is made from; compared with the checkpoint first, before anything is loaded or sampled for it."""
    from fedvpa.runs.identity import checkpoint_parts
    from fedvpa.runs.policies import Inputs
    from fedvpa.runs.policy_checkpoints import check_same

    parts = checkpoint_parts(config, method=method, **made_from)
    if stopped is not None:
        check_same(stopped.path, stopped.parts, parts)
    return Inputs(config, parts, clients)


def _train(
    folder: RunFolder,
    job: AlignmentJob,
    inputs: Inputs,
    command: str,
    *,
    resume: bool,
    first: bool,
    noise: PolicyNoise | None = None,
) -> AlignedPolicy:
    """Train one policy; the first of a new ``align`` removes those that are there, now that it can be trained."""
    from fedvpa.runs.policies import remove_policies, train_in_run

    if first and not resume and speaks():
        remove_policies(folder)
        if noise is not None:
            noise.keep(folder)
    notes = train_in_run(folder, job, inputs, command, resume=resume)
    return AlignedPolicy(folder.policy / job.name, notes)


def _finish(
    folder: RunFolder, method: str, policies: Mapping[str, AlignedPolicy], alarms: Sequence[str] = ()
) -> AlignResult:
    from fedvpa.alignment.job import check_collapse
    from fedvpa.core.files import write_json

    result = AlignResult(folder.path, method, policies, folder.metrics().get("data"), tuple(alarms))
    if speaks():
        write_json(folder.policy / "metrics.json", result.to_dict())
    check_collapse(result.to_dict()["policies"], method, str(result.run))
    return result
