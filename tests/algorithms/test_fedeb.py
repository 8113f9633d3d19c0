"""Federated empirical Bayes: its limits, the cavity, what travels, and how many components it finds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import DIMENSION, make_federation
from fedvpa.algorithms.base import CohortUpdate
from fedvpa.algorithms.client.own_part import own_part
from fedvpa.algorithms.fedeb import CANDIDATES, FedEB
from fedvpa.algorithms.registry import make
from fedvpa.algorithms.server.validation import problem
from fedvpa.core.tree import below
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.federation import Federation
from fedvpa.engines.training import TrainState, rounds, start
from fedvpa.runs.fit import members_of
from fedvpa.selector.config import InferenceConfig
from fedvpa.selector.selector import Selector
from tests_shared import config

FEDERATION = make_federation((12, 7, 9, 1))
PRECISION = 12.0


def method(rounds: int = 6, **settings: object) -> FedEB:
    server = {"rounds": rounds, "clip_norm": None, "max_weight": None}
    algorithm = make("fedeb", config(server=server, eb={"precision": PRECISION, **settings}))
    assert isinstance(algorithm, FedEB)
    return algorithm


def trained(algorithm: FedEB, federation: Federation = FEDERATION, cohort: int = 99) -> TrainState:
    engine = EngineConfig(name="vectorised", cohort=cohort, workers=1)
    [*_, (state, _)] = rounds(algorithm, federation, engine, 5, start(algorithm, federation, 5))
    return state


def heads(selector: Selector) -> torch.Tensor:
    """Components in the features' coordinates."""
    return selector.params["head.base"] + selector.prototypes @ selector.params["head.personal"]


def sums(names: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Σ ½ w Δh and the diagonal of Σ w Δh Δhᵀ/4 over some clients."""
    pairs = [FEDERATION.held(name) for name in names]
    score = sum(one.weight @ one.delta / 2 for one in pairs)
    return torch.as_tensor(score), torch.as_tensor(sum(one.weight @ one.delta.square() / 4 for one in pairs))


@pytest.mark.unit
def test_one_component_without_width_is_one_ridge_for_all():
    """Everybody in each round: the running means are those of all clients, and μ is ridge regression near zero."""
    algorithm = method(components=1, width=0.0)
    selector = algorithm.selector(trained(algorithm).server)
    score, curvature = sums(FEDERATION.client_ids)
    torch.testing.assert_close(heads(selector)[0], score / (curvature + PRECISION), rtol=1e-4, atol=1e-6)
    context = FEDERATION.cohort(FEDERATION.client_ids, "train")
    inferred = selector.infer(context).mean
    torch.testing.assert_close(inferred, torch.zeros_like(inferred), atol=1e-2, rtol=0)


@pytest.mark.unit
def test_one_wide_component_at_zero_is_local():
    """σ² given and means without weight: each user's ridge solution, whatever the others hold."""
    width = 0.2
    algorithm = method(components=1, width=width, precision=1e12)
    state, names = trained(algorithm), list(FEDERATION.client_ids)
    context = FEDERATION.cohort(names, "train")
    ours = algorithm.selector(state.server)
    ridge = replace(
        make("local", config()).selector(make("local", config()).init(FEDERATION.setting, 0)),
        inference=InferenceConfig(method="ridge", precision=1 / width),
    )
    for own, theirs in zip(
        ours.params["head.base"] + ours.infer(context).mean @ ours.params["head.personal"],
        ridge.params["head.base"] + ridge.infer(context).mean,
        strict=True,
    ):
        torch.testing.assert_close(own, theirs, atol=1e-4, rtol=1e-3)


@pytest.mark.unit
def test_without_width_memberships_are_bayes_rule_at_the_components():
    algorithm = method(components=2, width=0.0, rounds=20)
    federation = groups(2, clients=6, pairs=20)
    selector = algorithm.selector(trained(algorithm, federation).server)
    assert (heads(selector)[0] - heads(selector)[1]).norm() > 0.1
    context = federation.held("client-0")
    margins = context.delta @ heads(selector).mT
    expected = torch.softmax(selector.log_prior + torch.nn.functional.logsigmoid(margins).sum(0), -1)
    torch.testing.assert_close(selector.infer(context).weights, expected, atol=1e-3, rtol=0)


@pytest.mark.unit
@pytest.mark.parametrize("cohort", [2, 99])
def test_the_cavity_is_what_the_others_sent(cohort: int):
    """The running means without a client's own part are those to which it sent zeros."""
    algorithm, name = method(components=2, width=0.01, rounds=9), FEDERATION.client_ids[0]
    state = trained(algorithm, cohort=cohort)
    others = start(algorithm, FEDERATION, 5)
    engine = EngineConfig(name="loop", cohort=cohort)
    known = algorithm.load_private({}, algorithm.broadcast(others.server, [name]).client(0))
    followed = {key: torch.zeros_like(known[key]) for key in ("scores", "curvature")}
    current = start(algorithm, FEDERATION, 5)
    for reached, line in rounds(algorithm, FEDERATION, engine, 5, current):
        step = algorithm._step(current.server.round)
        received = algorithm.broadcast(current.server, line["cohort"])
        total, count = {key: torch.zeros_like(leaf) for key, leaf in followed.items()}, 0
        for place, other in enumerate(line["cohort"]):
            held = FEDERATION.held(other)
            mine = received.client(place)
            draws = algorithm.draw(5, received, other, len(held.weight))
            update, _ = algorithm.client_update(
                mine, held, algorithm.load_private(current.private.get(other, {}), mine), draws
            )
            count += int(update.sums["weight"])
            for key, leaf in below("delta", update.sums).items():
                sent = leaf + update.sums["weight"] * current.server.params[key]
                total[key] += torch.zeros_like(sent) if other == name else sent
        followed = {key: torch.lerp(followed[key], leaf / max(count, 1), step) for key, leaf in total.items()}
        current = reached
    part = own_part(state.private[name], state.server.clock)
    for key, leaf in followed.items():
        torch.testing.assert_close(state.server.params[key] - part[key], leaf, atol=2e-4, rtol=1e-3)


@pytest.mark.unit
def test_members_are_inferred_without_their_own_part():
    algorithm = method(components=1, width=0.05)
    state, name = trained(algorithm), FEDERATION.client_ids[1]
    infer = members_of(algorithm, state)
    assert infer is not None
    context = FEDERATION.cohort([name], "train")
    without = [other for other in FEDERATION.client_ids if other != name]
    own = algorithm.client_update  # the statistics of the others, at σ²
    total = []
    for some in (without, [*without, name]):
        private = algorithm.load_private({}, algorithm.broadcast(state.server, [name]).client(0))
        scores = curvature = torch.zeros(1, DIMENSION)
        for other in some:
            held = FEDERATION.held(other)
            received = algorithm.broadcast(state.server, [other])
            draws = algorithm.draw(5, received, other, len(held.weight))
            update, _ = own(received.client(0), held, private, draws)
            scores = scores + update.sums["delta.scores"] + state.server.params["scores"]
            curvature = curvature + update.sums["delta.curvature"] + state.server.params["curvature"]
        total.append(scores / (curvature + PRECISION))
    selector = algorithm.selector(state.server)
    torch.testing.assert_close(heads(selector), total[1], rtol=1e-3, atol=1e-5)
    moved = infer([name], context).mean[0] - selector.infer(context).mean[0]
    assert moved.norm() > 1e-4
    shift = (total[0] - total[1])[0] / selector.params["head.personal"][0, 0]
    assert torch.nn.functional.cosine_similarity(moved, shift, dim=0) > 0.5


@pytest.mark.unit
def test_a_message_holds_nothing_of_one_client():
    """Statistics are sums within their bounds; a broadcast is the same for everybody and names nobody."""
    algorithm = method()
    state = trained(algorithm)
    names = list(FEDERATION.client_ids)[:2]
    sent = algorithm.broadcast(state.server, names)
    assert not sent.own
    assert sent.shared.keys() == algorithm.broadcast(state.server, ["another"]).shared.keys()
    for place, name in enumerate(names):
        held, received = FEDERATION.held(name), sent.client(place)
        draws = algorithm.draw(5, sent, name, len(held.weight))
        private = algorithm.load_private(state.private[name], received)
        update, _ = algorithm.client_update(received, held, private, draws)
        assert not update.own
        assert problem(update.sums, {}, algorithm.expected(state.server), [name], 1.0) is None


@pytest.mark.unit
def test_random_memberships_follow_the_component_and_not_its_place():
    """Two components draw the same whether they run alone or beside other candidates."""
    alone, beside = method(components=2), method()
    drawn = []
    for algorithm in (alone, beside):
        state = algorithm.init(FEDERATION.setting, 5)
        drawn.append(algorithm.draw(5, algorithm.broadcast(state, ["ana"]), "ana", 6).memberships)
    assert len(drawn[1]) == sum(CANDIDATES[:2])
    torch.testing.assert_close(drawn[0], drawn[1][1:3])
    torch.testing.assert_close(drawn[1][1:3].sum(), torch.tensor(1.0))


@pytest.mark.unit
def test_there_are_at_least_two_clients_for_a_component():
    assert method().sizes(0) == CANDIDATES
    assert method().sizes(3) == (1,)
    assert method().sizes(9) == (1, 2, 3, 4)
    assert method(components=5).sizes(3) == (5,)


@pytest.mark.unit
def test_nobody_reports_and_nothing_moves_but_the_round():
    algorithm = method()
    state = trained(algorithm).server
    after, losses = algorithm.server_update(state, CohortUpdate({}))
    assert after.round == state.round + 1
    assert not losses
    assert torch.equal(after.params["scores"], state.params["scores"])


def groups(count: int, clients: int, pairs: int, size: int = 8, width: float = 0.0, seed: int = 0) -> Federation:
    """Clients of so many groups, whose rewards lie ``width`` around their group's."""
    rng = np.random.default_rng(seed)
    centres = 1.2 * np.linalg.qr(rng.normal(size=(size, size)))[0][:count]
    truth = [centres[number % count] + width * rng.normal(size=size) for number in range(clients)]
    federation = make_federation((pairs,) * clients)
    store = federation.store
    chosen = rng.normal(size=(len(store.chosen), size)).astype(np.float32)
    rejected = rng.normal(size=chosen.shape).astype(np.float32)
    for number, name in enumerate(federation.client_ids):
        for row in federation.partition.by_id[name].train:
            margin = 2 * truth[number] @ (chosen[row] - rejected[row])
            if rng.random() > 1 / (1 + np.exp(-margin)):
                chosen[row], rejected[row] = rejected[row].copy(), chosen[row].copy()
    scaling = replace(
        federation.scaling,
        standardiser=replace(federation.scaling.standardiser, mean=np.zeros(size), scale=np.ones(size)),
        rms=False,
    )
    return replace(federation, store=replace(store, chosen=chosen, rejected=rejected), scaling=scaling)


@pytest.mark.reference
@pytest.mark.parametrize("count", [1, 2, 3])
def test_it_finds_how_many_groups_there_are(count: int):
    federation = groups(count, clients=24, pairs=30)
    algorithm = make("fedeb", config(server={"rounds": 60}))
    assert isinstance(algorithm, FedEB)
    state = trained(algorithm, federation, cohort=8).server
    assert algorithm.selector(state).config.prototypes == count
    assert algorithm._variance(state) <= 1e-2


@pytest.mark.reference
def test_it_finds_that_users_are_individuals():
    federation = groups(1, clients=24, pairs=30, width=0.8)
    algorithm = make("fedeb", config(server={"rounds": 60}))
    assert isinstance(algorithm, FedEB)
    state = trained(algorithm, federation, cohort=8).server
    assert algorithm.selector(state).config.prototypes == 1
    assert algorithm._variance(state) >= 3e-2
