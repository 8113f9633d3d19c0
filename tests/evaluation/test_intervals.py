import itertools

import numpy as np
import pytest
from scipy import stats

from evaluation.made_samples import prompt_sample, random_sample, sample_of
from fedvpa.core.errors import ConfigError, DataError
from fedvpa.evaluation.intervals import Bootstrap, bootstrap_p_value, difference, estimate, gap_closed, holm, ratio
from fedvpa.evaluation.units import ClientSample, PromptSample

BOOTSTRAP = Bootstrap(resamples=4000)

MANY = Bootstrap(resamples=100_000)


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
    draws = sample_of([0.0, 1.0], [0.0, 1.0]).draws(MANY)
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
def test_a_single_client_bounds_nothing():
    assert estimate(sample_of([0.2, 0.3], [0.5])) == estimate(sample_of([0.2, 0.3], [0.5]), Bootstrap(seed=3))
    assert estimate(sample_of([0.2, 0.3], [0.5])).interval is None
    assert estimate(sample_of([0.2, 0.3], [0.5])).value == 0.375


@pytest.mark.unit
@pytest.mark.parametrize(("resamples", "level"), [(1999, 0.95), (2000, 1.0), (2000, 0.0)])
def test_a_bootstrap_that_cannot_give_an_interval_is_refused(resamples, level):
    with pytest.raises(ConfigError):
        Bootstrap(resamples, level)


def coverage(draw, truth, runs):
    bootstrap = Bootstrap(resamples=2000)
    hits = 0
    for run in range(runs):
        low, high = estimate(draw(np.random.default_rng([7, run])), bootstrap, (0.0, 1.0)).interval
        hits += low <= truth <= high
    return hits / runs


@pytest.mark.reference
def test_intervals_of_bernoulli_outcomes_cover():
    """400 runs at 95%: three standard errors are 3.3 points."""
    assert coverage(lambda rng: prompt_sample(rng.random(97) < 0.8), 0.8, 400) == pytest.approx(0.95, abs=0.035)


@pytest.mark.reference
def test_intervals_cover_where_users_differ():
    """Two seeds with 13 users of 7 prompts each; prompts alone would cover 71%."""

    def draw(rng):
        rates = rng.choice([0.5, 1.0], (2, 13))
        hits = rng.random((2, 13, 7)) < rates[..., None]
        return PromptSample(
            {(s, f"p{s} {u} {n}", f"u{u}"): float(hits[s, u, n]) for s in range(2) for u in range(13) for n in range(7)}
        )

    assert coverage(draw, 0.75, 200) == pytest.approx(0.93, abs=0.05)


@pytest.mark.unit
def test_where_all_answers_are_the_same_the_interval_is_the_exact_one():
    low, high = estimate(prompt_sample([1.0] * 23), BOOTSTRAP, (0.0, 1.0)).interval
    exact = stats.binomtest(23, 23).proportion_ci(0.95, method="exact")
    assert (low, high) == pytest.approx((exact.low, exact.high))
    low, high = estimate(prompt_sample([0.5] * 23), BOOTSTRAP, (0.0, 1.0)).interval
    assert (0.5 - low, high - 0.5) == pytest.approx(((1 - exact.low) / 2,) * 2)
    assert estimate(prompt_sample([2.0] * 23), BOOTSTRAP).interval == (2.0, 2.0)


@pytest.mark.unit
def test_one_prompt_bounds_nothing():
    assert estimate(prompt_sample([0.3]), BOOTSTRAP).interval is None


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
    shift = lambda by: ClientSample({s: {c: v + by for c, v in cs.items()} for s, cs in low.strata.items()})  # noqa: E731
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
    assert gap_closed(ClientSample({7: {"c0000": 0.5, "c0001": 0.5}}), low, high) is None


@pytest.mark.unit
def test_gap_closed_has_no_interval_where_the_lead_is_not_above_chance():
    low, high = sample_of([0.5] * 7), sample_of([0.4, 0.7, 0.4, 0.7, 0.4, 0.7, 0.4])
    result = gap_closed(sample_of([0.51] * 7), low, high)
    assert result.value == pytest.approx(0.01 / (0.2 - 0.5 / 7 - 0.1), rel=1e-6)
    assert result.interval is None


@pytest.mark.unit
def test_a_ratio_is_one_of_means_on_the_same_resamples():
    values = np.random.default_rng(4).normal(1, 0.5, 61)
    found = ratio(prompt_sample(3 * values), prompt_sample(values), BOOTSTRAP)
    assert (found.value, *found.interval) == pytest.approx((3.0, 3.0, 3.0))
    assert ratio(prompt_sample(values), prompt_sample(-values), BOOTSTRAP) is None
    assert ratio(prompt_sample(values), prompt_sample(values - values.mean() + 0.01), BOOTSTRAP).interval is None
    with pytest.raises(DataError, match="'p060' was answered by one method"):
        ratio(prompt_sample(values), prompt_sample(values[:60]), BOOTSTRAP)


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
    second = ClientSample({0: {c: v - 0.01 for c, v in reversed(list(first.strata[0].items()))}})
    assert difference(first, second).estimate.interval == pytest.approx((0.01, 0.01))


@pytest.mark.unit
def test_p_values_agree_with_the_interval_and_with_the_sign_test():
    rng = np.random.default_rng(5)
    for shift in (0.0, 0.1, 0.2, 0.3, 0.4):
        sample = prompt_sample(rng.normal(shift, 1, 83))
        low, high = estimate(sample, BOOTSTRAP).interval
        assert (bootstrap_p_value(sample, BOOTSTRAP) < 0.05) == (low > 0 or high < 0)
    sample = prompt_sample(rng.normal(0.2, 1, 83))
    values = np.array(list(sample.values.values()))
    assert bootstrap_p_value(sample, BOOTSTRAP) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.02)
    assert bootstrap_p_value(prompt_sample([1.0] * 5), BOOTSTRAP) == pytest.approx(stats.binomtest(5, 5).pvalue)
    assert bootstrap_p_value(prompt_sample([0.0] * 5), BOOTSTRAP) == 1.0
    assert bootstrap_p_value(prompt_sample(np.linspace(1, 2, 29)), BOOTSTRAP) == pytest.approx(2 / 4001)


@pytest.mark.reference
def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.equivalence
def test_every_formula_reads_both_kinds_of_sample():
    values = np.random.default_rng(8).normal(1, 0.5, 29)
    pairs = [
        [prompt_sample(numbers) for numbers in (values**2, values)],
        [
            ClientSample({0: {f"p{number:03}": float(value) for number, value in enumerate(numbers)}})
            for numbers in (values**2, values)
        ],
    ]
    found = []
    for first, second in pairs:
        gap = gap_closed(first, worth_nothing(second), second, BOOTSTRAP)
        share = ratio(first, second, BOOTSTRAP)
        gain = difference(first, second, BOOTSTRAP, p_value=bootstrap_p_value)
        found.append((gap.value, *gap.interval, share.value, *share.interval, gain.estimate.value, gain.p_value))
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def worth_nothing(sample):
    """A yardstick of the same kind that is worth nothing to anybody."""
    return sample.minus(sample)
