"""From a configuration to clients with features: pairs ──► features ──► partition ──► federation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedvpa.api.config import RunConfig
from fedvpa.core.errors import DataError
from fedvpa.data import PairTable, load, load_holdout, partition, rows_by_group
from fedvpa.engines.federation import Federation, federate
from fedvpa.features import FeatureStore, load_features
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.scaling import Scaling


@dataclass(frozen=True)
class Prepared:
    """Pairs, their features and the clients that hold them."""

    table: PairTable
    federation: Federation


def prepare(config: RunConfig) -> Prepared:
    """Load the pairs, extract (or read) their features and deal them to clients."""
    table = load(config.resolved_data())
    clients = partition(table, config.partition, config.seed)
    store = load_features(table, config.features)
    weights = np.array([pair.weight for pair in table.pairs], dtype=np.float32)
    return Prepared(table, federate(store, clients, rms=config.selector.normalise == "rms", weights=weights))


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
    if config.data.source == "world":
        raise DataError(
            "--holdout needs a file of pairs with groups, and the bundled world has none.",
            fix="Use unseen clients (partition.unseen) instead.",
        )
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
