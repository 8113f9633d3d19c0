"""Files of prompts: lines, JSON lines and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedvpa.core.errors import DataError
from fedvpa.data.prompt_files import read_prompts
from fedvpa.data.schema import Message

HI = [{"role": "user", "content": "Hi"}]
TURNS = [{"role": "system", "content": "Be kind."}, *HI]
AS_TEXT = ((Message("user", "Hi"),), (Message("system", "Be kind."), Message("user", "Hi")))


def write(folder: Path, name: str, *lines: object) -> Path:
    path = folder / name
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


@pytest.mark.unit
def test_lines_are_prompts_as_they_are(tmp_path):
    assert read_prompts(write(tmp_path, "p.txt", "One?", "  ", " Two?", "One?", '"Three"')) == [
        "One?",
        " Two?",
        '"Three"',
    ]


@pytest.mark.unit
def test_json_lines_hold_strings_messages_and_objects(tmp_path):
    path = write(tmp_path, "p.jsonl", '"One?"', "", HI, {"prompt": "Two?"}, {"messages": TURNS}, {"prompt": HI})
    assert read_prompts(path) == ["One?", AS_TEXT[0], "Two?", AS_TEXT[1]]


@pytest.mark.unit
def test_a_json_file_holds_one_conversation_or_several(tmp_path):
    assert read_prompts(write(tmp_path, "one.json", TURNS)) == [AS_TEXT[1]]
    assert read_prompts(write(tmp_path, "more.json", [HI, TURNS, "Two?"])) == [*AS_TEXT, "Two?"]
    assert read_prompts(write(tmp_path, "object.json", {"messages": HI})) == [AS_TEXT[0]]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "lines", "words"),
    [
        ("p.jsonl", ['"One?"', "Two?"], r"p\.jsonl:2: is no JSON"),
        ("p.jsonl", ['"One?"', {"question": "Two?"}], r"p\.jsonl:2: an object has question"),
        ("p.jsonl", [[{"role": "user"}]], r"p\.jsonl:1: a message has no content"),
        ("p.jsonl", ["3"], r"p\.jsonl:1: A prompt is 3"),
        ("p.json", [[HI, [{"role": "judge", "content": "Hi"}]]], r"p\.json:2: a message has the role 'judge'"),
    ],
)
def test_what_is_no_prompt_is_named_with_its_place(tmp_path, name, lines, words):
    with pytest.raises(DataError, match=words) as raised:
        read_prompts(write(tmp_path, name, *lines))
    assert raised.value.fix


@pytest.mark.unit
def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match=r"missing\.txt: cannot be read"):
        read_prompts(tmp_path / "missing.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match="cannot be read"):
        read_prompts(tmp_path / "latin.txt")
