"""Whose taste decides about the policies of users without groups."""

import pytest

from fedvpa.core.errors import ConfigError
from fedvpa.experiments.groups import without_group
from fedvpa.rewards.objective_names import default_objectives
from fedvpa.runs.config import with_overrides
from fedvpa.runs.prepare import prepare
from fedvpa.runs.scores import conflicting
from fedvpa.runs.tastes import own_tastes
from fedvpa.world.users import find_population, find_utility, make_users

pytestmark = pytest.mark.unit


@pytest.fixture
def individuals(tiny):
    return with_overrides(tiny, ["data.population=individuals", "data.seed=3"])


def test_the_taste_of_an_individual_is_the_utility_that_labelled_the_pairs(individuals):
    names = own_tastes(individuals, ["user-00001", "user-00000"])
    users = {user.user_id: user for user in make_users(find_population("individuals"), 2, 3)}
    assert {user: find_utility(name) for user, name in names.items()} == {
        user: users[user].utility for user in ("user-00000", "user-00001")
    }


def test_groups_and_other_judges_decide_by_no_own_taste(tiny, individuals):
    assert own_tastes(tiny, ["user-00000"]) == {}
    assert own_tastes(with_overrides(individuals, ["policy.judging.judge=reward-model"]), ["user-00000"]) == {}


def test_clients_who_are_several_individuals_have_no_taste(individuals):
    mixed = with_overrides(individuals, ["partition.kind=topics"])
    with pytest.raises(ConfigError, match=r"pairs of several individuals.*partition\.kind=natural"):
        own_tastes(mixed, ["client-0"])


def test_what_reads_groups_copes_with_individuals(individuals):
    prepared = prepare(individuals)
    assert {client.group for client in prepared.federation.partition.clients} == {None}
    assert conflicting(individuals, prepared.table) is None
    assert "individuals without groups" in without_group(individuals, [7], 0)
    assert [str(name) for name in default_objectives("individuals", 2)] == ["selector:0", "selector:1"]
