"""What a selector cell is scored on beside its test pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedvpa.evaluation.accuracy import infer_clients, score_clients
from fedvpa.experiments.views import shot_scores
from fedvpa.runs.config import RunConfig
from fedvpa.runs.fit import fit
from fedvpa.runs.prepare import prepare

pytestmark = pytest.mark.unit


def test_unseen_users_give_so_many_pairs_and_the_oracle_is_told_their_group(tiny: RunConfig):
    config = tiny.with_method("local")
    prepared = prepare(config)
    done, unseen = fit(config, prepared), prepared.federation.partition.unseen
    found = shot_scores(config, prepared, done, [2, 1000])
    assert found[1000] == [], "nobody has so many"
    few = replace(
        prepared.federation,
        partition=replace(
            prepared.federation.partition,
            clients=tuple(
                client if client.seen else replace(client, train=client.train[:2])
                for client in prepared.federation.partition.clients
            ),
        ),
    )
    expected = score_clients(
        done.selector, few, unseen, infer_clients(done.selector, few, few.partition.unseen), method="local", seed=0
    )
    assert [one.correct for one in found[2]] == [one.correct for one in expected]
    told = config.with_method("oracle")
    oracle = fit(told, prepared)
    assert oracle.unseen.posterior is not None
    by_group = shot_scores(told, prepared, oracle, [1])[1]
    whole = score_clients(
        oracle.selector, prepared.federation, unseen, oracle.unseen.posterior, method="oracle", seed=0
    )
    assert [one.correct for one in by_group] == [one.correct for one in whole]
