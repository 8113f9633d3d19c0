from __future__ import annotations

import pytest
import torch

from conftest import DIMENSION, make_federation
from fedvpa.algorithms.base import CohortUpdate, FeatureSetting, placed_by_group
from fedvpa.algorithms.fedgd import FedGD
from fedvpa.algorithms.registry import make
from fedvpa.algorithms.server.aggregation import Averaged
from fedvpa.core.errors import ConfigError
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.federation import Federation
from fedvpa.engines.training import rounds, start
from tests_shared import config


def trained(method: str, federation: Federation, engine: str = "loop", cohort: int = 4) -> Averaged:
    algorithm = make(method, config(server={"clip_norm": None, "max_weight": None}))
    state = start(algorithm, federation, 3)
    for reached, _ in rounds(algorithm, federation, EngineConfig(name=engine, cohort=cohort, workers=1), 3, state):
        state = reached
    return state.server


def of_one_group(federation: Federation) -> Federation:
    for client in federation.partition.clients:
        object.__setattr__(client, "group", "a")
    return federation


@pytest.mark.equivalence
@pytest.mark.parametrize("engine", ["loop", "vectorised"])
def test_with_one_group_or_groups_of_one_weight_it_is_global(engine: str):
    for federation, cohort in ((of_one_group(make_federation()), 4), (make_federation((7, 7, 7, 7)), 4)):
        ours, plain = trained("fedgd", federation, engine, cohort), trained("global", federation, engine, cohort)
        for name, leaf in ours.final.items():
            torch.testing.assert_close(leaf, plain.final[name], rtol=1e-4, atol=1e-6)


@pytest.mark.unit
def test_groups_count_alike_and_absent_ones_not_at_all():
    algorithm = FedGD(config(server={"average_tail": 0.0}))
    state = algorithm.init(FeatureSetting(DIMENSION, ("a", "b", "c")), 0)
    change = torch.tensor([6.0, -1.0, 0.0]).unsqueeze(-1).expand(3, DIMENSION)
    sums = {f"delta.{name}": torch.zeros(3, *leaf.shape) for name, leaf in state.params.items() if name != "prototypes"}
    told = {"weight": torch.tensor(10.0), "loss.reconstruction": torch.tensor(5.0)}
    told |= {"group_weight": torch.tensor([9.0, 1.0, 0.0]), "delta.head.base": change}
    after, losses = algorithm.server_update(state, CohortUpdate(sums | told))
    torch.testing.assert_close(after.params["head.base"], torch.full((DIMENSION,), (6 / 9 - 1 / 1) / 2))
    assert losses == {"reconstruction": 0.5}
    silent, _ = algorithm.server_update(after, CohortUpdate({}))
    assert silent.round == 2
    assert torch.equal(silent.params["head.base"], after.params["head.base"])


@pytest.mark.unit
def test_a_client_sends_its_change_under_its_group_alone():
    algorithm, federation = FedGD(config()), make_federation()
    state = algorithm.init(federation.setting, 0)
    sent = algorithm.broadcast(state, ["client-0"])
    held, draws = federation.held("client-0"), algorithm.draw(0, sent, "client-0", 11)
    group = torch.tensor([0.0, 1.0])
    sums = algorithm.client_update(sent.client(0), held, {"group": group}, draws)[0].sums
    plain = make("global", config())
    alone = plain.client_update(sent.client(0), held, {}, draws)[0].sums
    assert sums["group_weight"].tolist() == [0.0, 11.0]
    assert sums["delta.head.base"][0].abs().max() == 0
    torch.testing.assert_close(sums["delta.head.base"][1], alone["delta.head.base"])
    assert {f"delta.{name}": shape for name, shape in algorithm.expected(state).deltas.items()} == {
        name: tuple(leaf.shape) for name, leaf in sums.items() if name.startswith("delta.")
    }


@pytest.mark.unit
def test_it_has_one_model_for_everybody_and_no_robust_rule():
    algorithm = FedGD(config())
    assert algorithm.reads_groups
    assert not placed_by_group(algorithm)
    selector = algorithm.selector(algorithm.init(FeatureSetting(DIMENSION, ("a", "b")), 0))
    assert not selector.way.reads_pairs
    with pytest.raises(ConfigError, match=r"server\.rule=median compares clients"):
        FedGD(config(server={"rule": "median"}))
