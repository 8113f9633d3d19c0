"""The run that a deployment's server leaves is opened by the verbs that serve; its users and data are elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fedvpa.api.align import align
from fedvpa.api.evaluate import evaluate
from fedvpa.api.evaluate_policy import evaluate_policy
from fedvpa.api.export import export_release
from fedvpa.api.generate import generate
from fedvpa.api.personalize import personalize
from fedvpa.api.register import register
from fedvpa.api.report import report
from fedvpa.core.errors import ConfigError, RunError
from fedvpa.evaluation.judges.base import Verdict
from fedvpa.runs.config import RunConfig, column_overrides, dump, read_config
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.stage1 import open_stage1
from fedvpa.selector.selector import Selector
from fedvpa.world.prompts import prompts
from own_table import MAPS, SETTINGS, pairs_of, write_rows
from run_fixtures import TINY_POLICY

pytest.importorskip("flwr", reason="fedvpa[flower] is not installed")
from fedvpa.deployment.node import load_node
from fedvpa.deployment.server import serve
from here_grid import HereGrid, task

POLICY = (*TINY_POLICY, "policy.steps=1", "policy.evaluate_every=1", "policy.candidates.samples=3")
PROMPT = "how do i plan a picnic ?"


class OwnPairs(HereGrid):
    """Two nodes, each with the pairs of its own users."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        super().__init__(folder)
        path, pairs = folder / "config.yaml", pairs_of(8, 9, 5)
        path.write_text(dump(config), encoding="utf-8")
        for number in (0, 1):
            own = [pair for pair in pairs if int(str(pair.user_id).rpartition("-")[2]) % 2 == number]
            file = write_rows(folder / f"node{number}.jsonl", own)
            self.nodes[number] = load_node(str(path), str(file), "")


def serve_run(method: str, folder: Path) -> Path:
    """What a server leaves after its nodes have gone with their pairs."""
    values = ("data.source=table", *column_overrides(MAPS), *SETTINGS, "partition.kind=natural", f"method={method}")
    config = read_config(None, values)
    folder.mkdir(exist_ok=True)
    with task():
        serve(
            OwnPairs(folder, config), config, {"out": str(folder / "run"), "nodes": 2, "deadline": 9.0, "quorum": 0.5}
        )
    for file in folder.glob("node*.jsonl"):
        file.unlink()
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    run = serve_run("fedvpa_gp", folder)
    align(run, overrides=(*POLICY, public(folder)))
    return run


def public(folder: Path) -> str:
    path = folder / "prompts.txt"
    path.write_text("".join(f"{prompt.text}\n" for prompt in prompts("train")[:60]), encoding="utf-8")
    return f"policy.candidates.prompt_file={path}"


@pytest.mark.end_to_end
def test_a_served_run_serves_new_users(run: Path, tmp_path: Path, capsys) -> None:
    new = write_rows(tmp_path / "new.jsonl", pairs_of(1, 9, 77))
    found = personalize(run, new)
    assert found.pairs == 9
    prototypes = Selector.from_pretrained(run).prototypes
    for preference, z in ((f"@{new}", found.mean), ("0", prototypes[0].tolist()), ("1", prototypes[1].tolist())):
        assert generate(run, PROMPT, preference, max_new_tokens=5).z == pytest.approx(z)
    with pytest.raises(ConfigError, match=r"no user 'user-0'.*the run holds no users, who are on other machines"):
        generate(run, PROMPT, "user-0")
    capsys.readouterr()
    scored = evaluate(run, new)
    assert (scored.users, scored.known) == (1, None)
    assert scored.pairs + scored.context_pairs == 9
    assert "cannot say which pairs it was trained on: its users are on other machines" in capsys.readouterr().err
    card = (run / "policy" / "README.md").read_text()
    assert "8 clients" in card


class Longest:
    """A judge that likes the longer answer."""

    name = "longest"

    def __init__(self, *_: object) -> None:
        pass

    def compare(self, duels):
        return [Verdict(0.5 + 0.5 * np.sign(len(duel.first) - len(duel.second))) for duel in duels]


@pytest.mark.end_to_end
def test_the_policy_of_a_served_run_is_judged_at_its_prototypes_on_public_prompts(run: Path, tmp_path: Path, capsys):
    register("judge", "longest", Longest)
    run = Path(shutil.copytree(run, tmp_path / "run"))
    found = evaluate_policy(run, overrides=("policy.judging.judge=longest",))
    assert "judged at each of its 2 prototypes in turn" in capsys.readouterr().err
    outcomes = [json.loads(line) for line in (run / "policy" / "outcomes.jsonl").read_text().splitlines()]
    assert {one["user_id"] for one in outcomes} == {"prototype:0", "prototype:1"}
    assert {one["n_clients"] for one in outcomes} == {8}
    assert found.judge == "longest"
    assert report(run).page.is_file()
    release = export_release(run, tmp_path / "release").release
    assert b"prompts.txt" not in b"".join(path.read_bytes() for path in release.rglob("*.[jy]*"))
    with pytest.raises(RunError, match=r"holds no user's texts.*policy\.candidates\.prompt_file=FILE"):
        evaluate_policy(release, overrides=("policy.judging.judge=longest",))
    assert evaluate_policy(release, overrides=("policy.judging.judge=longest", public(tmp_path))).judge == "longest"


@pytest.mark.end_to_end
def test_aligning_a_served_run_on_users_prompts_says_what_it_needs(run: Path) -> None:
    ways = r"holds no user's texts.*other machines.*Give pairs of your own: data\.path=PATH; or give public prompts"
    with pytest.raises(RunError, match=ways):
        align(run, overrides=POLICY, overwrite=True)
    with pytest.raises(RunError, match=r"holds no user's texts.*data\.path=PATH\.$"):
        align(run, overrides=POLICY, overwrite=True, method="feddpo")
    assert (run / "policy" / "metrics.json").is_file()


@pytest.mark.end_to_end
def test_prompts_of_pairs_of_your_own_are_as_good(run: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "own.jsonl", pairs_of(8, 9, 78))
    align(run, overrides=(*POLICY, f"data.path={path}"), overwrite=True)
    assert json.loads((run / "policy" / "metrics.json").read_text())["method"] == "fedvpa_gp"


@pytest.mark.end_to_end
@pytest.mark.parametrize("method", ["global", "fedvpl"])
def test_every_method_is_aligned_without_its_users(method: str, tmp_path: Path) -> None:
    run = serve_run(method, tmp_path / "served")
    align(run, overrides=(*POLICY, public(tmp_path)))
    preference = None if method == "global" else [0.1] * 13
    assert generate(run, PROMPT, preference, max_new_tokens=5).answers
    folder = RunFolder.open(run)
    stage = open_stage1(folder, folder.config((*POLICY, public(tmp_path))))
    assert stage.seen.posterior is None
    assert not stage.has_text
    if method == "fedvpl":
        register("judge", "longest", Longest)
        with pytest.raises(RunError, match=r"no z that its policy could be judged at.*'fedvpl' has no prototypes"):
            evaluate_policy(run, overrides=("policy.judging.judge=longest",))
