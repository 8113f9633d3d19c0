"""FedVPA-GP against its second writing, round by round: clients, server, both priors; no two dimensions are equal."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
import torch

from conftest import make_federation
from fedvpa.algorithms.base import CohortUpdate
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.registry import make
from fedvpa.engines.federation import federate
from fedvpa.engines.runner import alone
from plain_fedvpa import PlainServer, doubled

SEED = 3
SIZES = (19, 3, 1, 0, 23, 29, 2, 31)
"""Pairs of the clients, of which seven take part in a round; features have 17 dimensions."""

PRIMES = {
    "selector": {
        "latent": 5, "prototypes": 3, "base_dropout": 0.4, "head_scale": 1.0, "prototype_scale": 2.0,
        "encoder": {"pair_widths": [13, 11], "set_widths": [37], "max_log_var": 0.5},
    },
    "local": {
        "steps": 2, "folds": 3, "target_size": 41, "context_size": 43, "head_lr": 0.3, "head_weight_decay": 0.1,
        "encoder_lr": 0.02, "encoder_weight_decay": 0.3,
    },
    "variational": {
        "refinement": "off", "warmup": 0.2, "normal_weight": 0.3, "kl_weight": 0.7, "orthogonal_weight": 0.6,
        "gram_weight": 0.2, "temperature_start": 2.0, "temperature_end": 0.3, "gain": 4.0,
    },
    "server": {"rounds": 5, "average_tail": 0.4, "prior_rate": 0.3, "clip_norm": None, "max_weight": None},
}  # fmt: skip


def federation():
    """Clients whose pairs have importance weights, so that nothing that forgets them agrees."""
    plain = make_federation(SIZES)
    weights = np.random.default_rng(1).choice([0.5, 1.0, 3.0], len(plain.weights)).astype(np.float32)
    return doubled(federate(plain.store, plain.partition, rms=True, weights=weights))


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def setting(**variational) -> MethodConfig:
    return MethodConfig.parse(PRIMES | {"variational": PRIMES["variational"] | variational})


def close(ours, plain) -> None:
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)


def play(algorithm, clients, state, private, cohort):
    """One round of the package, client by client, in float64, which no engine sends."""
    sent, parts = algorithm.broadcast(state, cohort), []
    for position, name in enumerate(cohort):
        received, held = sent.client(position), clients.held(name)
        mine = algorithm.load_private(private.get(name, {}), received)
        draws = algorithm.draw(SEED, sent, name, clients.size(name))
        update, after = algorithm.client_update(received, held, mine, draws)
        private[name] = algorithm.store_private(private.get(name, {}), after, received)
        parts.append(alone(name, update))
    return algorithm.server_update(state, reduce(CohortUpdate.__add__, parts))


def compared(config: MethodConfig, count: int):
    """Both after each round, beginning with the same weights; the cohorts change."""
    algorithm, clients, private = make("fedvpa_gp", config), federation(), {}
    state = algorithm.init(clients.setting, SEED)
    plain = PlainServer(config, dict(state.params), SEED)
    for number in range(count):
        cohort = [name for place, name in enumerate(clients.client_ids) if place != number]
        state, losses = play(algorithm, clients, state, private, cohort)
        yield algorithm, state, private, losses, plain, plain.play({name: clients.held(name) for name in cohort})


@pytest.mark.reference
@pytest.mark.parametrize(("prior", "count"), [("mixture", 5), ("posteriors", 3)])
def test_every_round_is_that_of_the_second_writing(prior: str, count: int) -> None:
    learned = 0
    for _, server, private, ours, plain, losses in compared(setting(prior=prior), count):
        assert server.round == plain.round
        for name, leaf in plain.params.items():
            close(server.params[name], leaf)
        for name, leaf in plain.final.items():
            close(server.final[name], leaf)
        close(server.log_prior, plain.log_prior)
        assert server.spread.item() == pytest.approx(plain.spread)
        assert server.moments.keys() == plain.moments.keys()
        for name, leaf in plain.moments.items():
            close(server.moments[name], leaf)
        assert list(server.posteriors) == list(plain.posteriors)
        for name, (mean, log_var) in plain.posteriors.items():
            close(server.posteriors[name]["mean"], mean)
            close(server.posteriors[name]["log_var"], log_var)
        for name, mine in plain.logits.items():
            kept = private[name]
            assert dict(zip(kept["keys"].tolist(), kept["logits"].tolist(), strict=True)) == pytest.approx(
                mine, abs=1e-6
            )
            learned += len(mine)
        assert ours == pytest.approx(losses, rel=1e-5)
    assert learned


@pytest.mark.reference
def test_the_selector_has_the_components_that_the_second_writing_learned() -> None:
    *_, (algorithm, state, _, _, plain, _) = compared(setting(), 3)
    selector = algorithm.selector(state)
    means, log_vars = plain.components()
    close(selector.prior.means, means)
    close(selector.prior.log_vars, log_vars)
    close(selector.prior.log_weights, plain.log_prior)
    assert selector.gain.item() == pytest.approx(plain.gain(), rel=1e-4)
