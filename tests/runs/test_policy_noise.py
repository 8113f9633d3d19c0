"""The noise of a policy that clients train: which settings it takes, what it is composed with, what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from fedvpa.core.errors import ConfigError
from fedvpa.engines.private import Ledger
from fedvpa.privacy.accounting import Releases, epsilon_composed, epsilon_server
from fedvpa.privacy.keyed import Key
from fedvpa.runs.config import RunConfig, read_config
from fedvpa.runs.policy_noise import PolicyNoise, check_policy, composed, policy_noise, selector_released
from fedvpa.runs.policy_task import task_of_config

pytestmark = pytest.mark.unit
PRIVATE = ["server.rounds=50", "engine.cohort=100"]
SELECTOR = {"noise_multiplier": 1.21, "rate": 0.1, "rounds": 50, "delta": 5e-4, "most_participations": 12}
USERS = tuple(f"user-{number}" for number in range(1000))


def config(*overrides: str) -> RunConfig:
    noised = [] if "privacy.epsilon=3" in overrides else ["privacy.noise_multiplier=1"]
    return read_config(None, [*PRIVATE, *noised, *overrides])


def noise(*overrides: str, method: str = "feddpo", clients: int = 1000, **more: Any) -> PolicyNoise:
    run = config(*overrides)
    found = policy_noise(run, method, task_of_config(run), clients, SELECTOR, **more)
    assert found is not None
    return found


def test_the_section_of_the_run_holds_with_the_rounds_and_the_cohort_of_the_policy():
    found = noise("privacy.epsilon=3", "policy.feddpo.rounds=20", "policy.feddpo.cohort=50")
    terms = found.privacy.terms
    assert (terms.rate, terms.cohort, terms.rounds, terms.clients) == (0.05, 50, 20, 1000)
    own = epsilon_composed([Releases(terms.noise_multiplier, 0.05, 20)], terms.delta)
    assert own == pytest.approx(3, rel=1e-3)
    assert terms.delta == pytest.approx(1000**-1.1)
    firm = noise("firm.rounds=7", "firm.cohort=100", method="firm").privacy.terms
    assert (firm.rounds, firm.cohort) == (7, 100)


def test_the_clip_is_of_adapters_and_not_that_of_the_selector():
    for given, clip in (("auto", "auto"), ("0.7", 0.7)):
        found = noise("privacy.clip=0.01", "privacy.clip_start=0.3", f"policy.clients.clip_norm={given}").privacy.config
        assert (found.clip, found.clip_start) == (clip, None)
    assert noise("privacy.clip_quantile=0.3").privacy.config.clip_quantile == 0.3


def test_the_key_is_not_that_of_stage_1():
    assert noise("privacy.seeded=true").privacy.key == Key.of_seed(0, "policy") != Key.of_seed(0)
    assert noise().privacy.key != noise().privacy.key
    own = Key.new()
    assert noise(key=own).privacy.key == own


def test_both_trainings_together_cost_what_composes():
    policy = {"noise_multiplier": 0.9, "rate": 0.25, "rounds": 10, "delta": 1e-4, "most_participations": 6}
    found = composed(policy, SELECTOR)
    assert found["delta"] == 1e-4, "the smaller one"
    assert found["epsilon_released"] == epsilon_composed([Releases(0.9, 0.25, 10), Releases(1.21, 0.1, 50)], 1e-4)
    spent = (6 / 0.9**2 + 12 / 1.21**2) ** -0.5
    assert found["epsilon_server"] == pytest.approx(epsilon_server(spent, 1, 1e-4)), "6 and 12 Gaussian releases"


def test_the_release_that_features_were_standardised_by_is_of_the_selector_alone():
    policy = {"noise_multiplier": 0.9, "rate": 0.25, "rounds": 10, "delta": 1e-4, "most_participations": 6}
    found = composed(policy, {**SELECTOR, "scaling_noise": 5.0})
    three = [Releases(0.9, 0.25, 10), Releases(1.21, 0.1, 50), Releases(5.0, 1.0, 1)]
    assert found["epsilon_released"] == epsilon_composed(three, 1e-4)
    assert found["epsilon_server"] > composed(policy, SELECTOR)["epsilon_server"]
    own = noise("privacy.scaling=private", "privacy.scaling_noise=2").privacy
    assert own.terms.once is None
    assert selector_released(config("privacy.scaling=private"), 1000, None)["scaling_noise"] == 5.0


@pytest.mark.parametrize("reads", [False, True])
def test_a_policy_that_read_the_selector_has_the_figures_of_both(reads: bool):
    found = replace(noise("policy.feddpo.rounds=4", "policy.feddpo.cohort=200"), reads_selector=reads)
    spent = found.spent(Ledger({"all": torch.tensor(0.5)}, 4), USERS)
    both = spent["with_selector"]
    alone = epsilon_composed([Releases(1.0, 0.2, 4)], spent["delta"])
    assert both["epsilon_released"] > alone > 0
    assert spent["reads_selector"] is reads
    same = [spent[key] == both[key] for key in ("epsilon_released", "epsilon_server")]
    assert same == [reads, reads]
    if not reads:
        assert spent["epsilon_released"] == alone
    assert "adapters" in spent["covered"]


def test_a_method_with_a_prototype_as_objective_reads_the_selector():
    objectives = "firm.objectives=world:helpful,selector:1"
    assert noise(objectives, method="firm").reads_selector
    assert not noise(method="firm").reads_selector


def test_a_selector_that_is_not_finished_counts_with_all_that_it_may_release():
    found = {**SELECTOR, "rounds": 20}
    assert selector_released(config(), 1000, SELECTOR) is SELECTOR
    for told in (None, found):
        planned = selector_released(config(), 1000, told)
        assert (planned["rounds"], planned["most_participations"], planned["rate"]) == (50, 50, 0.1)


@pytest.mark.parametrize(
    ("method", "overrides", "words"),
    [
        ("fedcmoo", [], "inner products of summed gradients, and noise on the n weights"),
        ("feddpo", ["policy.feddpo.averaging=svd"], "averaging=svd multiplies the two factors of each client"),
        ("feddpo", ["privacy.canaries=9"], "9 canaries are asked for with a policy that clients train"),
    ],
)
def test_what_cannot_have_noise_is_refused_in_one_line(method: str, overrides: list[str], words: str):
    run = config(*overrides)
    with pytest.raises(ConfigError, match=words) as caught:
        check_policy(run, method, task_of_config(run))
    assert "\n" not in str(caught.value)
    check_policy(read_config(None, overrides[:1] if method != "feddpo" else []), method, task_of_config(run))


def test_a_cohort_beyond_the_federation_is_refused_by_its_own_key():
    with pytest.raises(ConfigError, match=r"policy\.feddpo\.cohort': a cohort of 20 is larger .* of 7 clients"):
        noise("policy.feddpo.cohort=20", clients=7)
    run = read_config(None, [])
    assert policy_noise(run, "feddpo", task_of_config(run), 7, {}) is None
