"""What is written down of messages is what was sent, user by user, and changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conftest import make_federation
from fedvpa.algorithms.registry import make
from fedvpa.engines import loop
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.recording import Recorder
from fedvpa.engines.training import rounds, start
from tests_shared import config


def recorded(prior: str = "mixture", cohort: int = 4):
    algorithm = make("fedvpa_gp", config(server={"rounds": 4}, variational={"prior": prior, "warmup": 0.0}))
    federation, parts = make_federation(), []

    def kept(task):
        found = loop.run_cohort(task)
        parts.append((task, found[0]))
        return found

    engine, recorder = EngineConfig(name="loop", cohort=cohort), Recorder(kept, 5)
    *_, (state, _) = rounds(algorithm, federation, engine, 5, start(algorithm, federation, 5), recorder)
    *_, (plain, _) = rounds(algorithm, federation, engine, 5, start(algorithm, federation, 5))
    for name, leaf in plain.server.params.items():
        assert torch.equal(leaf, state.server.params[name]), "a training that is recorded is the same training"
    last = algorithm.broadcast(state.server, federation.client_ids).shared
    return recorder, parts, last, federation


@pytest.mark.unit
def test_a_user_is_known_by_the_mean_of_its_updates_less_those_of_its_cohorts():
    recorder, parts, _, _ = recorded()
    table = recorder.of_server()["statistics"]
    seen = {}
    for _, cohort in parts:
        names = [name for name in sorted(cohort[0].update.sums) if not name.startswith("delta.")]
        rows = np.stack([np.concatenate([part.update.sums[n].ravel().double() for n in names]) for part in cohort])
        for part, row in zip(cohort, rows - rows.mean(0), strict=True):
            seen.setdefault(part.clients[0], []).append(row)
    assert table.keys() == seen.keys()
    for name, rows in seen.items():
        np.testing.assert_allclose(table[name], np.mean(rows, axis=0))
    assert "own" not in recorder.of_server(), "nothing that is not additive leaves"


@pytest.mark.unit
def test_with_sums_users_of_the_same_rounds_look_alike():
    recorder, parts, last, _ = recorded()
    sums, changes = recorder.of_sums()["sums"], recorder.of_participant(last)["changes"]
    rounds_of = {}
    for task, cohort in parts:
        for part in cohort:
            rounds_of.setdefault(part.clients[0], []).append(task.broadcast.round)
    one, other = next(
        (a, b) for a in rounds_of for b in rounds_of if a < b and rounds_of[a] == rounds_of[b] and rounds_of[a]
    )
    np.testing.assert_array_equal(sums[one], sums[other])
    np.testing.assert_array_equal(changes[one], changes[other])
    first, second = recorder.broadcasts[0], recorder.broadcasts[1]
    moved = recorder.of_participant(last)["changes"]
    assert moved.keys() == rounds_of.keys()
    assert not torch.equal(first["params.prototypes"], second["params.prototypes"])


@pytest.mark.unit
def test_posteriors_of_the_published_exchange_are_read_by_their_keys():
    recorder, parts, last, federation = recorded("posteriors")
    table = recorder.of_posteriors(federation.client_ids, last)["posterior"]
    sent = {}
    for _, cohort in parts:
        for part in cohort:
            own = part.update.own[part.clients[0]]
            sent.setdefault(part.clients[0], []).append(torch.cat([own["mean"], own["log_var"]]).double().numpy())
    for name, row in table.items():
        np.testing.assert_allclose(row, np.mean(sent[name], axis=0), atol=1e-6)
    assert len(table) == len(sent)
    assert not recorded()[0].of_posteriors(federation.client_ids, recorded()[2])
