"""FedVPA-GP's terms and steps, one by one, at values for which they have a closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import DIMENSION, make_federation
from fedvpa.algorithms.base import CohortUpdate, FeatureSetting
from fedvpa.algorithms.fedvpa_gp import FedVPAGP
from fedvpa.algorithms.server.mixture_state import temperature
from fedvpa.core.tree import below
from fedvpa.engines.runner import alone
from fedvpa.objectives.gaussian import standard_normal_kl
from fedvpa.selector.encoder import encode
from tests_shared import config

SEED, NAME = 0, "client-0"
LATENT = 5


class OneStep:
    """The parts of one client's first local step, and what they are made of."""

    def __init__(self, *, data=None, changes=None, prior="mixture", **variational) -> None:
        clients = make_federation()
        self.algorithm = FedVPAGP(config(variational={"prior": prior, "warmup": 0.0, **variational}))
        self.state = replace(self.algorithm.init(FeatureSetting(DIMENSION), SEED), **(changes or {}))
        self.data = clients.held(NAME) if data is None else data
        sent = self.algorithm.broadcast(self.state, [NAME])
        self.received = sent.client(0)
        self.private = self.algorithm.load_private({}, self.received)
        self.draws = self.algorithm.draw(SEED, sent, NAME, len(self.data.weight))
        weights = self.state.params | {"logits": self.private["logits"]}
        self.parts = self.algorithm._losses(weights, self.received, self.data, self.private, self.draws, 0)

    @property
    def posterior(self):
        """Mean and log-variance of q from the step's context."""
        context = self.data.take(self.draws.context[0], self.draws.context_present[0])
        shape = self.algorithm.config.selector.encoder
        return encode(below("encoder", self.state.params), context.delta, context.weight, shape)

    @property
    def z(self):
        mean, log_var = self.posterior
        return mean + (0.5 * log_var).exp() * self.draws.noise[0]


@pytest.mark.reference
@pytest.mark.parametrize("prototype", [0, 1])
def test_z_is_pulled_to_the_prototype_that_is_certain_and_to_no_other(prototype: int) -> None:
    """At first prototypes are orthogonal and of the norm asked for, so that the other term of E9 is 0."""
    certain = torch.full((2,), -1e4)
    certain[prototype] = 0.0
    step = OneStep(changes={"log_prior": certain})
    wanted = (step.z - step.state.params["prototypes"][prototype]).square().sum()
    torch.testing.assert_close(step.parts["orthogonal"], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.unit
def test_without_y_a_client_is_pulled_nowhere_and_with_it_to_its_prototype() -> None:
    nobody = OneStep(prior="posteriors")
    assert nobody.parts["orthogonal"].item() == pytest.approx(0.0, abs=1e-5)
    assert nobody.z.square().sum() > 1e-3
    prototypes = nobody.state.params["prototypes"]
    own = {"mean": 0.9 * prototypes[1], "log_var": torch.zeros(LATENT)}
    known = OneStep(prior="posteriors", changes={"posteriors": {NAME: own}})
    wanted = (known.z - prototypes[1]).square().sum()
    torch.testing.assert_close(known.parts["orthogonal"], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.unit
def test_a_pair_of_the_context_that_weighs_nothing_says_nothing() -> None:
    plain = OneStep()
    rows = plain.draws.context[0][:3]
    weight, chosen = plain.data.weight.clone(), plain.data.chosen.clone()
    weight[rows] = 0.0
    without = replace(plain.data, weight=weight)
    chosen[rows] += 7.0
    other = replace(without, chosen=chosen)
    one, two = OneStep(data=without), OneStep(data=other)
    for name in ("kl", "orthogonal"):
        torch.testing.assert_close(one.parts[name], two.parts[name])
        assert not torch.isclose(one.parts[name], plain.parts[name])


@pytest.mark.unit
def test_a_clients_own_posterior_is_no_part_of_its_prior() -> None:
    def posterior(mean: float):
        return {"mean": torch.full((LATENT,), mean), "log_var": torch.zeros(LATENT)}

    def kl(cohort: tuple[str, ...], own: float) -> torch.Tensor:
        known = {name: posterior(own if name == NAME else 0.3) for name in cohort}
        return OneStep(prior="posteriors", changes={"posteriors": known, "cohort": cohort}).parts["kl"]

    alone_in_it = OneStep(prior="posteriors", changes={"posteriors": {NAME: posterior(9.0)}, "cohort": (NAME,)})
    torch.testing.assert_close(alone_in_it.parts["kl"], standard_normal_kl(*alone_in_it.posterior))
    both = ("another", NAME)
    torch.testing.assert_close(kl(both, 0.1), kl(both, -2.0))
    torch.testing.assert_close(kl(both, 0.1), kl(("another",), 0.1))


@pytest.mark.unit
def test_temperatures_fall_by_equal_factors_from_the_first_round_to_the_last() -> None:
    setting = config(variational={"temperature_start": 2.0, "temperature_end": 0.5}, server={"rounds": 5})
    found = [temperature(setting, round_).item() for round_ in range(5)]
    assert found == pytest.approx([2.0, 2.0**0.5, 1.0, 2.0**-0.5, 0.5])


@pytest.mark.unit
@pytest.mark.parametrize("prior", ["mixture", "posteriors"])
def test_what_a_client_reports_is_of_the_weights_that_it_received(prior: str) -> None:
    data = make_federation().held(NAME)
    weight = torch.tensor([1.0, 2.0, 0.5] * 4)[: len(data.weight)]
    step = OneStep(prior=prior, data=replace(data, weight=weight))
    update, _ = step.algorithm.client_update(step.received, step.data, step.private, step.draws)
    shape = step.algorithm.config.selector.encoder
    mean, log_var = encode(below("encoder", step.state.params), step.data.delta, step.data.weight, shape)
    if prior == "posteriors":
        torch.testing.assert_close(update.own, {"mean": mean, "log_var": log_var})
        return
    share = update.sums["responsibility"][:, None]
    torch.testing.assert_close(update.sums["moment.first"], share * mean)
    torch.testing.assert_close(update.sums["moment.second"], share * (mean.square() + log_var.exp()))


@pytest.mark.unit
def test_a_client_without_pairs_adds_nothing_to_any_sum() -> None:
    empty = OneStep(data=make_federation().held("client-3"))
    update, _ = empty.algorithm.client_update(empty.received, empty.data, empty.private, empty.draws)
    assert {name: leaf.abs().max().item() for name, leaf in update.sums.items()} == dict.fromkeys(update.sums, 0.0)


@pytest.mark.unit
def test_a_cohorts_weights_are_the_mean_of_its_clients_weighted_by_their_pairs() -> None:
    clients, algorithm = make_federation((11, 3)), FedVPAGP(config())
    state = algorithm.init(FeatureSetting(DIMENSION), SEED)
    sent = algorithm.broadcast(state, clients.client_ids)
    parts = []
    for row, name in enumerate(clients.client_ids):
        received = sent.client(row)
        draws = algorithm.draw(SEED, sent, name, clients.size(name))
        private = algorithm.load_private({}, received)
        parts.append(alone(name, algorithm.client_update(received, clients.held(name), private, draws)[0]))

    def after(update: CohortUpdate):
        return algorithm.server_update(state, update)[0].params

    together, (first, second) = after(parts[0] + parts[1]), map(after, parts)
    for name, leaf in together.items():
        torch.testing.assert_close(leaf, (11 * first[name] + 3 * second[name]) / 14, rtol=1e-4, atol=1e-5)
    assert not np.allclose(first["head.base"], second["head.base"])
