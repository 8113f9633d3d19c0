"""z comes from training pairs alone; a pair counts 1, ½ or 0; how clients are batched changes nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedvpa.algorithms.base import FeatureSetting
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.registry import make
from fedvpa.core.errors import TrainingError
from fedvpa.data.partition import ClientRows, Partition
from fedvpa.engines.federation import Federation, federate
from fedvpa.evaluation import accuracy
from fedvpa.evaluation.accuracy import control_scores, infer_clients, score_clients
from fedvpa.features.store import FeatureReport, FeatureStore
from fedvpa.selector.posterior import Posterior
from fedvpa.selector.selector import Selector

DIMENSION, LATENT = 17, 5
SIZES = ((11, 7), (2, 3), (5, 1), (13, 2), (3, 0))
"""Train and test pairs of each client."""


def made() -> Federation:
    rng = np.random.default_rng(3)
    clients, start = [], 0
    for number, (train, test) in enumerate(SIZES):
        rows = np.arange(start, start + train + test)
        start += train + test
        clients.append(ClientRows(f"c{number}", "ab"[number % 2], True, rows[:train], rows[:0], rows[train:]))
    sides = rng.standard_normal((2, start, DIMENSION)).astype(np.float32)
    report = FeatureReport(start, DIMENSION, "encoder", 0, "", 0, 0, 0, 0)
    return federate(FeatureStore(*sides, report), Partition(tuple(clients)), rms=True)


def selector_of(method: str = "fedvpa_gp", head: str = "bilinear", refinement: str = "responsibilities") -> Selector:
    shape = {"head": head, "latent": LATENT, "head_scale": 3.0}
    config = MethodConfig.parse({"selector": shape, "variational": {"refinement": refinement}})
    algorithm = make(method, config)
    return algorithm.selector(algorithm.init(FeatureSetting(DIMENSION, ("a", "b")), 7))


def flipped(federation: Federation, part: str) -> Federation:
    """The same clients with all labels of one part turned round."""
    rows = np.concatenate([getattr(client, part) for client in federation.partition.clients])
    chosen, rejected = np.array(federation.store.chosen), np.array(federation.store.rejected)
    chosen[rows], rejected[rows] = rejected[rows].copy(), chosen[rows].copy()
    return replace(federation, store=replace(federation.store, chosen=chosen, rejected=rejected))


def correct(selector: Selector, federation: Federation, posterior: Posterior) -> dict[str, float]:
    clients = federation.partition.seen
    scores = score_clients(selector, federation, clients, posterior, method="m", seed=0)
    return {score.client_id: score.correct for score in scores}


@pytest.mark.unit
@pytest.mark.parametrize("refinement", ["off", "responsibilities", "laplace"])
def test_test_labels_never_reach_z(refinement: str) -> None:
    federation, selector = made(), selector_of(refinement=refinement)
    clients = federation.partition.seen
    posterior = infer_clients(selector, federation, clients)
    unchanged = infer_clients(selector, flipped(federation, "test"), clients)
    moved = infer_clients(selector, flipped(federation, "train"), clients)
    assert unchanged.mean.equal(posterior.mean)
    assert unchanged.weights.equal(posterior.weights)
    assert not moved.mean.allclose(posterior.mean, atol=1e-4)


@pytest.mark.unit
def test_turned_labels_turn_the_score() -> None:
    federation, selector = made(), selector_of()
    posterior = infer_clients(selector, federation, federation.partition.seen)
    right, wrong = (correct(selector, one, posterior) for one in (federation, flipped(federation, "test")))
    totals = {"c0": 7, "c1": 3, "c2": 1, "c3": 2}
    assert {name: right[name] + wrong[name] for name in right} == totals
    assert right != wrong


@pytest.mark.unit
def test_each_pair_by_hand() -> None:
    federation, selector = made(), selector_of()
    posterior = infer_clients(selector, federation, federation.partition.seen)
    base, personal = selector.params["head.base"], selector.params["head.personal"]
    for row, client in enumerate(federation.partition.seen):
        direction = base + posterior.mean[row] @ personal
        rows = federation.read(client.test)
        expected = float(((rows.chosen - rows.rejected) @ direction > 0).sum())
        assert correct(selector, federation, posterior).get(client.client_id, 0.0) == expected


@pytest.mark.unit
def test_a_tie_is_half() -> None:
    federation, selector = made(), selector_of("global")
    blank = replace(selector, params={name: torch.zeros_like(leaf) for name, leaf in selector.params.items()})
    posterior = infer_clients(blank, federation, federation.partition.seen)
    assert correct(blank, federation, posterior) == {"c0": 3.5, "c1": 1.5, "c2": 0.5, "c3": 1.0}


@pytest.mark.unit
def test_rewards_that_are_not_finite_are_an_error_and_no_zero() -> None:
    federation, selector = made(), selector_of()
    clients = federation.partition.seen
    posterior = infer_clients(selector, federation, clients)
    params = {name: torch.full_like(leaf, torch.nan) for name, leaf in selector.params.items()}
    with pytest.raises(TrainingError, match="no finite numbers, so there is no accuracy"):
        score_clients(replace(selector, params=params), federation, clients, posterior, method="x", seed=0)


@pytest.mark.unit
def test_a_positional_head_gains_nothing_from_where_the_answer_stands() -> None:
    federation, selector = made(), selector_of(head="residual")
    shifted = selector.params["head.personal.2.bias"] + torch.tensor([100.0, 0.0])
    biased = replace(selector, params=selector.params | {"head.personal.2.bias": shifted})
    posterior = infer_clients(biased, federation, federation.partition.seen)
    assert correct(biased, federation, posterior) == {"c0": 3.5, "c1": 1.5, "c2": 0.5, "c3": 1.0}


@pytest.mark.equivalence
@pytest.mark.parametrize("refinement", ["responsibilities", "laplace"])
def test_batches_change_nothing(refinement: str, monkeypatch: pytest.MonkeyPatch) -> None:
    federation, selector = made(), selector_of(refinement=refinement)
    clients = federation.partition.seen
    whole = infer_clients(selector, federation, clients)
    scores = control_scores(selector, federation, clients, whole, method="m", seed=0)
    monkeypatch.setattr(accuracy, "BATCH_FLOATS", 2 * DIMENSION * 2 * 5)
    sizes = [len(clients[rows]) for rows in accuracy._batches(selector, federation, clients, "train")]
    assert sum(sizes) == len(clients)
    assert len(sizes) > 2
    apart = infer_clients(selector, federation, clients)
    torch.testing.assert_close(apart.mean, whole.mean, rtol=1e-4, atol=1e-5)
    assert control_scores(selector, federation, clients, whole, method="m", seed=0) == scores


@pytest.mark.unit
def test_shots_are_the_first_pairs() -> None:
    federation, selector = made(), selector_of()
    clients = federation.partition.seen
    few = [replace(client, train=client.train[:2]) for client in clients]
    expected = infer_clients(selector, replace(federation, partition=Partition(tuple(few))), few)
    assert infer_clients(selector, federation, clients, shots=2).weights.allclose(expected.weights)


@pytest.mark.unit
def test_scores_say_which_pairs_were_right_and_what_they_are_about() -> None:
    federation, selector = made(), selector_of()
    clients = federation.partition.seen
    posterior = infer_clients(selector, federation, clients)
    names = [f"{row // 2:x}" for row in range(len(federation.store.chosen))]  # two neighbouring rows share an item
    arguments = {"method": "m", "seed": 0, "items": names}
    first, turned = (
        {score.client_id: score for score in score_clients(selector, one, clients, posterior, **arguments)}
        for one in (federation, flipped(federation, "test"))
    )
    mirror = str.maketrans("10", "01")
    for client in clients[:4]:
        score = first[client.client_id]
        assert score.results is not None
        assert score.items == " ".join(dict.fromkeys(names[row] for row in client.test))
        assert score.results.translate(mirror) == turned[client.client_id].results
        assert score.results.count("1") + score.results.count("h") / 2 == score.correct
    assert len(set("".join(score.results or "" for score in first.values()))) > 2  # right, wrong and a space


@pytest.mark.unit
def test_a_hold_out_keeps_its_results_in_the_order_of_its_pairs() -> None:
    federation, selector = made(), selector_of()
    clients = federation.partition.seen
    posterior = infer_clients(selector, federation, clients)
    held = {"a": federation.read(np.arange(6)), "b": federation.read(np.arange(3))}
    about = {"a": list("xxyzzz")}
    scores = score_clients(
        selector, federation, clients, posterior, method="m", seed=0, holdout=held, holdout_items=about
    )
    words = {score.group: (score.holdout_results or "").split() for score in scores}
    assert [len(word) for word in words["a"]] == [2, 1, 3]
    assert [len(word) for word in words["b"]] == [1, 1, 1]
