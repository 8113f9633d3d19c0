import itertools

import numpy as np
import pytest
from scipy import stats

from fedvpa.core.errors import ConfigError, DataError
from fedvpa.evaluation.scores import ClientScore
from fedvpa.evaluation.statistics import (
    Bootstrap,
    Sample,
    difference,
    estimate,
    gap_closed,
    holm,
    resample,
    worst_decile,
)

MANY = Bootstrap(resamples=100_000)


def sample_of(*strata):
    return Sample({seed: {f"c{i:04}": float(v) for i, v in enumerate(values)} for seed, values in enumerate(strata)})


def random_sample(*sizes, seed=0):
    rng = np.random.default_rng(seed)
    return sample_of(*(rng.beta(5, 2, size) for size in sizes))


@pytest.mark.unit
def test_clients_weigh_the_same_whatever_their_pairs_and_so_do_seeds():
    scores = [
        ClientScore("m", 2, 0, "a", None, True, 1, 1),
        ClientScore("m", 2, 0, "b", None, True, 0, 97),
        ClientScore("m", 2, 1, "a", None, True, 3, 3),
    ]
    assert estimate(Sample.of(scores)).value == (0.5 + 1.0) / 2


@pytest.mark.unit
def test_scores_without_a_value_are_left_out_and_none_at_all_is_none():
    score = ClientScore("m", 2, 0, "a", None, True, 1, 2)
    assert Sample.of([score], lambda score: score.holdout_accuracy) is None
    assert Sample.of([]) is None


@pytest.mark.unit
def test_a_client_scored_twice_and_mixed_methods_are_refused():
    score = ClientScore("m", 2, 0, "a", None, True, 1, 2)
    with pytest.raises(DataError, match="scores client 'a' twice"):
        Sample.of([score, score])
    with pytest.raises(DataError, match="cannot mix"):
        Sample.of([score, ClientScore("other", 2, 0, "b", None, True, 1, 2)])


@pytest.mark.reference
def test_the_resampled_variance_is_the_unbiased_closed_form():
    sample = random_sample(3, 7, 13)
    draws = resample(sample, MANY)
    expected = sum(sample.values(seed).var(ddof=1) / len(sample.values(seed)) for seed in sample.seeds) / 9
    assert draws.var() == pytest.approx(expected, rel=0.02)
    assert draws.mean() == pytest.approx(estimate(sample).value, abs=3e-4)


@pytest.mark.reference
def test_intervals_agree_with_scipy_where_n_minus_one_is_about_n():
    sample = random_sample(499, 601)
    expected = stats.bootstrap(
        [sample.values(0), sample.values(1)],
        lambda a, b, axis: (a.mean(axis) + b.mean(axis)) / 2,
        n_resamples=20_000,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    got = estimate(sample, Bootstrap(resamples=20_000)).interval
    assert np.array(got) == pytest.approx(np.array(expected), abs=0.03 * (expected.high - expected.low))


@pytest.mark.reference
def test_intervals_of_two_clients_by_hand():
    # One draw of two clients per stratum: each resample is one of their values, each with probability one half.
    assert estimate(sample_of([0.2, 0.6])).interval == (0.2, 0.6)
    draws = resample(sample_of([0.0, 1.0], [0.0, 1.0]), MANY)
    assert [np.mean(draws == value) for value in (0, 0.5, 1)] == pytest.approx([0.25, 0.5, 0.25], abs=0.01)


@pytest.mark.reference
def test_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(307):
        sample = sample_of(rng.normal(0.7, 0.1, 23), rng.normal(0.7, 0.1, 29))
        low, high = estimate(sample, Bootstrap(resamples=2000, seed=trial)).interval
        hits += low <= 0.7 <= high
    assert 0.91 <= hits / 307 <= 0.98


@pytest.mark.unit
def test_the_level_and_the_seed_of_the_bootstrap_matter():
    sample = random_sample(17, 19)
    wide, narrow = estimate(sample).interval, estimate(sample, Bootstrap(level=0.5)).interval
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert estimate(sample).interval == estimate(sample, Bootstrap()).interval
    assert estimate(sample).interval != estimate(sample, Bootstrap(seed=1)).interval


@pytest.mark.unit
def test_pieces_of_a_large_stratum_make_the_same_draws(monkeypatch):
    sample = random_sample(31)
    whole = resample(sample)
    monkeypatch.setattr("fedvpa.evaluation.statistics.DRAWS_AT_ONCE", 30 * 97)
    assert np.array_equal(resample(sample), whole)


@pytest.mark.unit
def test_a_single_client_bounds_nothing():
    assert estimate(sample_of([0.2, 0.3], [0.5])) == estimate(sample_of([0.2, 0.3], [0.5]), Bootstrap(seed=3))
    assert estimate(sample_of([0.2, 0.3], [0.5])).interval is None
    assert estimate(sample_of([0.2, 0.3], [0.5])).value == 0.375


@pytest.mark.unit
@pytest.mark.parametrize(("resamples", "level"), [(1999, 0.95), (2000, 1.0), (2000, 0.0)])
def test_a_bootstrap_that_cannot_give_an_interval_is_refused(resamples, level):
    with pytest.raises(ConfigError):
        Bootstrap(resamples, level)


@pytest.mark.unit
def test_gap_closed_by_hand_is_a_ratio_of_means_over_seeds():
    low, high = sample_of([0.5, 0.5], [0.5, 0.5]), sample_of([0.7, 0.7], [0.9, 0.9])
    method = sample_of([0.7, 0.7], [0.7, 0.7])
    assert gap_closed(method, low, high).value == pytest.approx(0.2 / 0.3)
    assert gap_closed(low, low, high).value == 0
    assert gap_closed(high, low, high).value == 1


@pytest.mark.unit
def test_gap_closed_is_paired():
    low = random_sample(11, 13)
    shift = lambda by: Sample({s: {c: v + by for c, v in cs.items()} for s, cs in low.strata.items()})  # noqa: E731
    # Clients differ a lot, methods by constants: only the same clients in all three make the ratio a constant.
    result = gap_closed(shift(0.03), low, shift(0.04))
    assert (result.value, *result.interval) == pytest.approx((0.75, 0.75, 0.75))


@pytest.mark.reference
def test_the_interval_of_gap_closed_agrees_with_fiellers_theorem():
    rng = np.random.default_rng(5)
    base = rng.normal(0.6, 0.05, 401)
    lead, gain = rng.normal(0.1, 0.15, 401), rng.normal(0.07, 0.15, 401)
    got = gap_closed(sample_of(base + gain), sample_of(base), sample_of(base + lead), MANY)
    (a, ab), (_, b) = np.cov(gain, lead) / 401
    t = 1.959964
    roots = np.roots(
        [lead.mean() ** 2 - t**2 * b, -2 * (gain.mean() * lead.mean() - t**2 * ab), gain.mean() ** 2 - t**2 * a]
    )
    assert got.value == pytest.approx(gain.mean() / lead.mean())
    assert np.array(got.interval) == pytest.approx(sorted(roots), abs=0.02 * abs(roots[0] - roots[1]))


@pytest.mark.unit
def test_gap_closed_is_none_without_a_yardstick_a_common_seed_or_a_lead():
    low, high = sample_of([0.5, 0.6]), sample_of([0.7, 0.8])
    assert gap_closed(None, low, high) is None
    assert gap_closed(low, None, high) is None
    assert gap_closed(low, low, None) is None
    assert gap_closed(high, high, low) is None
    assert gap_closed(high, low, low) is None
    assert gap_closed(Sample({7: {"c0000": 0.5, "c0001": 0.5}}), low, high) is None


@pytest.mark.unit
def test_gap_closed_has_no_interval_where_the_lead_is_not_above_chance():
    low, high = sample_of([0.5] * 7), sample_of([0.4, 0.7, 0.4, 0.7, 0.4, 0.7, 0.4])
    result = gap_closed(sample_of([0.51] * 7), low, high)
    assert result.value == pytest.approx(0.01 / (0.2 - 0.5 / 7 - 0.1), rel=1e-6)
    assert result.interval is None


@pytest.mark.unit
def test_paired_statistics_use_the_common_seeds_and_refuse_other_clients():
    first, second = sample_of([0.5, 0.7], [0.9, 0.9]), sample_of([0.4, 0.5])
    assert difference(first, second).seeds == (0,)
    assert difference(first, second).estimate.value == pytest.approx(0.15)
    with pytest.raises(DataError, match=r"seed 0, 1 clients \(such as 'c0002'\)"):
        difference(first, sample_of([0.1, 0.2, 0.3]))


@pytest.mark.reference
def test_wilcoxon_by_enumeration_of_all_signs():
    gains = np.array([0.05, 0.02, -0.01, 0.07, 0.11, 0.13])
    ranks = np.array([3, 2, 1, 4, 5, 6])
    observed = ranks[gains > 0].sum()
    sums = [ranks[np.array(signs)].sum() for signs in itertools.product([False, True], repeat=6)]
    expected = min(1.0, 2 * np.mean(np.array(sums) >= observed))
    base = np.full(6, 0.5)
    assert difference(sample_of(base + gains), sample_of(base)).p_value == pytest.approx(expected)


@pytest.mark.unit
def test_methods_that_never_differ_have_p_one_and_no_difference():
    sample = random_sample(5)
    result = difference(sample, sample)
    assert (result.p_value, result.estimate.value, result.estimate.interval) == (1.0, 0.0, (0.0, 0.0))
    assert difference(sample, None) is None
    assert difference(None, sample) is None


@pytest.mark.unit
def test_a_difference_is_paired_by_client():
    first = random_sample(17)
    second = Sample({0: {c: v - 0.01 for c, v in reversed(list(first.strata[0].items()))}})
    assert difference(first, second).estimate.interval == pytest.approx((0.01, 0.01))


@pytest.mark.reference
def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.reference
def test_the_worst_decile_by_hand():
    values = np.array([0.9, 0.1, 0.2, 0.3] + [0.8] * 21)
    assert worst_decile(values) == pytest.approx((0.1 + 0.2 + 0.5 * 0.3) / 2.5)
    assert worst_decile(values[:7]) == 0.1
    assert worst_decile(np.linspace(0, 1, 30)) == pytest.approx(1 / 29)
    assert worst_decile(np.stack([values, 1 - values])) == pytest.approx([0.18, 0.1 * 1 / 2.5 + 0.2 * 1.5 / 2.5])
