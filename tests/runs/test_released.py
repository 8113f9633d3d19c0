"""Stage 2 of a run with noise sees public prompts and the released selector, and nothing else of users."""

from dataclasses import replace

import pytest
import torch

from command_line import fedvpa
from fedvpa.alignment.setup import latents_of
from fedvpa.api.compare import compare
from fedvpa.api.train import train
from fedvpa.core.errors import ConfigError
from fedvpa.core.files import read_own_object
from fedvpa.policy.config import PolicyConfig
from fedvpa.privacy.config import PrivacyConfig
from fedvpa.runs.config import read_config, with_overrides
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.released import check_methods, released
from fedvpa.runs.stage1 import open_stage1
from run_fixtures import TINY_POLICY

PRIOR = "policy.preferences.posteriors=0"
PRIVATE = ["method=fedem", "selector.rotation=none", "privacy.noise_multiplier=2"]
NO_Z = {"preferences": {"posteriors": 0.0}}


@pytest.fixture(scope="module")
def opened(finished):
    folder = RunFolder.open(finished)
    config = folder.config([PRIOR])
    return open_stage1(folder, config), config.model_copy(update={"privacy": PrivacyConfig(noise_multiplier=1.0)})


@pytest.mark.unit
def test_without_noise_the_stage_is_as_it_was(opened):
    stage, config = opened
    assert released(stage, config.model_copy(update={"privacy": PrivacyConfig()})) is stage


@pytest.mark.unit
def test_nothing_of_users_is_left(opened):
    stage, config = opened
    assert stage.seen.ids
    found = released(stage, config)
    assert found.seen.ids == found.unseen.ids == found.groups == ()
    assert found.seen.posterior is None
    assert not found.has_text
    assert found.named_preferences() == {}
    assert found.open_tastes() == {}
    with pytest.raises(ConfigError, match="would read users' pairs"):
        _ = found.pairs


@pytest.mark.unit
def test_latents_are_the_same_whoever_the_users_are(opened):
    stage, config = opened
    posterior = stage.seen.posterior
    assert posterior is not None
    others = replace(stage, seen=replace(stage.seen, posterior=posterior[torch.arange(len(stage.seen.ids)).flip(0)]))
    first, second = (latents_of(released(one, config), "", 40).z for one in (stage, others))
    assert torch.equal(first, second)
    own = PolicyConfig.parse({"preferences": {"posteriors": 0.4}})
    assert not torch.equal(*(latents_of(replace(one, policy=own), "", 40).z for one in (stage, others)))
    assert bool((latents_of(released(stage, config), "", 40).user < 0).all())


@pytest.mark.unit
@pytest.mark.parametrize(
    ("candidates", "world", "words"),
    [
        (
            {"source": "pairs", "prompt_file": "p.txt"},
            True,
            "policy.candidates.source': the responses of users' own pairs",
        ),
        ({}, False, "policy.candidates.prompt_file': the prompts of users' pairs would train"),
        ({"prompt_file": "p.txt"}, False, "policy.preferences.posteriors': 40% of the latents would be users' own"),
    ],
)
def test_users_texts_are_refused(opened, candidates, world, words):
    stage, config = opened
    policy = PolicyConfig.parse({"candidates": candidates})
    with pytest.raises(ConfigError, match=words):
        released(replace(stage, policy=policy, world=world), config)


@pytest.mark.unit
def test_public_prompts_will_do_for_own_data(opened):
    stage, config = opened
    policy = PolicyConfig.parse({"candidates": {"prompt_file": "p.txt"}, **NO_Z})
    assert released(replace(stage, policy=policy, world=False), config).seen.ids == ()


@pytest.mark.unit
def test_policies_of_groups_are_refused(opened):
    stage, config = opened
    grouped = replace(stage, algorithm=replace(stage.algorithm, reads_groups=True), method="oracle")
    with pytest.raises(ConfigError, match="'oracle' has a policy for each true group"):
        released(grouped, config)


@pytest.mark.end_to_end
def test_the_policy_of_a_private_run_says_what_covers_it(tiny, tmp_path):
    train(with_overrides(tiny, PRIVATE), tmp_path / "run")
    done = fedvpa("align", tmp_path / "run", *TINY_POLICY, PRIOR)
    assert done.returncode == 0, done.stderr
    assert "privacy: z comes from the released prior" in done.stderr
    card = (tmp_path / "run" / "policy" / "README.md").read_text()
    assert "ε covers this policy, too." in card
    assert "selector that 7 clients trained" in card
    assert read_own_object(tmp_path / "run" / "policy" / "preferences.json") == {}


@pytest.mark.unit
def test_noise_brings_latents_of_the_prior_unless_others_are_given():
    assert read_config(None, ["privacy.epsilon=3"]).policy.preferences.posteriors == 0
    assert read_config(None, []).policy.preferences.posteriors == 0.4
    assert read_config(None, ["privacy.epsilon=3", "policy.preferences.posteriors=0.3"]).policy.preferences.posteriors


@pytest.mark.unit
@pytest.mark.parametrize(
    ("methods", "words"),
    [
        (["fedem", "fedcmoo"], "'fedcmoo' cannot be trained with noise: its server weighs the objectives by the inner"),
        (
            ["fedem", "fedbiscuit_lora"],
            "'fedbiscuit_lora' cannot be trained with noise: it groups its clients by losses",
        ),
        (["fedem", "oracle"], "'oracle' has a policy for each true group"),
    ],
)
def test_a_comparison_of_private_policies_is_checked_before_it_trains(tiny, tmp_path, methods, words):
    config = with_overrides(tiny, [*PRIVATE, PRIOR])
    with pytest.raises(ConfigError, match=words):
        compare(config, stage="policy", methods=methods, out=tmp_path / "compared", seeds=1)
    assert not (tmp_path / "compared").exists()
    check_methods(config, ["fedem", "global", "exact_labels", "feddpo", "firm", "mgda", "scalar", "single", "soups"])
    check_methods(tiny, methods)
