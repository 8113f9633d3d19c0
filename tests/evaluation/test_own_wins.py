"""The row that reads no text: counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fedvpa.data.partition import ClientRows
from fedvpa.data.schema import Pair
from fedvpa.evaluation.own_wins import own_wins_scores, share_rated, win_shares

pytestmark = pytest.mark.unit


def pair(chosen: str, rejected: str) -> Pair:
    return Pair("p", chosen, rejected)


TABLE = [
    pair("a", "b"),
    pair("a", "c"),
    pair("c", " b "),
    pair("a ", "d"),
    pair("b", "c"),
    pair("d", "e"),
    pair("e", "f"),
]


def client(name: str, train: list[int], test: list[int]) -> ClientRows:
    rows = [np.array(some, dtype=np.int64) for some in (train, [], test)]
    return ClientRows(name, None, name != "new", *rows)


def test_shares_of_wins_by_hand():
    assert win_shares(TABLE[:3]) == {"a": 3 / 4, "b": 1 / 4, "c": 2 / 4}


def test_own_ratings_decide_and_what_was_never_rated_is_a_coin():
    clients = [client("x", [0, 1, 2], [3, 4, 5]), client("new", [], [3]), client("idle", [0], [])]
    found = own_wins_scores(TABLE, clients, [str(row) for row in range(7)], n_clients=2, seed=5)
    # a (3/4) beats d, never rated (1/2); b (1/4) loses to c (2/4) and was chosen; d and e are never rated.
    assert [(one.client_id, one.correct, one.total, one.results, one.seen) for one in found] == [
        ("x", 1.5, 3, "1 0 h", True),
        ("new", 0.5, 1, "h", False),
    ]
    assert {(one.method, one.n_clients, one.seed) for one in found} == {("own_wins", 2, 5)}
    assert share_rated(TABLE, clients) == pytest.approx(2 / 4)
    assert share_rated(TABLE, []) == 0
