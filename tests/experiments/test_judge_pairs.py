"""A judge that was trained on what a method saw is refused; the accuracy of any other stands beside its win rates."""

import shutil

import pytest

from fedvpa.api.align import align
from fedvpa.api.compare import compare
from fedvpa.api.evaluate_policy import evaluate_policy
from fedvpa.api.judge import judge
from fedvpa.api.train import train
from fedvpa.core.errors import ConfigError, RunError
from fedvpa.core.files import read_own_object
from fedvpa.evaluation.report.tables import policy_table_text
from fedvpa.runs.config import read_config, with_overrides
from run_fixtures import TINY, TINY_POLICY

ASIDE = ("data.reserved=0.5", "data.pairs_per_user=22")
SEEN = r"\d+ of the \d+ pairs that the judge was trained on are pairs of the run"


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    """Folders of two judges of the bundled world: of pairs that runs leave aside, and of all pairs."""
    out = tmp_path_factory.mktemp("judges")
    config = read_config(None, [*TINY, *ASIDE])
    judge(config, "bundled", out / "aside")
    judge(with_overrides(config, ["data.reserved=0"]), "bundled", out / "all")
    return out


def by(folder):
    return ["policy.judging.judge=held-out", f"policy.judging.settings.path={folder}"]


@pytest.mark.end_to_end
def test_a_run_is_judged_by_pairs_that_it_left_aside_and_by_no_others(judges, tmp_path):
    run = tmp_path / "run"
    train(read_config(None, [*TINY, *ASIDE]), run)
    align(run, overrides=TINY_POLICY)
    with pytest.raises(ConfigError, match=SEEN):
        evaluate_policy(run, overrides=by(judges / "all"))
    found = evaluate_policy(run, overrides=by(judges / "aside")).to_dict()
    assert found["policy_judge"] == "held-out"
    known = read_own_object(judges / "aside" / "judge.json")["accuracy"]
    assert found["policy_judge_accuracy"] == known
    text = policy_table_text(found, 200)
    assert f"{known['helpful']['value']:.3f}" in text
    assert "accuracy" in text
    assert read_own_object(run / "policy" / "metrics.json")["policy_judge_accuracy"] == known
    copy = shutil.copytree(judges / "aside", tmp_path / "copy")
    again = evaluate_policy(run, overrides=by(copy)).to_dict()
    assert again["policy_rows"] == found["policy_rows"]


@pytest.mark.end_to_end
def test_a_comparison_is_refused_before_anything_trains(judges, tmp_path, monkeypatch):
    monkeypatch.setattr("fedvpa.api.compare._compare_selectors", lambda *_: pytest.fail("something was trained"))
    config = read_config(None, [*TINY, *TINY_POLICY, "data.pairs_per_user=22", *by(judges / "aside")])
    with pytest.raises(ConfigError, match=SEEN):
        compare(config, stage="policy", methods=["fedvpa_gp"], clients=[7], seeds=1, jobs=1, out=tmp_path / "table")


@pytest.mark.end_to_end
def test_a_judge_is_not_written_over_what_is_there(judges, tmp_path):
    config = read_config(None, [*TINY, *ASIDE])
    with pytest.raises(RunError, match="holds a judge already"):
        judge(config, "bundled", judges / "aside")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="something else than a judge"):
        judge(config, "bundled", tmp_path, overwrite=True)
