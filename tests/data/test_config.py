from __future__ import annotations

from pathlib import Path

import pytest

from fedvpa.core.errors import ConfigError, DataError, InputError
from fedvpa.data.config import DataConfig
from fedvpa.data.holdout import load_holdout
from fedvpa.data.load import load
from fedvpa.data.schema import Pair, PairTable
from fedvpa.data.sources.base import PathKeys, Source, SourceKeys
from fedvpa.data.sources.registry import SOURCES

pytestmark = pytest.mark.unit


class EchoKeys(SourceKeys):
    words: tuple[str, ...]
    repeat: int = 1


def _echo(keys: EchoKeys) -> PairTable:
    assert isinstance(keys, EchoKeys)
    texts = keys.words * keys.repeat
    return PairTable(tuple(Pair("say it", text, "no", pair_id=str(row)) for row, text in enumerate(texts)))


class FolderKeys(PathKeys):
    depth: int = 3


@pytest.fixture(autouse=True)
def _added(monkeypatch) -> None:
    monkeypatch.setattr(SOURCES, "_registered", {})
    SOURCES.register("echo", Source(EchoKeys, _echo))
    SOURCES.register("folder", Source(FolderKeys, lambda keys: PairTable((Pair(keys.path, str(keys.depth), "no"),))))


def test_an_added_source_reads_its_own_keys_from_the_settings():
    config = DataConfig.parse({"source": "echo", "settings": {"words": ["a", "b"], "repeat": 2}, "strict": True})
    assert [pair.chosen for pair in load(config).pairs] == ["a", "b", "a", "b"]
    assert config.source_keys() == EchoKeys(words=("a", "b"), repeat=2, strict=True)
    assert DataConfig.parse(config.model_dump(mode="json")) == config


def test_keys_that_the_section_has_are_set_there():
    config = DataConfig.parse({"source": "folder", "path": "here", "settings": {"depth": 5}})
    assert (load(config).pairs[0].prompt, load(config).pairs[0].chosen) == ("here", "5")
    with pytest.raises(ConfigError, match=r"^configuration key 'data\.settings\.path': .*Set it as data\.path"):
        DataConfig.parse({"source": "folder", "settings": {"path": "here"}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"source": "echo", "settings": {"words": ["a"], "repaet": 2}},
            "configuration key 'data.settings.repaet': is not known. Did you mean 'repeat'?",
        ),
        ({"source": "echo"}, "configuration key 'data.settings.words': Field required"),
        ({"source": "echo", "settings": {"words": ["a"]}, "path": "x"}, "'path' was set, and source 'echo' does not"),
        ({"settings": {"words": ["a"]}}, "'settings' was set, and source 'world' does not read it."),
    ],
)
def test_a_setting_that_the_source_does_not_read_is_an_error(values, message):
    with pytest.raises(ConfigError) as error:
        DataConfig.parse(values)
    assert message in str(error.value)


def test_a_configuration_without_settings_is_written_as_before_sources_had_them():
    assert "settings" not in DataConfig().model_dump()
    assert "settings" not in DataConfig().model_dump(mode="json")


def test_a_hold_out_needs_a_source_that_reads_a_file():
    config = DataConfig.parse({"source": "echo", "settings": {"words": ["a"]}})
    with pytest.raises(DataError, match="the source 'echo' reads no file"):
        load_holdout(config.model_copy(update={"path": "held.jsonl"}), load(config))


def _missing(folder: Path) -> list[dict[str, object]]:
    (folder / "bare" / "helpful-base").mkdir(parents=True)
    (folder / "empty").mkdir()
    return [
        {"source": "table"},
        {"source": "table", "path": str(folder / "no.jsonl")},
        {"source": "table", "path": str(folder / "empty")},
        {"source": "hh-rlhf"},
        {"source": "hh-rlhf", "path": str(folder / "no")},
        {"source": "hh-rlhf", "path": str(folder / "empty")},
        {"source": "hh-rlhf", "path": str(folder / "bare")},
    ]


def test_missing_files_are_the_same_error_before_and_while_reading(tmp_path):
    for values in _missing(tmp_path):
        config = DataConfig.parse(values)
        with pytest.raises(InputError) as early:
            config.check_paths()
        with pytest.raises(type(early.value)) as late:
            load(config)
        assert str(early.value) == str(late.value)
    DataConfig().check_paths()
    DataConfig.parse({"source": "table", "path": "owner/name"}).check_paths()


def test_the_rules_of_texts_names_and_weights_hold_for_added_sources(monkeypatch):
    def source(**values):
        pair = {"prompt": "p", "chosen": "c", "rejected": "r", **values}
        SOURCES.register("given", Source(SourceKeys, lambda keys: PairTable((Pair(**pair),))))
        return load(DataConfig(source="given", strict=values.get("chosen") == "strict\ud83d"))

    assert source(chosen="c\ud83d").pairs[0].chosen == "c\ufffd"
    assert [str(one) for one in source(prompt="\ud83d").report.findings] == [
        "1 text changed: a half surrogate pair, which UTF-8 cannot hold, became U+FFFD (first: given, pair 0)"
    ]
    for values, message in (
        ({"user_id": "\ud83d"}, "given, pair 0: column 'user_id' holds"),
        ({"weight": 1e-20, "pair_id": "x"}, "given, pair x: the weight 1e-20 is not from"),
        ({"chosen": "strict\ud83d"}, "given, pair 0: a text would be changed"),
    ):
        with pytest.raises(DataError, match=f"^{message}"):
            source(**values)
