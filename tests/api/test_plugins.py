"""Methods and sources from outside: an installed package in other processes, and what a program registers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fedvpa
import run_fixtures
from fedvpa.algorithms.registry import METHODS
from fedvpa.core.errors import ConfigError
from plugin import install

pytestmark = pytest.mark.end_to_end

TINY = (*run_fixtures.TINY, "partition.unseen=2", "server.rounds=2")
OTHER_DATA = ("features.model=bundled", "partition.unseen=2", "server.rounds=2", "local.steps=2", "engine.workers=1")

CODE = """
    from fedvpa.algorithms.fixed_latent import FixedLatent
    from fedvpa.data.schema import Pair, PairTable
    from fedvpa.data.sources.base import Source, SourceKeys
    from fedvpa.selector.selector import InferenceConfig

    def one_head(config):
        return FixedLatent(config, "one_head", reads_groups=False, inference=InferenceConfig(method="none"))

    class RainKeys(SourceKeys):
        answer: str = "no"

    def read(keys):
        return PairTable(tuple(
            Pair(f"ask {row}", f"yes {row}", keys.answer, f"user-{row % 6}", "ab"[row % 2], pair_id=str(row))
            for row in range(48)
        ))

    RAIN = Source(RainKeys, read)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    points = {"fedvpa.methods": {"one_head": "rainy:one_head"}, "fedvpa.sources": {"rain": "rainy:RAIN"}}
    return install(tmp_path_factory.mktemp("site"), "rainy", points, CODE)


@pytest.fixture(scope="module")
def call(site: Path, tmp_path_factory):
    """Runs ``fedvpa`` where the package is installed, and gives what ``--json`` prints."""
    folder = tmp_path_factory.mktemp("work")
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
    env = os.environ | {"PYTHONPATH": path, "FEDVPA_CACHE": str(folder / "cache")}

    def run(*arguments: str):
        command = [sys.executable, "-m", "fedvpa", *arguments, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    run.folder = folder
    return run


def test_a_comparison_uses_a_method_of_an_installed_package(call):
    compared = call(
        "compare", "--methods", "global,one_head", "--clients", "4", "--seeds", "1", "--jobs", "1", "--out", "c", *TINY
    )  # fmt: skip
    accuracy = {row["method"]: row["accuracy"] for row in compared["rows"]}
    assert accuracy.keys() == {"global", "one_head", "bayes"}
    assert accuracy["one_head"] == accuracy["global"]  # the same algorithm under another name
    assert Path(call.folder, call("report", "c")["report"]).is_file()


def test_every_verb_opens_a_run_of_such_a_method_and_source(call):
    call("train", "method=one_head", "data.source=rain", "data.settings.answer=never", "--out", "r", *OTHER_DATA)
    lines = [
        json.dumps({"prompt": f"new {row}", "chosen": "yes", "rejected": "no", "group": "ab"[row % 2], "user_id": "u"})
        for row in range(6)
    ]
    (call.folder / "new.jsonl").write_text("\n".join(lines) + "\n")
    assert call("evaluate", "r", "--pairs", "new.jsonl")["pairs"] == 6
    assert call("personalize", "r", "--pairs", "new.jsonl")["pairs"] == 6
    assert Path(call.folder, call("report", "r")["report"]).is_file()


def test_where_the_package_is_missing_its_run_says_what_is_unknown():
    with pytest.raises(ConfigError, match=r"'method': There is no method 'one_head'.*entry point of the group"):
        fedvpa.read_config(None, ["method=one_head"])


def test_a_program_trains_a_method_that_it_registered(tmp_path, monkeypatch):
    from fedvpa.algorithms.registry import make

    monkeypatch.setattr(METHODS, "_registered", {})
    monkeypatch.setenv("FEDVPA_CACHE", str(tmp_path / "cache"))
    fedvpa.register("method", "mine", lambda config: make("local", config))
    config = fedvpa.read_config(None, [*TINY, "partition.clients=4", "method=mine"])
    fedvpa.train(config, tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    assert [row["method"] for row in metrics["rows"]] == ["mine"]
    assert fedvpa.report(tmp_path / "run").page.is_file()


def test_there_are_four_kinds():
    with pytest.raises(ConfigError, match=r"There is no kind 'methods'.*Did you mean 'method'"):
        fedvpa.register("methods", "mine", len)
    with pytest.raises(ConfigError, match="There is a source 'table' already"):
        fedvpa.register("source", "table", len)
    with pytest.raises(ConfigError, match=r"A source is a fedvpa\.data\.sources\.base\.Source"):
        fedvpa.register("source", "mine", len)
