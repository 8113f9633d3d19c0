from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedvpa.algorithms.feddpo import FedDPOState, Round, client_examples, in_force, settle, train_feddpo
from fedvpa.algorithms.lora_averaging import A_SUFFIX, B_SUFFIX
from fedvpa.alignment.feddpo_job import FedDPOJob
from fedvpa.core import tree
from fedvpa.core.errors import ConfigError, DataError, RunError, TrainingError
from fedvpa.data.schema import Pair
from fedvpa.features.config import FeatureConfig
from fedvpa.policy.adapters import snapshot
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.examples import Examples
from fedvpa.policy.policy import Policy, load_policy, new_policy
from fedvpa.world.generate import generate_world
from policy_fixtures import world_config

RULES = ("avg", "ffa", "svd")
SEED = 13


def settings(averaging: str = "avg", **own: int) -> PolicyConfig:
    """Tiny; a learning rate and DPO alone such that a few steps show."""
    feddpo = {"rounds": 3, "cohort": 2, "steps": 2, "batch": 3, "averaging": averaging, **own}
    return world_config(lora_rank=5, lora_alpha=10, sft_weight=0, language_weight=0, feddpo=feddpo)


def fresh(config: PolicyConfig) -> Policy:
    return new_policy(config, "bundled", None, SEED, device="cpu")


@pytest.fixture(scope="module")
def clients() -> dict[str, Examples]:
    """Three clients with 7, 4 and 0 pairs."""
    policy = fresh(settings())
    found: dict[str, list[Pair]] = {}
    for pair in generate_world("two-groups", 3, 7, SEED):
        found.setdefault(pair.user_id, []).append(Pair(pair.prompt, pair.chosen, pair.rejected))
    first, second, _ = found.values()
    return {name: client_examples(policy, pairs) for name, pairs in (("a", first), ("b", second[:4]), ("nobody", []))}


def run(
    config: PolicyConfig, clients: dict[str, Examples], cohort: list[str], start: FedDPOState | None = None
) -> tuple[list[FedDPOState], list[Round]]:
    told = list(train_feddpo(fresh(config), clients, config, SEED, lambda _: cohort, start))
    return [state for state, _ in told], [log for _, log in told]


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
    features = FeatureConfig(model="bundled")
    job = FedDPOJob(settings(), features, {"a": pairs}, SEED)
    assert "2 pairs left out: both responses have the same tokens" in capsys.readouterr().err
    _, notes = job.finish()
    assert notes["data"]["findings"][0]["count"] == 2
    assert notes["data"]["findings"][0]["first"] == "row 1"
    with pytest.raises(DataError, match="row 1: both responses have the same tokens"):
        FedDPOJob(settings(), features, {"a": pairs}, SEED, strict=True)


@pytest.mark.equivalence
@pytest.mark.parametrize("rule", RULES)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(rule, clients):
    config = settings(rule)
    states, logs = run(config, clients, ["a", "b"])
    saved = {name: leaf.clone() for name, leaf in states[0].tensors().items()}
    again, later = run(config, clients, ["a", "b"], FedDPOState.of(saved))
    assert [state.round for state in again] == [2, 3]
    assert [log.loss for log in later] == [log.loss for log in logs[1:]]
    whole, resumed = states[-1].tensors(), again[-1].tensors()
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert bool(states[-1].residual) == (rule == "svd")


@pytest.mark.unit
def test_training_lowers_the_loss_and_names_its_rounds(clients):
    _, logs = run(settings(rounds=4, steps=3), clients, ["a", "b"])
    assert [log.round for log in logs] == [1, 2, 3, 4]
    assert logs[-1].loss < 0.75 * logs[0].loss
    assert logs[-1].accuracy > logs[0].accuracy
    assert all(log.cohort == ("a", "b") and log.skipped == 0 for log in logs)


@pytest.mark.unit
def test_ffa_moves_b_alone_and_sends_it_alone(clients):
    config = settings("ffa", rounds=1)
    before = snapshot(fresh(config))
    (state,), (log,) = run(config, clients, ["a", "b"])
    for name, leaf in state.weights.items():
        assert torch.equal(leaf, before[name]) == name.endswith(A_SUFFIX), name
    sent = tree.size({name: leaf for name, leaf in before.items() if name.endswith(B_SUFFIX)})
    assert log.uplink_bytes == log.downlink_bytes == 2 * sent


@pytest.mark.unit
def test_svd_sends_the_residual_down_from_the_second_round_on(clients):
    config = settings("svd", rounds=2)
    states, logs = run(config, clients, ["a", "b"])
    both = 2 * tree.size(states[0].weights)
    assert [log.uplink_bytes for log in logs] == [both, both]
    assert [log.downlink_bytes for log in logs] == [both, both + 2 * tree.size(states[0].residual)]


@pytest.mark.equivalence
@pytest.mark.parametrize("rule", RULES)
def test_the_only_client_of_a_cohort_is_the_result(rule, clients):
    """Its changed weights are the server's, by a cohort of one, and by a cohort in which nobody else has a pair."""
    config = settings(rule, rounds=1)
    policy = fresh(config)
    ((state, log),) = train_feddpo(policy, clients, config, SEED, lambda _: ["nobody", "a"])
    assert (log.cohort, log.skipped) == (("a",), 1)
    left = log_probs(policy, clients["b"])
    with in_force(policy, state):
        torch.testing.assert_close(log_probs(policy, clients["b"]), left, atol=1e-4, rtol=0)
    (alone,), _ = run(config, clients, ["a"])
    assert all(torch.equal(leaf, state.weights[name]) for name, leaf in alone.weights.items())


@pytest.mark.equivalence
@pytest.mark.parametrize("rule", RULES)
def test_two_clients_with_the_same_pairs_are_one(rule, clients):
    """In batches of all their pairs, whose order is each client's own."""
    config = settings(rule, rounds=1, batch=7)
    policy, told = fresh(config), []
    for cohort in (["a"], ["a", "twin"]):
        (state,), _ = run(config, {**clients, "twin": clients["a"]}, cohort)
        with in_force(policy, state):
            told.append(log_probs(policy, clients["b"]))
    torch.testing.assert_close(*told, atol=1e-3, rtol=0)
    assert float((told[0] - clients["b"].reference[:, 0]).abs().max()) > 0.05  # the policy has moved


@pytest.mark.equivalence
def test_clients_count_by_their_pairs(clients):
    config = settings("ffa", rounds=1)
    (together,), _ = run(config, clients, ["a", "b"])
    (a,), _ = run(config, clients, ["a"])
    (b,), _ = run(config, clients, ["b"])
    for name, leaf in together.weights.items():
        torch.testing.assert_close(leaf, (7 * a.weights[name] + 4 * b.weights[name]) / 11, atol=1e-6, rtol=0)


@pytest.mark.equivalence
@pytest.mark.parametrize("rule", RULES)
def test_settled_saved_and_loaded_policies_are_the_state_in_force(rule, clients, tmp_path: Path):
    config = settings(rule, rounds=2)
    policy, other = fresh(config), clients["b"]
    base = policy.reference_log_probs(other.prompts, other.chosen)
    *_, (state, _) = train_feddpo(policy, clients, config, SEED, lambda _: ["a", "b"])
    with in_force(policy, state):
        wanted = log_probs(policy, other)
        inside = policy.reference_log_probs(other.prompts, other.chosen)
    factors_alone = log_probs(policy, other)
    settle(policy, state)
    policy.save_pretrained(tmp_path)
    loaded = load_policy(tmp_path, config, device="cpu")
    for told in (log_probs(policy, other), log_probs(loaded, other)):
        torch.testing.assert_close(told, wanted, atol=2e-4, rtol=0)
    if rule == "svd":
        assert float((factors_alone - wanted).abs().max()) > 1e-3  # or the residual is not tested
    for reference in (inside, policy.reference_log_probs(other.prompts, other.chosen)):
        assert all((told == before).all() for told, before in zip(reference, base, strict=True))


@pytest.mark.unit
def test_a_cohort_without_pairs_passes_a_round(clients):
    config = settings("svd", rounds=2)
    policy = fresh(config)
    cohorts = (["a", "b"], ["nobody"])
    (first, _), (second, log) = train_feddpo(policy, clients, config, SEED, lambda round_: cohorts[round_])
    assert (log.loss, log.cohort, log.skipped, log.uplink_bytes) == (None, (), 1, 0)
    assert second.weights is first.weights
    assert second.residual is first.residual
    assert second.round == 2


@pytest.mark.equivalence
@pytest.mark.parametrize("rule", RULES)
def test_an_update_that_is_not_finite_is_rejected_and_the_round_goes_on(rule, clients, capsys):
    config = settings(rule, rounds=1)
    broken = replace(clients["b"], reference=torch.full_like(clients["b"].reference, float("nan")))
    (state,), (log,) = run(config, {**clients, "broken": broken}, ["broken", "a"])
    assert (log.cohort, log.rejected, log.skipped) == (("broken", "a"), ("broken",), 0)
    assert "round 1: the update of client 'broken' was rejected" in capsys.readouterr().err
    (alone,), (own,) = run(config, clients, ["a"])
    assert (log.loss, own.rejected) == (own.loss, ())
    assert log.uplink_bytes == 2 * own.uplink_bytes  # it was sent all the same
    ours, theirs = state.tensors(), alone.tensors()
    assert all(torch.equal(leaf, theirs[name]) for name, leaf in ours.items())
    with pytest.raises(TrainingError, match=r"round 1: all 1 updates were rejected.*lower policy\.lr"):
        run(config, {"broken": broken}, ["broken"])


@pytest.mark.unit
def test_wrong_input_is_refused(clients):
    config = settings()
    with pytest.raises(DataError, match="None of the 1 clients has a preference pair"):
        run(config, {"nobody": clients["nobody"]}, ["nobody"])
    with pytest.raises(DataError, match=r"unknown client 'c'.*Known: a, b, nobody"):
        run(config, clients, ["a", "c"])
    with pytest.raises(ConfigError, match="takes a z"):
        next(train_feddpo(new_policy(config, "bundled", 4, SEED), clients, config, SEED, lambda _: ["a"]))
    wider = config.model_copy(update={"lora_rank": 6})
    with pytest.raises(RunError, match=r"has \(5, 384\) for .*, and the policy \(6, 384\)"):
        run(wider, clients, ["a"], FedDPOState(snapshot(fresh(config))))
