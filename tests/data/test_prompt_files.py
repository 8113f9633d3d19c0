"""Files of prompts: lines, JSON lines and JSON."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from fedvpa.core.errors import DataError
from fedvpa.data.messages import as_texts
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
    with pytest.raises(DataError, match=r"latin\.txt:1: is not UTF-8 text"):
        read_prompts(tmp_path / "latin.txt")


TALK = [{"role": "user", "content": [{"type": "text", "text": "How "}, {"type": "text", "text": "so?"}]}]


@pytest.mark.unit
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_prompts_are_read_in_every_encoding(tmp_path, encoding, compress):
    path = tmp_path / "prompts.txt"
    path.write_bytes(compress("é one\r\n\ntwo\u2028lines\né one\n".encode(encoding)))
    assert read_prompts(path) == ["é one", "two\u2028lines"]


@pytest.mark.unit
def test_json_holds_strings_messages_and_objects(tmp_path):
    path, lines = tmp_path / "prompts.json", tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(["a", TALK, {"prompt": "b"}]))
    lines.write_text("".join(json.dumps(one) + "\n" for one in ["a", TALK, {"messages": TALK}, {"prompt": "b"}]))
    expected = ["a", (Message("user", "How so?"),), "b"]
    assert read_prompts(path) == read_prompts(lines) == expected


@pytest.mark.unit
def test_half_surrogate_pairs_are_replaced_said_and_under_strict_an_error(tmp_path, capsys):
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps("a") + "\n" + json.dumps("b\ud83d") + "\n")
    assert read_prompts(path) == ["a", "b\ufffd"]
    assert f"1 prompt changed: a half surrogate pair, which UTF-8 cannot hold, became U+FFFD (first: {path}:2)" in (
        capsys.readouterr().err
    )
    with pytest.raises(DataError, match=r"prompts\.jsonl:2: a prompt would be changed"):
        read_prompts(path, strict=True)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('"a"\n7\n', r"prompts\.jsonl:2: A prompt is 7"),
        ('{"a": 1}\n', r"prompts\.jsonl:1: an object has a"),
        ("[[[\n", r"prompts\.jsonl:1: is no JSON"),
        ("[" * 100_000 + "\n", r"prompts\.jsonl:1: is no JSON"),
        ('[{"role": "tool", "content": "x"}]\n', r"prompts\.jsonl:1: a message has the role 'tool'"),
    ],
)
def test_what_is_no_prompt_names_its_line(tmp_path, content, message):
    (tmp_path / "prompts.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        read_prompts(tmp_path / "prompts.jsonl")


@pytest.mark.unit
def test_prompts_of_a_command_line_are_replaced_and_said(capsys):
    assert as_texts("caf\udce9") == ["caf\ufffd"]
    assert "  1 prompt changed: a half surrogate pair, " in capsys.readouterr().err
    talk = [{"role": "user", "content": "x\ud83d"}]
    assert as_texts(["ok", talk]) == ["ok", (Message("user", "x\ufffd"),)]
    assert "(first: prompt 2)" in capsys.readouterr().err
    assert as_texts(["ok", TALK]) == ["ok", (Message("user", "How so?"),)]
    assert capsys.readouterr().err == ""


@pytest.mark.unit
@pytest.mark.parametrize("prompt", [7, [7], [{"role": "user"}], [{"role": "user", "content": 1}], [{"content": "x"}]])
def test_what_is_no_prompt_is_an_error(prompt):
    with pytest.raises(DataError):
        as_texts([prompt])
