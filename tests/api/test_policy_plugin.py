"""A method whose clients train the policy, from outside the package: one file, which docs/plugins.md shows."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import fedvpa
from command_line import fedvpa as fedvpa_command
from fedvpa.algorithms.registry import POLICY_METHODS
from fedvpa.api.compare import compare
from fedvpa.cli.align import _described
from fedvpa.core import registry
from fedvpa.core.errors import ConfigError
from fedvpa.runs.config import RunConfig, with_overrides
from plugin import install
from run_fixtures import TINY_POLICY

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
SMALL = ("policy.lora_rank=3", "policy.candidates.max_new_tokens=17", "policy.candidates.validation_prompts=3")


@pytest.fixture
def code() -> str:
    """The block of the page."""
    section = "A method whose clients train the policy"
    block = re.search(rf"^## {section}$.*?^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert block is not None
    return block[1]


@pytest.fixture
def names(code: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the block leaves behind, in a program that has run it."""
    monkeypatch.setattr(POLICY_METHODS, "_registered", {})
    monkeypatch.setitem(sys.modules, "sft_plugin", type(sys)("sft_plugin"))
    found = vars(sys.modules["sft_plugin"])
    exec(compile(code, "docs/plugins.md", "exec"), found)
    return found


@pytest.mark.end_to_end
def test_align_trains_the_method_of_an_installed_package(code: str, finished: Path, tmp_path: Path):
    run = shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("selector"))
    points = {"fedvpa.policy_methods": {"fine_tuning": "sft_package:METHOD"}}
    registered = next(line for line in code.splitlines() if line.startswith("fedvpa.register("))
    site = install(tmp_path / "site", "sft_package", points, code.replace(registered, ""))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        registry._installed.cache_clear()
        done = fedvpa_command("align", run, *SMALL, "--method", "fine_tuning", "--json")
    registry._installed.cache_clear()
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["method"], found["policies"][""]["rounds"], found["policies"][""]["rejected"]) == (
        "fine_tuning",
        2,
        0,
    )
    lines = [json.loads(line) for line in (run / "policy" / "history.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 2]
    assert all(line["loss"] > 0 and len(line["cohort"]) == 2 for line in lines)
    moved = [leaf for name, leaf in load_file(run / "policy" / "adapter_model.safetensors").items() if "lora_B" in name]
    assert all(torch.count_nonzero(leaf) for leaf in moved)
    assert "2 rounds" in _described(found["policies"][""])
    assert "clients trained on the responses that they chose" in (run / "policy" / "README.md").read_text()
    assert "fine_tuning" not in POLICY_METHODS
    with pytest.raises(ConfigError, match="'fine_tuning' cannot align this run"):
        fedvpa.align(run, method="fine_tuning")


@pytest.mark.end_to_end
def test_a_comparison_trains_it_too(names: dict[str, Any], tiny: RunConfig, tmp_path: Path):
    assert names["METHOD"] is POLICY_METHODS.get("fine_tuning")
    config = with_overrides(tiny, ("partition.clients=4", "data.pairs_per_user=9", *TINY_POLICY))
    compared = compare(config, stage="policy", methods=["fine_tuning"], clients=[4], seeds=1, out=tmp_path, jobs=1)
    assert compared.policies is not None
    assert [row.method for row in compared.policies.win_rates.summary] == ["fine_tuning"]
    (file,) = tmp_path.glob("policies/fine_tuning-4-0-*/seconds.json")
    assert json.loads(file.read_text())["policies"][""]["rounds"] == 2
