"""Pooled accuracy: every client on the test pairs of its whole group."""

from __future__ import annotations

import json

import numpy as np
import pytest

from conftest import make_federation
from fedvpa.algorithms.registry import make
from fedvpa.engines.training import start
from fedvpa.evaluation.accuracy import infer_clients, score_clients
from fedvpa.evaluation.intervals import Bootstrap
from fedvpa.evaluation.pooled import PooledScore, load_pooled, pooled_rows, pooled_scores, save_pooled, some_of
from fedvpa.evaluation.scores import ClientScore
from tests_shared import config

pytestmark = pytest.mark.unit

BOOTSTRAP = Bootstrap(resamples=2000)


def test_each_client_is_marked_on_all_pairs_of_its_group(tmp_path):
    federation, algorithm = make_federation(), make("local", config())
    selector = algorithm.selector(start(algorithm, federation, 0).server)
    clients = federation.partition.seen
    posterior = infer_clients(selector, federation, clients)
    items = [f"{row // 2:016x}" for row in range(len(federation.weights))]
    told = {"method": "local", "seed": 0, "items": items}
    pooled = pooled_scores(selector, federation, clients, posterior, **told)
    assert [one.group for one in pooled] == ["a", "b"]
    save_pooled(tmp_path / "pooled.jsonl", pooled)
    scores = {one.client_id: one for one in load_pooled(tmp_path / "pooled.jsonl")}
    own = {one.client_id: one for one in score_clients(selector, federation, clients, posterior, **told)}
    assert scores.keys() == own.keys()
    for place, group in enumerate("ab"):
        members = [client for client in clients if client.group == group]
        assert json.loads(pooled[place].clients) == [client.client_id for client in members]
        words = pooled[place].results.split()
        for position, client in enumerate(members):
            # The part of the word that is the client's own pairs is what scoring it alone says.
            before = sum(len(other.test) for other in members[:position])
            mine = words[position][before : before + len(client.test)]
            assert sum({"1": 1, "h": 0.5, "0": 0}[mark] for mark in mine) == own[client.client_id].correct
            assert scores[client.client_id].total == sum(len(other.test) for other in members)


def test_large_groups_give_evenly_many_pairs_of_each_client():
    tests = [np.arange(5), np.arange(10, 12), np.arange(20, 29)]
    assert len(some_of(tests, 16)) == 16
    assert some_of(tests, 9).tolist() == [0, 1, 2, 10, 11, 20, 21, 22]
    assert some_of(tests, 1).tolist() == [0, 10, 20]


def pooled(method: str, words: str) -> list[ClientScore]:
    clients = json.dumps([f"c{place}" for place in range(len(words.split()))])
    items = " ".join(f"{place:016x}" for place in range(4))
    return PooledScore(method, 3, 0, "a", clients, items, words).client_scores()


def test_rows_by_hand():
    scores = [*pooled("global", "1000 1100 0100"), *pooled("m", "1100 1110 1100"), *pooled("oracle", "1110 1110 1101")]
    row = next(row for row in pooled_rows(scores, BOOTSTRAP) if row.method == "m")
    assert row.mean == pytest.approx(7 / 12)
    assert row.gap_closed == pytest.approx((7 - 4) / (9 - 4))
    assert row.informed_share is None
    assert row.ci95 is not None
    assert row.ci95[0] < 7 / 12 < row.ci95[1]
