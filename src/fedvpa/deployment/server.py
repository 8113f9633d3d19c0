"""The server of a deployment: it has no pairs, asks the nodes whom they host, and runs the same rounds as every engine.

What leaves a node: user ids, numbers of pairs, moments of features, updates, and sums of statistics.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from fedvpa.algorithms.registry import make
from fedvpa.algorithms.server.rejections import Rejections
from fedvpa.core.compute import Compute, restore
from fedvpa.core.errors import FedvpaError, RunError
from fedvpa.core.files import write_json
from fedvpa.core.loop import check_finite
from fedvpa.core.progress import say
from fedvpa.core.tensors import write_tensors
from fedvpa.deployment.node import CONFIG_FILE
from fedvpa.deployment.noise import DeployedNoise, scaling_without_users
from fedvpa.deployment.taking_part import metrics, read_alike, say_who
from fedvpa.deployment.terms import Terms
from fedvpa.engines.checkpoint import load_checkpoint, save_checkpoint
from fedvpa.engines.flower.roster import Roster, gather
from fedvpa.engines.flower.rotation import gather_moment
from fedvpa.engines.flower.secure_server import secured
from fedvpa.engines.flower.server import GridCohort
from fedvpa.engines.secure_aggregation import check_nodes
from fedvpa.engines.training import TrainState, rounds, start
from fedvpa.features.standardise import Standardiser
from fedvpa.runs.config import RunConfig, read_config
from fedvpa.runs.environment import environment
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.released import check_deployed_clients
from fedvpa.selector.rotation import rotation_of
from fedvpa.selector.scaling import Scaling

ROTATION_FILE = "rotation.safetensors"
"""Beside the checkpoint: it does not change from round to round."""

HANDOVER_SECONDS = 60.0
"""How long a server waits for an earlier one, whose SuperLink was killed, to notice and let go. Chosen by us."""


def server_app(folder: Path, policy_method: str = "") -> ServerApp:
    """The ServerApp of an exported folder. Its run configuration: ``out``, ``nodes``, ``deadline``, ``quorum``.

    Args:
        folder: With the run's configuration.
        policy_method: What trains a language model on the nodes; empty for the run's own method, which trains a
            selector.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        with explained():
            serve(grid, read_config(folder / CONFIG_FILE), context.run_config, policy_method)

    return app


@contextmanager
def explained() -> Iterator[None]:
    """Say in one line what stopped the server, before Flower prints where.

    Raises:
        FedvpaError: In place of an error of Flower's connection.
    """
    try:
        yield
    except httpx.HTTPError as error:
        refused = FedvpaError(
            f"Flower's SuperLink cannot be used any more ({error}). Check that it runs, and start the run again: it "
            "goes on from its last round."
        )
        say(f"fedvpa: {refused}")
        raise refused from error
    except (FedvpaError, OSError) as error:
        say(f"fedvpa: {error}")
        raise


def serve(grid: Grid, config: RunConfig, given: Mapping[str, Any], policy_method: str = "") -> None:
    """Run all rounds on a grid, from the last checkpoint of ``out`` if there is one; leave selector or policy behind.

    Args:
        grid: Flower's.
        config: The run.
        given: ``out``, the server's run directory; ``nodes`` to wait for; ``deadline`` in seconds, for each round and
            for the nodes to come; ``quorum``, the share of a round's clients that must answer.
        policy_method: As of :func:`server_app`.

    Raises:
        ConfigError: If one of the numbers cannot be; see :class:`~fedvpa.deployment.terms.Terms`.
        RunError: If ``out`` holds a run of another configuration, or is not a folder, or another program writes to it.
        FedvpaError: If too few nodes come, or too few clients answer.
        TrainingError: If the training has diverged.
    """
    terms = Terms.parse({name: given[name] for name in Terms.model_fields})
    with RunFolder.at(str(given["out"])).locked(HANDOVER_SECONDS) as run:
        run.check_whole("its training cannot go on", "Choose another out for a new training.")
        if policy_method:
            check_deployed_clients(config, policy_method)
            # deferred: only these methods load what a language model needs
            from fedvpa.deployment.text_server import serve_texts

            serve_texts(grid, config, policy_method, run, terms)
        else:
            _serve(grid, config, run, terms)


def _serve(grid: Grid, config: RunConfig, run: RunFolder, terms: Terms) -> None:
    roster = gather(grid, terms.nodes, terms.deadline, terms.quorum)
    say_who(roster)
    check_nodes(config.engine.secure_aggregation, len(roster.introductions))
    config = read_alike(config, roster.reads)
    algorithm = make(config.method, config.method_config)
    begins = not run.checkpoint.is_file()
    if begins:
        noise = DeployedNoise.of(config, run, roster, terms.quorum)
    state, scaling = _begin(run, config, roster, terms)
    if begins:
        noise.keep(run)
    else:
        noise = DeployedNoise.of(config, run, roster, terms.quorum)
    codec = config.engine.codec
    plain = GridCohort(grid, roster.hosts, False, terms.deadline, terms.quorum, codec, scaling, roster.refresh)
    cohort = secured(plain, config.engine)
    meta = {
        "config": config.model_dump(mode="json"),
        "scaling": scaling.standardiser.to_dict(),
        "compute": Compute.current().to_dict(),
        "reads": roster.reads,
    }
    spending = noise.spending(state)
    if begins and noise.from_nodes:
        # Before anything is unmasked: a run that stops in its first round then goes on, and counts what it unmasked.
        save_checkpoint(run.checkpoint, state, meta)
    with run.history.open("a", encoding="utf-8") as log:
        going = rounds(algorithm, roster, config.engine, config.seed, state, cohort, privacy=noise.privacy)
        for reached, line in going:
            state, line = reached, line if spending is None else spending.after_round(line)
            check_finite(line, f"{config.method}: round {state.server.round}")
            log.write(json.dumps(line, allow_nan=False) + "\n")
            log.flush()
            os.fsync(log.fileno())
            save_checkpoint(run.checkpoint, state, meta)
            say(f"round {state.server.round} of {algorithm.rounds}: {noise.asked(line)} asked")
            roster.refresh(set(grid.get_node_ids()))
    replace(algorithm.selector(state.server), scaling=scaling, feature_key=roster.reads).save_pretrained(run.selector)
    history = run.lines()
    rejections = Rejections.of(history)
    if rejections.rejected:
        say(str(rejections))
    write_json(run.path / "metrics.json", metrics(config.method, history, rejections, roster) | noise.spent(state))
    say(f"selector: {run.selector}")


def _begin(run: RunFolder, config: RunConfig, roster: Roster, terms: Terms) -> tuple[TrainState, Scaling]:
    """The state and the scaling to go on from, or new ones."""
    rms, blocks = config.selector.normalise == "rms", config.features.widths(len(roster.moments.sum))
    if run.checkpoint.is_file():
        state, meta = load_checkpoint(run.checkpoint, make(config.method, config.method_config).state_type)
        if RunConfig.parse(meta["config"]) != config:
            raise RunError("holds a run of another configuration.", fix="Choose another out.", where=str(run))
        if meta.get("reads", roster.reads) != roster.reads:
            raise RunError(
                "was trained on the features of another language model than the nodes have now.",
                fix="Restore theirs, or choose another out.",
                where=str(run),
            )
        restore(Compute.of(meta.get("compute")), str(run.checkpoint))
        say(f"resuming {run} at round {state.server.round}")
        run.rewind(state.server.round)
        rotation = None if config.selector.rotation == "none" else _read_rotation(run)
        scaling = Scaling(Standardiser.from_dict(meta["scaling"]), rms, rotation, blocks)
        roster.setting = replace(roster.setting, dimension=scaling.dimension)
        return state, scaling
    run.begin(config, environment(config.seed).to_dict())
    algorithm = make(config.method, config.method_config)
    public = scaling_without_users(config, roster) if config.privacy.on else None
    scaling = _scaling(config, roster, terms) if public is None else public.scaling
    if scaling.rotation is not None:
        write_tensors(run.checkpoint.with_name(ROTATION_FILE), {"rotation": torch.from_numpy(scaling.rotation)})
    spectrum = () if public is None else public.spectrum
    roster.setting = replace(roster.setting, dimension=scaling.dimension, spectrum=spectrum)
    return start(algorithm, roster, config.seed), scaling


def _scaling(config: RunConfig, roster: Roster, terms: Terms) -> Scaling:
    """By the sums of the nodes that are there."""
    rms, blocks = config.selector.normalise == "rms", config.features.widths(len(roster.moments.sum))
    scaling = Scaling(Standardiser.from_moments(roster.moments), rms, blocks=blocks)
    if config.selector.rotation == "none":
        return scaling
    moment = gather_moment(roster, scaling.standardiser, terms.deadline, terms.quorum)
    return replace(scaling, rotation=rotation_of(moment, config.selector.rotation, scaling.beside))


def _read_rotation(run: RunFolder) -> NDArray[np.float32]:
    """The rotation of the features of a run that goes on.

    Raises:
        RunError: If its file is gone or broken.
    """
    path = run.checkpoint.with_name(ROTATION_FILE)
    try:
        rotation: NDArray[np.float32] = load_file(path)["rotation"].numpy()
    except (OSError, SafetensorError, KeyError) as error:
        raise RunError(
            f"cannot be read ({error}), and the run was begun on features that it turns.",
            fix="Restore it, or choose another out.",
            where=str(path),
        ) from error
    return rotation
