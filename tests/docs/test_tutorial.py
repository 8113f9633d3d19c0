import re
import shlex
from pathlib import Path

import pytest
import typer.main

from fedvpa.cli.main import app
from fedvpa.evaluation.judges.endpoint_config import EndpointConfig
from fedvpa.rewards.reward_model import RewardModelConfig
from fedvpa.runs.config import read_config

ROOT = Path(__file__).resolve().parents[2]


def commands() -> list[list[str]]:
    """The arguments of every fedvpa command in the tutorial's blocks, those under a launcher included."""
    blocks = re.findall(r"```\n(.*?)```", (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    plain = [line.replace('accelerate launch --num_processes 4 "$(command -v fedvpa)"', "fedvpa") for line in lines]
    found = [shlex.split(line.replace("$'", "'"), comments=True)[1:] for line in plain if line.startswith("fedvpa ")]
    assert len(found) > 9
    return found


@pytest.mark.unit
@pytest.mark.parametrize("arguments", commands(), ids=lambda words: " ".join(words[:3]))
def test_every_command_of_the_tutorial_has_known_options_and_keys(arguments: list[str]):
    verb = typer.main.get_command(app).commands[arguments[0]]
    given = verb.make_context(arguments[0], list(arguments[1:])).params
    path = given.get("config")
    config = read_config(ROOT / path if path else None, given.get("overrides") or [])
    if config.policy.judging.settings:
        kind = {"openai-compatible": EndpointConfig, "reward-model": RewardModelConfig}[config.policy.judging.judge]
        kind.parse(config.policy.judging.settings)


@pytest.mark.unit
def test_every_key_and_file_that_the_tutorial_names_exists():
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    files = set(re.findall(r"(?:configs|docs)/[\w./]*\w\.(?:yaml|md)", text))
    assert len(files) > 2
    assert not [name for name in files if not (ROOT / name).is_file()]
    keys = set(re.findall(r"`(policy(?:\.\w+)+)", text)) - {"policy.judging.settings"}
    assert len(keys) > 5
    known = read_config().model_dump()
    for key in keys:
        section = known
        for part in key.split("."):
            assert part in section, key
            section = section[part]
