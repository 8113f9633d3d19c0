"""A weight is a count: a pair of weight 2 is the pair twice, whatever is computed of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import DIMENSION, random_store
from fedvpa.algorithms.base import CohortUpdate
from fedvpa.algorithms.client.client_examples import say_weights
from fedvpa.algorithms.registry import METHODS, make
from fedvpa.data.partition import ClientRows, Partition
from fedvpa.data.schema import Pair
from fedvpa.engines.federation import Federation, federate
from fedvpa.features.standardise import Moments
from fedvpa.selector.config import InferenceConfig
from fedvpa.selector.inference import INFERENCES
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.selector import Selector
from tests_shared import config

SIZES = (11, 7, 5)
WEIGHTS = np.array([1, 2, 3] * 8)[: sum(SIZES)]
NAMES = tuple(f"client-{number}" for number in range(len(SIZES)))


def federation(*, doubled: bool) -> Federation:
    """Pairs of weights 1, 2 and 3, or each pair as often as it weighs."""
    store, ends = random_store(sum(SIZES)), np.cumsum(SIZES)
    owner = np.repeat(np.arange(len(SIZES)), SIZES)
    often = WEIGHTS if doubled else np.ones_like(WEIGHTS)
    rows = np.repeat(np.arange(ends[-1]), often)
    store = replace(store, chosen=store.chosen[rows], rejected=store.rejected[rows])
    none = np.arange(0)
    clients = [
        ClientRows(name, "ab"[number % 2], True, np.flatnonzero(owner[rows] == number), none, none)
        for number, name in enumerate(NAMES)
    ]
    weights = np.ones(len(rows)) if doubled else WEIGHTS
    return federate(store, Partition(tuple(clients)), rms=True, weights=weights.astype(np.float32))


def pairs(*, doubled: bool) -> Pairs:
    return federation(doubled=doubled).pairs(NAMES[0], "train")


@pytest.mark.unit
def test_features_are_standardised_alike():
    one, two = (federation(doubled=doubled) for doubled in (False, True))
    assert one.moments.count == two.moments.count == 2 * WEIGHTS.sum()
    np.testing.assert_allclose(one.scaling.standardiser.mean, two.scaling.standardiser.mean, rtol=1e-12)
    np.testing.assert_allclose(one.scaling.standardiser.scale, two.scaling.standardiser.scale, rtol=1e-12)
    few = Moments.of(np.ones((1, 2)), np.array([0.25]))
    assert (few + few).count == 0.5
    assert (few + few).sum.tolist() == [0.5, 0.5]


@pytest.mark.unit
@pytest.mark.parametrize("refinement", ["responsibilities", "off"])
@pytest.mark.parametrize("method", METHODS.names())
def test_what_a_client_counts_and_knows_is_the_same(method: str, refinement: str):
    """All that a client sends, but what depends on which pairs a local step draws."""
    if (method, refinement) == ("fedem", "off"):
        pytest.skip("fedem is nothing without refinement")
    algorithm = make(method, config(variational={"refinement": refinement}))
    found = []
    for doubled in (False, True):
        some = federation(doubled=doubled)
        state = algorithm.init(some.setting, 0)
        sent = algorithm.broadcast(state, NAMES)
        for row, name in enumerate(NAMES):
            draws = algorithm.draw(0, sent, name, some.size(name))
            private = algorithm.load_private({}, sent.client(row)) | {"group": some.group_one_hot([name])[0]}
            update, _ = algorithm.client_update(sent.client(row), some.held(name), private, draws)
            sums = {key: leaf for key, leaf in update.sums.items() if not key.startswith(("delta.", "loss.", "vote"))}
            found.append(sums | {f"own.{key}": leaf for key, leaf in update.own.items()})
    assert found[0]["weight"] == {"fedbiscuit": 1, "fedeb": 1, "local": 0}.get(method, WEIGHTS[: SIZES[0]].sum())
    for one, two in zip(found[: len(NAMES)], found[len(NAMES) :], strict=True):
        assert one.keys() == two.keys()
        for key, leaf in one.items():
            torch.testing.assert_close(leaf, two[key], rtol=1e-4, atol=1e-5)


@pytest.mark.unit
def test_averages_count_a_client_by_the_weight_of_its_pairs():
    algorithm = make("global", config(local={"steps": 1, "head_weight_decay": 0.0}, server={"average_tail": 0.0}))
    some = federation(doubled=False)
    state = algorithm.init(some.setting, 0)
    sent, total, moved = algorithm.broadcast(state, NAMES), CohortUpdate({}), torch.zeros(DIMENSION)
    for row, name in enumerate(NAMES):
        held, draws = some.held(name), algorithm.draw(0, sent, name, some.size(name))
        update, _ = algorithm.client_update(sent.client(row), held, {}, draws)
        total = total + CohortUpdate(update.sums)
        target = held.rows(draws.target[0].numpy())
        moved += held.weight.sum() * 0.5 * 0.05 * (target.weight @ target.delta) / target.weight.sum()
    after = algorithm.server_update(state, total)[0]
    torch.testing.assert_close(after.params["head.base"], moved / WEIGHTS.sum())


@pytest.mark.unit
@pytest.mark.parametrize("way", INFERENCES.names())
def test_a_user_is_inferred_alike(way: str):
    algorithm = make("fedvpl", config())
    selector = algorithm.selector(algorithm.init(federation(doubled=False).setting, 0))
    one, two = (selector.with_inference(way).infer(pairs(doubled=doubled)) for doubled in (False, True))
    for name in ("weights", "means", "log_vars"):
        torch.testing.assert_close(getattr(one, name), getattr(two, name), rtol=1e-3, atol=1e-4)


@pytest.mark.unit
@pytest.mark.parametrize("method", ["finetune", "local", "lore"])
def test_a_head_of_ones_own_is_the_same(method: str):
    algorithm = make(method, config())
    selector: Selector = algorithm.selector(algorithm.init(federation(doubled=False).setting, 0))
    one, two = (selector.infer(pairs(doubled=doubled)).mean for doubled in (False, True))
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
    assert one.norm() > 1e-3


@pytest.mark.unit
def test_half_a_pair_pulls_a_ridge_half_as_much_and_nobody_is_at_the_prior():
    shape = config(selector={"head": "linear", "latent": DIMENSION, "prototypes": 1}).selector
    params = {"head.base": torch.zeros(DIMENSION), "prototypes": torch.zeros(1, DIMENSION)}
    selector = Selector(shape, InferenceConfig(method="ridge"), params, torch.zeros(1), torch.ones(()))
    whole = pairs(doubled=False)
    some = replace(whole, weight=torch.full_like(whole.weight, 0.01))
    torch.testing.assert_close(
        selector.infer(some).mean, selector.infer(replace(some, weight=torch.ones_like(some.weight))).mean
    )
    assert selector.infer(replace(some, weight=torch.zeros_like(some.weight))).mean.tolist() == [0.0] * DIMENSION


@pytest.mark.unit
def test_a_client_that_trains_a_language_model_says_that_it_reads_no_weights(capsys):
    pair = Pair("p", "a", "b")
    say_weights([pair, replace(pair, weight=2.0), replace(pair, weight=0.5)])
    assert "the weights of 2 training pairs are not used" in capsys.readouterr().err
    say_weights([pair])
    assert capsys.readouterr().err == ""
