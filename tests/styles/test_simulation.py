import json

import pytest

from fedvpa.core.errors import ConfigError, RunError
from fedvpa.styles.simulation import FILE, Simulation
from fedvpa.styles.users import StyleUser

pytestmark = pytest.mark.unit


@pytest.fixture
def simulation(standard):
    groups = {"brief": {"length": -3.0}, "long": {"length": 2.0, "hedges": 1.0}}
    users = (StyleUser("user-00000", "brief", groups["brief"]), StyleUser("user-00001", None, {"hedges": 2.5}))
    return Simulation("mine", groups, users, standard, 0.5, {"seed": 3})


def test_it_is_read_as_it_was_written(simulation, tmp_path):
    simulation.save(tmp_path)
    assert Simulation.load(tmp_path) == simulation
    saved = json.loads((tmp_path / FILE).read_text())
    assert saved["users"] == {"user-00000": {"group": "brief"}, "user-00001": {"weights": {"hedges": 2.5}}}
    assert (saved["schema_version"], saved["seed"], saved["population"]) == (1, 3, "mine")


def test_a_preference_is_a_group_or_a_user(simulation):
    assert simulation.utility("long").weights == {"length": 2.0, "hedges": 1.0}
    assert simulation.utility("user-00001").weights == {"hedges": 2.5}
    with pytest.raises(ConfigError, match=r"no group 'brif'.*'brief'"):
        simulation.utility("brif")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "schema version 99"),
        ({"users": {"u": {"group": "nobody"}}}, "damaged"),
        ({"groups": 3}, "damaged"),
        ({"fluency": {}}, "damaged"),
        ({"temperature": "cold"}, "damaged"),
    ],
)
def test_a_file_that_is_something_else_is_one_message(simulation, tmp_path, change, message):
    simulation.save(tmp_path)
    path = tmp_path / FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RunError, match=message):
        Simulation.load(tmp_path)


def test_a_folder_without_one(tmp_path):
    with pytest.raises(RunError, match=r"holds no simulation\.json"):
        Simulation.load(tmp_path)
