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
    from fedvpa.selector.config import InferenceConfig

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


LINES = """
import contextlib, io, json, sys
from fedvpa.cli.main import main
for line in json.load(sys.stdin):
    sys.argv[1:], said = [*line, "--json"], io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            main()
        except SystemExit as end:
            assert not end.code, line
    print(json.dumps(json.loads(said.getvalue())))
"""
"""Runs several command lines in one process, and prints what each of them does on a line."""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    points = {"fedvpa.methods": {"one_head": "rainy:one_head"}, "fedvpa.sources": {"rain": "rainy:RAIN"}}
    return install(tmp_path / "site", "rainy", points, CODE)


def test_every_verb_knows_the_method_and_the_source_of_an_installed_package(installed: Path, tmp_path: Path):
    pair = {"chosen": "yes", "rejected": "no", "user_id": "u"}
    rows = [json.dumps(pair | {"prompt": f"new {row}", "group": "ab"[row % 2]}) for row in range(6)]
    (tmp_path / "new.jsonl").write_text("\n".join(rows) + "\n")
    compare = ["compare", "--methods", "global,one_head", "--clients", "4", "--seeds", "1", "--jobs", "1", "--out", "c"]
    train = ["train", "method=one_head", "data.source=rain", "data.settings.answer=never", "--out", "r", *OTHER_DATA]
    lines = [[*compare, *TINY], ["report", "c"], train]
    lines += [[verb, "r", "--pairs", "new.jsonl"] for verb in ("evaluate", "personalize")]
    lines += [["report", "r"]]
    path = os.pathsep.join(filter(None, (str(installed), os.environ.get("PYTHONPATH"))))
    env = os.environ | {"PYTHONPATH": path, "FEDVPA_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", LINES]
    done = subprocess.run(
        command, input=json.dumps(lines), capture_output=True, text=True, cwd=tmp_path, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    compared, page, _, evaluated, user, other_page = map(json.loads, done.stdout.splitlines())
    accuracy = {row["method"]: row["accuracy"] for row in compared["rows"]}
    assert accuracy.keys() == {"global", "one_head", "bayes"}
    assert accuracy["one_head"] == accuracy["global"]  # the same algorithm under another name
    assert (evaluated["pairs"], user["pairs"]) == (6, 6)
    assert Path(tmp_path, page["report"]).is_file()
    assert Path(tmp_path, other_page["report"]).is_file()


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
