"""The policies of a run directory: trained there, resumable bit for bit, and opened again."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedvpa.algorithms.registry import POLICY_METHODS, make
from fedvpa.alignment.dpo_job import refresh_file
from fedvpa.alignment.job import AlignmentJob
from fedvpa.alignment.stage1 import ONE
from fedvpa.core.compute import Compute
from fedvpa.core.errors import RunError
from fedvpa.core.files import read_own_object, write_text
from fedvpa.core.identity import Parts
from fedvpa.core.loop import run_job
from fedvpa.core.options import option
from fedvpa.core.processes import current
from fedvpa.core.progress import say
from fedvpa.core.schema import VERSIONS
from fedvpa.core.short_repr import short_repr
from fedvpa.core.tensors import write_tensors
from fedvpa.models.loading_config import DEFAULT
from fedvpa.models.locate import locate_for
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.files import read_policy, read_preferences, saved_settings
from fedvpa.policy.origin import placed
from fedvpa.policy.policy import Policy, load_policy
from fedvpa.policy.templates import with_base
from fedvpa.runs.card import card
from fedvpa.runs.config import RunConfig, with_overrides
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.policy_checkpoints import checkpoints, go_on
from fedvpa.runs.policy_noise import key_file
from fedvpa.selector.selector import Selector


@dataclass(frozen=True)
class Inputs:
    """What a policy of a run is made from.

    Attributes:
        config: Of the run, with stage 2 as it is trained.
        parts: What decides the policy; see :func:`fedvpa.runs.identity.checkpoint_parts`.
        clients: How many trained.
    """

    config: RunConfig
    parts: Parts
    clients: int


def check_place(run: RunFolder, *, overwrite: bool, resume: bool) -> None:
    """Whether ``align`` may write here.

    Raises:
        RunError: If there is a policy already, or nothing to resume.
    """
    if resume and not checkpoints(run):
        raise RunError(
            "holds no checkpoint of a policy: align stopped before its first one.",
            fix=f"Start it again without {option('resume', 'True')}.",
            where=str(run),
        )
    if overwrite or resume:
        return
    if (run.policy / "metrics.json").exists():
        raise RunError(
            "holds a policy already.", fix=f"Give {option('overwrite', 'True')} to replace it.", where=str(run)
        )
    if checkpoints(run):
        raise RunError(
            "holds a policy that is not finished.",
            fix=f"Go on with {option('resume', 'True')}, or give {option('overwrite', 'True')}.",
            where=str(run),
        )


def remove_policies(run: RunFolder) -> None:
    """Remove earlier policies, checkpoints first: one that is killed early must not go on from the old one's."""
    for path in [*checkpoints(run), *run.checkpoint.parent.glob(f"{refresh_file(ONE)}*")]:
        path.unlink()
    key_file(run).unlink(missing_ok=True)  # noise that hides two trainings' sums would hide neither
    if run.policy.is_dir():
        shutil.rmtree(run.policy)


def train_in_run(run: RunFolder, job: AlignmentJob, inputs: Inputs, command: str, *, resume: bool) -> dict[str, Any]:
    """Train a policy and leave it in ``run/policy``.

    Args:
        run: The run directory.
        job: What to train.
        inputs: What it is made from; a checkpoint of other inputs is refused.
        command: The command that goes on.
        resume: Go on from the checkpoint, if there is one.

    Returns:
        What ``metrics.json`` says about this policy.

    Raises:
        RunError: If the checkpoint is of another run.
        Interrupted: After SIGINT or SIGTERM; a checkpoint was saved.
    """
    ending = f"-{job.name}" if job.name else ""
    checkpoint, history = run.checkpoint.parent / f"policy{ending}.safetensors", run.policy_history(job.name)
    meta = {
        "schema_version": str(VERSIONS["policy checkpoint"]),
        "policy": job.settings.model_dump_json(),
        "firm": inputs.config.firm.model_dump_json(),
        "method": job.method,
        "identity": json.dumps(dict(inputs.parts)),
        "compute": json.dumps(Compute.current().to_dict()),
    }
    if resume and checkpoint.is_file():
        go_on(job, checkpoint, inputs.parts)
        say(f"resuming at {job.unit} {job.done}")
    lines = history.read_text(encoding="utf-8").splitlines()[: job.done] if history.is_file() else []
    if job.is_main:
        write_text(history, "".join(f"{line}\n" for line in lines))
    current().wait()
    before = sum(json.loads(line)["seconds"] for line in lines)

    def save() -> None:
        tensors, notes = job.state()
        write_tensors(checkpoint, tensors, meta | notes)

    seconds = before + run_job(job, history, save, command)
    policy, notes = job.finish()
    if job.is_main:
        save_policy(run, policy, job.method, job.name, job.settings, notes)
        deployed = not run.clients.is_dir()
        # Clients that train a policy have noise of their own.
        noise = (notes if job.method in POLICY_METHODS else run.metrics()).get("privacy")
        about = card(job, policy, inputs.config, inputs.clients, deployed=deployed, noise=noise)
        write_text(run.policy / job.name / "README.md", about)
    return current().told({**notes, f"{job.unit}s": job.total, "seconds": seconds})


@dataclass(frozen=True, repr=False)
class Aligned:
    """The policies of a run.

    Attributes:
        config: Of the run, with stage 2 as the policies were trained, whatever overrides that took.
        method: Of the policies.
        policies: By name: one for all, or one per true group.
    """

    config: RunConfig
    method: str
    policies: Mapping[str, Policy]

    __repr__ = short_repr

    @property
    def by_group(self) -> bool:
        """Whether there is one policy per true group."""
        return ONE not in self.policies


def open_aligned(run: RunFolder, overrides: Sequence[str] = ()) -> Aligned:
    """The policies of a run and the settings that they were trained with.

    Args:
        run: A run directory with stage 2.
        overrides: Where data and language model are now.

    Raises:
        RunError: If it holds no policy.
        ModelError: If the base model is not the one that they were trained on.
    """
    metrics, config = read_policy_metrics(run), aligned_config(run, overrides)
    here = with_base(config.policy, config.features)
    # The base may have moved since; its content is checked.
    key = "policy.model" if config.policy.model else "features.model"
    locate_for(key, str(here.model), here.loading or DEFAULT)
    names = list(metrics["policies"])
    policies = {name: load_policy(run.policy / name, here, device=config.features.device).eval() for name in names}
    for policy in policies.values():
        if policy.conditioner is not None and not policy.prototypes and len(policy.preferences) != 2:
            policy.prototypes = _prototypes(run, config)  # one of an earlier release keeps none
    return Aligned(config, metrics["method"], policies)


def read_policy_metrics(run: RunFolder) -> dict[str, Any]:
    """What ``metrics.json`` says about the policies of a run.

    Raises:
        RunError: If it holds no policy, or one that is not whole.
    """
    if not (run.policy / "metrics.json").is_file():
        if checkpoints(run):
            what, command = "holds a policy that is not finished.", ["fedvpa", "align", str(run), "--resume"]
        else:
            what, command = "holds no policy.", ["fedvpa", "align", str(run)]
        raise RunError(what, fix=f"Run: {shlex.join(command)}", where=str(run))
    read_preferences(run.policy)  # without it the policy of a run is not whole
    return read_own_object(run.policy / "metrics.json")


def aligned_config(run: RunFolder, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration of a run, with stage 2 as its policies were trained, whatever overrides that took."""
    names = list(read_policy_metrics(run)["policies"])
    saved = read_policy(run.policy / names[0])
    config = with_overrides(run.config().model_copy(update={"policy": saved_settings(saved)}), overrides)
    return config.model_copy(update={"policy": placed(config.policy, saved)})


def save_policy(
    run: RunFolder, policy: Policy, method: str, name: str, settings: PolicyConfig, notes: Mapping[str, Any]
) -> None:
    """Leave one policy of a run in its standard folder.

    Args:
        run: The run.
        policy: What was trained.
        method: By which method.
        name: A true group, or ``ONE``.
        settings: Of stage 2, as it was trained.
        notes: What there is to say about the training.
    """
    public = settings if settings.model is None else settings.model_copy(update={"model": policy.source.label})
    own = {"method": method, "preference": name, "settings": public.model_dump(mode="json")}
    policy.save_pretrained(run.policy / name, {**own, **notes})


def _prototypes(run: RunFolder, config: RunConfig) -> list[list[float]]:
    """Those of a run's selector, if its method gives them a meaning."""
    if not make(config.method, config.method_config).has_prototypes:
        return []
    return Selector.from_pretrained(run.selector).prototypes.tolist()
