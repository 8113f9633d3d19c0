"""What a table holds, and what each unit of hold-out leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedvpa.api.dry_run import dry_run
from fedvpa.data.partition import partition
from fedvpa.data.partition_config import PartitionConfig
from fedvpa.data.schema import Pair, PairTable
from fedvpa.data.survey import survey
from fedvpa.runs.config import read_config

pytestmark = pytest.mark.unit

NATURAL = PartitionConfig(kind="natural", drop_small=True)


def votes(*given: tuple[str, str, str]) -> PairTable:
    """(user, item, winner) of items whose responses are ``a`` and ``b``."""
    return PairTable(
        tuple(
            Pair(f"p {item}", winner, "b" if winner == "a" else "a", user, pair_id=str(place))
            for place, (user, item, winner) in enumerate(given)
        )
    )


def test_votes_are_counted_by_user_and_pair():
    found = survey(
        votes(
            ("u", "1", "a"), ("v", "1", "a"), ("w", "1", "b"),  # 2 of 3 couples disagree
            ("u", "2", "a"), ("v", "2", "b"),  # 1 of 1
            ("u", "3", "a"), ("u", "3", "a"), ("u", "3", "b"),  # repeated twice, once the other way
        ),
        NATURAL,
        0,
    )  # fmt: skip
    assert (found.pairs, found.prompts, found.texts, found.users) == (8, 3, 3, 3)
    assert found.pairs_per_user == (1, 2, 5)
    assert (found.shared, found.disagreement) == (2, 3 / 4)
    assert (found.repeated, found.contradicting) == (2, 1)
    assert "2 votes repeat a user's own on the same pair; on 1 pairs a user voted both ways" in str(found)


def test_what_a_unit_leaves_is_what_the_partition_keeps():
    table = votes(*((f"u{user}", f"{user}-{place}", "a") for user in range(31) for place in range(3)))
    found = survey(table, NATURAL, 5)
    for unit in found.units:
        made = partition(table, NATURAL.model_copy(update={"unit": unit.unit}), 5)
        held = made.held_out(table)
        assert unit.users == len(made)
        assert unit.tested == len(made) - held.untested
    assert [unit.unit for unit in found.units] == ["prompt", "pair"]
    assert found.units[0].test_units > 0


def test_a_split_that_parts_a_unit_is_told_and_not_raised():
    pairs = [Pair("p", f"c{i}", "r", "u", split=split, pair_id=str(i)) for i, split in enumerate(("train", "test"))]
    by = {unit.unit: unit for unit in survey(PairTable(tuple(pairs)), NATURAL, 0).units}
    assert "elsewhere than others of the same prompt" in by["prompt"].problem
    assert by["split"].test_pairs == by["pair"].test_pairs == 1
    assert (by["split"].users, by["split"].tested) == (0, 0)


def test_nothing_is_named():
    found = survey(PairTable((Pair("p", "c", "r"),)), PartitionConfig(), 0)
    assert (found.users, found.pairs_per_user, found.disagreement, found.units[0].users) == (0, None, None, None)
    assert "no users are named\nno groups are named" in str(found)


def test_a_dry_run_says_what_the_run_would_do_without_a_model(tmp_path: Path):
    rows = [
        {"user_id": f"u{user}", "prompt": f"{user} {place}", "chosen": "a", "rejected": "b"}
        for user in range(30)
        for place in range(3)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    given = ["data.source=table", f"data.path={path}"]
    refused = dry_run(read_config(None, given))
    assert "partition.drop_small=true" in refused.problem
    assert str(refused).endswith(f"this run would be refused: {refused.problem}")
    found = dry_run(read_config(None, [*given, "partition.drop_small=true"]))
    assert found.problem == ""
    assert found.clients == found.survey.units[0].users < 30
    assert found.to_dict()["held_out"]["untested"] == found.held_out.untested
    assert f"  {30 - found.clients} users left out: too few pairs" in str(found)
