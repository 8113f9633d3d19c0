"""The README's example runs as it stands, on pairs of the bundled world, with less of everything."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from doc_pages import PAGES, SMALL, blocks
from fedvpa import __version__, generate
from fedvpa.data.config import DataConfig
from fedvpa.data.load import load
from fedvpa.world.generate import generate_world


def write_pairs(folder: Path) -> None:
    """The two files of the example: the pairs of five users, and those of a sixth."""
    rows = [asdict(pair) for pair in generate_world("two-groups", users=6, pairs_per_user=12, seed=0)]
    last = rows[-1]["user_id"]
    for name, chosen in (("pairs", False), ("new_user", True)):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for row in rows:
                if (row["user_id"] == last) is chosen:
                    columns = ("prompt", "chosen", "rejected", "user_id")
                    file.write(json.dumps({column: row[column] for column in columns}) + "\n")


@pytest.mark.end_to_end
def test_the_example_goes_from_pairs_to_an_answer_that_follows_a_user(tmp_path: Path):
    (code,) = blocks("README.md", "python")
    assert len([line for line in code.splitlines() if line]) <= 10
    pairs = '"data.path=pairs.jsonl"'
    assert pairs in code
    write_pairs(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code.replace(pairs, ", ".join((pairs, *map(repr, SMALL))))],
        cwd=tmp_path,
        env={**os.environ, "FEDVPA_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\[(['\"]).+\1\]\n", done.stdout), done.stdout
    table = PAGES["docs/architecture.md"].partition("## What a run directory holds")[2].partition("\n## ")[0]
    run = tmp_path / "runs" / "mine"
    assert 'fedvpa.generate(run, ["How do I plan a picnic?"], "ana")' in PAGES["README.md"]
    assert len(generate(run, ["How do I plan a picnic?"], "user-00000").answers) == 1
    left = [path.relative_to(run) for path in run.rglob("*") if path.is_file()]
    assert len(left) > 15
    assert not [path for path in left if f"`{path.name}`" not in table and f"`{path}`" not in table]


@pytest.mark.unit
def test_the_line_of_pairs_can_be_read(tmp_path: Path):
    (lines,) = blocks("README.md", "json")
    (tmp_path / "pairs.jsonl").write_text(lines, encoding="utf-8")
    table = load(DataConfig(source="table", path=str(tmp_path / "pairs.jsonl"), strict=True))
    assert [(pair.user_id, bool(pair.prompt)) for pair in table.pairs] == [("ana", True)]


@pytest.mark.unit
def test_the_table_of_columns_is_whole():
    pages = PAGES["README.md"] + PAGES["docs/data.md"]
    named = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (?:yes|no)", pages, re.MULTILINE)
    columns = [name for cell in named for name in re.findall(r"\w+", cell)]
    assert sorted(columns) == sorted(type(DataConfig().map).model_fields)


@pytest.mark.unit
def test_the_page_is_short_and_names_the_wheel_of_this_version():
    assert len(PAGES["README.md"].splitlines()) <= 95
    wheels = {name for page in PAGES.values() for name in re.findall(r"fedvpa-[\d.]+-py3-none-any\.whl", page)}
    assert wheels == {f"fedvpa-{__version__}-py3-none-any.whl"}
