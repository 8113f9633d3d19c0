from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conftest import DIMENSION, make_federation
from fedvpa.algorithms.base import FeatureSetting
from fedvpa.algorithms.client.local_training import optimizers
from fedvpa.algorithms.registry import make
from fedvpa.algorithms.vpl import VPL, Descent
from fedvpa.core.frozen import from_tensors, to_tensors
from fedvpa.core.tree import below
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.training import TrainState, rounds, start
from fedvpa.selector.encoder import encode
from tests_shared import config

SETTING = {"local": {"steps": 2, "encoder_lr": 0.01}, "server": {"rounds": 3, "average_tail": 0.0}}


def trained(setting, engine: str = "loop", stop: int | None = None, state: TrainState | None = None) -> TrainState:
    algorithm, federation = VPL(setting), make_federation()
    state = state or start(algorithm, federation, 3)
    for reached, _ in rounds(algorithm, federation, EngineConfig(name=engine, workers=1), 3, state):
        state = reached
        if state.server.round == stop:
            break
    return state


@pytest.mark.reference
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_it_is_one_optimiser_on_the_pairs_of_all_users(optimizer: str):
    setting = config(**SETTING | {"local": {**SETTING["local"], "head_optimizer": optimizer}})
    algorithm, federation = VPL(setting), make_federation()
    state, shape = algorithm.init(federation.setting, 3), setting.selector.encoder
    weights = {name: leaf.clone().requires_grad_() for name, leaf in state.params.items()}
    engines, losses = optimizers(weights, setting.local), []
    for step in range(6):
        sent, total, fit = algorithm.broadcast(replace(state, round=step), []), torch.zeros(()), torch.zeros(())
        for name in federation.client_ids:
            held, size = federation.held(name), federation.size(name)
            if not size:
                continue
            draws = algorithm.draw(3, sent, name, size)
            context, target = (held.rows(rows[0].numpy()) for rows in (draws.context, draws.target))
            mean, log_var = encode(below("encoder", weights), context.delta, context.weight, shape)
            z = mean + torch.exp(log_var / 2) * draws.noise[0]
            margins = target.delta @ (weights["head.base"] + z @ weights["head.personal"])
            kl = (mean**2 + log_var.exp() - log_var - 1).sum() / 2
            mine = torch.nn.functional.softplus(-margins).mean()
            total, fit = total + size * (mine + 0.1 * kl), fit + size * mine.detach()
        pool = sum(map(federation.size, federation.client_ids))
        losses.append(float(fit / pool))
        for engine in engines:
            engine.zero_grad()
        (total / pool).backward()
        for engine in engines:
            engine.step()
    for engine in ("loop", "vectorised"):
        found = trained(setting, engine).server
        assert found.round == 6 == algorithm.rounds
        for name, leaf in weights.items():
            torch.testing.assert_close(found.final[name], leaf.detach(), rtol=1e-3, atol=1e-4)
    lines = [
        line for _, line in rounds(algorithm, federation, EngineConfig(workers=1), 3, start(algorithm, federation, 3))
    ]
    assert [line["losses"]["reconstruction"] for line in lines] == pytest.approx(losses, rel=1e-3)
    assert all(sorted(line["cohort"]) == sorted(federation.client_ids) for line in lines)


@pytest.mark.equivalence
@pytest.mark.parametrize("step", [0, 1])
def test_a_users_gradient_is_that_of_a_local_step_of_fedvpl(step: int):
    setting = config(local={"steps": 2, "head_weight_decay": 0.0, "head_lr": 0.5})
    ours, other = VPL(setting), make("fedvpl", config(local={"steps": 1, "head_weight_decay": 0.0, "head_lr": 0.5}))
    state, theirs = ours.init(FeatureSetting(DIMENSION), 0), other.init(FeatureSetting(DIMENSION), 0)
    assert all(torch.equal(leaf, theirs.params[name]) for name, leaf in state.params.items())
    theirs = replace(theirs, round=setting.server.rounds // 2)
    held, rounds_before = make_federation().held("client-0"), theirs.round
    sent, told = other.broadcast(theirs, ["x"]), ours.broadcast(replace(state, round=2 * rounds_before + step), ["x"])
    received = sent.client(0) | {"personal": torch.ones(())}
    private = other.load_private({}, received)
    drawn = make("fedvpl", setting).draw(0, sent, "x", 11).only(step)
    moved, _ = other.client_update(received, held, private, drawn)
    slope, kept = ours.client_update(told.client(0), held, {}, ours.draw(0, told, "x", 11))
    assert kept == {}
    for name in ("delta.head.base", "delta.head.personal"):
        torch.testing.assert_close(moved.sums[name], 0.5 * slope.sums[name], rtol=1e-3, atol=1e-5)
    for name in ("loss.reconstruction", "loss.kl"):
        torch.testing.assert_close(moved.sums[name], slope.sums[name])


@pytest.mark.equivalence
def test_what_the_optimisers_remember_is_kept_with_the_weights():
    setting = config(**SETTING)
    whole, half = trained(setting).server, trained(setting, stop=3)
    again = from_tensors(Descent, to_tensors(half.server))
    assert any(name.startswith("exp_avg.encoder.") for name in again.moments)
    resumed = trained(setting, state=replace(half, server=again)).server
    for name, leaf in whole.final.items():
        assert torch.equal(resumed.final[name], leaf)


@pytest.mark.unit
def test_limits_on_clients_do_not_act_on_a_pool_and_nobody_is_at_the_prior():
    algorithm = VPL(config(server={"rule": "median", "clip_norm": 0.1, "max_weight": 2}))
    server = algorithm.config.server
    assert (server.rule, server.clip_norm, server.max_weight) == ("mean", None, None)
    selector = algorithm.selector(algorithm.init(FeatureSetting(DIMENSION), 0))
    assert selector.prior_mean().mean.tolist() == [0.0] * 5
    assert selector.prior_mean().log_vars.tolist() == [[0.0] * 5]
