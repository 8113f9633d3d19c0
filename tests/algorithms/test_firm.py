"""FIRM and the yardsticks that differ from it in λ: gradients, identities, and what is counted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from fedvpa.algorithms.base import Broadcast
from fedvpa.algorithms.client.firm_step import (
    GradientBatch,
    PromptDraws,
    Rule,
    draw_prompts,
    local_steps,
    mgda_rule,
    sample_step,
)
from fedvpa.algorithms.firm import Firm, make_firm
from fedvpa.algorithms.server.aggregation import drift
from fedvpa.algorithms.server.lora_averaging import A_SUFFIX
from fedvpa.core.tree import below
from fedvpa.engines.text_federation import TextFederation
from fedvpa.objectives.multi_objective import common_scale, gram, regularised_mgda
from fedvpa.policy.policy import Policy
from firm_fixtures import (
    NAMES,
    OBJECTIVES,
    SEED,
    Constant,
    CountsWords,
    federation,
    firm_config,
    flat,
    policy_of,
    prompts_of,
    server,
    train,
)

HALF = torch.full((2,), 0.5, dtype=torch.float64)


@pytest.fixture
def policy(base_folder: Path) -> Policy:
    return policy_of(base_folder)


def batch_of(policy: Policy, micro_batch: int | None = None, clip: float = 0.2) -> GradientBatch:
    config, draws = firm_config(), draw_prompts(3, 1, 2, SEED, "x")
    data = prompts_of(policy, ["w1 w2", "w3", "w4 w5 w6"])
    return GradientBatch(policy, sample_step(policy, data, draws.rows[0], config, draws, 0), clip, micro_batch)


def policy_gradient(policy: Policy, advantages: torch.Tensor) -> torch.Tensor:
    """Mean of A·∇log π(y) by the policy's own log-probabilities, without any of FIRM's code."""
    config, draws = firm_config(), draw_prompts(3, 1, 2, SEED, "x")
    data = prompts_of(policy, ["w1 w2", "w3", "w4 w5 w6"])
    scored = sample_step(policy, data, draws.rows[0], config, draws, 0)
    value = (advantages * policy.log_probs(scored.prompts, scored.responses, None)).mean()
    return torch.cat([leaf.flatten() for leaf in torch.autograd.grad(value, list(policy.trained().values()))])


@pytest.mark.equivalence
def test_on_policy_the_mixture_is_the_gradient_of_the_mixed_advantage(policy: Policy):
    config, draws = firm_config(), draw_prompts(3, 1, 2, SEED, "x")
    data = prompts_of(policy, ["w1 w2", "w3", "w4 w5 w6"])
    advantages = sample_step(policy, data, draws.rows[0], config, draws, 0).advantages
    weights = torch.tensor([0.3, 0.7])
    gradients, _ = batch_of(policy).gradients()
    torch.testing.assert_close(weights @ gradients, policy_gradient(policy, weights @ advantages), atol=1e-5, rtol=1e-4)
    for row, own in zip(gradients, advantages, strict=True):
        torch.testing.assert_close(row, policy_gradient(policy, own), atol=1e-5, rtol=1e-4)


@pytest.mark.equivalence
def test_one_backward_pass_gives_the_same_as_several(policy: Policy):
    weights = torch.tensor([0.3, 0.7])
    gradients, divergent = batch_of(policy).gradients()
    assert divergent.norm() > 0
    found = batch_of(policy).mixed_gradient(weights, 0.4)
    torch.testing.assert_close(found, weights @ gradients - 0.4 * divergent, atol=1e-5, rtol=1e-4)


@pytest.mark.equivalence
def test_micro_batches_change_nothing(policy: Policy):
    whole, parts = batch_of(policy), batch_of(policy, micro_batch=4)
    for one, other in zip(whole.gradients(), parts.gradients(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(whole.kl, parts.kl)


@pytest.mark.unit
def test_the_weights_of_a_step_are_those_of_its_own_gradients(policy: Policy):
    config, draws = firm_config(steps=1), draw_prompts(3, 1, 2, SEED, "x")
    gradients, _ = batch_of(policy).gradients()
    data = prompts_of(policy, ["w1 w2", "w3", "w4 w5 w6"])
    done = local_steps(policy, data, draws, config, mgda_rule(HALF, 0.5), HALF)
    wanted = regularised_mgda(common_scale(gram(gradients)), HALF, 0.5)
    torch.testing.assert_close(done.weights[0], wanted.float(), atol=1e-5, rtol=0)
    assert abs(float(wanted[0]) - 0.5) > 1e-3


@pytest.mark.unit
def test_a_step_of_sgd_goes_along_the_mixture(policy: Policy):
    config = firm_config(steps=1, kl_weight=0, clip_norm=1e6)
    before = flat({name: leaf.detach().clone() for name, leaf in policy.trained().items()})
    gradients, _ = batch_of(policy).gradients()
    sizes = dict(
        zip(policy.trained(), gradients[0].split([leaf.numel() for leaf in policy.trained().values()]), strict=True)
    )
    other = dict(
        zip(policy.trained(), gradients[1].split([leaf.numel() for leaf in policy.trained().values()]), strict=True)
    )
    data = prompts_of(policy, ["w1 w2", "w3", "w4 w5 w6"])
    local_steps(policy, data, draw_prompts(3, 1, 2, SEED, "x"), config, None, torch.tensor([0.3, 0.7]))
    moved = flat({name: leaf.detach() for name, leaf in policy.trained().items()}) - before
    torch.testing.assert_close(moved, 0.1 * (0.3 * flat(sizes) + 0.7 * flat(other)), atol=1e-6, rtol=1e-4)


@dataclass(frozen=True)
class SameDraws(Firm):
    """Every client draws what the others draw."""

    def draw(self, seed: int, broadcast: Broadcast, client_id: str, size: int) -> PromptDraws:
        return super().draw(seed, broadcast, "anybody", size)


@pytest.mark.equivalence
def test_identical_clients_with_identical_draws_are_one_central_step(base_folder: Path):
    config = firm_config(steps=1, rounds=2, rho=0.3)
    plain = make_firm("firm", server(config), config)
    algorithm = SameDraws(**{name: getattr(plain, name) for name in ("firm", "config", "preference", "rho", "name")})
    found = []
    for names in (("a", "b", "c"), ("alone",)):
        policy = policy_of(base_folder)
        same = prompts_of(policy, ["w1 w2", "w3", "w4 w5 w6"])
        state, lines = train(algorithm, TextFederation.of(policy, dict.fromkeys(names, same)), len(names))
        found.append(flat(state.params))
        assert lines[0]["losses"]["disagreement"] == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-5)


@pytest.mark.unit
def test_clients_differ_in_lambda_at_rho_0_and_agree_under_a_large_rho(base_folder: Path):
    seen = {}
    for name, rho in (("mgda", 0.1), ("firm", 0.1), ("firm", 1e6)):
        config = firm_config(rho=rho, rounds=1)
        _, lines = train(make_firm(name, server(config), config), federation(policy_of(base_folder)))
        seen[name, rho] = lines[0]["losses"]
    told = [seen[key]["disagreement"] for key in (("mgda", 0.1), ("firm", 0.1), ("firm", 1e6))]
    assert told == sorted(told, reverse=True)
    assert told[0] > 0.01
    assert told[2] < 1e-6
    assert seen["firm", 1e6]["lambda.world:helpful"] == pytest.approx(0.5, abs=1e-5)


@pytest.mark.equivalence
def test_the_yardsticks_are_firm_with_another_rho(base_folder: Path):
    def params(name: str, **values: object) -> torch.Tensor:
        config = firm_config(preference=(0.3, 0.7), rounds=1, **values)
        return flat(train(make_firm(name, server(config), config), federation(policy_of(base_folder)))[0].params)

    assert torch.equal(params("mgda"), params("firm", rho=0))
    torch.testing.assert_close(params("scalar"), params("firm", rho=1e6), atol=1e-5, rtol=1e-3)
    config = firm_config(preference=(0, 1), rounds=1)
    one = flat(train(make_firm("scalar", server(config), config), federation(policy_of(base_folder)))[0].params)
    assert torch.equal(params("single"), one)


@pytest.mark.unit
def test_an_update_is_what_the_server_expects_and_a_client_without_prompts_changes_nothing(base_folder: Path):
    clients, config = federation(policy_of(base_folder)), firm_config()
    algorithm = make_firm("firm", server(config), config)
    state = algorithm.init(clients.setting, SEED)
    sent, wanted = algorithm.broadcast(state, clients.client_ids), algorithm.expected(state)
    for name in clients.client_ids:
        draws = algorithm.draw(SEED, sent, name, clients.size(name))
        update, private = algorithm.client_update(sent.client(0), clients.held(name), {}, draws)
        assert private == {}
        assert {key: leaf.shape for key, leaf in below("delta", update.sums).items()} == dict(wanted.deltas)
        told = {key: leaf for key, leaf in update.sums.items() if key != "weight" and not key.startswith("delta.")}
        for found, bounds in ((told, wanted.sums), (update.own, wanted.own)):
            assert {key: leaf.shape for key, leaf in found.items()} == {key: one.shape for key, one in bounds.items()}
            for key, one in bounds.items():
                most = one.most * (float(update.sums["weight"]) if one.per == "weight" else 1)
                assert bool((found[key] <= most + 1e-5).all())
        assert float(update.sums["weight"]) == clients.size(name)
        assert (flat(below("delta", update.sums)).norm() > 0) == (clients.size(name) > 0)


@pytest.mark.unit
def test_the_history_has_rewards_in_their_own_units_and_the_drift_of_updates(base_folder: Path):
    config = firm_config(rounds=1)
    algorithm, kept = make_firm("firm", server(config), config), []
    clients = federation(policy_of(base_folder))
    state = algorithm.init(clients.setting, SEED)
    sent = algorithm.broadcast(state, clients.client_ids)
    for name in ("ann", "bob"):
        draws = algorithm.draw(SEED, sent, name, clients.size(name))
        kept.append(
            flat(below("delta", algorithm.client_update(sent.client(0), clients.held(name), {}, draws)[0].sums))
        )
    told = train(algorithm, federation(policy_of(base_folder)))[1][0]["losses"]
    assert told["drift"] == pytest.approx(1 - torch.cosine_similarity(*kept, dim=0).item(), abs=1e-4)
    assert 0 < told["reward.before.world:helpful"] < 5 * 4 < told["reward.before.world:harmless"]
    assert told["kl"] > 0


@pytest.mark.unit
def test_drift_is_one_less_the_mean_cosine_of_two_changes():
    rows = torch.randn(4, 7, generator=torch.Generator().manual_seed(3))
    changes = [{"a": 10.0**place * row[:3], "b": 10.0**place * row[3:]} for place, row in enumerate(rows)]
    cosines = [torch.cosine_similarity(rows[a], rows[b], dim=0) for a in range(4) for b in range(a)]
    wanted = 1 - float(torch.stack(cosines).mean())
    nothing = {"a": torch.zeros(3), "b": torch.zeros(4)}
    assert drift([*changes, nothing]) == pytest.approx(wanted, abs=1e-5)
    assert drift([changes[0], changes[0]]) == pytest.approx(0, abs=1e-6)
    assert drift([changes[0], nothing]) is None
    assert drift([{}, {}]) is None


@pytest.mark.unit
def test_rewards_rise_on_what_is_trained(base_folder: Path):
    config = firm_config(rounds=4, steps=3, completions=8, prompts=3, optimizer="adamw", lr=0.05, kl_weight=0)
    _, lines = train(make_firm("firm", server(config), config), federation(policy_of(base_folder, noise=False)))
    for name in NAMES:
        curve = [line["losses"][f"reward.before.{name}"] for line in lines]
        assert curve[-1] > 1.2 * curve[0]


@pytest.mark.unit
def test_an_objective_that_does_not_vary_has_no_advantage_and_is_counted(policy: Policy):
    draws = draw_prompts(3, 2, 2, SEED, "x")
    data = prompts_of(policy, ["w1 w2", "w3", "w4 w5 w6"], (OBJECTIVES[0], Constant("flat")))
    samples = sample_step(policy, data, draws.rows[0], firm_config(), draws, 0)
    assert torch.equal(samples.advantages[1], torch.zeros(6))
    assert samples.varies.tolist() == [True, False]
    done = local_steps(policy, data, draws, firm_config(), mgda_rule(HALF, 0.0), HALF)
    assert done.constant.tolist() == [0, 2]
    # The shortest gradient is the one that is 0: MGDA stands still, and says that it is at a vertex.
    assert done.weights.tolist() == [[0, 1], [0, 1]]
    assert done.at_vertex.tolist() == [1, 1]


@pytest.mark.unit
def test_lambda_is_computed_every_so_many_steps(policy: Policy):
    data = prompts_of(policy, ["w1 w2", "w3", "w4 w5 w6"])
    draws = draw_prompts(3, 4, 2, SEED, "x")
    done = local_steps(policy, data, draws, firm_config(lambda_every=2), mgda_rule(HALF, 0.1), HALF)
    assert torch.equal(done.weights[0], done.weights[1])
    assert torch.equal(done.weights[2], done.weights[3])
    assert not torch.equal(done.weights[1], done.weights[2])


@pytest.mark.unit
def test_the_clip_matters_from_the_second_update_on_the_same_samples(base_folder: Path):
    def moved(**values: object) -> torch.Tensor:
        policy = policy_of(base_folder)
        data, draws = prompts_of(policy, ["w1 w2", "w3", "w4 w5 w6"]), draw_prompts(3, 1, 2, SEED, "x")
        local_steps(policy, data, draws, firm_config(clip_norm=10, **values), None, HALF)
        return flat({name: leaf.detach() for name, leaf in policy.trained().items()})

    assert torch.equal(moved(clip=0.01), moved(clip=0.9))
    assert not torch.equal(moved(clip=0.01, updates=3), moved(clip=0.9, updates=3))


@pytest.mark.unit
@pytest.mark.parametrize(
    "other",
    [{"kl_weight": 5.0}, {"lr": 0.01}, {"optimizer": "adamw"}, {"clip_norm": 0.01}, {"completions": 4}, {"prompts": 1}],
)
def test_every_option_changes_what_is_trained(base_folder: Path, other: dict[str, object]):
    def moved(**values: object) -> torch.Tensor:
        config = firm_config(rounds=1, **values)
        return flat(train(make_firm("firm", server(config), config), federation(policy_of(base_folder)))[0].params)

    assert not torch.equal(moved(), moved(**other))


@pytest.mark.unit
def test_ffa_leaves_the_factor_a_where_it_was(base_folder: Path):
    clients, config = federation(policy_of(base_folder)), firm_config(averaging="ffa", rounds=1)
    state, _ = train(make_firm("firm", server(config), config), clients)
    for name, leaf in clients.setting.start.items():
        assert torch.equal(leaf, state.params[name]) == name.endswith(A_SUFFIX), name
    assert all(leaf.requires_grad for leaf in clients.policy.trained().values())


@pytest.mark.unit
def test_draws_are_named_by_the_client_and_the_round_and_no_prompt_comes_twice_in_a_step():
    one = draw_prompts(7, 3, 5, SEED, "firm", "ann", 0)
    assert one == draw_prompts(7, 3, 5, SEED, "firm", "ann", 0)
    assert one.rows != draw_prompts(7, 3, 5, SEED, "firm", "ann", 1).rows
    assert one.rows != draw_prompts(7, 3, 5, SEED, "firm", "bob", 0).rows
    assert all(len(set(rows)) == 5 for rows in one.rows)
    assert [len(rows) for rows in draw_prompts(2, 3, 5, SEED, "x").rows] == [2, 2, 2]
    assert draw_prompts(0, 3, 5, SEED, "x").rows == ()


@pytest.mark.unit
def test_units_of_a_reward_do_not_matter(base_folder: Path):
    def params(units: float) -> torch.Tensor:
        config = firm_config(rounds=1)
        objectives = (CountsWords("a", 5), CountsWords("b", 7, units))
        clients = federation(policy_of(base_folder), objectives)
        return flat(train(make_firm("firm", server(config), config), clients)[0].params)

    torch.testing.assert_close(params(1.0), params(1000.0), atol=1e-6, rtol=1e-5)


@pytest.mark.unit
def test_firm_is_frozen_and_says_its_names():
    config = firm_config()
    algorithm = make_firm("mgda", server(config), config)
    assert (algorithm.name, algorithm.rho, algorithm.holds, algorithm.rounds) == ("mgda", 0.0, "texts", 2)
    assert algorithm.learning_rates == {"firm.lr": 0.1}
    assert replace(algorithm, rho=1.0).rho == 1.0


@pytest.mark.unit
@pytest.mark.parametrize("rule", [None, mgda_rule(HALF, 1.0)])
def test_without_a_reward_the_policy_goes_back_to_the_base(policy: Policy, rule: Rule | None):
    data = prompts_of(policy, ["w1 w2", "w3", "w4 w5 w6"], (Constant("one"), Constant("other")))
    config = firm_config(kl_weight=1.0, optimizer="adamw", lr=0.03, completions=16)
    done = local_steps(policy, data, draw_prompts(3, 6, 3, SEED, "x"), config, rule, HALF)
    assert done.kl[-1] < 0.85 * done.kl[0]
