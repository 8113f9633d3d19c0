import subprocess
import sys

import pytest

from fedvpa.core.errors import ConfigError
from fedvpa.evaluation.judges.registry import check_judge, judge_names


@pytest.mark.unit
def test_judges_and_rewards_are_known_by_name():
    assert {"openai-compatible", "reward-model", "world"} <= set(judge_names())
    assert [check_judge(name) for name in judge_names()] == judge_names()
    with pytest.raises(ConfigError, match=r"no judge of the kind 'reward-modell'\. Did you mean 'reward-model'\?"):
        check_judge("reward-modell")


@pytest.mark.unit
def test_a_name_is_checked_without_torch_and_without_openai():
    code = (
        "import sys; from fedvpa.evaluation.judges.registry import check_judge\n"
        "for name in ('openai-compatible', 'reward-model', 'world'): check_judge(name)\n"
        "print([name for name in ('torch', 'transformers', 'openai', 'numpy') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "[]\n"
