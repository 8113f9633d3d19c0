import os
from collections import Counter
from pathlib import Path

import pytest

from fedvpa.core.errors import ConfigError
from fedvpa.data.load import load
from fedvpa.data.partition import partition
from fedvpa.runs.config import RunConfig, dump, read_config, with_overrides


@pytest.mark.unit
@pytest.mark.parametrize("overrides", [(), ("partition.clients=7",), ("partition.unseen=3", "data.source=world")])
def test_users_are_clients_whatever_else_is_given(overrides: tuple[str, ...]) -> None:
    assert read_config(None, overrides).partition.kind == "natural"


@pytest.mark.unit
@pytest.mark.parametrize("more", [("partition.clients=20",), ("data.users=26",)])
def test_users_of_the_world_who_train_have_the_shares_and_unseen_ones_are_even(more: tuple[str, ...]) -> None:
    own = ["data.user_shares=[0.9, 0.1]", "partition.unseen=6", "data.pairs_per_user=30", *more]
    config = read_config(None, own)
    found = partition(load(config.resolved_data()), config.partition, config.seed)
    for clients, counts in (
        (found.seen, {"helpful": 18, "harmless": 2}),
        (found.unseen, {"helpful": 3, "harmless": 3}),
    ):
        assert Counter(client.group for client in clients) == counts


@pytest.mark.unit
def test_where_nobody_is_unseen_the_shares_of_the_world_are_as_they_are() -> None:
    config = read_config(None, ["data.user_shares=[0.9, 0.1]", "partition.clients=20"])
    assert config.resolved_data().user_shares == (0.9, 0.1)


@pytest.mark.unit
def test_another_kind_is_kept() -> None:
    assert read_config(None, ["partition.kind=dirichlet", "partition.alpha=0.7"]).partition.kind == "dirichlet"


@pytest.mark.unit
def test_overrides_win_over_the_file_and_what_is_written_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("server: {rounds: 11}\ndata:\n")
    config = read_config(path, ["server.rounds=13", "data.pairs_per_user=17", "selector.encoder.pair_widths=[5, 3]"])
    assert (config.server.rounds, config.data.pairs_per_user) == (13, 17)
    assert config.selector.encoder.pair_widths == (5, 3)
    path.write_text(dump(config))
    assert read_config(path) == config
    assert with_overrides(config, ["seed=7"]) == config.model_copy(update={"seed": 7})


@pytest.mark.unit
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("server.rounds=[", "not YAML"),
        ("server.rounds", "key.path=value"),
        ("server.round=3", "Did you mean 'rounds'"),
        ("servers.rounds=3", "Did you mean 'server'"),
        ("server.rounds.more=3", "no section"),
        ("method=fedvpa-gp", "Did you mean 'fedvpa_gp'"),
        ("server.rounds=many", "server.rounds"),
    ],
)
def test_a_wrong_override_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(None, ["server.rounds=5", override] if "more" in override else [override])


@pytest.mark.unit
@pytest.mark.parametrize("content", [b"\xff\xfe\xfa", b"- 1\n- 2\n", b"a: [", b"servr: {}\n"])
def test_a_wrong_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        read_config(path)


@pytest.mark.unit
def test_a_run_knows_where_its_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_text("")
    (tmp_path / "model").mkdir()
    config = read_config(None, ["data.source=table", "data.path=pairs.jsonl", "features.model=model"]).located()
    assert config.data.path == os.path.join(tmp_path.resolve(), "pairs.jsonl")
    assert config.features.model == os.path.join(tmp_path.resolve(), "model")
    assert RunConfig().located() == RunConfig()


@pytest.mark.unit
def test_off_without_quotes_is_the_word() -> None:
    assert read_config(None, ("variational.refinement=off",)).variational.refinement == "off"


@pytest.mark.unit
@pytest.mark.parametrize("word", ["on", "null", "4.1", "1e3", "2024-05-01", "007", "no"])
def test_the_name_of_a_column_and_of_a_model_is_text(word: str) -> None:
    overrides = ["data.source=table", f"data.map.user_id={word}", "policy.judging.judge=openai-compatible"]
    config = read_config(
        None, [*overrides, f"policy.judging.settings.model={word}", "policy.judging.settings.api_key_env="]
    )
    assert config.data.map.user_id == word
    assert config.policy.judging.settings == {"model": word, "api_key_env": ""}
    assert with_overrides(config, [f"data.map.group={word}"]).data.map.group == word


@pytest.mark.unit
def test_a_file_and_the_run_it_becomes_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("data: {source: table, map: {user_id: on, group: 4.10}}\npolicy: {model: 007}\n")
    config = read_config(path)
    assert (config.data.map.user_id, config.data.map.group, config.policy.model) == ("on", "4.10", "007")
    path.write_text(dump(config))
    assert read_config(path) == config


@pytest.mark.unit
@pytest.mark.parametrize("key", ["data.path", "data.map.group", "policy.judging.settings.model", "features.cache_dir"])
@pytest.mark.parametrize(("text", "message"), [("caf\udce9", "half a surrogate pair"), ("a\0b", "a NUL")])
def test_a_value_that_no_file_can_hold_is_an_error(key: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"configuration key '{key}': .* holds {message}"):
        read_config(None, ["data.source=table", "policy.judging.judge=openai-compatible", f"{key}={text}"])


@pytest.mark.unit
def test_a_configuration_shows_what_is_not_a_default() -> None:
    assert repr(RunConfig()) == str(RunConfig()) == "RunConfig()"
    changed = read_config(None, ["server.rounds=7", "data.source=table", "data.path=p.csv", "data.map.user_id=worker"])
    assert repr(changed) == "RunConfig(data.path=p.csv, data.map.user_id=worker, data.source=table, server.rounds=7)"
