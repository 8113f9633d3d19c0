"""New pairs: none that training saw is scored, no two users are mixed, no other features are read."""

import json
from pathlib import Path

import pytest

from fedvpa.api.evaluate import evaluate
from fedvpa.api.personalize import personalize
from fedvpa.api.train import train
from fedvpa.core.errors import DataError, ModelError
from fedvpa.runs.config import read_config

ROWS = [
    {"prompt": f"how do i plan {i} ?", "chosen": f"bring {i} .", "rejected": f"no {i} .", "kind": "ab"[i % 2]}
    for i in range(53)
]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    data = write(folder / "pairs.jsonl", ROWS)
    values = (
        "data.source=table",
        f"data.path={data}",
        "features.model=bundled",
        "data.map.group=kind",
        "partition.kind=group",
    )
    train(read_config(None, (*values, "partition.clients=4", "server.rounds=3", "engine.workers=1")), folder / "run")
    return folder / "run"


@pytest.mark.end_to_end
def test_pairs_of_the_training_data_are_not_scored(run: Path, tmp_path: Path) -> None:
    turned = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in ROWS[:3]]
    fresh = [row | {"prompt": f"another {i} ?"} for i, row in enumerate(ROWS[:5])]
    other = [fresh[0] | {"kind": "c"}]
    found = evaluate(run, write(tmp_path / "new.jsonl", [*ROWS[:7], *turned, *fresh, *other]))
    assert found.pairs == 5
    assert sorted(found.skipped.values()) == [1, 10]
    assert set(found.groups) == {"a", "b"}


@pytest.mark.end_to_end
def test_nothing_left_to_score_is_an_error(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pair is left to score: 7 × the same pair, of the same group"):
        evaluate(run, write(tmp_path / "new.jsonl", ROWS[:7]))
    with pytest.raises(DataError, match=r"its groups \(c\) are none of the run's \(a, b\)"):
        evaluate(run, write(tmp_path / "other.jsonl", [ROWS[0] | {"kind": "c"}]), by="group")
    with pytest.raises(DataError, match="no column 'kinds'"):
        evaluate(run, write(tmp_path / "none.jsonl", [ROWS[0]]), group_column="kinds")


@pytest.mark.end_to_end
def test_users_are_never_mixed(run: Path, tmp_path: Path) -> None:
    pairs = write(tmp_path / "new.jsonl", [row | {"user_id": f"user {i % 3}"} for i, row in enumerate(ROWS)])
    with pytest.raises(DataError, match="user='user 0'"):
        personalize(run, pairs)
    with pytest.raises(DataError, match="Did you mean 'user 1'"):
        personalize(run, pairs, user="user1")
    assert personalize(run, pairs, user="user 1").pairs == 18


@pytest.mark.end_to_end
def test_other_features_are_refused(run: Path, tmp_path: Path) -> None:
    pairs = write(tmp_path / "new.jsonl", ROWS[:5])
    with pytest.raises(ModelError, match="max_response_tokens = 256"):
        personalize(run, pairs, overrides=["features.max_response_tokens=7"])
