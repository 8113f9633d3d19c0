"""Every block of docs/plugins.md runs, and what it registers does what the text says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from fedvpa.algorithms.registry import METHODS, POLICY_METHODS, make
from fedvpa.core.registry import REGISTRIES
from fedvpa.data.sources.registry import SOURCES
from fedvpa.evaluation.judges.base import Duel
from fedvpa.evaluation.judges.make import make_judge
from fedvpa.evaluation.judges.registry import JUDGES
from fedvpa.rewards.registry import REWARDS
from fedvpa.selector.inference import INFERENCES
from fedvpa.selector.pairs import Pairs
from policy_fixtures import make_selector

pytestmark = pytest.mark.unit

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _own_registries(monkeypatch) -> None:
    for registry in (INFERENCES, JUDGES, METHODS, POLICY_METHODS, REWARDS, SOURCES):
        monkeypatch.setattr(registry, "_registered", {})


def run(section: str) -> dict[str, Any]:
    """The names that the section's block leaves behind."""
    block = re.search(rf"^## {section}$.*?^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert block is not None
    names: dict[str, Any] = {"__name__": "plugins"}
    exec(compile(block[1], "docs/plugins.md", "exec"), names)
    return names


def test_the_method_is_made_by_its_name():
    config = run("A method")["config"]
    method = make(config.method, config.method_config)
    assert method.name == "normal_prior"
    assert (method.config.variational.prior, method.config.variational.refinement) == ("normal", "laplace")


def test_the_way_of_inferring_z_puts_a_user_on_one_prototype():
    way = run("A way of inferring z")["MOST_LIKELY"]
    assert INFERENCES.get("most_likely") is way
    selector = make_selector(
        [[1.0, 0.0], [-1.0, 0.0]], personal=[[2.0, 0.0], [0.0, 0.0]], base=[0.0, 0.0]
    ).with_inference("most_likely")
    chosen = torch.tensor([[-1.0, 3.0]])
    found = selector.infer(Pairs(chosen, torch.zeros_like(chosen), torch.ones(1), torch.ones(1)))
    assert (found.weights.tolist(), found.mean.tolist()) == ([1.0], [-1.0, 0.0])


def test_the_source_reads_its_settings():
    names = run("A source")
    assert [pair.prompt for pair in names["pairs"]] == ["Write a haiku on snow."] * 2


def test_the_reward_becomes_a_judge():
    judging = run("A reward")["config"].policy.judging
    judge = make_judge(judging.judge, judging.settings)
    (verdict,) = judge.compare([Duel("p", "one two", "one two three", "a")])
    assert verdict.score == 1.0


def test_the_judge_is_made_by_its_name():
    judging = run("A judge")["config"].policy.judging
    duels = [Duel("p", "a", "bb", "g"), Duel("p", "aaa", "b", "g"), Duel("p", "a", "b", "g")]
    assert [verdict.score for verdict in make_judge(judging.judge, judging.settings).compare(duels)] == [1.0, 0.0, 0.5]


def test_the_entry_points_are_of_the_groups_and_names_of_the_page():
    (block,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    points = tomllib.loads(block)["project"]["entry-points"]
    assert set(points) == {f"fedvpa.{kind}s" for kind in REGISTRIES}
    for group, entries in points.items():
        kind = group.removeprefix("fedvpa.").removesuffix("s")
        for name, value in entries.items():
            assert f'fedvpa.register("{kind}", "{name}", {value.partition(":")[2]})' in PAGE
