"""``fedvpa train``: one run, from a configuration to a run directory; resumable bit for bit."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fedvpa.algorithms import make
from fedvpa.api.config import RunConfig, dump, read_config
from fedvpa.api.environment import environment
from fedvpa.api.prepare import Prepared, prepare
from fedvpa.core.errors import FedvpaError, RunError
from fedvpa.core.files import write_json, write_text
from fedvpa.core.progress import say, track
from fedvpa.engines.checkpoint import load_checkpoint, save_checkpoint, save_clients
from fedvpa.engines.training import TrainState, rounds, start
from fedvpa.evaluation.accuracy import control_scores, infer_clients, score_clients
from fedvpa.evaluation.comparison import comparison
from fedvpa.evaluation.latents import diagnose
from fedvpa.evaluation.scores import ClientScore, save_scores
from fedvpa.selector.posterior import Posterior
from fedvpa.selector.selector import Selector

SCHEMA_VERSION = 1


class Interrupted(FedvpaError):
    """The run was stopped by a signal, after saving a checkpoint."""


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        selector: The preference model.
        state: The final state of server and simulated clients.
        seconds: Wall-clock seconds of all rounds.
        posterior: Of the seen clients, in the partition's order, from their training pairs.
    """

    selector: Selector
    state: TrainState
    seconds: float
    posterior: Posterior


def fit(config: RunConfig, prepared: Prepared) -> Trained:
    """Train in memory, without a run directory."""
    algorithm = make(config.method, config.method_config)
    federation = prepared.federation
    state, seconds = start(algorithm, federation, config.seed), 0.0
    for reached, line in rounds(algorithm, federation, config.engine, config.seed, state):
        state, seconds = reached, seconds + line["seconds"]
    return _trained(algorithm.reads_groups, algorithm.selector(state.server), state, seconds, prepared)


def _trained(by_group: bool, selector: Selector, state: TrainState, seconds: float, prepared: Prepared) -> Trained:
    federation = prepared.federation
    posterior = infer_clients(selector, federation, federation.partition.seen, by_group=by_group)
    return Trained(replace(selector, scaling=federation.scaling), state, seconds, posterior)


def train(config: RunConfig, out: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Run ``config`` and leave ``out`` behind.

    Args:
        config: The run.
        out: The run directory; must not exist unless ``overwrite``.
        overwrite: Replace the files of an earlier run.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        RunError: If ``out`` holds a run already.
        Interrupted: After SIGINT or SIGTERM; a checkpoint was saved.
    """
    if (out / "config.yaml").exists() and not overwrite:
        raise RunError(
            "holds a run already.",
            fix="Go on with --resume, choose another --out, or give --overwrite.",
            where=str(out),
        )
    algorithm = make(config.method, config.method_config)
    prepared = prepare(config)
    write_text(out / "config.yaml", f"# schema_version: {SCHEMA_VERSION}\n{dump(config)}")
    write_json(out / "environment.json", environment(config.seed))
    write_text(out / "history.jsonl", "")
    return _run(config, out, prepared, start(algorithm, prepared.federation, config.seed), [])


def resume(out: Path) -> dict[str, Any]:
    """Go on with a run from its last checkpoint; the result is that of a run that was never stopped.

    Raises:
        RunError: If ``out`` holds no run, or one of another schema version.
    """
    config = load_run_config(out)
    state, _ = load_checkpoint(_checkpoint(out))
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = [line for line in lines if line["round"] < state.server.round]
    write_text(out / "history.jsonl", "".join(json.dumps(line) + "\n" for line in kept))
    say(f"resuming {out} at round {state.server.round}")
    return _run(config, out, prepare(config), state, kept)


def load_run_config(out: Path) -> RunConfig:
    """The configuration of a run directory.

    Raises:
        RunError: If there is none, or of another schema version.
    """
    path = out / "config.yaml"
    if not path.is_file():
        raise RunError(
            "holds no run (config.yaml is missing).", fix="Give the folder that train wrote.", where=str(out)
        )
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    if first != f"# schema_version: {SCHEMA_VERSION}":
        raise RunError(
            f"begins with {first!r}, but this fedvpa reads schema version {SCHEMA_VERSION}.",
            fix="Use the fedvpa that wrote it, or train again.",
            where=str(path),
        )
    return read_config(path)


def _checkpoint(out: Path) -> Path:
    return out / "checkpoints" / "last.safetensors"


def _run(
    config: RunConfig, out: Path, prepared: Prepared, state: TrainState, history: list[dict[str, Any]]
) -> dict[str, Any]:
    algorithm = make(config.method, config.method_config)
    federation, every = prepared.federation, config.engine.checkpoint_every
    seconds = sum(line["seconds"] for line in history)
    todo = rounds(algorithm, federation, config.engine, config.seed, state)
    with _stopping() as stop, (out / "history.jsonl").open("a", encoding="utf-8") as log:
        for reached, line in track(
            todo, f"{config.method}: rounds", algorithm.rounds - state.server.round, unit="rounds"
        ):
            state, seconds = reached, seconds + line["seconds"]
            log.write(json.dumps(line) + "\n")
            log.flush()
            stopped = stop()
            if stopped or (every and state.server.round % every == 0):
                save_checkpoint(_checkpoint(out), state, {"method": config.method})
            if stopped:
                raise Interrupted(
                    f"{stopped}: stopped after round {state.server.round} of {algorithm.rounds}; "
                    f"go on with: fedvpa train --resume {out}"
                )
    save_checkpoint(_checkpoint(out), state, {"method": config.method})
    done = _trained(algorithm.reads_groups, algorithm.selector(state.server), state, seconds, prepared)
    return _finish(config, out, prepared, done, algorithm.reads_groups)


@contextmanager
def _stopping() -> Iterator[Any]:
    """While inside, SIGINT and SIGTERM are remembered instead of acted on; yields a function that names the signal."""
    caught: list[str] = []
    previous = {
        number: signal.signal(number, lambda number, frame: caught.append(signal.Signals(number).name))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: caught[0] if caught else ""
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _finish(config: RunConfig, out: Path, prepared: Prepared, done: Trained, by_group: bool) -> dict[str, Any]:
    done.selector.save_pretrained(out / "selector")
    save_clients(out / "clients" / "clients.safetensors", done.state.private)
    scores = run_scores(config, prepared, done, by_group)
    save_scores(out / "scores.jsonl", scores)
    cell = (config.method, len(prepared.federation.client_ids), config.seed)
    metrics = {
        "schema_version": SCHEMA_VERSION,
        "method": config.method,
        "seconds": done.seconds,
        "rounds": done.state.server.round,
        **comparison(scores, {cell: done.seconds}),
        "latents": latents(prepared, done),
    }
    write_json(out / "metrics.json", metrics)
    return metrics


def run_scores(config: RunConfig, prepared: Prepared, done: Trained, by_group: bool) -> list[ClientScore]:
    """Seen and unseen clients, and the controls of methods with a latent."""
    federation = prepared.federation
    seen, unseen = federation.partition.seen, federation.partition.unseen
    method, seed = config.method, config.seed
    scores = score_clients(done.selector, federation, seen, done.posterior, method=method, seed=seed)
    if unseen:
        theirs = infer_clients(done.selector, federation, unseen, by_group=by_group)
        scores += score_clients(done.selector, federation, unseen, theirs, method=method, seed=seed)
    if config.method.startswith("fedvp") and len(seen) > 1:
        scores += control_scores(done.selector, federation, seen, done.posterior, method=method, seed=seed)
    return scores


def latents(prepared: Prepared, done: Trained) -> dict[str, Any] | None:
    """Diagnostics of the clients' posteriors; None where the method has no latent."""
    if done.selector.inference.method in ("none", "ridge"):
        return None
    mean, log_var = done.posterior.gaussian()
    groups = [client.group for client in prepared.federation.partition.seen]
    prototypes = done.selector.prototypes
    nearest = torch.cdist(mean, prototypes).argmin(-1)
    return diagnose(
        mean.double().numpy(),
        log_var.double().numpy(),
        None if any(group is None for group in groups) else [str(group) for group in groups],
        prototypes.double().numpy(),
        nearest.tolist(),
    ).as_json()
