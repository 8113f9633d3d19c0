"""A policy that is its base still speaks as the base does, token for token; one of noise does not."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest

from fedvpa.policy.files import PREFERENCES
from policy_fixtures import LATENT, base_folder, make_policy, tiny_config

__all__ = ["base_folder"]

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def printed(folder: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    asked = [str(folder), "--prompts", str(prompts), "--preferences", "short", "--count", "5", "--show", "1"]
    monkeypatch.setattr(sys, "argv", ["policy_language.py", *asked])
    import_module("policy_language").main()
    return capsys.readouterr().out


@pytest.mark.end_to_end
@pytest.mark.parametrize("noise", [False, True])
def test_a_fresh_policy_has_the_language_of_its_base(noise, base_folder, tmp_path, monkeypatch, capsys):
    policy = make_policy(base_folder, "gated_lora", noise=noise)
    policy.save_pretrained(tmp_path / "policy", {"settings": tiny_config(base_folder).model_dump(mode="json")})
    (tmp_path / "policy" / PREFERENCES).write_text(json.dumps({"short": [1.0] * LATENT}))
    (tmp_path / "prompts.txt").write_text("".join(f"the cat {number}\n" for number in range(7)))
    rows = printed(tmp_path / "policy", tmp_path / "prompts.txt", monkeypatch, capsys).splitlines()
    assert rows[0].startswith("5 prompts, at most 11 tokens")
    base, own = (row.strip("| ").split(" | ") for row in rows[4:6])
    assert (base[0], own[0]) == ("base", "short")
    assert base[2] == "1.000"
    assert (own[1:] == base[1:]) is not noise
    assert rows[7] == "**the cat 0**"
    assert rows[9].startswith("- *base*:")
    assert (rows[9].partition(":")[2] == rows[10].partition(":")[2]) is not noise
