"""The cache: its key, a resumed extraction, two processes, and folders that cannot be used."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from fedvpa.core.errors import ConfigError, DataError, ModelError
from fedvpa.core.schema import VERSIONS
from fedvpa.data.schema import Pair, PairTable
from fedvpa.features import store as store_module
from fedvpa.features.backbone import load_backbone
from fedvpa.features.config import FeatureConfig
from fedvpa.features.extract import extract, load_features

EXTRACT = "fedvpa.features.extract"  # the package exports a function of this name, so the module is fetched by name


@pytest.fixture
def config(model_folder, tmp_path) -> FeatureConfig:
    return FeatureConfig(model=str(model_folder("qwen2")), cache_dir=tmp_path / "cache", tokens_per_batch=101)


@pytest.fixture
def die_after(monkeypatch) -> Callable[[int], None]:
    """Let the extraction die after some batches, as Ctrl-C would."""

    def arrange(count: int) -> None:
        module = sys.modules[EXTRACT]
        whole = module.compute

        def dying(*args, **kwargs):
            for place, item in enumerate(whole(*args, **kwargs)):
                if place == count:
                    raise KeyboardInterrupt
                yield item

        monkeypatch.setattr(module, "compute", dying)

    return arrange


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
    assert isinstance(cached.chosen, np.memmap)
    assert cached.chosen.dtype == np.float16
    with pytest.raises(ValueError):
        cached.chosen[0, 0] = 1


@pytest.mark.unit
def test_a_second_call_loads_no_model(config, table, monkeypatch):
    first = load_features(table, config)
    monkeypatch.setattr(sys.modules[EXTRACT], "load_backbone", lambda *_: pytest.fail("the model was loaded"))
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


@pytest.mark.equivalence
@pytest.mark.parametrize("batches_before", [0, 1, 3])
def test_a_resumed_extraction_equals_an_uninterrupted_one(
    config, table, die_after, monkeypatch, tmp_path, batches_before
):
    whole = load_features(table, config.model_copy(update={"cache_dir": tmp_path / "other"}))
    with monkeypatch.context():
        die_after(batches_before)
        with pytest.raises(KeyboardInterrupt):
            load_features(table, config)
        monkeypatch.undo()
    (folder,) = folders(config)
    done = json.loads((folder / "progress.json").read_text())["rows_done"]
    assert (done > 0) == (batches_before > 0)
    assert done < len(table)
    resumed = load_features(table, config)
    np.testing.assert_array_equal(resumed.chosen, whole.chosen)
    np.testing.assert_array_equal(resumed.rejected, whole.rejected)
    assert resumed.report == whole.report


@pytest.mark.unit
def test_resuming_computes_only_what_is_missing(config, table, die_after, monkeypatch):
    die_after(2)
    with pytest.raises(KeyboardInterrupt):
        load_features(table, config)
    monkeypatch.undo()
    (folder,) = folders(config)
    done = json.loads((folder / "progress.json").read_text())["rows_done"]
    module = sys.modules[EXTRACT]
    starts = []
    whole = module.compute
    monkeypatch.setattr(module, "compute", lambda *args: starts.append(args[-1]) or whole(*args))
    load_features(table, config)
    assert starts == [done]


@pytest.mark.unit
def test_progress_is_recorded_while_the_work_goes_on(config, table, monkeypatch):
    """A kill that runs no handler finds the last checkpoint on disk."""
    module = sys.modules[EXTRACT]
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", 0.0)
    whole, recorded = module.compute, []

    def watching(*args):
        done = 0
        for rows, features in whole(*args):
            if done:
                (folder,) = folders(config)
                recorded.append((json.loads((folder / "progress.json").read_text())["rows_done"], done))
            done += len(rows)
            yield rows, features

    monkeypatch.setattr(module, "compute", watching)
    load_features(table, config)
    assert len(recorded) > 2
    assert all(on_disk == done for on_disk, done in recorded)


@pytest.mark.unit
def test_rows_after_the_last_checkpoint_are_computed_again(config, table, die_after, monkeypatch):
    """What a power cut leaves behind the recorded progress is not trusted."""
    die_after(2)
    with pytest.raises(KeyboardInterrupt):
        load_features(table, config)
    monkeypatch.undo()
    (folder,) = folders(config)
    progress = json.loads((folder / "progress.json").read_text())
    (folder / "progress.json").write_text(json.dumps({**progress, "rows_done": 1}))
    whole = extract(table, load_backbone(config), config)
    order = np.argsort(-np.array([row.packed for row in _work(table, config).rows]), kind="stable")
    for side in ("chosen", "rejected"):
        np.load(folder / f"{side}.npy", mmap_mode="r+")[order[1:]] = 7
    np.testing.assert_array_equal(load_features(table, config).chosen, whole.chosen)


@pytest.mark.unit
def test_progress_of_another_processing_order_is_not_continued(config, table, die_after, monkeypatch):
    die_after(2)
    with pytest.raises(KeyboardInterrupt):
        load_features(table, config)
    monkeypatch.undo()
    (folder,) = folders(config)
    progress = json.loads((folder / "progress.json").read_text())
    (folder / "progress.json").write_text(json.dumps({**progress, "order": "other", "rows_done": len(table)}))
    whole = extract(table, load_backbone(config), config)
    np.testing.assert_array_equal(load_features(table, config).chosen, whole.chosen)


def _work(table, config):
    return sys.modules[EXTRACT].prepare(table.pairs, load_backbone(config), config)


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
def test_texts_and_their_order_are_part_of_the_key_and_other_columns_are_not(config, table):
    load_features(table, config)
    labelled = PairTable(tuple(replace(pair, user_id="u", group="g", split="test", weight=2.0) for pair in table.pairs))
    load_features(labelled, config)
    assert len(folders(config)) == 1
    load_features(table.select([1, 0, *range(2, len(table))]), config)
    assert len(folders(config)) == 2


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
    with pytest.raises(ModelError, match="schema version 2; this fedvpa reads 1"):
        load_features(table, config)


@pytest.mark.unit
def test_damaged_files_are_named(config, table):
    load_features(table, config)
    (folder,) = folders(config)
    whole = (folder / "chosen.npy").read_bytes()
    (folder / "chosen.npy").write_bytes(whole[:-5])
    with pytest.raises(ModelError, match=r"chosen\.npy: .*damaged"):
        load_features(table, config)
    np.save(folder / "chosen.npy", np.zeros((3, 2), np.float16))
    with pytest.raises(ModelError, match=r"holds \[3, 2\]"):
        load_features(table, config)
    (folder / "chosen.npy").write_bytes(whole)
    (folder / "progress.json").write_text("{")
    with pytest.raises(ModelError, match=r"progress\.json: .*damaged"):
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
def test_a_full_disk_shows_before_the_work_and_leaves_no_cache(config, table, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module.npy, "write_array_header_1_0", full)
    with pytest.raises(OSError, match="No space"):
        load_features(table, config)
    monkeypatch.undo()
    (folder,) = folders(config)
    assert list(folder.iterdir()) == []
    assert len(load_features(table, config)) == len(table)


@pytest.mark.equivalence
def test_two_at_once_extract_once_and_agree(config, table, monkeypatch):
    """Threads stand for processes: the lock belongs to an open file, so both exclude each other the same way."""
    module = sys.modules[EXTRACT]
    whole, loads = module.load_backbone, []
    monkeypatch.setattr(module, "load_backbone", lambda *args: loads.append(args) or whole(*args))
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: load_features(table, config), range(3)))
    expected = extract(table, load_backbone(config), config)
    assert len(loads) == 1
    for features in found:
        np.testing.assert_array_equal(features.chosen, expected.chosen)
        np.testing.assert_array_equal(features.rejected, expected.rejected)


@pytest.mark.unit
def test_the_second_process_says_that_it_waits(config, table, capsys, monkeypatch):
    load_features(table, config)
    (folder,) = folders(config)
    acquire = FileLock.acquire
    held = FileLock(folder.with_suffix(".lock"))
    held.acquire()

    def patient(self, timeout=None, **options):
        if timeout is None:
            held.release()
        return acquire(self, timeout=timeout, **options)

    monkeypatch.setattr(FileLock, "acquire", patient)
    load_features(table, config)
    assert "waiting" in capsys.readouterr().err


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
    with pytest.raises(DataError, match=r"row 0 \('odd'\)"):
        load_features(PairTable((Pair("w1", " ", "w2", pair_id="odd"),)), config)
