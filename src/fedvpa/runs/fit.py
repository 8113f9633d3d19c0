"""From a configuration and its clients to a trained selector, in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fedvpa.algorithms.registry import make
from fedvpa.engines.flower.simulation import require_flower
from fedvpa.engines.training import TrainState, rounds, start
from fedvpa.evaluation.accuracy import infer_clients
from fedvpa.runs.config import RunConfig
from fedvpa.runs.prepare import Prepared
from fedvpa.selector.posterior import Posterior
from fedvpa.selector.selector import Selector


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
    named = replace(selector, scaling=federation.scaling, feature_key=prepared.feature_key)
    return Trained(named, state, seconds, posterior)


def check_engine(config: RunConfig) -> None:
    """Raise ConfigError if the engine needs packages that are not installed, before work is done for it."""
    if config.engine.name == "flower":
        require_flower()
