"""The reward reads what a simulation wrote, and a response alone."""

from pathlib import Path

import numpy as np
import pytest

from fedvpa.core.errors import ConfigError, RunError
from fedvpa.data.schema import Message
from fedvpa.evaluation.judges.base import Duel, exact_reward_of
from fedvpa.evaluation.judges.make import make_judge
from fedvpa.rewards.base import ExactReward
from fedvpa.rewards.registry import REWARDS
from fedvpa.styles.simulation import Simulation
from fedvpa.styles.standard import Standard
from fedvpa.styles.users import StyleUser
from fedvpa.styles.utility import StyleUtility

pytestmark = pytest.mark.unit

SAMPLES = [
    ["You can do it at home.", "It is possible to do it at home, but it takes time and some patience."],
    ["Ask your friend, who knows it well.", "There is a man in the town who knows it, and you may ask him or her."],
]
LONG, SHORT = "There is more than one way to do it, and all of them take a while.", "Do it at once, if you can."


@pytest.fixture
def folder(tmp_path) -> Path:
    groups = {"brief": {"length": -3.0}, "long": {"length": 3.0}}
    users = (StyleUser("user-00000", "brief", groups["brief"]), StyleUser("user-00001", "long", groups["long"]))
    Simulation("mine", groups, users, Standard.of(SAMPLES), 1.0).save(tmp_path)
    return tmp_path


def test_scores_are_the_utilities_of_groups_and_users(folder):
    reward = REWARDS.get("styles")({"path": str(folder)})
    assert isinstance(reward, ExactReward)
    prompt = (Message("user", "How?"),)
    values, readable = reward.utilities([("How?", LONG), (prompt, SHORT), ("", "")], "brief")
    utility = StyleUtility({"length": -3.0}, Standard.of(SAMPLES))
    assert values == pytest.approx(utility.values([LONG, SHORT, ""])[0])
    assert readable.tolist() == [True, True, False]
    assert values[2] == utility.worst < values[0] < values[1]
    assert reward.score([("How?", LONG)], "user-00001") == [pytest.approx(-float(values[0]))]
    assert reward.score([], "long") == []


def test_it_judges_exactly(folder):
    judge = make_judge("styles", {"path": str(folder)})
    assert (judge.name, exact_reward_of(judge) is not None) == ("styles", True)
    duels = [Duel("How?", LONG, SHORT, taste) for taste in ("brief", "long")] + [Duel("How?", LONG, LONG, "long")]
    verdicts = judge.compare(duels)
    assert [verdict.score for verdict in verdicts] == [0.0, 1.0, 0.5]
    assert verdicts[2].reason == "equal utility"


def test_what_it_cannot_do_is_one_message(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"settings\.path=DIR"):
        REWARDS.get("styles")({})
    with pytest.raises(ConfigError, match=r"policy\.judging\.settings\.paths'.*'path'"):
        REWARDS.get("styles")({"paths": "x"})
    with pytest.raises(RunError, match=r"holds no simulation\.json"):
        REWARDS.get("styles")({"path": str(tmp_path / "none")})
    with pytest.raises(ConfigError, match="no group 'bref'"):
        REWARDS.get("styles")({"path": str(folder)}).score([("a", "b")], "bref")


def test_a_shortfall_of_language_costs_before_it_is_fatal(folder):
    reward = REWARDS.get("styles")({"path": str(folder)})
    once = "you may do it at home or in the town if there is time for it"
    again = " ".join(["you may do it at home"] * 3)
    first, second = np.array(reward.score([("", once), ("", again)], "long"))
    taste = StyleUtility({"length": 3.0}, Standard.of(SAMPLES)).standard.tastes([once, again]) @ np.eye(20)[0] * 3.0
    assert taste[1] > taste[0]
    assert second < first
