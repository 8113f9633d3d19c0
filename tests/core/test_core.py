from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from pydantic import Field
from safetensors.torch import load_file

from fedvpa.core import progress, tree
from fedvpa.core.config import Config
from fedvpa.core.errors import ConfigError, FedvpaError, InputError, nearest
from fedvpa.core.files import replacing, write_json, write_text
from fedvpa.core.progress import track
from fedvpa.core.seeds import entropy, numpy_generator, torch_generator
from fedvpa.core.tensors import write_tensors

pytestmark = pytest.mark.unit


def test_a_stream_is_named_by_seed_and_labels_in_order_and_by_their_type():
    names = [(0, "a", 1), (1, "a", 1), (0, 1, "a"), (0, "a", "1"), (0, "a"), (0, "a1"), (0, "a", 1, "")]
    assert len({entropy(*name) for name in names}) == len(names)
    first = numpy_generator(3, "round", 5).standard_normal(7)
    assert np.array_equal(first, numpy_generator(3, "round", 5).standard_normal(7))
    again = torch.randn(7, generator=torch_generator(3, "round", 5))
    assert torch.equal(again, torch.randn(7, generator=torch_generator(3, "round", 5)))


def test_streams_are_the_same_in_another_process():
    code = "from fedvpa.core.seeds import entropy; print(entropy(11, 'client', 3, 'é'))"
    printed = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": salt}, capture_output=True, check=True
        ).stdout
        for salt in ("1", "2")
    ]
    assert {int(line) for line in printed} == {entropy(11, "client", 3, "é")}


def test_an_input_error_says_where_what_and_what_to_do():
    error = InputError("holds no pairs.", fix="Give another file.", where="pairs.jsonl:7")
    assert str(error) == "pairs.jsonl:7: holds no pairs. Give another file."
    assert (error.exit_code, FedvpaError("x").exit_code) == (2, 1)
    assert isinstance(error, ValueError)
    assert nearest("harmles", ["helpful", "harmless"]) == "Did you mean 'harmless'?"
    assert nearest("zzz", ["b", "a"]) == "Known: a, b."


class Inner(Config):
    steps: int = Field(default=3, ge=1)


class Outer(Config):
    inner: Inner = Inner()


def test_a_misspelt_key_names_the_nearest_and_a_bad_value_is_shown():
    with pytest.raises(ConfigError, match=r"'inner\.stebs': is not known\. Did you mean 'steps'"):
        Outer.parse({"inner": {"stebs": 5}})
    with pytest.raises(ConfigError, match=r"'inner\.steps'.*greater than or equal to 1.*given: 0"):
        Outer.parse({"inner": {"steps": 0}})


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert path.read_text() == "old"
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"loss": float("nan")})
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]
    write_json(path, {"é": 1})
    assert json.loads(path.read_text(encoding="utf-8")) == {"é": 1}


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    code = (
        "import sys, time; from pathlib import Path; from fedvpa.core.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); print('writing', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    assert path.read_text() == "old"


def test_views_of_one_tensor_are_written_as_tensors_of_their_own(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    write_tensors(tmp_path / "t.safetensors", {"row": whole[1], "column": whole[:, 2], "all": whole})
    again = load_file(tmp_path / "t.safetensors")
    assert torch.equal(again["row"], whole[1])
    assert torch.equal(again["column"], whole[:, 2])
    assert torch.equal(again["all"], whole)


def test_progress_goes_to_stderr_with_rate_and_time_left(capsys, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_INTERVAL_SECONDS", 0.0)
    clock = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    assert list(track("abcd", "letters", 4, unit="letters")) == list("abcd")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0].startswith("letters: 1/4, ")
    assert lines[0].endswith("3 s left")
    assert lines[-1].startswith("letters: 4/4, ")
    assert lines[-1].endswith(" 0 s left")


def test_trees_combine_stack_and_nest():
    one, two = {"a.x": torch.tensor([1.0, 2.0]), "b": torch.tensor(3.0)}, {"a.x": torch.ones(2), "b": torch.tensor(5.0)}
    assert tree.combine(torch.add, one, two)["b"] == 8.0
    assert tree.stack([one, two])["a.x"].shape == (2, 2)
    assert tree.expand(one, 4)["b"].shape == (4,)
    assert tree.size(one) == 3 * 4
    assert tree.below("a", one).keys() == {"x"}
    assert tree.prefixed("c", two).keys() == {"c.a.x", "c.b"}


@pytest.mark.unit
def test_work_inside_other_work_shows_its_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    seen = [
        (outer, inner)
        for outer in track("ab", "outer", 2)
        for inner in track(range(3), f"inner {outer}", 3, unit="steps")
    ]
    assert seen == [(outer, inner) for outer in "ab" for inner in range(3)]
    assert list(track("cd", "after", 2)) == ["c", "d"]
