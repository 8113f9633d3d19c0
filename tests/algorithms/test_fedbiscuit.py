from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from conftest import DIMENSION, make_federation
from fedvpa.algorithms.base import Broadcast, CohortUpdate, FeatureSetting
from fedvpa.algorithms.client.draws import pad_draws
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.fedbiscuit import BiscuitState, FedBiscuit
from fedvpa.algorithms.server.grouping import Timetable, balanced_greedy
from fedvpa.algorithms.server.limits import Guard
from fedvpa.algorithms.server.robust import Part, aggregate
from fedvpa.core.errors import ConfigError
from fedvpa.core.tree import prefixed
from fedvpa.engines.checkpoint import load_checkpoint, save_checkpoint
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.training import TrainState, rounds, start
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.selector import Selector
from tests_shared import config, parts_of

SEED = 5
NAMES = ["client-0", "client-1", "client-3", "client-4", "client-5"]
"""Eleven, seven, no, five and thirteen pairs."""


def setting(rounds_: int = 8, **biscuit: Any) -> MethodConfig:
    asked = {"selectors": 2, "warmup_rounds": 1, "regroup_every": 3, **biscuit}
    return config(biscuit=asked, server={"rounds": rounds_})


def trained(wanted: MethodConfig, engine: str = "loop", state: TrainState | None = None) -> list[TrainState]:
    algorithm, federation = FedBiscuit(wanted), make_federation()
    begin = state or start(algorithm, federation, SEED)
    faults = EngineConfig(name=engine, cohort=4, dropout=0.2, workers=1)
    found = [begin]
    for reached, line in rounds(algorithm, federation, faults, SEED, begin):
        assert line["rejected"] == []
        found.append(reached)
    return found


def chosen(state: TrainState) -> dict[str, int]:
    return {name: int(own["label"].argmax()) for name, own in sorted(state.server.reports.items())}


def one_round(algorithm: FedBiscuit, state, names=NAMES):
    """The broadcast and the stacked update of ``names``."""
    federation, broadcast = make_federation(), algorithm.broadcast(state, names)
    draws = [algorithm.draw(SEED, broadcast, name, federation.size(name)) for name in names]
    data = federation.cohort(names, "train")
    update, private = algorithm.client_update(broadcast.cohort(len(names)), data, {}, pad_draws(draws))
    assert private == {}
    return broadcast, update


@pytest.mark.unit
def test_each_selector_warms_up_in_turn_and_then_only_the_groups_train():
    wanted = setting(rounds_=8, warmup_rounds=2)
    states = trained(wanted)
    personal = [state.server.params["head.personal"] for state in states]
    moved = [(after != before).any(-1).tolist() for before, after in pairwise(personal)]
    assert moved[:4] == [[True, False], [True, False], [False, True], [False, True]]
    assert [True, True] in moved[4:]
    for name in ("head.base", "prototypes"):
        assert torch.equal(states[0].server.params[name], states[-1].server.params[name])
    assert not states[0].server.params["head.base"].any()


@pytest.mark.unit
def test_groups_last_from_one_grouping_to_the_next():
    states = trained(setting(rounds_=12, selectors=3, regroup_every=4))
    groups = [chosen(state) for state in states]
    for after in (3, 7):
        sizes = torch.bincount(torch.tensor(list(groups[after].values())), minlength=3)
        assert sizes.max() - sizes.min() <= 1
        by_id = sorted(states[after].server.reports)
        losses = torch.stack([states[after].server.reports[name]["losses"] for name in by_id])
        assert list(groups[after].values()) == balanced_greedy(losses).tolist()
        for later in range(after + 1, after + 4):
            assert {name: groups[later][name] for name in groups[after]} == groups[after]
    assert groups[7] != {name: groups[6][name] for name in groups[7]}, "reports moved, so did the groups"
    old, new = (states[done].server.reports for done in (3, 6))
    assert any(not torch.equal(old[name]["losses"], new[name]["losses"]) for name in old)


@pytest.mark.unit
def test_aggregation_is_the_papers_with_the_reporting_clients_that_hold_pairs():
    algorithm = FedBiscuit(setting(rounds_=9, selectors=3))
    state = algorithm.init(FeatureSetting(DIMENSION), SEED)
    labels = dict(zip(NAMES, [2, 0, 0, 2, 2], strict=True))
    known = {name: {"losses": torch.zeros(3), "label": torch.eye(3)[label]} for name, label in labels.items()}
    state = replace(state, round=3, reports=known)
    _, update = one_round(algorithm, state)
    new, losses = algorithm.server_update(state, sum(parts_of(NAMES, update), CohortUpdate({})))
    before = state.params["head.personal"]
    after = before + update.sums["delta.head.personal"]
    n = 4  # client-3 holds no pair
    for u in range(3):
        members = [row for row, name in enumerate(NAMES) if labels[name] == u and name != "client-3"]
        want = (1 - len(members) / n) * before[u] + sum((after[row, u] for row in members), torch.zeros(DIMENSION)) / n
        torch.testing.assert_close(new.params["head.personal"][u], want)
    assert torch.equal(new.params["head.personal"][1], before[1])
    assert not torch.equal(new.params["head.personal"][0], before[0])
    assert losses["reconstruction"] == pytest.approx(float(update.sums["loss.reconstruction"].sum()) / n)


@pytest.mark.unit
def test_a_client_takes_the_gradient_steps_of_its_selector_alone():
    wanted = config(
        biscuit={"selectors": 3, "warmup_rounds": 1},
        local={"steps": 2, "folds": 2, "head_lr": 0.5},
        server={"rounds": 4},
    )
    algorithm = FedBiscuit(wanted)
    state = algorithm.init(FeatureSetting(DIMENSION), SEED)
    _, update = one_round(algorithm, replace(state, round=1), ["client-0"])
    phi = state.params["head.personal"][1]
    for rows in algorithm.draw(SEED, Broadcast({}, {}, 1), "client-0", 11).target:
        delta = make_federation().pairs("client-0", "train").delta[rows]
        fit = (torch.sigmoid(-delta @ phi).unsqueeze(-1) * delta).mean(0)
        phi = phi + 0.5 * (fit - wanted.local.head_weight_decay * phi)
    want = torch.zeros(1, 3, DIMENSION)
    want[0, 1] = phi - state.params["head.personal"][1]
    torch.testing.assert_close(update.sums["delta.head.personal"], want)


@pytest.mark.unit
def test_clients_report_their_losses_before_training_and_what_they_trained():
    algorithm = FedBiscuit(setting())
    state = algorithm.init(FeatureSetting(DIMENSION), SEED)
    broadcast, update = one_round(algorithm, state)
    losses, label = update.own["losses"], update.own["label"]
    assert torch.equal(label, broadcast.own["label"])
    delta = make_federation().pairs("client-4", "train").delta
    want = torch.log1p(torch.exp(-delta @ state.params["head.personal"].T)).mean(0)
    torch.testing.assert_close(losses[3], want)
    assert losses[2].tolist() == pytest.approx([math.log(2)] * 2), "without pairs, a coin's"
    assert update.sums["weight"].tolist() == [1.0, 1.0, 0.0, 1.0, 1.0]
    assert not update.sums["delta.head.personal"][2].any()


@pytest.mark.unit
def test_uploads_pass_the_screening_and_can_be_clipped():
    algorithm = FedBiscuit(setting())
    state = algorithm.init(FeatureSetting(DIMENSION), SEED)
    _, update = one_round(algorithm, state)
    parts = [Part((name,), mine) for name, mine in zip(NAMES, parts_of(NAMES, update), strict=True)]
    server = config(server={"clip_norm": 1e-2}).server
    found = aggregate(parts, algorithm.expected(state), Guard(), server)
    assert found.rejected == {}
    new, _ = algorithm.server_update(state, found.update)
    step = (new.params["head.personal"] - state.params["head.personal"]).norm()
    assert 0 < step <= 1e-2 * (1 + 1e-4)


@pytest.mark.equivalence
@pytest.mark.parametrize("engine", ["loop", "vectorised"])
@pytest.mark.parametrize("done", [2, 6])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(engine: str, done: int, tmp_path):
    wanted = setting(rounds_=10, warmup_rounds=2)
    whole = trained(wanted, engine)
    save_checkpoint(tmp_path / "last.safetensors", whole[done], {})
    resumed = trained(wanted, engine, load_checkpoint(tmp_path / "last.safetensors", BiscuitState)[0])
    assert len(resumed) == len(whole) - done
    one, two = whole[-1].server, resumed[-1].server
    assert all(torch.equal(leaf, two.final[name]) for name, leaf in one.final.items())
    assert list(one.reports) == list(two.reports)
    for name, report in one.reports.items():
        assert all(torch.equal(leaf, two.reports[name][key]) for key, leaf in report.items())


@pytest.mark.unit
@pytest.mark.parametrize("changed", [{"selectors": 3}, {"warmup_rounds": 2}, {"regroup_every": 1}])
def test_every_option_changes_the_result(changed: dict[str, int]):
    one, two = (trained(setting(10, **options))[-1].server.final["head.personal"] for options in ({}, changed))
    assert one.shape != two.shape or not torch.allclose(one, two, atol=1e-6)


@pytest.mark.unit
def test_usual_periods_scale_with_the_run_and_the_mean_leaves_the_warm_up_out():
    usual = FedBiscuit(MethodConfig())
    assert usual.timetable == Timetable(selectors=3, rounds=200, warmup_rounds=50, regroup_every=50)
    assert usual.timetable.warmup == 150
    averaged = config(biscuit={"selectors": 2, "warmup_rounds": 2}, server={"rounds": 7, "average_tail": 1.0})
    states = trained(averaged)
    late = torch.stack([state.server.params["head.personal"] for state in states[-3:]])
    assert states[-1].server.averaged == 3
    torch.testing.assert_close(states[-1].server.final["head.personal"], late.mean(0))


@pytest.mark.unit
def test_the_selectors_vote():
    algorithm = FedBiscuit(setting(selectors=3))
    state = algorithm.init(FeatureSetting(2), SEED)
    weights = {"base": torch.zeros(2), "personal": torch.tensor([[1.0, 0.0], [0.5, 0.0], [-9.0, 0.0]])}
    state = replace(state, params={**state.params, **prefixed("head", weights)})
    selector = algorithm.selector(state)
    assert isinstance(selector, Selector)
    pairs = Pairs(torch.tensor([[2.0, 7.0]]), torch.zeros(1, 2), torch.ones(1), torch.ones(1))
    for context in (pairs, pairs.swapped(), pairs.between(0, 0)):
        posterior = selector.infer(context)
        assert posterior.weights.tolist() == pytest.approx([1 / 3] * 3)
        assert selector.margins(posterior, pairs).tolist() == pytest.approx([(2 + 1 + 18) / 3])
        assert selector.margins(posterior, pairs.swapped()).tolist() == pytest.approx([-(2 + 1 + 18) / 3])
        assert selector.rewards(posterior, pairs.chosen).tolist() == pytest.approx([(2 + 1 - 18) / 3])


@pytest.mark.unit
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"selector": {"head": "mlp"}}, "head=mlp.*bilinear"),
        ({"server": {"rule": "median"}}, "rule=median.*clip_norm"),
        ({"biscuit": {"selectors": 5, "warmup_rounds": 1}}, "5 selectors, 1 rounds each.*above 5"),
    ],
)
def test_what_cannot_work_is_refused(changed: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        FedBiscuit(config(**changed))
