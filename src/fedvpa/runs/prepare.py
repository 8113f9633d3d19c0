"""From a configuration to clients with features: pairs ──► features ──► partition ──► federation."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedvpa.core.errors import ModelError
from fedvpa.data.holdout import load_holdout, rows_by_group
from fedvpa.data.load import load
from fedvpa.data.partition import partition
from fedvpa.data.schema import Pair, PairTable
from fedvpa.engines.federation import Federation, federate
from fedvpa.features.config import FeatureConfig
from fedvpa.features.extract import cache_key, load_features
from fedvpa.features.store import FeatureStore, data_hash
from fedvpa.models.locate import locate
from fedvpa.runs.config import RunConfig
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.scaling import Scaling
from fedvpa.selector.selector import Selector
from fedvpa.world.judge import judge
from fedvpa.world.users import Utility, find_population


@dataclass(frozen=True)
class Prepared:
    """Pairs, their features and the clients that hold them.

    Attributes:
        table: The pairs.
        federation: The clients.
        feature_key: Names the features, as JSON.
    """

    table: PairTable
    federation: Federation
    feature_key: str

    def fingerprint(self) -> str:
        """A hash of every text and of who holds what, in which part: what a resumed run must find again."""
        total = hashlib.sha256(data_hash(self.table.pairs).encode())
        for client in self.federation.partition.clients:
            rows = [part.tolist() for part in (client.train, client.validation, client.test)]
            total.update(repr((client.client_id, client.group, client.seen, rows)).encode())
        return total.hexdigest()


def prepare(config: RunConfig) -> Prepared:
    """Load the pairs, extract (or read) their features and deal them to clients."""
    table = load(config.resolved_data())
    clients = partition(table, config.partition, config.seed)
    store = load_features(table, config.features)
    weights = np.array([pair.weight for pair in table.pairs], dtype=np.float32)
    federation = federate(store, clients, rms=config.selector.normalise == "rms", weights=weights)
    return Prepared(table, federation, json.dumps(feature_key(config.features), sort_keys=True))


def conflicting(config: RunConfig, table: PairTable) -> NDArray[np.bool_] | None:
    """Which pairs the groups of the bundled world order in different ways; None where utilities are not by group."""
    if config.data.source != "world":
        return None
    population = find_population(config.data.population)
    if population.concentration is not None:
        return None
    gaps = np.array([[_gap(pair, utility) for utility in population.utilities] for pair in table.pairs])
    return np.asarray((gaps.max(axis=1) > 0) & (gaps.min(axis=1) < 0))


def _gap(pair: Pair, utility: Utility) -> float:
    chosen, rejected = (judge(str(pair.prompt), str(text), utility).utility for text in (pair.chosen, pair.rejected))
    return round(chosen - rejected, 9)


def feature_key(config: FeatureConfig) -> dict[str, Any]:
    """What features mean, whatever the data and the precision: a selector only reads those it was trained on."""
    key = cache_key(PairTable(()), config, locate(config.model))
    return {name: part for name, part in key.items() if name not in ("data", "pairs", "dtype", "storage")}


def check_features(config: RunConfig, selector: Selector) -> None:
    """Refuse features that the selector was not trained on.

    Raises:
        ModelError: Naming the first thing that differs.
    """
    trained, now = json.loads(selector.feature_key or "{}"), feature_key(config.features)
    for name in now:
        if trained.get(name) != now[name]:
            raise ModelError(
                f"The selector was trained on features with {name} = {trained.get(name)!r}, and these have "
                f"{now[name]!r}.",
                fix="Give the language model that the run was trained with: features.model=PATH.",
                where=config.features.model,
            )


def prepare_holdout(config: RunConfig, path: Path, table: PairTable, scaling: Scaling) -> dict[str, Pairs]:
    """Group → the scaled features of further labelled pairs, which nobody trained on.

    Args:
        config: The run; its columns (``data.map``) and language model are used.
        path: A file of pairs, or the folder of another source.
        table: The pairs of the clients; hold-out pairs among them are left out.
        scaling: The run's.

    Raises:
        DataError: If the file cannot be used, or lacks a group of the clients.
    """
    held = load_holdout(config.data.model_copy(update={"path": str(path), "split": ""}), table)
    store = load_features(held, config.features)
    return {group: _pairs(store, rows, scaling) for group, rows in rows_by_group(held).items()}


def _pairs(store: FeatureStore, rows: np.ndarray, scaling: Scaling) -> Pairs:
    chosen, rejected = scaling(np.asarray(store.chosen[rows])), scaling(np.asarray(store.rejected[rows]))
    ones = chosen.new_ones(len(rows))
    return Pairs(chosen, rejected, ones, ones)


def prepare_pairs(config: RunConfig, table: PairTable, scaling: Scaling) -> Pairs:
    """The scaled features of a table of pairs."""
    return _pairs(load_features(table, config.features), np.arange(len(table)), scaling)
