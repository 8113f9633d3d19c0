from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import pytest
import torch

from fedvpa.algorithms.base import CohortUpdate
from fedvpa.algorithms.feddpo import FedDPO, FedDPOState
from fedvpa.algorithms.policy_method import server_rules
from fedvpa.algorithms.server.aggregation import weighted_delta
from fedvpa.algorithms.server.lora_averaging import A_SUFFIX, B_SUFFIX, change, factorise, layers, product_svd
from fedvpa.core.tree import Tree, prefixed
from fedvpa.policy.config import PolicyConfig

RANK = 3
SHAPES = {"model.q_proj": (7, 11), "model.down_proj": (13, 5)}
SCALE = 1.75
PAIRS = (2, 9, 4, 1)


def adapter(seed: int, shared: int | None = None) -> Tree:
    """Random factors; A from ``shared`` where given."""
    ups = torch.Generator().manual_seed(seed)
    downs = ups if shared is None else torch.Generator().manual_seed(shared)
    found: Tree = {}
    for layer, (outputs, inputs) in SHAPES.items():
        found[layer + A_SUFFIX] = torch.randn(RANK, inputs, generator=downs)
        found[layer + B_SUFFIX] = torch.randn(outputs, RANK, generator=ups)
    return found


def cohort(rule: str) -> list[Tree]:
    return [adapter(seed, 71 if rule == "ffa" else None) for seed in range(len(PAIRS))]


def average(rule: str, clients: list[Tree], weights: Sequence[int]) -> FedDPOState:
    """What the server of FedDPO makes of clients that came to these factors, from a start that is another."""
    settings = PolicyConfig(lora_rank=4, lora_alpha=7, feddpo={"averaging": rule})
    method, before = FedDPO(settings, server_rules(settings, 5)), adapter(99, 71 if rule == "ffa" else None)
    sums: list[CohortUpdate] = []
    for number, (client, weight) in enumerate(zip(clients, weights, strict=True)):
        pairs = torch.tensor(float(weight))
        if rule == "svd":
            own = {str(number): {"weight": pairs, **prefixed("factors", client)}}
            sums.append(CohortUpdate({"weight": pairs}, own))
        else:
            moved = method.expected(FedDPOState(params=before)).deltas
            ours, theirs = ({name: one[name] for name in moved} for one in (before, client))
            sums.append(CohortUpdate(weighted_delta(ours, theirs, pairs)))
    return method.server_update(FedDPOState(params=before), reduce(CohortUpdate.__add__, sums))[0]


def wanted(clients: list[Tree], weights: Sequence[int] = PAIRS) -> dict[str, np.ndarray]:
    """The weighted mean of s·B·A, by NumPy in float64."""
    mean = {}
    for layer in SHAPES:
        products = [
            SCALE * client[layer + B_SUFFIX].numpy().astype(float) @ client[layer + A_SUFFIX].numpy().astype(float)
            for client in clients
        ]
        mean[layer] = np.average(products, axis=0, weights=weights)
    return mean


def error(state: FedDPOState, mean: dict[str, np.ndarray]) -> float:
    """The largest error, beside the largest weight."""
    whole = change(state.params, SCALE)
    told = {layer: leaf + state.residual.get(layer, torch.zeros(())) for layer, leaf in whole.items()}
    top = max(np.abs(leaf).max() for leaf in mean.values())
    return max(np.abs(told[layer].numpy() - mean[layer]).max() for layer in SHAPES) / top


@pytest.mark.reference
@pytest.mark.parametrize("rule", ["ffa", "svd"])
def test_the_exact_rules_give_the_weighted_mean_of_the_changes(rule):
    clients = cohort(rule)
    assert error(average(rule, clients, PAIRS), wanted(clients)) < 1e-6


@pytest.mark.reference
def test_the_published_rule_misses_the_mean_change_and_is_the_mean_of_the_factors():
    clients = cohort("avg")
    averaged = average("avg", clients, PAIRS)
    assert error(averaged, wanted(clients)) > 0.1
    for name, leaf in averaged.params.items():
        by_hand = np.average([client[name].numpy() for client in clients], axis=0, weights=PAIRS)
        assert leaf.numpy() == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.unit
@pytest.mark.parametrize("rule", ["avg", "ffa", "svd"])
def test_one_client_alone_or_many_alike_change_nothing(rule):
    client = adapter(5, 71 if rule == "ffa" else None)
    for clients, weights in (([client], (3,)), ([client] * 3, (1, 2, 6))):
        assert error(average(rule, clients, weights), wanted([client], (1,))) < 1e-6


@pytest.mark.unit
@pytest.mark.parametrize("rule", ["ffa", "svd"])
def test_only_the_proportions_of_the_weights_matter_and_they_do(rule):
    clients = cohort(rule)
    tenfold = average(rule, clients, [10 * count for count in PAIRS])
    assert error(tenfold, wanted(clients)) < 1e-6
    assert error(tenfold, wanted(clients, (1, 1, 1, 1))) > 0.05


@pytest.mark.unit
def test_ffa_keeps_the_shared_factor_as_it_was():
    clients = cohort("ffa")
    averaged = average("ffa", clients, PAIRS)
    assert not averaged.residual
    for layer in layers(clients[0]):
        assert torch.equal(averaged.params[layer + A_SUFFIX], clients[0][layer + A_SUFFIX])


@pytest.mark.reference
def test_svd_keeps_the_best_part_of_its_rank_and_the_size_of_a():
    clients = cohort("svd")
    averaged, mean = average("svd", clients, PAIRS), wanted(clients)
    for layer in SHAPES:
        a = averaged.params[layer + A_SUFFIX].double()
        beyond = np.linalg.svd(mean[layer], compute_uv=False)[RANK:]
        assert float(averaged.residual[layer].norm()) == pytest.approx(np.linalg.norm(beyond), rel=1e-5)
        length = np.mean([(client[layer + A_SUFFIX] ** 2).sum(1).numpy() for client in clients])
        assert (a @ a.T).numpy() == pytest.approx(length * np.eye(RANK), abs=1e-5)


@pytest.mark.unit
def test_svd_of_a_change_of_lower_rank_leaves_every_direction_able_to_learn():
    client = adapter(5)
    for layer in SHAPES:
        client[layer + B_SUFFIX][:, 1:] = 0
    averaged = average("svd", [client], (1,))
    assert error(averaged, wanted([client], (1,))) < 1e-6
    for layer in SHAPES:
        assert bool((averaged.params[layer + A_SUFFIX].norm(dim=1) > 1).all())


@pytest.mark.reference
@pytest.mark.parametrize(("outputs", "inner", "inputs"), [(7, 3, 11), (5, 23, 2)])
def test_the_decomposition_of_a_product_is_that_of_the_product(outputs, inner, inputs):
    generator = torch.Generator().manual_seed(3)
    left = torch.randn(outputs, inner, generator=generator, dtype=torch.float64)
    right = torch.randn(inner, inputs, generator=generator, dtype=torch.float64)
    u, s, vh = product_svd(left, right)
    assert (u * s @ vh).numpy() == pytest.approx((left @ right).numpy(), abs=1e-12)
    singular = np.linalg.svd((left @ right).numpy(), compute_uv=False)
    assert s.numpy()[: len(singular)] == pytest.approx(singular[: len(s)], abs=1e-12)


@pytest.mark.reference
@pytest.mark.parametrize("rank", [0, 2, 5])
def test_a_change_is_factorised_at_its_numerical_rank(rank):
    generator = torch.Generator().manual_seed(3)
    whole = torch.randn(13, rank, generator=generator) @ torch.randn(rank, 7, generator=generator)
    a, b = factorise(whole)
    assert len(a) == b.shape[1] == max(rank, 1)
    assert (b @ a).numpy() == pytest.approx(whole.numpy(), abs=1e-5)
