"""``fedvpa train``: one run, from a configuration to a run directory; resumable bit for bit."""

from __future__ import annotations

import json
import os
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

from fedvpa.algorithms import make
from fedvpa.core.errors import RunError
from fedvpa.core.files import write_json, write_text
from fedvpa.core.progress import say, track
from fedvpa.core.signals import Interrupted, stopping
from fedvpa.engines.checkpoint import load_checkpoint, save_checkpoint, save_clients
from fedvpa.engines.training import TrainState, rounds, start
from fedvpa.evaluation.accuracy_tables import comparison
from fedvpa.evaluation.scores import save_scores
from fedvpa.runs.config import RunConfig, dump
from fedvpa.runs.environment import environment
from fedvpa.runs.fit import Trained, _trained, check_engine
from fedvpa.runs.folder import (
    SCHEMA_LINE,
    SCHEMA_VERSION,
    _check_config,
    _checkpoint,
    _history,
    _remove,
    load_run_config,
)
from fedvpa.runs.prepare import Prepared, prepare
from fedvpa.runs.scores import conflict_scores, conflict_summary, latents, run_scores


def train(config: RunConfig, out: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Run ``config`` and leave ``out`` behind.

    Args:
        config: The run.
        out: The run directory; must not exist unless ``overwrite``.
        overwrite: Remove an earlier run first, once ``config`` is known to be usable; files that no run writes stay.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        InputError: If the configuration or the data cannot be used; nothing was written or removed then.
        RunError: If ``out`` holds a run already.
        Interrupted: After SIGINT or SIGTERM; a checkpoint was saved.
    """
    if (out / "config.yaml").exists() and not overwrite:
        raise RunError(
            "holds a run already.",
            fix="Go on with --resume, choose another --out, or give --overwrite.",
            where=str(out),
        )
    check_engine(config)
    config = config.located()
    algorithm = make(config.method, config.method_config)
    prepared = prepare(config)
    if algorithm.reads_groups:
        prepared.federation.group_one_hot(prepared.federation.client_ids)
    state = start(algorithm, prepared.federation, config.seed)
    _remove(out)
    write_text(out / "config.yaml", f"{SCHEMA_LINE}{SCHEMA_VERSION}\n{dump(config)}")
    write_json(out / "environment.json", environment(config.seed))
    write_text(out / "history.jsonl", "")
    return _run(config, out, prepared, state, [])


def resume(out: Path) -> dict[str, Any]:
    """Go on with a run from its last checkpoint; the result is that of a run that was never stopped.

    Raises:
        RunError: If ``out`` holds no run, no checkpoint or one of another schema version, or if its configuration, its
            data or its history are not those of the checkpoint. Nothing was changed then.
    """
    config, path = load_run_config(out), _checkpoint(out)
    if not path.is_file():
        raise RunError(
            "holds no checkpoint: the run stopped before its first one.",
            fix="Start it again with --overwrite.",
            where=str(out),
        )
    state, meta = load_checkpoint(path)
    _check_config(out, config, meta["config"])
    check_engine(config)
    prepared = prepare(config)
    if meta["data"] != prepared.fingerprint():
        raise RunError(
            "was trained on other pairs than its data now give, so going on would mix two runs.",
            fix="Restore the data, or start again with --overwrite.",
            where=str(out),
        )
    kept = _history(out / "history.jsonl", state.server.round)
    write_text(out / "history.jsonl", "".join(json.dumps(line) + "\n" for line in kept))
    say(f"resuming {out} at round {state.server.round}")
    return _run(config, out, prepared, state, kept)


def _run(
    config: RunConfig, out: Path, prepared: Prepared, state: TrainState, history: list[dict[str, Any]]
) -> dict[str, Any]:
    algorithm = make(config.method, config.method_config)
    federation, every = prepared.federation, config.engine.checkpoint_every
    seconds = sum(line["seconds"] for line in history)
    todo = rounds(algorithm, federation, config.engine, config.seed, state)
    meta = {"config": config.model_dump(mode="json"), "data": prepared.fingerprint()}
    with closing(todo), stopping() as stop, (out / "history.jsonl").open("a", encoding="utf-8") as log:
        for reached, line in track(
            todo, f"{config.method}: rounds", algorithm.rounds - state.server.round, unit="rounds"
        ):
            state, seconds = reached, seconds + line["seconds"]
            log.write(json.dumps(line) + "\n")
            log.flush()
            stopped = stop()
            if stopped or (every and state.server.round % every == 0):
                os.fsync(log.fileno())
                save_checkpoint(_checkpoint(out), state, meta)
            if stopped:
                raise Interrupted(
                    f"{signal.Signals(stopped).name}: stopped after round {state.server.round} of {algorithm.rounds}; "
                    f"go on with: fedvpa train --resume {out}",
                    stopped,
                )
    save_checkpoint(_checkpoint(out), state, meta)
    done = _trained(algorithm.reads_groups, algorithm.selector(state.server), state, seconds, prepared)
    return _finish(config, out, prepared, done, algorithm.reads_groups)


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
        **comparison(scores, {cell: done.seconds}).to_dict(),
        "conflicting": conflict_summary(conflict_scores(config, prepared, done)),
        "latents": latents(prepared, done),
    }
    write_json(out / "metrics.json", metrics)
    return metrics
