from dataclasses import replace

import numpy as np
import pytest

from evaluation.made_samples import prompt_sample, random_sample, sample_of
from evaluation.policies import outcome
from fedvpa.core.errors import DataError
from fedvpa.evaluation.client_sample import ClientSample
from fedvpa.evaluation.intervals import Bootstrap, estimate
from fedvpa.evaluation.prompt_sample import PromptSample
from fedvpa.evaluation.scores import ClientScore
from fedvpa.evaluation.worst_decile import estimate_worst_decile


@pytest.mark.unit
def test_clients_weigh_the_same_whatever_their_pairs_and_so_do_seeds():
    scores = [
        ClientScore("m", 2, 0, "a", None, True, 1, 1),
        ClientScore("m", 2, 0, "b", None, True, 0, 97),
        ClientScore("m", 2, 1, "a", None, True, 3, 3),
    ]
    assert estimate(ClientSample.of(scores)).value == (0.5 + 1.0) / 2


@pytest.mark.unit
def test_scores_without_a_value_are_left_out_and_none_at_all_is_none():
    score = ClientScore("m", 2, 0, "a", None, True, 1, 2)
    assert ClientSample.of([score], lambda score: score.holdout_accuracy) is None
    assert ClientSample.of([]) is None


@pytest.mark.unit
def test_a_client_scored_twice_and_mixed_methods_are_refused():
    score = ClientScore("m", 2, 0, "a", None, True, 1, 2)
    with pytest.raises(DataError, match="scores client 'a' twice"):
        ClientSample.of([score, score])
    with pytest.raises(DataError, match="cannot mix"):
        ClientSample.of([score, ClientScore("other", 2, 0, "b", None, True, 1, 2)])


@pytest.mark.unit
def test_seeds_prompts_and_users_weigh_the_same_each_at_its_level():
    sample = PromptSample(
        {
            (0, "a", "u"): 1.0,
            (0, "a", "v"): 0.0,  # prompt a: 0.5
            (0, "b", "u"): 1.0,  # seed 0: 0.75
            (3, "a", "u"): 0.0,
            (3, "b", "u"): 0.5,
            (3, "c", "u"): 1.0,  # seed 3: 0.5
        }
    )
    assert sample.mean == pytest.approx(0.625)
    assert (sample.units, sample.users) == (3, 3)


@pytest.mark.unit
def test_an_answer_given_twice_is_refused_and_one_without_a_number_left_out():
    with pytest.raises(DataError, match=r"seed 0, helpful, user 'u'\) on 'p' is there twice"):
        PromptSample.of([outcome(user="u"), outcome(0.0, user="u")], lambda found: found.score)
    assert PromptSample.of([outcome(None)], lambda found: found.score) is None
    assert PromptSample.of([outcome(None), outcome(0.5)], lambda found: found.score).values == {(0, "p", ""): 0.5}


@pytest.mark.unit
def test_pairs_are_made_by_user_where_both_have_that_user_and_by_prompt_else():
    own = PromptSample({(0, "a", "u"): 1.0, (0, "a", "v"): 0.0, (0, "b", "u"): 0.5, (2, "a", "u"): 1.0})
    other = PromptSample({(0, "a", "u"): 0.25, (0, "a", "w"): 0.75, (0, "b", ""): 1.0})
    assert own.minus(other).values == {(0, "a", "u"): 0.75, (0, "a", "v"): -0.5, (0, "b", "u"): -0.5}
    assert own.minus(PromptSample({(1, "a", "u"): 1.0})) is None


@pytest.mark.unit
def test_differences_are_of_matched_clients_and_none_without_a_common_seed():
    first, second = sample_of([0.5, 0.75], [0.9, 0.9]), sample_of([0.25, 0.5])
    assert first.minus(second).strata == {0: {"c0000": 0.25, "c0001": 0.25}}
    assert [sample.seeds for sample in first.matched(second)] == [[0], [0]]
    assert first.minus(ClientSample({7: {"c0000": 0.5}})) is None
    with pytest.raises(DataError, match=r"seed 0, 1 clients \(such as 'c0001'\)"):
        first.minus(sample_of([0.25]))


@pytest.mark.unit
def test_matched_prompts_stay_as_they_are():
    first, second = prompt_sample([1.0, 0.0]), prompt_sample([0.5, 0.5])
    assert first.matched(second) == [first, second]
    with pytest.raises(DataError, match="seed 0, 'p001' was answered by one method"):
        first.matched(prompt_sample([0.5]))


@pytest.mark.unit
def test_the_worst_decile_of_ten_clients_is_the_worst_one_in_every_resample():
    sample = random_sample(7)
    found = estimate_worst_decile(sample, Bootstrap(resamples=2000))
    values = sorted(sample.numbers)
    assert found.value == values[0]
    assert found.interval[0] == values[0]
    assert found.interval[1] > values[1]
    assert found.method is None


@pytest.mark.unit
def test_the_worst_decile_of_the_method_holds_that_of_these_models_and_the_spread_of_seeds():
    low, high = sample_of(*(np.linspace(start, 0.9, 11) for start in (0.1, 0.2, 0.5, 0.6))), random_sample(13, 13)
    found = estimate_worst_decile(low, Bootstrap(resamples=2000))
    starts = np.array([np.sort(low.values(seed))[0] + 0.1 * np.ptp(low.values(seed)) / 11 for seed in low.seeds])
    assert found.method[0] < starts.mean() - starts.std() < starts.mean() + starts.std() < found.method[1]
    other = estimate_worst_decile(high, Bootstrap(resamples=2000))
    assert other.method[0] <= other.interval[0] <= other.interval[1] <= other.method[1]


@pytest.mark.unit
def test_a_client_is_another_person_in_every_seed_unless_users_are_clients():
    strata = {seed: {f"c{n}": float(v) for n, v in enumerate([0.1, 0.5, 0.6, 0.9])} for seed in range(5)}
    dealt, users = (estimate(ClientSample(strata, same_users=same)) for same in (False, True))
    once = estimate(ClientSample({0: strata[0]}))
    assert np.ptp(dealt.interval) < 0.5 * np.ptp(users.interval)
    assert users.interval == pytest.approx(once.interval)
    answers = {(s, f"p{s}{n}{k}", f"u{n}"): v for s in range(5) for n, v in enumerate([0.1, 0.5, 0.9]) for k in "ab"}
    dealt, users = (estimate(PromptSample(answers, same_users=same)) for same in (False, True))
    assert np.ptp(dealt.interval) < 0.7 * np.ptp(users.interval)


@pytest.mark.unit
def test_items_are_those_of_the_scores_and_follow_differences():
    words = {"a": "1 h0 1", "b": "0 11 0"}
    scores = [
        ClientScore("m", 2, 0, name, None, True, 2.5 if name == "a" else 2, 4, results=results, items="1a 2b 3c")
        for name, results in words.items()
    ]
    sample = ClientSample.of(scores)
    design, values = sample.answers()
    assert values == pytest.approx([1, 0.25, 1, 0, 1, 0])
    assert design.weights == pytest.approx([1 / 8, 2 / 8, 1 / 8] * 2)
    assert design.items.tolist() == [0x1A >> 1, 0x2B >> 1, 0x3C >> 1] * 2
    assert float(design.weights @ values) == pytest.approx(sample.mean)
    assert sample.minus(sample).answers()[1] == pytest.approx([0] * 6)
    other = ClientSample.of([replace(score, items="1a 2b 3e") for score in scores])
    assert len(sample.minus(other).answers()[1]) == 2  # tested on other items: only whole clients can be paired


@pytest.mark.unit
def test_a_hold_out_is_the_same_for_all_clients_of_a_group():
    scores = [
        ClientScore("m", 3, 0, name, group, True, 1, 1, 1, 2, holdout_results=results)
        for name, group, results in (("x", "a", "1 0"), ("y", "a", "0 1"), ("z", "b", "1 0"))
    ]
    design, _ = ClientSample.of(scores, lambda s: s.holdout_accuracy, lambda s: s.holdout_tested()).answers()
    assert design.items[:2].tolist() == design.items[2:4].tolist()
    assert not set(design.items[:2]) & set(design.items[4:])


@pytest.mark.equivalence
def test_both_kinds_of_sample_give_the_same_interval_for_the_same_numbers():
    values = np.random.default_rng(6).beta(5, 2, 23)
    prompts = prompt_sample(values)
    clients = ClientSample({0: {prompt: value for (_, prompt, _), value in prompts.values.items()}})
    bootstrap = Bootstrap(resamples=2000)
    one, other = estimate(clients, bootstrap), estimate(prompts, bootstrap)
    assert (one.value, *one.interval) == pytest.approx((other.value, *other.interval), rel=1e-12)
    assert (clients.units, clients.seeds) == (prompts.units, prompts.seeds) == (23, [0])
    assert clients.numbers == pytest.approx(prompts.numbers, rel=0)
