"""The file of profiles: what is written is whole, what is deleted is gone, and no second process is in the way."""

from __future__ import annotations

import sqlite3
import stat
import sys
import threading
from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from fedvpa.core.errors import RunError, StorageError
from fedvpa.data.schema import Message, Pair
from fedvpa.serving.profile_store import (
    Inference,
    ProfileExists,
    ProfileStore,
    StoredPair,
    UnknownProfile,
)

KILLS = Path(__file__).resolve().parents[2] / "benchmarks" / "serving_kills.py"


def pair(text: str, *, tie: bool = False, words: int = 5) -> StoredPair:
    texts = (" ".join([f"{text}-{side}"] * words) for side in ("prompt", "chosen", "rejected"))
    return StoredPair(Pair(*texts, weight=0.5, tie=tie), np.arange(6, dtype=np.float32).tobytes(), "one")


def counted(pairs: Sequence[StoredPair]) -> Inference:
    """A posterior that says how many pairs it is of."""
    return Inference("selector", str(len(pairs)).encode(), pairs)


@pytest.fixture
def store(tmp_path: Path):
    made = ProfileStore(tmp_path / "own" / "profiles.sqlite3")
    yield made
    made.close()


@pytest.mark.unit
def test_a_profile_comes_back_as_it_was_written(store: ProfileStore):
    turns = (Message("user", "häm"), Message("assistant", "„so“"))
    talk = StoredPair(Pair(turns, (Message("assistant", "a"),), (Message("assistant", "b"),)), b"12345678", "two")
    made = store.create("ana", [pair("first", tie=True), talk], counted)
    assert made == store.read("ana")
    assert made.pairs == (pair("first", tie=True), talk)
    assert (made.name, made.selector, made.posterior, made.created) == ("ana", "selector", b"2", made.updated)
    more = store.add("ana", [pair("third")], counted)
    assert (more.pairs[:2], more.pairs[2], more.posterior) == (made.pairs, pair("third"), b"3")
    with pytest.raises(ProfileExists, match=r"'ana' already.*delete it first"):
        store.create("ana", [], counted)
    store.create("Bo", [], counted)
    assert store.names() == ["Bo", "ana"]
    with pytest.raises(UnknownProfile, match="There is no profile 'an'") as told:
        store.read("an")
    assert "ana" not in str(told.value)


@pytest.mark.unit
def test_features_that_were_computed_again_replace_the_earlier_ones(store: ProfileStore):
    store.create("ana", [pair("first"), pair("second")], counted)

    def anew(pairs: Sequence[StoredPair]) -> Inference:
        return Inference("other", b"", [StoredPair(one.pair, b"new.", "two") for one in pairs])

    found = store.add("ana", [], anew)
    assert [one.features for one in found.pairs] == [b"new."] * 2
    assert (found.selector, store.read("ana")) == ("other", found)


@pytest.mark.unit
def test_a_change_that_fails_leaves_nothing_behind(store: ProfileStore):
    before = store.create("ana", [pair("first")], counted)

    def fails(pairs: Sequence[StoredPair]) -> Inference:
        raise ArithmeticError

    for change in (store.create, store.add):
        with pytest.raises(ArithmeticError):
            change("new" if change == store.create else "ana", [pair("second")], fails)
    assert store.names() == ["ana"]
    assert store.read("ana") == before


@pytest.mark.unit
def test_only_its_owner_can_read_the_file(store: ProfileStore):
    store.create("ana", [pair("first")], counted)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in store.path.parent.iterdir()}
    assert modes == dict.fromkeys(("profiles.sqlite3", "profiles.sqlite3-wal", "profiles.sqlite3-shm"), 0o600)
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700


def bytes_of(store: ProfileStore) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(store.path.parent.iterdir()))


@pytest.mark.unit
def test_of_a_deleted_profile_no_byte_is_left(store: ProfileStore):
    """Pages split and join where rows of all sizes come and go: what is deleted must survive in no copy of a page."""
    rng = np.random.default_rng(0)
    for number in range(12):
        store.create(f"name{number}kept" if number % 3 else f"name{number}gone", [], counted)
    for step in range(60):
        number = int(rng.integers(12))
        kind = "kept" if number % 3 else "gone"
        store.add(f"name{number}{kind}", [pair(f"{kind}{step}", words=int(rng.integers(1, 300)))], counted)
    assert b"gone" in bytes_of(store)
    for number in range(0, 12, 3):
        store.delete(f"name{number}gone")
    left = bytes_of(store)
    assert b"gone" not in left
    assert left.count(b"kept") > 100
    assert len(store.names()) == 8
    with pytest.raises(UnknownProfile):
        store.delete("name0gone")


@pytest.mark.unit
def test_a_log_that_another_process_reads_is_emptied_by_the_next_that_opens(store: ProfileStore, monkeypatch):
    store.create("ana", [pair("gone")], counted)
    reader = sqlite3.connect(store.path)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM profiles").fetchone() == (1,)
    store._connection.execute("PRAGMA busy_timeout = 0")
    with pytest.raises(
        StorageError, match=r"profile is deleted, and its texts stay in this log.*open the profiles again"
    ):
        store.delete("ana")
    assert store.names() == []
    assert b"gone" in bytes_of(store)
    reader.close()
    ProfileStore(store.path).close()
    assert b"gone" not in bytes_of(store)


@pytest.mark.unit
def test_threads_add_to_one_profile_and_none_is_lost(store: ProfileStore):
    store.create("ana", [], counted)
    start = threading.Barrier(4)

    def add(thread: int) -> None:
        start.wait()
        for step in range(5):
            store.add("ana", [pair(f"{thread}:{step}")], counted)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = store.read("ana")
    assert len(found.pairs) == len({one.pair.prompt for one in found.pairs}) == 20
    assert found.posterior == b"20"


@pytest.mark.unit
def test_what_is_no_file_of_profiles_is_refused(tmp_path: Path):
    (tmp_path / "text").write_text("no database" * 100)
    with pytest.raises(RunError, match=r"text: holds no profiles that can be read"):
        ProfileStore(tmp_path / "text")
    other = sqlite3.connect(tmp_path / "other.sqlite3")
    other.execute("CREATE TABLE notes (words TEXT)")
    other.commit()
    other.close()
    with pytest.raises(RunError, match=r"other\.sqlite3: has schema version 0"):
        ProfileStore(tmp_path / "other.sqlite3")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        ProfileStore(tmp_path / "file" / "profiles.sqlite3")


@pytest.mark.end_to_end
def test_two_processes_that_are_killed_lose_nothing(tmp_path: Path, monkeypatch):
    """The work of ``benchmarks/serving_kills.py``, which kills 200 times."""
    monkeypatch.syspath_prepend(str(KILLS.parent))
    spec = spec_from_file_location("serving_kills", KILLS)
    assert spec is not None
    assert spec.loader is not None
    kills = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, kills)
    spec.loader.exec_module(kills)
    found = kills.measure(tmp_path / "profiles.sqlite3", kills=5, seed=0)
    assert found["kills"] == 5
    assert found["acknowledged"] > 20
    assert (found["lost"], found["broken"]) == (0, 0)
