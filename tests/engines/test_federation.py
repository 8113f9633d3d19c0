"""Who takes part in what is fitted before the first round: clients that train, and their training pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conftest import make_federation
from fedvpa.data.partition import Partition
from fedvpa.engines.federation import federate


@pytest.mark.unit
@pytest.mark.parametrize("rotation", ["none", "full"])
def test_the_scaling_is_that_of_the_training_pairs_of_seen_clients(rotation) -> None:
    plain = make_federation((7, 5, 3))
    *seen, last = plain.partition.clients
    store, rows = plain.store, np.concatenate([client.train for client in seen])
    for far in (last.train, last.test, seen[0].test):
        for side in (store.chosen, store.rejected):
            side[far] = 100.0 * side[far] + 50.0
    partition = Partition((*seen, replace(last, seen=False)))
    scaling = federate(store, partition, rms=False, rotation=rotation).scaling
    known = np.concatenate([store.chosen[rows], store.rejected[rows]]).astype(np.float64)
    np.testing.assert_allclose(scaling.standardiser.mean, known.mean(0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(scaling.standardiser.scale, known.std(0), rtol=1e-9)
    without = federate(store, Partition(tuple(seen)), rms=False, rotation=rotation).scaling
    if rotation != "none":
        np.testing.assert_array_equal(scaling.rotation, without.rotation)
