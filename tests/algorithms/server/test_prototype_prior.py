"""What the server learns about the prototypes, against hand arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fedvpa.algorithms.base import CohortUpdate
from fedvpa.algorithms.server import prototype_prior
from fedvpa.algorithms.server.prototype_prior import PrototypeState

STATE = PrototypeState(params={}, log_prior=torch.tensor([0.5, 0.5]).log())


@pytest.mark.unit
def test_statistics_add_up_and_a_client_without_pairs_sends_zeros():
    likelihood = torch.tensor([[-1.0, -3.0, -5.0], [-2.0, -2.0, -2.0], [-9.0, 0.0, 0.0]])
    share = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.0, 1.0, 0.0]])
    sent = prototype_prior.evidence_statistics(likelihood, share, torch.tensor([5.0, 2.0, 0.0]))
    assert sent["clients"].tolist() == [1, 1, 0]
    assert sent["evidence"].tolist() == [4, 0, 0]
    assert torch.equal(sent["responsibility"], torch.stack([share[0], share[1], torch.zeros(3)]))


@pytest.mark.unit
def test_prior_and_evidence_follow_the_cohort_and_no_prototype_is_forgotten():
    sums = {
        "clients": torch.tensor(4.0),
        "evidence": torch.tensor(12.0),
        "responsibility": torch.tensor([4.0, 0.0]),
    }
    update = CohortUpdate(sums, {})
    first = prototype_prior.follow_evidence(STATE, update, 0.25, learn_prior=True)
    assert first.evidence.item() == 3
    assert first.log_prior.exp().tolist() == pytest.approx([0.625, 0.375])
    second = prototype_prior.follow_evidence(
        replace(first, evidence=torch.tensor(7.0)), update, 0.25, learn_prior=False
    )
    assert second.evidence.item() == 6
    assert torch.equal(second.log_prior, first.log_prior)
    gone = prototype_prior.follow_evidence(STATE, update, 1.0, learn_prior=True).log_prior.exp()
    assert gone.tolist() == pytest.approx([1 / 1.02, 0.02 / 1.02])
    nobody = CohortUpdate({**sums, "clients": torch.tensor(0.0)}, {})
    assert prototype_prior.follow_evidence(STATE, nobody, 0.25, learn_prior=True) is STATE


@pytest.mark.unit
def test_only_the_clients_that_reported_last_are_remembered(monkeypatch):
    monkeypatch.setattr(prototype_prior, "MEMORY", 3)
    posterior = {"mean": torch.zeros(1), "log_var": torch.zeros(1)}
    known = dict.fromkeys("abc", posterior)
    assert list(prototype_prior.remember(known, dict.fromkeys("bd", posterior))) == ["c", "b", "d"]
    assert list(prototype_prior.remember(known, dict.fromkeys("vwxyz", posterior))) == list("vwxyz")


@pytest.mark.unit
def test_clients_are_assigned_to_the_nearest_prototypes_in_equal_numbers():
    prototypes = torch.eye(2) * 3
    means = {"a": [2.0, 0.0], "b": [0.0, 1.0], "c": [1.0, 0.9], "d": [0.0, 3.0]}
    state = replace(STATE, posteriors={name: {"mean": torch.tensor(mean)} for name, mean in means.items()})
    label = prototype_prior.assigned_prototypes(state, ["d", "new", "c", "a"], prototypes)
    assert label.tolist() == [[0, 1], [0, 0], [1, 0], [1, 0]]
    assert prototype_prior.assigned_prototypes(STATE, ["a"], prototypes).tolist() == [[0, 0]]
