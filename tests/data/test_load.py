import pytest

from fedvpa.core.config import Config
from fedvpa.core.errors import ConfigError
from fedvpa.data.config import DataConfig
from fedvpa.data.load import load
from fedvpa.data.sources.registry import SOURCES

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": "tabel"}, "configuration key 'source': There is no source 'tabel'. Did you mean 'table'?"),
        ({"pth": "x"}, "configuration key 'pth': is not known. Did you mean 'path'?"),
        (
            {"source": "table", "map": {"grop": "x"}},
            "configuration key 'map.grop': is not known. Did you mean 'group'?",
        ),
        ({"source": "table", "users": 7}, "'users' was set, and source 'table' does not read it."),
        ({"path": "x"}, "'path' was set, and source 'world' does not read it."),
        ({"path": "x"}, "Or choose a source that reads it: data.source=hh-rlhf, data.source="),
        ({"source": "hh-rlhf", "map": {"group": "x"}}, "'map' was set, and source 'hh-rlhf' does not read it."),
    ],
)
def test_a_key_that_nothing_reads_is_an_error(values, message):
    with pytest.raises(ConfigError) as error:
        DataConfig.parse(values)
    assert message in str(error.value)


class Run(Config):
    data: DataConfig = DataConfig()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pth": "x"}, "configuration key 'data.pth': is not known. Did you mean 'path'?"),
        ({"source": "tabel"}, "configuration key 'data.source': There is no source 'tabel'."),
        ({"source": "table", "map": {"grop": "x"}}, "configuration key 'data.map.grop': is not known."),
        ({"path": "x"}, "configuration key 'data': 'path' was set, and source 'world' does not read it."),
    ],
)
def test_errors_inside_a_larger_configuration_name_the_whole_path(values, message):
    with pytest.raises(ConfigError) as error:
        Run.parse({"data": values})
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("source", SOURCES.names())
def test_a_resolved_configuration_can_be_read_again(source):
    config = DataConfig(source=source, strict=True)
    assert DataConfig.parse(config.model_dump(mode="json")) == config


def test_the_world_names_every_pair_after_its_user():
    config = DataConfig(users=3, pairs_per_user=5, seed=2)
    table = load(config)
    assert len(table) == 15
    assert [pair.pair_id for pair in table.pairs[:2]] == [f"{table.pairs[0].user_id}:0", f"{table.pairs[0].user_id}:1"]
    assert len({pair.user_id for pair in table.pairs}) == 3
    assert table.groups() == ["harmless", "helpful"]
    assert table.report.read == 15
    assert load(config) == table


@pytest.mark.parametrize(
    "change",
    [
        {"population": "four-groups"},
        {"users": 5},
        {"user_shares": (1.0, 0.0001)},
        {"pairs_per_user": 3},
        {"temperature": 0.01},
        {"flip": 0.49},
        {"pool": "test"},
        {"seed": 11},
    ],
)
def test_every_key_of_the_world_changes_it(change):
    config = DataConfig(users=7, pairs_per_user=13)
    assert load(config).pairs != load(config.model_copy(update=change)).pairs
