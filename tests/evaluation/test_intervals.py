import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from evaluation.made_samples import prompt_sample, random_sample, sample_of
from fedvpa.core.errors import ConfigError, DataError
from fedvpa.evaluation.client_sample import ClientSample
from fedvpa.evaluation.holm import holm, holm_of_known
from fedvpa.evaluation.intervals import Bootstrap, difference, estimate, gap_closed, ratio
from fedvpa.evaluation.scores import ItemResults

BOOTSTRAP = Bootstrap(resamples=4000)

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.reference
def test_intervals_are_students_t():
    values = np.random.default_rng(1).normal(0.7, 0.1, 23)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert estimate(sample_of(values)).interval == pytest.approx((expected.low, expected.high))
    assert estimate(sample_of(values)).method is None
    wide, narrow = estimate(sample_of(values)).interval, estimate(sample_of(values), Bootstrap(level=0.5)).interval
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.reference
def test_the_interval_of_the_method_is_students_t_over_seeds():
    rng = np.random.default_rng(2)
    strata = [rng.normal(level, 0.02, 17) for level in (0.84, 0.5, 0.13, 0.7, 0.6)]
    found = estimate(sample_of(*strata))
    means = [numbers.mean() for numbers in strata]
    expected = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    assert found.method == pytest.approx((expected.low, expected.high))
    assert found.interval[1] - found.interval[0] < 0.1 * (expected.high - expected.low)


@pytest.mark.unit
def test_the_method_is_never_surer_than_these_models():
    rng = np.random.default_rng(3)
    for _ in range(31):
        found = estimate(sample_of(*(rng.normal(0.7, 0.1, 11) for _ in range(3))))
        assert found.method[1] - found.method[0] >= found.interval[1] - found.interval[0]


@pytest.mark.unit
def test_intervals_of_shares_stay_between_their_bounds_and_agree_far_from_them():
    near = sample_of([1.0] * 12 + [0.4])
    assert estimate(near).interval[1] > 1
    low, high = estimate(near, bounds=(0.0, 1.0)).interval
    assert 0 < low < near.mean < high < 1
    middle = sample_of(np.random.default_rng(4).normal(0.5, 0.02, 41))
    assert estimate(middle, bounds=(0.0, 1.0)).interval == pytest.approx(estimate(middle).interval, abs=1e-5)
    twice = sample_of(2 * np.array([1.0] * 12 + [0.4]) - 1)
    assert estimate(twice, bounds=(-1.0, 1.0)).interval == pytest.approx((2 * low - 1, 2 * high - 1))


@pytest.mark.unit
def test_pairs_that_seeds_deal_anew_are_one_sample_of_pairs():
    """Twenty deals of 60 pairs: clients as if independent would give an interval four times too short."""
    rng = np.random.default_rng(5)
    right = (rng.random(60) < 0.7).astype(float)
    strata, tested = {}, {}
    for seed in range(20):
        for client, items in enumerate(rng.permutation(60).reshape(6, 10)):
            strata.setdefault(seed, {})[f"c{client}"] = float(right[items].mean())
            tested[seed, f"c{client}"] = ItemResults(items, right[items], np.ones(10))
    dealt, alone = (estimate(ClientSample(strata, known)) for known in (tested, {}))
    assert dealt.value == alone.value == pytest.approx(right.mean())
    exact = stats.ttest_1samp(right, 0).confidence_interval(0.95)
    assert dealt.interval == pytest.approx((exact.low, exact.high), rel=0.01)
    assert alone.interval[1] - alone.interval[0] < 0.3 * (exact.high - exact.low)


@pytest.mark.reference
@pytest.mark.parametrize("name", ["accuracy, N = 10, 20 deals", "win rate, 500 prompts, 5 users, 5 seeds"])
def test_intervals_cover_as_often_as_they_say(monkeypatch, name):
    """200 simulations: three standard errors of 0.95 are 4.6 points; the whole table is printed by the benchmark.

    With a third of its pairs, which is a third of its time.
    """
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import interval_coverage as benchmark

    world, design = benchmark.cells()[name]
    found = benchmark.coverage(replace(world, pairs=world.pairs // 3), 200, 11, design)
    sys.modules.pop("interval_coverage", None)
    for estimand in ("models", "method", "difference_models", "difference_method"):
        assert found[estimand] >= 0.904, (estimand, found)
    assert found["false_claims"] <= 0.096
    assert found["models_length"] < 0.8 * found["method_length"]


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
    got = gap_closed(sample_of(base + gain), sample_of(base), sample_of(base + lead))
    (a, ab), (_, b) = np.cov(gain, lead) / 401
    t = stats.t.ppf(0.975, 400)
    roots = np.roots(
        [lead.mean() ** 2 - t**2 * b, -2 * (gain.mean() * lead.mean() - t**2 * ab), gain.mean() ** 2 - t**2 * a]
    )
    assert got.value == pytest.approx(gain.mean() / lead.mean())
    assert np.array(got.interval) == pytest.approx(sorted(roots))


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


@pytest.mark.unit
def test_methods_that_never_differ_have_p_one_and_no_difference():
    sample = random_sample(5)
    result = difference(sample, sample)
    assert (result.p_value, result.estimate.value, result.estimate.interval) == (1.0, 0.0, (0.0, 0.0))
    assert (result.method_p_value, difference(random_sample(5, 7), random_sample(5, 7)).method_p_value) == (None, 1.0)
    assert difference(sample, None) is None
    assert difference(None, sample) is None


@pytest.mark.unit
def test_a_difference_is_paired_by_client():
    first = random_sample(17)
    second = ClientSample({0: {c: v - 0.01 for c, v in reversed(list(first.strata[0].items()))}})
    assert difference(first, second).estimate.interval == pytest.approx((0.01, 0.01))


@pytest.mark.reference
def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.unit
def test_p_values_agree_with_the_interval_and_with_the_sign_test():
    rng = np.random.default_rng(5)
    zero = prompt_sample([0.0] * 83)
    for shift in (0.0, 0.05, 0.1, 0.15, 0.2):
        sample = prompt_sample(rng.normal(shift, 0.4, 83).clip(-0.9, 0.9))
        for bounds in (None, (-1.0, 1.0)):
            found = difference(sample, zero, bounds=bounds)
            low, high = found.estimate.interval
            assert (found.p_value < 0.05) == (low > 0 or high < 0)
    values = rng.normal(0.2, 1, 83)
    assert difference(prompt_sample(values), zero).p_value == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    five = prompt_sample([0.0] * 5)
    assert difference(prompt_sample([1.0] * 5), five).p_value == pytest.approx(stats.binomtest(5, 5).pvalue)
    assert difference(five, five).p_value == 1.0


@pytest.mark.unit
def test_the_methods_p_value_is_over_seeds():
    """Five seeds, each of many sure clients, of which two turn the sign: these models differ, the methods may not."""
    gains = [0.2, 0.3, -0.25, 0.25, -0.1]
    rng = np.random.default_rng(6)
    first = sample_of(*(gain + rng.normal(0, 0.01, 29) for gain in gains))
    second = sample_of(*(np.zeros(29) for _ in gains))
    found = difference(first, second)
    assert found.p_value < 1e-6
    assert found.method_p_value == pytest.approx(stats.ttest_1samp(gains, 0).pvalue, abs=0.02)
    assert holm_of_known([0.01, None, 0.04]) == [0.02, None, 0.04]


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
        gain = difference(first, second, BOOTSTRAP)
        found.append((gap.value, *gap.interval, share.value, *share.interval, gain.estimate.value, gain.p_value))
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def worth_nothing(sample):
    """A yardstick of the same kind that is worth nothing to anybody."""
    return sample.minus(sample)
