"""How many clients a comparison has where nobody says it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedvpa.core.errors import DataError
from fedvpa.data.load import load
from fedvpa.data.partition import partition
from fedvpa.experiments.cells import settings_of
from fedvpa.experiments.population import PROTOCOL, check_population, default_clients
from fedvpa.runs.config import read_config

pytestmark = pytest.mark.unit


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """23 users of two prompts each, three pairs of each."""
    rows = [
        {
            "user_id": f"u{user}",
            "prompt": f"{user} {prompt}",
            "chosen": f"a{pair}",
            "rejected": "b",
            "group": "xy"[user % 2],
        }
        for user in range(23)
        for prompt in range(2)
        for pair in range(3)
    ]
    path = tmp_path / "people.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_all_users_that_can_be_split_under_every_seed(people: Path):
    config = read_config(None, ["data.source=table", f"data.path={people}", "partition.drop_small=true"])
    found = [len(partition(load(config.data), config.partition, seed)) for seed in (3, 4, 5)]
    assert len(set(found)) > 1
    assert default_clients(config, 3, 3) == (min(found),)
    check_population(settings_of(config, default_clients(config, 3, 3), 3, 3))
    with pytest.raises(DataError, match=rf"{min(found)} users are fewer than {max(found)} seen"):
        check_population(settings_of(config, (max(found),), 3, 3))
    with pytest.raises(DataError, match=r"holds too few pairs.*partition\.drop_small=true"):
        default_clients(read_config(None, ["data.source=table", f"data.path={people}"]), 3, 3)


def test_what_the_configuration_says_comes_first_and_dealt_pairs_follow_the_protocol(people: Path):
    own = ["data.source=table", f"data.path={people}"]
    assert default_clients(read_config(None, [*own, "partition.clients=7"]), 3, 0) == (7,)
    assert default_clients(read_config(None, [*own, "partition.kind=group"]), 3, 0) == PROTOCOL
    assert default_clients(read_config(None), 3, 0) == PROTOCOL
