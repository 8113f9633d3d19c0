from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedvpa.algorithms.base import CohortUpdate
from fedvpa.algorithms.client.client_examples import client_examples
from fedvpa.algorithms.client.text_client import AdapterSetting, ClientStream, TextClient
from fedvpa.algorithms.config import MethodConfig, ServerConfig
from fedvpa.algorithms.feddpo import FedDPO, FedDPOState
from fedvpa.algorithms.policy_method import PolicyTask, server_rules
from fedvpa.algorithms.server.lora_averaging import A_SUFFIX, B_SUFFIX, exact_average
from fedvpa.algorithms.server.lora_residual import in_force, settle
from fedvpa.alignment.federated_job import FederatedJob
from fedvpa.core import tree
from fedvpa.core.errors import ConfigError, DataError, RunError, TrainingError
from fedvpa.core.frozen import from_tensors, to_tensors
from fedvpa.core.tree import Tree
from fedvpa.data.schema import Pair
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.text_federation import TextFederation
from fedvpa.engines.training import TrainState, rounds, start
from fedvpa.features.config import FeatureConfig
from fedvpa.policy.adapters import restore, snapshot
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.dpo_trainer import DPOTrainer
from fedvpa.policy.examples import Examples
from fedvpa.policy.policy import Policy, load_policy, new_policy
from fedvpa.world.generate import generate_world
from policy_fixtures import world_config

RULES = ("avg", "ffa", "svd")
SEED = 13
Told = tuple[str, list[FedDPOState], list[dict[str, Any]]]

EXPECTED = {
    "avg": ([0.66798, 0.66965, 0.65106], 6.02527),
    "ffa": ([0.66798, 0.67083, 0.65836], 5.95154),
    "svd": ([0.66798, 0.66891, 0.65251], 6.03864),
}
"""Loss of each of three rounds and the norm of the last factors, as the first release trained them at this seed. Other
kernels round differently, and Adam makes 1e-4 of that in single weights: hence four digits."""


def settings(averaging: str = "avg", **own: int) -> PolicyConfig:
    """Tiny; a learning rate and DPO alone such that a few steps show."""
    feddpo = {"rounds": 3, "cohort": 2, "steps": 2, "batch": 3, "averaging": averaging, **own}
    clients = {"clip_norm": None, "max_weight": None}
    return world_config(lora_rank=5, lora_alpha=10, sft_weight=0, language_weight=0, feddpo=feddpo, clients=clients)


def fresh(config: PolicyConfig) -> Policy:
    return new_policy(config, "bundled", None, SEED, device="cpu")


def method(config: PolicyConfig) -> FedDPO:
    return FedDPO(config, server_rules(config, config.feddpo.rounds))


@pytest.fixture(scope="module")
def clients() -> dict[str, Examples]:
    """Four clients with 7, 4, 7 and 0 pairs."""
    policy = fresh(settings())
    found: dict[str, list[Pair]] = {}
    for pair in generate_world("two-groups", 3, 7, SEED):
        found.setdefault(pair.user_id, []).append(Pair(pair.prompt, pair.chosen, pair.rejected))
    first, second, third = found.values()
    own = (("a", first), ("b", second[:4]), ("c", third), ("nobody", []))
    return {name: client_examples(policy, pairs) for name, pairs in own}


def run(
    config: PolicyConfig,
    clients: dict[str, Examples],
    cohort: Sequence[str],
    begin: FedDPOState | None = None,
    size: int | None = None,
) -> tuple[list[FedDPOState], list[dict[str, Any]]]:
    """States and lines of rounds that ask all of ``cohort``, or ``size`` of them."""
    algorithm, members = method(config), TextFederation.of(fresh(config), {name: clients[name] for name in cohort})
    state = TrainState(begin) if begin else start(algorithm, members, SEED)
    engine = EngineConfig(name="loop", cohort=size or len(cohort))
    told = list(rounds(algorithm, members, engine, SEED, state))
    return [state.server for state, _ in told], [line for _, line in told]


def log_probs(policy: Policy, examples: Examples) -> torch.Tensor:
    with torch.no_grad():
        return policy.eval().log_probs(examples.prompts, examples.chosen, None)


@pytest.mark.equivalence
def test_the_reference_of_a_client_is_the_frozen_base(clients):
    policy, own = fresh(settings()), clients["a"]
    with policy.reference() as base, torch.no_grad():
        both = [base.log_probs(own.prompts, texts, None) for texts in (own.chosen, own.rejected)]
    torch.testing.assert_close(own.reference, torch.stack(both, 1), atol=1e-4, rtol=0)
    assert own.z is None
    assert [len(flags) for flags, _ in own.sure] == [len(ids) for ids in own.chosen]
    assert len(clients["nobody"]) == 0


@pytest.mark.unit
def test_pairs_of_equal_responses_teach_nobody(capsys):
    policy = fresh(settings())
    long = "First, grab the saw. " * 60
    pairs = [Pair("Why?", "No.", "Yes."), Pair("Why?", long + "One.", long + "Two."), Pair("Why?", "No.", "No.")]
    assert len(client_examples(policy, pairs)) == 1
    task = PolicyTask(settings(), MethodConfig(), FeatureConfig(model="bundled"), SEED)
    job = FederatedJob("feddpo", task, {"a": pairs})
    assert "2 pairs left out: both responses have the same tokens" in capsys.readouterr().err
    _, notes = job.finish()
    assert notes["data"]["findings"][0]["count"] == 2
    assert notes["data"]["findings"][0]["first"] == "row 1"
    with pytest.raises(DataError, match="row 1: both responses have the same tokens"):
        FederatedJob("feddpo", task, {"a": pairs}, strict=True)
    with pytest.raises(DataError, match="None of the 2 clients has a preference pair, so 'feddpo' has nothing"):
        FederatedJob("feddpo", task, {"a": [], "b": []})


def by_hand(config: PolicyConfig, clients: dict[str, Examples], cohort: Sequence[str], state: FedDPOState) -> Tree:
    """The factors after one round, without the contract: adapters trained one by one and averaged in float64."""
    policy, trained, pairs, own = fresh(config), [], [], config.feddpo
    fixed = A_SUFFIX if own.averaging == "ffa" else "nothing"
    total = config.model_copy(update={"steps": own.rounds * own.steps, "batch": own.batch})
    for name in cohort:
        with in_force(policy, state.params, state.residual):
            weights = policy.trained()
            for leaf in (leaf for key, leaf in weights.items() if key.endswith(fixed)):
                leaf.requires_grad_(False)
            trainer = DPOTrainer(policy, total, SEED, "feddpo", name)
            trainer.step = state.round * own.steps
            list(trainer.run(clients[name], own.steps))
            for leaf in weights.values():
                leaf.requires_grad_(True)
        trained.append(snapshot(policy))
        pairs.append(float(len(clients[name])))
    if own.averaging == "svd":
        return exact_average(trained, pairs, 2.0).factors
    mean = {key: np.average([one[key].double() for one in trained], axis=0, weights=pairs) for key in trained[0]}
    return {key: torch.from_numpy(leaf).float() for key, leaf in mean.items()}


@pytest.fixture(scope="module", params=RULES)
def told(request: pytest.FixtureRequest, clients: dict[str, Examples]) -> Told:
    """A rule, and three rounds of two clients each."""
    return request.param, *run(settings(request.param), clients, list(clients), size=2)


@pytest.mark.equivalence
def test_every_round_is_the_one_of_clients_that_are_averaged_by_hand(told: Told, clients):
    """From the server's own state each time: rounding of 1e-9 grows under Adam, where a gradient is nearly 0."""
    rule, states, lines = told
    config = settings(rule)
    first = FedDPOState(params=snapshot(fresh(config)))
    for before, after, line in zip([first, *states], states, lines, strict=False):
        cohort = [name for name in line["cohort"] if len(clients[name])]
        wanted = by_hand(config, clients, cohort, before)
        assert all(torch.allclose(leaf, wanted[name], atol=1e-7, rtol=0) for name, leaf in after.params.items())
    assert [line["cohort"] for line in lines] == [["b", "a"], ["c", "a"], ["c", "nobody"]]
    losses, norm = EXPECTED[rule]
    assert [line["losses"]["loss"] for line in lines] == pytest.approx(losses, abs=2e-4)
    flat = torch.cat([leaf.flatten() for leaf in states[-1].params.values()])
    assert float(flat.norm()) == pytest.approx(norm, abs=2e-3)


@pytest.mark.equivalence
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(told: Told, clients):
    rule, states, lines = told
    saved = from_tensors(FedDPOState, {name: leaf.clone() for name, leaf in to_tensors(states[0]).items()})
    again, later = run(settings(rule), clients, list(clients), saved, size=2)
    assert [state.round for state in again] == [2, 3]
    assert [line["losses"] for line in later] == [line["losses"] for line in lines[1:]]
    whole, resumed = to_tensors(states[-1]), to_tensors(again[-1])
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert bool(states[-1].residual) == (rule == "svd")


@pytest.mark.unit
def test_training_lowers_the_loss(clients):
    _, lines = run(settings(rounds=4, steps=3), clients, ["a", "b"])
    assert lines[-1]["losses"]["loss"] < 0.75 * lines[0]["losses"]["loss"]
    assert lines[-1]["losses"]["accuracy"] > lines[0]["losses"]["accuracy"]


@pytest.mark.unit
def test_ffa_moves_b_alone_and_sends_it_alone(clients):
    config = settings("ffa", rounds=1)
    before = snapshot(fresh(config))
    (state,), (line,) = run(config, clients, ["a", "b"])
    for name, leaf in state.params.items():
        assert torch.equal(leaf, before[name]) == name.endswith(A_SUFFIX), name
    sent = tree.size({name: leaf for name, leaf in before.items() if name.endswith(B_SUFFIX)})
    numbers = 4 * 4  # pairs, steps, loss and accuracy
    assert line["uplink_bytes"] == 2 * (sent + numbers)
    assert line["downlink_bytes"] == 2 * tree.size(before)


@pytest.mark.unit
def test_svd_sends_the_residual_down_from_the_second_round_on(clients):
    config = settings("svd", rounds=2)
    states, lines = run(config, clients, ["a", "b"])
    both, numbers = tree.size(states[0].params), 5 * 4  # its pairs twice: for the sum, and beside its factors
    assert [line["uplink_bytes"] for line in lines] == [2 * (both + numbers)] * 2
    assert [line["downlink_bytes"] for line in lines] == [2 * both, 2 * (both + tree.size(states[0].residual))]


@pytest.mark.equivalence
@pytest.mark.parametrize("rule", RULES)
def test_the_only_client_of_a_cohort_is_the_result(rule, clients):
    """Its changed weights are the server's, by a cohort of one, and by a cohort in which nobody else has a pair."""
    config = settings(rule, rounds=1)
    algorithm, policy = method(config), fresh(config)
    members = TextFederation.of(policy, {name: clients[name] for name in ("nobody", "a")})
    ((state, _),) = rounds(
        algorithm, members, EngineConfig(name="loop", cohort=2), SEED, start(algorithm, members, SEED)
    )
    (alone,), _ = run(config, clients, ["a"])
    assert all(torch.equal(leaf, state.server.params[name]) for name, leaf in alone.params.items())
    other = fresh(config)
    received = algorithm.broadcast(start(algorithm, members, SEED).server, ["a"]).client(0)
    update, _ = algorithm.client_update(received, TextClient(other, clients["a"]), {}, ClientStream(SEED, "a", 0))
    assert float(update.sums["weight"]) == 7
    left = log_probs(other, clients["b"])
    with in_force(policy, state.server.params, state.server.residual):
        torch.testing.assert_close(log_probs(policy, clients["b"]), left, atol=1e-4, rtol=0)


@pytest.mark.equivalence
@pytest.mark.parametrize("rule", RULES)
def test_two_clients_with_the_same_pairs_are_one(rule, clients):
    """In batches of all their pairs, whose order is each client's own."""
    config = settings(rule, rounds=1, batch=7)
    policy, told = fresh(config), []
    for cohort in (["a"], ["a", "twin"]):
        (state,), _ = run(config, {**clients, "twin": clients["a"]}, cohort)
        with in_force(policy, state.params, state.residual):
            told.append(log_probs(policy, clients["b"]))
    torch.testing.assert_close(*told, atol=1e-3, rtol=0)
    assert float((told[0] - clients["b"].reference[:, 0]).abs().max()) > 0.05  # the policy has moved


@pytest.mark.equivalence
@pytest.mark.parametrize("rule", RULES)
def test_settled_saved_and_loaded_policies_are_the_state_in_force(rule, clients, tmp_path: Path):
    config = settings(rule, rounds=2)
    policy, other = fresh(config), clients["b"]
    base = policy.reference_log_probs(other.prompts, other.chosen)
    (*_, state), _ = run(config, clients, ["a", "b"])
    with in_force(policy, state.params, state.residual):
        wanted = log_probs(policy, other)
        inside = policy.reference_log_probs(other.prompts, other.chosen)
    factors_alone = log_probs(policy, other)
    settle(policy, state.params, state.residual)
    policy.save_pretrained(tmp_path)
    loaded = load_policy(tmp_path, config, device="cpu")
    for told in (log_probs(policy, other), log_probs(loaded, other)):
        torch.testing.assert_close(told, wanted, atol=2e-4, rtol=0)
    if rule == "svd":
        assert float((factors_alone - wanted).abs().max()) > 1e-3  # or the residual is not tested
    for reference in (inside, policy.reference_log_probs(other.prompts, other.chosen)):
        assert all((told == before).all() for told, before in zip(reference, base, strict=True))


@pytest.mark.unit
@pytest.mark.parametrize("rule", RULES)
def test_a_cohort_without_pairs_passes_a_round(rule, clients):
    (state,), (line,) = run(settings(rule, rounds=1), clients, ["nobody"])
    before = snapshot(fresh(settings(rule)))
    assert all(torch.equal(leaf, before[name]) for name, leaf in state.params.items())
    assert (state.round, state.residual, line["losses"]) == (1, {}, {})
    assert line["uplink_bytes"] < 2000 or rule == "svd"  # a change of 0 travels as its shape


@pytest.mark.equivalence
@pytest.mark.parametrize("rule", RULES)
def test_an_update_that_is_not_finite_is_rejected_and_the_round_goes_on(rule, clients, capsys):
    config = settings(rule, rounds=1)
    broken = replace(clients["b"], reference=torch.full_like(clients["b"].reference, float("nan")))
    (state,), (line,) = run(config, {**clients, "broken": broken}, ["broken", "a"])
    assert (sorted(line["cohort"]), line["rejected"]) == (["a", "broken"], ["broken"])
    assert "the update of client 'broken' was rejected" in capsys.readouterr().err
    (alone,), (own,) = run(config, clients, ["a"])
    assert line["losses"] == own["losses"]
    assert line["uplink_bytes"] == 2 * own["uplink_bytes"]  # it was sent all the same
    ours, theirs = to_tensors(state), to_tensors(alone)
    assert all(torch.equal(leaf, theirs[name]) for name, leaf in ours.items())
    with pytest.raises(TrainingError, match=r"all 1 updates were rejected.*lower policy\.lr"):
        run(config, {"broken": broken}, ["broken"])


@pytest.mark.unit
def test_wrong_settings_are_refused(clients):
    config = settings("svd")
    for own, key in (({"rule": "median"}, "rule"), ({"clip_norm": 0.5}, "clip_norm")):
        with pytest.raises(
            ConfigError, match=rf"averaging=svd needs .*, and policy\.clients\.{key} is about .*avg or ffa"
        ):
            FedDPO(config, MethodConfig(server=ServerConfig(**own)))
        assert FedDPO(settings("ffa"), MethodConfig(server=ServerConfig(**own))).rounds == 3
    experts = replace(AdapterSetting.of(fresh(config)), experts=True)
    with pytest.raises(ConfigError, match="mixture of experts"):
        method(config).init(experts, SEED)
    assert method(settings("avg")).init(experts, SEED).round == 0
    policy = fresh(settings())
    wider = snapshot(fresh(config.model_copy(update={"lora_rank": 6})))
    with pytest.raises(RunError, match=r"has \(6, 384\) for .*, and the policy \(5, 384\)"):
        restore(policy, wider)
    assert method(config).server_update(FedDPOState(params={}), CohortUpdate({}))[0].round == 1
