import json
from pathlib import Path

import pytest

from fedvpa.api.align import AlignedPolicy, AlignResult
from fedvpa.api.train import train
from fedvpa.core.errors import ConfigError
from fedvpa.runs.config import RunConfig


@pytest.mark.end_to_end
def test_a_training_says_its_accuracy_as_the_file_does(tiny: RunConfig, tmp_path: Path):
    result = train(tiny, tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "metrics.json").read_text())["summary"][0]
    assert summary["method"] == tiny.method
    assert (result.accuracy, list(result.ci95)) == (summary["mean"], summary["ci95"])


def test_the_win_rate_is_that_of_the_step_that_validation_chose():
    assert AlignedPolicy(Path("policy"), {"stopped": {"step": 3, "win_rate": 0.75}}).validation_win_rate == 0.75
    assert AlignedPolicy(Path("policy"), {"rounds": 5}).validation_win_rate is None


def test_one_policy_is_given_without_its_name_and_several_are_listed():
    one, two = AlignedPolicy(Path("one"), {}), AlignedPolicy(Path("two"), {})
    assert AlignResult(Path("run"), "fedvpa_gp", {"": one}).policy is one
    with pytest.raises(ConfigError, match="'oracle' has a policy for each of helpful, harmless"):
        _ = AlignResult(Path("run"), "oracle", {"helpful": one, "harmless": two}).policy
