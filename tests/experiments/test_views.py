"""What a selector cell is scored on beside its test pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fedvpa.data.partition import Partition
from fedvpa.evaluation.accuracy import infer_clients, score_clients
from fedvpa.experiments import views
from fedvpa.experiments.views import shot_scores
from fedvpa.runs.config import RunConfig
from fedvpa.runs.fit import fit
from fedvpa.runs.prepare import prepare

pytestmark = pytest.mark.unit


def test_unseen_users_give_so_many_pairs_and_the_oracle_is_told_their_group(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch
):
    config = tiny.with_method("local")
    prepared = prepare(config)
    done, unseen = fit(config, prepared), prepared.federation.partition.unseen
    found = shot_scores(config, prepared, done, [2, 1000])
    assert found[1000] == [], "nobody has so many"
    # Their z comes from so many pairs, and others do not matter.
    few = [replace(client, train=client.train[:2]) for client in unseen]
    seen = prepared.federation.partition.seen
    less = replace(prepared.federation, partition=Partition((*seen, *few)))
    posteriors = [infer_clients(done.selector, less, few), infer_clients(done.selector, less, few, shots=2)]
    assert torch.equal(posteriors[0].means, posteriors[1].means)
    given = []
    monkeypatch.setattr(views, "infer_clients", lambda *args, **told: given.append(told) or posteriors[0])
    assert shot_scores(config, prepared, done, [2])[2] == found[2]
    assert [told["shots"] for told in given] == [2]
    monkeypatch.undo()
    told = config.with_method("oracle")
    oracle = fit(told, prepared)
    assert oracle.unseen.posterior is not None
    by_group = shot_scores(told, prepared, oracle, [1])[1]
    whole = score_clients(
        oracle.selector, prepared.federation, unseen, oracle.unseen.posterior, method="oracle", seed=0
    )
    assert [one.correct for one in by_group] == [one.correct for one in whole]
