"""Hashes of files: of their content, whatever their name, size and times say; and of what decides a result."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from fedvpa.core import content
from fedvpa.core.content import content_hash, hash_files
from fedvpa.core.identity import differences, digest

pytestmark = pytest.mark.unit


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read from now on."""
    ordinary, found = hashlib.file_digest, []

    def counted(file, name):
        found.append(Path(file.name).name)
        return ordinary(file, name)

    monkeypatch.setattr("fedvpa.core.content.hashlib.file_digest", counted)
    return found


def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock by which every file here has lain untouched for a minute."""
    now = time.time_ns()
    monkeypatch.setattr("fedvpa.core.content.time.time_ns", lambda: now + 60_000_000_000)


def test_a_hash_is_sha256_of_the_content(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert content_hash(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.skipif(os.name != "posix", reason="other systems keep no time of change")
def test_an_untouched_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    found = reads(monkeypatch)
    settled(monkeypatch)
    assert content_hash(path) == content_hash(path)
    assert found == ["file"]


def test_content_that_changes_behind_the_same_size_and_time_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    settled(monkeypatch)
    before, times = content_hash(path), path.stat()
    time.sleep(0.02)  # longer than the clock of a file system ticks
    path.write_bytes(b"abd")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_mtime_ns == times.st_mtime_ns
    assert content_hash(path) != before


def test_a_file_that_was_written_a_moment_ago_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    found = reads(monkeypatch)
    content_hash(path), content_hash(path)
    assert found == ["file", "file"]
    assert str(path) not in content._known


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as large, beside a cache of its own."""
    monkeypatch.setenv("FEDVPA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(content, "KEPT_BYTES", 3)
    path = tmp_path / "large"
    path.write_bytes(b"abc")
    return path


def in_another_process(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The hash, as a process finds it that remembers nothing."""
    monkeypatch.setattr(content, "_known", {})
    return content_hash(path)


@pytest.mark.skipif(os.name != "posix", reason="other systems keep no time of change")
def test_another_process_does_not_read_a_large_file_again(large: Path, monkeypatch: pytest.MonkeyPatch):
    small = large.with_name("small")
    small.write_bytes(b"ab")
    found = reads(monkeypatch)
    settled(monkeypatch)
    for path in (large, small):
        assert content_hash(path) == in_another_process(path, monkeypatch)
    assert found == ["large", "small", "small"]


@pytest.mark.skipif(os.name != "posix", reason="other systems keep no time of change")
def test_a_large_file_that_changed_is_noticed_by_another_process(large: Path, monkeypatch: pytest.MonkeyPatch):
    settled(monkeypatch)
    before, times = content_hash(large), large.stat()
    time.sleep(0.02)
    large.write_bytes(b"abd")
    os.utime(large, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = in_another_process(large, monkeypatch)
    assert after == hashlib.sha256(b"abd").hexdigest() != before
    large.unlink()
    large.write_bytes(b"abd")  # the same content again, in another inode
    found = reads(monkeypatch)
    assert in_another_process(large, monkeypatch) == after
    assert found == ["large"]


def test_a_hash_of_a_file_that_was_just_written_is_not_kept(large: Path, monkeypatch: pytest.MonkeyPatch):
    content_hash(large)
    found = reads(monkeypatch)
    in_another_process(large, monkeypatch)
    assert found == ["large"]


@pytest.mark.parametrize("spoiled", ["{", "[]", '{"path": "elsewhere"}', '{"sha256": "0"}'])
def test_a_damaged_memory_costs_a_reading_and_gives_no_other_hash(
    large: Path, monkeypatch: pytest.MonkeyPatch, spoiled: str
):
    settled(monkeypatch)
    before = content_hash(large)
    for kept in (large.parent / "cache" / "hashes").iterdir():
        kept.write_text(spoiled)
    assert in_another_process(large, monkeypatch) == before


def test_a_cache_that_cannot_be_written_costs_a_reading_only(large: Path, monkeypatch: pytest.MonkeyPatch):
    settled(monkeypatch)
    (large.parent / "file").write_text("")
    monkeypatch.setenv("FEDVPA_CACHE", str(large.parent / "file"))
    assert content_hash(large) == in_another_process(large, monkeypatch) == hashlib.sha256(b"abc").hexdigest()


def test_several_files_are_known_by_names_and_contents_in_any_order(tmp_path: Path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"1")
    b.write_bytes(b"2")
    whole = hash_files([a, b])
    assert hash_files([b, a]) == whole
    a.write_bytes(b"2")
    b.write_bytes(b"1")
    assert hash_files([a, b]) != whole
    assert hash_files([a]) != hash_files([b.rename(tmp_path / "c")])


def test_parts_in_any_order_have_one_digest_and_any_change_another():
    parts = {"a": "1", "b": "2"}
    assert digest(parts) == digest({"b": "2", "a": "1"})
    assert len({digest(parts), digest({"a": "2", "b": "1"}), digest({"a": "1"}), digest({})}) == 4
    assert len(digest(parts)) == 16


def test_what_has_changed_is_said_in_words():
    then, now = {"a": "1", "b": "x", "c": "0"}, {"a": "1", "b": "y", "d": "5"}
    assert list(differences(then, now, {"b": "other pairs"})) == ["other pairs", "c = 0 (now –)", "d = – (now 5)"]
    assert list(differences(then, dict(then), {})) == []
