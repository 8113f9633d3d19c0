from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from fedvpa.algorithms.config import BiscuitConfig
from fedvpa.algorithms.fedbiscuit_lora import (
    BiscuitRound,
    BiscuitState,
    Voters,
    choosing_model,
    damped,
    train_selectors,
)
from fedvpa.algorithms.grouping import balanced_greedy
from fedvpa.alignment.candidates import Candidates
from fedvpa.alignment.latents import Latents
from fedvpa.alignment.voting import vote_on_candidates, vote_over_base
from fedvpa.core import tree
from fedvpa.core.errors import ConfigError, DataError, RunError
from fedvpa.data.schema import Pair
from fedvpa.models.tokens import Limits
from fedvpa.policy.adapters import new_adapter
from fedvpa.policy.policy import Policy
from fedvpa.rewards.choice import Choices, Template
from fedvpa.selector.posterior import single
from fedvpa.selector.vote import majority_margins
from policy_fixtures import world_config

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
    start: BiscuitState | None = None,
    cohort: tuple[str, ...] = ("d", "a", "nobody"),
) -> list[tuple[BiscuitState, BiscuitRound]]:
    return list(train_selectors(policy, template, clients, config, SEED, lambda _: cohort, start))


@pytest.fixture(scope="module")
def told(policy, template, clients) -> list[tuple[BiscuitState, BiscuitRound]]:
    return run(policy, template, clients, settings())


def same(one: BiscuitState, other: BiscuitState) -> bool:
    ours, theirs = one.tensors(), other.tensors()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def moved(before: BiscuitState, after: BiscuitState) -> list[bool]:
    sides = zip(before.selectors, after.selectors, strict=True)
    return [any(not torch.equal(old[name], new[name]) for name in old) for old, new in sides]


@pytest.mark.unit
def test_selectors_start_apart_and_warm_up_in_turn(policy, told):
    config = settings()
    start = BiscuitState(tuple(new_adapter(policy, SEED, "fedbiscuit_lora", "init", u) for u in range(2)))
    name = next(name for name in start.selectors[0] if "lora_A" in name)
    assert not torch.equal(start.selectors[0][name], start.selectors[1][name])
    states = [start, *(state for state, _ in told)]
    assert moved(states[0], states[1]) == [True, False]
    assert moved(states[1], states[2]) == [False, True]
    assert [log.round for _, log in told] == [1, 2, 3, 4] == list(range(1, config.lora.rounds + 1))
    assert all(log.cohort == ("d", "a") and log.skipped == 1 for _, log in told)
    assert told[0][1].loss == pytest.approx(math.log(2), abs=0.1)


@pytest.mark.unit
def test_all_clients_report_after_the_warm_up_and_are_grouped_by_their_losses(policy, template, clients, told):
    assert not told[0][0].reports
    after = told[1][0]
    assert sorted(after.reports) == ["a", "b", "c", "d"], "also those that no round asked"
    losses = torch.stack([after.reports[name]["losses"] for name in "abcd"])
    labels = torch.stack([after.reports[name]["label"] for name in "abcd"]).argmax(-1)
    assert labels.tolist() == balanced_greedy(losses).tolist()
    voters = Voters(policy, template, after.selectors, 2)
    torch.testing.assert_close(losses[2], voters.losses(clients["c"]))
    assert voters.losses(clients["nobody"]).tolist() == pytest.approx([math.log(2)] * 2)
    # Groups train their selector alone, and last until the next grouping; the last round makes none.
    after_one = told[2][0]
    trained = {int(after.reports[name]["label"].argmax()) for name in ("a", "d")}
    assert moved(after, after_one) == [u in trained for u in range(2)]
    assert all(state.reports is after.reports for state, _ in told[2:])


@pytest.mark.unit
def test_losses_are_reported_of_the_first_pairs_only(policy, template, clients, told):
    few = run(policy, template, clients, settings(report_pairs=2))[1][0]
    voters = Voters(policy, template, few.selectors, 2)
    want = voters.losses(clients["a"].head(2))
    torch.testing.assert_close(few.reports["a"]["losses"], want)
    assert not torch.allclose(few.reports["a"]["losses"], told[1][0].reports["a"]["losses"])


@pytest.mark.unit
def test_aggregation_is_the_papers(policy, template, clients, told):
    before = told[1][0]
    labels = {name: int(before.reports[name]["label"].argmax()) for name in "abcd"}
    cohort = ("a", "b", "c", "nobody")
    ours = run(policy, template, clients, settings(rounds=3), before, cohort)[-1][0]
    # A cohort of one is that client's own result: N = |S_u| = 1.
    alone = {
        name: run(policy, template, clients, settings(rounds=3), before, (name,))[-1][0].selectors[labels[name]]
        for name in "abc"
    }
    for u in range(2):
        members = [alone[name] for name in "abc" if labels[name] == u]
        for name, leaf in before.selectors[u].items():
            want = (1 - len(members) / 3) * leaf + sum((own[name] for own in members), torch.zeros_like(leaf)) / 3
            torch.testing.assert_close(ours.selectors[u][name], want, atol=1e-6, rtol=0)
    one = {"x": torch.tensor([2.0])}
    assert damped(one, [{"x": torch.tensor([10.0])}, {"x": torch.tensor([6.0])}], 8)["x"].tolist() == [3.5]
    assert damped(one, [], 3) is one


@pytest.mark.equivalence
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(policy, template, clients, told):
    for done in (1, 2):
        saved = BiscuitState.of({name: leaf.clone() for name, leaf in told[done - 1][0].tensors().items()})
        assert same(saved, told[done - 1][0])
        rest = run(policy, template, clients, settings(), saved)
        assert len(rest) == 4 - done
        assert same(rest[-1][0], told[-1][0])


@pytest.mark.unit
def test_bytes_are_those_of_the_adapters_and_of_a_grouping(told):
    size = tree.size(told[0][0].selectors[0])
    assert [log.uplink_bytes for _, log in told] == [2 * size, 2 * size + 4 * 2 * 4, 2 * size, 2 * size]
    assert [log.downlink_bytes for _, log in told] == [2 * size, 2 * size + 4 * 2 * size, 2 * size, 2 * size]


@pytest.mark.unit
def test_two_groups_are_found_and_each_selector_learns_the_order_of_its_own(policy, template, clients):
    asked = (("a",), ("d",), ("a", "b", "c", "d"), ("a", "b", "c", "d"))
    config = settings(steps=9, batch=4)
    *_, (state, log) = train_selectors(policy, template, clients, config, SEED, lambda round_: asked[round_])
    label = {name: int(own["label"].argmax()) for name, own in state.reports.items()}
    assert label == {"a": 0, "b": 0, "c": 1, "d": 1}
    assert log.loss < 0.3
    voters = Voters(policy, template, state.selectors, 2)
    unseen = template.of_pairs([Pair("Why is my rug torn?", LONG, SHORT)])
    for u, sign in ((0, 1), (1, -1)):
        assert sign * float(Voters(policy, template, (state.selectors[u],), 2).margins(unseen)) > 1
    swapped = Choices(unseen.preferred_second, unseen.preferred_first, unseen.counts)
    torch.testing.assert_close(voters.margins(swapped), -voters.margins(unseen), atol=1e-5, rtol=0)


@pytest.mark.unit
def test_the_selectors_vote_on_neighbours_and_against_few_of_the_bases_samples(policy, template, told):
    voters = Voters(policy, template, told[-1][0].selectors, 3)
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
def test_wrong_input_is_refused(policy, template, clients, told):
    with pytest.raises(DataError, match="None of the 1 clients has a preference pair"):
        run(policy, template, {"nobody": clients["nobody"]}, settings())
    with pytest.raises(DataError, match=r"unknown client 'x'.*Known: a, b, c, d, nobody"):
        run(policy, template, clients, settings(), cohort=("a", "x"))
    with pytest.raises(ConfigError, match="2 selectors, 2 rounds each, leaves none of 4"):
        run(policy, template, clients, settings(warmup_rounds=2))
    with pytest.raises(RunError, match=r"has \(3, 384\) for .*, and the policy \(4, 384\)"):
        run(fresh(settings(lora_rank=4)), template, clients, settings(), told[0][0])


@pytest.mark.unit
def test_a_cohort_without_pairs_passes_a_round(policy, template, clients):
    found = list(train_selectors(policy, template, clients, settings(), SEED, lambda _: ["nobody"]))
    assert [(log.round, log.loss, log.cohort, log.skipped) for _, log in found] == [
        (n, None, (), 1) for n in (1, 2, 3, 4)
    ]
    assert found[0][1].uplink_bytes == 0
    assert moved(found[0][0], found[-1][0]) == [False, False]
