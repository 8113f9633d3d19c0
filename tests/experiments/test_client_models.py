from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedvpa.api.compare import compare
from fedvpa.core.errors import ConfigError, InputError
from fedvpa.core.tree import size
from fedvpa.experiments.client_models import train_voters
from fedvpa.experiments.methods import DEFAULT_POLICY_METHODS, POLICY_METHODS
from fedvpa.policy.adapters import snapshot
from fedvpa.policy.policy import new_policy
from fedvpa.runs.config import RunConfig, with_overrides
from fedvpa.runs.fit import fit, stage1_of
from fedvpa.runs.prepare import prepare
from run_fixtures import TINY_POLICY

SMALL = (
    "partition.clients=4",
    "data.pairs_per_user=9",
    "biscuit.selectors=2",
    "biscuit.lora.rounds=3",
    "biscuit.lora.cohort=2",
    "biscuit.lora.steps=2",
    "biscuit.lora.batch=3",
    "biscuit.lora.lora_rank=3",
    "biscuit.lora.base_samples=2",
    *TINY_POLICY,
)


@pytest.fixture(scope="module")
def config(tiny: RunConfig) -> RunConfig:
    return with_overrides(tiny, SMALL)


@pytest.mark.end_to_end
def test_compare_trains_and_judges_the_policies_of_lora_selectors_and_of_exact_labels(
    config: RunConfig, tmp_path: Path
):
    methods = ["exact_labels", "fedbiscuit_lora"]
    compared = compare(config, stage="policy", methods=methods, clients=[4], seeds=1, out=tmp_path, jobs=1)
    assert compared.policies is not None
    rows = compared.policies.win_rates.summary
    assert [row.method for row in rows] == methods
    assert all(set(row.preferences) == {"helpful", "harmless"} for row in rows)
    (file,) = tmp_path.glob("policies/exact_labels-4-0-*/seconds.json")
    assert set(json.loads(file.read_text())["policies"]) == {"helpful", "harmless"}
    (file,) = tmp_path.glob("policies/fedbiscuit_lora-4-0-*/seconds.json")
    notes = json.loads(file.read_text())["policies"][""]
    # Five prompts, two disjoint pairs of four samples each; all with two texts are kept.
    assert notes["pairs"]["pairs"] == 10
    assert notes["pairs"]["kept"] == 10 - notes["pairs"]["same text"]
    assert notes["stopped"]["step"] == 2
    told = notes["selector"]
    base = new_policy(config.policy.model_copy(update={"lora_rank": 3}), "bundled", None, 0, device="cpu")
    factors = snapshot(base)
    adapter = size(factors)
    assert set(told["accuracy"]) == {"all", "helpful", "harmless"}
    assert 0 <= told["accuracy"]["all"] <= 1
    assert (told["rounds"], told["prompts_truncated"], told["responses_truncated"]) == (3, 0, 0)
    # Three rounds of two clients, who get one adapter each; after the second both adapters go to all four.
    label, shapes = 2 * 4, 2 * 8 * len(factors)
    assert told["downlink_bytes"] == 6 * (adapter + label) + 4 * 2 * adapter
    # Each sends its adapter, the shapes of the other, and three numbers; at the grouping two losses and a weight twice.
    assert told["uplink_bytes"] == 6 * (adapter + shapes + 3 * 4) + 4 * (2 * 4 + 2 * 4)
    assert told["rejected"] == 0


@pytest.mark.end_to_end
def test_selectors_follow_the_seed_and_count_what_is_cut(config: RunConfig):
    prepared = prepare(config)
    done = fit(config.with_method("global"), prepared)

    def voters(*overrides: str):
        return train_voters(stage1_of(with_overrides(config, overrides), prepared, done))

    (first, one), (again, other), (cut, told) = voters(), voters(), voters("features.max_response_tokens=9")
    for mine, theirs, short in zip(first.selectors, again.selectors, cut.selectors, strict=True):
        assert all(theirs[name].equal(leaf) for name, leaf in mine.items())
        assert not all(short[name].equal(leaf) for name, leaf in mine.items())
    assert one | {"seconds": 0} == other | {"seconds": 0}
    assert one["responses_truncated"] == 0 < told["responses_truncated"]


@pytest.mark.unit
def test_the_dear_method_is_known_and_only_there_when_asked_for(config: RunConfig, tmp_path: Path):
    assert "fedbiscuit_lora" in set(POLICY_METHODS) - set(DEFAULT_POLICY_METHODS)
    with pytest.raises(ConfigError, match="Did you mean 'fedbiscuit_lora'"):
        compare(config, stage="policy", methods=["fedbiscuit_lore"], clients=[4], seeds=1, out=tmp_path)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (("data.population=individuals", "partition.kind=natural"), "exact_labels needs the true group"),
        (
            (
                "policy.judging.judge=openai-compatible",
                'policy.judging.settings={"base_url":"http://127.0.0.1:9","model":"m","api_key_env":""}',
            ),
            "Exact labels need a judge that knows",
        ),
    ],
)
def test_exact_labels_want_groups_and_an_exact_judge_before_anything_runs(config, tmp_path, overrides, problem):
    with pytest.raises(InputError, match=problem):
        compare(with_overrides(config, overrides), stage="policy", methods=["exact_labels"], clients=[4], out=tmp_path)
    assert not list(tmp_path.glob("policies/*"))
