"""What a deployment's server leaves is enough: other verbs open it on a machine that never had a user's pairs."""

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="fedvpa[flower] is not installed")
from fedvpa.api.align import align
from fedvpa.api.evaluate import evaluate
from fedvpa.api.export import export_flower
from fedvpa.api.generate import generate
from fedvpa.api.personalize import personalize
from fedvpa.api.report import report
from fedvpa.core.errors import RunError
from fedvpa.deployment import server
from fedvpa.deployment.node import load_node
from fedvpa.runs.config import read_config
from fedvpa.selector.selector import Selector
from flower_processes import write_pairs
from here_grid import HereGrid, task
from run_fixtures import TINY_POLICY

RUN = ("server.rounds=2", "engine.cohort=3", "local.steps=2", "selector.latent=5")


@pytest.mark.end_to_end
def test_a_deployed_run_is_aligned_with_public_prompts_and_serves_a_new_user(tmp_path: Path):
    nodes = write_pairs(tmp_path, users=5, nodes=2)
    config_file = tmp_path / "app" / "fedvpa_app" / "run.yaml"
    export_flower(read_config(None, RUN), tmp_path / "app", out=tmp_path / "out", nodes=2)
    with task():
        grid = HereGrid(tmp_path)
        grid.nodes = {number: load_node(str(config_file), str(path), "") for number, path in enumerate(nodes)}
        given = {"out": str(tmp_path / "out"), "nodes": 2, "deadline": 5.0, "quorum": 0.5}
        server.serve(grid, read_config(config_file), given)
    own = nodes[0].read_text().splitlines()[:9]
    for gone in (*nodes, tmp_path / "all.jsonl", tmp_path / "app"):
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    run = Path((tmp_path / "out").rename(tmp_path / "moved"))

    new = tmp_path / "new.jsonl"
    new.write_text("".join(json.dumps({**json.loads(line), "user_id": "new"}) + "\n" for line in own))
    assert len(personalize(run, new).mean) == Selector.from_pretrained(run).config.latent
    assert evaluate(run, new).accuracy is not None
    with pytest.raises(RunError, match="its users' pairs are on other machines"):
        align(run, overrides=TINY_POLICY)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"how do i plan a picnic for {number} people ?\n" for number in range(30)))
    align(run, overrides=(*TINY_POLICY, f"policy.candidates.prompt_file={prompts}", "policy.model=bundled"))
    assert len(generate(run, "what is a good book ?", f"@{new}").answers) == 1
    assert report(run).page.is_file()
