"""``fedvpa train``: one run, from a configuration to a run directory; resumable bit for bit."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedvpa.core.errors import RunError
from fedvpa.core.options import option
from fedvpa.core.processes import lead
from fedvpa.core.schema import VERSIONS
from fedvpa.core.short_repr import short_repr
from fedvpa.data.report import DataReport, say_report
from fedvpa.runs.config import RunConfig
from fedvpa.runs.folder import RunFolder

if TYPE_CHECKING:
    from fedvpa.data.splits import HeldOut
    from fedvpa.evaluation.accuracy_tables import AccuracyComparison
    from fedvpa.evaluation.latents import LatentReport
    from fedvpa.runs.fit import SelectorJob
    from fedvpa.runs.scores import ConflictRow


@dataclass(frozen=True, repr=False)
class TrainResult:
    """A finished run.

    Attributes:
        run: The run directory.
        method: Its method.
        rounds: How many it took; 0 for a method that needs no federation.
        seconds: Wall-clock seconds of all rounds.
        comparison: Accuracy on seen and unseen clients, and the controls.
        conflicting: Accuracy on the test pairs that the bundled world's groups order in different ways.
        latents: Diagnostics of the clients' posteriors; None where the method has no latent.
        rejected_updates: How many updates were rejected in all rounds; ``history.jsonl`` says whose.
        held_out: What tested, and how much of it there was.
        data: What was read, and what of it was left out, cut or changed.
        privacy: What the run's noise promises (:func:`fedvpa.runs.noise.summary`); None where nothing is noised.
    """

    run: Path
    method: str
    rounds: int
    seconds: float
    comparison: AccuracyComparison
    conflicting: tuple[ConflictRow, ...]
    latents: LatentReport | None
    held_out: HeldOut
    rejected_updates: int = 0
    data: DataReport = field(default_factory=DataReport)
    privacy: Mapping[str, Any] | None = None

    __repr__ = short_repr

    @property
    def accuracy(self) -> float | None:
        """Mean accuracy of the seen clients on their test pairs; None where none has any."""
        return self.comparison.summary[0].mean

    @property
    def ci95(self) -> tuple[float, float] | None:
        """The interval of ``accuracy``, over clients."""
        return self.comparison.summary[0].ci95

    def to_dict(self) -> dict[str, Any]:
        """What ``metrics.json`` holds."""
        return {
            "schema_version": VERSIONS["metrics"],
            "method": self.method,
            "seconds": self.seconds,
            "rounds": self.rounds,
            **{name: value for name, value in self.comparison.to_dict().items() if name != "schema_version"},
            "conflicting": [row.to_dict() for row in self.conflicting],
            "latents": None if self.latents is None else self.latents.to_dict(),
            "rejected_updates": self.rejected_updates,
            "held_out": self.held_out.to_dict(),
            "data": self.data.to_dict(),
            **({} if self.privacy is None else {"privacy": dict(self.privacy)}),
        }


def train(config: RunConfig, out: str | PathLike[str], *, overwrite: bool = False) -> TrainResult:
    """Run ``config`` and leave ``out`` behind.

    Args:
        config: The run.
        out: The run directory; must not hold a run unless ``overwrite``.
        overwrite: Remove an earlier run first, once ``config`` is known to be usable; files that no run writes stay.

    Raises:
        InputError: If the configuration or the data cannot be used; nothing was written or removed then.
        RunError: If ``out`` holds a run already.
        Interrupted: After SIGINT or SIGTERM; a checkpoint was saved.

    Of several processes that a launcher started (:mod:`fedvpa.core.processes`), the first one trains, and the others
    help with the features; all return the same result.
    """
    return lead(lambda: _train(config, out, overwrite=overwrite))


def _train(config: RunConfig, out: str | PathLike[str], *, overwrite: bool) -> TrainResult:
    run = RunFolder.at(out)
    _check_place(run, overwrite=overwrite)
    config.check_engine()
    config.check_paths()
    from fedvpa.algorithms.registry import make
    from fedvpa.core.progress import say
    from fedvpa.privacy.keyed import Key
    from fedvpa.runs.earlier import warn_of_new_meaning
    from fedvpa.runs.environment import environment
    from fedvpa.runs.fit import SelectorJob
    from fedvpa.runs.noise import keep_key, unmasked_of
    from fedvpa.runs.prepare import prepare, say_features
    from fedvpa.runs.unread import say_unread

    make(config.method, config.method_config)  # what it has against its settings, before features are extracted
    warn_of_new_meaning(config)
    say_unread(config)
    config = config.located()
    # Noise on sums of features comes from the key that the run keeps for its rounds.
    key = None if config.privacy.scaling_release is None else Key.new()
    prepared = prepare(config, key=key)
    say(str(prepared.held_out))
    say_report(prepared.table.report)
    say_features(prepared.features)
    config = config.model_copy(update={"features": prepared.features})
    job = SelectorJob(config, prepared, unmasked=unmasked_of(config, run.checkpoint))
    with run.locked():
        _check_place(run, overwrite=overwrite)  # another program may have trained here since
        run.begin(config, environment(config.seed).to_dict())
        keep_key(job.privacy, run.checkpoint)
        return _finish(run, job, 0.0)


def _check_place(run: RunFolder, *, overwrite: bool) -> None:
    if run.holds_run and not overwrite:
        command = shlex.join(["fedvpa", "train", "--resume", str(run)])
        raise RunError(
            "holds a run already.",
            fix=f"Choose another {option('out')}, give {option('overwrite', 'True')}, or go on: {command}",
            where=str(run),
        )


def resume(run: str | PathLike[str], *, rounds: int | None = None) -> TrainResult:
    """Go on with a run from its last checkpoint; the result is that of a run that was never stopped.

    That holds bit for bit under the same versions and on the same kind of processor; the numbers of threads are those
    of the checkpoint.

    Args:
        run: The run directory.
        rounds: Train to so many rounds in all, more than the run was begun with, a finished run too. What follows the
            share of the rounds (temperatures, the warm-up, the averaged tail) then goes on as in a run of so many
            rounds, so the result is near that of such a run and not equal to it.

    Raises:
        ConfigError: If ``rounds`` are not more than before, or the method cannot go on to more.
        RunError: If ``run`` holds no run, no checkpoint or one of another schema version, or if its configuration, its
            data or its history are not those of the checkpoint. Nothing was changed then.
    """
    return lead(lambda: _resume(run, rounds))


def _resume(run: str | PathLike[str], rounds: int | None) -> TrainResult:
    folder = RunFolder.open(run)
    folder.check_whole("its rounds cannot go on")
    config = folder.config()
    if not folder.checkpoint.is_file():
        raise RunError(
            "holds no checkpoint: the run stopped before its first one.",
            fix=f"Start it again with {option('overwrite', 'True')}.",
            where=str(folder),
        )
    from fedvpa.algorithms.registry import make
    from fedvpa.core.compute import Compute, restore
    from fedvpa.core.progress import say
    from fedvpa.engines.checkpoint import load_checkpoint
    from fedvpa.features.standardise import Standardiser
    from fedvpa.runs.fit import SelectorJob, longer, with_rounds
    from fedvpa.runs.identity import check_content
    from fedvpa.runs.noise import key_of, unmasked_of
    from fedvpa.runs.prepare import prepare

    state, meta = load_checkpoint(folder.checkpoint, make(config.method, config.method_config).state_type)
    if rounds is not None:  # those of the checkpoint: config.yaml says more if an earlier try to go on was killed
        config = with_rounds(config, meta["config"]["server"]["rounds"])
    folder.check_config(config, meta["config"])
    if rounds is not None:
        config, state = longer(config, state, rounds)
    config.check_engine()
    saved = Compute.of(meta.get("compute"))
    check_content(config, meta.get("content"), str(folder))  # before features are extracted again
    restore(saved, str(folder.checkpoint))
    kept = Standardiser.from_dict(meta["scaling"]) if "scaling" in meta else None
    prepared = prepare(config, kept=kept)
    if meta["data"] != prepared.fingerprint():
        raise RunError(
            "was trained on other pairs than its data now give, so going on would mix two runs.",
            fix=f"Restore the data, or start again with {option('overwrite', 'True')}.",
            where=str(folder),
        )
    with folder.locked():
        lines = folder.rewind(state.server.round)
        say(f"resuming {folder} at round {state.server.round}")
        if rounds is not None:
            folder.lengthen(config)
        key = key_of(config, folder.checkpoint)
        workers, unmasked = saved.workers if saved else None, unmasked_of(config, folder.checkpoint)
        job = SelectorJob(config, prepared, state, workers=workers, key=key, unmasked=unmasked)
        return _finish(folder, job, sum(line["seconds"] for line in lines))


def _finish(run: RunFolder, job: SelectorJob, seconds: float) -> TrainResult:
    """Run the rounds that are left and write what they give."""
    from fedvpa.algorithms.server.rejections import Rejections
    from fedvpa.core.compute import Compute
    from fedvpa.core.files import write_json
    from fedvpa.core.loop import run_job
    from fedvpa.core.progress import say
    from fedvpa.engines.checkpoint import save_checkpoint, save_clients
    from fedvpa.evaluation.accuracy_tables import comparison
    from fedvpa.evaluation.scores import save_scores
    from fedvpa.runs.fit import run_users
    from fedvpa.runs.identity import selector_content
    from fedvpa.runs.noise import said
    from fedvpa.runs.scores import conflict_rows, conflict_scores, latents, run_scores, say_alarms
    from fedvpa.runs.users import save_users

    config, prepared = job.config, job.prepared
    meta: dict[str, Any] = {
        "config": config.model_dump(mode="json"),
        "data": prepared.fingerprint(),
        "content": selector_content(config),
        "compute": Compute.current(job.workers).to_dict(),
    }
    if config.privacy.scaling_release is not None:  # released once: a run that goes on does not sum again
        meta |= {"scaling": prepared.federation.scaling.standardiser.to_dict()}
    command = shlex.join(["fedvpa", "train", "--resume", str(run)])
    seconds += run_job(job, run.history, lambda: save_checkpoint(run.checkpoint, job.state, meta), command)
    rejections = Rejections.of(run.lines())
    if rejections.rejected:
        say(str(rejections))
    trained = job.finish(seconds)
    if trained.privacy is not None:
        say(said(trained.privacy))
    trained.selector.save_pretrained(run.selector)
    save_clients(run.clients / "clients.safetensors", trained.state.private)
    save_users(run.users, run_users(prepared, trained))
    scores = run_scores(config, prepared, trained)
    save_scores(run.path / "scores.jsonl", scores)
    cell = (config.method, len(prepared.federation.client_ids), config.seed)
    result = TrainResult(
        run=run.path,
        method=config.method,
        rounds=job.done,
        seconds=seconds,
        comparison=comparison(scores, {cell: seconds}),
        conflicting=conflict_rows(conflict_scores(config, prepared, trained)),
        latents=latents(config, trained),
        rejected_updates=rejections.rejected,
        held_out=prepared.held_out,
        data=prepared.table.report,
        privacy=trained.privacy,
    )
    write_json(run.path / "metrics.json", result.to_dict())
    say_alarms(() if result.latents is None else result.latents.alarms, config.method)
    return result
