"""What of the data is left out, cut or changed is said on the terminal and kept in the files of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedvpa.api.compare import compare
from fedvpa.api.train import train
from fedvpa.core.errors import DataError
from fedvpa.runs.config import RunConfig, read_config
from fedvpa.runs.folder import RunFolder

pytestmark = pytest.mark.end_to_end

COLOURS = ("red", "blue", "green", "grey", "black", "white", "brown")


def rows(users: int = 3, pairs: int = 7) -> list[dict[str, object]]:
    """A labelling tool's export: every fifth row a tie, and one text with half an emoji."""
    found: list[dict[str, object]] = []
    for number in range(users * pairs):
        user, row = divmod(number, pairs)
        winner = "tie" if number % 5 == 4 else "AB"[number % 2]
        texts = {"response_a": f"I like {COLOURS[row]}.", "response_b": f"I hate {COLOURS[row]}."}
        found.append({"worker": f"u{user}", "prompt": f"Which colour {number}?", **texts, "winner": winner})
    found[2]["response_a"] = "I like \ud83d."
    return found


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "export.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return path


def config_of(table: Path, *more: str) -> RunConfig:
    names = ("user_id=worker", "chosen=response_a", "rejected=response_b", "winner=winner")
    return read_config(
        None,
        [
            "data.source=table",
            f"data.path={table}",
            *(f"data.map.{name}" for name in names),
            "features.model=bundled",
            "server.rounds=2",
            "local.steps=1",
            "selector.latent=3",
            "engine.cohort=2",
            "engine.workers=1",
            "partition.min_train=1",
            *more,
        ],
    )


def test_a_run_says_what_it_left_out_and_keeps_it(table, tmp_path, capsys):
    result = train(config_of(table), tmp_path / "run")
    said = capsys.readouterr().err
    assert "data: 17 of 21 rows used\n" in said
    assert f"  4 rows left out: the winner is a tie (first: {table}:5)\n" in said
    assert (
        f"  1 text changed: a half surrogate pair, which UTF-8 cannot hold, became U+FFFD (first: {table}:3)\n" in said
    )
    metrics = RunFolder.open(tmp_path / "run").metrics()
    assert metrics["data"] == result.data.to_dict()
    assert (metrics["data"]["read"], metrics["data"]["used"]) == (21, 17)
    assert metrics["data"]["findings"][0] == {
        "effect": "changed",
        "unit": "text",
        "reason": "a half surrogate pair, which UTF-8 cannot hold, became U+FFFD",
        "count": 1,
        "first": f"{table}:3",
    }


def test_under_strict_nothing_is_written(table, tmp_path):
    with pytest.raises(DataError, match=r"export\.jsonl:3: a text would be changed"):
        train(config_of(table, "data.strict=true"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_comparison_keeps_it_too(table, tmp_path, capsys):
    config = config_of(table)
    options = {"methods": ["global"], "clients": [2], "seeds": 1, "out": tmp_path, "jobs": 1}
    compare(config, **options)
    assert "4 rows left out: the winner is a tie" in capsys.readouterr().err
    first = (tmp_path / "comparison.json").read_text()
    found = json.loads(first)["data"]
    pairs, users = (sum(one["count"] for one in found["findings"] if one["unit"] == unit) for unit in ("pair", "user"))
    assert (found["read"], found["used"], users) == (21, 17 - pairs, 1)
    compare(config, **options)
    assert (tmp_path / "comparison.json").read_text() == first
