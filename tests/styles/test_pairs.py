import numpy as np
import pytest

from fedvpa.core.errors import DataError
from fedvpa.styles.pairs import agreement, bayes_accuracy, by_group, most_pairs, user_pairs
from fedvpa.styles.users import StyleUser
from fedvpa.styles.utility import StyleUtility

pytestmark = pytest.mark.unit

NAMES = ["p0", "p1", "p2", "p3"]
USER = StyleUser("user-00000", "brief", {"length": -3.0})


@pytest.fixture
def draw(samples, standard):
    def drawn(user=USER, count=12, texts=samples, names=NAMES, seed=0, temperature=1.0):
        return user_pairs(user, count, names, texts, standard, seed=seed, temperature=temperature)

    return drawn


def test_a_user_labels_each_prompt_once_before_any_twice(draw):
    found = draw()
    for turn in range(3):
        assert sorted(pair.prompt for pair in found[4 * turn : 4 * turn + 4]) == [0, 1, 2, 3]
    assert len({(pair.prompt, *sorted((pair.chosen, pair.rejected))) for pair in found}) == 12 == most_pairs(4, 3)


def test_more_pairs_and_more_prompts_behind_leave_labels_as_they_were(draw, samples):
    assert draw(count=5) == draw()[:5]
    labels = {(pair.prompt, pair.chosen, pair.rejected) for pair in draw()}
    fewer = draw(count=6, texts=samples[:2], names=NAMES[:2])
    assert {(pair.prompt, pair.chosen, pair.rejected) for pair in fewer} <= labels


def test_users_and_seeds_draw_apart(draw):
    other = StyleUser("user-00001", "brief", USER.weights)
    assert [pair.prompt for pair in draw(other)] != [pair.prompt for pair in draw()]
    assert draw(seed=1) != draw()


def test_labels_follow_the_utilities_and_say_with_which_probability(draw, samples, standard):
    utility = StyleUtility(USER.weights, standard)
    for pair in draw(temperature=0.001):
        chosen, rejected = utility.values([samples[pair.prompt][pair.chosen], samples[pair.prompt][pair.rejected]])[0]
        assert chosen > rejected
        assert pair.probability > 0.99
    noisy = draw(temperature=2.0)
    for pair in noisy:
        chosen, rejected = utility.values([samples[pair.prompt][pair.chosen], samples[pair.prompt][pair.rejected]])[0]
        assert pair.probability == pytest.approx(1 / (1 + np.exp(-(chosen - rejected) / 2.0)))
    assert any(pair.probability < 0.5 for seed in range(5) for pair in draw(temperature=20.0, seed=seed))


def test_equal_and_empty_samples_make_no_pair(draw, samples):
    texts = [["Same text here.", "Same text here. ", ""], *samples[1:]]
    assert {pair.prompt for pair in draw(count=9, texts=texts)} == {1, 2, 3}
    with pytest.raises(
        DataError, match=r"4 prompts have 9 pairs of samples that differ, and user-00000 is to label 10"
    ):
        draw(count=10, texts=texts)


def test_the_bayes_accuracy_is_that_of_the_surer_side(draw):
    found = draw(temperature=2.0)
    p = np.array([pair.probability for pair in found])
    assert bayes_accuracy(found) == pytest.approx(np.where(p > 0.5, p, 1 - p).mean())
    assert agreement(found) == pytest.approx((p > 0.5).mean())
    assert by_group(found) == {"brief": found}
    assert by_group(draw(StyleUser("user-00002", None, USER.weights))) == {}
