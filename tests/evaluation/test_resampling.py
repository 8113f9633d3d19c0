import math

import numpy as np
import pytest

from evaluation.made_samples import prompt_sample, random_sample
from fedvpa.evaluation.intervals import Bootstrap, estimate
from fedvpa.evaluation.resampling import worst_decile
from fedvpa.evaluation.units import PromptSample

BOOTSTRAP = Bootstrap(resamples=4000)

MANY = Bootstrap(resamples=100_000)


def spread(sample):
    return float(sample.draws(BOOTSTRAP).std())


@pytest.mark.reference
def test_the_resampled_variance_is_the_unbiased_closed_form():
    sample = random_sample(3, 7, 13)
    draws = sample.draws(MANY)
    expected = sum(sample.values(seed).var(ddof=1) / len(sample.values(seed)) for seed in sample.seeds) / 9
    assert draws.var() == pytest.approx(expected, rel=0.02)
    assert draws.mean() == pytest.approx(estimate(sample).value, abs=3e-4)


@pytest.mark.unit
def test_pieces_of_a_large_stratum_make_the_same_draws(monkeypatch):
    sample = random_sample(31)
    whole = sample.draws()
    monkeypatch.setattr("fedvpa.evaluation.resampling.DRAWS_AT_ONCE", 30 * 97)
    assert np.array_equal(sample.draws(), whole)


@pytest.mark.reference
def test_the_worst_decile_by_hand():
    values = np.array([0.9, 0.1, 0.2, 0.3] + [0.8] * 21)
    assert worst_decile(values) == pytest.approx((0.1 + 0.2 + 0.5 * 0.3) / 2.5)
    assert worst_decile(values[:7]) == 0.1
    assert worst_decile(np.linspace(0, 1, 30)) == pytest.approx(1 / 29)
    assert worst_decile(np.stack([values, 1 - values])) == pytest.approx([0.18, 0.1 * 1 / 2.5 + 0.2 * 1.5 / 2.5])


@pytest.mark.reference
def test_without_users_the_spread_is_the_standard_error():
    values = np.random.default_rng(0).normal(size=59)
    assert spread(prompt_sample(values)) == pytest.approx(values.std(ddof=1) / math.sqrt(59), rel=0.05)


@pytest.mark.reference
def test_the_same_prompts_in_every_seed_are_one_sample_of_prompts():
    """Copies of one seed under other names bring nothing new; other prompts do."""
    values = np.random.default_rng(1).normal(size=53)
    once = prompt_sample(values)
    again = PromptSample({(seed, *key[1:]): value for seed in range(4) for key, value in once.values.items()})
    other = PromptSample({(s, f"{s} {key[1]}", ""): value for s in range(4) for key, value in once.values.items()})
    assert again.draws(BOOTSTRAP) == pytest.approx(once.draws(BOOTSTRAP))
    assert spread(other) == pytest.approx(spread(once) / 2, rel=0.06)


@pytest.mark.reference
def test_what_lies_between_seeds_is_in_no_interval():
    values = np.random.default_rng(2).normal(size=47)
    moved = PromptSample({(s, f"p{n}", ""): v + 100 * s for s in (0, 1) for n, v in enumerate(values)})
    still = PromptSample({(s, f"p{n}", ""): v for s in (0, 1) for n, v in enumerate(values)})
    assert moved.draws(BOOTSTRAP) - moved.mean == pytest.approx(still.draws(BOOTSTRAP) - still.mean)


@pytest.mark.unit
def test_users_who_all_fare_alike_add_nothing():
    """Every user has one prompt of each value: less spread between users than the noise of answers would give."""
    values = {(0, f"p{3 * user + part}", f"u{user}"): float(part) for user in range(11) for part in range(3)}
    nameless = PromptSample({(seed, prompt, ""): value for (seed, prompt, _), value in values.items()})
    assert PromptSample(values).draws(BOOTSTRAP) == pytest.approx(nameless.draws(BOOTSTRAP))


@pytest.mark.reference
def test_users_who_differ_and_nothing_else_give_the_standard_error_of_users():
    worth = np.random.default_rng(3).normal(size=17)
    sample = PromptSample({(0, f"p{user} {n}", f"u{user:02}"): worth[user] for user in range(17) for n in range(19)})
    assert spread(sample) == pytest.approx(worth.std(ddof=1) / math.sqrt(17), rel=0.05)


@pytest.mark.reference
def test_two_crossed_levels_add_up_to_the_multiway_variance():
    """V = V_prompts + V_users - V_answers, where every user answers every prompt."""
    rng = np.random.default_rng(9)
    values = rng.normal(0, 0.4, (13, 1)) + rng.normal(0, 0.3, (1, 17)) + rng.normal(0, 1.2, (13, 17))
    answers = {(0, f"p{p:02}", f"u{u:02}"): float(values[u, p]) for u in range(13) for p in range(17)}
    parts = [
        values.mean(axis=0).var(ddof=1) / 17,
        values.mean(axis=1).var(ddof=1) / 13,
        values.var(ddof=1) / values.size,
    ]
    expected = parts[0] + parts[1] - parts[2]
    assert expected < 0.9 * (parts[0] + parts[1])  # else the last term could be left out unseen
    assert PromptSample(answers).draws(MANY).var() == pytest.approx(expected, rel=0.02)
