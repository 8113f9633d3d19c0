"""Which pairs users are asked about, and the table that comes back as pairs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from fedvpa.alignment.questions import disagreements
from fedvpa.core.errors import ConfigError, RunError
from fedvpa.data.load import load
from fedvpa.data.question_table import FLAGS, check_table, write_questions
from fedvpa.data.schema import Message
from fedvpa.runs.config import column_overrides, read_config

ROWS = [("Why?", "Because.", "No, 'tis so:\nlook"), ((Message("user", "Hi"),), "Hello", "Hey, you"), ("And?", "a", "b")]


@pytest.mark.unit
def test_preferences_disagree_by_the_smaller_of_their_widest_margins() -> None:
    # Of two latents: opposite by 3 and 1; the same way; one that does not care.
    margins = torch.tensor([[[3.0, 2.0, 5.0], [-1.0, 4.0, 0.0]]])
    assert disagreements(margins).tolist() == [[1.0, -2.0, 0.0]]
    assert disagreements(-margins).tolist() == [[1.0, -2.0, 0.0]]
    assert disagreements(margins[:, :1]).tolist() == [[3.0, 2.0, 5.0]]


@pytest.mark.unit
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_table_that_somebody_filled_in_is_read_as_pairs(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_questions(path, ROWS, "ann")
    winners = ["B", "a", ""]
    if name.endswith("csv"):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(row | {"winner": winner} for row, winner in zip(rows, winners, strict=True))
    else:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert all(line["winner"] is None for line in lines)
        filled = (line | {"winner": winner or None} for line, winner in zip(lines, winners, strict=True))
        path.write_text("".join(json.dumps(line) + "\n" for line in filled))
    flags = [entry for entry in FLAGS.split() if entry != "--map"]
    table = load(
        read_config(None, ["data.source=table", f"data.path={path}", *column_overrides(flags)]).resolved_data()
    )
    assert [(pair.user_id, pair.prompt, pair.chosen, pair.rejected) for pair in table.pairs] == [
        ("ann", "Why?", ROWS[0][2], "Because."),
        ("ann", (Message("user", "Hi"),), (Message("assistant", "Hello"),), (Message("assistant", "Hey, you"),)),
    ]
    assert "no winner is given" in str(table.report)


@pytest.mark.unit
def test_a_table_is_written_nowhere_else_and_over_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.jsonl or \.csv"):
        check_table(tmp_path / "a.xlsx")
    (tmp_path / "a.csv").write_text("labels")
    with pytest.raises(RunError, match="perhaps with labels"):
        check_table(tmp_path / "a.csv")
