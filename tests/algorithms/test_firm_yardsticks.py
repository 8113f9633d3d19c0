"""FedCMOO and rewarded soups beside the methods that they must equal where they coincide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedvpa.algorithms.base import CohortUpdate
from fedvpa.algorithms.fedcmoo import GRADIENT, FedCMOOState, make_fedcmoo
from fedvpa.algorithms.firm import make_firm
from fedvpa.algorithms.server.lora_averaging import change
from fedvpa.algorithms.soups import interpolated, make_soups
from fedvpa.core import tree
from fedvpa.core.frozen import from_tensors, to_tensors
from fedvpa.core.tree import below, prefixed
from fedvpa.objectives.multi_objective import fedcmoo_weights, gram
from firm_fixtures import SEED, federation, firm_config, flat, policy_of, server, train


def sums_of(algorithm: Any, state: Any, clients: Any, name: str) -> dict[str, torch.Tensor]:
    sent = algorithm.broadcast(state, clients.client_ids)
    draws = algorithm.draw(SEED, sent, name, clients.size(name))
    return algorithm.client_update(sent.client(0), clients.held(name), {}, draws)[0].sums


@pytest.mark.unit
def test_fedcmoo_weighs_by_the_gram_matrix_of_the_clients_mean_gradients(base_folder: Path):
    clients, config = federation(policy_of(base_folder)), firm_config(rounds=1)
    algorithm = make_fedcmoo(server(config), config)
    state = algorithm.init(clients.setting, SEED)
    own = {name: sums_of(algorithm, state, clients, name) for name in clients.client_ids}
    assert float(own["nobody"]["weight"]) == 0
    wanted = algorithm.expected(state)
    assert not wanted.deltas
    assert {name: leaf.shape for name, leaf in own["ann"].items() if name != "weight"} == {
        name: bounds.shape for name, bounds in wanted.sums.items()
    }
    rows = []
    for place in range(2):
        parts = [flat(below(f"{GRADIENT}.{place}", sums)) for sums in own.values()]
        rows.append(sum(parts) / 5)  # weights 3, 2 and 0 are in the sums
    found, lines = train(algorithm, clients)
    torch.testing.assert_close(
        found.weights, fedcmoo_weights(gram(torch.stack(rows)), torch.full((2,), 0.5)), rtol=0, atol=1e-5
    )
    assert abs(float(found.weights[0]) - 0.5) > 1e-3
    assert (found.round, found.weighed, len(lines)) == (1, False, 1)


@pytest.mark.equivalence
def test_fedcmoo_trains_as_fixed_weights_do_once_it_has_them(base_folder: Path):
    config = firm_config(rounds=1)
    state, lines = train(make_fedcmoo(server(config), config), federation(policy_of(base_folder)))
    fixed = firm_config(rounds=1, preference=tuple(state.weights.tolist()))
    other, told = train(make_firm("scalar", server(fixed), fixed), federation(policy_of(base_folder)))
    torch.testing.assert_close(flat(state.params), flat(other.params), atol=1e-6, rtol=1e-5)
    # Both gradients went up beside the adapter, and the adapter went down twice.
    assert lines[0]["uplink_bytes"] > 2.5 * told[0]["uplink_bytes"]
    assert lines[0]["downlink_bytes"] > 1.9 * told[0]["downlink_bytes"]
    assert lines[0]["losses"]["lambda.world:helpful"] == pytest.approx(float(state.weights[0]), abs=1e-5)


@pytest.mark.unit
def test_fedcmoo_starts_from_the_weights_of_the_round_before(base_folder: Path):
    clients, config = federation(policy_of(base_folder)), firm_config(rounds=1, preference=(0.9, 0.1))
    algorithm = make_fedcmoo(server(config), config)
    state, _ = train(algorithm, clients)
    sums = sums_of(algorithm, state, clients, "ann")
    rows = torch.stack([flat(below(f"{GRADIENT}.{place}", sums)) / 3 for place in range(2)])
    after, _ = algorithm.server_update(state, CohortUpdate(sums))
    assert after.weighed
    torch.testing.assert_close(after.weights, fedcmoo_weights(gram(rows), state.weights), rtol=0, atol=1e-6)
    assert abs(float(state.weights[0]) - 0.9) > 1e-3


@pytest.mark.unit
def test_a_round_without_anybody_ends_and_the_state_survives_a_file(base_folder: Path):
    config = firm_config()
    algorithm = make_fedcmoo(server(config), config)
    state = algorithm.init(federation(policy_of(base_folder)).setting, SEED)
    after, told = algorithm.server_update(state, CohortUpdate({}))
    assert (after.round, after.weighed, told) == (1, False, {})
    back = from_tensors(FedCMOOState, to_tensors(after))
    assert (back.round, back.weighed) == (1, False)
    assert torch.equal(back.weights, after.weights)


@pytest.mark.equivalence
def test_each_adapter_of_the_soups_is_trained_as_single_trains_it(base_folder: Path):
    config = firm_config()
    soups, _ = train(make_soups(server(config), config), federation(policy_of(base_folder)))
    for place, preference in enumerate(((1, 0), (0, 1))):
        own = firm_config(preference=preference)
        single, _ = train(make_firm("single", server(own), own), federation(policy_of(base_folder)))
        assert torch.equal(flat(below(f"objective{place}", soups.params)), flat(single.params))


@pytest.mark.unit
def test_interpolation_adds_the_changes_of_the_weights(base_folder: Path):
    config = firm_config(rounds=1)
    state, lines = train(make_soups(server(config), config), federation(policy_of(base_folder)))
    wanted = tree.combine(
        lambda one, other: 0.3 * one + 0.7 * other,
        *(change(below(f"objective{place}", state.params), 2.0) for place in range(2)),
    )
    found = change(interpolated(state.params, (0.3, 0.7)), 2.0)
    for name, leaf in wanted.items():
        torch.testing.assert_close(found[name], leaf, atol=1e-6, rtol=1e-5)
    assert lines[0]["losses"]["lambda.world:helpful"] == pytest.approx(0.5)


@pytest.mark.unit
def test_the_soups_start_alike_and_send_what_is_expected(base_folder: Path):
    clients, config = federation(policy_of(base_folder)), firm_config()
    algorithm = make_soups(server(config), config)
    state = algorithm.init(clients.setting, SEED)
    assert state.params == {
        **prefixed("objective0", clients.setting.start),
        **prefixed("objective1", clients.setting.start),
    }
    for name in ("bob", "nobody"):
        sums, wanted = sums_of(algorithm, state, clients, name), algorithm.expected(state)
        assert {key: leaf.shape for key, leaf in below("delta", sums).items()} == dict(wanted.deltas)
        assert sums.keys() == {"weight", *(f"delta.{key}" for key in wanted.deltas), *wanted.sums}
