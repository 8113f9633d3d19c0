import json
import math

import numpy as np
import pytest
from scipy import integrate, stats
from sklearn.metrics import adjusted_rand_score, silhouette_score

from fedvpa.core.errors import DataError
from fedvpa.evaluation.latents import diagnose, effective_components, gram, information_bound, kl_per_dimension


def two_blobs(clients=23, dims=5, gap=3.0, log_var=-4.0):
    rng = np.random.default_rng(0)
    groups = [("helpful", "harmless")[i % 2] for i in range(clients)]
    centres = np.zeros((2, dims))
    centres[0, 0], centres[1, 1] = gap, gap
    means = centres[np.arange(clients) % 2] + rng.normal(0, 0.3, (clients, dims))
    return means, np.full((clients, dims), log_var), groups, centres


@pytest.mark.reference
def test_kl_against_quadrature():
    means, log_vars = np.array([[0.3, -1.1], [0.7, 0.2]]), np.array([[-0.5, 0.4], [-2.0, 0.0]])

    def one(mean, log_var):
        q = stats.norm(mean, math.exp(log_var / 2))
        integrand = lambda z: q.pdf(z) * (q.logpdf(z) - stats.norm.logpdf(z))  # noqa: E731
        return integrate.quad(integrand, mean - 12, mean + 12, points=[mean])[0]

    expected = [np.mean([one(means[i, d], log_vars[i, d]) for i in range(2)]) for d in range(2)]
    assert kl_per_dimension(means, log_vars) == pytest.approx(expected, rel=1e-6)


@pytest.mark.reference
def test_the_information_bound_is_above_quadrature_and_tight_for_gaussian_clients():
    rng = np.random.default_rng(3)
    means, log_vars = np.array([[-1.0], [0.2], [1.7]]), np.array([[-1.0], [-0.3], [0.2]])
    parts = [stats.norm(m, math.exp(v / 2)) for (m,), (v,) in zip(means, log_vars, strict=True)]

    def surprise(z):
        density = np.mean([part.pdf(z) for part in parts])
        return -density * math.log(density) if density > 0 else 0.0

    exact = integrate.quad(surprise, -11, 11)[0] - np.mean([part.entropy() for part in parts])
    assert exact < information_bound(means, log_vars) < 1.5 * exact
    many = rng.normal(0, 2, (20_011, 1))
    assert information_bound(many, np.zeros_like(many)) == pytest.approx(0.5 * math.log(1 + 4), rel=0.01)


@pytest.mark.unit
def test_one_narrow_posterior_for_all_has_a_large_kl_and_says_nothing():
    means, log_vars = np.full((7, 3), 0.4), np.full((7, 3), -4.0)
    report = diagnose(means, log_vars, ["a", "b"] * 3 + ["a"])
    assert report.kl > 3
    assert report.information == pytest.approx(0, abs=1e-12)
    assert report.active_units == 0
    assert len(report.alarms) == 2
    assert "0.69" in report.alarms[1]
    assert report.posterior_ari is None


@pytest.mark.unit
def test_collapse_to_the_prior_raises_the_alarm_and_separated_groups_do_not():
    rng = np.random.default_rng(0)
    collapsed = diagnose(rng.normal(0, 0.05, (31, 5)), np.zeros((31, 5)))
    assert collapsed.active_units == 0
    assert len(collapsed.alarms) == 2
    means, log_vars, groups, centres = two_blobs()
    assert diagnose(means, log_vars, groups, centres, [i % 2 for i in range(23)]).alarms == ()


@pytest.mark.unit
def test_more_groups_take_more_nats():
    means = np.array([[-1.0], [1.0]] * 6)
    log_vars = np.full((12, 1), math.log(1 / 6))
    assert information_bound(means, log_vars) == pytest.approx(0.5 * math.log(7))
    assert diagnose(means, log_vars, ["a", "b"] * 6).alarms == ()
    assert len(diagnose(means, log_vars, list("abcabcabcabc")).alarms) == 1


@pytest.mark.unit
def test_all_clients_on_one_prototype_is_an_alarm():
    means, log_vars, groups, centres = two_blobs()
    (alarm,) = diagnose(means, log_vars, groups, centres, [1] * 23).alarms
    assert (
        alarm
        == "All 23 clients share one of 2 prototypes, so that the groups harmless and helpful are one and the same z."
    )
    (alarm,) = diagnose(means, log_vars, None, centres, [1] * 23).alarms
    assert alarm == "All 23 clients share one of 2 prototypes."
    assert diagnose(means, log_vars, groups, centres, [1] * 23, typical=False).alarms == ()


@pytest.mark.reference
def test_a_whole_report_against_scikit_learn_and_by_hand():
    means, log_vars, groups, centres = two_blobs()
    labels = [i % 2 for i in range(23)]
    labels[4] = 1
    weights = np.tile([0.5, 0.5, 0.0], (23, 1))
    report = diagnose(means, log_vars, groups, centres, labels, weights)
    assert report.clients == 23
    assert report.kl == pytest.approx(sum(report.kl_per_dimension))
    assert report.active_units == 5
    assert report.silhouette == pytest.approx(silhouette_score(means, groups))
    assert report.prototype_silhouette == pytest.approx(silhouette_score(means, labels))
    assert report.posterior_ari == 1.0
    assert report.prototype_ari == pytest.approx(adjusted_rand_score(groups, labels))
    assert report.prototype_gram == [[1.0, 0.0], [0.0, 1.0]]
    assert report.prototype_counts == [11, 12]
    assert report.prior_components == pytest.approx(2.0)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["alarms"] == []


@pytest.mark.unit
def test_what_cannot_be_computed_is_none():
    means, log_vars, _, _ = two_blobs()
    report = diagnose(means, log_vars, ["a"] * 23)
    for name in ("silhouette", "posterior_ari", "prototype_silhouette", "prototype_ari", "prototype_gram"):
        assert getattr(report, name) is None
    assert diagnose(means[:1], log_vars[:1]).alarms == ()


@pytest.mark.unit
def test_gram_and_effective_components_by_hand():
    rows = np.array([[3.0, 4.0, 0.0], [4.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
    assert gram(rows) == pytest.approx(np.array([[1, 0.96, 0], [0.96, 1, 0], [0, 0, 0]]))
    assert effective_components(np.array([[0.25] * 4, [1, 0, 0, 0]])) == pytest.approx([4.0, 1.0])


@pytest.mark.unit
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_vars": np.zeros((23, 3))}, "not two equal tables"),
        ({"means": np.zeros((0, 5)), "log_vars": np.zeros((0, 5))}, "not two equal tables"),
        ({"means": np.full((23, 5), np.nan)}, "some means are not finite"),
        ({"groups": ["a"] * 22}, "22 groups for 23 clients"),
        ({"labels": [2] * 23}, "row numbers of the prototypes"),
        ({"prototypes": None}, "row numbers of the prototypes"),
        ({"prototypes": np.ones((2, 7))}, "differ in dimension"),
        ({"prior_weights": np.ones((23, 3))}, "do not sum to one"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    means, log_vars, groups, centres = two_blobs()
    given = {"means": means, "log_vars": log_vars, "groups": groups, "prototypes": centres, "labels": [0] * 23}
    with pytest.raises(DataError, match=message):
        diagnose(**(given | change))
