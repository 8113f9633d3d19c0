"""What the server learns from sums of evidence and of moments, against hand arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fedvpa.algorithms.base import CohortUpdate
from fedvpa.algorithms.server import posterior_exchange
from fedvpa.algorithms.server.components import follow_moments, m_step, moment_statistics
from fedvpa.algorithms.server.evidence import EvidenceState, evidence_statistics, follow_evidence, told_spread

STATE = EvidenceState(params={}, log_prior=torch.tensor([0.5, 0.5]).log())


@pytest.mark.unit
def test_statistics_add_up_and_a_client_without_pairs_sends_zeros():
    likelihood = torch.tensor([[-1.0, -3.0, -5.0], [-2.0, -2.0, -2.0], [-9.0, 0.0, 0.0]])
    share = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.0, 1.0, 0.0]])
    sent = evidence_statistics(likelihood, share, torch.tensor([5.0, 2.0, 0.0]), torch.tensor(1.0))
    assert sent["octaves"].tolist() == [2, -3, 0], "log2 of 4, and of 0 no further than three octaves"
    assert sent["clients"].tolist() == [1, 1, 0]
    assert sent["spread"].tolist() == [4, 0, 0]
    assert torch.equal(sent["responsibility"], torch.stack([share[0], share[1], torch.zeros(3)]))


@pytest.mark.unit
def test_prior_and_spread_follow_the_cohort_and_no_prototype_is_forgotten():
    sums = {
        "clients": torch.tensor(4.0),
        "spread": torch.tensor(12.0),
        "responsibility": torch.tensor([4.0, 0.0]),
    }
    update = CohortUpdate(sums, {})
    first = follow_evidence(STATE, update, 0.25, learn_prior=True)
    assert first.spread.item() == 3
    assert first.log_prior.exp().tolist() == pytest.approx([0.625, 0.375])
    second = follow_evidence(replace(first, spread=torch.tensor(7.0)), update, 0.25, learn_prior=False)
    assert second.spread.item() == 6
    assert torch.equal(second.log_prior, first.log_prior)
    gone = follow_evidence(STATE, update, 1.0, learn_prior=True).log_prior.exp()
    assert gone.tolist() == pytest.approx([1 / 1.02, 0.02 / 1.02])
    for nobody in (CohortUpdate({**sums, "clients": torch.tensor(0.0)}), CohortUpdate({})):
        assert follow_evidence(STATE, nobody, 0.25, learn_prior=True) is STATE


@pytest.mark.unit
def test_the_spread_follows_octaves_where_it_does_not_leave_the_clients():
    sums = {"clients": torch.tensor(4.0), "octaves": torch.tensor(6.0), "responsibility": torch.tensor([2.0, 2.0])}
    state = STATE
    for octaves in (3.0, 3.0, 2.0, 0.0):
        assert told_spread(state) == pytest.approx(1e-3 if state is STATE else float(state.spread))
        sums["octaves"] = torch.tensor(4 * octaves)
        state = follow_evidence(state, CohortUpdate(sums), 0.1, learn_prior=False)
    assert float(state.spread) == pytest.approx(1e-3 * 2**8)
    known = torch.tensor([[-1.0, 1.0]])
    for _ in range(10):  # one client of spread 2, again and again
        one = evidence_statistics(known, torch.tensor([[0.5, 0.5]]), torch.ones(1), told_spread(state))
        sent = {name: leaf.sum(0) for name, leaf in one.items() if name != "spread"}
        state = follow_evidence(state, CohortUpdate(sent), 0.1, learn_prior=False)
    assert float(state.spread) == pytest.approx(2.0, rel=1e-5)


def cohort(share: torch.Tensor, mean: torch.Tensor, log_var: torch.Tensor) -> CohortUpdate:
    sums = moment_statistics(share, mean, log_var) | {"responsibility": share, "clients": torch.ones(len(share))}
    return CohortUpdate({name: leaf.sum(0) for name, leaf in sums.items()})


@pytest.mark.unit
def test_components_are_the_weighted_mean_and_variance_of_users_their_own_uncertainty_included():
    generator = torch.Generator().manual_seed(0)
    share = torch.softmax(torch.randn(7, 3, generator=generator), -1)
    mean, log_var = torch.randn(2, 7, 5, generator=generator)
    update = cohort(share, mean, log_var)
    parts = cohort(share[:3], mean[:3], log_var[:3]) + cohort(share[3:], mean[3:], log_var[3:])
    assert all(torch.allclose(update.sums[name], leaf, atol=1e-5) for name, leaf in parts.sums.items())
    means, log_vars = m_step(follow_moments({}, update, 0.1))
    weight = share / share.sum(0)
    centre = weight.T @ mean
    around = torch.stack([weight[:, m] @ (log_var.exp() + (mean - centre[m]).square()) for m in range(3)])
    torch.testing.assert_close(means, centre, atol=3e-3, rtol=0)
    torch.testing.assert_close(log_vars.exp(), around, atol=3e-3, rtol=3e-3)


@pytest.mark.unit
def test_moments_follow_cohorts_a_silent_one_changes_nothing_and_an_empty_component_is_standard_normal():
    ones = torch.ones(2, 3)
    first = follow_moments({}, cohort(torch.tensor([[1.0, 0.0]] * 2), 2 * ones, 0 * ones), 0.25)
    second = follow_moments(first, cohort(torch.tensor([[1.0, 0.0]] * 2), 6 * ones, 0 * ones), 0.25)
    assert second["share"].tolist() == [1, 0]
    assert second["first"].tolist() == [[3, 3, 3], [0, 0, 0]]
    assert follow_moments(second, CohortUpdate({}), 0.25) is second
    means, log_vars = m_step(second)
    assert means[1].tolist() == [0, 0, 0]
    assert log_vars[1].exp().tolist() == pytest.approx([1, 1, 1])
    assert means[0].tolist() == pytest.approx([3, 3, 3], rel=1e-3)


@pytest.mark.unit
def test_only_the_clients_that_reported_last_are_remembered(monkeypatch):
    monkeypatch.setattr(posterior_exchange, "MEMORY", 3)
    posterior = {"mean": torch.zeros(1), "log_var": torch.zeros(1)}
    known = dict.fromkeys("abc", posterior)
    assert list(posterior_exchange.remember(known, dict.fromkeys("bd", posterior))) == ["c", "b", "d"]
    assert list(posterior_exchange.remember(known, dict.fromkeys("vwxyz", posterior))) == list("vwxyz")


@pytest.mark.unit
def test_clients_are_assigned_to_the_nearest_prototypes_in_equal_numbers():
    prototypes = torch.eye(2) * 3
    means = {"a": [2.0, 0.0], "b": [0.0, 1.0], "c": [1.0, 0.9], "d": [0.0, 3.0]}
    known = {name: {"mean": torch.tensor(mean)} for name, mean in means.items()}
    label = posterior_exchange.assigned_prototypes(known, ["d", "new", "c", "a"], prototypes)
    assert label.tolist() == [[0, 1], [0, 0], [1, 0], [1, 0]]
    assert posterior_exchange.assigned_prototypes({}, ["a"], prototypes).tolist() == [[0, 0]]
