from dataclasses import replace

import pytest

from fedvpa.data.partition import partition
from fedvpa.data.partition_config import PartitionConfig
from fedvpa.data.report import DataReport
from fedvpa.data.schema import Pair, PairTable
from fedvpa.data.unused import LEFT_OVER, MORE_CONTEXT, MORE_PAIRS, MORE_USERS, NO_SHARE, SMALL, note_unused

pytestmark = pytest.mark.unit


def table(sizes, groups=("a", "b", "c")):
    pairs = [
        Pair(f"p{user}{row}", "c", "r", user_id=user, group=groups[number % len(groups)], pair_id=f"{user}:{row}")
        for number, (user, size) in enumerate(sizes.items())
        for row in range(size)
    ]
    return PairTable(tuple(pairs), DataReport(read=len(pairs), strict=True))


def noted(pairs, **settings):
    config = PartitionConfig(**settings)
    clients = partition(pairs, config, 3)
    found = note_unused(pairs, clients, config).report
    held = sum(len(part) for one in clients.clients for part in (one.train, one.validation, one.test))
    assert found.used == held
    return {(one.unit, one.reason): one.count for one in found.findings}


BIG = {f"u{number}": 23 for number in range(7)}


def test_nothing_is_said_where_all_pairs_are_held():
    assert noted(table(BIG), kind="natural") == {}
    assert noted(table(BIG), kind="group", clients=3) == {}


def test_small_users_and_users_above_the_number_are_counted_with_their_pairs():
    pairs = table({**BIG, "small": 1, "tiny": 1})
    assert noted(pairs, kind="natural", drop_small=True) == {
        ("user", SMALL): 2,
        ("pair", f"their user is left out: {SMALL}"): 2,
    }
    assert noted(pairs, kind="natural", drop_small=True, clients=4, unseen=1) == {
        ("user", SMALL): 2,
        ("pair", f"their user is left out: {SMALL}"): 2,
        ("user", MORE_USERS): 2,
        ("pair", f"their user is left out: {MORE_USERS}"): 46,
    }


def test_pairs_above_the_caps_are_counted():
    found = noted(table(BIG), kind="natural", unseen=2, pairs_per_client=5, unseen_pairs=3)
    assert set(found) == {("pair", MORE_PAIRS), ("pair", MORE_CONTEXT)}
    assert set(noted(table(BIG), kind="group", clients=3, pairs_per_client=5)) == {("pair", MORE_PAIRS)}


def test_pairs_that_shares_leave_over_are_counted():
    found = noted(table(BIG), kind="group", clients=6, shares={"a": 5, "b": 1})
    assert found[("pair", NO_SHARE)] == 46
    assert set(found) == {("pair", NO_SHARE), ("pair", LEFT_OVER)}


def test_a_user_without_test_pairs_is_too_small():
    pairs = table({**BIG, "untested": 9})
    split = [replace(pair, split="train" if pair.user_id == "untested" else None) for pair in pairs.pairs]
    found = noted(replace(pairs, pairs=tuple(split)), kind="natural", drop_small=True, min_test=1)
    assert found[("user", SMALL)] == 1
    assert ("user", MORE_USERS) not in found
