"""Pairs set aside: who trains on their prompts, and who does not."""

from __future__ import annotations

import numpy as np
import pytest

from fedvpa.data.familiar import by_familiarity, never_aside, set_aside
from fedvpa.data.partition import Partition, PartitionConfig, partition
from fedvpa.data.schema import Pair, PairTable

pytestmark = pytest.mark.unit


def people(users: int, prompts: int) -> PairTable:
    """Everybody labels each prompt twice, but the last user, whose prompts are nobody else's."""
    return PairTable(
        tuple(
            Pair(
                f"{'own ' * (user == users - 1)}{prompt}",
                f"y{turn}",
                "n",
                user_id=f"u{user}",
                pair_id=f"{user}-{prompt}-{turn}",
            )
            for user in range(users)
            for prompt in range(prompts)
            for turn in range(2)
        )
    )


def prompts_of(table: PairTable, rows) -> set[str]:
    return {str(table.pairs[row].prompt) for row in rows}


def made(share: float = 0.5) -> tuple[PairTable, Partition, Partition, dict]:
    table = people(5, 23)
    before = partition(table, PartitionConfig(kind="natural", clients=4, unseen=1, test_fraction=0.2), 3)
    return table, before, *set_aside(table, before, share, 3)


def test_what_is_set_aside_others_train_on_and_its_own_user_does_not():
    table, before, after, aside = made()
    assert sum(map(len, aside.values())) > 20
    for old, new in zip(before.clients, after.clients, strict=True):
        mine = aside[new.client_id]
        assert sorted([*new.train, *mine]) == sorted(old.train)
        assert not prompts_of(table, mine) & prompts_of(table, new.train), "of a prompt all of a client's pairs or none"
        others = [other for other in after.seen if other.client_id != new.client_id]
        assert prompts_of(table, mine) <= set().union(*(prompts_of(table, one.train) for one in others))
        np.testing.assert_array_equal(new.test, old.test)
    alone = next(client for client in after.clients if client.client_id == "u4")
    assert not len(aside["u4"]), "nobody else trains on these prompts"
    assert len(alone.train)


def test_what_may_be_set_aside_is_known_before_it_is_known_which_pairs_can_be_used():
    table, before, _, aside = made()
    kept = never_aside(table, before, 0.5, 3)
    assert all(len(client.train) for client in kept.clients)
    for dropped in ((), range(0, len(table), 3), range(0, len(table), 2)):
        usable = before.without(list(dropped))
        _, taken = set_aside(table, usable, 0.5, 3)
        for client in kept.clients:
            assert not set(client.train.tolist()) & set(taken[client.client_id].tolist())
    assert sum(map(len, aside.values())) > 20


def test_a_client_keeps_something_to_train_on():
    _, before, after, aside = made(share=1.0)
    assert all(len(client.train) for client in after.clients)
    assert after.clients[0].train.tolist() == before.clients[0].train.tolist()
    assert not any(len(rows) for rows in aside.values())


def test_test_pairs_are_told_apart_by_whether_somebody_trains_on_their_prompt():
    table, _, after, aside = made()
    known, unknown = by_familiarity(table, after, aside)
    trained = set().union(*(prompts_of(table, client.train) for client in after.seen))
    for client in after.clients:
        own = [*client.test, *aside[client.client_id]]
        assert sorted([*known[client.client_id], *unknown[client.client_id]]) == sorted(own)
        assert prompts_of(table, known[client.client_id]) <= trained
        assert not prompts_of(table, unknown[client.client_id]) & trained
        assert set(client.test) == set(unknown[client.client_id])
