"""An own table of pairs: 40 users without groups, whose columns have names of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from fedvpa.api.train import train
from fedvpa.data.schema import Pair
from fedvpa.runs.config import column_overrides, read_config
from fedvpa.world.generate import generate_world

COLUMNS = {"user_id": "worker", "prompt": "question", "chosen": "better", "rejected": "worse"}
MAPS = tuple(f"{ours}={theirs}" for ours, theirs in COLUMNS.items())
USERS = 40
SETTINGS = (
    "features.model=bundled",
    "server.rounds=4",
    "local.steps=2",
    "selector.latent=13",
    "selector.rotation=13",
    "eb.components=2",
    "engine.cohort=10",
    "engine.workers=1",
)


def pairs_of(users: int, pairs: int, seed: int) -> list[Pair]:
    """Pairs of ``user-0``, ``user-1`` … in the bundled world's language, so that the bundled model can read them."""
    made = generate_world("two-groups", users, pairs, seed)
    names = [f"user-{int(pair.user_id.rpartition('-')[2])}" for pair in made]
    return [Pair(pair.prompt, pair.chosen, pair.rejected, name) for pair, name in zip(made, names, strict=True)]


def write_rows(path: Path, pairs: Sequence[Pair], columns: dict[str, str] = COLUMNS, **users: str) -> Path:
    """A file of pairs whose columns have these names; ``users`` renames users."""
    rows = [
        {
            theirs: users.get(str(pair.user_id), pair.user_id) if ours == "user_id" else getattr(pair, ours)
            for ours, theirs in columns.items()
        }
        for pair in pairs
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def own_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on such a table, whose folder is deleted afterwards; to read only."""
    folder = tmp_path_factory.mktemp("own")
    data = write_rows(folder / "data" / "pairs.jsonl", pairs_of(USERS, 7, 5))
    values = (*column_overrides(MAPS), "data.source=table", f"data.path={data}", *SETTINGS, "partition.unseen=3")
    train(read_config(None, values), folder / "run")
    data.unlink()
    data.parent.rmdir()
    return folder / "run"
