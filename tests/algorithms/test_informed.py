"""The yardstick that infers membership: its heads, τ and posteriors against NumPy and SciPy."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.stats import multivariate_normal

from conftest import DIMENSION, make_federation
from fedvpa.algorithms.base import CohortUpdate, InfersMembers, placed_by_group
from fedvpa.algorithms.informed import Informed
from fedvpa.algorithms.registry import make
from fedvpa.algorithms.server.empirical_bayes import STRENGTHS, best_precision
from fedvpa.core.frozen import from_tensors, to_tensors
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.training import TrainState, rounds, start
from fedvpa.runs.fit import members_of
from tests_shared import config

FEDERATION = make_federation()
GROUPS = np.array([FEDERATION.groups.index(str(client.group)) for client in FEDERATION.partition.seen])
WEIGHTS = FEDERATION.weights * np.linspace(0.5, 2, len(FEDERATION.weights), dtype=np.float32)
WEIGHTED = replace(FEDERATION, weights=WEIGHTS)


@cache
def trained(rotation: str = "none", engine: str = "loop") -> tuple[Informed, TrainState]:
    algorithm = make("informed", config(selector={"rotation": rotation}))
    assert isinstance(algorithm, Informed)
    [(state, line)] = rounds(
        algorithm, WEIGHTED, EngineConfig(name=engine, cohort=2, workers=1), 3, start(algorithm, WEIGHTED, 3)
    )
    assert len(line["cohort"]) == len(WEIGHTED.client_ids), "one round asks everybody"
    assert not line["rejected"]
    return algorithm, state


def by_hand(
    without: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """S, n and members of each group without one client; the differences and weights of all clients."""
    pairs = [WEIGHTED.pairs(name, "train") for name in WEIGHTED.client_ids]
    deltas, weights = [one.delta.double().numpy() for one in pairs], [one.weight.double().numpy() for one in pairs]
    scores, counts, members = np.zeros((2, DIMENSION)), np.zeros(2), np.zeros(2)
    for place, (delta, weight) in enumerate(zip(deltas, weights, strict=True)):
        if place != without and len(delta):
            scores[GROUPS[place]] += weight @ delta
            counts[GROUPS[place]] += weight.sum()
            members[GROUPS[place]] += 1
    return scores, counts, members, deltas, weights


def heads_by_hand(scores: np.ndarray, counts: np.ndarray, precision: float) -> np.ndarray:
    _, total, _, deltas, weights = by_hand()
    second = (
        sum(delta.T @ (weight[:, None] * delta) for delta, weight in zip(deltas, weights, strict=True)) / total.sum()
    )
    return np.stack(
        [
            np.linalg.solve(n * second / 4 + precision * np.eye(DIMENSION), s / 2)
            for s, n in zip(scores, counts, strict=True)
        ]
    )


@pytest.mark.reference
@pytest.mark.parametrize("engine", ["loop", "vectorised"])
def test_the_heads_are_ridge_solutions_of_the_expanded_likelihood(engine: str):
    algorithm, state = trained(engine=engine)
    scores, counts, _, _, _ = by_hand()
    expected = heads_by_hand(scores, counts, float(state.server.precision))
    np.testing.assert_allclose(algorithm.selector(state.server).prototypes.numpy(), expected, rtol=2e-3, atol=2e-4)


@pytest.mark.reference
def test_membership_is_bayes_rule_under_heads_that_never_saw_the_client():
    algorithm, state = trained()
    infer = members_of(algorithm, state)
    assert infer is not None
    names = list(WEIGHTED.client_ids)
    found = infer(names, WEIGHTED.cohort(names, "train")).weights.numpy()
    for place in range(len(names)):
        scores, counts, members, deltas, weights = by_hand(without=place)
        heads = heads_by_hand(scores, counts, float(state.server.precision))
        likelihood = (weights[place][:, None] * np.log(expit(deltas[place] @ heads.T))).sum(0)
        odds = (members + 1) * np.exp(likelihood)
        np.testing.assert_allclose(found[place], odds / odds.sum(), atol=2e-3)
    told = algorithm.selector(state.server).infer(WEIGHTED.cohort(names, "train")).weights.numpy()
    own = np.arange(len(names)), GROUPS
    assert found[own].mean() < told[own].mean() - 0.02, "with its own pairs in the heads a client knows itself"


@pytest.mark.unit
def test_a_client_that_never_answered_has_nothing_to_take_out():
    algorithm, state = trained()
    names, silent = list(WEIGHTED.client_ids)[:2], TrainState(state.server)
    infer, context = members_of(algorithm, silent), WEIGHTED.cohort(names, "train")
    assert infer is not None
    torch.testing.assert_close(infer(names, context).weights, algorithm.selector(state.server).infer(context).weights)


@pytest.mark.reference
def test_the_precision_maximises_the_evidence_of_the_sums():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(4, 4))
    second, counts = root @ root.T, np.array([31.0, 7.0])
    scores = np.stack([rng.multivariate_normal(np.zeros(4), n * second) * 4 for n in counts])
    values, basis = np.linalg.eigh(second)
    found = best_precision(torch.from_numpy(scores @ basis) / 2, torch.from_numpy(counts[:, None] * values / 4))
    tried = STRENGTHS.numpy() * (counts.max() * values.max() / 4)
    evidence = [
        sum(
            multivariate_normal.logpdf(s / 2, cov=a @ a / tau + a)
            for s, a in zip(scores, [n * second / 4 for n in counts], strict=True)
        )
        for tau in tried
    ]
    assert float(found) == pytest.approx(tried[int(np.argmax(evidence))])
    assert tried[0] < float(found) < tried[-1]


@pytest.mark.equivalence
def test_turned_features_need_the_diagonal_alone():
    rng = np.random.default_rng(1)
    algorithm, state = trained("full")
    full, _ = trained()
    assert algorithm.expected(state.server).sums["moment"].shape == (DIMENSION,)
    scores, pairs = (torch.from_numpy(rng.random(shape)).float() for shape in ((2, DIMENSION), (2,)))
    spectrum = torch.from_numpy(rng.random(DIMENSION)).float()
    sums = {"weight": torch.tensor(3.0), "scores": scores, "pairs": pairs, "members": torch.ones(2)}
    results = [
        one.server_update(one.init(WEIGHTED.setting, 0), CohortUpdate(sums | {"moment": moment}))[0]
        for one, moment in ((algorithm, spectrum), (full, spectrum.diag()))
    ]
    torch.testing.assert_close(
        algorithm.selector(results[0]).prototypes, full.selector(results[1]).prototypes, rtol=1e-4, atol=1e-5
    )


@pytest.mark.unit
def test_it_reads_groups_to_train_and_never_to_infer():
    algorithm, state = trained()
    assert algorithm.reads_groups
    assert isinstance(algorithm, InfersMembers)
    assert not placed_by_group(algorithm)
    assert placed_by_group(make("oracle", config()))
    assert not placed_by_group(make("global", config()))
    again = from_tensors(type(state.server), to_tensors(state.server))
    assert torch.equal(again.scores, state.server.scores)
    assert again.round == 1
