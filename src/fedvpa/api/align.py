"""``fedvpa align``: stage 2 of a run, from its frozen selector to one policy; resumable bit for bit."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file

from fedvpa.algorithms import make
from fedvpa.api.config import with_overrides
from fedvpa.api.prepare import check_features, prepare
from fedvpa.api.stage2 import Problem, Stage1, problem
from fedvpa.api.train import Interrupted, load_run_config, stopping
from fedvpa.core.errors import RunError
from fedvpa.core.files import write_json, write_tensors, write_text
from fedvpa.core.progress import say, track
from fedvpa.core.tree import below, prefixed
from fedvpa.evaluation.accuracy import infer_clients
from fedvpa.policy.alignment import Kept, Look
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.model import Policy, load_policy, restore, snapshot
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


def align(run: Path, *, overrides: Sequence[str] = (), overwrite: bool = False, resume: bool = False) -> dict[str, Any]:
    """Align the policy of a run and leave it in ``run/policy``.

    Args:
        run: A run directory with a trained selector.
        overrides: Such as ``policy.steps=200``.
        overwrite: Replace a policy that is there.
        resume: Go on from the last checkpoint of an ``align`` that was stopped.

    Returns:
        What ``run/policy/metrics.json`` holds.

    Raises:
        InputError: If the run or the configuration cannot be used.
        Interrupted: After SIGINT or SIGTERM; a checkpoint was saved.
    """
    if (run / "policy" / "metrics.json").exists() and not (overwrite or resume):
        raise RunError("holds a policy already.", fix="Give --overwrite to replace it.", where=str(run))
    stage = open_stage1(run, overrides)
    if not resume:
        _remove(run, stage)
    found = {name: _one(run, stage, name, overrides, resume=resume) for name in stage.policies}
    metrics = {"schema_version": SCHEMA_VERSION, "method": stage.config.method, "policies": found}
    write_json(run / "policy" / "preferences.json", stage.named_preferences())
    write_json(run / "policy" / "metrics.json", metrics)
    return metrics


def _remove(run: Path, stage: Stage1) -> None:
    """Remove an earlier policy, checkpoints first: one that is killed early must not go on from the old one's."""
    for name in stage.policies:
        _checkpoint(run, name).unlink(missing_ok=True)
    if (run / "policy").is_dir():
        shutil.rmtree(run / "policy")


def _checkpoint(run: Path, name: str) -> Path:
    return run / "checkpoints" / f"policy{f'-{name}' if name else ''}.safetensors"


def train_policy(work: Problem, method: str | None = None) -> tuple[Policy, dict[str, Any]]:
    """Train one policy in memory; it ends with the weights of the step that validation chose.

    Args:
        work: Its problem.
        method: What progress calls it, if not the run's method.
    """
    kept = None
    for progress in track(work.run(), _title(work, method), work.stage.config.policy.steps, unit="steps"):
        kept = progress.kept
    return _chosen(work, kept)


def _chosen(work: Problem, kept: Kept | None) -> tuple[Policy, dict[str, Any]]:
    if kept is None:
        raise RunError("The policy was never looked at on validation prompts.", fix="Raise policy.steps.")
    restore(work.policy, dict(kept.weights))
    work.policy.eval()
    return work.policy, {"pairs": dict(work.labelled.counts), "stopped": asdict(kept.look)}


def _title(work: Problem, method: str | None = None) -> str:
    return f"{method or work.stage.config.method}{f' ({work.name})' if work.name else ''}: DPO"


def _one(run: Path, stage: Stage1, name: str, overrides: Sequence[str], *, resume: bool) -> dict[str, Any]:
    work = problem(stage, name)
    checkpoint, log_path = _checkpoint(run, name), run / "policy" / f"history{f'-{name}' if name else ''}.jsonl"
    kept = _resume(work, checkpoint) if resume and checkpoint.is_file() else None
    lines = log_path.read_text(encoding="utf-8").splitlines()[: work.trainer.step] if log_path.is_file() else []
    write_text(log_path, "".join(f"{line}\n" for line in lines if work.trainer.step))
    if work.trainer.step:
        say(f"resuming at step {work.trainer.step}")
    config, seconds = stage.config.policy, sum(json.loads(line)["seconds"] for line in lines)
    todo = work.run(kept)
    with closing(todo), stopping() as stop, log_path.open("a", encoding="utf-8") as log:
        for progress in track(todo, _title(work), config.steps - work.trainer.step, unit="steps"):
            kept, line = progress.kept, progress.line
            seconds += line["seconds"]
            if work.trainer.is_main:
                log.write(json.dumps(line) + "\n")
                log.flush()
            stopped = stop()
            if work.trainer.is_main and (
                due(config, work.trainer.step) or (stopped and _resumable(config, work.trainer.step))
            ):
                _save(work, kept, checkpoint)
            if stopped:
                raise Interrupted(
                    f"{signal.Signals(stopped).name}: stopped after step {work.trainer.step} of {config.steps}; "
                    f"go on with: fedvpa align {run} {' '.join([*overrides, '--resume'])}",
                    stopped,
                )
    if work.trainer.is_main:
        _save(work, kept, checkpoint)
    policy, notes = _chosen(work, kept)
    if work.trainer.is_main:
        policy.save_pretrained(run / "policy" / name, {"method": stage.config.method, "preference": name, **notes})
        write_text(run / "policy" / name / "README.md", _card(stage, policy, name))
    return {**notes, "steps": config.steps, "seconds": seconds}


def due(config: PolicyConfig, step: int) -> bool:
    """Whether a checkpoint is due; with refreshes only before one, since the pairs after it depend on the policy."""
    every = config.refresh_every or config.checkpoint_every
    return bool(every) and bool(config.checkpoint_every) and step % every == 0


def _resumable(config: PolicyConfig, step: int) -> bool:
    """Whether the pairs of the next step can be made again: those of a refresh depend on the policy as it was then."""
    return not config.refresh_every or step <= config.refresh_every or step % config.refresh_every == 0


def _save(work: Problem, kept: Kept | None, path: Path) -> None:
    tensors = prefixed("weights", snapshot(work.policy)) | prefixed("optimiser", work.trainer.state())
    if kept is not None:
        tensors |= prefixed("kept", dict(kept.weights))
    meta = {
        "schema_version": str(SCHEMA_VERSION),
        "policy": work.stage.config.policy.model_dump_json(),
        "look": json.dumps(asdict(kept.look)) if kept else "",
    }
    write_tensors(path, tensors, meta)


def _resume(work: Problem, path: Path) -> Kept | None:
    with safe_open(path, framework="pt") as file:
        meta = file.metadata()
    if meta.get("policy") != work.stage.config.policy.model_dump_json():
        raise RunError(
            "was made with other settings of policy.*, so going on would mix two runs.",
            fix="Restore them, or start again with --overwrite.",
            where=str(path),
        )
    saved = load_file(path)
    restore(work.policy, below("weights", saved))
    work.trainer.load_state(below("optimiser", saved))
    if not meta["look"]:
        return None
    return Kept(Look(**json.loads(meta["look"])), below("kept", saved))


def load_policies(run: Path, stage: Stage1) -> dict[str, Policy]:
    """The policies of an aligned run, by name.

    Raises:
        RunError: If it holds none.
    """
    device = stage.config.features.device
    return {
        name: load_policy(run / "policy" / name, stage.config.policy, device=device).eval() for name in stage.policies
    }


def _card(stage: Stage1, policy: Policy, name: str) -> str:
    seen = len(stage.prepared.federation.client_ids)
    whose = f"for the group {name!r}" if name else "for all users" + (", which follows z" if stage.personal else "")
    return CARD.format(
        base=policy.source.name,
        method=stage.config.method,
        whose=whose,
        seen=seen,
        rounds=stage.config.server.rounds,
        conditioning="`z_conditioner.safetensors` holds the map from z; without it this adapter ignores preferences."
        if policy.conditioner is not None
        else "It takes no z.",
    )


CARD = """---
library_name: peft
base_model: {base}
tags: [fedvpa, dpo, lora]
---

# A policy aligned with fedvpa ({method})

One LoRA {whose}: DPO on the base model's own samples, ordered by a selector that {seen} clients trained together in
{rounds} rounds. {conditioning}

Privacy: users' pairs stayed with them; weights and one small posterior per user and round were sent, without noise, so
no (ε, δ) is claimed.

Use: `fedvpa generate RUN --prompt TEXT --preference NAME`.
"""


def preferences_of(run: Path) -> dict[str, list[float]]:
    """Group → z, as ``align`` wrote them."""
    path = run / "policy" / "preferences.json"
    if not path.is_file():
        raise RunError("holds no policy.", fix=f"Run: fedvpa align {run}", where=str(run))
    found: dict[str, list[float]] = json.loads(path.read_text(encoding="utf-8"))
    return found
