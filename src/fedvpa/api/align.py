"""``fedvpa align``: stage 2 of a run, from its frozen selector (or, for FedDPO, its pairs) to a policy."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedvpa.algorithms.feddpo import METHOD as FEDDPO
from fedvpa.algorithms.registry import make
from fedvpa.alignment.jobs import FedDPOWork, SelectorWork, Work, in_memory
from fedvpa.alignment.setup import Problem, problem
from fedvpa.alignment.stage1 import ONE, Stage1
from fedvpa.core.errors import ConfigError, RunError, nearest
from fedvpa.core.files import write_json
from fedvpa.evaluation.accuracy import infer_clients
from fedvpa.models.locate import hash_files
from fedvpa.policy.model import Policy
from fedvpa.runs.config import with_overrides
from fedvpa.runs.folder import load_run_config
from fedvpa.runs.policy_run import carry_out, checkpoints, remove_policy
from fedvpa.runs.prepare import check_features, prepare
from fedvpa.selector.selector import Selector

SCHEMA_VERSION = 1


def open_stage1(run: Path, overrides: Sequence[str] = ()) -> Stage1:
    """The first stage of a run directory.

    Raises:
        RunError: If it holds no trained selector.
        ModelError: If the language model is not the one that the selector was trained on.
    """
    config = with_overrides(load_run_config(run), overrides)
    if not (run / "selector" / "config.json").is_file():
        raise RunError(
            "holds no trained selector.", fix=f"Finish its training: fedvpa train --resume {run}", where=str(run)
        )
    selector = Selector.from_pretrained(run / "selector")
    check_features(config, selector)
    prepared = prepare(config)
    by_group = make(config.method, config.method_config).reads_groups
    posterior = infer_clients(selector, prepared.federation, prepared.federation.partition.seen, by_group=by_group)
    return Stage1(config, prepared, selector, posterior)


def align(
    run: Path,
    *,
    overrides: Sequence[str] = (),
    method: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
) -> dict[str, Any]:
    """Align the policy of a run and leave it in ``run/policy``.

    Args:
        run: A run directory with a trained selector; for FedDPO any, since it reads nothing but the run's pairs.
        overrides: Such as ``policy.steps=200``.
        method: ``feddpo``, or by default the method of the run.
        overwrite: Replace a policy that is there, once the new one is known to be trainable.
        resume: Go on from the last checkpoint of an ``align`` that was stopped.

    Returns:
        What ``run/policy/metrics.json`` holds.

    Raises:
        InputError: If the run or the configuration cannot be used.
        Interrupted: After SIGINT or SIGTERM; a checkpoint was saved.
    """
    own = load_run_config(run).method
    method = method or own
    if method not in (own, FEDDPO):
        raise ConfigError(
            f"--method {method!r} cannot align this run, which was trained with {own!r}.",
            fix=nearest(method, (own, FEDDPO)),
        )
    _check_place(run, overwrite=overwrite, resume=resume)
    stage = None if method == FEDDPO else open_stage1(run, overrides)
    selector = "" if stage is None else hash_files((run / "selector").iterdir())
    chosen = ["--method", method] if method != own else []
    again = shlex.join(["fedvpa", "align", str(run), *overrides, *chosen, "--resume"])
    found: dict[str, Any] = {}
    for name in (ONE,) if stage is None else stage.policies:
        work: Work = _feddpo(run, overrides) if stage is None else _by_selector(run, stage, name)
        if not resume and not found and work.is_main:
            remove_policy(run)
        found[name] = carry_out(run, work, selector, again, resume=resume)
    metrics = {"schema_version": SCHEMA_VERSION, "method": method, "policies": found}
    if work.is_main:
        write_json(run / "policy" / "preferences.json", {} if stage is None else stage.named_preferences())
        write_json(run / "policy" / "metrics.json", metrics)
    return metrics


def _check_place(run: Path, *, overwrite: bool, resume: bool) -> None:
    if resume and not checkpoints(run):
        raise RunError(
            "holds no checkpoint of a policy: align stopped before its first one.",
            fix="Start it again without --resume.",
            where=str(run),
        )
    if overwrite or resume:
        return
    if (run / "policy" / "metrics.json").exists():
        raise RunError("holds a policy already.", fix="Give --overwrite to replace it.", where=str(run))
    if checkpoints(run):
        raise RunError(
            "holds a policy that is not finished.", fix="Go on with --resume, or give --overwrite.", where=str(run)
        )


def _by_selector(run: Path, stage: Stage1, name: str) -> SelectorWork:
    return SelectorWork(problem(stage, name), folder=run / "checkpoints")


def _feddpo(run: Path, overrides: Sequence[str]) -> FedDPOWork:
    config = with_overrides(load_run_config(run), overrides)
    return FedDPOWork(config, prepare(config))


def train_policy(work: Problem, method: str | None = None) -> tuple[Policy, dict[str, Any]]:
    """Train one policy in memory; it ends with the weights of the step that validation chose.

    Args:
        work: Its problem.
        method: What progress calls it, if not by the run's method.
    """
    return in_memory(SelectorWork(work, method))


def train_feddpo_policy(stage: Stage1) -> tuple[Policy, dict[str, Any]]:
    """The same for FedDPO, which reads the pairs of the stage and not its selector."""
    return in_memory(FedDPOWork(stage.config, stage.prepared))
