"""How features are standardised by users' own pairs under noise: one release, before the first round."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedvpa.core.errors import DataError
from fedvpa.data.partition import ClientRows, Partition
from fedvpa.features.standardise import Standardiser
from fedvpa.features.store import FeatureStore
from fedvpa.privacy.keyed import Key
from fedvpa.privacy.moments import released, standardiser, user_vector

PURPOSE = "moments"
"""Names the noise of this release among those of a key."""


def private_standardiser(
    store: FeatureStore,
    partition: Partition,
    weights: NDArray[np.float32],
    *,
    clip: float,
    noise_multiplier: float,
    key: Key,
) -> Standardiser:
    """Mean and scale from the training pairs of all seen clients; see :mod:`fedvpa.privacy.moments`.

    Args:
        store: Features of all pairs.
        partition: The clients.
        weights: Importance weights of all pairs.
        clip: B, the length that a feature counts with at most.
        noise_multiplier: σ of this release.
        key: The noise follows from it, so that a run that goes on has the same.

    Raises:
        DataError: If no client trains.
    """
    if not partition.seen:
        raise DataError("No client trains, so there is nothing to standardise by.")
    total = sum(client_vector(store, client, weights, clip) for client in partition.seen)
    noised = released(np.asarray(total), noise_multiplier, key.generator(0, PURPOSE))
    return standardiser(noised, len(partition.seen), noise_multiplier, clip)


def client_vector(
    store: FeatureStore, client: ClientRows, weights: NDArray[np.float32], clip: float
) -> NDArray[np.float64]:
    """What one client adds to the sum."""
    sides = [np.asarray(side[client.train]) for side in (store.chosen, store.rejected)]
    return user_vector(np.concatenate(sides), np.tile(weights[client.train], 2), clip)
