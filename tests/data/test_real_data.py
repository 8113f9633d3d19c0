"""On the real data, where they lie beside the repository."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fedvpa.core.errors import DataError
from fedvpa.data.config import DataConfig
from fedvpa.data.load import load
from fedvpa.data.partition import PartitionConfig, partition
from fedvpa.runs.config import read_config

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real data are not beside the repository"),
]
OBJECTIVES = DataConfig(
    source="table", path=str(DATA / "hh-rlhf-objectives" / "pairs.jsonl.gz"), map={"group": "objective"}
)


def test_objectives_load_but_for_one_tie_and_four_empty_responses():
    table = load(OBJECTIVES)
    assert table.report.read == 3043
    assert table.report.skipped == {
        "chosen and rejected are equal": 1,
        "no chosen response": 1,
        "no rejected response": 3,
    }
    assert len(table) == 3038
    assert Counter(pair.group for pair in table.pairs) == {"helpful": 1629, "harmless": 1409}


def test_objectives_deal_into_clients_of_one_objective_with_a_fifth_for_test():
    table = load(OBJECTIVES)
    dealt = partition(table, PartitionConfig(clients=50), seed=0)
    assert Counter(client.group for client in dealt.clients) == {"helpful": 25, "harmless": 25}
    sizes = np.array([(len(client.train), len(client.test)) for client in dealt.clients])
    assert sizes.sum() == len(table)
    assert sizes[:, 1].sum() / sizes.sum() == pytest.approx(0.2, abs=0.03)
    trained, tested = (
        {table.pairs[row].prompt for client in dealt.clients for row in getattr(client, part)}
        for part in ("train", "test")
    )
    assert not trained & tested


@pytest.mark.parametrize(
    ("name", "folder", "users", "units", "unit"),
    [
        ("chatbot", "chatbot-personalization", 108, 25, "pair"),
        ("mtbench", "mtbench-human", 48, 79, "prompt"),
        ("news", "news-summaries", 6, 74, "prompt"),
        ("tldr", "tldr-feedback", 29, 1046, "prompt"),
        ("ukp", "ukp-convincing", 346, 12254, "pair"),
    ],
)
def test_sets_of_people_are_dealt_by_user_and_held_out_over_all(name, folder, users, units, unit):
    path = DATA / folder / "pairs.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{folder} is not beside the repository")
    config = read_config(
        Path(__file__).parents[2] / "configs" / f"people_{name}.yaml", [f"data.path={path}", "features.model=bundled"]
    )
    table = load(config.data)
    assert table.report.findings == ()
    clients = partition(table, config.partition, 0)
    held = clients.held_out(table)
    assert (held.unit, held.shared_units) == (unit, 0)
    assert users - 3 <= len(clients) <= users
    assert 0.95 * units <= held.units <= units
    assert held.test_pairs / held.pairs == pytest.approx(0.2, abs=0.08)
    assert held.untested <= users / 10


def test_harmless_base_loads_in_its_original_layout():
    table = load(DataConfig(source="hh-rlhf", path=str(DATA / "hh-rlhf"), subsets=("harmless-base",)))
    assert table.report.read == 2312
    assert table.report.skipped == {"the two responses share no prompt": 5, "no chosen response": 4}
    assert table.groups() == ["harmless"]
    assert all(pair.prompt.endswith("\n\nAssistant:") for pair in table.pairs)


def test_helpful_base_is_a_git_lfs_pointer_and_is_called_one():
    with pytest.raises(DataError, match=r"helpful-base/test\.jsonl\.gz: is a Git LFS pointer"):
        load(DataConfig(source="hh-rlhf", path=str(DATA / "hh-rlhf")))
