"""Users: utilities by hand, populations as promised, and Bayes accuracies against Monte Carlo."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from fedvpa.core.errors import ConfigError
from fedvpa.world.accuracy import bayes_accuracy, conflict_share, expected_accuracy, population_bayes_accuracy
from fedvpa.world.attributes import Attributes, attribute_grid
from fedvpa.world.generate import generate_world
from fedvpa.world.grammar import Parsed, parse
from fedvpa.world.users import INDIVIDUAL_GAP, POPULATIONS, find_population, find_utility, individual_name, make_users
from fedvpa.world.utility import FEATURES, OFF_TOPIC_WEIGHT, WORST_MARGIN, Utility, features, preference

HELPFUL, HARMLESS = find_utility("helpful"), find_utility("harmless")


@pytest.mark.unit
def test_features_by_hand() -> None:
    attributes = Attributes(compliance=True, detail=2, caveat=False, warmth=2, formality=False, brevity=1, off_topic=3)
    assert features(attributes) == pytest.approx([1.0, -0.2, -1.0, 1.0, -1.0, 0.0, 0.6])
    assert len(FEATURES) == 7


@pytest.mark.unit
def test_utility_by_hand() -> None:
    utility = Utility("someone", (2.0, 5.0, 0.0, 0.0, 0.0, 0.0, -10.0), (-3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    attributes = Attributes(compliance=True, detail=2, caveat=False, warmth=2, formality=False, brevity=1, off_topic=3)
    assert utility.value(attributes, risky=False) == pytest.approx(2.0 - 1.0 - 6.0)
    assert utility.value(attributes, risky=True) == pytest.approx(2.0 - 3.0 - 1.0 - 6.0)
    # Worst: refuse (−2), five off-topic details (−5 − 10); on risky prompts compliance is worst instead (2 − 3).
    assert utility.worst(risky=False) == pytest.approx(-17.0 - WORST_MARGIN)
    assert utility.worst(risky=True) == pytest.approx(-16.0 - WORST_MARGIN)


@pytest.mark.unit
@pytest.mark.parametrize("population", POPULATIONS.values(), ids=lambda population: population.name)
def test_off_topic_details_never_pay(population: object) -> None:
    assert isinstance(population, type(find_population("two-groups")))
    for utility in population.utilities:
        for risky in (False, True):
            plain = {(a.compliance, a.caveat, a.warmth, a.formality, a.brevity, a.detail): a for a in attribute_grid()}
            for padded in (a for a in attribute_grid(off_topic=True) if a.off_topic):
                key = (padded.compliance, padded.caveat, padded.warmth, padded.formality, padded.brevity, padded.detail)
                assert utility.value(padded, risky) < utility.value(plain[key], risky)


@pytest.mark.unit
def test_two_groups_truly_conflict() -> None:
    conflict = conflict_share(HELPFUL, HARMLESS)
    assert 0.6 <= conflict <= 0.75
    assert conflict == conflict_share(HARMLESS, HELPFUL)
    assert conflict_share(HELPFUL, HELPFUL) == 0.0
    for own, other in ((HELPFUL, HARMLESS), (HARMLESS, HELPFUL)):
        assert 0.80 <= bayes_accuracy(own) <= 0.85
        assert expected_accuracy(other, own) < 0.4


@pytest.mark.unit
def test_no_single_ranking_serves_two_groups() -> None:
    """The best prediction without knowing the user, computed pair by pair, is far below the Bayes accuracy."""
    grid = np.stack([features(a) for a in attribute_grid()])
    best = []
    for risky in (False, True):
        values = [grid @ utility.vector(risky) for utility in (HELPFUL, HARMLESS)]
        mean = np.mean([expit(value[:, None] - value[None, :]) for value in values], axis=0)
        best.append(np.maximum(mean, 1 - mean)[~np.eye(len(grid), dtype=bool)].mean())
    assert np.mean(best) < 0.62


@pytest.mark.unit
def test_four_groups_point_in_distinct_directions() -> None:
    utilities = find_population("four-groups").utilities
    assert len(utilities) == 4
    for row, first in enumerate(utilities):
        assert 0.80 <= bayes_accuracy(first) <= 0.85
        for second in utilities[row + 1 :]:
            assert conflict_share(first, second) > 0.45


@pytest.mark.reference
@pytest.mark.parametrize(("temperature", "flip"), [(1.0, 0.0), (2.0, 0.1)])
def test_bayes_accuracy_against_monte_carlo(temperature: float, flip: float) -> None:
    """Labels of generated texts, ranked by the utility of what the parser reads: nothing of the formula is used."""
    pairs = generate_world("two-groups", 2, 4001, seed=3, temperature=temperature, flip=flip)
    for own, other in ((HELPFUL, HARMLESS), (HARMLESS, HELPFUL)):
        gaps = np.array(
            [_gap(pair.prompt, pair.chosen, pair.rejected, (own, other)) for pair in pairs if pair.group == own.name]
        )
        # Standard error 0.006 to 0.008: four of them. Ties are half right, as the formula counts them.
        right = (gaps > 0) + 0.5 * (gaps == 0)
        assert right[:, 0].mean() == pytest.approx(bayes_accuracy(own, temperature, flip), abs=0.03)
        assert right[:, 1].mean() == pytest.approx(expected_accuracy(other, own, temperature, flip), abs=0.03)
        conflict = (gaps[:, 0] * gaps[:, 1] < 0).mean()
        assert conflict == pytest.approx(conflict_share(own, other), abs=0.03)


def _gap(prompt: str, chosen: str, rejected: str, utilities: tuple[Utility, ...]) -> list[float]:
    readings = [parse(prompt, text) for text in (chosen, rejected)]
    values = [[u.value(r.attributes, r.intent.risky) for r in readings if isinstance(r, Parsed)] for u in utilities]
    return [round(better - worse, 9) for better, worse in values]


@pytest.mark.reference
def test_preference_is_bradley_terry_with_flips() -> None:
    gap = np.array([-2.0, 0.0, 0.7])
    assert preference(gap, 2.0) == pytest.approx(expit(gap / 2.0))
    assert preference(gap, 2.0, 0.1) == pytest.approx(0.9 * expit(gap / 2.0) + 0.1 * (1 - expit(gap / 2.0)))


@pytest.mark.unit
def test_noise_lowers_the_bayes_accuracy_as_it_must() -> None:
    assert bayes_accuracy(HELPFUL, 1.0, 0.2) == pytest.approx(0.6 * bayes_accuracy(HELPFUL, 1.0) + 0.2)
    assert bayes_accuracy(HELPFUL, 1e-6) == pytest.approx(1.0, abs=2e-3)  # All but exact ties.
    assert bayes_accuracy(HELPFUL, 1e6) == pytest.approx(0.5, abs=1e-5)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("temperature", "flip", "problem"),
    [(0.0, 0.0, "positive"), (float("nan"), 0.0, "positive"), (1.0, 0.5, "flip"), (1.0, -0.1, "flip")],
)
def test_impossible_noise_is_an_error(temperature: float, flip: float, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        bayes_accuracy(HELPFUL, temperature, flip)


@pytest.mark.unit
def test_groups_follow_shares_in_every_prefix() -> None:
    population = find_population("two-groups")
    groups = [user.group for user in make_users(population, 101, 0, (0.7, 0.3))]
    for count in range(1, 102):
        assert abs(groups[:count].count("helpful") - 0.7 * count) <= 1.0
    assert [user.group for user in make_users(population, 4, 0)] == ["helpful", "harmless"] * 2
    assert {user.group for user in make_users(population, 7, 0, (0.0, 2.0))} == {"harmless"}


@pytest.mark.unit
def test_mixed_users_are_convex_and_belong_to_their_largest_share() -> None:
    population = find_population("continuous")
    users = make_users(population, 43, 1)
    bases = np.array([utility.weights + utility.risky_weights for utility in population.utilities])
    for user in users:
        own = np.array(user.utility.weights + user.utility.risky_weights)
        shares = np.linalg.lstsq(bases.T, own, rcond=None)[0]
        assert shares.sum() == pytest.approx(1.0)
        assert shares.min() > -1e-9
        assert user.group == population.utilities[int(shares.argmax())].name
    assert len({user.utility.weights for user in users}) == 43
    assert make_users(population, 11, 1) == users[:11]
    assert make_users(population, 11, 2) != users[:11]
    assert population_bayes_accuracy(users[:5]) == pytest.approx(
        np.mean([bayes_accuracy(user.utility) for user in users[:5]])
    )


@pytest.mark.unit
def test_individuals_have_no_group_and_a_taste_of_their_own() -> None:
    population = find_population("individuals")
    users = make_users(population, 31, 1)
    assert {user.group for user in users} == {None}
    assert make_users(population, 11, 1) == users[:11]
    assert make_users(population, 1, 2)[0].utility.weights != users[0].utility.weights
    weights = np.array([user.utility.weights + user.utility.risky_weights for user in users])
    # Nobody is a mixture of a few prototypes: the tastes span all of the six attributes, on both kinds of prompts.
    assert np.linalg.matrix_rank(weights - weights.mean(0)) == 12
    assert (weights[:, FEATURES.index("off_topic")] == OFF_TOPIC_WEIGHT).all()


@pytest.mark.reference
def test_the_labels_of_every_individual_are_as_noisy_as_those_of_a_group() -> None:
    grid = np.stack([features(a) for a in attribute_grid()])
    for user in make_users(find_population("individuals"), 5, 0):
        squares = []
        for risky in (False, True):
            values = grid @ user.utility.vector(risky)
            gaps = (values[:, None] - values[None, :])[~np.eye(len(grid), dtype=bool)]
            squares.append((gaps**2).mean())
        assert np.sqrt(np.mean(squares)) == pytest.approx(INDIVIDUAL_GAP)
        assert 0.80 <= bayes_accuracy(user.utility) <= 0.85


@pytest.mark.unit
def test_individuals_share_some_of_their_taste_and_not_most_of_it() -> None:
    """The Gaussian's own moments, and how far the taste that all share takes a shared model."""
    population = find_population("individuals")
    users = make_users(population, 400, 0)
    weights = np.array([user.utility.weights[:6] for user in users])
    shared = np.array(population.shared)
    mean, deviation = weights.mean(0), weights.std(0)
    # Standard error 0.05 of the deviation's mean over users: four of them.
    np.testing.assert_allclose(mean / deviation.mean(), shared, atol=0.2)
    assert deviation.max() / deviation.min() < 1.3
    common = Utility("shared", (*map(float, shared), 0.0), (0.0,) * 7)
    assert 0.55 <= np.mean([expected_accuracy(common, user.utility) for user in users[:40]]) <= 0.68


@pytest.mark.unit
def test_a_utility_is_found_by_the_name_of_its_individual() -> None:
    users = make_users(find_population("individuals"), 3, 7)
    assert users[2].utility.name == individual_name("individuals", 7, "user-00002")
    assert find_utility(users[2].utility.name) == users[2].utility
    for wrong in ("individuals/7/user-2", "individuals/x/user-00002", "individuals/07/user-00002", "individuals/7/me"):
        with pytest.raises(ConfigError, match="individuals/0/user-00000"):
            find_utility(wrong)
    with pytest.raises(ConfigError, match="no group 'two-groups/0/user-00000'"):
        find_utility("two-groups/0/user-00000")


@pytest.mark.unit
def test_wrong_names_and_numbers_are_errors() -> None:
    population = find_population("two-groups")
    with pytest.raises(ConfigError, match="Did you mean 'two-groups'"):
        find_population("two-group")
    with pytest.raises(ConfigError, match="Did you mean 'helpful'"):
        find_utility("helpfull")
    with pytest.raises(ConfigError, match="nobody"):
        make_users(population, 0, 0)
    for shares in ((1.0,), (0.5, -0.5), (0.0, 0.0), (float("nan"), 1.0)):
        with pytest.raises(ConfigError, match="helpful, harmless"):
            make_users(population, 3, 0, shares)
    with pytest.raises(ConfigError, match="mixtures"):
        make_users(find_population("continuous"), 3, 0, (0.25,) * 4)
    with pytest.raises(ConfigError, match="no groups to share out"):
        make_users(find_population("individuals"), 3, 0, (1.0,))
