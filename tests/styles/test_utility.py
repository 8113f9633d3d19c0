from itertools import combinations

import numpy as np
import pytest

from fedvpa.core.errors import ConfigError
from fedvpa.styles.properties import NAMES
from fedvpa.styles.utility import GAP, StyleUtility, preferred, scaled

pytestmark = pytest.mark.unit

WEIGHTS = {"length": -2.0, "hedges": 0.5}


def test_a_readable_text_is_worth_its_weighed_tastes(samples, standard):
    utility = StyleUtility(WEIGHTS, standard)
    values, fluent = utility.values(samples[1])
    tastes = standard.tastes(samples[1])
    short = standard.fluency.shortfall(samples[1])
    by_hand = -2.0 * tastes[:, NAMES.index("length")] + 0.5 * tastes[:, NAMES.index("hedges")] - 2.0 * 2.5 * short
    assert values == pytest.approx(by_hand)
    assert fluent.all()
    assert utility.span == 2.5


def test_what_cannot_be_read_is_worth_less_than_whatever_can(samples, standard):
    utility = StyleUtility(WEIGHTS, standard)
    texts = ["", "No.", "you you you you you you you you", "?!?!"]
    values, fluent = utility.values(texts)
    assert not fluent.any()
    assert (values == utility.worst).all()
    least = -utility.span - 2.0 * utility.span * 0.5  # the worst taste, just above the limit of language
    assert utility.worst == least - 1.0
    assert utility.values([text for own in samples for text in own])[0].min() > utility.worst


def test_scaled_weights_keep_their_proportions_and_set_the_noise_of_labels(samples, standard):
    found = scaled(WEIGHTS, samples, standard)
    assert found["length"] / found["hedges"] == pytest.approx(-4.0)
    assert found["length"] < 0
    tastes = [standard.tastes(own) @ np.array([found.get(name, 0.0) for name in NAMES]) for own in samples]
    gaps = [first - second for own in tastes for first, second in combinations(own, 2)]
    assert np.sqrt(np.mean(np.square(gaps))) == pytest.approx(GAP)


def test_a_taste_for_what_never_differs_has_no_scale(samples, standard):
    with pytest.raises(ConfigError, match="weighed: lists"):
        scaled({"lists": 1.0}, samples, standard)


def test_the_law_of_labels():
    assert preferred(np.array([0.0, 2.0]), 1.0) == pytest.approx([0.5, 1 / (1 + np.exp(-2.0))])
    assert preferred(np.array([2.0]), 4.0) == pytest.approx(1 / (1 + np.exp(-0.5)))
