"""How the cache grows: each text once, after a kill, and by several processes at once."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from fedvpa.data.schema import Message, Pair, PairTable
from fedvpa.features.backbone import load_backbone
from fedvpa.features.cache import CacheFolder
from fedvpa.features.config import FeatureConfig
from fedvpa.features.extract import extract, load_features
from fedvpa.features.identity import folder_for
from fedvpa.models.locate import locate

EXTRACT, FILLING = (sys.modules[f"fedvpa.features.{name}"] for name in ("extract", "filling"))

ROUNDING = 2e-3
"""Features of another batch, in float16: the storage keeps 11 bits, and these features are below 4."""


@pytest.fixture
def config(model_folder, tmp_path) -> FeatureConfig:
    return FeatureConfig(model=str(model_folder("qwen2")), cache_dir=tmp_path / "cache", tokens_per_batch=101)


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """How many responses are computed from now on, batch by batch."""
    whole, found = FILLING.compute, []

    def watching(*arguments):
        for numbers, features in whole(*arguments):
            found.append(len(numbers))
            yield numbers, features

    monkeypatch.setattr(FILLING, "compute", watching)
    return found


@contextmanager
def dying_after(batches: int) -> Iterator[None]:
    """Inside, an extraction dies after so many batches, as by Ctrl-C."""
    whole, done = FILLING.compute, itertools.count()

    def dying(*arguments):
        for item in whole(*arguments):
            if next(done) == batches:
                raise KeyboardInterrupt
            yield item

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FILLING, "compute", dying)
        yield


def folder_of(config: FeatureConfig) -> CacheFolder:
    return folder_for(config.model_copy(update={"dtype": "float32"}), locate(config.model))


def counts(config: FeatureConfig) -> tuple[int, int]:
    """How many responses and pairs count."""
    path = folder_of(config).path / "progress.json"
    found = json.loads(path.read_text()) if path.is_file() else {"texts": 0, "pairs": 0}
    return found["texts"], found["pairs"]


def same(first, second, tolerance: float = 0.0) -> None:
    for side in ("chosen", "rejected"):
        one, other = (np.asarray(getattr(features, side), dtype=np.float32) for features in (first, second))
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)
    assert first.report == second.report


@pytest.mark.equivalence
@pytest.mark.parametrize(("family", "batches_before"), [("qwen2", 0), ("qwen2", 3), ("bert", 1), ("gemma2", 2)])
def test_a_resumed_extraction_equals_an_uninterrupted_one(
    config, table, model_folder, monkeypatch, tmp_path, family, batches_before
):
    config = config.model_copy(update={"model": str(model_folder(family))})
    monkeypatch.setattr(FILLING, "CHUNK", 5)
    whole = load_features(table, config.model_copy(update={"cache_dir": tmp_path / "other"}))
    with dying_after(batches_before), pytest.raises(KeyboardInterrupt):
        load_features(table, config)
    texts, pairs = counts(config)
    assert (texts > 0) == (batches_before > 0)
    assert texts < 2 * len(table)
    assert pairs < len(table)
    same(load_features(table, config), whole)


@pytest.mark.unit
def test_resuming_computes_only_what_is_missing(config, table, computed):
    with dying_after(2), pytest.raises(KeyboardInterrupt):
        load_features(table, config)
    done = counts(config)[0]
    assert sum(computed[:2]) == done > 0
    computed.clear()
    load_features(table, config)
    assert sum(computed) == 2 * len(table) - done


@pytest.mark.unit
def test_what_is_computed_counts_while_the_work_goes_on(config, table, monkeypatch):
    """A kill that runs no handler finds the last checkpoint on disk."""
    monkeypatch.setattr(FILLING, "CHECKPOINT_SECONDS", 0.0)
    whole, recorded = FILLING.compute, []

    def watching(*arguments):
        done = 0
        for numbers, features in whole(*arguments):
            recorded.append((counts(config)[0], done))
            done += len(numbers)
            yield numbers, features

    monkeypatch.setattr(FILLING, "compute", watching)
    load_features(table, config)
    assert len(recorded) > 2
    assert all(on_disk == done for on_disk, done in recorded)


@pytest.mark.unit
@pytest.mark.parametrize("step", ["vectors.bin", "texts.bin", "pairs.bin"])
def test_what_a_kill_leaves_behind_the_counts_is_written_over(config, table, monkeypatch, step):
    """The process dies while it writes a file, before the counts say that it holds more."""
    expected = extract(table, load_backbone(config), config)
    module = sys.modules["fedvpa.features.cache"]
    whole = module._append

    def dying(path, *arguments):
        whole(path, *arguments)
        if path.name == step:
            path.write_bytes(b"something that never became what it should be")
            raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(module, "_append", dying)
        with pytest.raises(SystemExit):
            load_features(table, config)
    assert (folder_of(config).path / step).stat().st_size
    assert counts(config) == ((2 * len(table) if step == "pairs.bin" else 0), 0)
    same(load_features(table, config), expected)


@pytest.mark.unit
def test_one_more_pair_computes_its_own_responses_only(config, table, computed):
    before = load_features(table.select(list(range(12))), config)
    computed.clear()
    after = load_features(table, config)
    assert sum(computed) == 2
    np.testing.assert_array_equal(after.chosen[:12], before.chosen)


@pytest.mark.equivalence
def test_equal_texts_are_computed_once_wherever_they_stand(config, computed):
    """Three responses to a prompt, in all their pairs and both directions, beside another prompt."""
    answers, prompt = ["w4 w5", "w6", "w7 w8 w9"], "w1 w2 w3"
    pairs = [Pair(prompt, one, other) for one in answers for other in answers if one != other]
    pairs += [Pair("w2", "w6", "w4 w5"), Pair("w2", "w6", "w4 w5", user_id="u"), Pair("w2", "w6", "w6")]
    found = load_features(PairTable(tuple(pairs)), config)
    assert sum(computed) == 5
    assert counts(config) == (5, 8)
    backbone = load_backbone(config)
    for row, pair in enumerate(pairs):
        alone = extract(PairTable((pair,)), backbone, config)
        np.testing.assert_allclose(found.chosen[[row]], alone.chosen, rtol=0, atol=ROUNDING)
        np.testing.assert_allclose(found.rejected[[row]], alone.rejected, rtol=0, atol=ROUNDING)
    assert found.report.equal_rows == (8,)
    assert found.report.pairs == len(pairs)


@pytest.mark.equivalence
def test_features_of_a_text_do_not_depend_on_the_table_that_asks(config, table):
    """Whatever table came first, a text has one vector; and up to rounding the one that it would have alone."""
    expected = extract(table, load_backbone(config), config)
    reverse = table.select(list(range(len(table)))[::-1])
    first = load_features(reverse.select(list(range(7))), config)
    found = load_features(table, config)
    np.testing.assert_array_equal(found.chosen[::-1][:7], first.chosen)
    same(found, expected, ROUNDING)


@pytest.mark.unit
def test_two_responses_whose_lengths_move_the_cut_of_their_prompt_are_other_texts(config, model_folder, monkeypatch):
    """A model with few positions cuts the prompt to what the longer response leaves: features depend on the pair."""
    config = config.model_copy(update={"model": str(model_folder("bert"))})
    backbone = load_backbone(config)
    few = type(backbone)(**{name: getattr(backbone, name) for name in backbone.__slots__} | {"positions": 9})
    monkeypatch.setattr(EXTRACT, "load_backbone", lambda *_: few)
    pairs = (Pair("w1 w2 w3", "w4", "w5"), Pair("w1 w2 w3", "w4", "w6 w7 w8 w9 w10"))
    found = load_features(PairTable(pairs), config)
    assert found.report.prompts_truncated == 1
    assert np.abs(found.chosen[0].astype(float) - found.chosen[1]).max() > 0.01


@pytest.mark.unit
def test_chunks_of_a_table_give_what_the_whole_gives(config, table, monkeypatch, tmp_path):
    whole = load_features(table, config.model_copy(update={"cache_dir": tmp_path / "other"}))
    twice = PairTable(table.pairs + table.pairs)
    monkeypatch.setattr(FILLING, "CHUNK", 4)
    found = load_features(twice, config)
    for side in ("chosen", "rejected"):
        expected = np.concatenate([getattr(whole, side)] * 2)
        np.testing.assert_allclose(getattr(found, side), expected, rtol=0, atol=ROUNDING)
    assert counts(config) == (2 * len(table), len(table))


@pytest.mark.unit
def test_pairs_that_cannot_be_read_are_known_again_with_their_reason(config, table, model_folder):
    config = config.model_copy(update={"model": str(model_folder("llama", chat=True))})
    first = PairTable((Pair("w1", " ", "w2"), Pair("w1", "w3", "w2")))
    second = PairTable((Pair("w1", "w3", "w2"), Pair("w5", "w2", " "), Pair("w1", " ", "w2")))
    assert load_features(first, config).report.unreadable_reasons == (
        "the chosen response has no tokens, so it has no features.",
    )
    for _ in range(2):
        report = load_features(second, config).report
        assert report.unreadable_rows == report.equal_rows == (1, 2)
        assert [reason.split()[1] for reason in report.unreadable_reasons] == ["rejected", "chosen"]


@pytest.mark.unit
def test_a_string_and_a_message_with_the_same_text_are_told_apart(config, model_folder):
    config = config.model_copy(update={"model": str(model_folder("llama", chat=True))})
    plain = Pair("w1", "w4", "w5")
    turns = Pair(*((Message(role, text),) for role, text in (("user", "w1"), ("assistant", "w4"), ("assistant", "w5"))))
    found = load_features(PairTable((plain, turns)), config)
    assert np.abs(found.chosen[0].astype(float) - found.chosen[1]).max() > 0.01


@pytest.mark.equivalence
def test_two_at_once_extract_once_and_agree(config, table, monkeypatch):
    """Threads stand for processes: the lock belongs to an open file, so both exclude each other the same way."""
    whole, loads = EXTRACT.load_backbone, []
    monkeypatch.setattr(EXTRACT, "load_backbone", lambda *args: loads.append(args) or whole(*args))
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: load_features(table, config), range(3)))
    expected = extract(table, load_backbone(config), config)
    assert len(loads) == 1
    for features in found:
        same(features, expected)
    assert not list(Path(config.cache_dir).glob("*.lock"))


@pytest.mark.equivalence
def test_tables_that_overlap_are_added_at_the_same_time(config, table, monkeypatch):
    """Each thread finds the other's responses, or computes them and leaves the first ones in place."""
    backbone = load_backbone(config)  # once: transformers cannot load models in several threads
    monkeypatch.setattr(EXTRACT, "load_backbone", lambda *_: backbone)
    monkeypatch.setattr(FILLING, "CHUNK", 3)
    monkeypatch.setattr(FILLING, "CHECKPOINT_SECONDS", 0.0)
    parts = [list(range(9)), list(range(4, 13)), list(range(12, 2, -1))]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda rows: load_features(table.select(rows), config), parts))
    expected = extract(table, backbone, config)
    for rows, features in zip(parts, found, strict=True):
        np.testing.assert_allclose(features.chosen, expected.chosen[rows], rtol=0, atol=ROUNDING)
        np.testing.assert_allclose(features.rejected, expected.rejected[rows], rtol=0, atol=ROUNDING)
    assert counts(config) == (2 * len(table), len(table))


@pytest.mark.unit
def test_the_second_process_says_that_it_waits(config, table, capsys, monkeypatch):
    held, acquire = [], FileLock.acquire

    def patient(self, timeout=None, **options):
        if timeout == 0 and not held:
            held.append(FileLock(self.lock_file))
            acquire(held[0])
        elif held:
            held[0].release()
        return acquire(self, timeout=timeout, **options)

    monkeypatch.setattr(FileLock, "acquire", patient)
    load_features(table, config)
    assert "waiting" in capsys.readouterr().err
