"""Clients that train a language model, under noise: one mechanism with that of selectors, on loop and on Flower."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import firm_fixtures
from fedvpa.algorithms.client.change_length import SHARE
from fedvpa.algorithms.feddpo import FedDPO
from fedvpa.algorithms.firm import make_firm
from fedvpa.algorithms.policy_method import server_rules
from fedvpa.algorithms.soups import make_soups
from fedvpa.core.errors import ConfigError
from fedvpa.core.frozen import to_tensors
from fedvpa.engines import private
from fedvpa.engines.checkpoint import load_checkpoint, save_checkpoint
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.private import Privacy, Terms
from fedvpa.engines.runner import CohortRunner
from fedvpa.engines.text_federation import TextFederation
from fedvpa.engines.training import TrainState, rounds, start
from fedvpa.policy.dpo_trainer import schedule
from fedvpa.privacy.config import PrivacyConfig
from fedvpa.privacy.keyed import Key
from policy_fixtures import base_folder, make_examples, make_policy, tiny_config

__all__ = ["base_folder"]
SEED, USERS, ROUNDS = 5, 3, 2
FEDDPO = {"rounds": ROUNDS, "cohort": 2, "steps": 2, "batch": 2}
METHODS = ["ffa", "firm", "soups"]
Members = tuple[Any, TextFederation[Any]]


def members(folder: Path, name: str, count: int = USERS, **own: Any) -> Members:
    """A method on tiny policies, and its clients: ann, bob and nobody, who has nothing."""
    policy = make_policy(folder, None)
    if name in ("feddpo", "ffa", "svd"):
        averaging = {"feddpo": "avg"}.get(name, name)
        settings = tiny_config(
            folder, sft_weight=0, language_weight=0, feddpo={**FEDDPO, "averaging": averaging}, **own
        )
        data = {
            user: make_examples(size, with_z=False, seed=size)
            for user, size in (("ann", 5), ("bob", 3), ("nobody", 0))[:count]
        }
        return FedDPO(settings, server_rules(settings, ROUNDS)), TextFederation.of(policy, data)
    firm = firm_fixtures.firm_config(rounds=ROUNDS, steps=1, **own)
    rules = firm_fixtures.server(firm)
    algorithm = make_soups(rules, firm) if name == "soups" else make_firm(name, rules, firm)
    return algorithm, firm_fixtures.federation(policy)


def noise(sigma: float = 0.01, rate: float = 0.7, users: int = USERS, **own: Any) -> Privacy:
    settings = PrivacyConfig.parse({"noise_multiplier": 1.0, **own})
    return Privacy(settings, Terms(sigma, rate, rate * users, users, ROUNDS, 0.1), Key.of_seed(1, "policy"))


def run(
    found: Members, mechanism: Privacy | None, state: TrainState | None = None, runner: CohortRunner | None = None
) -> tuple[list[TrainState], list[dict[str, Any]]]:
    algorithm, clients = found
    begin = state or start(algorithm, clients, SEED)
    engine = EngineConfig(name="loop", cohort=2)
    told = list(rounds(algorithm, clients, engine, SEED, begin, runner, privacy=mechanism))
    return [begin, *(one for one, _ in told)], [line for _, line in told]


def assert_same(one: TrainState, two: TrainState, **tolerance: float) -> None:
    first, second = to_tensors(one.server), to_tensors(two.server)
    assert first.keys() == second.keys()
    for name, leaf in first.items():
        torch.testing.assert_close(leaf, second[name], **tolerance)


@pytest.mark.equivalence
@pytest.mark.parametrize("name", ["ffa", "firm"])
def test_history_tells_of_nobody_and_a_resumed_run_is_the_same_to_the_bit(name: str, base_folder: Path, tmp_path: Path):
    found = members(base_folder, name)
    states, lines = run(found, noise())
    for line in lines:
        assert not line["cohort"] + line["dropped"] + line["rejected"]
        assert line["losses"] == {}, "no loss, no λ and no drift of single updates"
    assert [line["privacy"]["releases"] for line in lines] == [1, 2]
    assert len({line["uplink_bytes"] for line in lines}) == 1
    save_checkpoint(tmp_path / "one", states[1], {})
    state, _ = load_checkpoint(tmp_path / "one", type(states[1].server))
    again, _ = run(members(base_folder, name), noise(), state)
    assert_same(again[-1], states[-1], rtol=0, atol=0)
    assert torch.equal(again[-1].ledger.clips["all"], states[-1].ledger.clips["all"])


@pytest.mark.unit
@pytest.mark.parametrize("name", METHODS)
def test_without_noise_and_clips_a_round_is_the_mean_over_users_that_count_alike(name: str, base_folder: Path):
    """Whatever their numbers of pairs, over the expected cohort: here all three, one of whom has nothing."""
    algorithm, clients = members(base_folder, name)
    mechanism = noise(1e-12, 1.0, clip=1e6)
    first = start(algorithm, clients, SEED)
    engine = EngineConfig(name="loop")
    second, _ = next(rounds(algorithm, clients, engine, SEED, first, privacy=mechanism))
    sums: dict[str, torch.Tensor] = {}
    for user in ("ann", "bob"):
        sent = algorithm.broadcast(first.server, [user])
        draws = algorithm.draw(SEED, sent, user, clients.size(user))
        update, _ = algorithm.client_update(sent.client(0), clients.held(user), {}, draws)
        for leaf in algorithm.expected(first.server).deltas:
            change = update.sums[f"delta.{leaf}"] / update.sums["weight"]
            sums[leaf] = sums.get(leaf, torch.zeros(())) + change
    assert any(bool(leaf.any()) for leaf in sums.values())
    for leaf, total in sums.items():
        want = first.server.params[leaf] + total / USERS
        torch.testing.assert_close(second.server.params[leaf], want, rtol=1e-4, atol=1e-6)


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Every sum before its noise, in order."""
    found, plain = [], private.noised

    def noised(sums, *arguments):
        found.append({name: leaf for name, leaf in sums.items() if name.startswith("delta.")})
        return plain(sums, *arguments)

    monkeypatch.setattr(private, "noised", noised)
    return found


@pytest.mark.unit
def test_one_user_more_changes_the_sum_of_adapters_by_the_clip_at_most(base_folder: Path, released):
    lengths = []
    for clip in (1e-3, 1e3):
        for count in (1, 2):
            algorithm, clients = members(base_folder, "feddpo", count, lr=0.3)
            terms = replace(noise(1e-12, 1.0, users=count, clip=clip).terms, rounds=1, clients=2)
            mechanism = replace(noise(clip=clip), terms=replace(terms, rate=1.0, noise_multiplier=1e-12))
            next(
                rounds(
                    algorithm,
                    clients,
                    EngineConfig(name="loop"),
                    SEED,
                    start(algorithm, clients, SEED),
                    privacy=mechanism,
                )
            )
        with_bob, without = released[-1], released[-2]
        gap = torch.cat([(leaf - without[name]).flatten() for name, leaf in with_bob.items()])
        lengths.append(float(gap.norm()))
    scale = schedule(0, ROUNDS * 2, 0.1) / 2 + schedule(1, ROUNDS * 2, 0.1) / 2
    assert lengths[0] == pytest.approx(1e-3 * scale, rel=1e-4), "bob's change is as long as the clip of this round"
    assert lengths[1] > 0.1, "and would be longer"


@pytest.mark.unit
def test_the_clip_of_adapters_starts_where_the_settings_say_and_follows_the_learning_rate(base_folder: Path):
    algorithm, clients = members(base_folder, "ffa")
    state = start(algorithm, clients, SEED).server
    for round_ in range(ROUNDS):
        expected = algorithm.expected(replace(state, round=round_))
        weights = sum(leaf.numel() for name, leaf in state.params.items() if "lora_B" in name)
        part = expected.parts["all"]
        assert part.start == pytest.approx(SHARE * 3e-3 * 2 * weights**0.5)
        rates = [schedule(step, ROUNDS * 2, 0.1) for step in (2 * round_, 2 * round_ + 1)]
        assert part.scale == pytest.approx(sum(rates) / 2)
    firm, clients = members(base_folder, "firm")
    part = firm.expected(start(firm, clients, SEED).server).parts["all"]
    assert (part.start, part.scale) == (pytest.approx(0.1 * 1 * 1.0), 1.0), "one step of 0.1 times a gradient of 1"


@pytest.mark.unit
def test_what_is_no_sum_is_refused_before_the_first_round(base_folder: Path):
    with pytest.raises(ConfigError, match="send factors") as caught:
        run(members(base_folder, "svd"), noise())
    assert len(str(caught.value)) < 700, "not the name of every weight"


@pytest.mark.equivalence
def test_nodes_of_flower_give_what_the_loop_gives(base_folder: Path):
    pytest.importorskip("flwr", reason="fedvpa[flower] is not installed")
    from fedvpa.engines.flower.client import Node
    from fedvpa.engines.flower.server import GridCohort
    from here_grid import task
    from text_grid import TextGrid

    algorithm, clients = members(base_folder, "feddpo")
    whole, lines = run((algorithm, clients), noise(0.3))
    nodes = {
        number: Node(
            algorithm, replace(clients, policy=make_policy(base_folder, None), data={user: clients.data[user]})
        )
        for number, user in enumerate(clients.client_ids)
    }
    hosts = {user: number for number, user in enumerate(clients.client_ids)}
    with task():
        cohort = GridCohort(TextGrid(nodes), hosts, False, 1.0, 1.0, "fp32")
        there, told = run((algorithm, clients), noise(0.3), runner=cohort)
    assert_same(there[-1], whole[-1], rtol=1e-5, atol=1e-5)
    assert [{**line, "seconds": 0} for line in told] == [{**line, "seconds": 0} for line in lines]
