"""A GGUF file is converted once into an ordinary folder with the same weights, and a broken one is one message."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from fedvpa.core.errors import ModelError
from fedvpa.models import gguf_convert, gguf_file
from fedvpa.models.load import load_causal_lm
from fedvpa.models.locate import locate
from tiny_gguf import TOKENS, tensors, tiny_llama, write_gguf

pytest.importorskip("gguf", reason="the package gguf (extra fedvpa[gguf]) is not installed")


@pytest.fixture(scope="module")
def original() -> torch.nn.Module:
    return tiny_llama()


@pytest.fixture(scope="module")
def written(original, tmp_path_factory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "Tiny.F32.gguf", original)


@pytest.fixture
def file(written, tmp_path, monkeypatch) -> Path:
    """A copy that a test may damage, with a cache of its own."""
    monkeypatch.setenv("FEDVPA_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copy(written, tmp_path / written.name))


@pytest.mark.reference
def test_the_folder_has_the_weights_that_the_file_was_written_from(file, original, capsys):
    source = locate(str(file))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "Tiny.F32.gguf (llama) is converted once" in said
    loaded = load_causal_lm(source, torch.float32, torch.device("cpu"))
    ids = torch.tensor([[1, 7, 9, 3, 12, 2]])
    torch.testing.assert_close(loaded.model(ids).logits, original(ids).logits, rtol=1e-4, atol=1e-5)
    assert loaded.tokenizer.convert_ids_to_tokens(loaded.tokenizer("he a")["input_ids"]) == ["he", "Ġa"]
    chat = loaded.tokenizer.apply_chat_template([{"role": "user", "content": "he"}], tokenize=False)
    assert chat == "<|im_start|>user he<|im_end|>"
    assert loaded.tokenizer.eos_token == "<|im_end|>"
    assert len(loaded.tokenizer) == len(TOKENS)


@pytest.mark.unit
def test_a_quantised_file_becomes_bfloat16_and_stays_within_its_own_rounding(original, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDVPA_CACHE", str(tmp_path / "cache"))
    file = write_gguf(tmp_path / "Tiny.Q8_0.gguf", original, kind="Q8_0")
    found = load_file(locate(str(file)).folder / "model.safetensors")
    assert {weight.dtype for weight in found.values()} == {torch.bfloat16}
    assert "lm_head.weight" not in found  # tied: it would be the same numbers twice
    (exact,) = [weight for name, weight in tensors(original) if name == "token_embd.weight"]
    near = found["model.embed_tokens.weight"].float()
    # A step of Q8_0 is a 127th of the largest of 32 numbers; bfloat16 keeps 8 bits.
    assert (near - torch.from_numpy(exact)).abs().max() < abs(exact).max() * (0.5 / 127 + 2**-8)


@pytest.mark.unit
def test_it_is_converted_once_and_needs_neither_the_file_nor_the_package_again(file, tmp_path, capsys, monkeypatch):
    first = locate(str(file))
    capsys.readouterr()
    monkeypatch.setattr(gguf_convert, "_write_model", lambda *_: pytest.fail("converted again"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    renamed = Path(shutil.copy(file, tmp_path / "renamed.gguf"))
    assert locate(str(renamed)).folder == first.folder
    assert locate(str(file.parent / file.name)).identity() == locate(str(first.folder)).identity() == first.identity()
    assert capsys.readouterr().err == ""
    file.unlink()
    assert locate(str(file)).folder == first.folder
    assert "is not there any more; the folder that it was converted to is used" in capsys.readouterr().err


@pytest.mark.unit
def test_the_folder_tells_nothing_of_this_machine_and_of_the_release_that_made_it(file):
    folder = locate(str(file)).folder
    texts = {path.name: path.read_text() for path in folder.glob("*.json") if path.name != gguf_convert.RECORD}
    assert "config.json" in texts
    assert not [name for name, text in texts.items() if str(file.parent) in text]
    assert "transformers_version" not in texts["config.json"]
    assert "quantization_config" not in texts["config.json"]
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]


@pytest.mark.unit
def test_two_processes_convert_it_once(file, capsys, monkeypatch):
    """The other process holds the lock and has made the folder by the time that it lets go."""
    made = locate(str(file)).folder
    aside = made.rename(made.with_name("aside"))
    capsys.readouterr()
    monkeypatch.setattr(gguf_convert, "_convert", lambda *_: pytest.fail("converted twice"))
    lock = FileLock(f"{made}.lock")
    lock.acquire()
    enter = FileLock.__enter__

    def let_go(self):
        aside.rename(made)
        lock.release()
        return enter(self)

    monkeypatch.setattr(FileLock, "__enter__", let_go)
    assert locate(str(file)).folder == made
    assert "waiting for another process, which converts Tiny.F32.gguf" in capsys.readouterr().err


@pytest.mark.unit
def test_a_conversion_that_stops_leaves_nothing_that_passes_for_a_model(file, monkeypatch):
    monkeypatch.setattr(gguf_convert, "_forget_place", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        locate(str(file))
    home = gguf_convert._home()
    assert not [path for path in home.iterdir() if path.is_dir()]
    monkeypatch.undo()


@pytest.mark.unit
def test_a_folder_that_holds_only_a_gguf_file_stands_for_it(file, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    inner = Path(shutil.move(file, folder / file.name))
    source = locate(str(folder))
    assert (source.origin, source.label, source.file) == ("gguf", "Tiny.F32.gguf", inner)
    shutil.copy(inner, folder / "Tiny.other.gguf")
    with pytest.raises(ModelError, match=r"holds 2 GGUF files and no other weights.*Tiny\.F32\.gguf"):
        locate(str(folder))
    for own in source.folder.iterdir():
        shutil.copy(own, folder / own.name)
    assert locate(str(folder)).origin == "folder"


@pytest.mark.unit
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda whole: b"", "is empty"),
        (lambda whole: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (lambda whole: b"PK\x03\x04" + whole[4:], "no GGUF file: it begins with"),
        (lambda whole: whole[: len(whole) // 2], "cut off or damaged"),
        (lambda whole: whole[:100], "cut off or damaged"),
        (lambda whole: whole[:7], "cut off or damaged"),
        (lambda whole: whole[:2000] + bytes(40) + whole[2040:], "cut off or damaged|cannot read this GGUF"),
        (lambda whole: whole[:-400] + b"\xff" * 400, "not finite"),
    ],
)
def test_a_broken_file_is_one_message(file, content, said):
    file.write_bytes(content(file.read_bytes()))
    with pytest.raises(ModelError, match=said) as told:
        locate(str(file))
    assert str(told.value).startswith(f"{file}: ")
    assert "\n" not in str(told.value)
    assert not list(gguf_convert._home().glob("*/config.json"))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("architecture", "fields", "said"),
    [
        ("whisperllm", {}, r"cannot read this GGUF file of the architecture 'whisperllm'"),
        ("llama", {"general.type": "adapter"}, r"a part of a model \(general\.type is 'adapter'\)"),
        ("llama", {"split.count": 3}, r"one of 3 parts.*llama-gguf-split --merge"),
    ],
)
def test_what_transformers_cannot_read_is_one_message(original, tmp_path, monkeypatch, architecture, fields, said):
    monkeypatch.setenv("FEDVPA_CACHE", str(tmp_path / "cache"))
    file = write_gguf(tmp_path / "x.gguf", original, architecture=architecture, fields=fields)
    with pytest.raises(ModelError, match=said) as told:
        locate(str(file))
    assert "\n" not in str(told.value)


@pytest.mark.unit
def test_without_the_package_the_message_names_the_extra(file, monkeypatch):
    monkeypatch.setattr(gguf_file.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"the package gguf, which is missing\. pip install 'fedvpa\[gguf\]'"):
        locate(str(file))


@pytest.mark.unit
def test_a_file_that_is_not_there_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDVPA_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match=r"nowhere\.gguf: The GGUF file cannot be read: No such file"):
        locate("nowhere.gguf")


@pytest.mark.unit
def test_what_a_record_says(file):
    folder = locate(str(file)).folder
    record = json.loads((folder / gguf_convert.RECORD).read_text())
    assert record["file"] == file.name
    assert len(record["sha256"]) == 64
