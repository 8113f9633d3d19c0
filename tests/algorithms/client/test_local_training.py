from __future__ import annotations

import pytest
import torch

from conftest import DIMENSION, make_federation
from fedvpa.algorithms.base import FeatureSetting
from fedvpa.algorithms.client.draws import Draws
from fedvpa.algorithms.client.local_training import StepMeans
from fedvpa.algorithms.registry import make
from tests_shared import config

TRAINING = ("fedbiscuit", "fedem", "fedgd", "fedvpa_gp", "fedvpl", "finetune", "global", "lore", "oracle")


@pytest.mark.unit
def test_means_over_steps_by_hand():
    means = StepMeans(2)
    means.add(fit=torch.tensor([1.0, 5.0]), pull=torch.tensor([0.0, 1.0]))
    means.add(fit=torch.tensor([2.0, 7.0], requires_grad=True), pull=torch.tensor([3.0, 1.0]))
    found = means.losses(torch.tensor([10.0, 3.0]))
    assert {name: leaf.tolist() for name, leaf in found.items()} == {"loss.fit": [15.0, 18.0], "loss.pull": [15.0, 3.0]}
    assert not any(leaf.requires_grad for leaf in found.values())


@pytest.mark.unit
@pytest.mark.parametrize("method", TRAINING)
def test_a_clients_losses_are_means_over_its_local_steps(method: str):
    """With a learning rate that moves nothing, each step's loss is that of a round of this step alone."""
    still = {"head_lr": 1e-12, "encoder_lr": 1e-12}
    many, single = (make(method, config(local={"steps": steps, **still})) for steps in (3, 1))
    state = many.init(FeatureSetting(DIMENSION, ("a", "b")), 0)
    sent = many.broadcast(state, ["client-0"])
    received, held = sent.client(0), make_federation().held("client-0")
    received |= {"params.head.base": torch.randn(DIMENSION, generator=torch.Generator().manual_seed(0))}
    private = many.load_private({}, received) | {"group": torch.tensor([0.0, 1.0])}
    draws = many.draw(0, sent, "client-0", 11)

    def losses(algorithm, some: Draws) -> dict[str, torch.Tensor]:
        sums = algorithm.client_update(received, held, private, some)[0].sums
        return {name: leaf / sums["weight"] for name, leaf in sums.items() if name.startswith("loss.")}

    each = [losses(single, draws.only(step)) for step in range(3)]
    for name, leaf in losses(many, draws).items():
        steps = torch.stack([step[name] for step in each])
        torch.testing.assert_close(leaf, steps.mean(), rtol=1e-5, atol=1e-6)
    assert len({round(float(step["loss.reconstruction"]), 4) for step in each}) == 3


@pytest.mark.unit
def test_two_steps_of_global_by_hand():
    algorithm = make("global", config(local={"steps": 2, "folds": 2, "head_lr": 0.5, "head_weight_decay": 0.0}))
    state, held = algorithm.init(FeatureSetting(DIMENSION), 0), make_federation().held("client-0")
    sent = algorithm.broadcast(state, ["client-0"])
    draws = algorithm.draw(0, sent, "client-0", 11)
    first, second = (held.delta[rows] for rows in draws.target)
    after = torch.nn.functional.softplus(-second @ (0.5 * 0.5 * first.mean(0))).mean()
    sums = algorithm.client_update(sent.client(0), held, {}, draws)[0].sums
    expected = (torch.tensor(2.0).log() + after) / 2
    torch.testing.assert_close(sums["loss.reconstruction"] / sums["weight"], expected)
    assert abs(float(after - expected)) > 0.01
