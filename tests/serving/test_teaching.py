"""Questions to a user: on lines and by keys, what is kept, and what ends them."""

from __future__ import annotations

import io
import json
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer

import fedvpa
from command_line import Done
from command_line import fedvpa as command
from fedvpa.api.personalize import personalize
from fedvpa.cli.asking import by_key
from fedvpa.core.errors import ConfigError
from fedvpa.serving import pool
from fedvpa.serving.pool import Question
from fedvpa.serving.profiles import Profile


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "POOL", 23)


@pytest.fixture
def run(telling_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(telling_run, tmp_path / "run"))


def answered(monkeypatch: pytest.MonkeyPatch, run: Path, lines: str, *more: object) -> Done:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    return command("personalize", run, "--interactive", *more)


@pytest.mark.end_to_end
def test_answers_on_lines_go_into_a_profile_that_is_gone_on_with(run: Path, monkeypatch):
    done = answered(monkeypatch, run, "A\nskip\nequal\n2\n", "--profile", "ana", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["answered"], told["kept"]) == (3, "ana")
    assert (told["profile"]["pairs"], told["profile"]["ties"]) == (3, 1)
    assert "0 answers; prototypes 0: 0.50, 1: 0.50; this answer is expected to tell 0." in done.stderr
    assert done.stderr.count("23 pairs left") == 1
    assert done.stderr.count("22 pairs left") == 2
    again = answered(monkeypatch, run, "B\nB\nB\n", "--profile", "ana", "--questions", "2")
    assert again.stdout.startswith("2 answers, 5 pairs in all; prototype ")
    assert again.stdout.endswith("kept: profile 'ana'\n")


@pytest.mark.end_to_end
def test_answers_in_a_file_give_the_z_that_the_profile_had(run: Path, tmp_path: Path, monkeypatch):
    file = tmp_path / "answers.jsonl"
    done = answered(monkeypatch, run, "A\ntie\nB\nquit\nA\n", "--out", file, "--json")
    told = json.loads(done.stdout)
    assert (told["answered"], told["kept"]) == (3, str(file))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["weight"] for row in rows] == [1, 0.5, 0.5, 1]
    assert rows[1]["chosen"] == rows[2]["rejected"]
    np.testing.assert_allclose(personalize(run, file).mean, told["profile"]["mean"], atol=2e-3)
    assert not (run / "profiles").exists()
    exists = answered(monkeypatch, run, "A\n", "--out", file)
    assert (exists.returncode, "exists already" in exists.stderr) == (2, True)


@pytest.mark.end_to_end
def test_what_is_no_answer_is_an_error_and_earlier_answers_are_kept(run: Path, monkeypatch):
    done = answered(monkeypatch, run, "A\nperhaps\n", "--profile", "ana")
    assert done.returncode == 2
    assert done.stderr.endswith("fedvpa: input:2: 'perhaps' is no answer. Answers are A, B, tie, skip and quit.\n")
    with fedvpa.profiles(run) as kept:
        assert kept.get("ana").pairs == 1


def pressed(monkeypatch: pytest.MonkeyPatch, keys: Iterator[str]) -> None:
    def getchar() -> str:
        key = next(keys)
        if key == "^C":
            raise KeyboardInterrupt
        if key == "^D":
            raise EOFError
        return key

    monkeypatch.setattr(typer, "getchar", getchar)


@pytest.mark.end_to_end
def test_ctrl_c_keeps_what_was_answered(run: Path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    pressed(monkeypatch, iter(["a", "x", "=", "^C"]))
    done = command("personalize", run, "--interactive", "--profile", "ana")
    assert done.returncode == 128 + signal.SIGINT
    assert done.stderr.endswith("SIGINT: stopped. The answers so far are kept: profile 'ana'.\n")
    with fedvpa.profiles(run) as kept:
        assert (kept.get("ana").pairs, kept.get("ana").ties) == (2, 1)


@pytest.mark.unit
def test_keys_are_answers_and_others_show_which_there_are(monkeypatch, capsys):
    known = Profile("ana", 2, 0, [0.0], [1.0], [0.25, 0.75], 1, "", "", "")
    question = Question("prompt ?", "yes .", "no .", 0.125, 7)
    pressed(monkeypatch, iter(["A", "2", "e", "s", "z", "q", "^D"]))
    assert [by_key(question, known) for _ in range(6)] == ["A", "B", "tie", "skip", "quit", "quit"]
    said = capsys.readouterr().err
    assert "prompt ?\n\nA: yes .\n\nB: no .\n\n[2 answers; prototypes 0: 0.25, 1: 0.75; this answer is" in said
    assert "to tell 0.12 of at most 0.69 nats; 7 pairs left]" in said
    assert said.count("a: A is better") == 7


@pytest.mark.unit
def test_options_of_the_other_way_are_refused(run: Path):
    for words, why in (
        (["--interactive"], "kept in a profile or in a file, and neither is given. Give --profile NAME or --out FILE"),
        (["--interactive", "--profile", "a", "--out", "b"], "and both is given"),
        (["--interactive", "--pairs", "f", "--profile", "a"], "--pairs is about a file of pairs"),
        (["--pairs", "f", "--profile", "a"], "--profile is about --interactive, and there is none"),
        ([], "There are no pairs to infer from. Give --pairs FILE, or --interactive."),
    ):
        done = command("personalize", run, *words)
        assert done.returncode == 2
        assert why in done.stderr
    with pytest.raises(ConfigError, match=r"Give profile=NAME or out=FILE"):
        fedvpa.teach(run, lambda question, known: "quit")


@pytest.mark.unit
def test_as_many_questions_are_left_out_as_is_asked_for(run: Path):
    with fedvpa.profiles(run) as kept:
        ranked = [kept.next(skip=number) for number in range(23)]
        assert [one.information for one in ranked] == sorted((one.information for one in ranked), reverse=True)
        assert len({one.key for one in ranked}) == 23
        assert kept.next(skip=23) is None
        assert kept.next(without={one.key for one in ranked[:3]}) == ranked[3]
