"""The cache: its key, where features are found again, and folders that cannot be used."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedvpa.core.errors import ConfigError, DataError, ModelError, StorageError
from fedvpa.core.schema import VERSIONS
from fedvpa.data.schema import Pair, PairTable
from fedvpa.features import precision
from fedvpa.features import store as store_module
from fedvpa.features.backbone import load_backbone
from fedvpa.features.config import FeatureConfig
from fedvpa.features.extract import extract, load_features
from fedvpa.features.records import PAIR

EXTRACT = "fedvpa.features.extract"  # the package exports a function of this name, so the module is fetched by name
FILLING = "fedvpa.features.filling"


@pytest.fixture
def config(model_folder, tmp_path) -> FeatureConfig:
    return FeatureConfig(model=str(model_folder("qwen2")), cache_dir=tmp_path / "cache", tokens_per_batch=101)


def folders(config: FeatureConfig) -> list[Path]:
    return sorted(path for path in config.cache_dir.iterdir() if path.is_dir())


@pytest.mark.equivalence
def test_cached_features_equal_extracted_ones_and_are_read_only_maps(config, table):
    cached = load_features(table, config)
    direct = extract(table, load_backbone(config), config)
    np.testing.assert_array_equal(cached.chosen, direct.chosen)
    np.testing.assert_array_equal(cached.rejected, direct.rejected)
    assert cached.report == direct.report
    assert cached.report.pairs == len(cached) == len(table)
    assert isinstance(cached.chosen.source, np.memmap)
    assert cached.chosen.dtype == np.float16
    with pytest.raises(ValueError, match="read-only"):
        cached.chosen.source[0, 0] = 1


@pytest.fixture
def no_model(monkeypatch) -> Callable[[], None]:
    """From now on the model must not be loaded."""

    def arrange() -> None:
        monkeypatch.setattr(sys.modules[EXTRACT], "load_backbone", lambda *_: pytest.fail("the model was loaded"))

    return arrange


@pytest.mark.unit
def test_a_second_call_loads_no_model(config, table, no_model):
    first = load_features(table, config)
    no_model()
    again = load_features(table, config)
    np.testing.assert_array_equal(first.rejected, again.rejected)
    assert again.report == first.report


@pytest.mark.unit
def test_differences_are_taken_in_float32(config, table):
    features = load_features(table, config)
    rows = [5, 2, 7]
    expected = features.chosen[rows].astype(np.float32) - features.rejected[rows].astype(np.float32)
    np.testing.assert_array_equal(features.differences(rows), expected)
    assert features.differences().shape == (len(table), 24)


@pytest.mark.unit
@pytest.mark.parametrize(
    "change",
    [
        {"max_prompt_tokens": 3},
        {"max_response_tokens": 2},
        {"layer": 1},
        {"dtype": "bfloat16"},
        {"storage": "float32"},
        {"model": "llama"},
    ],
)
def test_whatever_changes_the_features_changes_the_folder(config, table, model_folder, change):
    before = load_features(table, config)
    if "model" in change:
        change = {"model": str(model_folder(change["model"]))}
    after = load_features(table, config.model_copy(update=change))
    assert len(folders(config)) == 2
    assert before.chosen.dtype != after.chosen.dtype or not np.array_equal(before.chosen, after.chosen)


@pytest.mark.unit
def test_the_chat_template_is_part_of_the_key(config, table, model_folder):
    config = config.model_copy(update={"model": str(model_folder("llama", chat=True))})
    plain = load_features(table, config)
    chat = load_features(table, config.model_copy(update={"template": "chat"}))
    assert len(folders(config)) == 2
    assert not np.array_equal(plain.chosen, chat.chosen)


@pytest.mark.unit
def test_order_and_columns_other_than_texts_decide_nothing(config, table, no_model):
    whole = load_features(table, config)
    no_model()
    labelled = PairTable(tuple(replace(pair, user_id="u", group="g", split="test", weight=2.0) for pair in table.pairs))
    assert load_features(labelled, config).report == whole.report
    rows = [4, 0, 11, 4]
    part = load_features(table.select(rows), config)
    np.testing.assert_array_equal(part.chosen, whole.chosen[rows])
    np.testing.assert_array_equal(part.rejected, whole.rejected[rows])
    assert len(folders(config)) == 1


@pytest.mark.unit
def test_batch_size_is_no_part_of_the_key_and_a_moved_model_finds_its_cache(config, table, tmp_path):
    load_features(table, config)
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in Path(config.model).iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    load_features(table, config.model_copy(update={"tokens_per_batch": 7, "model": str(moved)}))
    assert len(folders(config)) == 1
    settings = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps({**settings, "rms_norm_eps": 0.5}))
    load_features(table, config.model_copy(update={"model": str(moved)}))
    assert len(folders(config)) == 2


@pytest.mark.unit
def test_the_tokenizer_is_part_of_the_key(config, table, tmp_path):
    load_features(table, config)
    other = shutil.copytree(config.model, tmp_path / "other")
    backend = json.loads((other / "tokenizer.json").read_text())
    backend["normalizer"] = {"type": "Replace", "pattern": {"String": "w1"}, "content": "w2"}
    (other / "tokenizer.json").write_text(json.dumps(backend))
    load_features(table, config.model_copy(update={"model": str(other)}))
    assert len(folders(config)) == 2


def _spoil_meta(folder: Path, **changes) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, **changes, "key": {**meta["key"], **changes.get("key", {})}}))


@pytest.mark.unit
def test_a_cache_of_another_model_or_schema_is_refused(config, table):
    load_features(table, config)
    (folder,) = folders(config)
    _spoil_meta(folder, key={"model": "sha256:other"})
    with pytest.raises(ModelError, match=r"written with model = 'sha256:other'.*[Dd]elete"):
        load_features(table, config)
    _spoil_meta(folder, schema_version=VERSIONS["features"] + 1)
    with pytest.raises(ModelError, match="schema version 3; this fedvpa reads 2"):
        load_features(table, config)


@pytest.mark.unit
def test_damaged_files_are_named(config, table):
    load_features(table, config)
    (folder,) = folders(config)
    for name in ("vectors.bin", "texts.bin", "pairs.bin"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:-1])
        with pytest.raises(
            ModelError, match=rf"{name}: .*damaged.*{len(whole) - 1:,} bytes, and {len(whole):,} belong"
        ):
            load_features(table, config)
        (folder / name).write_bytes(whole)
    records = np.fromfile(folder / "pairs.bin", PAIR)
    for place in (len(table) * 2, -1):
        spoiled = records.copy()
        spoiled["texts"][3, 1] = place
        spoiled.tofile(folder / "pairs.bin")
        with pytest.raises(ModelError, match=r"pairs\.bin: .*names features that are not there"):
            load_features(table, config)
    for name, spoiled in (("progress.json", "{"), ("progress.json", "[]"), ("meta.json", "{")):
        whole = (folder / name).read_text()
        (folder / name).write_text(spoiled)
        with pytest.raises(ModelError, match=rf"{name}: .*damaged"):
            load_features(table, config)
        (folder / name).write_text(whole)
    (folder / "progress.json").write_text('{"texts": 3}')
    with pytest.raises(ModelError, match="damaged"):
        load_features(table, config)


@pytest.mark.unit
def test_features_that_do_not_fit_are_errors_and_never_nan():
    rows = np.array([11, 13])
    with pytest.raises(ModelError, match="row 13"):
        store_module.stored(np.array([[1.0, 2.0], [3.0, np.nan]]), rows, np.dtype("float16"))
    with pytest.raises(ModelError, match="storage: float32"):
        store_module.stored(np.array([[1.0, 7e4], [3.0, 1.0]]), rows, np.dtype("float16"))
    assert store_module.stored(np.array([[1.0, 7e4]]), rows, np.dtype("float32"))[0, 1] == 7e4


@pytest.mark.unit
def test_a_disk_without_room_shows_before_the_work(config, table, monkeypatch):
    needed = 2 * len(table) * 24 * 2  # two responses of each pair, 24 dimensions in float16
    usage = shutil.disk_usage(config.cache_dir.parent)
    monkeypatch.setattr(sys.modules[FILLING].shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    with pytest.raises(StorageError, match=r"features of 26 responses need 0 MB.*cache_dir"):
        load_features(table, config)
    monkeypatch.setattr(sys.modules[FILLING].shutil, "disk_usage", lambda _: usage._replace(free=needed))
    assert len(load_features(table, config)) == len(table)


@pytest.mark.unit
def test_features_from_another_kind_of_device_are_used_and_said(config, table, capsys, no_model):
    """bfloat16 is what ``auto`` means on a GPU; here it stands for one."""
    precision._say_precision.cache_clear()
    there = load_features(table, config.model_copy(update={"dtype": "bfloat16"}))
    no_model()
    here = load_features(table, config)
    np.testing.assert_array_equal(here.chosen, there.chosen)
    assert re.search(r"computed in bfloat16.*features\.dtype=float32 computes them anew", capsys.readouterr().err)
    assert len(folders(config)) == 1


@pytest.mark.unit
@pytest.mark.parametrize(("others", "used"), [(range(7), "bfloat16"), (range(6), "float32")])
def test_the_rest_of_a_table_is_computed_as_most_of_it_was(config, table, others, used):
    """Of 13 pairs, 7 are most."""
    load_features(table.select(list(others)), config.model_copy(update={"dtype": "bfloat16"}))
    found = load_features(table, config)
    expected = load_features(table, config.model_copy(update={"dtype": used}))
    np.testing.assert_array_equal(found.rejected, expected.rejected)
    assert len(folders(config)) == (1 if used == "bfloat16" else 2)


@pytest.mark.unit
def test_what_a_device_has_in_its_own_precision_comes_first(config, table):
    own = load_features(table, config)
    load_features(table, config.model_copy(update={"dtype": "bfloat16"}))
    np.testing.assert_array_equal(load_features(table, config).chosen, own.chosen)


@pytest.mark.unit
def test_features_of_an_earlier_release_are_left_alone_and_it_is_said_once(config, table, capsys):
    old = config.cache_dir / "0123456789abcdef0123456789abcdef"
    old.mkdir(parents=True)
    (old / "chosen.npy").write_bytes(b"old")
    load_features(table.select([0, 1]), config)
    assert "features of 1 tables that an earlier release extracted" in capsys.readouterr().err
    load_features(table, config)
    assert "earlier release" not in capsys.readouterr().err
    assert (old / "chosen.npy").read_bytes() == b"old"


@pytest.mark.unit
def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDVPA_CACHE", str(tmp_path))
    assert FeatureConfig().cache_root() == tmp_path / "features"
    assert FeatureConfig(cache_dir=tmp_path / "own").cache_root() == tmp_path / "own"
    monkeypatch.delenv("FEDVPA_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert FeatureConfig().cache_root() == tmp_path / ".cache" / "fedvpa" / "features"


@pytest.mark.unit
def test_an_unwritable_cache_is_a_configuration_error(config, table, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="FEDVPA_CACHE"):
        load_features(table, config.model_copy(update={"cache_dir": tmp_path / "file" / "cache"}))


@pytest.mark.unit
def test_no_pairs_is_an_error(config):
    with pytest.raises(DataError, match="no pairs"):
        load_features(PairTable(()), config)
    for _ in range(2):  # computed, and found again
        with pytest.raises(DataError, match=r"row 0 \('odd'\): the chosen response has no tokens.*Remove the pair"):
            load_features(PairTable((Pair("w1", " ", "w2", pair_id="odd"),)), config)
