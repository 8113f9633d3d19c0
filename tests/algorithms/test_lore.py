from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conftest import DIMENSION, make_federation
from fedvpa.algorithms.base import FeatureSetting
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.lore import Lore
from fedvpa.algorithms.registry import make
from fedvpa.algorithms.server.aggregation import Averaged
from fedvpa.core.errors import ConfigError
from fedvpa.core.tree import below
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.training import rounds, start
from fedvpa.selector.heads import HEADS
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.selector import Selector
from fedvpa.selector.simplex import adapt_weights
from tests_shared import config

GROUPS = ("a", "b", "c")


def trained(method: str, setting: MethodConfig, engine: str = "loop") -> Averaged:
    algorithm, federation = make(method, setting), make_federation()
    state = start(algorithm, federation, 3)
    for reached, _ in rounds(algorithm, federation, EngineConfig(name=engine, cohort=4, workers=1), 3, state):
        state = reached
    return state.server


def agreeing(head: dict[str, torch.Tensor], prototypes: torch.Tensor, group: int) -> Pairs:
    """Pairs that the basis reward of one group orders rightly by a nat, and every other one wrongly."""
    rewards = head["base"] + prototypes @ head["personal"]
    wanted = torch.full((len(prototypes), 11), -1.0)
    wanted[group] = 1.0
    noise = torch.randn(11, DIMENSION, generator=torch.Generator().manual_seed(group))
    missing = wanted - rewards @ noise.T
    delta = noise + (torch.linalg.pinv(rewards) @ missing).T
    ones = torch.ones(11)
    return Pairs(delta, torch.zeros_like(delta), ones, ones)


@pytest.mark.equivalence
@pytest.mark.parametrize("head", ["bilinear", "mlp"])
def test_one_basis_reward_is_global(head: str):
    setting = config(selector={"head": head, "trunk_width": 3}, lore={"basis": 1})
    ours, plain = trained("lore", setting), trained("global", setting)
    assert ours.final.keys() == plain.final.keys()
    for name, leaf in ours.final.items():
        torch.testing.assert_close(leaf, plain.final[name], rtol=0, atol=0)
    pairs = make_federation().pairs("client-0", "train")
    one, two = (make(method, setting).selector(state) for method, state in (("lore", ours), ("global", plain)))
    torch.testing.assert_close(one.margins(one.infer(pairs), pairs), two.margins(two.infer(pairs), pairs))


@pytest.mark.equivalence
@pytest.mark.parametrize("group", range(3))
def test_one_hot_weights_on_as_many_basis_rewards_as_groups_are_the_oracle(group: int):
    setting = config(lore={"basis": 3})
    ours, oracle = make("lore", setting), make("oracle", setting)
    state = oracle.init(FeatureSetting(DIMENSION, GROUPS), 0)
    assert all(
        torch.equal(ours.init(FeatureSetting(DIMENSION), 0).params[name], state.params[name]) for name in state.params
    )
    held = agreeing(below("head", state.params), state.params["prototypes"], group)
    sent = ours.broadcast(state, ["x"])
    draws = ours.draw(0, sent, "x", 11)
    mine, _ = ours.client_update(sent.client(0), held, {}, draws)

    def told(name: int) -> torch.Tensor:
        private = {"group": torch.eye(3)[name]}
        return oracle.client_update(oracle.broadcast(state, ["x"]).client(0), held, private, draws)[0].sums

    for name in ("delta.head.base", "delta.head.personal", "loss.reconstruction"):
        torch.testing.assert_close(mine.sums[name], told(group)[name], rtol=2e-3, atol=2e-3)
    assert (mine.sums["delta.head.personal"] - told((group + 1) % 3)["delta.head.personal"]).norm() > 1


@pytest.mark.unit
@pytest.mark.parametrize("meta", [False, True])
def test_nothing_of_a_users_weights_is_sent_or_kept(meta: bool):
    algorithm, federation = Lore(config(lore={"basis": 3, "meta": meta})), make_federation()
    state = algorithm.init(federation.setting, 0)
    sent = algorithm.broadcast(state, ["client-0"])
    draws = algorithm.draw(0, sent, "client-0", 11)
    update, kept = algorithm.client_update(sent.client(0), federation.held("client-0"), {}, draws)
    trained_ones = {"delta.head.base", "delta.head.personal", *(["delta.initial"] if meta else [])}
    assert update.sums.keys() == {"weight", "loss.reconstruction"} | trained_ones
    assert update.own == {}
    assert kept == {}
    assert trained_ones == {f"delta.{name}" for name in algorithm.expected(state).deltas}


@pytest.mark.equivalence
def test_stacked_clients_meta_learn_what_single_ones_do():
    setting = config(lore={"basis": 3, "meta": True, "meta_steps": 2}, local={"encoder_lr": 0.1})
    one, many = trained("lore", setting), trained("lore", setting, "vectorised")
    assert one.final["initial"].abs().min() > 1e-3
    for name, leaf in one.final.items():
        torch.testing.assert_close(leaf, many.final[name], rtol=1e-4, atol=1e-5)


@pytest.mark.unit
def test_the_start_moves_by_the_slope_of_the_targets_at_the_users_weights():
    setting = config(lore={"basis": 3, "meta": True, "meta_lr": 1.0}, local={"steps": 1, "encoder_lr": 0.1})
    algorithm, held = Lore(setting), make_federation().held("client-0")
    state = algorithm.init(FeatureSetting(DIMENSION), 0)
    sent = algorithm.broadcast(state, ["client-0"])
    draws = algorithm.draw(0, sent, "client-0", 11)
    update, _ = algorithm.client_update(sent.client(0), held, {}, draws)
    head, prototypes = below("head", state.params), state.params["prototypes"]
    context, target = (held.rows(rows[0].numpy()) for rows in (draws.context, draws.target))
    each = [HEADS["bilinear"].margins(head, some, prototypes, None) for some in (context, target)]
    reached = adapt_weights(state.params["initial"], each[0], context.weight, 5, 1.0).requires_grad_()
    value = -torch.nn.functional.logsigmoid(torch.softmax(reached, -1) @ each[1]).mean()
    (slope,) = torch.autograd.grad(value, reached)
    # AdamW's first step is its learning rate in the direction of the sign; the start is 0, so nothing decays.
    torch.testing.assert_close(
        update.sums["delta.initial"] / update.sums["weight"], -0.1 * slope.sign(), rtol=1e-3, atol=0
    )
    torch.testing.assert_close(update.sums["loss.reconstruction"] / 11, value.detach())


@pytest.mark.unit
@pytest.mark.parametrize("meta", [False, True])
def test_a_saved_selector_gives_a_new_user_the_mixture_that_fits(meta: bool, tmp_path):
    setting = config(lore={"basis": 3, "meta": meta})
    algorithm = Lore(setting)
    state = algorithm.init(FeatureSetting(DIMENSION), 0)
    if meta:
        state = replace(state, params=state.params | {"initial": torch.tensor([0.0, 1.0, -1.0])})
    selector = algorithm.selector(state)
    held = agreeing(below("head", state.params), state.params["prototypes"], 1)
    weights = selector.infer(held).mean @ selector.prototypes.T
    torch.testing.assert_close(weights.sum(), torch.ones(()))
    assert weights.argmax() == 1
    assert weights[1] > 0.99 or meta
    selector.save_pretrained(tmp_path)
    again = Selector.from_pretrained(tmp_path)
    assert torch.equal(again.infer(held).mean, selector.infer(held).mean)
    nobody = held.between(0, 0)
    even = torch.softmax(state.params.get("initial", torch.zeros(3)), -1)
    torch.testing.assert_close(again.infer(nobody).mean, even @ selector.prototypes)
    torch.testing.assert_close(again.prior_mean().mean, even @ selector.prototypes)


@pytest.mark.unit
def test_heads_that_no_z_mixes_and_a_basis_beyond_the_latent_are_refused():
    with pytest.raises(ConfigError, match=r"selector\.head=residual"):
        Lore(config(selector={"head": "residual"}))
    with pytest.raises(ConfigError, match=r"lore\.basis=6 basis rewards"):
        Lore(config(lore={"basis": 6}))
