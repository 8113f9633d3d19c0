"""Writing when the system refuses: one message about the file, and the file before it stays whole."""

import pickle
import re
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fedvpa.core.errors import RunError, StorageError
from fedvpa.core.files import output_folder, read_own_lines, read_own_object, replacing, storing, write_text
from fedvpa.core.tensors import write_tensors

pytestmark = pytest.mark.unit


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 8 KiB, as under ``ulimit -f``."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files")
def test_a_file_that_cannot_be_written_is_named_with_the_room_that_is_left(tmp_path: Path) -> None:
    text, tensors = tmp_path / "a.json", tmp_path / "b.safetensors"
    write_text(text, "old")
    write_tensors(tensors, {"w": torch.ones(7)})
    for path, write in (
        (text, lambda: write_text(text, "x" * 9973)),
        (tensors, lambda: write_tensors(tensors, {"w": torch.ones(9973)})),
    ):
        with pytest.raises(StorageError) as refused:
            write()
        assert re.fullmatch(
            rf"{re.escape(str(path))}: cannot be written: .*[Ff]ile too large.*\. [\d,]+ MB are free on its disk\.",
            str(refused.value),
        )
        assert refused.value.exit_code == 1
    assert text.read_text() == "old"
    assert sorted(tmp_path.iterdir()) == [text, tensors]


def test_the_outer_advice_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StorageError, match=r"file/below: cannot be written: .*Go on with: x") as refused,
        storing(tmp_path, fix="Go on with: x"),
        replacing(tmp_path / "file" / "below"),
    ):
        pass
    assert refused.value.path == str(tmp_path / "file" / "below")
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)


def test_errors_of_the_work_are_not_taken_for_the_disks(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), storing(tmp_path):
        raise ZeroDivisionError


def test_a_place_where_no_folder_can_be_is_refused_before_any_work(tmp_path, monkeypatch):
    assert output_folder(tmp_path / "new" / "run", "a run") == tmp_path / "new" / "run"
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("kept")
    with pytest.raises(RunError, match=r"file: is a file, and a run is a folder"):
        output_folder(tmp_path / "file", "a run")
    with pytest.raises(RunError, match=r"deeper: .*file is a file, and a comparison is a folder"):
        output_folder(tmp_path / "file" / "deeper", "a comparison")
    with pytest.raises(StorageError, match=r"cannot be written: File name too long\. Choose another place\."):
        output_folder(tmp_path / ("x" * 300), "a run")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(StorageError, match=r"run: cannot be written: .* is not writable\. Choose another place\."):
        output_folder(tmp_path / "run", "a run")


@pytest.mark.parametrize("content", [b'{"half": ', b"\xff\xfe\0junk", b"[1]", b""])
def test_a_damaged_file_of_this_library_is_one_message(content: bytes, tmp_path):
    path = tmp_path / "metrics.json"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"metrics\.json: is damaged: it .*Restore it, or give the command"):
        read_own_object(path)
    path.write_bytes(b'{"round": 0}\n' + content + b"\n")
    with pytest.raises(RunError, match=r"metrics\.json(:2)?: is damaged: it"):
        read_own_lines(path)
    if content[:1] != b"\xff":
        assert read_own_lines(path, 1) == [{"round": 0}]
