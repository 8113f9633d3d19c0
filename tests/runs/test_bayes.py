"""Whoever knows the users' utilities: right where the world's own labels follow them, and as often as promised."""

import numpy as np
import pytest
from scipy.special import expit

from fedvpa.core.errors import DataError
from fedvpa.data.config import DataConfig
from fedvpa.runs.bayes import bayes
from fedvpa.runs.config import with_overrides
from fedvpa.runs.prepare import prepare
from fedvpa.runs.scores import item_names
from fedvpa.runs.truth import own_margins, truth_of
from fedvpa.world.accuracy import population_bayes_accuracy
from fedvpa.world.users import find_population, make_users

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("population", ["two-groups", "individuals"])
def test_with_little_noise_the_true_utilities_are_right_about_all_but_the_closest_pairs(tiny, population):
    config = with_overrides(tiny, [f"data.population={population}", "data.temperature=0.01"])
    prepared = prepare(config)
    margins = own_margins(truth_of(config), prepared.table)
    assert (margins > -0.1).all()
    found, clients = bayes(config, prepared), prepared.federation.partition.clients
    tested = [client for client in clients if len(client.test)]
    for score, client in zip(found.scores, tested, strict=True):
        assert (score.method, score.n_clients) == ("bayes", 7)
        assert (score.client_id, score.group, score.seen) == (client.client_id, client.group, client.seen)
        right = [1.0 if margin > 0 else 0.5 if margin == 0 else 0.0 for margin in margins[client.test]]
        assert (score.correct, score.total) == (sum(right), len(right))
    assert found.expected > 0.95
    assert found.unseen_expected > 0.9


def test_on_average_it_reaches_what_the_labels_allow(tiny):
    config = with_overrides(tiny, ["data.population=individuals", "data.temperature=2", "data.flip=0.1"])
    prepared = prepare(config)
    margins, names = own_margins(truth_of(config), prepared.table), item_names(prepared)
    found = bayes(config, prepared)
    seen = [client for client in prepared.federation.partition.seen if len(client.test)]
    by_hand = [np.mean([0.8 * expit(abs(margins[row]) / 2) + 0.1 for row in client.test]) for client in seen]
    assert found.expected == pytest.approx(np.mean(by_hand))
    for score, client in zip(found.scores, seen, strict=False):
        assert score.items.split() == list(dict.fromkeys(names[row] for row in client.test))
        assert score.total == len(client.test)
    users = make_users(find_population("individuals"), 10, 0)
    assert found.expected == pytest.approx(population_bayes_accuracy(users, 2.0, 0.1), abs=0.1)


def test_nobody_knows_the_utilities_of_other_data(tiny):
    other = tiny.model_copy(update={"data": DataConfig(source="table", path="pairs.jsonl")})
    with pytest.raises(DataError, match="source 'table'"):
        bayes(other, prepare(tiny))
