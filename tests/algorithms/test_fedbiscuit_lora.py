from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer

from fedvpa.algorithms.base import CohortUpdate
from fedvpa.algorithms.client.text_client import AdapterSetting
from fedvpa.algorithms.client.voters import ClientChoices, Voters
from fedvpa.algorithms.config import BiscuitConfig, MethodConfig, ServerConfig
from fedvpa.algorithms.fedbiscuit_lora import (
    BiscuitLoraState,
    FedBiscuitLora,
    choosing_model,
    damped,
    split,
)
from fedvpa.algorithms.server.grouping import balanced_greedy
from fedvpa.alignment.candidates import Candidates
from fedvpa.alignment.latents import Latents
from fedvpa.alignment.voting import vote_on_candidates, vote_over_base
from fedvpa.core import tree
from fedvpa.core.errors import ConfigError, DataError
from fedvpa.core.frozen import from_tensors, to_tensors
from fedvpa.core.seeds import entropy
from fedvpa.core.tree import Tree
from fedvpa.data.schema import Pair
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.text_federation import TextFederation
from fedvpa.engines.training import TrainState, rounds, start
from fedvpa.models.tokens import Limits
from fedvpa.policy.adapters import snapshot
from fedvpa.policy.policy import Policy
from fedvpa.rewards.choice import Choices, Template
from fedvpa.selector.posterior import single
from fedvpa.selector.vote import majority_margins
from policy_fixtures import world_config

Told = list[tuple[BiscuitLoraState, dict[str, Any]]]

SEED = 11
LONG, SHORT = "First, grab the saw. Second, check the clamps. Third, try the hammer.", "Sorry, I can't help."
THINGS = ("a rug", "it", "my lamp", "bread", "the door", "jet lag", "a tent")


def settings(**own: Any) -> BiscuitConfig:
    """Two selectors, one round of warm-up each, then groups; tiny."""
    lora = {"rounds": 4, "warmup_rounds": 1, "regroup_every": 2, "steps": 2, "batch": 3, "lora_rank": 3, "lr": 1e-2}
    return BiscuitConfig(selectors=own.pop("selectors", 2), lora={**lora, **own})


def fresh(config: BiscuitConfig) -> Policy:
    return choosing_model(config, world_config(), "bundled", SEED, "cpu")


@pytest.fixture(scope="module")
def policy() -> Policy:
    """Where everybody trains; it holds no state between calls."""
    return fresh(settings())


@pytest.fixture(scope="module")
def template(policy: Policy) -> Template:
    return Template.of(policy.tokenizer, Limits(512, 256, 256))


def pairs(count: int, *, long: bool) -> list[Pair]:
    """The same prompts and texts, whoever likes what."""
    return [Pair(f"How do I fix {what}?", *((LONG, SHORT) if long else (SHORT, LONG))) for what in THINGS[:count]]


@pytest.fixture(scope="module")
def clients(template: Template) -> dict[str, Choices]:
    """Two who like long responses (seven and four pairs), two who like short ones, and nobody's."""
    held = {"a": pairs(7, long=True), "b": pairs(4, long=True), "c": pairs(5, long=False), "d": pairs(6, long=False)}
    return {name: template.of_pairs(own) for name, own in {**held, "nobody": []}.items()}


def run(
    policy: Policy,
    template: Template,
    clients: Mapping[str, Choices],
    config: BiscuitConfig,
    begin: BiscuitLoraState | None = None,
    cohort: int = 3,
) -> Told:
    """States and lines of the rounds."""
    server = ServerConfig(rounds=config.lora.rounds, clip_norm=None, max_weight=None)
    algorithm = FedBiscuitLora(MethodConfig(biscuit=config, server=server))
    members = TextFederation.of(policy, {name: ClientChoices(template, own) for name, own in clients.items()})
    state = TrainState(begin) if begin else start(algorithm, members, SEED)
    going = rounds(algorithm, members, EngineConfig(name="loop", cohort=cohort), SEED, state)
    return [(state.server, line) for state, line in going]


@pytest.fixture(scope="module")
def told(policy, template, clients) -> Told:
    return run(policy, template, clients, settings())


def selectors(state: BiscuitLoraState) -> tuple[Tree, ...]:
    return split(state.params, 2)


def saved(state: BiscuitLoraState) -> BiscuitLoraState:
    return from_tensors(BiscuitLoraState, {name: leaf.clone() for name, leaf in to_tensors(state).items()})


def same(one: BiscuitLoraState, other: BiscuitLoraState) -> bool:
    ours, theirs = to_tensors(one), to_tensors(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def moved(before: BiscuitLoraState, after: BiscuitLoraState) -> list[bool]:
    sides = zip(selectors(before), selectors(after), strict=True)
    return [any(not torch.equal(old[name], new[name]) for name in old) for old, new in sides]


def first_state(policy: Policy, config: BiscuitConfig) -> BiscuitLoraState:
    start_of = FedBiscuitLora(MethodConfig(biscuit=config)).init
    return start_of(AdapterSetting.of(policy), SEED)


@pytest.mark.equivalence
def test_selectors_start_apart_as_peft_draws_them(policy):
    first = selectors(first_state(policy, settings()))
    name = next(name for name in first[0] if "lora_A" in name)
    assert not torch.equal(first[0][name], first[1][name])
    with torch.random.fork_rng():
        torch.manual_seed(entropy(SEED, "fedbiscuit_lora", "init", 1) % 2**63)
        for layer in policy.modules():
            if isinstance(layer, LoraLayer):
                layer.reset_lora_parameters("default", True)
    by_peft = snapshot(policy)
    assert all(torch.equal(leaf, by_peft[key]) for key, leaf in first[1].items())


@pytest.mark.unit
def test_selectors_warm_up_in_turn(policy, told):
    states = [first_state(policy, settings()), *(state for state, _ in told)]
    assert moved(states[0], states[1]) == [True, False]
    assert moved(states[1], states[2]) == [False, True]
    assert [state.round for state in states] == [0, 1, 2, 3, 4]
    assert not any(state.grouping for state in states)
    assert told[0][1]["losses"]["loss"] == pytest.approx(math.log(2), abs=0.1)


@pytest.mark.unit
def test_all_clients_report_after_the_warm_up_and_are_grouped_by_their_losses(policy, template, clients, told):
    assert not told[0][0].reports
    after = told[1][0]
    assert sorted(after.reports) == ["a", "b", "c", "d"], "also those that no round asked"
    losses = torch.stack([after.reports[name]["losses"] for name in "abcd"])
    labels = torch.stack([after.reports[name]["label"] for name in "abcd"]).argmax(-1)
    assert labels.tolist() == balanced_greedy(losses).tolist()
    voters = Voters(policy, template, selectors(after), 2)
    torch.testing.assert_close(losses[2], voters.losses(clients["c"]))
    assert voters.losses(clients["nobody"]).tolist() == pytest.approx([math.log(2)] * 2)
    # Groups train their selector alone, and last until the next grouping; the last round makes none.
    after_one, line = told[2]
    trained = {int(after.reports[name]["label"].argmax()) for name in line["cohort"] if len(clients[name])}
    assert moved(after, after_one) == [u in trained for u in range(2)]
    assert all(state.reports is after.reports for state, _ in told[2:])


@pytest.mark.unit
def test_losses_are_reported_of_the_first_pairs_only(policy, template, clients, told):
    few = run(policy, template, clients, settings(report_pairs=2))[1][0]
    voters = Voters(policy, template, selectors(few), 2)
    want = voters.losses(clients["a"].head(2))
    torch.testing.assert_close(few.reports["a"]["losses"], want)
    assert not torch.allclose(few.reports["a"]["losses"], told[1][0].reports["a"]["losses"])


@pytest.mark.unit
def test_aggregation_is_the_papers(policy, template, clients, told):
    before = told[1][0]
    labels = {name: int(before.reports[name]["label"].argmax()) for name in "abcd"}
    asked = {name: clients[name] for name in ("a", "b", "c", "nobody")}
    ours = run(policy, template, asked, settings(rounds=3), before, cohort=4)[-1][0]
    # A cohort of one is that client's own result: N = |S_u| = 1.
    alone = {
        name: selectors(run(policy, template, {name: clients[name]}, settings(rounds=3), before)[-1][0])[labels[name]]
        for name in "abc"
    }
    for u, (old, new) in enumerate(zip(selectors(before), selectors(ours), strict=True)):
        members = [alone[name] for name in "abc" if labels[name] == u]
        for name, leaf in old.items():
            want = (1 - len(members) / 3) * leaf + sum((own[name] for own in members), torch.zeros_like(leaf)) / 3
            torch.testing.assert_close(new[name], want, atol=1e-6, rtol=0)
    one = {"0.x": torch.tensor([2.0]), "1.x": torch.tensor([5.0])}
    changes = {"delta.0.x": torch.tensor([10.0 - 2 + 6 - 2]), "delta.1.x": torch.tensor([0.0])}
    after = damped(one, CohortUpdate({"weight": torch.tensor(8.0), **changes}))
    assert (after["0.x"].tolist(), after["1.x"].tolist()) == ([3.5], [5.0])
    assert damped(one, CohortUpdate({})) is one


@pytest.mark.equivalence
def test_three_rounds_are_those_of_the_first_release(policy, template, clients):
    """Of its table at this seed. Other kernels round differently, and Adam makes 1e-4 of that: hence four digits."""
    config = settings(rounds=5)
    (*_, (_, third), _, _) = found = run(policy, template, clients, config)
    assert [line["cohort"] for _, line in found] == [
        ["b", "c", "d"], ["a", "nobody", "c"], ["a", "b", "c"], ["a", "d", "nobody"], ["c", "nobody", "d"],
    ]  # fmt: skip
    assert [line["losses"]["loss"] for _, line in found[:4]] == pytest.approx(
        [0.691414, 0.692080, 0.692058, 0.674062], abs=2e-4
    )
    norms = [float(torch.cat([leaf.flatten() for leaf in own.values()]).norm()) for own in selectors(found[2][0])]
    assert norms == pytest.approx([4.8679, 4.9182], abs=2e-3)
    label = {name: report["label"].tolist() for name, report in found[-1][0].reports.items()}
    assert label == {"a": [0, 1], "b": [0, 1], "c": [1, 0], "d": [1, 0]}
    assert third["rejected"] == []


@pytest.mark.equivalence
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(policy, template, clients, told):
    for done in (1, 2):
        again = saved(told[done - 1][0])
        assert same(again, told[done - 1][0])
        rest = run(policy, template, clients, settings(), again)
        assert len(rest) == 4 - done
        assert same(rest[-1][0], told[-1][0])


@pytest.mark.unit
def test_bytes_are_those_of_one_adapter_each_and_of_a_grouping(told):
    size, label = tree.size(selectors(told[0][0])[0]), 2 * 4
    # A selector that a client does not train travels as its shape, a client without pairs sends shapes alone.
    shapes, numbers = len(selectors(told[0][0])[0]) * 2 * 8, 3 * 4
    training = [2 * (size + shapes + numbers) + (2 * shapes + numbers) if "nobody" in line["cohort"] else
                3 * (size + shapes + numbers) for _, line in told]  # fmt: skip
    report = 5 * (2 * 4 + 4 + 4)
    assert [line["uplink_bytes"] for _, line in told] == [
        own + report * (place == 1) for place, own in enumerate(training)
    ]
    down = 3 * (size + label)
    assert [line["downlink_bytes"] for _, line in told] == [down, down + 5 * 2 * size, down, down]


@pytest.mark.unit
def test_who_is_silent_at_a_grouping_keeps_the_losses_that_it_reported(told):
    method = FedBiscuitLora(MethodConfig(biscuit=settings()))
    state = replace(told[1][0], round=3, grouping=True)
    heard = {"losses": torch.tensor([0.1, 0.9]), "weight": torch.tensor(1.0)}
    empty = {"losses": torch.tensor([0.1, 0.9]), "weight": torch.tensor(0.0)}
    after, _ = method.server_update(state, CohortUpdate({"weight": torch.tensor(1.0)}, {"a": heard, "e": empty}))
    assert (sorted(after.reports), after.round, after.grouping) == (["a", "b", "c", "d"], 4, False)
    assert after.reports["a"]["losses"].tolist() == pytest.approx([0.1, 0.9])
    assert torch.equal(after.reports["b"]["losses"], state.reports["b"]["losses"])


@pytest.mark.unit
def test_two_groups_are_found_and_each_selector_learns_the_order_of_its_own(policy, template, clients):
    config = settings(steps=9, batch=4)
    one = run(policy, template, {"a": clients["a"]}, config)[0][0]
    both = run(policy, template, {"d": clients["d"]}, config, one)[0][0]
    *_, (state, line) = run(policy, template, clients, config, replace(both, round=1, grouping=True), cohort=5)
    label = {name: int(own["label"].argmax()) for name, own in state.reports.items()}
    assert label == {"a": 0, "b": 0, "c": 1, "d": 1}
    assert line["losses"]["loss"] < 0.3
    voters = Voters(policy, template, selectors(state), 2)
    unseen = template.of_pairs([Pair("Why is my rug torn?", LONG, SHORT)])
    for u, sign in ((0, 1), (1, -1)):
        assert sign * float(Voters(policy, template, (selectors(state)[u],), 2).margins(unseen)) > 1
    swapped = Choices(unseen.preferred_second, unseen.preferred_first, unseen.counts)
    torch.testing.assert_close(voters.margins(swapped), -voters.margins(unseen), atol=1e-5, rtol=0)


@pytest.mark.unit
def test_the_selectors_vote_on_neighbours_and_against_few_of_the_bases_samples(policy, template, told):
    voters = Voters(policy, template, selectors(told[-1][0]), 3)
    texts = ["First, grab the saw.", "No.", "Nah.", "Sorry, I can't help.", "Cheers, have a lovely day!"]
    responses = [[policy.tokenizer.encode(text) for text in order] for order in (texts, texts[::-1])]
    prompts = policy.tokenizer.prompts(["How do I fix a rug?", "Why?"])
    base = Candidates(prompts, responses, torch.zeros(2, 5, 1), [], torch.ones(2, 5, dtype=torch.bool))
    z = torch.zeros(2, 1)
    compared = vote_on_candidates(voters, base, Latents(single(z, z), z, torch.zeros(2, dtype=torch.long)))
    assert (compared.first.tolist(), compared.second.tolist()) == ([0, 2], [1, 3])
    found = [policy.tokenizer.encode("Thank you."), policy.tokenizer.encode("Hi there.")]
    over_base = vote_over_base(voters, base)(found)
    assert (compared.margins.shape, over_base.shape) == ((2, 2), (2, 3))

    def vote(row: int, first: np.ndarray, second: np.ndarray) -> torch.Tensor:
        choices = template.of_tokens([prompts[row]], [first], [second])
        return majority_margins(
            torch.stack([Voters(policy, template, (own,), 3).margins(choices) for own in voters.selectors])
        )

    for row in range(2):
        for place in range(2):
            want = vote(row, responses[row][2 * place], responses[row][2 * place + 1])
            torch.testing.assert_close(compared.margins[row, place : place + 1], want, atol=1e-5, rtol=0)
        torch.testing.assert_close(over_base[row, 2:3], vote(row, found[row], responses[row][2]), atol=1e-5, rtol=0)
    with pytest.raises(DataError, match="one order of the candidates of 2 prompts, not 4"):
        vote_on_candidates(voters, base, Latents(single(z, z), z.repeat(2, 1), torch.zeros(4, dtype=torch.long)))


@pytest.mark.unit
def test_wrong_settings_are_refused(policy, told):
    with pytest.raises(ConfigError, match="2 selectors, 2 rounds each, leaves none of 4"):
        FedBiscuitLora(MethodConfig(biscuit=settings(warmup_rounds=2)))
    with pytest.raises(ConfigError, match=r"the rule 'median' .*policy\.clients\.rule=mean"):
        FedBiscuitLora(MethodConfig(biscuit=settings(), server=ServerConfig(rule="median")))


@pytest.mark.unit
def test_a_cohort_without_pairs_passes_a_round(policy, template, clients):
    found = run(policy, template, {"nobody": clients["nobody"]}, settings())
    assert [(state.round, line["losses"]) for state, line in found] == [(n, {}) for n in (1, 2, 3, 4)]
    assert found[1][0].reports == {}
    assert moved(found[0][0], found[-1][0]) == [False, False]
