import numpy as np
import pytest

from fedvpa.core.errors import ConfigError
from fedvpa.styles.properties import NAMES, measure
from fedvpa.styles.standard import Spread, Standard

pytestmark = pytest.mark.unit


def test_the_spread_of_a_property_by_hand():
    found = Standard.of([["A, b.", "A b."], ["A b.", "A b c, d."]]).spreads["commas"]
    values = np.array([0.5, 0.0, 0.0, 0.25])
    assert found.mean == pytest.approx(values.mean())
    assert found.deviation == pytest.approx(values.std(ddof=1))
    assert found.within == pytest.approx(np.sqrt((0.125 + 0.03125) / 2))
    assert found.differing == 1.0


def test_only_pairs_of_one_prompt_count_as_differing():
    found = Standard.of([["A b.", "C d."], ["A, b.", "C, d."], ["A b.", "A, b."], ["A b.", "A b."]]).spreads["commas"]
    assert found.differing == 0.25
    assert found.varies
    assert not Standard.of([["A b.", "C d."], ["A, b.", "C, d."]]).spreads["commas"].varies


def test_tastes_are_standardised_and_saturate(samples, standard):
    texts = [samples[0][0], "word " * 500]
    found = standard.tastes(texts)
    column = NAMES.index("length")
    spread = standard.spreads["length"]
    by_hand = np.tanh((measure(texts)[:, column] - spread.mean) / spread.deviation)
    assert found[:, column] == pytest.approx(by_hand)
    assert (np.abs(found) < 1.0 + 1e-12).all()
    assert (found[:, NAMES.index("lists")] == 0).all()  # no sample has a list, so there is no scale


def test_weights_of_what_does_not_vary_are_refused_and_all_are_named(standard):
    standard.check_varies({"a": {"length": 1.0, "lists": 0.0}}, "The population 'x'")
    weights = {"a": {"length": 1.0, "lists": -1.0}, "b": {"emphasis": 0.1}}
    with pytest.raises(ConfigError, match=r"'x' weighs.*lists \(differs in 0% of pairs\), emphasis .*hedges"):
        standard.check_varies(weights, "The population 'x'")


def test_it_is_read_as_it_was_written(standard):
    assert Standard.from_dict(standard.to_dict()) == standard
    assert Spread(0.0, 0.0, 0.0, 1.0).varies is False
