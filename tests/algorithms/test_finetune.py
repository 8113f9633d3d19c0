from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from conftest import DIMENSION, make_federation
from fedvpa.algorithms.base import CohortUpdate
from fedvpa.algorithms.client.draws import draw
from fedvpa.algorithms.finetune import STRENGTHS, FineTune, Tuned, held_out_likelihood, strength, vote
from fedvpa.algorithms.registry import make
from fedvpa.core.frozen import from_tensors, to_tensors
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.training import rounds, start
from fedvpa.selector.heads import HEADS
from fedvpa.selector.pairs import Pairs
from tests_shared import config


@cache
def trained(method: str, head: str = "bilinear", engine: str = "loop") -> Tuned:
    shape, rules = {"head": head, "trunk_width": 3}, {"clip_norm": None, "max_weight": None}
    algorithm, federation = make(method, config(selector=shape, server=rules)), make_federation()
    state = start(algorithm, federation, 3)
    for reached, _ in rounds(algorithm, federation, EngineConfig(name=engine, cohort=4, workers=1), 3, state):
        state = reached
    return state.server


def voted_for(place: int, base: torch.Tensor) -> Tuned:
    """The state after one report for a strength."""
    votes = (torch.arange(len(STRENGTHS)) >= place).float()
    return Tuned(params={"head.base": base}, votes=votes, voted=torch.ones(()))


@pytest.mark.equivalence
@pytest.mark.parametrize("head", ["bilinear", "mlp"])
def test_the_head_that_all_share_is_that_of_global(head: str):
    ours, plain = trained("finetune", head), trained("global", head)
    assert ours.params.keys() == plain.params.keys() - {"prototypes", "head.personal"}
    for name, leaf in ours.final.items():
        torch.testing.assert_close(leaf, plain.final[name], rtol=0, atol=1e-6)


@pytest.mark.equivalence
@pytest.mark.parametrize("head", ["bilinear", "mlp"])
def test_stacked_clients_report_what_single_ones_do(head: str):
    one, many = trained("finetune", head), trained("finetune", head, "vectorised")
    assert one.voted > 0
    torch.testing.assert_close(one.voted, many.voted)
    torch.testing.assert_close(one.votes, many.votes)


@pytest.mark.reference
@pytest.mark.parametrize("place", [0, 4, 8])
def test_a_head_of_ones_own_is_ridge_logistic_regression_around_the_global_one(place: int):
    algorithm, data = FineTune(config()), make_federation().pairs("client-0", "train")
    base = torch.randn(DIMENSION, generator=torch.Generator().manual_seed(0)) / DIMENSION
    selector = algorithm.selector(voted_for(place, base))
    z = selector.infer(data).mean
    # Stationary: the pull to the global head is the slope of the pairs' log-likelihood.
    wrong = torch.sigmoid(-(data.delta @ (base + z)))
    torch.testing.assert_close(STRENGTHS[place] * DIMENSION * z, wrong @ data.delta, rtol=1e-3, atol=1e-3)
    margins = selector.margins(selector.infer(data), data)
    torch.testing.assert_close(margins, data.delta @ (base + z), rtol=1e-4, atol=1e-4)


@pytest.mark.reference
def test_around_zero_it_is_what_scikit_learn_finds():
    algorithm, data = FineTune(config()), make_federation().pairs("client-0", "train")
    selector = algorithm.selector(voted_for(8, torch.zeros(DIMENSION)))
    delta = data.delta.double().numpy()
    model = LogisticRegression(C=1 / (2 * STRENGTHS[-1] * DIMENSION), fit_intercept=False, tol=1e-10, max_iter=1000)
    model.fit(np.concatenate([delta, -delta]), [1] * len(delta) + [0] * len(delta))
    np.testing.assert_allclose(selector.infer(data).mean.numpy(), model.coef_[0], atol=1e-4)


@pytest.mark.equivalence
def test_held_out_pairs_are_predicted_from_the_context_of_their_step_alone():
    algorithm, data = FineTune(config()), make_federation().pairs("client-0", "train")
    draws = draw(0, 0, "client-0", 11, algorithm.config.local)
    base = torch.randn(DIMENSION, generator=torch.Generator().manual_seed(0)) / DIMENSION
    found = held_out_likelihood(HEADS["linear"], {"base": base}, data, draws)
    steps = draws.target.shape[0]
    for place in range(len(STRENGTHS)):
        selector = algorithm.selector(voted_for(place, base))
        by_hand = torch.zeros(())
        for step in range(steps):
            context, target = (data.rows(rows.numpy()) for rows in (draws.context[step], draws.target[step]))
            margins = selector.margins(selector.infer(context), target)
            by_hand += torch.nn.functional.logsigmoid(margins).mean() / steps
        torch.testing.assert_close(found[place], by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.unit
def test_reports_are_asked_for_in_the_last_rounds_and_add_up():
    algorithm = FineTune(config(server={"rounds": 20}))
    state = algorithm.init(make_federation().setting, 0)
    asked = [
        float(algorithm.broadcast(replace(state, round=round_), ["a"]).shared["tuning"]) for round_ in (0, 17, 18, 19)
    ]
    assert asked == [0.0, 0.0, 1.0, 1.0]
    assert strength(state) == max(STRENGTHS)
    for best in (3, 5, 5, 6, 0):
        likelihood = torch.full((len(STRENGTHS),), -0.7)
        likelihood[best] = -0.6
        sums = {
            "weight": torch.tensor(10.0),
            "delta.head.base": torch.zeros(DIMENSION),
            "loss.reconstruction": torch.tensor(7.0),
            "votes": 10 * vote(likelihood, torch.tensor(10)),
            "voted": torch.tensor(10.0),
        }
        state, losses = algorithm.server_update(state, CohortUpdate(sums))
        assert losses == pytest.approx({"reconstruction": 0.7})
    assert strength(state) == STRENGTHS[5], "the median of 0, 3, 5, 5, 6"
    assert strength(from_tensors(Tuned, to_tensors(state))) == STRENGTHS[5]
    assert algorithm.server_update(state, CohortUpdate({}))[0].round == 6


@pytest.mark.unit
def test_a_fifth_of_the_clients_moves_the_strength_within_what_others_want_and_one_pair_is_no_vote():
    likelihood = -(torch.arange(9.0) - torch.tensor([3, 3, 4, 4, 4, 5, 5, 5]).unsqueeze(-1)).square()
    honest, one = vote(likelihood, torch.full((8,), 10)), torch.ones(1, 9)
    assert vote(likelihood[0], torch.tensor(1)).tolist() == [0.5] * 9
    state = Tuned(params={}, votes=honest.sum(0), voted=torch.tensor(8.0))
    assert strength(state) == STRENGTHS[4]
    for lie in (one, 0 * one, one * torch.arange(9.0).remainder(2)):
        lied = replace(state, votes=state.votes + 2 * lie[0], voted=torch.tensor(10.0))
        assert STRENGTHS[3] >= strength(lied) >= STRENGTHS[5]
    assert strength(replace(state, votes=torch.zeros(9))) == STRENGTHS[-1]


@pytest.mark.unit
def test_a_strength_suits_what_users_have_in_common():
    """Users who share one taste are best pulled to it; users of opposite tastes are not."""
    generator = torch.Generator().manual_seed(0)
    delta = torch.randn(60, DIMENSION, generator=generator)
    taste = torch.randn(DIMENSION, generator=generator) / 2
    chosen = torch.bernoulli(torch.sigmoid(delta @ taste), generator=generator) * 2 - 1
    delta = delta * chosen.unsqueeze(-1)
    data = Pairs(delta, torch.zeros_like(delta), torch.ones(60), torch.ones(60))
    draws = draw(0, 0, "a", 60, config().local)
    same, opposite = (held_out_likelihood(HEADS["linear"], {"base": sign * taste}, data, draws) for sign in (1, -1))
    assert int(same.argmax()) < int(opposite.argmax())
