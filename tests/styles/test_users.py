import pytest

from fedvpa.core.errors import ConfigError
from fedvpa.styles.properties import PROPERTIES
from fedvpa.styles.users import POPULATIONS, Population, find_population, make_users

pytestmark = pytest.mark.unit


def doubled(weights):
    return {name: 2 * weight for name, weight in weights.items()}


def test_shipped_populations_weigh_known_properties():
    assert list(POPULATIONS) == ["two-styles", "four-styles", "individuals"]
    for population in POPULATIONS.values():
        for weights in (*population.groups.values(), population.mean):
            assert set(weights) <= set(PROPERTIES)
    assert [len(POPULATIONS[name].groups) for name in POPULATIONS] == [2, 4, 0]


def test_groups_take_turns_and_share_their_weights():
    users = make_users(Population("x", {"a": {"length": 1.0}, "b": {"hedges": -1.0}}), 5, 0, doubled)
    assert [user.group for user in users] == ["a", "b", "a", "b", "a"]
    assert users[0].weights == users[2].weights == {"length": 2.0}
    assert [user.user_id for user in users][:2] == ["user-00000", "user-00001"]


def test_individuals_differ_and_more_of_them_change_nobody():
    population = Population("x", mean={"length": 5.0, "hedges": 0.0})
    few, many = (make_users(population, count, 3, dict) for count in (2, 7))
    assert many[:2] == few
    assert few[0].weights != few[1].weights
    assert {user.group for user in many} == {None}
    assert sum(user.weights["length"] for user in many) / 7 > 3
    assert make_users(population, 2, 4, dict) != few
    wider = make_users(Population("x", mean={**population.mean, "commas": 0.0}), 1, 3, dict)
    assert {name: wider[0].weights[name] for name in ("length", "hedges")} == few[0].weights


def written(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_population_of_a_file_has_its_name(tmp_path):
    found = find_population(written(tmp_path, "groups:\n  brief: {length: -1}\n  long: {length: 1, lists: 0.5}\n"))
    assert found == Population("mine", {"brief": {"length": -1.0}, "long": {"length": 1.0, "lists": 0.5}})
    found = find_population(written(tmp_path, "individuals: {length: 0, warmth: 0.5}"))
    assert found == Population("mine", mean={"length": 0.0, "warmth": 0.5})
    assert found.weighed == {"mine": {"length": 1.0, "warmth": 1.0}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("groups: {a: {lenght: 1}}", r"mine\.yaml: there is no property 'lenght'.*'length'"),
        ("groups: {a: {length: much}}", "weight of length in a is 'much'"),
        ("groups: {a: {length: true}}", "weight of length in a is True"),
        ("groups: {a: {length: .inf}}", "weight of length in a is inf"),
        ("groups: {a: {length: 0}}", "weights of a are all 0"),
        ("groups: {a: }", "a has no weights"),
        ("groups: {user-1: {length: 1}}", "'user-1' cannot be the name of a group"),
        ("groups: {3: {length: 1}}", "3 cannot be the name"),
        ("groups: {}", "no group"),
        ("individuals: 3", "individuals has no weights"),
        ("[1, 2]", "has one key"),
        ("groups: {a: {length: 1}}\nindividuals: {length: 1}", "has one key"),
        ("groups: [", "no YAML"),
    ],
)
def test_a_file_that_is_no_population_says_why(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        find_population(written(tmp_path, text))


def test_a_population_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"no population 'two-style'.*Did you mean 'two-styles'"):
        find_population("two-style")
    with pytest.raises(ConfigError, match="cannot be read"):
        find_population(str(tmp_path / "none.yaml"))
